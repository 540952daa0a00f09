//! Frames that their sender cuts where no honest frontend does: inside their headers. The backend hands them on in a
//! form that every receiver bears; whether this one did, its console tells.
//!
//! Asked where the domain has one interface.

use alloc::vec::Vec;

use oxen_abi::io::netif::{NETIF_RSP_OKAY, NETTXF_MORE_DATA};
use oxen_domu_lib::memory::{PAGE_SIZE, bytes};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::task;

use super::network::{Interface, Slot, piece};
use crate::judge::Probe;

/// What the frames hold: all the same, so that it does not matter which bytes of the page make up a piece. They are to
/// everybody.
const BYTE: u8 = 0xff;
/// The first piece ends after each of so many bytes: before, in and behind the header.
const CUTS: u16 = 20;
/// Bytes of the pieces behind it: both together are more than a page.
const MIDDLE: u16 = 4000;
const LAST: u16 = 200;

/// Asks, where there is one interface.
pub(crate) fn ask(probe: &mut Probe) {
    if probe.privileged {
        return;
    }
    task::run(async {
        let Ok(store) = Store::connect() else { return };
        if store.list("device/vif").await.is_ok_and(|list| list.len() == 1) {
            let Ok(interface) = Interface::connect(&store, "0", &[]).await else {
                probe.holds("an interface is connected", false, 0);
                return;
            };
            send(probe, &interface).await;
        }
    });
}

async fn send(probe: &mut Probe, interface: &Interface) {
    bytes::write(interface.data.page().words64(), 0, &[BYTE; PAGE_SIZE]);
    let data = interface.data.reference();
    let frame = |cut: u16| -> [Slot; 3] {
        [
            piece(data, 0, NETTXF_MORE_DATA, cut, cut + MIDDLE + LAST),
            piece(data, 0, NETTXF_MORE_DATA, cut, MIDDLE),
            piece(data, 0, 0, cut, LAST),
        ]
    };
    let slots: Vec<_> = (0..CUTS).flat_map(frame).collect();
    interface.transmit(&slots, slots.len() as u32);
    for index in 0..CUTS.into() {
        probe.is("a frame that is cut anywhere is sent", interface.answer(3 * index).await, NETIF_RSP_OKAY.into());
    }
}
