//! The FIFO ABI: for each vcpu sixteen queues of events, one for each priority, in memory of the guest's.
//!
//! Each port has an *event word* in an array of up to 128 pages, with flags and a *link* to the next port of its queue.
//! Each vcpu has a *control block* with the first port of each queue, and a bit for each queue that was empty before.
//! The guest takes ports off at the head and the hypervisor puts them on at the tail, so of a queue the hypervisor
//! keeps nothing but the port that it put on last. What the guest writes is never followed: the only link that is read
//! is the one overwritten, and a tail whose word says it is not linked any more is the end of a queue that the guest
//! has emptied. A guest that writes rubbish loses events of its own, and nobody else's.
//!
//! All of it is changed under the lock of the domain's events, which guards the frames as well: they are given back
//! under it, so who has it and sees a page may write to it.

pub(crate) mod record;
mod word;

use crate::{
    addr::PAGE_BYTES,
    config::MAX_PORTS,
    heap::{self, Reserve},
    mem::{Hold, Ram, RamFrame, frame_table::FrameTable},
};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};
use heapless::Vec;
use oxen_abi::{
    errno::Errno,
    event_channel::{EVTCHN_FIFO_MAX_QUEUES, EvtchnFifoControlBlock},
};
use record::{QueueId, Record, Records};
use word::{EventFlags, EventWord};

/// Event words of a page.
const WORDS: usize = PAGE_BYTES / 4;
/// Pages of event words at most.
const MAX_PAGES: usize = MAX_PORTS / WORDS;

/// The words of a frame of the guest's that is held writable.
#[derive(Clone, Copy, Debug)]
struct SharedFrame {
    frame: RamFrame,
    words: &'static [AtomicU32; WORDS],
}

/// A vcpu's control block.
#[derive(Clone, Copy, Debug)]
struct ControlBlock {
    frame: RamFrame,
    ready: &'static AtomicU32,
    heads: &'static [AtomicU32; EVTCHN_FIFO_MAX_QUEUES],
}

/// A vcpu's queues.
#[derive(Debug)]
struct Queues {
    control: Option<ControlBlock>,
    /// Of each the port that was put on last, 0 if none was since the queue was last known to be empty.
    tails: [u32; EVTCHN_FIFO_MAX_QUEUES],
}

/// A domain's queues.
#[derive(Debug)]
pub(crate) struct Fifo {
    /// Those of each vcpu that the domain may have.
    vcpus: Box<[Queues]>,
    /// The pages of event words, as far as the guest gave them.
    pages: Vec<SharedFrame, MAX_PAGES>,
}

/// What a raised event asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raised {
    /// Whether the event is new, so that who polls the port is to be told.
    pub(crate) is_new: bool,
    /// Whether a queue of the vcpu became ready, so that the vcpu is to be told.
    pub(crate) is_ready: bool,
}

impl Raised {
    const NOTHING: Self = Self { is_new: false, is_ready: false };
}

/// Whether a control block fits into a page there, aligned to eight bytes.
pub(crate) const fn control_fits(offset: u32) -> bool {
    offset as usize <= PAGE_BYTES - size_of::<EvtchnFifoControlBlock>() && offset.is_multiple_of(8)
}

impl Fifo {
    /// Queues without memory of the guest's, for so many vcpus.
    ///
    /// # Errors
    /// `NoMem` for what the hypervisor keeps of them.
    pub(crate) fn new(machine: &impl Reserve, vcpus: usize) -> Result<Self, Errno> {
        let empty = |_| Queues { control: None, tails: [0; EVTCHN_FIFO_MAX_QUEUES] };
        Ok(Self { vcpus: heap::row(machine, vcpus, empty)?, pages: Vec::new() })
    }

    /// Gives a vcpu its control block, `offset` bytes into a frame that the caller holds writable.
    ///
    /// # Errors
    /// `Inval` if it has one or if the block does not fit: the frame stays the caller's.
    pub(crate) fn set_control(
        &mut self,
        memory: &impl Ram,
        vcpu: u32,
        frame: RamFrame,
        offset: u32,
    ) -> Result<(), Errno> {
        const HEADS: usize = core::mem::offset_of!(EvtchnFifoControlBlock, head) / 4;
        let place = &mut self.vcpus.get_mut(vcpu as usize).ok_or(Errno::Inval)?.control;
        if place.is_some() {
            return Err(Errno::Inval);
        }
        let block =
            memory.halves(frame).get(offset as usize / 4..).filter(|_| control_fits(offset)).ok_or(Errno::Inval)?;
        let ready = block.first().ok_or(Errno::Inval)?;
        let heads = block.get(HEADS..).and_then(<[_]>::first_chunk).ok_or(Errno::Inval)?;
        *place = Some(ControlBlock { frame, ready, heads });
        Ok(())
    }

    /// Appends a page of event words, which the caller holds writable. Returns the first of the ports that got a word.
    ///
    /// # Errors
    /// `NoSpc` if every port has one: the frame stays the caller's.
    pub(crate) fn add_page(&mut self, memory: &impl Ram, frame: RamFrame) -> Result<u32, Errno> {
        let first = self.words_end();
        self.pages.push(SharedFrame { frame, words: memory.halves(frame) }).map_err(|_| Errno::NoSpc)?;
        Ok(first)
    }

    /// Whether every port has its event word.
    pub(crate) fn is_full(&self) -> bool {
        self.pages.is_full()
    }

    /// The ports that have event words: those below this number.
    pub(crate) fn words_end(&self) -> u32 {
        (self.pages.len() * WORDS) as u32
    }

    fn word(&self, port: u32) -> Option<EventWord> {
        let page = self.pages.get(port as usize / WORDS)?;
        page.words.get(port as usize % WORDS).map(EventWord)
    }

    fn tail(&mut self, queue: QueueId) -> Option<&mut u32> {
        self.vcpus.get_mut(queue.vcpu as usize)?.tails.get_mut(queue.priority as usize)
    }

    /// Raises an event for a vcpu: pending, and linked to the vcpu's queue of the port's priority
    /// unless it is masked or in a queue.
    pub(crate) fn raise(&mut self, records: &mut Records, port: u32, vcpu: u32) -> Raised {
        let record = records.get(port);
        let Some(word) = self.word(port) else {
            records.set(port, record.awaiting_word());
            return Raised::NOTHING;
        };
        // Without a control block the vcpu takes no events yet, and this one is lost.
        let Some(control) = self.vcpus.get(vcpu as usize).and_then(|queues| queues.control) else {
            return Raised::NOTHING;
        };
        let is_new = !word.set(EventFlags::PENDING);
        if word.has(EventFlags::MASKED) || word.set(EventFlags::LINKED) {
            return Raised { is_new, is_ready: false };
        }
        let queue = QueueId { vcpu, priority: record.priority() };
        // It has just been marked as linked. Where it was the last of a queue, the guest has emptied that, and nothing
        // may be linked behind it there.
        if let Some(tail) = self.tail(record.last()).filter(|tail| **tail == port) {
            *tail = 0;
        }
        records.set(port, record.linked_to(queue));
        let tail = self.tail(queue).map_or(0, |tail| core::mem::replace(tail, port));
        if tail != 0 && self.word(tail).is_some_and(|word| word.lead_to(port)) {
            return Raised { is_new, is_ready: false };
        }
        if let Some(head) = control.heads.get(queue.priority as usize) {
            head.store(port, Ordering::SeqCst);
        }
        let bit = 1 << queue.priority;
        Raised { is_new, is_ready: control.ready.fetch_or(bit, Ordering::SeqCst) & bit == 0 }
    }

    /// Unmasks a port. Returns whether it is pending, and so is to be raised again.
    pub(crate) fn unmask(&self, port: u32) -> bool {
        self.word(port).is_some_and(|word| {
            word.clear(EventFlags::MASKED);
            word.has(EventFlags::PENDING)
        })
    }

    /// Whether a port is pending, and whether it is masked, as it is without a word.
    pub(crate) fn bits(&self, port: u32) -> (bool, bool) {
        self.word(port).map_or((false, true), |word| (word.has(EventFlags::PENDING), word.has(EventFlags::MASKED)))
    }

    /// Whether a port is in a queue: then it cannot be given out anew.
    pub(crate) fn is_linked(&self, port: u32) -> bool {
        self.word(port).is_some_and(|word| word.has(EventFlags::LINKED))
    }

    /// Forgets an event. Where it is linked, the guest finds it and sees that it is not pending.
    pub(crate) fn clear_pending(&self, port: u32) {
        if let Some(word) = self.word(port) {
            word.clear(EventFlags::PENDING);
        }
    }

    /// Gives back every frame of the guest's.
    pub(crate) fn release(&self, frames: &FrameTable) {
        self.each_frame().for_each(|frame| frames.put_entry(frame.mfn(), Hold::Writable));
    }

    /// The frames that are held writable, each as often as it is held.
    pub(crate) fn each_frame(&self) -> impl Iterator<Item = RamFrame> {
        let controls = self.vcpus.iter().filter_map(|queues| queues.control.map(|control| control.frame));
        controls.chain(self.pages.iter().map(|page| page.frame))
    }

    /// Checks that the last port of every queue is one that was linked there.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn audit(&self, records: &Records) -> Result<(), &'static str> {
        for (vcpu, Queues { control, tails }) in (0..).zip(&self.vcpus) {
            for (priority, &tail) in (0..).zip(tails).filter(|(_, tail)| **tail != 0) {
                if control.is_none() || tail >= self.words_end() {
                    return Err("a queue ends in a port that was never linked");
                }
                if records.get(tail).last() != (QueueId { vcpu, priority }) {
                    return Err("a queue ends in a port that went elsewhere");
                }
            }
        }
        Ok(())
    }
}

impl Records {
    /// A port gets the usual priority, as it is opened or as its domain begins with the FIFO ABI.
    pub(crate) fn renew(&mut self, port: u32) {
        self.set(port, self.get(port).with_priority(Record::NEW.priority()));
    }

    /// A port was pending when its domain began with the FIFO ABI.
    pub(crate) fn await_word(&mut self, port: u32) {
        self.set(port, self.get(port).awaiting_word());
    }

    /// Whether a port is to be raised when it gets its event word.
    pub(crate) fn awaits_word(&self, port: u32) -> bool {
        self.get(port).awaits_word()
    }

    /// Gives a port a priority, which counts when it is next linked.
    pub(crate) fn set_priority(&mut self, port: u32, priority: u32) {
        self.set(port, self.get(port).with_priority(priority));
    }
}
