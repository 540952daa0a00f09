//! The console backend: a guest's output is taken off its ring at once and kept, also after its end.

use alloc::{collections::VecDeque, rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};

use oxen_abi::{domid::DomId, errno::Errno};
use oxen_domu_lib::event::Port;
use oxen_domu_lib::memory::{
    Mfn,
    map::{Access, Mapping, Words},
};
use oxen_domu_lib::sync::{Channel, Notify, Receiver, Sender};
use oxen_domu_lib::task;

use oxen_ring::{Overrun, Page, console};

/// Bytes of output that are kept for each guest.
const KEPT: usize = 128 << 10;
/// Bytes of typed input that wait for a guest at most.
const MOST_INPUT: usize = 4096;

/// What a guest has printed, and what it will be told.
#[derive(Default)]
pub struct GuestConsole {
    kept: RefCell<VecDeque<u8>>,
    /// How many bytes at the end of `kept` no `expect` has passed yet.
    unheard: Cell<usize>,
    listeners: RefCell<Vec<Sender<Vec<u8>>>>,
    input: RefCell<VecDeque<u8>>,
    wake: Notify,
    closing: Cell<bool>,
    closed: Cell<bool>,
    done: Notify,
}

impl GuestConsole {
    /// Serves a domain's ring until [`Self::close`].
    pub fn serve(self: &Rc<Self>, domain: DomId, frame: Mfn, port: u32) -> Result<(), Errno> {
        let page = Mapping::of(domain, &[frame], Access::ReadWrite)?;
        let port = Port::bind_interdomain(domain, port)?;
        self.closing.set(false);
        self.closed.set(false);
        task::spawn(self.clone().run(page, port));
        Ok(())
    }

    /// Moves what can be moved in both directions; says whether anything was.
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

    async fn run(self: Rc<Self>, page: Mapping, port: Port) {
        loop {
            match self.turn(page.page(0)) {
                Ok(true) => {
                    port.notify();
                    task::yield_now().await;
                }
                Ok(false) if self.closing.get() => break,
                Ok(false) => _ = task::select(port.wait(), self.wake.notified()).await,
                Err(_) => {
                    self.publish(b"\r\n[console closed: the guest broke its ring]\r\n");
                    break;
                }
            }
        }
        self.closed.set(true);
        self.done.notify();
    }

    /// Keeps and shows text; also the toolstack's own words about the guest.
    pub fn publish(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
        self.unheard.set((self.unheard.get() + bytes.len()).min(kept.len()));
        for listener in self.listeners.borrow().iter() {
            listener.send(bytes.to_vec());
        }
    }

    /// Takes what is left on the ring, then lets go of the guest's page.
    pub async fn close(&self) {
        self.closing.set(true);
        self.wake.notify();
        while !self.closed.get() {
            self.done.notified().await;
        }
    }

    /// All that is kept.
    pub fn history(&self) -> Vec<u8> {
        self.kept.borrow().iter().copied().collect()
    }

    /// What was printed behind what [`Self::hear`] was told of, as far as it is kept.
    pub fn unheard(&self) -> Vec<u8> {
        let kept = self.kept.borrow();
        kept.iter().skip(kept.len().saturating_sub(self.unheard.get())).copied().collect()
    }

    /// So many bytes of [`Self::unheard`] are done with.
    pub fn hear(&self, count: usize) {
        self.unheard.set(self.unheard.get().saturating_sub(count));
    }

    /// The last lines that are kept.
    pub fn last_lines(&self, count: usize) -> Vec<u8> {
        let history = self.history();
        let text = history.trim_ascii_end();
        let start = text.iter().enumerate().rev().filter(|&(_, &b)| b == b'\n').nth(count.saturating_sub(1));
        text.get(start.map_or(0, |(at, _)| at + 1)..).unwrap_or_default().to_vec()
    }

    /// What is printed from now on, also when the guest starts again.
    pub fn listen(&self) -> Receiver<Vec<u8>> {
        let (sender, receiver) = Channel::pair();
        self.listeners.borrow_mut().push(sender);
        receiver
    }

    /// Nothing will be printed any more: whoever listens goes.
    pub fn hang_up(&self) {
        self.listeners.borrow_mut().clear();
    }

    /// Types bytes at the guest's console; what does not fit is lost.
    pub fn feed(&self, bytes: &[u8]) {
        let mut input = self.input.borrow_mut();
        let room = MOST_INPUT.saturating_sub(input.len());
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
        assert_eq!(console.last_lines(2), b"two\r\nthree");
    }

    #[test]
    fn what_was_heard_is_not_told_again() {
        let console = GuestConsole::default();
        console.publish(b"login: ");
        console.hear(3);
        console.publish(b"# ");
        assert_eq!(console.unheard(), b"in: # ");
        console.publish(&[b'x'; KEPT + 1]);
        assert_eq!(console.unheard().len(), KEPT);
        console.hear(usize::MAX);
        assert_eq!(console.unheard(), b"");
    }

    #[test]
    fn few_lines_are_all_lines() {
        let console = GuestConsole::default();
        console.publish(b"only");
        assert_eq!(console.last_lines(5), b"only");
        assert_eq!(GuestConsole::default().last_lines(5), b"");
    }
}
