//! Changing a table's version (`GNTTABOP_set_version`).

use super::{
    entry::Shared,
    table::{MAX_STATUS_FRAMES, Table},
};
use crate::mem::{Hardware, Memory, Ram, RamFrame, frame_type::Owner};
use core::sync::atomic::Ordering;
use heapless::Vec;
use oxen_abi::{
    errno::Errno,
    grant_table::{GNTTAB_NR_RESERVED_ENTRIES, GTF_INVALID, GrantFlags},
};

/// The greatest version that there is.
pub const MAX_VERSION: u32 = 2;
/// The entries that outlive a change of the version, and may be in use meanwhile.
const RESERVED: usize = GNTTAB_NR_RESERVED_ENTRIES as usize;
/// Flags and domain, which both versions have in the lower half of the first word.
const PREFIX: u64 = u32::MAX as u64;

impl Table {
    #[inline(never)]
    pub(crate) fn become_v2(&mut self, memory: &Memory<impl Hardware>, owner: Owner) -> Result<(), Errno> {
        self.grow(memory, owner, 1)?;
        let status = self.make_status(memory, owner)?;
        let kept = self.reserved_v1(&memory.machine);
        self.begin(&memory.machine, Some(status));
        for (reference, old) in (0..).zip(kept) {
            let Some(entry) = self.entry_v2(&memory.machine, reference) else { continue };
            let marks = GrantFlags::IN_USE;
            entry.body.store(old.0 >> 32, Ordering::Relaxed);
            entry.set_status(old.flags().intersection(marks));
            entry.head.store(old.0 & PREFIX & !u64::from(marks.bits()), Ordering::Release);
        }
        Ok(())
    }

    #[inline(never)]
    pub(crate) fn become_v1(&mut self, memory: &Memory<impl Hardware>, owner: Owner) -> Result<(), Errno> {
        let kept = self.reserved_v2(&memory.machine)?;
        memory.recall_shared(owner, self.status_frames())?;
        self.begin(&memory.machine, None);
        if let Some(&frame) = self.frames.first() {
            for (word, old) in memory.machine.words(frame).iter().zip(kept) {
                word.store(old.0, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Empties the entries, which are of another version from here on.
    #[inline(never)]
    fn begin(&mut self, memory: &impl Ram, status: Option<Vec<RamFrame, MAX_STATUS_FRAMES>>) {
        for &frame in &self.frames {
            memory.clear(frame);
        }
        self.status = status;
        self.count_v1_entries();
    }

    /// The reserved entries, each read once.
    fn reserved_v1(&self, memory: &impl Ram) -> [Shared; RESERVED] {
        let mut kept = [Shared(0); RESERVED];
        if let Some(&frame) = self.frames.first() {
            for (kept, word) in kept.iter_mut().zip(memory.words(frame)) {
                *kept = Shared(word.load(Ordering::Acquire));
            }
        }
        kept
    }

    /// The reserved entries as they are in version 1, marks included. Of those that offer nothing, nothing is left.
    #[inline(never)]
    fn reserved_v2(&self, memory: &impl Ram) -> Result<[Shared; RESERVED], Errno> {
        let mut kept = [Shared(GTF_INVALID as u64); RESERVED];
        for (reference, kept) in (0..).zip(&mut kept) {
            let Some(entry) = self.entry_v2(memory, reference) else { continue };
            let head = Shared(entry.head.load(Ordering::Acquire));
            let body = entry.body.load(Ordering::Acquire);
            match head.flags().intersection(GrantFlags::TYPE) {
                GrantFlags::PERMIT_ACCESS if body >> 32 == 0 => {
                    *kept = Shared(head.0 & PREFIX | body << 32).with(entry.status());
                }
                GrantFlags::PERMIT_ACCESS | GrantFlags::TRANSITIVE => return Err(Errno::Range),
                _ => {}
            }
        }
        Ok(kept)
    }
}
