//! Changing a table's version (`GNTTABOP_set_version`).

use super::{
    entry::Shared,
    table::{MAX_STATUS_FRAMES, Table},
};
use crate::{Hypervisor, addr::Mfn, domain::Domain, machine::Machine, mem::Ram};
use core::sync::atomic::Ordering;
use heapless::Vec;
use oxen_abi::{
    errno::Errno,
    grant_table::{
        GNTTAB_NR_RESERVED_ENTRIES, GTF_INVALID, GTF_PERMIT_ACCESS, GTF_READING, GTF_TRANSITIVE, GTF_TYPE_MASK,
        GTF_WRITING,
    },
};

/// The greatest version that there is.
pub const MAX_VERSION: u32 = 2;
/// The entries that outlive a change of the version, and may be in use meanwhile.
const RESERVED: usize = GNTTAB_NR_RESERVED_ENTRIES as usize;
/// Flags and domain, which both versions have in the lower half of the first word.
const PREFIX: u64 = u32::MAX as u64;

/// Makes a domain's table one of this version: empty, but for the reserved entries. Answers which version is in force now,
/// changed or not.
///
/// # Errors
/// `Inval` for a version that there is not, `NoSys` for one that the domain may not have, `Busy` while an entry which is not
/// reserved, or a status frame, is in use, `Range` for reserved entries that version 1 cannot hold, `NoMem` for the status
/// frames. Nothing has changed then.
#[cold]
#[inline(never)]
pub fn set_version<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, wanted: u32) -> (Result<(), Errno>, u32) {
    let mut grants = domain.grants.lock();
    let table = &mut grants.table;
    let outcome = match wanted {
        0 | 3.. => Err(Errno::Inval),
        2 if table.max_version < 2 => Err(Errno::NoSys),
        _ if wanted == table.version() => Ok(()),
        _ if table.is_closed() => Err(Errno::Inval),
        _ if table.pinned(GNTTAB_NR_RESERVED_ENTRIES..u32::MAX).next().is_some() => Err(Errno::Busy),
        1 => table.become_v1(hv, domain),
        _ => table.become_v2(hv, domain),
    };
    (outcome, table.version())
}

impl Table {
    #[inline(never)]
    fn become_v2<M: Machine>(&mut self, hv: &Hypervisor<M>, domain: &Domain) -> Result<(), Errno> {
        self.grow(hv, domain, 1)?;
        let status = self.make_status(hv, domain)?;
        let kept = self.reserved_v1(hv.machine());
        self.begin(hv.machine(), Some(status));
        for (reference, old) in (0..).zip(kept) {
            let Some(entry) = self.entry_v2(hv.machine(), reference) else { continue };
            let marks = GTF_READING | GTF_WRITING;
            entry.body.store(old.0 >> 32, Ordering::Relaxed);
            entry.set_status(old.flags() & marks);
            entry.head.store(old.0 & PREFIX & !u64::from(marks), Ordering::Release);
        }
        Ok(())
    }

    #[inline(never)]
    fn become_v1<M: Machine>(&mut self, hv: &Hypervisor<M>, domain: &Domain) -> Result<(), Errno> {
        let kept = self.reserved_v2(hv.machine())?;
        hv.memory.recall_shared(domain.owner, self.status_frames())?;
        self.begin(hv.machine(), None);
        if let Some(&frame) = self.frames.first() {
            for (word, old) in hv.machine().words(frame).iter().zip(kept) {
                word.store(old.0, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Empties the entries, which are of another version from here on.
    #[inline(never)]
    fn begin(&mut self, memory: &impl Ram, status: Option<Vec<Mfn, MAX_STATUS_FRAMES>>) {
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
            match head.flags() & GTF_TYPE_MASK {
                GTF_PERMIT_ACCESS if body >> 32 == 0 => {
                    *kept = Shared(head.0 & PREFIX | body << 32).with(entry.status());
                }
                GTF_PERMIT_ACCESS | GTF_TRANSITIVE => return Err(Errno::Range),
                _ => {}
            }
        }
        Ok(kept)
    }
}
