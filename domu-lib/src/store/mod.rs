//! The store's client: requests and watches of many tasks over the one ring to xenstored.
//!
//! Each request carries an id and its task waits for the answer with that id; a task of this room's own takes what
//! comes out of the ring and hands it on.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::println;
//! use oxen_domu_lib::store::{Error, Store};
//!
//! /// Counts up, however many do so at once, and says what others write.
//! async fn count(store: &Store) -> Result<(), Error> {
//!     let all = store.begin().await?;
//!     let count = all.read_number("data/count").await.unwrap_or(0);
//!     all.write("data/count", &(count + 1).to_string()).await?;
//!     all.commit().await?;
//!     let watch = store.watch("data").await?;
//!     while let Some(path) = watch.changed().await {
//!         println!("{path} has changed");
//!     }
//!     Ok(())
//! }
//! ```

#[cfg(test)]
mod tests;
mod wire;

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use oxen_abi::errno::Errno;
use oxen_abi::io::xs_wire as abi;
use oxen_ring::{ByteReader, ByteWriter, Ends};

use crate::event::Port;
use crate::raw::memory::view;
use crate::sync::{Channel, Latch, Notify, Receiver, Sender};
use crate::{start_info, task};
use wire::{Assembler, Incoming};

/// Why a request was not answered as hoped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The store's own answer.
    Refused(Errno),
    /// The store broke the protocol, or there is none: nothing more will come.
    Protocol,
}

impl core::error::Error for Error {}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Refused(errno) => write!(f, "store: {errno}"),
            Self::Protocol => f.write_str("store: the connection is broken"),
        }
    }
}

type Answer = Result<Vec<u8>, Error>;

/// The connection that all handles share.
struct Client {
    port: Port,
    /// Messages on their way to the ring, each of them whole.
    outgoing: Sender<Vec<u8>>,
    /// Something happened at the ring: perhaps there is room again.
    moved: Notify,
    /// Where the answer to each request goes.
    waiting: RefCell<BTreeMap<u32, Rc<Latch<Answer>>>>,
    watches: RefCell<BTreeMap<String, Sender<String>>>,
    next: Cell<u32>,
    broken: Cell<bool>,
}

/// A handle to the store; clones share the connection. Paths without a leading slash are below this domain's own.
#[derive(Clone)]
pub struct Store {
    client: Rc<Client>,
    transaction: u32,
}

impl core::fmt::Debug for Store {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Store").field("transaction", &self.transaction).finish_non_exhaustive()
    }
}

impl Store {
    /// Connects over the ring that the builder set up.
    ///
    /// # Errors
    /// [`Error::Protocol`] where there is none.
    pub fn connect() -> Result<Self, Error> {
        let channel = start_info::store().ok_or(Error::Protocol)?;
        let page = view::builders_page(channel.frame).ok_or(Error::Protocol)?;
        Ok(Self::on(page, channel.port))
    }

    /// Connects over the ring on `page`.
    fn on(page: &'static oxen_ring::Page, port: u32) -> Self {
        let Ends { reader, writer } = oxen_ring::xenstore::guest(page);
        let (outgoing, messages) = Channel::pair();
        let client = Rc::new(Client {
            port: Port::adopt(port),
            outgoing,
            moved: Notify::new(),
            waiting: RefCell::default(),
            watches: RefCell::default(),
            next: Cell::new(0),
            broken: Cell::new(false),
        });
        task::spawn(receive(client.clone(), reader));
        task::spawn(transmit(client.clone(), writer, messages));
        Self { client, transaction: 0 }
    }

    /// The value at `path`.
    ///
    /// # Errors
    /// `ENOENT` for none, `EACCES` for one that is not for us.
    pub async fn read(&self, path: &str) -> Result<String, Error> {
        let value = self.ask(abi::XS_READ, &[path.as_bytes(), b"\0"]).await?;
        Ok(String::from_utf8_lossy(&value).into())
    }

    /// The value at `path` as a number.
    ///
    /// # Errors
    /// As for [`Store::read`]; `EINVAL` for what is no number.
    pub async fn read_number(&self, path: &str) -> Result<u64, Error> {
        self.read(path).await?.trim().parse().map_err(|_| Error::Refused(Errno::Inval))
    }

    /// Writes `value` at `path`, making the nodes above.
    ///
    /// # Errors
    /// `EACCES`, or a quota's.
    pub async fn write(&self, path: &str, value: &str) -> Result<(), Error> {
        self.ask(abi::XS_WRITE, &[path.as_bytes(), b"\0", value.as_bytes()]).await.map(|_| ())
    }

    /// Makes an empty node where there is none.
    ///
    /// # Errors
    /// `EACCES`, or a quota's.
    pub async fn make(&self, path: &str) -> Result<(), Error> {
        self.ask(abi::XS_MKDIR, &[path.as_bytes(), b"\0"]).await.map(|_| ())
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.ask(abi::XS_RM, &[path.as_bytes(), b"\0"]).await.map(|_| ())
    }

    /// The names of the nodes below `path`.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`, `E2BIG` for more than fit in a message.
    pub async fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        self.ask(abi::XS_DIRECTORY, &[path.as_bytes(), b"\0"]).await.map(|answer| wire::strings(&answer))
    }

    /// Who may do what at `path`: the owner first, such as `n0`, `r1`.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub async fn permissions(&self, path: &str) -> Result<Vec<String>, Error> {
        self.ask(abi::XS_GET_PERMS, &[path.as_bytes(), b"\0"]).await.map(|answer| wire::strings(&answer))
    }

    /// Sets who may do what at `path`.
    ///
    /// # Errors
    /// `EACCES` for all but the owner.
    pub async fn set_permissions(&self, path: &str, permissions: &[&str]) -> Result<(), Error> {
        let mut parts: Vec<&[u8]> = [path.as_bytes(), b"\0"].into();
        for permission in permissions {
            parts.extend([permission.as_bytes(), b"\0"]);
        }
        self.ask(abi::XS_SET_PERMS, &parts).await.map(|_| ())
    }

    /// Watches `path` and all below it; the first event comes at once.
    ///
    /// # Errors
    /// A quota's.
    pub async fn watch(&self, path: &str) -> Result<Watch, Error> {
        let token = self.client.fresh().to_string();
        let (sender, receiver) = Channel::pair();
        self.client.watches.borrow_mut().insert(token.clone(), sender);
        let watch =
            Watch { store: Self { client: self.client.clone(), transaction: 0 }, path: path.into(), token, receiver };
        watch.store.ask(abi::XS_WATCH, &[path.as_bytes(), b"\0", watch.token.as_bytes(), b"\0"]).await?;
        Ok(watch)
    }

    /// Starts a transaction: what it reads is one moment's, what it writes is written at once or not at all.
    ///
    /// # Errors
    /// A quota's.
    pub async fn begin(&self) -> Result<Transaction, Error> {
        let answer = self.ask(abi::XS_TRANSACTION_START, &[b"\0"]).await?;
        let id = wire::strings(&answer).first().and_then(|id| id.parse().ok()).ok_or(Error::Protocol)?;
        Ok(Transaction { store: Self { client: self.client.clone(), transaction: id }, open: true })
    }

    async fn ask(&self, kind: u32, parts: &[&[u8]]) -> Answer {
        self.client.ask(kind, self.transaction, parts).await
    }
}

impl Client {
    fn fresh(&self) -> u32 {
        self.next.set(self.next.get().wrapping_add(1));
        self.next.get()
    }

    async fn ask(&self, kind: u32, transaction: u32, parts: &[&[u8]]) -> Answer {
        let id = self.fresh();
        let message = wire::request(kind, id, transaction, parts).ok_or(Error::Refused(Errno::Inval))?;
        if self.broken.get() {
            return Err(Error::Protocol);
        }
        let answer = Rc::new(Latch::new());
        self.waiting.borrow_mut().insert(id, answer.clone());
        self.outgoing.send(message);
        answer.wait().await
    }

    fn give_out(&self, incoming: Incoming) {
        match incoming {
            Incoming::Reply(id, answer) => {
                if let Some(waiting) = self.waiting.borrow_mut().remove(&id) {
                    waiting.set(answer);
                }
            }
            Incoming::Event { path, token } => {
                if let Some(sender) = self.watches.borrow().get(&token) {
                    sender.send(path);
                }
            }
        }
    }

    /// Ends the connection: all requests fail, those that wait and those to come.
    fn break_off(&self) {
        self.broken.set(true);
        self.moved.notify();
        self.watches.borrow_mut().clear();
        for waiting in core::mem::take(&mut *self.waiting.borrow_mut()).into_values() {
            waiting.set(Err(Error::Protocol));
        }
    }
}

/// Takes what the store sends, for as long as it keeps to the protocol.
async fn receive(client: Rc<Client>, mut reader: ByteReader<'static>) {
    let mut assembler = Assembler::default();
    let mut buffer = [0; 512];
    while let Ok(count) = reader.read(&mut buffer) {
        if count == 0 {
            client.port.wait().await;
            client.moved.notify();
            continue;
        }
        // The store may have waited for room.
        client.port.notify();
        assembler.add(buffer.get(..count).unwrap_or_default());
        loop {
            match assembler.next() {
                Ok(Some(incoming)) => client.give_out(incoming),
                Ok(None) => break,
                Err(_) => return client.break_off(),
            }
        }
    }
    client.break_off();
}

/// Puts messages into the ring, one after the other, waiting for room as often as it takes.
async fn transmit(client: Rc<Client>, mut writer: ByteWriter<'static>, messages: Receiver<Vec<u8>>) {
    while let Some(message) = messages.receive().await {
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            let Ok(count) = writer.write(rest) else { return client.break_off() };
            rest = rest.get(count..).unwrap_or_default();
            client.port.notify();
            if !rest.is_empty() && !client.broken.get() {
                client.moved.notified().await;
            }
            if client.broken.get() {
                return;
            }
        }
    }
}

/// A watch; it ends when dropped.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    path: String,
    token: String,
    receiver: Receiver<String>,
}

impl Watch {
    /// Waits for the next change and says where it was; `None` when the connection is broken.
    pub async fn changed(&self) -> Option<String> {
        self.receiver.receive().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.store.client.watches.borrow_mut().remove(&self.token);
        let (store, path, token) = (self.store.clone(), self.path.clone(), self.token.clone());
        task::spawn(async move {
            // A watch that is gone already needs no ending.
            let _ = store.ask(abi::XS_UNWATCH, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"]).await;
        });
    }
}

/// A transaction; what it did is undone when it is dropped without [`Transaction::commit`].
#[derive(Debug)]
pub struct Transaction {
    store: Store,
    open: bool,
}

impl core::ops::Deref for Transaction {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Transaction {
    /// Makes what was written visible.
    ///
    /// # Errors
    /// `EAGAIN` where others wrote what this one read: start again.
    pub async fn commit(mut self) -> Result<(), Error> {
        self.open = false;
        self.store.ask(abi::XS_TRANSACTION_END, &[b"T\0"]).await.map(|_| ())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            let store = self.store.clone();
            task::spawn(async move {
                // Whatever the answer is, nothing was written.
                let _ = store.ask(abi::XS_TRANSACTION_END, &[b"F\0"]).await;
            });
        }
    }
}
