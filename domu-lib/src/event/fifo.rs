//! The FIFO ABI: for each priority a queue of ports, linked by event words in pages that the guest gives the
//! hypervisor.
//!
//! The hypervisor puts ports on at a queue's end and says in the control block which queues were empty before; the
//! guest takes them off at the head. A port in no queue has no link; one that is masked is pending without being in a
//! queue.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use oxen_abi::event_channel::{
    EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_PENDING,
    EvtchnFifoControlBlock,
};

/// Event words of a page.
pub(super) const WORDS: usize = 1024;
const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
/// Where in the control block the heads of the queues are, in words.
const HEADS: usize = core::mem::offset_of!(EvtchnFifoControlBlock, head) / 4;

type SharedPage = &'static [AtomicU32; WORDS];

/// The queues of the vcpu that runs the guest.
#[derive(Debug)]
pub(super) struct Fifo {
    control: SharedPage,
    words: Vec<SharedPage>,
    /// Where each queue goes on; 0: where the control block says.
    heads: [u32; EVTCHN_FIFO_MAX_QUEUES],
}

impl Fifo {
    /// Queues with this control block, without event words.
    pub(super) const fn new(control: SharedPage) -> Self {
        Self { control, words: Vec::new(), heads: [0; EVTCHN_FIFO_MAX_QUEUES] }
    }

    /// Masks the ports of a page of event words that the hypervisor does not have yet.
    pub(super) fn mask_all(page: SharedPage) {
        page.iter().for_each(|word| word.store(MASKED, Ordering::Relaxed));
    }

    /// The hypervisor has one more page of event words.
    pub(super) fn add(&mut self, page: SharedPage) {
        self.words.push(page);
    }

    /// Whether a port has an event word.
    pub(super) const fn has_word(&self, port: u32) -> bool {
        (port as usize) < self.words.len() * WORDS
    }

    fn word(&self, port: u32) -> Option<&'static AtomicU32> {
        self.words.get(port as usize / WORDS)?.get(port as usize % WORDS)
    }

    /// Whether a port is pending, and whether it is masked.
    pub(super) fn bits(&self, port: u32) -> (bool, bool) {
        let word = self.word(port).map_or(MASKED, |word| word.load(Ordering::SeqCst));
        (word & PENDING != 0, word & MASKED != 0)
    }

    pub(super) fn mask(&self, port: u32) {
        if let Some(word) = self.word(port) {
            word.fetch_or(MASKED, Ordering::SeqCst);
        }
    }

    /// Unmasks a port. Returns whether it is pending: then the hypervisor is to be asked to queue it.
    pub(super) fn unmask(&self, port: u32) -> bool {
        self.word(port).is_some_and(|word| word.fetch_and(!MASKED, Ordering::SeqCst) & PENDING != 0)
    }

    /// Forgets that a port is pending.
    pub(super) fn clear(&self, port: u32) {
        if let Some(word) = self.word(port) {
            word.fetch_and(!PENDING, Ordering::SeqCst);
        }
    }

    /// Takes everything off the queues, the most urgent first, and passes on each port that is pending and not masked.
    pub(super) fn take(&mut self, mut fire: impl FnMut(u32)) {
        let [said, ..] = self.control;
        let mut ready = said.swap(0, Ordering::SeqCst);
        while ready != 0 {
            let queue = ready.trailing_zeros() as usize % EVTCHN_FIFO_MAX_QUEUES;
            if !self.take_one(queue, &mut fire) {
                ready &= ready - 1;
            }
            // Something more urgent may have come meanwhile.
            ready |= said.swap(0, Ordering::SeqCst);
        }
    }

    /// Takes the first port off a queue. Returns whether there is another behind it.
    fn take_one(&mut self, queue: usize, fire: &mut impl FnMut(u32)) -> bool {
        let Some(head) = self.heads.get_mut(queue) else { return false };
        let first = self.control.get(HEADS + queue).map_or(0, |head| head.load(Ordering::SeqCst));
        let port = if *head == 0 { first } else { *head };
        let word = self.words.get(port as usize / WORDS).and_then(|page| page.get(port as usize % WORDS));
        let Some(word) = word.filter(|_| port != 0) else {
            *head = 0;
            return false;
        };
        // The end of the queue, unless the hypervisor has linked another port behind this one by now.
        *head = word.fetch_and(!(LINKED | EVTCHN_FIFO_LINK_MASK), Ordering::SeqCst) & EVTCHN_FIFO_LINK_MASK;
        let goes_on = *head != 0;
        if word.load(Ordering::SeqCst) & MASKED == 0 && word.fetch_and(!PENDING, Ordering::SeqCst) & PENDING != 0 {
            fire(port);
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::boxed::Box;
    use std::collections::HashSet;

    fn page() -> SharedPage {
        Box::leak(Box::new([const { AtomicU32::new(0) }; WORDS]))
    }

    /// What the hypervisor does, as `event_channel.h` has it: the last port of each queue.
    struct Hypervisor {
        tails: [u32; EVTCHN_FIFO_MAX_QUEUES],
    }

    impl Hypervisor {
        fn raise(&mut self, fifo: &Fifo, port: u32, queue: usize) {
            let word = fifo.word(port).unwrap();
            let old = word.fetch_or(PENDING, Ordering::SeqCst);
            if old & (MASKED | LINKED) != 0 {
                return;
            }
            word.fetch_or(LINKED, Ordering::SeqCst);
            self.tails.iter_mut().filter(|tail| **tail == port).for_each(|tail| *tail = 0);
            let tail = core::mem::replace(&mut self.tails[queue], port);
            if let Some(last) = fifo.word(tail).filter(|_| tail != 0)
                && last.load(Ordering::SeqCst) & LINKED != 0
            {
                last.fetch_or(port, Ordering::SeqCst);
                return;
            }
            fifo.control[HEADS + queue].store(port, Ordering::SeqCst);
            fifo.control[0].fetch_or(1 << queue, Ordering::SeqCst);
        }
    }

    fn fifo(pages: usize) -> Fifo {
        let mut fifo = Fifo::new(page());
        (0..pages).for_each(|_| fifo.add(page()));
        fifo
    }

    fn taken(fifo: &mut Fifo) -> Vec<u32> {
        let mut ports = Vec::new();
        fifo.take(|port| ports.push(port));
        ports
    }

    #[test]
    fn the_most_urgent_come_first_and_each_queue_in_order() {
        let mut fifo = fifo(2);
        let mut hypervisor = Hypervisor { tails: [0; EVTCHN_FIFO_MAX_QUEUES] };
        for (port, queue) in [(5, 7), (1500, 7), (9, 15), (6, 7), (2, 0), (5, 7)] {
            hypervisor.raise(&fifo, port, queue);
        }
        assert_eq!(taken(&mut fifo), [2, 5, 1500, 6, 9]);
        assert_eq!(taken(&mut fifo), []);
        hypervisor.raise(&fifo, 5, 7);
        assert_eq!(taken(&mut fifo), [5], "again");
        fifo.mask(5);
        hypervisor.raise(&fifo, 5, 7);
        assert_eq!((taken(&mut fifo), fifo.bits(5)), (Vec::new(), (true, true)));
        assert!(fifo.unmask(5), "it waits to be queued");
        hypervisor.raise(&fifo, 5, 7);
        fifo.clear(5);
        assert_eq!(taken(&mut fifo), [], "whose event is gone is taken off silently");
        assert!(!fifo.has_word(2048) && fifo.has_word(2047));
        assert_eq!(fifo.bits(2048), (false, true));
    }

    #[test]
    fn rubbish_in_the_shared_pages_ends() {
        let mut fifo = fifo(1);
        for head in [0, 1023, 1024, u32::MAX] {
            fifo.control[HEADS + 3].store(head, Ordering::SeqCst);
            fifo.control[0].store(u32::MAX, Ordering::SeqCst);
            fifo.words[0].iter().for_each(|word| word.store(!MASKED, Ordering::SeqCst));
            taken(&mut fifo);
        }
    }

    proptest! {
        #[test]
        fn no_event_is_lost_and_none_is_made_up(
            steps in proptest::collection::vec((0..4_u8, 1..40_u32, 0..16_usize), 1..300)
        ) {
            let mut fifo = fifo(1);
            let mut hypervisor = Hypervisor { tails: [0; EVTCHN_FIFO_MAX_QUEUES] };
            let (mut due, mut masked) = (HashSet::new(), HashSet::new());
            for (step, port, queue) in steps {
                match step {
                    0 | 1 => {
                        hypervisor.raise(&fifo, port, queue);
                        due.insert(port);
                    }
                    2 if masked.insert(port) => fifo.mask(port),
                    2 => {
                        masked.remove(&port);
                        if fifo.unmask(port) {
                            hypervisor.raise(&fifo, port, queue);
                        }
                    }
                    _ => {
                        let ports = taken(&mut fifo);
                        let expected: HashSet<u32> = due.difference(&masked).copied().collect();
                        prop_assert_eq!(ports.len(), expected.len(), "each once");
                        prop_assert_eq!(ports.into_iter().collect::<HashSet<_>>(), expected);
                        due.retain(|port| masked.contains(port));
                    }
                }
            }
        }
    }
}
