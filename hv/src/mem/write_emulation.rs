//! Plain writes of a guest's kernel to what it may only read: they fault. Those to its L1 tables are done here under
//! the same laws as a hypercall's, and the control domain's to devices as far as [`crate::pci`] lets them.

use super::{Hardware, PagingDomain, RamFrame, edit::Place, editor::Editor, entry::Entry};
use crate::{
    addr::{GuestAddr, Mfn, Slot},
    mem::Memory,
    reply::Stop,
};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_abi::{errno::Errno, vm_assist::Assists};

/// What the faulting instruction wanted to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// This value: `mov`.
    Store(u64),
    /// This value. What was there before is answered, atomically: `xchg`.
    Exchange(u64),
    /// This value, if there is still what the instruction has read: read-modify-write and `cmpxchg`.
    CompareExchange {
        /// What must be there.
        expected: u64,
        /// What then shall be there.
        new: u64,
    },
}

impl Write {
    /// What then stands there, if it is stored.
    #[must_use]
    pub const fn new_value(self) -> u64 {
        match self {
            Self::Store(new) | Self::Exchange(new) | Self::CompareExchange { new, .. } => new,
        }
    }
}

/// What came of it. The values are as wide as the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// What was there.
    pub old: u64,
    /// Whether the new value is there now; a `CompareExchange` may find another value than expected.
    pub stored: bool,
}

/// How often the CPU may note an access to the entry between our look and our write: it has two bits to set.
const ATTEMPTS: usize = 4;

impl<M: Hardware> Memory<M> {
    /// Writes 1, 2, 4 or 8 `bytes` at `va`, which faulted because it is mapped read-only in the address space of
    /// `root`, for the kernel of `domain`.
    ///
    /// # Errors
    /// `Tell`: this was no write to an L1 table, or not one that the laws allow, or the domain does not want it
    /// (`VMASST_TYPE_writable_pagetables` is off; the control domain need not ask): the guest gets its page fault.
    /// `Unfinished`: let the guest fault again.
    pub fn emulate_write(
        &self,
        domain: &PagingDomain,
        root: RamFrame,
        va: GuestAddr,
        bytes: u32,
        write: Write,
    ) -> Result<Written, Stop> {
        if !matches!(bytes, 1 | 2 | 4 | 8) || va.offset() as u32 & (bytes - 1) != 0 {
            return Err(Errno::Inval.into());
        }
        let editor = Editor::lock(self, domain);
        if editor.is_plain() {
            let mapping = editor.find_plain(root, va).ok_or(Errno::Fault)?;
            editor.emulate_write(mapping, va, bytes, write, |_, _| Ok(()), |_, _| ())
        } else {
            editor.emulate_write_slow(root, va, bytes, write)
        }
    }

    /// A write to a device's page that is mapped read-only: what the hypervisor lets happen of it. An instruction that
    /// also reads is not done, as on Xen.
    #[cold]
    fn write_device(
        &self,
        domain: &PagingDomain,
        mfn: Mfn,
        offset: u16,
        bytes: u32,
        write: Write,
    ) -> Result<Written, Stop> {
        match write {
            Write::Store(new) if domain.is_privileged && !self.frames.is_ram(mfn) => {
                self.pci.lock().write_frame(&self.machine, mfn, offset, bytes as u8, new as u32);
                Ok(Written { old: 0, stored: true })
            }
            _ => Err(Errno::Fault.into()),
        }
    }
}

impl<M: Hardware> Editor<'_, M> {
    #[cold]
    #[inline(never)]
    fn emulate_write_slow(mut self, root: RamFrame, va: GuestAddr, bytes: u32, write: Write) -> Result<Written, Stop> {
        self.settle()?;
        let mapping = self.find(root, va).ok_or(Errno::Fault)?;
        self.emulate_write(mapping, va, bytes, write, Self::judge_absent, Self::follow_if_shadowed)
    }

    /// Does the write at `va`, which `mapping` translates; `judge` is asked of each new entry, `follow` is called with
    /// each entry that has changed, before what stood there is given back.
    #[inline(always)]
    fn emulate_write(
        self,
        mapping: Place,
        va: GuestAddr,
        bytes: u32,
        write: Write,
        judge: impl Fn(&Self, u64) -> Result<(), Stop>,
        follow: impl Fn(&Self, Place),
    ) -> Result<Written, Stop> {
        let (memory, domain) = (self.memory, self.domain);
        let shift = 8 * (va.offset() as u32 & 7);
        let mask = (u64::MAX >> (64 - 8 * bytes)) << shift;
        let page = Entry(mapping.word.load(Ordering::Relaxed));
        let mfn = page.mfn().filter(|_| page.is_present() && !page.is_writable()).ok_or(Errno::Fault)?;
        let Ok(Some((table, 1))) = self.table(mfn) else {
            drop(self);
            return memory.write_device(domain, mfn, va.offset() as u16, bytes, write);
        };
        if !domain.is_privileged && !domain.assists(Assists::WRITABLE_PAGETABLES) {
            return Err(Errno::Perm.into());
        }
        if bytes < 8 {
            // The rest of the entry is read by its address, which the CPU would note; of a whole one nothing is.
            mapping.word.fetch_or(Entry::ACCESSED.bits(), Ordering::Relaxed);
            follow(&self, mapping);
        }
        let slot = Slot::at_offset(va.offset() & !7).ok_or(Errno::Inval)?;
        let place = self.place(table, 1, slot);
        for _ in 0..ATTEMPTS {
            let old = place.word.load(Ordering::Acquire);
            let old_part = (old & mask) >> shift;
            let new_part = match write {
                Write::Store(new) | Write::Exchange(new) => new,
                Write::CompareExchange { expected, new } if old_part == expected & (mask >> shift) => new,
                Write::CompareExchange { .. } => return Ok(Written { old: old_part, stored: false }),
            };
            let new = old & !mask | new_part << shift & mask;
            judge(&self, new)?;
            if self.exchange(place.word, Entry(old), Entry(new), || follow(&self, place))? {
                return Ok(Written { old: old_part, stored: true });
            }
        }
        Err(Stop::Unfinished)
    }

    /// Replaces exactly `old` by `new` in an L1, and calls `follow` before what stood there is given back. Returns
    /// whether `old` was still there; if not, nothing has changed.
    fn exchange(&self, word: &AtomicU64, old: Entry, new: Entry, follow: impl Fn()) -> Result<bool, Errno> {
        let rights = self.own_rights();
        let is_harmless = |new: Entry| old.is_present() && old.differs_harmlessly(new);
        let (new, held) = if !new.is_present() {
            (new, false)
        } else {
            let judged = new.sanitize_page(rights.io)?;
            if is_harmless(judged) { (judged, false) } else { (self.hold_page(new, &rights)?, true) }
        };
        let stored = word.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if stored {
            follow();
        }
        if !stored && held {
            self.drop_page(new);
        }
        if stored && old.is_present() && (held || !new.is_present()) {
            self.drop_page(old);
        }
        Ok(stored)
    }
}
