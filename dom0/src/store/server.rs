//! The store at work: one task for each domain's ring, and dom0's own tools beside them.

use alloc::{
    collections::{BTreeMap, VecDeque},
    rc::{Rc, Weak},
    string::{String, ToString},
    vec::Vec,
};
use core::cell::{Cell, RefCell};

use oxen_abi::errno::Errno;
use oxen_abi::io::xs_wire as xs;
use oxen_domu_lib::event::Port;
use oxen_domu_lib::memory::{
    Mfn,
    map::{Access, Mapping, Words},
};
use oxen_domu_lib::sync::Notify;
use oxen_domu_lib::{println, task};

use super::{
    DomId, Store,
    access::Permissions,
    path::Path,
    request::Effect,
    watch::Event,
    wire::{Error, HEADER_SIZE, Message, PAYLOAD_MAX},
};
use oxen_ring::{Overrun, Page, xenstore};

/// Events that wait for one domain at most; a domain that does not read loses those beyond.
const MOST_EVENTS: usize = 1024;

/// What waits to be sent to a domain.
enum Outgoing {
    Reply(Message),
    Event(Event),
}

/// One domain's connection.
#[derive(Default)]
struct Connection {
    outgoing: RefCell<VecDeque<Outgoing>>,
    events: Cell<usize>,
    replies: Cell<usize>,
    lost: Cell<bool>,
    wake: Notify,
    closing: Cell<bool>,
}

impl Connection {
    fn push_event(&self, event: Event) {
        let mut outgoing = self.outgoing.borrow_mut();
        let same = |o: &Outgoing| matches!(o, Outgoing::Event(e) if *e == event);
        if outgoing.iter().any(same) {
            return;
        }
        if self.events.get() >= MOST_EVENTS {
            if !self.lost.replace(true) {
                println!("xenstore: domain {} does not read its events: some are lost", event.domain);
            }
            return;
        }
        self.events.set(self.events.get() + 1);
        outgoing.push_back(Outgoing::Event(event));
        self.wake.notify();
    }

    /// The next message to send, in wire form.
    fn next(&self, out: &mut Vec<u8>) -> bool {
        let next = self.outgoing.borrow_mut().pop_front();
        match next {
            Some(Outgoing::Reply(message)) => {
                self.replies.set(self.replies.get().saturating_sub(1));
                message.encode(out);
            }
            Some(Outgoing::Event(event)) => {
                self.events.set(self.events.get().saturating_sub(1));
                Message::event(&event.path, &event.token).encode(out);
            }
            None => return false,
        }
        true
    }
}

/// A watch of dom0's own tools.
#[derive(Default)]
struct LocalQueue {
    paths: RefCell<VecDeque<String>>,
    wake: Notify,
}

struct Shared {
    store: RefCell<Store>,
    connections: RefCell<BTreeMap<DomId, Rc<Connection>>>,
    local: RefCell<BTreeMap<u64, Rc<LocalQueue>>>,
    last_token: Cell<u64>,
}

/// The store, as dom0's tools hold it.
#[derive(Clone)]
pub struct StoreHandle(Rc<Shared>);

/// Paths that change, one after the other; ends when dropped.
pub struct LocalWatch {
    shared: Weak<Shared>,
    queue: Rc<LocalQueue>,
    token: u64,
    path: String,
}

impl LocalWatch {
    /// Waits for the next change; the first comes at once.
    pub async fn next(&self) -> String {
        loop {
            if let Some(path) = self.queue.paths.borrow_mut().pop_front() {
                return path;
            }
            self.queue.wake.notified().await;
        }
    }
}

impl Drop for LocalWatch {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.local.borrow_mut().remove(&self.token);
        // It may be gone already: a reset takes all watches.
        let _ = shared.store.borrow_mut().unwatch(0, &self.path, self.token.to_string().as_bytes());
    }
}

impl Default for StoreHandle {
    fn default() -> Self {
        Self::new()
    }
}

impl StoreHandle {
    /// An empty store.
    pub fn new() -> Self {
        Self(Rc::new(Shared {
            store: RefCell::default(),
            connections: RefCell::default(),
            local: RefCell::default(),
            last_token: Cell::new(0),
        }))
    }

    /// Works on the store and then tells everybody what changed.
    pub fn with<R>(&self, action: impl FnOnce(&mut Store) -> R) -> R {
        let mut store = self.0.store.borrow_mut();
        let result = action(&mut store);
        let events = store.take_events();
        drop(store);
        for event in events {
            self.deliver(event);
        }
        result
    }

    fn deliver(&self, event: Event) {
        if event.domain != 0 {
            if let Some(connection) = self.0.connections.borrow().get(&event.domain) {
                connection.push_event(event);
            }
            return;
        }
        let token = core::str::from_utf8(&event.token).ok().and_then(|text| text.parse().ok());
        if let Some(queue) = token.and_then(|token: u64| self.0.local.borrow().get(&token).cloned()) {
            let mut paths = queue.paths.borrow_mut();
            if !paths.contains(&event.path) {
                paths.push_back(event.path);
            }
            queue.wake.notify();
        }
    }

    /// The value at `path` as text.
    pub fn read(&self, path: &str) -> Result<String, Error> {
        self.with(|store| {
            let node = store.read(0, 0, &Path::resolve(path, 0)?)?;
            Ok(String::from_utf8_lossy(&node.value).into())
        })
    }

    /// Sets a value.
    pub fn write(&self, path: &str, value: &str) -> Result<(), Error> {
        self.with(|store| store.write(0, 0, &Path::resolve(path, 0)?, value.as_bytes()))
    }

    /// Sets a value and who may see it.
    pub fn publish(&self, path: &str, value: &str, permissions: &Permissions) -> Result<(), Error> {
        self.with(|store| {
            let path = Path::resolve(path, 0)?;
            store.write(0, 0, &path, value.as_bytes())?;
            store.set_permissions(0, 0, &path, permissions.clone())
        })
    }

    /// Removes a node and all below it; nothing happens where there is none.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        self.with(|store| match store.remove(0, 0, &Path::resolve(path, 0)?) {
            Err(Error::NotFound) => Ok(()),
            result => result,
        })
    }

    /// The names directly below `path`.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        self.with(|store| {
            let node = store.read(0, 0, &Path::resolve(path, 0)?)?;
            Ok(node.children.iter().map(ToString::to_string).collect())
        })
    }

    /// Watches a path on behalf of dom0's tools.
    pub fn watch(&self, path: &str) -> Result<LocalWatch, Error> {
        let token = self.0.last_token.get() + 1;
        self.0.last_token.set(token);
        let queue = Rc::new(LocalQueue::default());
        self.0.local.borrow_mut().insert(token, queue.clone());
        let watch = LocalWatch { shared: Rc::downgrade(&self.0), queue, token, path: path.to_string() };
        self.with(|store| store.watch(0, path, token.to_string().as_bytes()))?;
        Ok(watch)
    }

    /// Serves a domain's ring from now on.
    pub fn serve(&self, domain: DomId, frame: Mfn, port: u32) -> Result<(), Errno> {
        let number = oxen_abi::domid::DomId(domain);
        let page = Mapping::of(number, &[frame], Access::ReadWrite)?;
        let port = Port::bind_interdomain(number, port)?;
        let connection = Rc::new(Connection::default());
        if let Some(old) = self.0.connections.borrow_mut().insert(domain, connection.clone()) {
            old.close();
        }
        self.with(|store| store.introduce(domain));
        task::spawn(
            Ring { domain, page, port, connection, store: self.clone(), input: Vec::new(), output: Vec::new() }.run(),
        );
        Ok(())
    }

    /// Forgets a domain that is gone.
    pub fn forget(&self, domain: DomId) {
        if let Some(connection) = self.0.connections.borrow_mut().remove(&domain) {
            connection.close();
        }
        // It may never have been introduced.
        let _ = self.with(|store| store.release(domain));
    }

    fn apply(&self, effect: Effect) {
        match effect {
            Effect::Serve { domain, gfn, port } => {
                if let Err(errno) = self.serve(domain, Mfn(gfn), port) {
                    println!("xenstore: domain {domain} cannot be served: {}", errno.name());
                }
            }
            Effect::Forget(domain) => self.forget(domain),
        }
    }
}

impl Connection {
    fn close(&self) {
        self.closing.set(true);
        self.wake.notify();
    }
}

/// Why a connection ends by itself.
struct Broken(u32);

impl From<Overrun> for Broken {
    fn from(_: Overrun) -> Self {
        Self(xs::XENSTORE_ERROR_RINGIDX)
    }
}

/// The task that serves one ring.
struct Ring {
    domain: DomId,
    page: Mapping,
    port: Port,
    connection: Rc<Connection>,
    store: StoreHandle,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Ring {
    async fn run(mut self) {
        let features = xs::XENSTORE_SERVER_FEATURE_ERROR | xs::XENSTORE_SERVER_FEATURE_RECONNECTION;
        xenstore::set_server_features(self.page(), features);
        while !self.connection.closing.get() {
            match self.turn() {
                Ok(true) => {
                    self.port.notify();
                    // Other domains' requests come in between.
                    task::yield_now().await;
                }
                Ok(false) => _ = task::select(self.port.wait(), self.connection.wake.notified()).await,
                Err(Broken(code)) => {
                    xenstore::set_error(self.page(), code);
                    self.port.notify();
                    println!(
                        "xenstore: domain {} broke the protocol (error {code}): its connection is closed",
                        self.domain
                    );
                    return;
                }
            }
        }
    }

    fn page(&self) -> &Page {
        self.page.page(0)
    }

    /// Moves what can be moved; says whether anything was.
    fn turn(&mut self) -> Result<bool, Broken> {
        self.reconnect_if_asked();
        let mut moved = false;
        while self.output.len() < PAYLOAD_MAX && self.connection.next(&mut self.output) {}
        let sent = xenstore::store(self.page()).writer.write(&self.output)?;
        self.output.drain(..sent);
        moved |= sent != 0;
        // Who does not take its answers gets no more of them.
        if self.connection.replies.get() >= self.store.0.store.borrow().limits().outstanding {
            return Ok(moved);
        }
        let room = (HEADER_SIZE + PAYLOAD_MAX).saturating_sub(self.input.len());
        let mut bytes = [0; xs::XENSTORE_RING_SIZE];
        let piece = bytes.get_mut(..room.min(xs::XENSTORE_RING_SIZE)).unwrap_or_default();
        let taken = xenstore::store(self.page()).reader.read(piece)?;
        self.input.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        moved |= taken != 0;
        let message = Message::take(&mut self.input).map_err(|_| Broken(xs::XENSTORE_ERROR_PROTO))?;
        if let Some(message) = message {
            self.answer(&message);
            moved = true;
        }
        Ok(moved)
    }

    fn answer(&self, message: &Message) {
        let outcome = {
            let mut store = self.store.0.store.borrow_mut();
            let outcome = store.request(self.domain, message);
            self.connection.replies.set(self.connection.replies.get() + 1);
            self.connection.outgoing.borrow_mut().push_back(Outgoing::Reply(outcome.reply));
            outcome.effect
        };
        self.store.with(|_| ());
        if let Some(effect) = outcome {
            self.store.apply(effect);
        }
    }

    /// A guest that starts anew in the same domain (a new kernel, say) asks for a fresh ring.
    fn reconnect_if_asked(&mut self) {
        if !xenstore::wants_reconnection(self.page()) {
            return;
        }
        self.input.clear();
        self.output.clear();
        self.connection.outgoing.borrow_mut().clear();
        self.connection.events.set(0);
        self.connection.replies.set(0);
        self.store.with(|store| store.reset(self.domain));
        xenstore::reconnect(self.page());
        self.port.notify();
    }
}
