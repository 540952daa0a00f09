//! Page tables: `mmu_update`, `update_va_mapping`, `update_va_mapping_otherdomain` (`xen.h`).

use crate::{
    addr::{GuestAddr, MachineAddr, Mfn, Slot},
    caller::Caller,
    domain::Domain,
    machine::Machine,
    mem::{
        edit::AccessedDirty,
        editor::{Editor, EntryRights},
        frame_type::Owner,
        guest_ptr::GuestPtr,
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

/// In the count of a batch: it is a continuation, and the success count already counts what was done before.
const CONTINUED: u64 = 1 << 31;

/// Whose pages a call is about, as far as that is not the caller.
#[derive(Debug)]
pub(super) struct Lender {
    domain: Option<Arc<Domain>>,
    /// Whether it is neither the caller nor another domain, but what is nobody's.
    is_nobody: bool,
    /// What L1 entries may map.
    pub(super) rights: EntryRights,
}

impl Lender {
    /// The domain that the caller names.
    ///
    /// # Errors
    /// `Srch` if there is none, `Perm` if the caller may not act on it.
    #[inline]
    pub(super) fn of<M: Machine>(caller: &Caller<'_, M>, id: DomId) -> Result<Self, Errno> {
        let io = caller.domain.is_privileged;
        if id == DomId::SELF {
            let rights = EntryRights { owner: caller.domain.owner, io };
            return Ok(Self { domain: None, is_nobody: false, rights });
        }
        Self::foreign(caller, id, io)
    }

    #[cold]
    fn foreign<M: Machine>(caller: &Caller<'_, M>, id: DomId, io: bool) -> Result<Self, Errno> {
        // Who names the device memory may map it, be it by right or in vain; of the hypervisor's own there is nothing to map.
        if id == DomId::IO || id == DomId::XEN && caller.control().is_ok() {
            return Ok(Self {
                domain: None,
                is_nobody: true,
                rights: EntryRights { owner: Owner::IO, io: io && id == DomId::IO },
            });
        }
        if id == DomId::XEN {
            return Err(Errno::Perm);
        }
        if id == caller.domain.id {
            return Err(Errno::Srch);
        }
        let domain = caller.hv.domains.get(id).ok_or(Errno::Srch)?;
        caller.control()?;
        let rights = EntryRights { owner: domain.owner, io: io && domain.is_privileged };
        Ok(Self { rights, is_nobody: false, domain: Some(domain) })
    }

    /// The domain, or the caller's.
    pub(super) fn or<'a>(&'a self, own: &'a Arc<Domain>) -> &'a Arc<Domain> {
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

/// What a batch of page table updates keeps from one to the next.
struct Batch<'a, M: Machine> {
    hv: &'a crate::Hypervisor<M>,
    editor: Editor<'a, M>,
    rights: EntryRights,
    /// The last L1 written to.
    l1: Option<Mfn>,
}

impl<M: Machine> Batch<'_, M> {
    #[inline(always)]
    fn apply(&mut self, update: MmuUpdate) -> Result<(), Stop> {
        // Of the three bits below an entry's address the header uses two, and Xen takes all three for the kind.
        let address = MachineAddr(update.ptr & !7);
        let notes = match update.ptr & 7 {
            MMU_NORMAL_PT_UPDATE | MMU_PT_UPDATE_NO_TRANSLATE => AccessedDirty::Overwrite,
            MMU_PT_UPDATE_PRESERVE_AD => AccessedDirty::Keep,
            MMU_MACHPHYS_UPDATE => return self.tell_place(address, update.val),
            _ => return Err(Errno::NoSys.into()),
        };
        let frame = Mfn::containing(address).ok_or(Errno::Inval)?;
        let slot = Slot::at_offset(address.offset()).ok_or(Errno::Inval)?;
        if self.l1 != Some(frame) {
            return self.apply_elsewhere(frame, slot, update.val, notes);
        }
        Ok(self.editor.replace_page(self.editor.place(frame, 1, slot), update.val, notes, &self.rights)?)
    }

    /// An update of another frame than the last.
    fn apply_elsewhere(&mut self, frame: Mfn, slot: Slot, value: u64, notes: AccessedDirty) -> Result<(), Stop> {
        // A higher entry may end the life of any table below it, a plain word may be taken as a table next. What the last
        // one left to be given back comes before the look at this table, which may be part of it.
        self.l1 = None;
        self.editor.settle()?;
        match self.editor.level_of(frame)? {
            Some(level) => {
                if level == 1 {
                    self.l1 = Some(frame);
                }
                self.editor.replace(self.editor.place(frame, level, slot), value, notes, &self.rights)
            }
            None => Ok(self.write_plain(frame, slot, value)?),
        }
    }

    /// AccessedDirty where a frame is in the guest's memory.
    #[cold]
    fn tell_place(&self, address: MachineAddr, pfn: u64) -> Result<(), Stop> {
        let frame = Mfn::containing(address).ok_or(Errno::Inval)?;
        self.hv.memory.frames.reference(frame, self.rights.owner)?;
        self.hv.memory.set_m2p(frame, pfn);
        self.hv.memory.frames.put(frame);
        Ok(())
    }

    /// Writes a word of a frame that is no table.
    fn write_plain(&self, frame: Mfn, slot: Slot, value: u64) -> Result<(), Errno> {
        let hv = self.hv;
        hv.memory.hold_writable(frame, self.editor.owner()).map_err(|_| Errno::Inval)?;
        if let Some(word) = hv.machine().words(frame).get(slot.index()) {
            word.store(value, Ordering::Relaxed);
        }
        hv.memory.frames.put_use(frame);
        Ok(())
    }
}

/// `mmu_update(requests, count, success_count, foreign)`: the low half of `foreign` names the owner of what is mapped, the
/// high half plus one the owner of the tables.
///
/// # Errors
/// The first failed request's; those before it are done, and counted.
#[inline]
pub fn mmu_update<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [requests, count, done_at, foreign, ..] = *args;
    let is_continued = count & CONTINUED != 0;
    let count = count & (CONTINUED - 1);
    let tables = match foreign as u32 >> 16 {
        0 => Lender::of(caller, DomId::SELF)?,
        id => match DomId((id - 1) as u16) {
            id if id == caller.domain.id => Lender::of(caller, DomId::SELF)?,
            // Only a domain's own name stands for it there.
            id if !id.is_real() => return Err(Errno::Srch.into()),
            id => Lender::of(caller, id)?,
        },
    };
    let lender = Lender::of(caller, DomId(foreign as u16))?;
    let list = GuestPtr::<[u64; 2]>::new(requests, count)?;
    let hv = caller.hv;
    let mut batch = Batch {
        hv,
        editor: Editor::lock(&hv.memory, &tables.or(caller.domain).memory),
        rights: lender.rights,
        l1: None,
    };
    batch.editor.settle()?;
    let mut done = 0;
    let mut outcome = Ok(());
    while done < count {
        outcome = match list.read_words(hv.machine(), done) {
            Ok([ptr, val]) => batch.apply(MmuUpdate { ptr, val }),
            Err(error) => Err(error.into()),
        };
        if outcome.is_err() {
            break;
        }
        done += 1;
        if batch.editor.spend(1) && done < count {
            outcome = Err(Stop::Unfinished);
            break;
        }
    }
    drop(batch);
    if done_at != 0 {
        report(hv, done_at, done, is_continued);
    }
    if outcome == Err(Stop::Unfinished) {
        args[0] = requests + done * size_of::<MmuUpdate>() as u64;
        args[1] = (count - done) | CONTINUED;
    }
    outcome.map(|()| 0)
}

/// Tells the guest how many requests were done, where it wants to know.
pub(super) fn report<M: Machine>(hv: &crate::Hypervisor<M>, at: u64, done: u64, is_continued: bool) {
    if let Ok(place) = GuestPtr::<u32>::one(at) {
        let before = if is_continued { place.read(hv.machine(), 0).unwrap_or(0) } else { 0 };
        // A count that cannot be written is the guest's own loss.
        let _ = place.write(hv.machine(), 0, &before.wrapping_add(done as u32));
    }
}

/// `update_va_mapping(va, entry, flags)`.
///
/// # Errors
/// `Inval` where no L1 translates the address; else as for any entry. `Fault` for a bitmap of vcpus that cannot be read: the
/// mapping is made then.
#[inline]
pub fn update_va_mapping<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [va, entry, flags, ..] = *args;
    let rights = EntryRights { owner: caller.domain.owner, io: caller.domain.is_privileged };
    map_at(caller, GuestAddr(va), entry, flags, &rights)
}

/// `update_va_mapping_otherdomain(va, entry, flags, domid)`: maps a page of another domain.
///
/// # Errors
/// As [`update_va_mapping`]; `Srch` or `Perm` for the other domain.
#[inline]
pub fn update_va_mapping_otherdomain<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [va, entry, flags, id, ..] = *args;
    let lender = Lender::of(caller, DomId(id as u16))?;
    map_at(caller, GuestAddr(va), entry, flags, &lender.rights)
}

#[inline(always)]
fn map_at<M: Machine>(
    caller: &mut Caller<'_, M>,
    va: GuestAddr,
    entry: u64,
    flags: u64,
    rights: &EntryRights,
) -> Reply {
    let root = caller.state.kernel_root.ok_or(Errno::Inval)?;
    let mut editor = Editor::lock(&caller.hv.memory, &caller.domain.memory);
    editor.settle()?;
    let place = editor.find(root, va).ok_or(Errno::Inval)?;
    editor.replace_page(place, entry, AccessedDirty::Overwrite, rights)?;
    drop(editor);
    // The mapping stands whatever comes of the flush.
    let stale = match flags {
        UVMF_NONE => None,
        UVMF_INVLPG => Some((Cpus::Local, Some(va))),
        flags => match flush_targets(caller, flags) {
            Ok(stale) => stale.map(|(cpus, one_page)| (cpus, one_page.then_some(va))),
            Err(error) => {
                flush(caller, Cpus::Local, Some(va));
                return Err(error.into());
            }
        },
    };
    if let Some((cpus, page)) = stale {
        flush(caller, cpus, page);
    }
    Ok(0)
}

/// Which CPUs a call means: this one only, or all that may know the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cpus {
    /// This one.
    Local,
    /// Those that ran the domain.
    Domain,
}

/// What the flags of `update_va_mapping` want flushed: the CPUs, and whether the one page only. Beside the flush type they
/// are nothing, [`UVMF_ALL`], or the address of a bitmap of vcpus.
fn flush_targets<M: Machine>(caller: &Caller<'_, M>, flags: u64) -> Result<Option<(Cpus, bool)>, Errno> {
    let one_page = match flags & UVMF_FLUSHTYPE_MASK {
        UVMF_TLB_FLUSH => false,
        UVMF_INVLPG => true,
        _ => return Ok(None),
    };
    let cpus = match flags & !UVMF_FLUSHTYPE_MASK {
        0 => Cpus::Local,
        UVMF_ALL => Cpus::Domain,
        bitmap => vcpus_in(caller, bitmap)?,
    };
    Ok(Some((cpus, one_page)))
}

/// The CPUs of the vcpus in a bitmap of the guest's. A vcpu may run on any CPU that ran the domain.
pub(super) fn vcpus_in<M: Machine>(caller: &Caller<'_, M>, bitmap: u64) -> Result<Cpus, Errno> {
    let bits = GuestPtr::<u32>::one(bitmap)?.read(caller.hv.machine(), 0)?;
    Ok(if bits & !(1 << (caller.vcpu.id & 31)) == 0 { Cpus::Local } else { Cpus::Domain })
}

/// Flushes one page or everything. A page of this CPU's own is what guests ask for most.
#[inline(always)]
pub(super) fn flush<M: Machine>(caller: &Caller<'_, M>, cpus: Cpus, va: Option<GuestAddr>) {
    match va {
        Some(va) if !va.is_guest_range(1) => {}
        Some(va) if cpus == Cpus::Local => caller.hv.machine().invalidate(va),
        va => flush_more(caller, cpus, va),
    }
}

#[inline(never)]
fn flush_more<M: Machine>(caller: &Caller<'_, M>, cpus: Cpus, va: Option<GuestAddr>) {
    let hv = caller.hv;
    let all = if cpus == Cpus::Local { 0 } else { caller.hv.memory.frames.tlb.cpus_of(caller.domain.owner) };
    let is_local = all & hv.memory.frames.tlb.online() & !(1 << caller.cpu.0) == 0;
    match va {
        Some(va) if is_local => hv.machine().invalidate(va),
        Some(va) => hv.machine().flush_cpus(all, Some(va)),
        None if is_local => hv.memory.flush_local(caller.cpu),
        None => hv.memory.flush_cpus(all),
    }
}
