//! Segment, task state and interrupt descriptors.
//!
//! Each CPU sees its descriptor tables through a window: 14 frames of the running guest's GDT, then the page here, whose
//! selectors the ABI fixes (0xe023, 0xe02b, 0xe033 for guests), and 16 frames of the guest's LDT behind it.

use super::super::memory::window::Window;
use super::super::percpu::{self, FAULT_STACK_BYTES, STACK_BYTES};
use core::arch::asm;
use oxen_hv::domain::regs::Regs;

/// First selector of the hypervisor's own page in every GDT.
pub(crate) const RESERVED_SELECTORS: u16 = 0xe000;
/// Ring 0 code, as `syscall` and the interrupt gates load it.
pub(crate) const HYPERVISOR_CS: u16 = 0xe008;
/// Ring 0 data.
pub(crate) const HYPERVISOR_SS: u16 = 0xe010;
const TSS_SELECTOR: u16 = 0xe040;
const LDT_SELECTOR: u16 = 0xe050;

/// The hypervisor's page of the GDT.
#[repr(C, align(4096))]
pub(crate) struct Gdt([u64; 512]);

impl Gdt {
    /// The flat descriptors that the ABI promises; task state and LDT follow per CPU.
    pub(crate) const EMPTY: Self = {
        let mut entries = [0; 512];
        entries[1] = 0x00af_9b00_0000_ffff; // e008: ring 0, 64-bit code
        entries[2] = 0x00cf_9300_0000_ffff; // e010: ring 0, data
        entries[3] = 0x00cf_bb00_0000_ffff; // e019: ring 1, 32-bit code
        entries[4] = 0x00cf_fb00_0000_ffff; // e023: ring 3, 32-bit code
        entries[5] = 0x00cf_f300_0000_ffff; // e02b: ring 3, data
        entries[6] = 0x00af_fb00_0000_ffff; // e033: ring 3, 64-bit code
        Self(entries)
    };

    fn set_system(&mut self, selector: u16, kind: u64, base: u64, limit: u64) {
        let index = usize::from((selector - RESERVED_SELECTORS) >> 3);
        let low = limit & 0xffff
            | (base & 0xff_ffff) << 16
            | kind << 40
            | (limit >> 16 & 0xf) << 48
            | (base >> 24 & 0xff) << 56;
        if let Some([a, b]) = self.0.get_mut(index..index + 2).and_then(|s| <&mut [u64; 2]>::try_from(s).ok()) {
            *a = low;
            *b = base >> 32;
        }
    }

    /// Writes the descriptor of a CPU's task state segment.
    pub(crate) fn set_tss(&mut self, tss: *const Tss) {
        self.set_system(TSS_SELECTOR, 0x89, tss as u64, size_of::<Tss>() as u64 - 1);
    }

    /// Writes the LDT's descriptor for a table of `entries` at `base`.
    pub(crate) fn set_ldt(&mut self, base: u64, entries: u16) {
        self.set_system(LDT_SELECTOR, 0x82, base, u64::from(entries) * 8 - 1);
    }
}

/// The 64-bit task state segment: where the CPU finds its stacks.
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
pub(crate) struct Tss {
    reserved0: u32,
    ring_stacks: [u64; 3],
    reserved1: u64,
    fault_stacks: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

impl Tss {
    /// The one for the CPU whose stack area ends at `end`.
    pub(crate) fn of(end: u64) -> Self {
        let area = end - STACK_BYTES as u64;
        let mut fault_stacks = [0; 7];
        for (top, n) in fault_stacks.iter_mut().take(4).zip(1..) {
            *top = area + n * FAULT_STACK_BYTES as u64;
        }
        let frame = area + percpu::FRAME_OFFSET as u64;
        Self {
            reserved0: 0,
            ring_stacks: [frame + size_of::<Regs>() as u64, 0, 0],
            reserved1: 0,
            fault_stacks,
            reserved2: 0,
            reserved3: 0,
            io_map: size_of::<Self>() as u16,
        }
    }
}

#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Gate([u64; 2]);

/// The interrupt descriptor table that all CPUs share.
#[repr(C, align(4096))]
pub(crate) struct Idt([Gate; 256]);

unsafe extern "C" {
    safe static exception_stubs: [u64; 20];
    safe static first_interrupt_stub: u64;
}

/// Bytes from one interrupt's stub to the next.
const INTERRUPT_STUB_BYTES: u64 = 16;

impl Idt {
    /// A table without gates.
    pub(crate) const EMPTY: Self = Self([Gate([0; 2]); 256]);

    fn set(&mut self, vector: usize, handler: u64, ring: u64, stack: u64) {
        if let Some(gate) = self.0.get_mut(vector) {
            let low = handler & 0xffff
                | u64::from(HYPERVISOR_CS) << 16
                | stack << 32
                | 0x8e00 << 32
                | ring << 45
                | (handler >> 16 & 0xffff) << 48;
            *gate = Gate([low, handler >> 32]);
        }
    }

    /// Points every vector to its stub.
    pub(crate) fn fill(&mut self) {
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

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Lets faults on the boot CPU be caught before its window is mapped: its page stands at its link address.
///
/// # Safety
/// Once, on the boot CPU, before anything else uses its block.
pub(crate) unsafe fn early() {
    let (gdt, idt) = (&raw mut percpu::BOOT_GDT, &raw mut percpu::IDT);
    // SAFETY: nobody else runs yet; the block is this CPU's, and the two tables are taken here for the first time.
    let idt = unsafe {
        percpu::fill(0, &mut *gdt);
        &mut *idt
    };
    idt.fill();
    percpu::with_hardware(|cpu| {
        cpu.gdt.set_tss(&raw const cpu.tss);
        let base = (core::ptr::from_ref::<Gdt>(cpu.gdt) as u64).wrapping_sub(u64::from(RESERVED_SELECTORS));
        // SAFETY: the tables were just filled; all selectors loaded lie in the page at 0xe000.
        unsafe { load(base, idt) }
    });
}

/// Moves this CPU to the tables in its window; `false` if it has none. `own_page` is the machine address of the CPU's page.
///
/// # Safety
/// After `tables::protect_image`, on a CPU whose block is filled.
pub(crate) unsafe fn enter_window(own_page: u64) -> bool {
    percpu::with_hardware(|cpu| {
        let Some(window) = Window::of(cpu.number) else { return false };
        window.show_own_gdt(own_page);
        window.show_gdt(&[None; 14]);
        // The boot CPU marked its own busy when it loaded it before.
        cpu.gdt.set_tss(&raw const cpu.tss);
        // SAFETY: the CPU's page was just mapped in its place; the IDT was filled by the boot CPU before.
        unsafe { load(window.gdt_base(), &raw const percpu::IDT) }
        true
    })
}

/// Gives this CPU its tables: `gdt` as the CPU sees it through its window, and the shared IDT.
///
/// # Safety
/// At `gdt_base + 0xe000` the page of this CPU must be mapped, with its task state set; the IDT must be filled.
pub(crate) unsafe fn load(gdt_base: u64, idt: *const Idt) {
    let gdt = TablePointer { limit: RESERVED_SELECTORS + 0xfff, base: gdt_base };
    let idt = TablePointer { limit: size_of::<Idt>() as u16 - 1, base: idt as u64 };
    // SAFETY: the caller answers for both tables; the far return reloads CS with a ring 0 code descriptor of the new one.
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
