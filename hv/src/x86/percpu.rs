//! What each CPU has for itself, found at the top of its stack, and the few words that all CPUs share.

use super::entry::descriptors::{Gdt, Idt, Tss};
use super::machine::Pc;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, offset_of};
use core::ptr::{self, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use oxen_hv::Hypervisor;
use oxen_hv::addr::Mfn;
use oxen_hv::caller::{Caller, Current};
use oxen_hv::domain::{Domain, regs::Regs};
use oxen_hv::hardware::CpuId;
use oxen_hv::per_cpu::CpuShared;
use oxen_hv::reply::Args;
use spin::Once;

/// Bytes of a CPU's stack area, and its alignment: from any address inside it, masking finds its ends.
///
/// From the bottom: four 4 KiB stacks for double fault, NMI, machine check and debug; a guard page, not mapped; the stack.
pub(crate) const STACK_BYTES: usize = 128 << 10;
/// Where the block stands in the area; the stack begins below it.
pub(crate) const BLOCK_OFFSET: usize = STACK_BYTES - size_of::<CpuBlock>();
/// Where the guest's registers stand in the area.
pub(crate) const FRAME_OFFSET: usize = BLOCK_OFFSET + offset_of!(CpuBlock, frame);
/// Bytes of each of the stacks that the CPU takes for the faults that may find RSP anywhere.
pub(crate) const FAULT_STACK_BYTES: usize = 4096;
/// Where the guard page lies in the area.
pub(crate) const GUARD_OFFSET: usize = 4 * FAULT_STACK_BYTES;

/// The top of a CPU's stack area. Each part is borrowed by itself, while the others may be. The entry code knows where
/// each is; while it calls Rust, RSP points to the block.
#[repr(C, align(64))]
pub(crate) struct CpuBlock {
    padding: u64,
    /// The arguments of the hypercall that is executed.
    pub args: UnsafeCell<Args>,
    /// What the CPU and the entry code push when they come from a guest. Ends at a multiple of 16, to which the CPU
    /// aligns its stack before it pushes.
    pub frame: UnsafeCell<Regs>,
    /// The vcpu that runs, ready for handlers; made anew whenever another one is put on the CPU.
    pub caller: UnsafeCell<MaybeUninit<Caller<'static, Pc>>>,
    /// What this CPU shares with the others.
    pub shared: UnsafeCell<MaybeUninit<&'static CpuShared>>,
    running: UnsafeCell<MaybeUninit<Running>>,
    /// The domain that runs; null while it is being chosen.
    domain: AtomicPtr<Domain>,
    hardware: UnsafeCell<Hardware>,
    /// The exception by which the CPU refused to return to a guest: vector, and error code in the upper half.
    refusal: AtomicU64,
    /// The locks that this CPU holds.
    #[cfg(debug_assertions)]
    held: oxen_hv::lock::Held,
}

const _: () = assert!((offset_of!(CpuBlock, frame) + size_of::<Regs>()).is_multiple_of(16));

/// What is on the CPU.
struct Running {
    hv: &'static Hypervisor<Pc>,
    cpu: CpuId,
    current: Option<Current>,
}

impl CpuBlock {
    /// The guest that came in.
    ///
    /// # Safety
    /// On the way in from a guest, at most once; the reference is let go before [`Self::finish`] is called.
    #[inline]
    #[expect(
        clippy::mut_from_ref,
        reason = "the cell is the CPU's own; the caller answers for there being one reference"
    )]
    pub(crate) unsafe fn caller(&self) -> &mut Caller<'static, Pc> {
        // SAFETY: a guest came in, so `put_on` has filled it; the caller answers for the rest.
        unsafe { (*self.caller.get()).assume_init_mut() }
    }

    /// Bits of `sched::work` for this CPU.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        // SAFETY: set in `open`, before any guest or interrupt.
        unsafe { (*self.shared.get()).assume_init() }.work.load(Ordering::Relaxed) != 0
    }

    /// Why the CPU refused to return to a guest: vector and error code.
    pub(crate) fn refusal(&self) -> (u8, u32) {
        let noted = self.refusal.load(Ordering::Relaxed);
        (noted as u8, (noted >> 32) as u32)
    }

    /// Lets the scheduler do what waits on this CPU; afterwards a vcpu is on it that may run.
    ///
    /// # Safety
    /// On the way out, in place: no reference to anything of the block lives.
    pub(crate) unsafe fn reschedule(&self) {
        // SAFETY: opened before; the caller answers for the references.
        unsafe {
            let Running { hv, cpu, current } = (*self.running.get()).assume_init_mut();
            self.domain.store(null_mut(), Ordering::Relaxed);
            hv.leave(*cpu, current, &mut *self.frame.get());
            let Some(Current { domain, vcpu, state }) = current else { nobody() };
            self.domain.store(ptr::from_ref::<Domain>(domain).cast_mut(), Ordering::Relaxed);
            let caller = Caller { hv, cpu: *cpu, domain, vcpu, state, regs: &mut *self.frame.get() };
            (*self.caller.get()).write(caller);
        }
    }
}

#[cold]
#[expect(clippy::panic, reason = "the scheduler's promise; only a bug breaks it")]
fn nobody() -> ! {
    panic!("the scheduler left the CPU without a vcpu");
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
    /// What RDTSCP answers in ECX.
    pub tsc_aux: u32,
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
    let hardware = Hardware { number, tss, gdt, has_breakpoints: false, xcr0: 0, tsc_aux: 0, reserve: None };
    let contents = CpuBlock {
        padding: 0,
        args: UnsafeCell::default(),
        frame: UnsafeCell::default(),
        caller: UnsafeCell::new(MaybeUninit::uninit()),
        shared: UnsafeCell::new(MaybeUninit::uninit()),
        running: UnsafeCell::new(MaybeUninit::uninit()),
        domain: AtomicPtr::new(null_mut()),
        hardware: UnsafeCell::new(hardware),
        refusal: AtomicU64::new(0),
        #[cfg(debug_assertions)]
        held: oxen_hv::lock::Held::NOTHING,
    };
    // SAFETY: the block is this CPU's alone, by the caller's word not used before.
    unsafe { block.write(contents) }
}

/// Works on what the machine's own code keeps of this CPU.
#[inline]
pub(crate) fn with_hardware<R>(work: impl FnOnce(&mut Hardware) -> R) -> R {
    // SAFETY: the block is this CPU's alone and was filled when it came up; `work` is a leaf that does not come here.
    work(unsafe { &mut *(*block()).hardware.get() })
}

/// The domain that runs on this CPU, whose memory is the guest's; none while the next is chosen.
pub(crate) fn running_domain() -> Option<&'static Domain> {
    // SAFETY: the block is this CPU's and was filled before any guest ran. Who runs keeps its domain until `reschedule`
    // takes the pointer away, and nobody keeps the reference beyond the look for which it was asked.
    unsafe { (*block()).domain.load(Ordering::Relaxed).as_ref() }
}

/// Where the frame of this CPU ends: where the CPU begins to push when a guest comes in.
pub(crate) fn frame_end() -> u64 {
    (block() as usize + offset_of!(CpuBlock, frame) + size_of::<Regs>()) as u64
}

/// Keeps why the CPU refused to return to a guest.
pub(crate) fn note_refusal(vector: u32, error_code: u32) {
    // SAFETY: the block is this CPU's and was filled before any guest ran.
    unsafe { &(*block()).refusal }.store(u64::from(error_code) << 32 | u64::from(vector), Ordering::Relaxed);
}

/// The locks that this CPU holds.
#[cfg(debug_assertions)]
pub(crate) fn held() -> &'static oxen_hv::lock::Held {
    // SAFETY: the block is this CPU's, was filled when it came up, and stays for good.
    unsafe { &(*block()).held }
}

/// Makes this CPU one that guests may come in on. Returns its block, for the way to the first.
///
/// # Safety
/// Once per CPU, after `fill`.
pub(crate) unsafe fn open(hv: &'static Hypervisor<Pc>, cpu: CpuId, shared: &'static CpuShared) -> &'static CpuBlock {
    // SAFETY: the block is this CPU's alone, and nobody has a reference yet.
    unsafe {
        let block = &*block();
        (*block.running.get()).write(Running { hv, cpu, current: None });
        (*block.shared.get()).write(shared);
        block
    }
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
