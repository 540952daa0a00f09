//! What guests ask of page tables whose numbers are translated for them: the tables are their own memory, and nothing
//! is counted ([`crate::mem::shadow::translated`]).

use super::mmu::Cpus;
use crate::{
    addr::GuestAddr,
    caller::Caller,
    machine::Machine,
    mem::shadow::translated::{Forget, Mode},
    reply::Reply,
};
use oxen_abi::{errno::Errno, mmu::UVMF_NONE};

impl<M: Machine> Caller<'_, M> {
    /// Whether the vcpu has an address space for a mode, by a number of the guest's.
    #[cold]
    #[inline(never)]
    pub(super) fn has_numbered_root(&self, mode: Mode) -> bool {
        self.hv.memory.translated_root(self.domain.owner(), self.vcpu.id, mode).is_some()
    }

    /// `update_va_mapping`: writes the entry where the guest's tables have it.
    #[cold]
    #[inline(never)]
    pub(super) fn write_own_entry(&mut self, va: GuestAddr, entry: u64, flags: u64) -> Reply {
        let (memory, owner) = (&self.hv.memory, self.domain.owner());
        if !self.domain.memory.is_translated() {
            return Err(Errno::Inval.into());
        }
        memory.write_translated_entry(owner, self.vcpu.id, va, entry)?;
        if flags != UVMF_NONE {
            let stale = self.flush_targets(flags);
            let (cpus, one_page) = stale.unwrap_or(Some((Cpus::Local, true))).unwrap_or((Cpus::Local, true));
            self.flush_translated(cpus, one_page.then_some(va));
            stale?;
        }
        Ok(0)
    }

    /// Flushes one page or everything.
    #[cold]
    #[inline(never)]
    pub(super) fn flush_translated(&self, cpus: Cpus, va: Option<GuestAddr>) {
        let what = match va {
            Some(va) if cpus == Cpus::Local => Forget::PageOf(self.vcpu.id, va),
            Some(va) => Forget::Page(va),
            None => Forget::All,
        };
        self.hv.memory.forget_translations(self.domain.owner(), what);
        // The CPUs have forgotten all, or are to forget a page.
        if va.is_some() {
            self.flush_tlb(cpus, va);
        }
    }
}
