//! A split device as its backend holds it: its nodes in the store, the handshake with whatever frontend comes, and the
//! session while one is connected. What kind of device it is says a [`Driver`].

use alloc::{format, rc::Rc, string::String, vec::Vec};
use core::cell::{Cell, RefCell};
use core::future::{Future, pending};

use anyhow::{Context, Error, Result, ensure};
use oxen_abi::domid::DomId;
use oxen_abi::io::xenbus::XenbusState;
use oxen_domu_lib::handshake::{self, Side, Step};
use oxen_domu_lib::sync::{Latch, Notify, Waiters};
use oxen_domu_lib::{println, task, time};

use crate::backend::session::{Session, SessionEnd};
use crate::guest_text;
use crate::purse::Purse;
use crate::store::{
    access::{Permissions, Right},
    server::{LocalWatch, StoreHandle},
    wire,
};

/// How long a frontend gets to let go of a device that is taken away, in nanoseconds.
const PATIENCE: u64 = 10 * time::SECOND;

/// Names and values of nodes.
pub type Nodes = Vec<(&'static str, String)>;

/// A kind of backend.
pub trait Driver: 'static {
    /// What serves a connected frontend.
    type Session: Session;
    /// The name of the kind in the store, such as `vbd`.
    const CLASS: &'static str;

    /// What people call this device.
    fn title(&self) -> String;
    /// Its number among the guest's.
    fn number(&self) -> u32;
    /// Nodes of the backend that stay as they are.
    fn back_nodes(&self) -> Nodes;
    /// Nodes of the frontend to begin with.
    fn front_nodes(&self) -> Nodes;
    /// What is offered, written anew for each frontend.
    fn offer(&self) -> Nodes;
    /// Takes the frontend's rings into use, as they are or where an earlier instance left them; what is returned
    /// besides is written before the state changes.
    ///
    /// # Errors
    /// The frontend asks for what is not offered, lacks a node, or grants no ring.
    fn connect(
        &self,
        front: &Front<'_>,
        legacy: <Self::Session as Session>::Legacy,
    ) -> Result<(Rc<Self::Session>, Nodes)>;
    /// Reads anew what a connected frontend may change; returns whether there is such a thing.
    fn reconfigure(&self, _front: &Front<'_>, _session: &Self::Session) -> bool {
        false
    }
}

/// The frontend's nodes.
pub struct Front<'a> {
    /// The guest.
    pub domain: DomId,
    /// What may be taken of dom0 for it.
    pub purse: &'a Rc<Purse>,
    path: &'a str,
    store: &'a StoreHandle,
}

impl Front<'_> {
    /// A value, if it is there.
    pub fn value(&self, name: &str) -> Option<String> {
        self.store.read(&format!("{}/{name}", self.path)).ok()
    }

    /// A number that has to be there.
    ///
    /// # Errors
    /// It is missing, or no number.
    pub fn number(&self, name: &str) -> Result<u32> {
        let text = self.value(name).with_context(|| format!("the frontend gives no {name}"))?;
        let number = text.parse().ok();
        number.with_context(|| format!("{name} is `{}`, which is no number", guest_text::quoted(&text)))
    }

    /// Whether a feature is asked for.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).as_deref() == Some("1")
    }
}

/// A device of a guest.
pub struct Device<D: Driver> {
    /// What it is.
    pub driver: D,
    /// The node of the backend.
    pub back: String,
    /// The node of the frontend.
    pub front: String,
    domain: DomId,
    purse: Rc<Purse>,
    store: StoreHandle,
    state: Cell<XenbusState>,
    changed: Waiters,
    session: RefCell<Option<Rc<D::Session>>>,
    /// Somebody wants the session begun anew.
    wanted: Notify,
    restarts: Cell<u64>,
    stop: Latch<()>,
    stopped: Latch<()>,
}

impl<D: Driver> Device<D> {
    /// Publishes the device and waits for its frontend.
    ///
    /// # Errors
    /// The store has no room for the device's nodes or its watch.
    pub fn attach(store: &StoreHandle, domain: DomId, driver: D) -> Result<Rc<Self>> {
        let number = driver.number();
        let device = Rc::new(Self {
            back: format!("/local/domain/0/backend/{}/{}/{number}", D::CLASS, domain.0),
            front: format!("/local/domain/{}/device/{}/{number}", domain.0, D::CLASS),
            driver,
            domain,
            purse: store.purses().of(domain.0),
            store: store.clone(),
            state: Cell::new(XenbusState::Initialising),
            changed: Waiters::new(),
            session: RefCell::default(),
            wanted: Notify::new(),
            restarts: Cell::new(0),
            stop: Latch::new(),
            stopped: Latch::new(),
        });
        device.publish().map_err(|why| device.refused(why))?;
        let watch = store.watch(&format!("{}/state", device.front)).map_err(|why| device.refused(why))?;
        task::spawn_for(domain.0, device.clone().run(watch));
        Ok(device)
    }

    /// Where the handshake stands.
    pub fn state(&self) -> XenbusState {
        self.state.get()
    }

    /// Whether a frontend is connected.
    fn is_connected(&self) -> bool {
        matches!(self.state.get(), XenbusState::Connected | XenbusState::Reconfigured)
    }

    /// What serves the frontend, while one is connected.
    pub fn session(&self) -> Option<Rc<D::Session>> {
        self.session.borrow().clone()
    }

    /// Tells a connected frontend of nodes that have changed: it looks at them when the state is written once more.
    /// One that connects later is told then.
    ///
    /// # Errors
    /// The store has no room for them.
    pub fn announce(&self, nodes: &[(&'static str, String)]) -> Result<()> {
        if self.state.get() != XenbusState::Connected {
            return Ok(());
        }
        let told = self.write(nodes).and_then(|()| self.enter(XenbusState::Connected));
        told.map_err(|why| self.refused(why))
    }

    /// Has the session cut off wherever it stands, and another take its place, which maps the rings and binds the ports
    /// anew. The frontend notices nothing, and nothing of what it asked for is lost.
    ///
    /// # Errors
    /// No frontend is connected, or the rings cannot be taken into use any more: the device is closed then.
    pub async fn restart(&self) -> Result<()> {
        ensure!(self.session.borrow().is_some(), "{} is not connected", self.driver.title());
        let before = self.restarts.get();
        self.wanted.notify();
        let over = || (self.restarts.get() != before || !self.is_connected()).then_some(());
        self.changed.until(over).await;
        ensure!(self.restarts.get() != before, "{} is closed", self.driver.title());
        Ok(())
    }

    /// Ends the device: requests in flight are answered, pages and rings are let go.
    pub async fn detach(&self) {
        self.stop.set(());
        self.stopped.wait().await;
    }

    /// Takes the device away from a guest that runs: its frontend is asked to let go and gets some time for it.
    ///
    /// # Errors
    /// The store refuses to change the device's nodes.
    pub async fn unplug(&self) -> Result<()> {
        let failed = |why| self.refused(why);
        self.set("online", "0").map_err(failed)?;
        if self.is_connected() {
            self.enter(XenbusState::Closing).map_err(failed)?;
            let closed = self.changed.until(|| (self.state.get() == XenbusState::Closed).then_some(()));
            if task::timeout(PATIENCE, closed).await.is_err() {
                println!("{} of domain {}: the guest does not let go of it", self.driver.title(), self.domain.0);
            }
        }
        self.detach().await;
        self.store.remove(&self.back).and_then(|()| self.store.remove(&self.front)).map_err(failed)
    }

    fn publish(&self) -> Result<(), wire::Error> {
        let guest = self.domain.0;
        let shown = Permissions::readable_by(0, guest);
        let own = Permissions { owner: guest, others: Right::NONE, list: [(0, Right::READ)].into() };
        let back: Nodes =
            [("frontend", self.front.clone()), ("frontend-id", format!("{guest}")), ("online", "1".into())]
                .into_iter()
                .chain(self.driver.back_nodes())
                .collect();
        let front: Nodes = [("backend", self.back.clone()), ("backend-id", "0".into())]
            .into_iter()
            .chain(self.driver.front_nodes())
            .collect();
        for (path, nodes, who) in [(&self.back, back, &shown), (&self.front, front, &own)] {
            self.store.publish(path, "", who)?;
            for (name, value) in nodes.iter().map(|(name, value)| (*name, value.as_str())).chain([("state", "1")]) {
                self.store.publish(&format!("{path}/{name}"), value, who)?;
            }
        }
        self.offer()
    }

    fn offer(&self) -> Result<(), wire::Error> {
        self.write(&self.driver.offer())?;
        self.enter(XenbusState::InitWait)
    }

    fn write(&self, nodes: &[(&'static str, String)]) -> Result<(), wire::Error> {
        nodes.iter().try_for_each(|(name, value)| self.set(name, value))
    }

    fn set(&self, name: &str, value: &str) -> Result<(), wire::Error> {
        let shown = Permissions::readable_by(0, self.domain.0);
        self.store.publish(&format!("{}/{name}", self.back), value, &shown)
    }

    fn enter(&self, state: XenbusState) -> Result<(), wire::Error> {
        self.state.set(state);
        self.changed.wake();
        self.set("state", state.as_text())
    }

    fn peer(&self) -> Front<'_> {
        Front { domain: self.domain, purse: &self.purse, path: &self.front, store: &self.store }
    }

    async fn run(self: Rc<Self>, watch: LocalWatch) {
        while !self.stop.is_set() {
            let session = self.session.borrow().clone();
            let end = async {
                match &session {
                    Some(session) => session.life().ended().await,
                    None => pending().await,
                }
            };
            let change = first_of(watch.next(), self.stop.wait(), self.wanted.notified(), end).await;
            drop(session);
            match change {
                Change::Ended(SessionEnd::ProtocolError) => {
                    self.session.take();
                    self.fail("the frontend broke its ring");
                    continue;
                }
                Change::Restart => {
                    self.begin_anew().await;
                    continue;
                }
                Change::Ended(SessionEnd::Asked) | Change::Nodes => {}
            }
            let state = self.peer().value("state").map_or(XenbusState::Unknown, |text| XenbusState::from_text(&text));
            self.follow(state).await;
        }
        self.disconnect().await;
        self.stopped.set(());
    }

    /// Does what the frontend's state asks for. A store that refuses dom0 is no more: nothing is to be done then.
    async fn follow(&self, frontend: XenbusState) {
        match handshake::step(Side::Backend, self.state.get(), frontend) {
            Step::Offer(_) => {
                self.disconnect().await;
                _ = self.offer();
            }
            Step::Connect => {
                if let Err(why) = self.connect() {
                    self.fail(&format!("{why:#}"));
                }
            }
            Step::Reconfigure(state) => {
                let session = self.session.borrow().clone();
                if session.is_some_and(|session| self.driver.reconfigure(&self.peer(), &session)) {
                    _ = self.enter(state);
                }
            }
            Step::Close(XenbusState::Closed) => {
                self.disconnect().await;
                _ = self.enter(XenbusState::Closed);
            }
            // The frontend may be on its last requests, and looks for this very state before it goes on.
            Step::Close(state) => _ = self.enter(state),
            Step::Wait | Step::Gone => {}
        }
    }

    async fn disconnect(&self) {
        let session = self.session.take();
        if let Some(session) = session {
            session.life().close().await;
        }
    }

    /// What the store refuses, in words.
    fn refused(&self, why: wire::Error) -> Error {
        Error::new(why).context("xenstore").context(self.driver.title())
    }

    /// Puts a new session in the place of the one that is connected.
    async fn begin_anew(&self) {
        let session = self.session.take();
        let Some(session) = session else { return };
        let legacy = session.cut().await;
        // The ports are free to be bound again when the last of it is gone.
        drop(session);
        match self.open(legacy) {
            // What is offered and what is connected are as they were: the store's nodes stay.
            Ok(_) => {
                self.restarts.set(self.restarts.get() + 1);
                self.changed.wake();
            }
            Err(why) => self.fail(&format!("{why:#}")),
        }
    }

    fn open(&self, legacy: <D::Session as Session>::Legacy) -> Result<Nodes> {
        let (session, nodes) = self.driver.connect(&self.peer(), legacy)?;
        *self.session.borrow_mut() = Some(session);
        Ok(nodes)
    }

    fn connect(&self) -> Result<()> {
        let nodes = self.open(Default::default())?;
        let published = self.write(&nodes).and_then(|()| self.enter(XenbusState::Connected));
        published.context("xenstore")
    }

    /// Gives the device up and says why, in the store and on the console.
    fn fail(&self, why: &str) {
        let (title, domain) = (self.driver.title(), self.domain.0);
        let line = format_args!("{title} of domain {domain}: {why}; the device is closed");
        guest_text::say(&self.purse.log, self.domain, line);
        // Where the store refuses, the line above has said it.
        let _ = self.set("error", why);
        let _ = self.enter(XenbusState::Closing);
    }
}

/// What a device has to do with.
enum Change {
    /// The frontend's state may be another, or the device is to end.
    Nodes,
    /// The session is to begin anew.
    Restart,
    /// The session has ended.
    Ended(SessionEnd),
}

/// Waits for a change, the wish to stop, the wish to begin anew, or the session's end.
async fn first_of(
    change: impl Future<Output = String>,
    stop: impl Future<Output = ()>,
    restart: impl Future<Output = ()>,
    end: impl Future<Output = SessionEnd>,
) -> Change {
    use task::Either::{First, Second};
    match task::select(task::select(change, stop), task::select(restart, end)).await {
        First(_) => Change::Nodes,
        Second(First(())) => Change::Restart,
        Second(Second(end)) => Change::Ended(end),
    }
}
