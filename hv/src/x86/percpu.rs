//! What the machine's own code keeps of each CPU, found at the end of its stack area.

use super::segments::{self, Gdt, Tss};
use core::arch::asm;
use core::cell::Cell;
use oxen_hv::addr::Mfn;
use static_assertions::{assert_not_impl_any, const_assert};

/// Bytes of a CPU's stack area, and its alignment: from any address inside it, masking finds its ends.
///
/// From the bottom: four 4 KiB stacks for double fault, NMI, machine check and debug; a guard page, not mapped; the
/// stack; the block of what runs there (`running`); [`Hardware`].
pub(crate) const STACK_BYTES: usize = 128 << 10;
/// Bytes of each of the stacks that the CPU takes for the faults that may find RSP anywhere.
pub(crate) const FAULT_STACK_BYTES: usize = 4096;
/// Where the guard page lies in the area.
pub(crate) const GUARD_OFFSET: usize = 4 * FAULT_STACK_BYTES;

/// Where [`Hardware`] stands in the area.
pub(crate) const HARDWARE_OFFSET: usize = STACK_BYTES - size_of::<Hardware>();

/// What the machine's own code keeps of the CPU.
#[repr(align(64))]
pub(crate) struct Hardware {
    /// Which CPU this is, from 0.
    pub number: usize,
    /// Where the CPU finds its stacks.
    pub tss: Tss,
    /// The hypervisor's page of its GDT.
    pub gdt: &'static Gdt,
    /// Whether the running vcpu's breakpoints are on.
    pub has_breakpoints: Cell<bool>,
    /// XCR0 as it is loaded; 0 where there is no XSAVE.
    pub xcr0: Cell<u64>,
    /// What RDTSCP answers in ECX.
    pub tsc_aux: Cell<u32>,
    /// Frames set aside for the next allocation, and how many.
    pub reserve: Cell<Option<(Mfn, usize)>>,
    /// The locks that this CPU holds.
    #[cfg(debug_assertions)]
    pub held: oxen_hv::lock::Held,
}

// Another CPU cannot get at it.
assert_not_impl_any!(Hardware: Sync, Clone);
const_assert!(HARDWARE_OFFSET > GUARD_OFFSET + FAULT_STACK_BYTES);

/// Where the stack area of the CPU that asks begins.
#[inline]
pub(crate) fn area() -> usize {
    let stack: usize;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) }
    stack & !(STACK_BYTES - 1)
}

/// What is kept of the CPU that asks.
#[inline]
pub(crate) fn this() -> &'static Hardware {
    // SAFETY: it was filled before anything else of the CPU was used, stays for good, and is this CPU's alone; there
    // are only shared references to it.
    unsafe { &*((area() + HARDWARE_OFFSET) as *const Hardware) }
}

/// Fills what is kept of this CPU. What comes from guests will come on `guest_stack`.
///
/// # Safety
/// Once per CPU, before anything else of it is used.
pub(crate) unsafe fn fill(number: usize, gdt: &'static Gdt, guest_stack: u64) {
    let area = area() as u64;
    let hardware = Hardware {
        number,
        tss: segments::task_state(guest_stack, |n| area + n * FAULT_STACK_BYTES as u64),
        gdt,
        has_breakpoints: Cell::new(false),
        xcr0: Cell::new(0),
        tsc_aux: Cell::new(0),
        reserve: Cell::new(None),
        #[cfg(debug_assertions)]
        held: oxen_hv::lock::Held::nothing(),
    };
    // SAFETY: the place is this CPU's alone, by the caller's word not used before.
    unsafe { ((area as usize + HARDWARE_OFFSET) as *mut Hardware).write(hardware) }
}
