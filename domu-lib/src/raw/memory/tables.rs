//! Page tables: walking those that are loaded, adding tables, editing entries by hypercall.
//!
//! Every page that serves as a table has read-only mappings alone; a page becomes one in three steps: its entries are
//! written, its mapping is made read-only, an entry of a table one level up is pointed to it. The kernel's slots of
//! the L4 (the image's and those of [`layout`]) are filled at boot, so all address spaces share what is below.

use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::mmu;

use super::page::Page;
use super::view;
use crate::pages::{Mfn, Pfn, layout, p2m};
use crate::raw::hypercall::{call3, call4};

/// Sets of entry bits (Intel SDM vol. 3A, 4.5.4).
pub mod bits {
    use x86_64::structures::paging::PageTableFlags;

    /// The entry is used.
    pub const PRESENT: PageTableFlags = PageTableFlags::PRESENT;
    /// Writes are allowed.
    pub const WRITE: PageTableFlags = PageTableFlags::WRITABLE;
    /// User code may use it.
    pub const USER: PageTableFlags = PageTableFlags::USER_ACCESSIBLE;
    /// Code may not run there.
    pub const NO_EXECUTE: PageTableFlags = PageTableFlags::NO_EXECUTE;
    /// It was used and written through: what the CPU would note in a table that it cannot write.
    pub const USED: PageTableFlags = PageTableFlags::ACCESSED.union(PageTableFlags::DIRTY);
    /// What the runtime gives its own code.
    pub const CODE: PageTableFlags = PRESENT.union(PageTableFlags::ACCESSED);
    /// What the runtime gives what it only reads.
    pub const READ_ONLY: PageTableFlags = PRESENT.union(USED).union(NO_EXECUTE);
    /// What the runtime gives its own data.
    pub const DATA: PageTableFlags = READ_ONLY.union(WRITE);
    /// Registers of devices.
    pub const DEVICE: PageTableFlags = DATA.union(PageTableFlags::NO_CACHE).union(PageTableFlags::WRITE_THROUGH);
    /// What entries above the last level get.
    pub const TABLE: PageTableFlags = PRESENT.union(WRITE).union(USER).union(USED);
    /// The bits of an entry that name the frame.
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;

    /// Whether an entry is used.
    pub const fn is_present(entry: u64) -> bool {
        PageTableFlags::from_bits_retain(entry).contains(PRESENT)
    }
}

/// The page of the L4 that is loaded for the kernel. Its frame is another one after a restore.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// Notes which L4 is loaded.
pub(crate) fn set_root(root: Pfn) {
    ROOT.store(root.raw(), Ordering::Relaxed);
}

/// The page of the L4 that is loaded.
pub(crate) fn root_page() -> Pfn {
    Pfn::new(ROOT.load(Ordering::Relaxed))
}

/// The L4 that is loaded.
pub(crate) fn root() -> Mfn {
    p2m::mfn(root_page()).unwrap_or(Mfn::INVALID)
}

/// The slot of `address` in a table of `level` (1 to 4).
pub(crate) const fn slot(address: u64, level: u32) -> usize {
    (address >> (3 + 9 * level)) as usize & 511
}

/// Where a walk ended: the table that lacks an entry, or holds the last one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Level of the table, 1 for the last.
    pub level: u32,
    /// The table's frame.
    pub table: Mfn,
    /// The entry's machine address.
    pub entry: u64,
    /// What the entry holds.
    pub value: u64,
}

/// Walks from `root` to the entry for `address`, as far as tables are there but not below level `last`.
pub(crate) fn walk(root: Mfn, address: u64, last: u32) -> Option<Place> {
    let (mut level, mut table) = (4, root);
    loop {
        let index = slot(address, level);
        let value = view::peek(view::pfn(table)?, index);
        if level == last || !bits::is_present(value) {
            return Some(Place { level, table, entry: table.address() + index as u64 * 8, value });
        }
        table = Mfn::new((value & bits::FRAME) >> 12);
        level -= 1;
    }
}

/// Changes the last-level entry for `address` in the tables that are loaded.
///
/// # Safety
/// What the runtime's values live in must stay mapped as they expect.
pub(crate) unsafe fn update_va_mapping(address: u64, entry: u64, flags: u64) -> Result<(), Errno> {
    // SAFETY: handed to the caller.
    Errno::check(unsafe { call3::<{ Hypercall::UpdateVaMapping as u32 }>(address, entry, flags) }).map(|_| ())
}

/// Applies page-table updates in order; `domain` says whose frames the entries name.
///
/// # Safety
/// As for [`update_va_mapping`].
///
/// # Errors
/// How many were applied, and why the next one was not.
pub(crate) unsafe fn mmu_update(updates: &[mmu::MmuUpdate], domain: DomId) -> Result<(), (usize, Errno)> {
    // SAFETY: handed to the caller.
    unsafe { apply::<{ Hypercall::MmuUpdate as u32 }, _>(updates, domain) }
}

/// Applies extended operations in order.
///
/// # Safety
/// As for [`update_va_mapping`].
///
/// # Errors
/// As for [`mmu_update`].
pub(crate) unsafe fn mmuext_op(ops: &[mmu::MmuextOp], domain: DomId) -> Result<(), (usize, Errno)> {
    // SAFETY: handed to the caller.
    unsafe { apply::<{ Hypercall::MmuextOp as u32 }, _>(ops, domain) }
}

/// Hands a list to a hypercall that says how far it came.
///
/// # Safety
/// The call takes a list of `T`; its effects are the caller's.
unsafe fn apply<const CALL: u32, T>(list: &[T], domain: DomId) -> Result<(), (usize, Errno)> {
    let mut done = 0u32;
    let place = (&raw mut done) as u64;
    // SAFETY: the list is as long as we say; its effects are the caller's.
    let result = unsafe { call4::<CALL>(list.as_ptr() as u64, list.len() as u64, place, u64::from(domain.0)) };
    Errno::check(result).map(|_| ()).map_err(|errno| (done as usize, errno))
}

/// Makes a page one that can become a table: no writable mapping is left.
///
/// # Safety
/// Nobody may hold a view of the page through which they write.
pub(crate) unsafe fn protect(pfn: Pfn) -> Result<(), Errno> {
    let frame = p2m::mfn(pfn).ok_or(Errno::Inval)?;
    // SAFETY: reads go on working, and the caller says that nobody writes.
    unsafe { update_va_mapping(layout::address(pfn), frame.entry(bits::READ_ONLY), mmu::UVMF_INVLPG) }
}

/// Makes a page that was a table an ordinary one again.
///
/// # Safety
/// No table may refer to it any more, or the hypervisor will refuse.
pub(crate) unsafe fn unprotect(pfn: Pfn) -> Result<(), Errno> {
    let frame = p2m::mfn(pfn).ok_or(Errno::Inval)?;
    // SAFETY: widens a mapping of a page that is the caller's.
    unsafe { update_va_mapping(layout::address(pfn), frame.entry(bits::DATA), mmu::UVMF_INVLPG) }
}

/// The machine address of the last-level entry for `address` in the loaded tables, adding tables where they lack.
///
/// # Errors
/// `ENOMEM` without pages for tables, and what the hypervisor refuses.
pub(crate) fn ensure(address: u64) -> Result<u64, Errno> {
    loop {
        let place = walk(root(), address, 1).ok_or(Errno::Inval)?;
        if place.level == 1 {
            return Ok(place.entry);
        }
        let table = Page::zeroed().ok_or(Errno::NoMem)?;
        let frame = table.mfn();
        let pfn = table.into_pfn();
        let update = mmu::MmuUpdate { ptr: place.entry | mmu::MMU_NORMAL_PT_UPDATE, val: frame.entry(bits::TABLE) };
        // SAFETY: the page came from the pool and nobody else has a view of it; the entry was empty.
        unsafe {
            protect(pfn)?;
            mmu_update(&[update], DomId::SELF).map_err(|(_, errno)| errno)?;
        }
    }
}
