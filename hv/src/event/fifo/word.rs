//! One event word, in a page that the guest writes as it likes: each look is at one moment, each change atomic.

use bitflags::bitflags;
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_abi::event_channel as abi;

bitflags! {
    /// What a word says beside the port that comes next.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct EventFlags: u32 {
        /// The event is pending.
        const PENDING = 1 << abi::EVTCHN_FIFO_PENDING;
        /// The guest does not want to be told.
        const MASKED = 1 << abi::EVTCHN_FIFO_MASKED;
        /// The event is in a queue; the guest clears this as it takes it off.
        const LINKED = 1 << abi::EVTCHN_FIFO_LINKED;
        /// The hypervisor is about to link another event behind this one: the guest waits before it takes it off or
        /// unmasks it.
        const BUSY = 1 << abi::EVTCHN_FIFO_BUSY;
    }
}

/// How often the guest may change a word that is busy: it should not at all, and a second CPU of a domain that means
/// well may have begun before it saw.
const ATTEMPTS: u32 = 4;

/// An event word.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventWord(pub(super) &'static AtomicU32);

impl EventWord {
    /// Whether this flag is set.
    pub(super) fn has(self, flag: EventFlags) -> bool {
        EventFlags::from_bits_retain(self.0.load(Ordering::SeqCst)).contains(flag)
    }

    /// Sets a flag. Returns whether it was set already.
    pub(super) fn set(self, flag: EventFlags) -> bool {
        EventFlags::from_bits_retain(self.0.fetch_or(flag.bits(), Ordering::SeqCst)).contains(flag)
    }

    /// Clears a flag.
    pub(super) fn clear(self, flag: EventFlags) {
        self.0.fetch_and(!flag.bits(), Ordering::SeqCst);
    }

    /// Lets this event, the last of a queue, lead to `port`. Returns whether it was still in the queue.
    ///
    /// A guest that keeps changing the word although it is busy loses the event: nobody else does.
    pub(super) fn lead_to(self, port: u32) -> bool {
        if let Some(answer) = self.try_to_lead(port) {
            return answer;
        }
        self.set(EventFlags::BUSY);
        for _ in 0..ATTEMPTS {
            match self.try_to_lead(port) {
                Some(true) => return true,
                Some(false) => {
                    self.clear(EventFlags::BUSY);
                    return false;
                }
                None => {}
            }
        }
        self.clear(EventFlags::BUSY);
        true
    }

    fn try_to_lead(self, port: u32) -> Option<bool> {
        let seen = self.0.load(Ordering::SeqCst);
        if !EventFlags::from_bits_retain(seen).contains(EventFlags::LINKED) {
            return Some(false);
        }
        let wanted = seen & !(EventFlags::BUSY.bits() | abi::EVTCHN_FIFO_LINK_MASK) | port & abi::EVTCHN_FIFO_LINK_MASK;
        self.0.compare_exchange(seen, wanted, Ordering::SeqCst, Ordering::SeqCst).is_ok().then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENDING: u32 = EventFlags::PENDING.bits();
    const MASKED: u32 = EventFlags::MASKED.bits();
    const LINKED: u32 = EventFlags::LINKED.bits();
    const BUSY: u32 = EventFlags::BUSY.bits();

    fn word(value: u32) -> EventWord {
        EventWord(alloc::boxed::Box::leak(alloc::boxed::Box::new(AtomicU32::new(value))))
    }

    #[test]
    fn only_a_word_that_is_linked_leads_on_and_the_rest_of_it_stays() {
        for (before, after, linked) in [
            (PENDING | LINKED, PENDING | LINKED | 0x1_2345, true),
            (LINKED | BUSY | 0x1_ffff, LINKED | 0x1_2345, true),
            (LINKED | MASKED | 0x0ffe_0001, LINKED | MASKED | 0x0ffe_0000 | 0x1_2345, true),
            (PENDING | BUSY | 7, PENDING | BUSY | 7, false),
            (0, 0, false),
        ] {
            let word = word(before);
            assert_eq!(word.lead_to(0x1_2345), linked, "{before:#x}");
            assert_eq!(word.0.load(Ordering::SeqCst), after, "{before:#x}");
        }
    }

    #[test]
    fn a_guest_that_never_lets_go_of_a_word_holds_nobody_up() {
        let word = word(LINKED);
        let is_over = core::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    word.0.fetch_xor(PENDING | MASKED, Ordering::SeqCst);
                }
            });
            (1..10_000).for_each(|port| assert!(word.lead_to(port)));
            is_over.store(true, Ordering::SeqCst);
        });
        assert!(!word.has(EventFlags::BUSY));
    }
}
