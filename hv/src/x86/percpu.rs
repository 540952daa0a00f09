//! What each CPU has for itself, found at the top of its stack, and the few words that all CPUs share.

use super::entry::descriptors::{Gdt, Idt, Tss};
use super::machine::Pc;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use oxen_hv::addr::Mfn;
use oxen_hv::domain::regs::Regs;
use oxen_hv::machine::CpuId;
use oxen_hv::sched::CpuShared;
use oxen_hv::{
    Hypervisor,
    caller::{Caller, Current},
};
use spin::Once;

/// Bytes of a CPU's stack area, and its alignment: from any address inside it, masking finds its ends.
///
/// From the bottom: four 4 KiB stacks for double fault, NMI, machine check and debug; a guard page, not mapped; the stack.
pub(crate) const STACK_BYTES: usize = 128 << 10;
/// Where the guest's registers stand in the area.
pub(crate) const FRAME_OFFSET: usize = STACK_BYTES - size_of::<CpuBlock>() + core::mem::offset_of!(CpuBlock, frame);
/// Bytes of each of the stacks that the CPU takes for the faults that may find RSP anywhere.
pub(crate) const FAULT_STACK_BYTES: usize = 4096;
/// Where the guard page lies in the area.
pub(crate) const GUARD_OFFSET: usize = 4 * FAULT_STACK_BYTES;

/// The top of a CPU's stack area. Each part is borrowed by itself, while the others may be.
#[repr(C, align(64))]
struct CpuBlock {
    /// So that `frame` ends at a multiple of 16, to which the CPU aligns its stack before it pushes.
    padding: u64,
    /// What the CPU and the entry paths push when they come from a guest.
    frame: UnsafeCell<Regs>,
    running: UnsafeCell<MaybeUninit<Running>>,
    hardware: UnsafeCell<Hardware>,
}

const _: () = assert!((FRAME_OFFSET + size_of::<Regs>()).is_multiple_of(16));

/// Who is on the CPU, for the ways in.
pub(crate) struct Running {
    /// The hypervisor.
    pub hv: &'static Hypervisor<Pc>,
    /// Which CPU this is.
    pub cpu: CpuId,
    /// What this CPU shares with the others.
    pub shared: &'static CpuShared,
    /// The vcpu.
    pub current: Option<Current>,
}

impl Running {
    /// The guest that came in with these registers.
    #[inline]
    pub(crate) fn caller<'a>(&'a mut self, regs: &'a mut Regs) -> Caller<'a, Pc> {
        let Some(Current { domain, vcpu, state }) = &mut self.current else { nobody() };
        Caller { hv: self.hv, cpu: self.cpu, domain, vcpu, state, regs }
    }
}

#[cold]
fn nobody() -> ! {
    panic!("a guest came in on a CPU that runs none");
}

/// What the machine's own code keeps of the CPU.
pub(crate) struct Hardware {
    /// Which CPU this is, from 0.
    pub number: usize,
    /// Where the CPU finds its stacks.
    pub tss: Tss,
    /// The hypervisor's page of its GDT.
    pub gdt: &'static mut Gdt,
    /// Whether the running vcpu's breakpoints are on.
    pub has_breakpoints: bool,
    /// XCR0 as it is loaded; 0 where there is no XSAVE.
    pub xcr0: u64,
    /// Frames set aside for the next allocation, and how many.
    pub reserve: Option<(Mfn, usize)>,
}

/// The block of the CPU that asks.
#[inline]
fn block() -> *const CpuBlock {
    let stack: usize;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) }
    ((stack & !(STACK_BYTES - 1)) + STACK_BYTES - size_of::<CpuBlock>()) as *const CpuBlock
}

/// Fills this CPU's block for the first time.
///
/// # Safety
/// Once per CPU, before anything else of it is used.
pub(crate) unsafe fn fill(number: usize, gdt: &'static mut Gdt) {
    let block = block().cast_mut();
    let tss = Tss::of(block as u64 + size_of::<CpuBlock>() as u64);
    // SAFETY: the block is this CPU's alone, by the caller's word not used before.
    unsafe {
        (&raw mut (*block).frame).write(UnsafeCell::default());
        (&raw mut (*block).running).write(UnsafeCell::new(MaybeUninit::uninit()));
        let hardware = Hardware { number, tss, gdt, has_breakpoints: false, xcr0: 0, reserve: None };
        (&raw mut (*block).hardware).write(UnsafeCell::new(hardware));
    }
}

/// Works on what the machine's own code keeps of this CPU.
#[inline]
pub(crate) fn with_hardware<R>(work: impl FnOnce(&mut Hardware) -> R) -> R {
    // SAFETY: the block is this CPU's alone and was filled when it came up; `work` is a leaf that does not come here.
    work(unsafe { &mut *(*block()).hardware.get() })
}

/// Makes this CPU one that guests may come in on.
///
/// # Safety
/// Once per CPU, after `fill`, before `running`.
pub(crate) unsafe fn open(hv: &'static Hypervisor<Pc>, cpu: CpuId, shared: &'static CpuShared) {
    // SAFETY: the block is this CPU's alone, and nobody has a reference yet.
    unsafe { (*(*block()).running.get()).write(Running { hv, cpu, shared, current: None }) };
}

/// Who is on this CPU.
///
/// # Safety
/// After `open`. Only a way in may ask, once, and must let go before it returns: no other reference to it may live.
#[inline]
pub(crate) unsafe fn running() -> &'static mut Running {
    // SAFETY: the block is this CPU's alone and was opened; the caller answers for the rest.
    unsafe { (*(*block()).running.get()).assume_init_mut() }
}

/// Where the entry paths push the guest's registers on this CPU.
pub(crate) fn frame() -> *mut Regs {
    // SAFETY: only an address is computed, of memory that is this CPU's.
    unsafe { (*block()).frame.get() }
}

/// What stands on the stack of this CPU from `rsp` to its end; `None` if `rsp` is not in its area.
pub(crate) fn stack_from(rsp: u64) -> Option<&'static [u64]> {
    let end = block() as u64;
    let area = end & !(STACK_BYTES as u64 - 1);
    let start = rsp.next_multiple_of(8);
    if !(area..end).contains(&start) {
        return None;
    }
    // SAFETY: the range lies in this CPU's stack area, above what is pushed while it is looked at.
    Some(unsafe { core::slice::from_raw_parts(start as *const u64, (end - start) as usize / 8) })
}

/// The hypervisor, once the boot has made it.
pub(crate) static HYPERVISOR: Once<Hypervisor<Pc>> = Once::new();
/// Slots 256 to 271 of every root, once the hypervisor's tables are built.
pub(crate) static ROOT_ENTRIES: Once<[u64; 16]> = Once::new();
/// The boot CPU's descriptor table page.
pub(crate) static mut BOOT_GDT: Gdt = Gdt::EMPTY;
/// The interrupt descriptor table that all CPUs share.
pub(crate) static mut IDT: Idt = Idt::EMPTY;
