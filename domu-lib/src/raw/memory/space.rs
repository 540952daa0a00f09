//! Address spaces beside the one that the guest booted in: their own lower half, the runtime's upper half.
//!
//! A space has two roots. The kernel's root holds the runtime's slots and the lower half; the user's root holds the
//! lower half alone, so that user code, which runs in the same ring, cannot see the kernel.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use x86_64::structures::paging::PageTableFlags;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::mmu::{self, MmuUpdate, MmuextOp};

use super::page::Page;
use super::tables::{self, bits};
use super::view;
use crate::pages::{Mfn, Pfn, p2m, pool};
use crate::raw::trap::{self, Frame};

/// The first address above the half that a space has to itself.
pub const LOWER_HALF_END: u64 = 1 << 47;
/// L4 slots from here on are the runtime's; those between are the hypervisor's.
const RUNTIME_SLOTS: core::ops::Range<usize> = 272..512;

/// The root that the guest booted with.
static BOOT_ROOT: spin::Once<Pfn> = spin::Once::new();

/// An address space.
#[derive(Debug)]
pub struct AddressSpace {
    root: Pfn,
    user_root: Pfn,
    tables: Vec<Pfn>,
    pages: BTreeMap<u64, Rc<Page>>,
}

/// Who may use a mapping, beside how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Writes are allowed.
    pub write: bool,
    /// Code may run there.
    pub execute: bool,
}

impl Rights {
    fn bits(self) -> PageTableFlags {
        let mut flags = bits::PRESENT | bits::USER | bits::USED;
        flags.set(bits::WRITE, self.write);
        flags.set(bits::NO_EXECUTE, !self.execute);
        flags
    }
}

fn ext(cmd: u32, frame: Mfn) -> Result<(), Errno> {
    let op = MmuextOp { cmd, _pad: 0, arg1: frame.raw(), arg2: 0 };
    // SAFETY: the callers pass tables of this room, or the root that the guest booted with.
    unsafe { tables::mmuext_op(&[op], DomId::SELF) }.map_err(|(_, errno)| errno)
}

fn frame_of(pfn: Pfn) -> Mfn {
    p2m::mfn(pfn).unwrap_or(Mfn::INVALID)
}

/// Makes a page a table: `fill` writes its entries, then nobody can write it any more.
fn table(fill: impl FnOnce(&Page)) -> Result<Pfn, Errno> {
    let page = Page::zeroed().ok_or(Errno::NoMem)?;
    fill(&page);
    let pfn = page.into_pfn();
    // SAFETY: the page is ours alone, and the only view of it is gone.
    unsafe { tables::protect(pfn) }?;
    Ok(pfn)
}

impl AddressSpace {
    /// A space with nothing of its own in it.
    ///
    /// # Errors
    /// `ENOMEM` without pages, and what the hypervisor refuses.
    pub fn new() -> Result<Self, Errno> {
        let boot = *BOOT_ROOT.call_once(tables::root_page);
        let root = table(|page| {
            for (slot, word) in page.words64().iter().enumerate() {
                if RUNTIME_SLOTS.contains(&slot) {
                    word.store(view::peek(boot, slot), Ordering::Relaxed);
                }
            }
        })?;
        let user_root = table(|_| ())?;
        let space = Self { root, user_root, tables: Vec::new(), pages: BTreeMap::new() };
        for root in [root, user_root] {
            ext(mmu::MMUEXT_PIN_L4_TABLE, frame_of(root))?;
        }
        Ok(space)
    }

    /// The frame of the kernel's root.
    pub fn root(&self) -> Mfn {
        frame_of(self.root)
    }

    /// The frame of the user's root.
    pub fn user_root(&self) -> Mfn {
        frame_of(self.user_root)
    }

    /// What the last-level entry for `address` holds, as the hypervisor left it.
    pub fn entry(&self, address: u64) -> Option<u64> {
        tables::walk(self.root(), address, 1).filter(|place| place.level == 1).map(|place| place.value)
    }

    /// The frame of the table of `level` that `address` is looked up in.
    pub fn table(&self, address: u64, level: u32) -> Option<Mfn> {
        tables::walk(self.root(), address, level).filter(|place| place.level == level).map(|place| place.table)
    }

    /// The machine address of the last-level entry for `address`, adding tables where they lack.
    ///
    /// # Errors
    /// `EINVAL` beyond the lower half, `ENOMEM` without pages, and what the hypervisor refuses.
    pub fn ensure(&mut self, address: u64) -> Result<u64, Errno> {
        if address >= LOWER_HALF_END {
            return Err(Errno::Inval);
        }
        loop {
            let place = tables::walk(self.root(), address, 1).ok_or(Errno::Inval)?;
            if place.level == 1 {
                return Ok(place.entry);
            }
            let pfn = table(|_| ())?;
            self.tables.push(pfn);
            let val = frame_of(pfn).entry(bits::TABLE);
            update(place.entry | mmu::MMU_NORMAL_PT_UPDATE, val)?;
            if place.level == 4 {
                let entry = self.user_root().address() + tables::slot(address, 4) as u64 * 8;
                update(entry | mmu::MMU_NORMAL_PT_UPDATE, val)?;
            }
        }
    }

    /// Maps a page at `address`.
    ///
    /// # Errors
    /// As for [`AddressSpace::ensure`].
    pub fn map(&mut self, address: u64, page: &Rc<Page>, rights: Rights) -> Result<(), Errno> {
        self.set_entry(address, page.mfn().entry(rights.bits()))?;
        self.pages.insert(address & !0xfff, page.clone());
        Ok(())
    }

    /// Takes the mapping at `address` away.
    ///
    /// # Errors
    /// As for [`AddressSpace::ensure`].
    pub fn unmap(&mut self, address: u64) -> Result<(), Errno> {
        self.set_entry(address, 0)?;
        self.pages.remove(&(address & !0xfff));
        Ok(())
    }

    /// Asks the hypervisor to put `value` into the last-level entry for `address`, whatever it is.
    ///
    /// # Errors
    /// What the hypervisor refuses, which is what this is for.
    pub fn set_entry(&mut self, address: u64, value: u64) -> Result<(), Errno> {
        let entry = self.ensure(address)?;
        update(entry | mmu::MMU_NORMAL_PT_UPDATE, value)?;
        if tables::root() == self.root() {
            let op = MmuextOp { cmd: mmu::MMUEXT_INVLPG_LOCAL, _pad: 0, arg1: address, arg2: 0 };
            // SAFETY: flushes a translation of the lower half.
            unsafe { tables::mmuext_op(&[op], DomId::SELF) }.map_err(|(_, errno)| errno)?;
        }
        Ok(())
    }

    /// Asks the hypervisor to put `value` at byte `offset` of the space's root.
    ///
    /// # Errors
    /// `EPERM` for slots of the runtime (this call's own refusal), else what the hypervisor refuses.
    pub fn set_root_entry(&mut self, offset: u64, value: u64) -> Result<(), Errno> {
        if RUNTIME_SLOTS.contains(&((offset / 8) as usize)) || offset >= 4096 {
            return Err(Errno::Perm);
        }
        update((self.root().address() + offset) | mmu::MMU_NORMAL_PT_UPDATE, value)
    }

    /// Makes this the address space that the guest runs in.
    ///
    /// # Errors
    /// `EINVAL`: a root is no valid table.
    pub fn activate(&self) -> Result<(), Errno> {
        ext(mmu::MMUEXT_NEW_BASEPTR, self.root())?;
        tables::set_root(self.root);
        Ok(())
    }

    /// Goes back to the address space that the guest booted in.
    ///
    /// # Errors
    /// `EINVAL`: the root is no valid table any more.
    pub fn leave() -> Result<(), Errno> {
        if let Some(&boot) = BOOT_ROOT.get()
            && tables::root_page() != boot
        {
            ext(mmu::MMUEXT_NEW_BASEPTR, frame_of(boot))?;
            tables::set_root(boot);
        }
        Ok(())
    }

    /// Runs user code in this space until it enters the kernel; `frame` says how.
    ///
    /// # Errors
    /// What the hypervisor refuses of the roots.
    pub fn run_user(&self, frame: &mut Frame) -> Result<(), Errno> {
        self.activate()?;
        ext(mmu::MMUEXT_NEW_USER_BASEPTR, self.user_root())?;
        // SAFETY: the user's root maps pages of this space alone, which are seen as atomics.
        unsafe { trap::run_user(frame) };
        Ok(())
    }
}

fn update(ptr: u64, val: u64) -> Result<(), Errno> {
    // SAFETY: the callers name entries of the lower half, where no value of the runtime lives.
    unsafe { tables::mmu_update(&[MmuUpdate { ptr, val }], DomId::SELF) }.map_err(|(_, errno)| errno)
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        let left = if tables::root_page() == self.root { Self::leave() } else { Ok(()) };
        // A user's root that is loaded keeps its tables; nobody runs user code now.
        let unloaded = left.and_then(|()| ext(mmu::MMUEXT_NEW_USER_BASEPTR, Mfn::new(0)));
        for root in [self.root, self.user_root] {
            let freed = unloaded.and_then(|()| ext(mmu::MMUEXT_UNPIN_TABLE, frame_of(root)));
            if freed.is_err() {
                // The tables stay tables, and what they map stays where it is: lost, but nothing else is wrong.
                core::mem::forget(core::mem::take(&mut self.pages));
                return;
            }
        }
        let tables = core::mem::take(&mut self.tables);
        for pfn in tables.into_iter().chain([self.root, self.user_root]) {
            // SAFETY: nothing refers to the table any more.
            if unsafe { tables::unprotect(pfn) }.is_ok() {
                pool::give(pfn, 1);
            }
        }
    }
}
