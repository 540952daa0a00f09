//! One virtual disk: its nodes in the store, and the handshake with whatever frontend comes.

use alloc::{format, rc::Rc, string::String, string::ToString, vec::Vec};
use core::cell::{Cell, RefCell};

use oxen_abi::domid::DomId;
use oxen_abi::io::blkif::VDISK_READONLY;
use oxen_abi::io::xenbus::XenbusState;
use oxen_domu_lib::sync::Notify;
use oxen_domu_lib::{println, task};

use super::request::{self, MAX_INDIRECT_SEGMENTS, SECTOR};
use super::session::{Counts, Session, Start};
use crate::device::OpenDisk;
use crate::store::{
    access::{Permissions, Right},
    server::{LocalWatch, StoreHandle},
    wire::Error,
};
use crate::toolstack::config::disk::Disk;

/// The most pages of a ring, as a power of two.
const MAX_RING_ORDER: u32 = 4;

/// A guest's disk.
pub struct BlockDevice {
    /// As configured.
    pub config: Disk,
    /// What it has done.
    pub counts: Rc<Counts>,
    /// The node of the backend.
    pub back: String,
    /// The node of the frontend.
    pub front: String,
    domain: DomId,
    open: OpenDisk,
    store: StoreHandle,
    state: Cell<XenbusState>,
    session: RefCell<Option<Rc<Session>>>,
    stopping: Cell<bool>,
    stop: Notify,
    stopped: Cell<bool>,
    done: Notify,
}

impl BlockDevice {
    /// Publishes the device and waits for its frontend.
    pub fn attach(store: &StoreHandle, domain: DomId, config: &Disk, open: OpenDisk) -> Result<Rc<Self>, String> {
        let number = config.number;
        let device = Rc::new(Self {
            config: config.clone(),
            counts: Rc::default(),
            back: format!("/local/domain/0/backend/vbd/{}/{number}", domain.0),
            front: format!("/local/domain/{}/device/vbd/{number}", domain.0),
            domain,
            open,
            store: store.clone(),
            state: Cell::new(XenbusState::Initialising),
            session: RefCell::default(),
            stopping: Cell::new(false),
            stop: Notify::new(),
            stopped: Cell::new(false),
            done: Notify::new(),
        });
        let failed = |why: Error| format!("disk {}: xenstore: {why}", config.vdev);
        device.publish().map_err(failed)?;
        let watch = store.watch(&format!("{}/state", device.front)).map_err(failed)?;
        task::spawn(device.clone().run(watch));
        Ok(device)
    }

    /// Where the handshake stands.
    pub fn state(&self) -> XenbusState {
        self.state.get()
    }

    /// Ends the device: requests in flight are answered, pages and ring are let go.
    pub async fn detach(&self) {
        self.stopping.set(true);
        self.stop.notify();
        while !self.stopped.get() {
            self.done.notified().await;
        }
    }

    fn publish(&self) -> Result<(), Error> {
        let (guest, number) = (self.domain.0, self.config.number.to_string());
        let shown = Permissions::readable_by(0, guest);
        let own = Permissions { owner: guest, others: Right::NONE, list: [(0, Right::READ)].into() };
        let id = guest.to_string();
        let mode = if self.open.writable { "w" } else { "r" };
        let discard = if self.open.medium.can_discard() { "1" } else { "0" };
        let back = [
            ("frontend", self.front.as_str()),
            ("params", &self.config.target),
            ("frontend-id", &id),
            ("online", "1"),
            ("removable", "0"),
            ("bootable", "1"),
            ("dev", &self.config.vdev),
            ("type", "phy"),
            ("mode", mode),
            ("device-type", "disk"),
            ("discard-enable", discard),
            ("specification", "xen"),
            ("state", "1"),
        ];
        self.store.publish(&self.back, "", &shown)?;
        for (name, value) in back {
            self.store.publish(&format!("{}/{name}", self.back), value, &shown)?;
        }
        let front = [
            ("backend", self.back.as_str()),
            ("backend-id", "0"),
            ("virtual-device", &number),
            ("device-type", "disk"),
            ("trusted", "1"),
            ("state", "1"),
        ];
        self.store.publish(&self.front, "", &own)?;
        for (name, value) in front {
            self.store.publish(&format!("{}/{name}", self.front), value, &own)?;
        }
        self.publish_features()
    }

    fn publish_features(&self) -> Result<(), Error> {
        let segments = MAX_INDIRECT_SEGMENTS.to_string();
        let order = MAX_RING_ORDER.to_string();
        let mut nodes: Vec<(&str, &str)> = [
            ("feature-max-indirect-segments", segments.as_str()),
            ("multi-queue-max-queues", "1"),
            ("max-ring-page-order", &order),
            ("hotplug-status", "connected"),
            ("feature-flush-cache", "1"),
            ("feature-persistent", "1"),
        ]
        .into();
        if self.open.medium.can_discard() {
            nodes.extend([
                ("feature-discard", "1"),
                ("discard-granularity", "512"),
                ("discard-alignment", "0"),
                ("discard-secure", "0"),
            ]);
        }
        nodes.into_iter().try_for_each(|(name, value)| self.set(name, value))?;
        self.enter(XenbusState::InitWait)
    }

    fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        let shown = Permissions::readable_by(0, self.domain.0);
        self.store.publish(&format!("{}/{name}", self.back), value, &shown)
    }

    fn enter(&self, state: XenbusState) -> Result<(), Error> {
        self.state.set(state);
        self.set("state", state.as_text())
    }

    fn front_value(&self, name: &str) -> Option<String> {
        self.store.read(&format!("{}/{name}", self.front)).ok()
    }

    async fn run(self: Rc<Self>, watch: LocalWatch) {
        while !self.stopping.get() {
            let session = self.session.borrow().clone();
            let hostile = async {
                match &session {
                    Some(session) => session.wait_end().await,
                    None => core::future::pending().await,
                }
            };
            let change = task::select(watch.next(), task::select(self.stop.notified(), hostile));
            if let task::Either::Second(task::Either::Second(true)) = change.await {
                self.session.take();
                self.fail("the frontend broke its ring: more requests than it holds");
                continue;
            }
            drop(session);
            let state = self.front_value("state").map_or(XenbusState::Unknown, |text| XenbusState::from_text(&text));
            self.follow(state).await;
        }
        self.disconnect().await;
        self.stopped.set(true);
        self.done.notify();
    }

    /// Does what the frontend's state asks for. A store that refuses dom0 is no more: nothing is to be done then.
    async fn follow(&self, frontend: XenbusState) {
        let now = self.state.get();
        match frontend {
            XenbusState::Initialised | XenbusState::Connected if now == XenbusState::InitWait => {
                if let Err(why) = self.connect() {
                    self.fail(&why);
                }
            }
            XenbusState::Initialising if now == XenbusState::Closed => _ = self.publish_features(),
            // The frontend may be on its last requests, and looks for this very state before it goes on.
            XenbusState::Closing if now == XenbusState::Connected => _ = self.enter(XenbusState::Closing),
            XenbusState::Closed if now != XenbusState::Closed && now != XenbusState::InitWait => {
                self.disconnect().await;
                _ = self.enter(XenbusState::Closed);
            }
            _ => {}
        }
    }

    async fn disconnect(&self) {
        let session = self.session.take();
        if let Some(session) = session {
            session.close().await;
        }
    }

    fn connect(&self) -> Result<(), String> {
        let number = |name: &str| -> Result<u32, String> {
            let text = self.front_value(name).ok_or_else(|| format!("the frontend gives no {name}"))?;
            text.parse().map_err(|_| format!("{name} is `{text}`, which is no number"))
        };
        match self.front_value("protocol").as_deref() {
            None | Some("x86_64-abi") => {}
            Some(other) => return Err(format!("protocol `{other}` is not spoken; x86_64-abi is")),
        }
        let ring = match self.front_value("ring-page-order") {
            None => Vec::from([number("ring-ref")?]),
            Some(_) => {
                let order = number("ring-page-order")?;
                if order > MAX_RING_ORDER {
                    return Err(format!("a ring of 2^{order} pages is too large; 2^{MAX_RING_ORDER} are offered"));
                }
                // A frontend with one page may use either name.
                let name = |i: u32| {
                    if order == 0 && self.front_value("ring-ref0").is_none() {
                        "ring-ref".into()
                    } else {
                        format!("ring-ref{i}")
                    }
                };
                (0..1 << order).map(|i| number(&name(i))).collect::<Result<_, _>>()?
            }
        };
        let medium = self.open.medium.clone();
        let disk = request::Disk {
            sectors: medium.sectors(),
            writable: self.open.writable,
            discard: medium.can_discard() && self.open.writable,
        };
        let persistent = self.front_value("feature-persistent").as_deref() == Some("1");
        let start = Start {
            domain: self.domain,
            ring,
            port: number("event-channel")?,
            persistent,
            disk,
            medium,
            counts: self.counts.clone(),
        };
        let session = Session::open(start)?;
        *self.session.borrow_mut() = Some(session);
        let info = if self.open.writable { 0 } else { VDISK_READONLY };
        let size = [
            ("sectors", disk.sectors.to_string()),
            ("info", info.to_string()),
            ("sector-size", SECTOR.to_string()),
            ("physical-sector-size", SECTOR.to_string()),
        ];
        let published = size.iter().try_for_each(|(name, value)| self.set(name, value));
        published.and_then(|()| self.enter(XenbusState::Connected)).map_err(|e| format!("xenstore: {e}"))
    }

    /// Gives the device up and says why, in the store and on the console.
    fn fail(&self, why: &str) {
        println!("disk {} of domain {}: {why}; the device is closed", self.config.vdev, self.domain.0);
        // Where the store refuses, the line above has said it.
        let _ = self.set("error", why);
        let _ = self.enter(XenbusState::Closing);
    }
}
