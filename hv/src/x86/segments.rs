//! The hypervisor's page of the GDT, and what it describes: flat segments, the task state, the LDT.

use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::VirtAddr;
use x86_64::structures::gdt::DescriptorFlags;
pub(crate) use x86_64::structures::tss::TaskStateSegment as Tss;

/// First selector of the hypervisor's own page in every GDT.
pub(crate) const RESERVED_SELECTORS: u16 = 0xe000;
/// Ring 0 code, as `syscall` and the interrupt gates load it.
pub(crate) const HYPERVISOR_CS: u16 = 0xe008;
/// Ring 0 data.
pub(crate) const HYPERVISOR_SS: u16 = 0xe010;
pub(crate) const TSS_SELECTOR: u16 = 0xe040;
pub(crate) const LDT_SELECTOR: u16 = 0xe050;
/// The privilege level of a descriptor, as the crate has it only of 0 and 3.
const RING_1: u64 = 1 << 45;

/// The hypervisor's page of the GDT.
#[repr(C, align(4096))]
pub(crate) struct Gdt([AtomicU64; 512]);

impl Gdt {
    /// The flat descriptors that the ABI promises; task state and LDT follow per CPU.
    pub(crate) const fn flat() -> Self {
        let mut entries = [const { AtomicU64::new(0) }; 512];
        entries[1] = AtomicU64::new(DescriptorFlags::KERNEL_CODE64.bits()); // e008
        entries[2] = AtomicU64::new(DescriptorFlags::KERNEL_DATA.bits()); // e010
        entries[3] = AtomicU64::new(DescriptorFlags::KERNEL_CODE32.bits() | RING_1); // e019
        entries[4] = AtomicU64::new(DescriptorFlags::USER_CODE32.bits()); // e023
        entries[5] = AtomicU64::new(DescriptorFlags::USER_DATA.bits()); // e02b
        entries[6] = AtomicU64::new(DescriptorFlags::USER_CODE64.bits()); // e033
        Self(entries)
    }

    fn set_system(&self, selector: u16, kind: u64, base: u64, limit: u64) {
        let index = usize::from((selector - RESERVED_SELECTORS) >> 3);
        let low = limit & 0xffff
            | (base & 0xff_ffff) << 16
            | kind << 40
            | (limit >> 16 & 0xf) << 48
            | (base >> 24 & 0xff) << 56;
        if let Some([first, second]) = self.0.get(index..index + 2) {
            first.store(low, Ordering::Relaxed);
            second.store(base >> 32, Ordering::Relaxed);
        }
    }

    /// Writes the descriptor of a CPU's task state segment.
    pub(crate) fn set_tss(&self, tss: *const Tss) {
        self.set_system(TSS_SELECTOR, 0x89, tss as u64, size_of::<Tss>() as u64 - 1);
    }

    /// Writes the LDT's descriptor for a table of `entries` at `base`.
    pub(crate) fn set_ldt(&self, base: u64, entries: u16) {
        self.set_system(LDT_SELECTOR, 0x82, base, u64::from(entries) * 8 - 1);
    }
}

/// The task state of a CPU: where it finds its stacks, which are that for what comes from guests, and those for the
/// faults that may find RSP anywhere.
pub(crate) fn task_state(guest_stack: u64, fault_stack: impl Fn(u64) -> u64) -> Tss {
    let mut tss = Tss::new();
    let fault_stack = |n| VirtAddr::new_truncate(fault_stack(n));
    let none = VirtAddr::zero();
    tss.interrupt_stack_table = [fault_stack(1), fault_stack(2), fault_stack(3), fault_stack(4), none, none, none];
    tss.privilege_stack_table = [VirtAddr::new_truncate(guest_stack), none, none];
    tss
}
