//! The console backend: a guest's output is taken off its ring at once and kept, also after its end.

use alloc::{collections::VecDeque, rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};

use oxen_abi::{domid::DomId, errno::Errno};
use oxen_domu_lib::event::Port;
use oxen_domu_lib::memory::{
    Mfn,
    map::{Access, Mapping, Words},
};
use oxen_domu_lib::sync::{Latch, Notify};
use oxen_domu_lib::task;

use crate::purse::{Charge, Purse};
use oxen_ring::{Overrun, Page, console};

/// Bytes of output that are kept for each guest.
const KEPT: usize = 128 << 10;
/// Bytes that room for output grows by.
const KEPT_STEP: usize = 16 << 10;
/// Bytes of typed input that wait for a guest at most.
const MAX_INPUT: usize = 4096;
/// Bytes of heap that a console takes at most: output, input that grows by doubling, the allocator's words.
const HEAP: usize = KEPT + 2 * MAX_INPUT + 128;
/// Bytes of output that a listener gets at a time.
const PIECE: usize = 2048;

/// What a guest has printed, and what it will be told.
#[derive(Default)]
pub struct GuestConsole {
    kept: RefCell<VecDeque<u8>>,
    /// How many bytes at the end of `kept` no `expect` has passed yet.
    unread: Cell<usize>,
    /// How many bytes have ever been printed.
    printed: Cell<u64>,
    listeners: RefCell<Vec<Rc<Notify>>>,
    /// Nothing will be printed any more.
    is_finished: Cell<bool>,
    /// What the guest pays for all this.
    charge: RefCell<Option<Charge>>,
    input: RefCell<VecDeque<u8>>,
    /// There is input, or the task that serves the ring is to end.
    wake: Notify,
    serving: RefCell<Option<Rc<Serving>>>,
}

/// The task that serves a domain's ring: the wish that it ends, and the news that it has.
#[derive(Default)]
struct Serving {
    stop: Cell<bool>,
    stopped: Latch<()>,
}

/// Who follows what a guest prints. It keeps nothing of its own: it knows how far it has read what is kept.
pub struct Listener {
    console: Rc<GuestConsole>,
    wake: Rc<Notify>,
    /// How many bytes had ever been printed where it has read to.
    position: Cell<u64>,
}

impl Listener {
    /// The next bytes if there are any; those that are not kept any more are lost.
    pub fn try_receive(&self) -> Option<Vec<u8>> {
        let kept = self.console.kept.borrow();
        let behind = self.console.printed.get().saturating_sub(self.position.get());
        let behind = usize::try_from(behind).map_or(kept.len(), |behind| behind.min(kept.len()));
        let piece: Vec<u8> = kept.iter().skip(kept.len() - behind).take(PIECE).copied().collect();
        self.position.set(self.console.printed.get() - (behind - piece.len()) as u64);
        (!piece.is_empty()).then_some(piece)
    }

    /// Waits for the next bytes; `None` when nothing will be printed any more.
    pub async fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let piece = self.try_receive();
            if piece.is_some() || self.console.is_finished.get() {
                return piece;
            }
            self.wake.notified().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.console.listeners.borrow_mut().retain(|wake| !Rc::ptr_eq(wake, &self.wake));
    }
}

impl GuestConsole {
    /// Serves a domain's ring until [`Self::close`]; the domain's purse pays for what is kept.
    ///
    /// # Errors
    /// `ENOMEM` if it cannot, or what the hypervisor says of the ring's frame or port.
    pub fn serve(self: &Rc<Self>, domain: DomId, frame: Mfn, port: u32, purse: &Purse) -> Result<(), Errno> {
        let charge = purse.heap.charge(HEAP).map_err(|_| Errno::NoMem)?;
        self.charge.replace(Some(charge));
        let page = Mapping::of(domain, &[frame], Access::ReadWrite)?;
        let port = Port::bind_interdomain(domain, port)?;
        let serving = Rc::new(Serving::default());
        self.serving.replace(Some(serving.clone()));
        task::spawn_for(domain.0, self.clone().run(page, port, serving));
        Ok(())
    }

    /// Moves what can be moved in both directions; returns whether anything was.
    fn turn(&self, page: &Page) -> Result<bool, Overrun> {
        let mut ends = console::backend(page);
        let mut output = [0; 2048];
        let taken = ends.reader.read(&mut output)?;
        self.publish(output.get(..taken).unwrap_or_default());
        let mut input = self.input.borrow_mut();
        let put = ends.writer.write(input.make_contiguous())?;
        input.drain(..put);
        Ok(taken + put != 0)
    }

    async fn run(self: Rc<Self>, page: Mapping, port: Port, serving: Rc<Serving>) {
        loop {
            match self.turn(page.page(0)) {
                Ok(true) => {
                    port.notify();
                    task::yield_now().await;
                }
                Ok(false) if serving.stop.get() => break,
                Ok(false) => _ = task::select(port.wait(), self.wake.notified()).await,
                Err(_) => {
                    self.publish(b"\r\n[console closed: the guest broke its ring]\r\n");
                    break;
                }
            }
        }
        serving.stopped.set(());
    }

    /// Keeps and shows text; also the toolstack's own words about the guest.
    pub fn publish(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        let wanted = (kept.len() + bytes.len()).next_multiple_of(KEPT_STEP).min(KEPT);
        let more = wanted.saturating_sub(kept.len());
        // Where there is no memory for more, what is there is used again.
        let _ = kept.try_reserve_exact(more);
        let room = kept.capacity().min(KEPT);
        let tail = bytes.get(bytes.len().saturating_sub(room)..).unwrap_or_default();
        let excess = (kept.len() + tail.len()).saturating_sub(room);
        kept.drain(..excess);
        kept.extend(tail);
        self.printed.set(self.printed.get() + bytes.len() as u64);
        self.unread.set((self.unread.get() + bytes.len()).min(kept.len()));
        self.listeners.borrow().iter().for_each(|wake| wake.notify());
    }

    /// Takes what is left on the ring, then lets go of the guest's page.
    pub async fn close(&self) {
        let serving = self.serving.borrow().clone();
        if let Some(serving) = serving {
            serving.stop.set(true);
            self.wake.notify();
            serving.stopped.wait().await;
        }
    }

    /// All that is kept.
    pub fn history(&self) -> Vec<u8> {
        self.kept.borrow().iter().copied().collect()
    }

    /// What was printed behind what [`Self::mark_read`] was told of, as far as it is kept.
    pub fn unread(&self) -> Vec<u8> {
        let kept = self.kept.borrow();
        kept.iter().skip(kept.len().saturating_sub(self.unread.get())).copied().collect()
    }

    /// So many bytes of [`Self::unread`] are done with.
    pub fn mark_read(&self, count: usize) {
        self.unread.set(self.unread.get().saturating_sub(count));
    }

    /// What is printed from now on, also when the guest starts again.
    pub fn listen(self: &Rc<Self>) -> Listener {
        let wake = Rc::new(Notify::new());
        self.listeners.borrow_mut().push(wake.clone());
        Listener { console: self.clone(), wake, position: Cell::new(self.printed.get()) }
    }

    /// Nothing will be printed any more: listeners get what is kept and then the end.
    pub fn close_listeners(&self) {
        self.is_finished.set(true);
        self.listeners.borrow().iter().for_each(|wake| wake.notify());
    }

    /// Types bytes at the guest's console; what does not fit is lost.
    pub fn feed(&self, bytes: &[u8]) {
        let mut input = self.input.borrow_mut();
        let room = MAX_INPUT.saturating_sub(input.len());
        input.extend(bytes.iter().take(room));
        self.wake.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_up_to_a_limit() {
        let console = GuestConsole::default();
        (0..3).for_each(|_| console.publish(&[b'x'; KEPT / 2]));
        console.publish(b"one\r\ntwo\r\nthree\r\n");
        assert_eq!(console.history().len(), KEPT);
        assert!(console.history().ends_with(b"xone\r\ntwo\r\nthree\r\n"));
    }

    #[test]
    fn what_is_kept_never_takes_more_than_is_paid_for() {
        let console = GuestConsole::default();
        for length in [1, 2047, 2048, 3, KEPT_STEP, 5, KEPT, 7, 2 * KEPT, 1] {
            console.publish(&vec![b'x'; length]);
            assert!(console.kept.borrow().capacity() <= KEPT);
        }
        assert_eq!(console.history().len(), KEPT);
    }

    #[test]
    fn listeners_hear_everything_that_is_kept_and_the_end() {
        task::run(async {
            let console = Rc::new(GuestConsole::default());
            console.publish(b"before");
            let (first, second) = (console.listen(), console.listen());
            assert_eq!(first.try_receive(), None);
            console.publish(b"one");
            assert_eq!(first.receive().await.as_deref(), Some(b"one".as_slice()));
            console.publish(&[b'y'; 3000]);
            let all: Vec<usize> = core::iter::from_fn(|| second.try_receive()).map(|piece| piece.len()).collect();
            assert_eq!(all, [2048, 955]);
            console.publish(&[b'z'; 2 * KEPT]);
            let all = core::iter::from_fn(|| first.try_receive()).map(|piece| piece.len()).sum::<usize>();
            assert_eq!(all, KEPT, "a listener that was slow hears what is kept");
            let waiting = task::spawn(async move { first.receive().await });
            task::yield_now().await;
            console.close_listeners();
            assert_eq!(waiting.await, None);
            drop(second);
            assert!(console.listeners.borrow().is_empty());
        });
    }

    /// A guest that cannot be connected is taken apart before its console was ever served.
    #[test]
    fn a_console_that_serves_no_ring_closes_at_once() {
        task::run(async {
            let console = GuestConsole::default();
            assert_eq!(task::select(console.close(), task::yield_now()).await, task::Either::First(()));
        });
    }

    #[test]
    fn what_was_heard_is_not_told_again() {
        let console = GuestConsole::default();
        console.publish(b"login: ");
        console.mark_read(3);
        console.publish(b"# ");
        assert_eq!(console.unread(), b"in: # ");
        console.publish(&[b'x'; KEPT + 1]);
        assert_eq!(console.unread().len(), KEPT);
        console.mark_read(usize::MAX);
        assert_eq!(console.unread(), b"");
    }
}
