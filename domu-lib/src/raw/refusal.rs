//! Requests that a hypervisor must refuse, for guests that show or test that it does.
//!
//! Each takes a [`Page`], which is mapped writable as long as it lives and so can never be a page table.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::refusal;
//!
//! // Nothing is mapped at the first page: the fault is told instead of taken.
//! let fault = refusal::read(0).unwrap_err();
//! assert_eq!(fault.vector, 14);
//! ```

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::mmu::{self, MmuextOp};

use super::memory::page::Page;
use super::memory::{space, tables};
use super::trap;

pub use super::trap::Fault;

fn ext(cmd: u32, page: &Page) -> Result<(), Errno> {
    let op = MmuextOp { cmd, _pad: 0, arg1: page.mfn().raw(), arg2: 0 };
    // SAFETY: a page that is mapped writable has a type that none of these operations may change.
    unsafe { tables::mmuext_op(&[op], DomId::SELF) }.map_err(|(_, errno)| errno)
}

/// Asks to pin a writable page as a page table of `level`.
///
/// # Errors
/// The refusal.
pub fn pin(page: &Page, level: u32) -> Result<(), Errno> {
    ext(mmu::MMUEXT_PIN_L1_TABLE + level.clamp(1, 4) - 1, page)
}

/// Asks to unpin a page that is not pinned.
///
/// # Errors
/// The refusal.
pub fn unpin(page: &Page) -> Result<(), Errno> {
    ext(mmu::MMUEXT_UNPIN_TABLE, page)
}

/// Asks to load a writable page as the root of the address space.
///
/// # Errors
/// The refusal.
pub fn load_root(page: &Page) -> Result<(), Errno> {
    ext(mmu::MMUEXT_NEW_BASEPTR, page)
}

/// Asks to map a page where the hypervisor's own addresses are.
///
/// # Errors
/// The refusal.
pub fn map_at_hypervisor(page: &Page) -> Result<(), Errno> {
    let entry = page.mfn().entry(tables::bits::DATA);
    // SAFETY: nothing of this program is there.
    unsafe { tables::update_va_mapping(oxen_abi::segments::HYPERVISOR_VIRT_START, entry, mmu::UVMF_INVLPG) }
}

/// Reads 8 bytes from any address.
///
/// # Errors
/// The fault that this runs into.
pub fn read(address: u64) -> Result<u64, Fault> {
    trap::probe_read(address)
}

/// Writes 8 bytes to an address of the lower half, where no value of this program lives.
///
/// # Errors
/// The fault that this runs into; one without a vector for an address that is not in the lower half.
pub fn write(address: u64, value: u64) -> Result<(), Fault> {
    if address >= space::LOWER_HALF_END - 8 {
        return Err(Fault { vector: 0, error: 0, address });
    }
    // SAFETY: only an address space's own pages are mapped there, which are seen as atomics.
    unsafe { trap::probe_write(address, value) }
}
