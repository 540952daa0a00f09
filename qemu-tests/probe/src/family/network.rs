//! Network frontends that break the protocol: each loses its own interface, and those of others go on.
//!
//! Asked where the domain has interfaces: the first two behave, each of the others does one thing wrong.

use core::sync::atomic::{AtomicU32, Ordering};

use oxen_abi::io::netif::{
    NETIF_RSP_ERROR, NETIF_RSP_OKAY, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_EXTRA_TYPE_MAX,
};
use oxen_abi::io::xenbus::XenbusState;
use oxen_domu_lib::event::Port;
use oxen_domu_lib::frontend::{ConnectError, Device};
use oxen_domu_lib::grant::{Access, Grant};
use oxen_domu_lib::handshake::Step;
use oxen_domu_lib::memory::bytes;
use oxen_domu_lib::store::Store;
use oxen_domu_lib::{task, time};

use crate::judge::Probe;

/// Words of a ring page: what the frontend has produced, what the backend has, the first slot.
const REQUESTS: usize = 0;
const RESPONSES: usize = 2;
const SLOTS: usize = 16;
/// Words of a slot.
const TRANSMIT_SLOT: usize = 3;
const RECEIVE_SLOT: usize = 2;

/// A grant reference that no frontend has made.
const NOWHERE: u32 = 400;
/// How long a backend may take, in nanoseconds.
const PATIENCE: u64 = 10 * time::SECOND;

/// Where in the page of data a frame from another's address is.
const FORGED: usize = 1024;

/// The frame that the good ones exchange, to everybody.
const FRAME: [u8; 60] = [0xff; 60];

/// One interface of this domain.
pub(super) struct Interface {
    device: Device,
    transmit: Grant,
    receive: Grant,
    pub(super) data: Grant,
    port: Port,
}

/// A slot of the transmit ring.
pub(super) type Slot = [u32; TRANSMIT_SLOT];

pub(super) const fn piece(gref: u32, offset: u16, flags: u16, id: u16, size: u16) -> Slot {
    [gref, offset as u32 | (flags as u32) << 16, id as u32 | (size as u32) << 16]
}

const fn extra(kind: u8, flags: u8) -> Slot {
    [kind as u32 | (flags as u32) << 8, 0, 0]
}

impl Interface {
    /// Connects interface `id`, saying `wrong` instead of what is right.
    pub(super) async fn connect(store: &Store, id: &str, wrong: &[(&str, &str)]) -> Result<Self, ConnectError> {
        let device = Device::open(store, "vif", id).await?;
        let backend = device.backend();
        let grant = || Grant::zeroed(backend, Access::ReadWrite);
        let (transmit, receive, data) = (grant()?, grant()?, grant()?);
        let mut interface = Self { device, transmit, receive, data, port: Port::alloc_unbound(backend)? };
        bytes::write(interface.data.page().words64(), 0, &FRAME);
        let number = |value: u32| alloc::format!("{value}");
        let right = [
            ("tx-ring-ref", number(interface.transmit.reference())),
            ("rx-ring-ref", number(interface.receive.reference())),
            ("event-channel", number(interface.port.number())),
            ("request-rx-copy", "1".into()),
        ];
        let value = |name: &str| wrong.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let said = right.each_ref().map(|(name, right)| (*name, value(name).unwrap_or(right)));
        loop {
            match interface.device.step().await? {
                Step::Offer(state) => interface.device.publish(&said, state).await?,
                Step::Connect => break,
                Step::Wait => interface.device.changed().await?,
                Step::Reconfigure(_) | Step::Close(_) | Step::Gone => return Err(ConnectError::Closed),
            }
        }
        interface.device.publish(&[], XenbusState::Connected).await?;
        Ok(interface)
    }

    /// Puts slots on the transmit ring, and says that there are `count`.
    pub(super) fn transmit(&self, slots: &[Slot], count: u32) {
        let page = self.transmit.page().words32();
        for (index, slot) in slots.iter().enumerate() {
            put(page, SLOTS + index * TRANSMIT_SLOT, slot);
        }
        put(page, REQUESTS, &[count]);
        self.port.notify();
    }

    /// Waits until the backend is no longer connected.
    async fn closed(&self) -> bool {
        let closed = async {
            while self.device.read("state").await.is_ok_and(|state| state == XenbusState::Connected.as_text()) {
                if self.device.changed().await.is_err() {
                    break;
                }
            }
        };
        task::timeout(PATIENCE, closed).await.is_ok()
    }

    /// Waits for the answer to slot `index` of the transmit ring: its status.
    pub(super) async fn answer(&self, index: u32) -> i64 {
        let page = self.transmit.page().words32();
        let answered = self.until(|| get(page, RESPONSES) > index).await;
        let word = get(page, SLOTS + index as usize * TRANSMIT_SLOT);
        if answered { i64::from((word >> 16) as u16 as i16) } else { i64::MIN }
    }

    async fn until(&self, holds: impl Fn() -> bool) -> bool {
        let wait = async {
            while !holds() {
                // What the backend need not tell is found a little later.
                let _ = task::timeout(10 * time::MILLISECOND, self.port.wait()).await;
            }
        };
        task::timeout(PATIENCE, wait).await.is_ok()
    }
}

fn put(page: &[AtomicU32], at: usize, words: &[u32]) {
    for (place, word) in page.iter().skip(at).zip(words) {
        place.store(*word, Ordering::SeqCst);
    }
}

fn get(page: &[AtomicU32], at: usize) -> u32 {
    page.get(at).map_or(0, |word| word.load(Ordering::SeqCst))
}

/// What breaks the transmit ring for good, and how many slots are said to be there.
fn breaks() -> [(&'static str, alloc::vec::Vec<Slot>, u32); 6] {
    let more = |count: usize| alloc::vec![piece(1, 0, NETTXF_MORE_DATA, 0, 60); count];
    let with = |slot| alloc::vec![piece(1, 0, NETTXF_EXTRA_INFO, 0, 60), slot];
    let endless = extra(XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_EXTRA_FLAG_MORE);
    let mut extras = with(endless);
    extras.resize(40, endless);
    [
        ("more requests than slots close the interface", more(0), 1000),
        ("a frame without an end closes the interface", more(1), 1),
        ("a frame of too many pieces closes the interface", more(100), 100),
        ("an extra slot of no type closes the interface", with(extra(XEN_NETIF_EXTRA_TYPE_MAX, 0)), 2),
        ("an extra slot that is not there closes the interface", with([0; 3]), 1),
        ("extra slots without an end close the interface", extras, 40),
    ]
}

/// What is said wrongly at the handshake.
const LIES: [(&str, (&str, &str)); 4] = [
    ("a transmit ring that was not granted is refused", ("tx-ring-ref", "400")),
    ("a receive ring that is no number is refused", ("rx-ring-ref", "none")),
    ("an event channel that is not there is refused", ("event-channel", "4000")),
    ("a frontend that wants its pages exchanged is refused", ("request-rx-copy", "0")),
];

/// Asks, where there are interfaces.
pub(crate) fn ask(probe: &mut Probe) {
    if probe.privileged {
        return;
    }
    task::run(async {
        let Ok(store) = Store::connect() else { return };
        if store.list("device/vif").await.is_ok_and(|list| !list.is_empty())
            && let Err(error) = try_all(probe, &store).await
        {
            oxen_domu_lib::println!("probe: interfaces: {error}");
            probe.holds("an interface that behaves is connected", false, 0);
        }
    });
}

async fn try_all(probe: &mut Probe, store: &Store) -> Result<(), ConnectError> {
    let (first, second) = (Interface::connect(store, "0", &[]).await?, Interface::connect(store, "1", &[]).await?);
    let mut number = 2;
    let mut next = || {
        number += 1;
        alloc::format!("{}", number - 1)
    };
    for (what, slots, count) in breaks() {
        let hostile = Interface::connect(store, &next(), &[]).await?;
        hostile.transmit(&slots, count);
        probe.holds(what, hostile.closed().await, 0);
    }
    let hostile = Interface::connect(store, &next(), &[]).await?;
    put(hostile.receive.page().words32(), REQUESTS, &[u32::MAX / 2]);
    hostile.port.notify();
    // Nobody looks at the receive ring before there is a frame.
    first.transmit(&[piece(first.data.reference(), 0, 0, 1, 60)], 1);
    probe.holds("more receive pages than slots close the interface", hostile.closed().await, 0);
    for (what, lie) in LIES {
        let refused = matches!(
            task::timeout(PATIENCE, Interface::connect(store, &next(), &[lie])).await,
            Ok(Err(ConnectError::Closed))
        );
        probe.holds(what, refused, 0);
    }
    bytes::write(first.data.page().words64(), FORGED, &forged(store, "1").await?);
    endures(probe, &first).await;
    exchange(probe, &first, &second).await;
    Ok(())
}

/// A frame to everybody from the address of another interface.
async fn forged(store: &Store, other: &str) -> Result<[u8; 60], ConnectError> {
    let address = store.read(&alloc::format!("device/vif/{other}/mac")).await?;
    let mut frame = FRAME;
    let source = frame.iter_mut().skip(6);
    for (to, pair) in source.zip(address.split(':')) {
        *to = u8::from_str_radix(pair, 16).unwrap_or_default();
    }
    Ok(frame)
}

/// What is wrong with one frame is that frame's error. The interface has sent one already.
async fn endures(probe: &mut Probe, interface: &Interface) {
    let data = interface.data.reference();
    let slots = [
        piece(data, 0, 0, 1, 60),
        piece(NOWHERE, 0, 0, 2, 60),
        piece(data, 4090, 0, 3, 60),
        piece(data, 0, 0, 4, 5),
        piece(data, 0, NETTXF_MORE_DATA, 5, 60),
        piece(data, 0, 0, 6, 61),
        piece(data, FORGED as u16, 0, 7, 60),
    ];
    interface.transmit(&slots, slots.len() as u32);
    probe.is("a frame is sent", interface.answer(0).await, NETIF_RSP_OKAY.into());
    let wrongs = [
        (1, "a page that was not granted is an error"),
        (2, "a piece beyond its page is an error"),
        (3, "a frame shorter than its header is an error"),
        (4, "pieces longer than their frame are an error"),
        (6, "a frame from another's address is an error"),
    ];
    for (index, what) in wrongs {
        probe.is(what, interface.answer(index).await, NETIF_RSP_ERROR.into());
    }
}

/// A frame from one to the other, when all else has been tried.
async fn exchange(probe: &mut Probe, from: &Interface, to: &Interface) {
    let page = to.receive.page().words32();
    for index in 0..8 {
        put(page, SLOTS + index * RECEIVE_SLOT, &[index as u32, to.data.reference()]);
    }
    bytes::write(to.data.page().words64(), 0, &[0; 60]);
    put(page, REQUESTS, &[8]);
    to.port.notify();
    let index = get(from.transmit.page().words32(), REQUESTS);
    let slot = piece(from.data.reference(), 0, 0, 7, 60);
    put(from.transmit.page().words32(), SLOTS + index as usize * TRANSMIT_SLOT, &slot);
    put(from.transmit.page().words32(), REQUESTS, &[index + 1]);
    from.port.notify();
    probe.is("afterwards a frame is sent", from.answer(index).await, NETIF_RSP_OKAY.into());
    to.until(|| get(page, RESPONSES) > 0).await;
    let [offset, status] = [get(page, SLOTS) >> 16, get(page, SLOTS + 1) >> 16];
    probe.is("and received with its length", status.into(), 60);
    let mut seen = [0; 60];
    bytes::read(to.data.page().words64(), offset as usize, &mut seen);
    probe.holds("and with its bytes", seen == FRAME, offset.into());
}
