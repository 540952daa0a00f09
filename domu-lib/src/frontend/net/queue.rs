//! What stands between the device's users and the task that owns its rings: a queue each way, and who waits for what.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};

use super::{Frame, NetError, Settings};
use crate::sync::{Latch, Notify, Waiters};

/// Bytes that wait in one direction before there is no more room.
const MAX_BYTES: usize = 256 * 1024;
/// Frames that wait in one direction before there is no more room.
const MAX_FRAMES: usize = 512;

/// Frames counted since the device connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames put on the ring.
    pub sent: u64,
    /// Pieces of frames that the backend said it did not send.
    pub refused: u64,
    /// Frames that were not sent, as there was no memory for them.
    pub memory: u64,
    /// Frames received.
    pub received: u64,
    /// Frames that came to nothing, as the backend did not fill them.
    pub lost: u64,
}

/// A bounded queue of frames.
#[derive(Debug, Default)]
struct Queue {
    frames: RefCell<VecDeque<Frame>>,
    bytes: Cell<usize>,
    waiters: Waiters,
}

impl Queue {
    fn has_room(&self) -> bool {
        self.bytes.get() < MAX_BYTES && self.frames.borrow().len() < MAX_FRAMES
    }

    fn push(&self, frame: Frame) {
        self.bytes.set(self.bytes.get() + frame.bytes.len());
        self.frames.borrow_mut().push_back(frame);
    }

    fn pop(&self) -> Option<Frame> {
        let frame = self.frames.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - frame.bytes.len());
        Some(frame)
    }
}

/// Both queues, and how the device does.
#[derive(Debug, Default)]
pub(super) struct Queues {
    outgoing: Queue,
    incoming: Queue,
    counters: Cell<Counters>,
    /// The ring's task has something to do.
    work: Notify,
    /// The handle is gone.
    abandoned: Cell<bool>,
    /// Why the device is closed.
    end: Cell<Option<NetError>>,
    /// The backend has let go.
    released: Latch<()>,
    /// What was said of the device when it connected last.
    settings: Cell<Settings>,
    connections: Cell<u64>,
    connecting: Waiters,
}

/// The user's side.
impl Queues {
    pub(super) fn has_room(&self) -> bool {
        self.outgoing.has_room()
    }

    pub(super) fn send(&self, frame: Frame) -> Result<(), NetError> {
        match self.end.get() {
            Some(end) => Err(end),
            None if !self.has_room() => Err(NetError::Busy),
            None => {
                self.outgoing.push(frame);
                self.work.notify();
                Ok(())
            }
        }
    }

    pub(super) fn receive(&self) -> Option<Frame> {
        let was_full = !self.incoming.has_room();
        let frame = self.incoming.pop()?;
        if was_full && self.incoming.has_room() {
            self.work.notify();
        }
        Some(frame)
    }

    pub(super) async fn readable(&self) -> Result<(), NetError> {
        let look = || match self.end.get() {
            _ if !self.incoming.frames.borrow().is_empty() => Some(Ok(())),
            end => end.map(Err),
        };
        self.incoming.waiters.until(look).await
    }

    pub(super) async fn writable(&self) -> Result<(), NetError> {
        let look = || match self.end.get() {
            Some(end) => Some(Err(end)),
            None => self.has_room().then_some(Ok(())),
        };
        self.outgoing.waiters.until(look).await
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings.get()
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.get()
    }

    pub(super) async fn reconnected(&self, count: u64) -> Result<(), NetError> {
        let look = || match self.end.get() {
            _ if self.connections.get() > count => Some(Ok(())),
            end => end.map(Err),
        };
        self.connecting.until(look).await
    }

    pub(super) async fn released(&self) {
        self.released.wait().await;
    }

    pub(super) fn abandon(&self) {
        self.abandoned.set(true);
        self.work.notify();
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters.get()
    }
}

/// The ring's side.
impl Queues {
    /// Waits for something to do.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// Returns whether the handle is gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.get()
    }

    /// Whether a received frame finds room; a handle that is gone takes nothing.
    pub(super) fn takes(&self) -> bool {
        self.incoming.has_room() && !self.is_abandoned()
    }

    /// Hands a frame to who receives it.
    pub(super) fn deliver(&self, frame: Frame) {
        self.count(|counters| counters.received += 1);
        self.incoming.push(frame);
        self.incoming.waiters.wake();
    }

    /// The oldest frame to be sent stays in the queue while `send` says so.
    pub(super) fn drain(&self, mut send: impl FnMut(&Frame) -> bool) -> bool {
        let mut taken = false;
        while let Some(frame) = self.outgoing.pop() {
            if send(&frame) {
                taken = true;
                continue;
            }
            self.outgoing.bytes.set(self.outgoing.bytes.get() + frame.bytes.len());
            self.outgoing.frames.borrow_mut().push_front(frame);
            break;
        }
        if taken {
            self.outgoing.waiters.wake();
        }
        self.outgoing.frames.borrow().is_empty()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Tells everybody that the device is connected.
    pub(super) fn connected(&self, settings: Settings) {
        self.settings.set(settings);
        self.connections.set(self.connections.get() + 1);
        self.connecting.wake();
    }

    /// Tells everybody that the device is closed.
    pub(super) fn end(&self, why: NetError) {
        self.end.set(Some(why));
        self.connecting.wake();
        self.outgoing.waiters.wake();
        self.incoming.waiters.wake();
    }

    /// Tells who closes the device that it is done.
    pub(super) fn release(&self) {
        self.released.set(());
    }
}
