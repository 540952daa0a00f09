//! The connection to the store: the two ends of the ring, who waits for which answer, what is watched.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use oxen_abi::errno::Errno;
use oxen_abi::io::xs_wire::{XS_TRANSACTION_START, XS_WATCH};
use oxen_ring::{ByteReader, ByteWriter, Ends, Page};

use super::Error;
use super::wire::{self, Assembler, Incoming};
use crate::event::Port;
use crate::sync::{Channel, Latch, Notify, Receiver, Sender, Waiters};
use crate::task;

pub(super) type Answer = Result<Vec<u8>, Error>;

/// The connection that all handles share.
pub(super) struct Client {
    page: &'static Page,
    port: Port,
    inbox: RefCell<Inbox>,
    outbox: RefCell<ByteWriter<'static>>,
    /// Messages on their way to the ring, each of them whole.
    outgoing: Sender<Vec<u8>>,
    /// Something happened at the ring: perhaps there is room again.
    moved: Notify,
    /// Where the answer to each request goes.
    waiting: RefCell<BTreeMap<u32, Rc<Latch<Answer>>>>,
    pub(super) watches: RefCell<BTreeMap<String, Watched>>,
    next: Cell<u32>,
    broken: Cell<bool>,
    /// Transactions that have begun and not ended.
    open: Cell<usize>,
    /// Nothing new is asked now.
    held: Cell<bool>,
    /// Something was answered or has ended, or new things may be asked again.
    settled: Waiters,
}

/// What a watch looks at, and where its events go.
pub(super) struct Watched {
    pub(super) path: String,
    pub(super) sender: Sender<String>,
}

/// What the store sends.
struct Inbox {
    reader: ByteReader<'static>,
    assembler: Assembler,
}

impl Inbox {
    /// Takes what has come; `None` for nothing.
    fn take(&mut self) -> Result<Option<Vec<Incoming>>, Error> {
        let mut buffer = [0; 512];
        let count = self.reader.read(&mut buffer).map_err(|_| Error::Protocol)?;
        if count == 0 {
            return Ok(None);
        }
        self.assembler.add(buffer.get(..count).unwrap_or_default());
        let mut all = Vec::new();
        while let Some(incoming) = self.assembler.next()? {
            all.push(incoming);
        }
        Ok(Some(all))
    }
}

impl Client {
    /// Connects over the ring on `page`.
    pub(super) fn start(page: &'static Page, port: u32) -> Rc<Self> {
        let Ends { reader, writer } = oxen_ring::xenstore::guest(page);
        let (outgoing, messages) = Channel::pair();
        let client = Rc::new(Self {
            page,
            port: Port::adopt(port),
            inbox: RefCell::new(Inbox { reader, assembler: Assembler::default() }),
            outbox: RefCell::new(writer),
            outgoing,
            moved: Notify::new(),
            waiting: RefCell::default(),
            watches: RefCell::default(),
            next: Cell::new(0),
            broken: Cell::new(false),
            open: Cell::new(0),
            held: Cell::new(false),
            settled: Waiters::new(),
        });
        task::spawn(receive(client.clone()));
        task::spawn(transmit(client.clone(), messages));
        client
    }

    pub(super) fn fresh(&self) -> u32 {
        self.next.set(self.next.get().wrapping_add(1));
        self.next.get()
    }

    pub(super) async fn ask(&self, kind: u32, transaction: u32, parts: &[&[u8]]) -> Answer {
        if transaction == 0 {
            self.may_ask().await;
        }
        self.ask_now(kind, transaction, parts).await
    }

    /// Starts a transaction, which counts until what is returned with the answer is dropped.
    pub(super) async fn begin(client: &Rc<Self>) -> Result<(Vec<u8>, Open), Error> {
        client.may_ask().await;
        let open = Open::new(client);
        client.ask_now(XS_TRANSACTION_START, 0, &[b"\0"]).await.map(|answer| (answer, open))
    }

    async fn may_ask(&self) {
        self.settled.until(|| (!self.held.get() || self.broken.get()).then_some(())).await;
    }

    async fn ask_now(&self, kind: u32, transaction: u32, parts: &[&[u8]]) -> Answer {
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

    /// Lets nothing new be asked, and waits until everything is answered.
    pub(super) async fn quiet(client: &Rc<Self>) -> Quiet {
        client.held.set(true);
        let quiet = Quiet(client.clone());
        let is_settled = || client.waiting.borrow().is_empty() && client.open.get() == 0;
        client.settled.until(|| is_settled().then_some(())).await;
        quiet
    }

    /// The path and the token of each watch.
    fn watched(&self) -> Vec<(String, String)> {
        let watches = self.watches.borrow();
        watches.iter().map(|(token, watched)| (watched.path.clone(), token.clone())).collect()
    }

    fn give_out(&self, incoming: Incoming) {
        match incoming {
            Incoming::Reply(id, answer) => {
                if let Some(waiting) = self.waiting.borrow_mut().remove(&id) {
                    waiting.set(answer);
                }
                self.settled.wake();
            }
            Incoming::Event { path, token } => {
                if let Some(watched) = self.watches.borrow().get(&token) {
                    watched.sender.send(path);
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
        self.settled.wake();
    }
}

/// The store is asked nothing new while this lives.
pub(crate) struct Quiet(Rc<Client>);

impl Quiet {
    /// Goes on with the store of a new domain: what the old one has sent and nobody has read is thrown away, as each
    /// watch is set again and its first event comes at once.
    pub(crate) async fn start_anew(self) {
        let client = &self.0;
        let Ends { reader, writer } = oxen_ring::xenstore::guest(client.page);
        *client.outbox.borrow_mut() = writer;
        let mut inbox = Inbox { reader, assembler: Assembler::default() };
        while inbox.take().is_ok_and(|taken| taken.is_some()) {}
        *client.inbox.borrow_mut() = Inbox { assembler: Assembler::default(), ..inbox };
        for (path, token) in client.watched() {
            let set = client.ask_now(XS_WATCH, 0, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"]).await;
            if set.is_err() {
                // Its task is told by the queue's end.
                client.watches.borrow_mut().remove(&token);
            }
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.settled.wake();
    }
}

/// Counts as a transaction that has not ended.
pub(super) struct Open(Rc<Client>);

impl Open {
    fn new(client: &Rc<Client>) -> Self {
        client.open.set(client.open.get() + 1);
        Self(client.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.settled.wake();
    }
}

impl core::fmt::Debug for Open {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Open")
    }
}

/// Takes what the store sends, for as long as it keeps to the protocol.
async fn receive(client: Rc<Client>) {
    loop {
        let taken = client.inbox.borrow_mut().take();
        match taken {
            Ok(None) => {
                client.port.wait().await;
                client.moved.notify();
            }
            Ok(Some(all)) => {
                // The store may have waited for room.
                client.port.notify();
                all.into_iter().for_each(|incoming| client.give_out(incoming));
            }
            Err(_) => return client.break_off(),
        }
    }
}

/// Puts messages into the ring, one after the other, waiting for room as often as it takes.
async fn transmit(client: Rc<Client>, messages: Receiver<Vec<u8>>) {
    while let Some(message) = messages.receive().await {
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            let written = client.outbox.borrow_mut().write(rest);
            let Ok(count) = written else { return client.break_off() };
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
