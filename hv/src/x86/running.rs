//! What runs on each CPU, and what it runs on: the hypervisor, once the boot has made it.

use super::machine::Pc;
use super::{cpu, percpu};
use core::cell::{Cell, UnsafeCell};
use core::mem::{MaybeUninit, offset_of};
use core::ptr::{self, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use oxen_abi::trace::TRC_PV_HYPERCALL_V2;
use oxen_hv::Hypervisor;
use oxen_hv::addr::GuestAddr;
use oxen_hv::caller::{Caller, Current};
use oxen_hv::domain::{Domain, regs::Regs};
use oxen_hv::hardware::CpuId;
use oxen_hv::hypercall::{Entry, NUMBERS, Table};
use oxen_hv::layout::DIRECT_MAP_START;
use oxen_hv::mem::shadow::fault::Met;
use oxen_hv::per_cpu::CpuShared;
use oxen_hv::reply::Args;
use oxen_hv::trap::page_fault;
use spin::Once;
use static_assertions::{assert_not_impl_any, const_assert};

/// Every hypercall's handler, by number.
static ENTRIES: [Entry<Pc>; NUMBERS] = Table::<Pc>::ENTRIES;
/// The same while hypercalls are traced.
static TRACED: [Entry<Pc>; NUMBERS] = Table::<Pc>::TRACED;

/// The hypervisor, once the boot has made it.
pub(crate) static HYPERVISOR: Once<Hypervisor<Pc>> = Once::new();

/// Where the words of the block are that the ways in and out use to change roots.
pub(crate) const LEFT_ROOT: usize = offset_of!(CpuBlock, left_root);
/// See [`LEFT_ROOT`].
pub(crate) const APART: usize = offset_of!(CpuBlock, apart);
/// See [`LEFT_ROOT`].
pub(crate) const APART_ROOT: usize = offset_of!(CpuBlock, apart_root);

/// Where the block stands in a CPU's stack area; the stack begins below it.
pub(crate) const BLOCK_OFFSET: usize = percpu::HARDWARE_OFFSET - size_of::<CpuBlock>();

/// What runs on a CPU, at the top of its stack. Each part is borrowed by itself, while the others may be. The entry
/// code knows where each is; while it calls Rust, RSP points to the block.
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
    pub shared: &'static CpuShared,
    /// The way into each hypercall, by number: [`ENTRIES`], or [`TRACED`].
    pub entries: Cell<&'static [Entry<Pc>; NUMBERS]>,
    running: UnsafeCell<Running>,
    /// The domain that runs; null while it is being chosen.
    domain: AtomicPtr<Domain>,
    /// The root that the way out left, while another is loaded that shows only the ways in; 0 in the hypervisor.
    left_root: AtomicU64,
    /// That other, the CPU's own: where it is written, and its machine address; 0 where there is none.
    apart: Cell<u64>,
    apart_root: Cell<u64>,
    /// The exception by which the CPU refused to return to a guest: vector, and error code in the upper half.
    refusal: AtomicU64,
}

const_assert!((offset_of!(CpuBlock, frame) + size_of::<Regs>()).is_multiple_of(16));
assert_not_impl_any!(CpuBlock: Sync, Clone);

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
    /// On the way in from a guest, at most once; the reference is let go before `finish` is called.
    #[inline]
    #[expect(
        clippy::mut_from_ref,
        reason = "the cell is the CPU's own; the caller answers for there being one reference"
    )]
    pub(crate) unsafe fn caller(&self) -> &mut Caller<'static, Pc> {
        // SAFETY: a guest came in, so `put_on` has filled it; the caller answers for the rest.
        unsafe { (*self.caller.get()).assume_init_mut() }
    }

    /// Whether something is to be done on this CPU before a guest goes on.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        !self.shared.work.load(Ordering::Relaxed).is_empty()
    }

    /// Has the ways out leave for this root, the CPU's own, where the guest that runs is kept apart.
    pub(crate) fn keep_apart(&self, root: u64) {
        self.apart.set(DIRECT_MAP_START + root);
        self.apart_root.set(root);
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
            let Running { hv, cpu, current } = &mut *self.running.get();
            self.domain.store(null_mut(), Ordering::Relaxed);
            hv.leave(*cpu, current, &mut *self.frame.get());
            let Some(Current { domain, vcpu, state }) = current else { nobody() };
            self.domain.store(ptr::from_ref::<Domain>(domain).cast_mut(), Ordering::Relaxed);
            let regs = &mut *self.frame.get();
            let caller = Caller { hv, cpu: *cpu, shared: self.shared, domain, vcpu, state, regs };
            (*self.caller.get()).write(caller);
            self.entries.set(if hv.trace.wants(TRC_PV_HYPERCALL_V2) { &TRACED } else { &ENTRIES });
        }
    }
}

#[cold]
#[expect(clippy::panic, reason = "the scheduler's promise; only a bug breaks it")]
fn nobody() -> ! {
    panic!("the scheduler left the CPU without a vcpu");
}

/// The block of the CPU that asks.
#[inline]
fn block() -> *const CpuBlock {
    (percpu::area() + BLOCK_OFFSET) as *const CpuBlock
}

/// The domain that runs on this CPU, whose memory is the guest's; none while the next is chosen.
pub(crate) fn running_domain() -> Option<&'static Domain> {
    // SAFETY: the block is this CPU's and was opened before any guest ran. Who runs keeps its domain until `reschedule`
    // takes the pointer away, and nobody keeps the reference beyond the look for which it was asked.
    unsafe { (*block()).domain.load(Ordering::Relaxed).as_ref() }
}

/// Where the frame of this CPU ends: where the CPU begins to push when a guest comes in.
pub(crate) fn frame_end() -> u64 {
    (block() as usize + offset_of!(CpuBlock, frame) + size_of::<Regs>()) as u64
}

/// What the ways in look at first, before there is a block: this CPU has left no root.
///
/// # Safety
/// On the boot CPU, before `open`.
pub(crate) unsafe fn has_left_no_root() {
    // SAFETY: the place is the CPU's own, and nothing but these bits is there.
    unsafe { &(*block()).left_root }.store(0, Ordering::Relaxed);
}

/// Keeps why the CPU refused to return to a guest.
pub(crate) fn note_refusal(vector: u32, error_code: u32) {
    // SAFETY: the block is this CPU's and was opened before any guest ran.
    unsafe { &(*block()).refusal }.store(u64::from(error_code) << 32 | u64::from(vector), Ordering::Relaxed);
}

/// Whether what the guest on this CPU reads may be used: see `mem::linear`.
pub(crate) fn may_read(from: GuestAddr, bytes: u64) -> bool {
    let found = HYPERVISOR.get().zip(running_domain()).zip(cpu::root());
    found.is_some_and(|((hv, domain), root)| hv.memory.may_read(&domain.memory, root, from, bytes))
}

/// Whether the shadows of the guest's tables that this CPU has loaded show now what it met a fault at.
pub(crate) fn shows(address: u64, error_code: u32) -> bool {
    let met = HYPERVISOR
        .get()
        .zip(cpu::root())
        .and_then(|(hv, root)| hv.memory.shadow_fault(root, GuestAddr::new(address), page_fault::access(error_code)));
    met == Some(Met::Shown)
}

/// Makes this CPU one that guests may come in on. Returns its block, for the way to the first.
///
/// # Safety
/// Once per CPU, after `percpu::fill`.
pub(crate) unsafe fn open(hv: &'static Hypervisor<Pc>, cpu: CpuId, shared: &'static CpuShared) -> &'static CpuBlock {
    let block = block().cast_mut();
    let contents = CpuBlock {
        padding: 0,
        args: UnsafeCell::default(),
        frame: UnsafeCell::default(),
        caller: UnsafeCell::new(MaybeUninit::uninit()),
        shared,
        entries: Cell::new(&ENTRIES),
        running: UnsafeCell::new(Running { hv, cpu, current: None }),
        domain: AtomicPtr::new(null_mut()),
        left_root: AtomicU64::new(0),
        apart: Cell::new(0),
        apart_root: Cell::new(0),
        refusal: AtomicU64::new(0),
    };
    // SAFETY: the block is this CPU's alone, and nobody has a reference yet.
    unsafe {
        block.write(contents);
        &*block
    }
}

/// What stands on the stack of this CPU from `rsp` to its end; `None` if `rsp` is not in its area.
pub(crate) fn stack_from(rsp: u64) -> Option<&'static [u64]> {
    let end = block() as u64;
    let area = percpu::area() as u64;
    let start = rsp.next_multiple_of(8);
    if !(area..end).contains(&start) {
        return None;
    }
    // SAFETY: the range lies in this CPU's stack area, above what is pushed while it is looked at.
    Some(unsafe { core::slice::from_raw_parts(start as *const u64, (end - start) as usize / 8) })
}
