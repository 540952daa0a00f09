//! Page tables: `mmu_update`, `update_va_mapping`, `update_va_mapping_otherdomain` (`xen.h`).

use super::args::{UpdateVaMapping, Updates};
use crate::{
    Hypervisor,
    addr::{GuestAddr, MachineAddr, Mfn, Slot},
    caller::Caller,
    domain::Domain,
    machine::Machine,
    mem::{
        edit::{AccessedDirty, Leaf},
        editor::{Budget, Editor, EntryRights},
        entry::Entry,
        frame_type::Owner,
    },
    reply::{Args, Reply, Stop},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    mmu::{
        MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE, MMU_PT_UPDATE_PRESERVE_AD, MmuUpdate,
        UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_NONE, UVMF_TLB_FLUSH,
    },
};

/// Whose pages a call is about, as far as that is not the caller.
#[derive(Debug)]
pub(super) struct PageOwner {
    domain: Option<Arc<Domain>>,
    /// Whether it is neither the caller nor another domain, but what is nobody's.
    is_nobody: bool,
    /// What L1 entries may map.
    pub(super) rights: EntryRights,
}

impl PageOwner {
    /// The domain, or the caller's.
    pub(super) fn domain_or<'a>(&'a self, own: &'a Arc<Domain>) -> &'a Arc<Domain> {
        self.domain.as_ref().unwrap_or(own)
    }

    /// Whether it is the caller's own memory.
    pub(super) const fn is_self(&self) -> bool {
        self.domain.is_none() && !self.is_nobody
    }

    /// Whether it is no domain's.
    pub(super) const fn is_nobody(&self) -> bool {
        self.is_nobody
    }
}

/// The bits of an update's address that are its kind: of the three below an entry's address the header
/// uses two, and Xen takes all three.
const KIND: u64 = 7;

/// What a batch of page table updates keeps from one to the next.
struct Batch<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    editor: Editor<'a, M>,
    rights: EntryRights,
    /// The last L1 written to.
    l1: Option<Leaf>,
}

impl<M: Machine> Batch<'_, M> {
    /// Does an update. Nearly all are of the most ordinary kind, and of the table of the one before.
    #[inline(always)]
    fn apply(&mut self, MmuUpdate { ptr, val }: MmuUpdate) -> Result<(), Stop> {
        if ptr & KIND == MMU_NORMAL_PT_UPDATE
            && let Some(l1) = self.l1
            && let Some(place) = l1.place(MachineAddr::new(ptr & !KIND))
        {
            return Ok(self.editor.replace_page(place, val, AccessedDirty::Overwrite, &self.rights)?);
        }
        self.apply_other(ptr, val)
    }

    /// Any update.
    #[inline(never)]
    fn apply_other(&mut self, ptr: u64, val: u64) -> Result<(), Stop> {
        let address = MachineAddr::new(ptr & !KIND);
        let notes = match ptr & KIND {
            MMU_NORMAL_PT_UPDATE | MMU_PT_UPDATE_NO_TRANSLATE => AccessedDirty::Overwrite,
            MMU_PT_UPDATE_PRESERVE_AD => AccessedDirty::Keep,
            MMU_MACHPHYS_UPDATE => return self.set_m2p(address, val),
            _ => return Err(Errno::NoSys.into()),
        };
        let frame = Mfn::containing(address).ok_or(Errno::Inval)?;
        let slot = Slot::at_offset(address.offset()).ok_or(Errno::Inval)?;
        // A higher entry may end the life of any table below it, a plain word may be taken as a table next. What the
        // last one left to be given back comes before the look at this table, which may be part of it.
        self.l1 = None;
        if !self.editor.is_plain() {
            self.editor.settle()?;
            if self.editor.is_translated() {
                return Ok(self.hv.memory.write_translated(self.editor.owner(), frame, slot, val, notes)?);
            }
        }
        match self.editor.table(frame)? {
            // What shadows follow, and what others may have to be told of, goes the long way each time.
            Some((table, 1)) if self.editor.is_plain() && self.rights.owner == self.editor.owner() => {
                self.l1 = Some(self.editor.leaf(table));
                Ok(self.editor.replace_page(self.editor.place(table, 1, slot), val, notes, &self.rights)?)
            }
            Some((table, 1)) if self.rights.owner.behind_numbers().is_some() && Entry(val).is_present() => {
                let meant = match self.rights.owner.behind_numbers() {
                    Some(owner) if ptr & KIND == MMU_PT_UPDATE_NO_TRANSLATE => Some((Entry(val), owner)),
                    _ => self.hv.memory.meant_by(self.rights.owner, Entry(val)),
                };
                let (entry, owner) = meant.ok_or(Errno::Inval)?;
                let rights = EntryRights { owner, ..self.rights };
                self.editor.replace(self.editor.place(table, 1, slot), entry.0, notes, &rights)
            }
            Some((table, 1)) => {
                self.editor.replace(self.editor.place(table, 1, slot), val, notes, &self.rights)?;
                if self.rights.owner != self.editor.owner() {
                    self.hv.memory.mark_lent_by(self.rights.owner, Entry(val));
                }
                Ok(())
            }
            // Tables refer to tables of their own domain alone.
            Some(_) if self.rights.owner != self.editor.owner() => Err(Errno::Inval.into()),
            Some((table, level)) => {
                self.editor.replace(self.editor.place(table, level, slot), val, notes, &self.rights)
            }
            None => Ok(self.write_plain(frame, slot, val)?),
        }
    }

    /// Notes where a frame is in the guest's memory. What is no RAM of the machine's has a word there as well, which
    /// means something to the control domain alone.
    #[cold]
    fn set_m2p(&self, address: MachineAddr, pfn: u64) -> Result<(), Stop> {
        let frame = Mfn::containing(address).ok_or(Errno::Inval)?;
        if self.rights.owner == Owner::IO {
            let is_known = frame.index() < self.hv.machine().machine_to_phys().len();
            if !is_known || self.hv.memory.frames.is_ram(frame) {
                return Err(Errno::Inval.into());
            }
            if self.rights.io {
                self.hv.memory.set_m2p(frame, pfn);
            }
            return Ok(());
        }
        // Where the frames of a guest are translated, the p2m alone says where they are.
        if !self.editor.is_plain() && self.editor.is_translated() {
            return Err(Errno::Inval.into());
        }
        let held = self.hv.memory.hold(frame, self.rights.owner)?;
        if held.frame().mfn() != frame {
            return Err(Errno::Inval.into());
        }
        self.hv.memory.set_m2p(held.frame().mfn(), pfn);
        Ok(())
    }

    /// Writes a word of a frame that is no table.
    fn write_plain(&self, frame: Mfn, slot: Slot, value: u64) -> Result<(), Errno> {
        let hv = self.hv;
        let held = hv.memory.hold_writable(frame, self.editor.owner()).map_err(|_| Errno::Inval)?;
        slot.of(hv.machine().words(held.frame())).store(value, Ordering::Relaxed);
        hv.memory.note_written(held.frame());
        Ok(())
    }
}

/// Which CPUs a call means: this one only, or all that may know the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cpus {
    /// This one.
    Local,
    /// Those that ran the domain.
    Domain,
}

impl<M: Machine> Caller<'_, M> {
    /// The domain that the caller names.
    ///
    /// # Errors
    /// `Srch` if there is none, `Perm` if the caller may not act on it.
    #[inline]
    pub(super) fn page_owner(&self, id: DomId) -> Result<PageOwner, Errno> {
        match id {
            DomId::SELF => Ok(self.own_pages()),
            id => self.other_page_owner(id),
        }
    }

    /// The caller. Where its numbers are translated, they are never looked for among these pages.
    #[inline(always)]
    pub(super) fn own_pages(&self) -> PageOwner {
        let rights = EntryRights { owner: self.domain.owner(), io: self.domain.is_privileged() };
        PageOwner { domain: None, is_nobody: false, rights }
    }

    /// Anybody else.
    ///
    /// # Errors
    /// As [`Self::page_owner`].
    #[cold]
    pub(super) fn other_page_owner(&self, id: DomId) -> Result<PageOwner, Errno> {
        let io = self.domain.is_privileged();
        // Who names the device memory may map it, be it by right or in vain.
        if id == DomId::IO {
            let rights = EntryRights { owner: Owner::IO, io };
            return Ok(PageOwner { domain: None, is_nobody: true, rights });
        }
        if id == DomId::XEN {
            self.control()?;
            let rights = EntryRights { owner: Owner::XEN, io: false };
            return Ok(PageOwner { domain: None, is_nobody: true, rights });
        }
        if id == self.domain.id {
            return Err(Errno::Srch);
        }
        let domain = self.hv.domains.get(id).ok_or(Errno::Srch)?;
        self.control()?;
        let rights = EntryRights { owner: domain.memory.named(), io: io && domain.is_privileged() };
        Ok(PageOwner { rights, is_nobody: false, domain: Some(domain) })
    }

    /// `mmu_update(requests, count, success_count, foreign)`: the low half of `foreign` names the owner of what is
    /// mapped, the high half plus one the owner of the tables.
    ///
    /// # Errors
    /// The first failed request's; those before it are done, and counted.
    #[inline]
    pub fn mmu_update(&mut self, args: &mut Args) -> Reply {
        let request = Updates::from(&*args);
        let tables = match request.tables {
            None => self.own_pages(),
            Some(id) if id == self.domain.id => self.own_pages(),
            // Only a domain's own name stands for it there.
            Some(id) if !id.is_real() => return Err(Errno::Srch.into()),
            Some(id) => self.page_owner(id)?,
        };
        let pages = match request.pages {
            DomId::SELF => self.own_pages(),
            // Who names nobody is told that nothing was done.
            other => self.other_page_owner(other).inspect_err(|_| self.hv.report_done(&request, 0))?,
        };
        let list = request.requests()?;
        let hv = self.hv;
        let mut batch = Batch {
            hv,
            editor: Editor::lock(&hv.memory, &tables.domain_or(self.domain).memory),
            rights: pages.rights,
            l1: None,
        };
        batch.editor.settle()?;
        let progress = hv.do_updates(list, |[ptr, val]| {
            batch.apply(MmuUpdate { ptr, val })?;
            Ok(batch.editor.spend(1) == Budget::Spent)
        });
        drop(batch);
        hv.answer_updates(request, progress, args)
    }

    /// `update_va_mapping(va, entry, flags)`.
    ///
    /// # Errors
    /// `Inval` where no L1 translates the address; else as for any entry. `Fault` for a bitmap of vcpus that cannot be
    /// read: the mapping is made then.
    #[inline]
    pub fn update_va_mapping(&mut self, args: &mut Args) -> Reply {
        self.map_page_at((&*args).into(), &self.own_pages().rights)
    }

    /// `update_va_mapping_otherdomain(va, entry, flags, domid)`: maps a page of another domain.
    ///
    /// # Errors
    /// As [`Self::update_va_mapping`]; `Srch` or `Perm` for the other domain.
    #[inline]
    pub fn update_va_mapping_otherdomain(&mut self, args: &mut Args) -> Reply {
        let request = UpdateVaMapping::from(&*args);
        // Unlike in a list of updates, who has no device memory may not even name it.
        if request.owner == DomId::IO {
            self.control()?;
        }
        let pages = self.page_owner(request.owner)?;
        let entry = Entry(request.entry);
        let (mut entry, mut rights) = (entry, pages.rights);
        if rights.owner.behind_numbers().is_some() && entry.is_present() {
            (entry, rights.owner) = self.hv.memory.meant_by(rights.owner, entry).ok_or(Errno::Inval)?;
        }
        let done = self.map_page_at(UpdateVaMapping { entry: entry.0, ..request }, &rights);
        self.hv.memory.mark_lent_by(rights.owner, entry);
        done
    }

    #[inline(always)]
    fn map_page_at(&mut self, request: UpdateVaMapping, rights: &EntryRights) -> Reply {
        let UpdateVaMapping { va, entry, flags, .. } = request;
        let Some(root) = self.state.kernel_root else { return self.write_own_entry(va, entry, flags) };
        let mut editor = Editor::lock(&self.hv.memory, &self.domain.memory);
        editor.map_at(root, va, entry, rights)?;
        drop(editor);
        // The mapping stands whatever comes of the flush.
        let stale = match flags {
            UVMF_NONE => None,
            UVMF_INVLPG => Some((Cpus::Local, Some(va))),
            flags => match self.flush_targets(flags) {
                Ok(stale) => stale.map(|(cpus, one_page)| (cpus, one_page.then_some(va))),
                Err(error) => {
                    self.flush_tlb(Cpus::Local, Some(va));
                    return Err(error.into());
                }
            },
        };
        if let Some((cpus, page)) = stale {
            self.flush_tlb(cpus, page);
        }
        Ok(0)
    }

    /// What the flags of `update_va_mapping` want flushed: the CPUs, and whether the one page only. Beside the flush
    /// type they are nothing, [`UVMF_ALL`], or the address of a bitmap of vcpus.
    pub(super) fn flush_targets(&self, flags: u64) -> Result<Option<(Cpus, bool)>, Errno> {
        let one_page = match flags & UVMF_FLUSHTYPE_MASK {
            UVMF_TLB_FLUSH => false,
            UVMF_INVLPG => true,
            _ => return Ok(None),
        };
        let cpus = match flags & !UVMF_FLUSHTYPE_MASK {
            0 => Cpus::Local,
            UVMF_ALL => Cpus::Domain,
            bitmap => self.cpus_of_vcpus(bitmap)?,
        };
        Ok(Some((cpus, one_page)))
    }

    /// The CPUs of the vcpus in a bitmap of the guest's. A vcpu may run on any CPU that ran the domain.
    pub(super) fn cpus_of_vcpus(&self, bitmap: u64) -> Result<Cpus, Errno> {
        let mut cpus = Cpus::Local;
        for first in (0..self.domain.max_vcpus.load(Ordering::Relaxed)).step_by(64) {
            let word: u64 = self.copy_from_guest(bitmap.saturating_add(u64::from(first / 8)))?;
            let own = self.vcpu.id.checked_sub(first).and_then(|bit| 1_u64.checked_shl(bit)).unwrap_or(0);
            if word & !own != 0 {
                cpus = Cpus::Domain;
            }
        }
        Ok(cpus)
    }

    /// Flushes one page or everything. A page of this CPU's own is what guests ask for most.
    #[inline(always)]
    pub(super) fn flush_tlb(&self, cpus: Cpus, va: Option<GuestAddr>) {
        match va {
            Some(va) if !va.is_guest_range(1) => {}
            Some(va) if cpus == Cpus::Local => self.hv.machine().invalidate(va),
            va => self.flush_tlb_slow(cpus, va),
        }
    }

    #[inline(never)]
    fn flush_tlb_slow(&self, cpus: Cpus, va: Option<GuestAddr>) {
        let hv = self.hv;
        let all = if cpus == Cpus::Local { 0 } else { self.hv.memory.frames.tlb.cpus_of(self.domain.owner()) };
        let is_local = all & hv.memory.frames.tlb.online() & !(1 << self.cpu.0) == 0;
        match va {
            Some(va) if is_local => hv.machine().invalidate(va),
            Some(va) => hv.machine().flush_cpus(all, Some(va)),
            None if is_local => hv.memory.flush_local(self.cpu),
            None => hv.memory.flush_cpus(all),
        }
    }
}
