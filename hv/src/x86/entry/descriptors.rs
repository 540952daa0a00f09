//! Segment and interrupt descriptors, as a CPU finds them.
//!
//! Each CPU sees its descriptor tables through a window: 14 frames of the running guest's GDT, then the hypervisor's
//! page, whose selectors the ABI fixes (0xe023, 0xe02b, 0xe033 for guests), and 16 frames of the guest's LDT behind it.

use super::super::memory::window::Window;
use super::super::percpu;
use super::super::segments::{Gdt, HYPERVISOR_CS, HYPERVISOR_SS, LDT_SELECTOR, RESERVED_SELECTORS, TSS_SELECTOR};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::VirtAddr;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::DescriptorFlags;

#[repr(C, align(16))]
struct Gate([AtomicU64; 2]);

/// The interrupt descriptor table that all CPUs share.
#[repr(C, align(4096))]
struct Idt([Gate; 256]);

static IDT: Idt = Idt([const { Gate([const { AtomicU64::new(0) }; 2]) }; 256]);

unsafe extern "C" {
    safe static exception_stubs: [u64; 20];
    safe static first_interrupt_stub: u64;
}

/// A present gate that closes interrupts (Intel SDM vol. 3A, 6.11).
const INTERRUPT_GATE: u64 = DescriptorFlags::PRESENT.bits() | 0xe << 40;

/// Bytes from one interrupt's stub to the next.
const INTERRUPT_STUB_BYTES: u64 = 16;

/// Where the interrupt descriptor table is: one page.
pub(crate) fn idt() -> u64 {
    &raw const IDT as u64
}

impl Idt {
    fn set(&self, vector: usize, handler: u64, ring: u64, stack: u64) {
        if let Some(gate) = self.0.get(vector) {
            let low = handler & 0xffff
                | u64::from(HYPERVISOR_CS) << 16
                | stack << 32
                | INTERRUPT_GATE
                | ring << 45
                | (handler >> 16 & 0xffff) << 48;
            let [first, second] = &gate.0;
            first.store(low, Ordering::Relaxed);
            second.store(handler >> 32, Ordering::Relaxed);
        }
    }

    /// Points every vector to its stub.
    fn fill(&self) {
        for (vector, &stub) in exception_stubs.iter().enumerate().filter(|&(_, &stub)| stub != 0) {
            let (ring, stack) = match vector {
                8 => (0, 1),
                2 => (0, 2),
                18 => (0, 3),
                1 => (0, 4),
                3 | 4 => (3, 0),
                _ => (0, 0),
            };
            self.set(vector, stub, ring, stack);
        }
        for vector in 32..256 {
            self.set(vector, first_interrupt_stub + (vector as u64 - 32) * INTERRUPT_STUB_BYTES, 0, 0);
        }
    }
}

/// The boot CPU's page of the GDT.
pub(crate) static BOOT_GDT: Gdt = Gdt::flat();

/// Lets faults on the boot CPU be caught before its window is mapped: its page stands at its link address. What comes
/// from guests will come on `guest_stack`.
///
/// # Safety
/// Once, on the boot CPU, before anything else of it is used.
pub(crate) unsafe fn early(guest_stack: u64) {
    IDT.fill();
    // SAFETY: nobody else runs yet, and this is the first that the CPU does.
    unsafe { percpu::fill(0, &BOOT_GDT, guest_stack) }
    let cpu = percpu::this();
    cpu.gdt.set_tss(&raw const cpu.tss);
    let base = (core::ptr::from_ref::<Gdt>(cpu.gdt) as u64).wrapping_sub(u64::from(RESERVED_SELECTORS));
    // SAFETY: the tables were just filled; all selectors loaded lie in the page at 0xe000.
    unsafe { load(base) }
}

/// Moves this CPU to the tables in its window; `false` if it has none. `own_page` is the
/// machine address of the CPU's page.
///
/// # Safety
/// After `tables::protect_image`, on a CPU whose stack area is filled; `own_page` is that of its GDT.
pub(crate) unsafe fn enter_window(own_page: u64) -> bool {
    let cpu = percpu::this();
    let Some(window) = Window::of(cpu.number) else { return false };
    window.show_own_gdt(own_page);
    window.show_gdt(&[None; 14]);
    // The boot CPU marked its own busy when it loaded it before.
    cpu.gdt.set_tss(&raw const cpu.tss);
    // SAFETY: the CPU's page was just mapped in its place; the IDT was filled by the boot CPU before.
    unsafe { load(window.gdt_base()) }
    true
}

/// Gives this CPU its tables: `gdt` as the CPU sees it through its window, and the shared IDT.
///
/// # Safety
/// At `gdt_base + 0xe000` the page of this CPU must be mapped, with its task state set; the IDT must be filled.
unsafe fn load(gdt_base: u64) {
    let [gdt_base, idt_base] = [gdt_base, &raw const IDT as u64].map(VirtAddr::new_truncate);
    let gdt = DescriptorTablePointer { limit: RESERVED_SELECTORS + 0xfff, base: gdt_base };
    let idt = DescriptorTablePointer { limit: size_of::<Idt>() as u16 - 1, base: idt_base };
    // SAFETY: the caller answers for both tables; the far return reloads CS with a ring 0
    // code descriptor of the new one.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "lidt [{idt}]",
            "push {cs}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ss, {ss:e}",
            "ltr {tss:x}",
            gdt = in(reg) &raw const gdt,
            idt = in(reg) &raw const idt,
            cs = const HYPERVISOR_CS,
            ss = in(reg) u32::from(HYPERVISOR_SS),
            tss = in(reg) TSS_SELECTOR,
            scratch = out(reg) _,
        );
    }
}

/// Loads or unloads the LDT, described in this CPU's page.
pub(crate) fn load_ldt(present: bool) {
    let selector = if present { LDT_SELECTOR } else { 0 };
    // SAFETY: the descriptor, if any, covers only the LDT window, where what is not mapped faults.
    unsafe { asm!("lldt {:x}", in(reg) selector, options(nostack, preserves_flags)) }
}
