//! What the hypervisor keeps of a port for the FIFO ABI, beside the port's own word.

use crate::{
    config::{MAX_PORTS, MAX_VCPUS},
    heap::{self, Reserve},
};
use alloc::boxed::Box;
use oxen_abi::{errno::Errno, event_channel as abi};

/// A queue of a domain: whose, and of which priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueId {
    /// The vcpu that it notifies.
    pub(crate) vcpu: u32,
    /// Its priority, 0 to 15.
    pub(crate) priority: u32,
}

/// A port's record: its priority in bits 0..4, the queue it was linked to last in 4..15 (vcpu, then priority), bit 15
/// if it was pending once while it had no event word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record(u16);

const PRIORITY: u16 = 0xf;
const VCPU_SHIFT: u32 = 4;
const VCPU: u16 = 0x7f;
const LAST_SHIFT: u32 = 11;
const AWAITS_WORD: u16 = 1 << 15;

const _: () = assert!(MAX_VCPUS as u16 <= VCPU + 1 && abi::EVTCHN_FIFO_MAX_QUEUES as u16 <= PRIORITY + 1);

impl Record {
    /// A port that was never linked, of the usual priority.
    pub(crate) const NEW: Self = Self(abi::EVTCHN_FIFO_PRIORITY_DEFAULT as u16);

    /// The priority of the queue that it will be linked to next.
    pub(crate) const fn priority(self) -> u32 {
        (self.0 & PRIORITY) as u32
    }

    /// The same with another priority.
    pub(crate) const fn with_priority(self, priority: u32) -> Self {
        Self(self.0 & !PRIORITY | priority as u16 & PRIORITY)
    }

    /// The queue that it was linked to last.
    pub(crate) const fn last(self) -> QueueId {
        QueueId { vcpu: ((self.0 >> VCPU_SHIFT) & VCPU) as u32, priority: ((self.0 >> LAST_SHIFT) & PRIORITY) as u32 }
    }

    /// The same, linked to this queue.
    pub(crate) const fn linked_to(self, queue: QueueId) -> Self {
        let kept = self.0 & !(VCPU << VCPU_SHIFT | PRIORITY << LAST_SHIFT);
        Self(kept | (queue.vcpu as u16 & VCPU) << VCPU_SHIFT | (queue.priority as u16 & PRIORITY) << LAST_SHIFT)
    }

    /// Whether it was pending while it had no event word.
    pub(crate) const fn awaits_word(self) -> bool {
        self.0 & AWAITS_WORD != 0
    }

    /// The same, pending without an event word.
    pub(crate) const fn awaiting_word(self) -> Self {
        Self(self.0 | AWAITS_WORD)
    }
}

/// Records of one page.
const GROUP: usize = 2048;
/// Groups of a domain.
const GROUPS: usize = MAX_PORTS / GROUP;

/// The records of a domain. They stay when it goes back to two levels, as in Xen, where a port that once was pending
/// without its word is raised again whenever its word comes.
#[derive(Debug, Default)]
pub(crate) struct Records(Option<Box<[Group; GROUPS]>>);

type Group = Option<Box<[Record; GROUP]>>;

impl Records {
    /// Makes room for the records of all ports below a number.
    ///
    /// # Errors
    /// `NoMem` when there is none.
    pub(crate) fn make_room_below(&mut self, machine: &impl Reserve, end: u32) -> Result<(), Errno> {
        (0..end).step_by(GROUP).try_for_each(|port| self.make_room(machine, port))
    }

    /// Makes room for the record of a port and for its neighbours'.
    ///
    /// # Errors
    /// `NoMem` when there is none.
    pub(crate) fn make_room(&mut self, machine: &impl Reserve, port: u32) -> Result<(), Errno> {
        let groups = match &mut self.0 {
            Some(groups) => groups,
            none => none.insert(heap::own(machine, [const { None }; GROUPS])?),
        };
        if let Some(group @ None) = groups.get_mut(port as usize / GROUP) {
            *group = Some(heap::own(machine, [Record::NEW; GROUP])?);
        }
        Ok(())
    }

    /// The record of a port; where there is no room for it, it is new.
    pub(crate) fn get(&self, port: u32) -> Record {
        let group = self.0.as_ref().and_then(|groups| groups.get(port as usize / GROUP)?.as_ref());
        group.and_then(|group| group.get(port as usize % GROUP)).copied().unwrap_or(Record::NEW)
    }

    /// Changes the record of a port, for which there is room.
    pub(crate) fn set(&mut self, port: u32, record: Record) {
        let group = self.0.as_mut().and_then(|groups| groups.get_mut(port as usize / GROUP)?.as_mut());
        if let Some(place) = group.and_then(|group| group.get_mut(port as usize % GROUP)) {
            *place = record;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_parts_apart() {
        let queue = QueueId { vcpu: 127, priority: 15 };
        let record = Record::NEW.linked_to(queue);
        assert_eq!((record.priority(), record.last(), record.awaits_word()), (7, queue, false));
        let record = record.awaiting_word().with_priority(0);
        assert_eq!((record.priority(), record.last(), record.awaits_word()), (0, queue, true));
        let queue = QueueId { vcpu: 0, priority: 1 };
        assert_eq!((record.linked_to(queue).last(), record.linked_to(queue).priority()), (queue, 0));
    }
}
