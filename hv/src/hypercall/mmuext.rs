//! `mmuext_op`: pins, roots, flushes, the LDT, whole pages (`xen.h`).

use super::{
    args::Updates,
    mmu::{Cpus, PageOwner},
    number::{uint, ushort},
};
use crate::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    machine::Machine,
    mem::{
        editor::{Budget, Editor},
        frame_type::Owner,
    },
    reply::{Args, Reply, Stop},
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    mmu::{
        MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE, MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_INVLPG_ALL,
        MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI, MMUEXT_MARK_SUPER, MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR,
        MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_SET_LDT, MMUEXT_TLB_FLUSH_ALL, MMUEXT_TLB_FLUSH_LOCAL,
        MMUEXT_TLB_FLUSH_MULTI, MMUEXT_UNMARK_SUPER, MMUEXT_UNPIN_TABLE, MmuextOp,
    },
};

/// The work of an operation on a whole page, in units of preemption.
const PAGE_UNITS: u32 = 64;
/// Entries of an LDT at most.
const MAX_LDT_ENTRIES: u32 = 8192;

impl<M: Machine> Caller<'_, M> {
    /// `mmuext_op(operations, count, success_count, foreign)`.
    ///
    /// # Errors
    /// The first failed operation's; those before it are done, and counted.
    #[inline]
    pub fn mmuext_op(&mut self, args: &mut Args) -> Reply {
        let request = Updates::from(&*args);
        let pages = match request.pages {
            DomId::SELF => self.own_pages(),
            other => self.other_page_owner(other)?,
        };
        if pages.is_nobody() {
            self.control()?;
        }
        let list = request.requests()?;
        let mut spent = 0_u32;
        let hv = self.hv;
        let progress = hv.do_updates(list, |[cmd, arg1, arg2]| {
            let op = MmuextOp { cmd: uint(cmd), _pad: 0, arg1, arg2 };
            self.apply_mmuext(&pages, &op, &mut spent)?;
            spent = spent.saturating_add(1);
            Ok(Budget::after(spent) == Budget::Spent)
        });
        hv.answer_updates(request, progress, args)
    }

    #[inline(always)]
    fn apply_mmuext(&mut self, pages: &PageOwner, op: &MmuextOp, spent: &mut u32) -> Result<(), Stop> {
        let (hv, domain) = (self.hv, self.domain);
        // Every context switch of a guest comes this way.
        match op.cmd {
            MMUEXT_NEW_BASEPTR if pages.is_self() => {
                let Some(root) = Mfn::new(op.arg1) else { return Err(Errno::Inval.into()) };
                let (current, loaded) = (&mut self.state.kernel_root, &mut self.state.loaded.kernel);
                Editor::lock(&hv.memory, &domain.memory).switch(self.cpu, current, loaded, root)
            }
            MMUEXT_NEW_USER_BASEPTR if pages.is_self() => {
                let root = match (op.arg1, Mfn::new(op.arg1)) {
                    (0, _) => None,
                    (_, None) => return Err(Errno::Inval.into()),
                    (_, root) => root,
                };
                let (current, loaded) = (&mut self.state.user_root, &mut self.state.loaded.user);
                Editor::lock(&hv.memory, &domain.memory).switch_user(current, loaded, root)
            }
            _ => self.apply_mmuext_slow(pages, op, spent),
        }
    }

    #[inline(never)]
    fn apply_mmuext_slow(&mut self, pages: &PageOwner, op: &MmuextOp, spent: &mut u32) -> Result<(), Stop> {
        match op.cmd {
            // Whose frames are translated has no root here, and more to forget.
            MMUEXT_TLB_FLUSH_LOCAL if pages.is_self() && self.state.kernel_root.is_some() => {
                self.hv.memory.flush_local(self.cpu);
                Ok(())
            }
            MMUEXT_INVLPG_LOCAL if pages.is_self() && self.state.kernel_root.is_some() => {
                self.flush_tlb(Cpus::Local, Some(GuestAddr::new(op.arg1)));
                Ok(())
            }
            MMUEXT_PIN_L1_TABLE..=MMUEXT_UNPIN_TABLE if pages.is_nobody() => Err(Errno::Inval.into()),
            // There is nothing to be held for who believes in no table.
            MMUEXT_PIN_L1_TABLE..=MMUEXT_UNPIN_TABLE if pages.domain_or(self.domain).memory.is_translated() => Ok(()),
            MMUEXT_PIN_L1_TABLE..=MMUEXT_PIN_L4_TABLE => {
                let level = op.cmd.wrapping_sub(MMUEXT_PIN_L1_TABLE).wrapping_add(1);
                let frame = frame(op.arg1)?;
                let mut editor = Editor::open(&self.hv.memory, &pages.domain_or(self.domain).memory)?;
                let outcome = editor.pin(frame, level);
                *spent = spent.saturating_add(editor.spent());
                outcome
            }
            MMUEXT_UNPIN_TABLE => {
                let frame = frame(op.arg1)?;
                let mut editor = Editor::open(&self.hv.memory, &pages.domain_or(self.domain).memory)?;
                let outcome = editor.unpin(frame);
                *spent = spent.saturating_add(editor.spent());
                outcome
            }
            MMUEXT_CLEAR_PAGE => {
                *spent = spent.saturating_add(PAGE_UNITS);
                let to = frame(op.arg1)?;
                let held = self.hv.memory.hold_writable(to, self.named_by(pages)).map_err(|_| Errno::Inval)?;
                self.hv.machine().clear(held.frame());
                self.hv.memory.note_written(held.frame());
                Ok(())
            }
            MMUEXT_COPY_PAGE => {
                *spent = spent.saturating_add(PAGE_UNITS);
                let (to, from) = (frame(op.arg1)?, frame(op.arg2)?);
                let from = self.hv.memory.hold(from, self.named_by(pages))?;
                let to = self.hv.memory.hold_writable(to, self.named_by(pages)).map_err(|_| Errno::Inval)?;
                self.hv.machine().copy(from.frame(), to.frame());
                self.hv.memory.note_written(to.frame());
                Ok(())
            }
            MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => Err(Errno::OpNotSupp.into()),
            MMUEXT_NEW_BASEPTR | MMUEXT_NEW_USER_BASEPTR => Err(Errno::Perm.into()),
            MMUEXT_TLB_FLUSH_LOCAL..=MMUEXT_SET_LDT | MMUEXT_FLUSH_CACHE_GLOBAL if pages.is_self() => {
                self.flush_or_ldt(op)
            }
            MMUEXT_TLB_FLUSH_LOCAL..=MMUEXT_SET_LDT | MMUEXT_FLUSH_CACHE_GLOBAL => Err(Errno::Perm.into()),
            _ => Err(Errno::NoSys.into()),
        }
    }

    /// What changes no table and does not only flush this CPU's translations.
    fn flush_or_ldt(&mut self, op: &MmuextOp) -> Result<(), Stop> {
        let page = Some(GuestAddr::new(op.arg1));
        match op.cmd {
            MMUEXT_TLB_FLUSH_LOCAL => self.flush_own(Cpus::Local, None),
            MMUEXT_TLB_FLUSH_MULTI => self.flush_own(self.cpus_of_vcpus(op.arg2).map_err(|_| Errno::Inval)?, None),
            MMUEXT_TLB_FLUSH_ALL => self.flush_own(Cpus::Domain, None),
            MMUEXT_INVLPG_LOCAL => self.flush_own(Cpus::Local, page),
            MMUEXT_INVLPG_MULTI => self.flush_own(self.cpus_of_vcpus(op.arg2).map_err(|_| Errno::Inval)?, page),
            MMUEXT_INVLPG_ALL => self.flush_own(Cpus::Domain, page),
            // Who has no device's memory and no ports sees write-back memory only: there is nothing to flush for it.
            MMUEXT_FLUSH_CACHE | MMUEXT_FLUSH_CACHE_GLOBAL if self.domain.memory.rights.lock().reach_devices() => {
                self.hv.machine().flush_data_caches();
            }
            MMUEXT_FLUSH_CACHE => return Err(Errno::Acces.into()),
            MMUEXT_FLUSH_CACHE_GLOBAL => return Err(Errno::Inval.into()),
            // `nr_ents` is an `unsigned int`: the other half of its word is padding.
            MMUEXT_SET_LDT => return self.set_ldt(op.arg1, uint(op.arg2)),
            _ => return Err(Errno::NoSys.into()),
        }
        Ok(())
    }

    /// In whose name the frames of an operation are given. Whose frames are translated has no root here.
    fn named_by(&self, pages: &PageOwner) -> Owner {
        if self.state.kernel_root.is_some() { pages.rights.owner } else { self.named_without_root(pages) }
    }

    #[cold]
    #[inline(never)]
    fn named_without_root(&self, pages: &PageOwner) -> Owner {
        if pages.is_self() { self.domain.memory.named() } else { pages.rights.owner }
    }

    fn flush_own(&self, cpus: Cpus, page: Option<GuestAddr>) {
        if self.state.kernel_root.is_none() && self.domain.memory.is_translated() {
            self.flush_translated(cpus, page);
        } else {
            self.flush_tlb(cpus, page);
        }
    }

    /// Names another local descriptor table; its pages are taken as they are used. A table without entries has no
    /// place.
    fn set_ldt(&mut self, base: u64, entries: u32) -> Result<(), Stop> {
        let base = if entries == 0 { 0 } else { base };
        let is_placed = entries == 0 || GuestAddr::new(base).is_guest_range(u64::from(entries).wrapping_mul(8));
        if entries > MAX_LDT_ENTRIES || base & 0xfff != 0 || !is_placed {
            return Err(Errno::Inval.into());
        }
        if (self.state.ldt_base, u32::from(self.state.ldt_entries)) != (base, entries) {
            let editor = Editor::open(&self.hv.memory, &self.domain.memory)?;
            let old = core::mem::take(&mut self.state.ldt);
            self.state.ldt_base = base;
            self.state.ldt_entries = ushort(entries.into());
            self.hv.machine().load_descriptor_tables(self.state);
            old.into_iter().flatten().for_each(|page| editor.put_descriptors(page));
        }
        Ok(())
    }
}

fn frame(number: u64) -> Result<Mfn, Errno> {
    Mfn::new(number).ok_or(Errno::Inval)
}
