//! The uplink: the machine's own network card as a port of the bridge.

use alloc::{format, rc::Rc};
use core::iter;

use oxen_domu_lib::{println, task};

use crate::bridge::{Bridge, BridgePort, Mac, Malformed};
use crate::device::virtio_net::VirtioNet;
use crate::device::{self, interrupt::Lines};

/// The uplink's name at the bridge.
pub const NAME: &str = "eth0";

/// Frames after which other tasks have their turn.
const BURST: usize = 32;

/// Connects the machine's network card, where there is one, with the bridge; returns its address, if it has one.
pub fn start(bridge: &Bridge, lines: &Lines) -> Option<Mac> {
    let card = Rc::new(VirtioNet::find(lines)?);
    let mac = card.address();
    let address = mac.map_or_else(|| "no address".into(), |address| format!("{address}"));
    println!("network card {NAME} ({address}) is the bridge's uplink");
    let port = Rc::new(bridge.attach(NAME));
    port.set_offload(card.offload());
    task::spawn_for(device::OWNER, inwards(card.clone(), port.clone()));
    task::spawn_for(device::OWNER, outwards(card, port));
    mac
}

/// From the network to the guests.
async fn inwards(card: Rc<VirtioNet>, port: Rc<BridgePort>) {
    loop {
        for _ in 0..BURST {
            match card.receive().await {
                // A frame that is not what it says is counted there.
                Ok(packet) => drop(port.send(packet)),
                Err(Malformed) => port.count_malformed(),
            }
        }
        task::yield_now().await;
    }
}

/// From the guests to the network.
async fn outwards(card: Rc<VirtioNet>, port: Rc<BridgePort>) {
    loop {
        let first = port.receive().await;
        for packet in iter::once(first).chain(iter::from_fn(|| port.try_receive()).take(BURST)) {
            if !card.send(packet).await {
                port.count_dropped();
            }
        }
        card.flush();
        task::yield_now().await;
    }
}
