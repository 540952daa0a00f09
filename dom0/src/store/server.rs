//! The store at work: one task for each domain's ring, and dom0's own tools beside them.

mod link;

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
    outgoing::Event,
    path::Path,
    quota::Limits,
    request::Effect,
    wire::{Error, Message, ProtocolError},
};
use crate::guest_text;
use crate::purse::Purses;
use link::{Connection, Link, ReplyRoom, Turn};
use oxen_ring::xenstore;

/// Paths that wait for one of dom0's own tools at most; of more it learns that something changed.
const MAX_LOCAL: usize = 256;

/// A watch of dom0's own tools.
#[derive(Default)]
struct LocalQueue {
    /// What is watched.
    path: String,
    paths: RefCell<VecDeque<String>>,
    wake: Notify,
}

struct Inner {
    purses: Purses,
    store: RefCell<Store>,
    connections: RefCell<BTreeMap<DomId, Rc<Connection>>>,
    local: RefCell<BTreeMap<u64, Rc<LocalQueue>>>,
    last_token: Cell<u64>,
}

/// The store, as dom0's tools hold it.
#[derive(Clone)]
pub struct StoreHandle(Rc<Inner>);

/// Paths that change, one after the other; ends when dropped.
pub struct LocalWatch {
    shared: Weak<Inner>,
    queue: Rc<LocalQueue>,
    token: u64,
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
        let _ = shared.store.borrow_mut().unwatch(0, &self.queue.path, self.token.to_string().as_bytes());
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
        let purses = Purses::new();
        Self(Rc::new(Inner {
            store: RefCell::new(Store::new(Limits::default(), purses.clone())),
            purses,
            connections: RefCell::default(),
            local: RefCell::default(),
            last_token: Cell::new(0),
        }))
    }

    /// The purses of the domains that the store and the backends serve.
    pub fn purses(&self) -> &Purses {
        &self.0.purses
    }

    /// Works on the store and then tells everybody what changed.
    pub fn with<R>(&self, action: impl FnOnce(&mut Store) -> R) -> R {
        let mut store = self.0.store.borrow_mut();
        let result = action(&mut store);
        let (events, late) = (store.take_events(), store.take_late());
        drop(store);
        for event in events {
            self.deliver(event);
        }
        for connection in late.iter().filter_map(|domain| self.0.connections.borrow().get(domain).cloned()) {
            connection.wake.notify();
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
            let path = if paths.len() < MAX_LOCAL { event.path } else { queue.path.clone() };
            if !paths.contains(&path) {
                paths.push_back(path);
            }
            queue.wake.notify();
        }
    }

    /// The value at `path` as text.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path, `ENOENT`.
    pub fn read(&self, path: &str) -> Result<String, Error> {
        self.with(|store| {
            let node = store.read(0, 0, &Path::resolve(path, 0)?)?;
            Ok(String::from_utf8_lossy(&node.value).into())
        })
    }

    /// Sets a value.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path, `ENOSPC` where dom0 has no memory for it.
    pub fn write(&self, path: &str, value: &str) -> Result<(), Error> {
        self.with(|store| store.write(0, 0, &Path::resolve(path, 0)?, value.as_bytes()))
    }

    /// Sets a value and who may see it.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn publish(&self, path: &str, value: &str, permissions: &Permissions) -> Result<(), Error> {
        self.with(|store| {
            let path = Path::resolve(path, 0)?;
            store.write(0, 0, &path, value.as_bytes())?;
            store.set_permissions(0, 0, &path, permissions.clone())
        })
    }

    /// Removes a node and all below it; nothing happens where there is none.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path, or the root.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        self.with(|store| match store.remove(0, 0, &Path::resolve(path, 0)?) {
            Err(Error::NotFound) => Ok(()),
            result => result,
        })
    }

    /// The names directly below `path`.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path, `ENOENT`.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        self.with(|store| {
            let node = store.read(0, 0, &Path::resolve(path, 0)?)?;
            Ok(node.children.iter().map(ToString::to_string).collect())
        })
    }

    /// Watches a path on behalf of dom0's tools.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path.
    pub fn watch(&self, path: &str) -> Result<LocalWatch, Error> {
        let token = self.0.last_token.get() + 1;
        self.0.last_token.set(token);
        let queue = Rc::new(LocalQueue { path: path.to_string(), ..LocalQueue::default() });
        self.0.local.borrow_mut().insert(token, queue.clone());
        let watch = LocalWatch { shared: Rc::downgrade(&self.0), queue, token };
        self.with(|store| store.watch(0, path, token.to_string().as_bytes()))?;
        Ok(watch)
    }

    /// Serves a domain's ring from now on.
    ///
    /// # Errors
    /// `ENOMEM` where the domain's purse cannot pay for the connection, and what the hypervisor says of the frame or
    /// the port.
    pub fn serve(&self, domain: DomId, frame: Mfn, port: u32) -> Result<(), Errno> {
        let purse = self.0.purses.open(domain);
        let connection = Rc::new(Connection::new(purse).map_err(|_| Errno::NoMem)?);
        let number = oxen_abi::domid::DomId(domain);
        let page = Mapping::of(number, &[frame], Access::ReadWrite)?;
        let port = Port::bind_interdomain(number, port)?;
        self.adopt(domain, connection.clone());
        self.with(|store| store.introduce(domain));
        task::spawn_for(domain, serve_ring(Link::new(domain, connection, self.clone()), page, port));
        Ok(())
    }

    /// Events of a domain go to this connection from now on.
    fn adopt(&self, domain: DomId, connection: Rc<Connection>) {
        if let Some(old) = self.0.connections.borrow_mut().insert(domain, connection) {
            old.close();
        }
    }

    /// Forgets a domain that is gone.
    pub fn forget(&self, domain: DomId) {
        if let Some(connection) = self.0.connections.borrow_mut().remove(&domain) {
            connection.close();
        }
        // It may never have been introduced.
        let _ = self.with(|store| store.release(domain));
    }

    /// Carries out a request of a domain; its answer goes before the events that it causes.
    fn answer(&self, domain: DomId, message: &Message, connection: &Connection, room: ReplyRoom) {
        let outcome = self.0.store.borrow_mut().request(domain, message);
        connection.push_reply(outcome.reply, room);
        self.with(|_| ());
        if let Some(effect) = outcome.effect {
            self.apply(effect);
        }
    }

    fn apply(&self, effect: Effect) {
        match effect {
            Effect::Serve { domain, gfn, port } => {
                if let Err(errno) = self.serve(domain, gfn, port) {
                    println!("xenstore: domain {domain} cannot be served: {}", errno.name());
                }
            }
            Effect::Forget(domain) => self.forget(domain),
        }
    }
}

/// The task that serves one ring.
async fn serve_ring(mut link: Link, page: Mapping, port: Port) {
    let page = page.page(0);
    xenstore::set_server_features(page, xs::XENSTORE_SERVER_FEATURE_ERROR | xs::XENSTORE_SERVER_FEATURE_RECONNECTION);
    while !link.connection.closing.get() {
        match link.turn(page) {
            Ok(Turn::Moved) => {
                port.notify();
                // Other domains' requests come in between.
                task::yield_now().await;
            }
            Ok(Turn::Idle) => _ = task::select(port.wait(), link.connection.wake.notified()).await,
            Err(ProtocolError(code)) => {
                xenstore::set_error(page, code);
                port.notify();
                let domain = link.domain;
                let line = format_args!(
                    "xenstore: domain {domain} broke the protocol (error {code}): its connection is closed"
                );
                guest_text::say(&link.connection.purse.log, oxen_abi::domid::DomId(domain), line);
                return;
            }
        }
    }
}
