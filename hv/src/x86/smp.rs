//! Starting the other CPUs, one after another, and their way to the first guest.

use super::entry::secondary::{START_PAGE, trampoline};
use super::entry::{descriptors, enter_guests, syscall};
use super::machine::Pc;
use super::memory::{apart, tables};
use super::running::{self, CpuBlock};
use super::segments::Gdt;
use super::{cpu, percpu};
use crate::log;
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use oxen_abi::errno::Errno;
use oxen_hv::Hypervisor;
use oxen_hv::addr::PAGE_BYTES;
use oxen_hv::hardware::CpuId;
use oxen_hv::layout::DIRECT_MAP_START;

/// Where the stack of the CPU that starts begins.
pub(super) static STARTING_STACK: AtomicU64 = AtomicU64::new(0);
/// The CPU that starts, and its page for descriptors.
static STARTING: AtomicUsize = AtomicUsize::new(0);
static STARTING_GDT: AtomicU64 = AtomicU64::new(0);
/// The last CPU that has started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// Microseconds from reset to start-up, between start-ups, and until a CPU is given up (Intel SDM vol. 3A, 9.4.4.1).
const AFTER_RESET: u64 = 10_000;
const BETWEEN_CALLS: u64 = 200;
const PATIENCE: u64 = 1_000_000;

/// Starts every CPU that the machine names. One that does not come is the last that is tried.
pub(crate) fn start_all(hv: &'static Hypervisor<Pc>) {
    if hv.machine().apic_ids.len() < 2 {
        return;
    }
    // What lies at the page may be the loader's; it gets it back.
    // SAFETY: all below 1 MiB is in the direct map for good, and atomics may alias anything there.
    let page = unsafe { &*((DIRECT_MAP_START + START_PAGE) as *const [AtomicU8; PAGE_BYTES]) };
    let kept: [u8; PAGE_BYTES] = core::array::from_fn(|at| page.get(at).map_or(0, |byte| byte.load(Ordering::Relaxed)));
    fill(page, trampoline());
    // SAFETY: this is the boot CPU, and no guest has run.
    unsafe { tables::show_low_memory(true) };
    for (number, &apic) in hv.machine().apic_ids.iter().enumerate().skip(1) {
        if let Err(why) = start_one(hv, number, apic) {
            log!("CPU {number} (APIC {apic}) is left out: {why}");
            break;
        }
    }
    // SAFETY: as before; CPUs that have started are past it.
    unsafe { tables::show_low_memory(false) };
    fill(page, &kept);
}

fn fill(page: &[AtomicU8], bytes: &[u8]) {
    page.iter().zip(bytes).for_each(|(place, &byte)| place.store(byte, Ordering::Relaxed));
}

/// Gives a CPU what it needs and wakes it; waits until it runs.
fn start_one(hv: &'static Hypervisor<Pc>, number: usize, apic: u8) -> Result<(), &'static str> {
    prepare(hv, number).map_err(|_| "no memory for its stack")?;
    let wait = |microseconds: u64| {
        let end = cpu::ticks() + hv.machine().frequencies.tsc / 1_000_000 * microseconds;
        while cpu::ticks() < end && STARTED.load(Ordering::Acquire) != number {
            core::hint::spin_loop();
        }
    };
    hv.machine().apic.reset(apic);
    wait(AFTER_RESET);
    for patience in [BETWEEN_CALLS, PATIENCE] {
        if STARTED.load(Ordering::Acquire) != number {
            hv.machine().apic.start_up(apic, (START_PAGE >> 12) as u8);
            wait(patience);
        }
    }
    if STARTED.load(Ordering::Acquire) == number {
        return Ok(());
    }
    // Should it come later than that, it would find what lies at the page by then: in reset it stays where it is.
    hv.machine().apic.reset(apic);
    Err("it does not start")
}

/// Maps a CPU's stack and its room for descriptors.
fn prepare(hv: &'static Hypervisor<Pc>, number: usize) -> Result<(), Errno> {
    // More than a stack area and the tables for it and for the window take, so that they cannot run out half-way.
    let first = hv.memory.take_own(FRAMES.ilog2())?.mfn();
    let mut next = first.address().as_u64();
    let mut frame = || {
        next += PAGE_BYTES as u64;
        next - PAGE_BYTES as u64
    };
    STARTING_GDT.store(DIRECT_MAP_START + frame(), Ordering::Relaxed);
    // SAFETY: once for each number, by the boot CPU; the frames are enough, zeroed and the hypervisor's.
    let end = unsafe { tables::map_secondary(number, &mut frame) };
    STARTING_STACK.store(end - (percpu::STACK_BYTES - running::BLOCK_OFFSET) as u64, Ordering::Relaxed);
    STARTING.store(number, Ordering::Release);
    let left =
        (0..FRAMES as u64).filter_map(|index| first.checked_add(index)).filter(|mfn| mfn.address().as_u64() >= next);
    left.for_each(|mfn| hv.memory.give_back_own(mfn));
    Ok(())
}

/// Makes this CPU's root for guests that are kept apart, where there are any. Returns whether there was memory for it.
pub(crate) fn keep_apart(hv: &Hypervisor<Pc>, number: usize, block: &CpuBlock) -> bool {
    if !hv.speculation.keeps_any_apart() {
        return true;
    }
    let Ok(first) = hv.memory.take_own(apart::FRAMES.next_power_of_two().ilog2()) else { return false };
    let mut next = first.mfn().address().as_u64();
    let frames = || {
        next += PAGE_BYTES as u64;
        next - PAGE_BYTES as u64
    };
    // SAFETY: the frames are zeroed, the hypervisor's and enough; the stacks are this CPU's, and all of it stays.
    block.keep_apart(unsafe { apart::build(number, percpu::area() as u64, descriptors::idt(), frames) });
    true
}

/// A power of two, more than a stack area's frames, the descriptors' and two tables.
const FRAMES: usize = (percpu::STACK_BYTES / PAGE_BYTES + 3).next_power_of_two();

/// Where a CPU that starts comes from its first instructions, on its own stack.
pub(super) extern "sysv64" fn start() -> ! {
    let number = STARTING.load(Ordering::Acquire);
    let gdt = STARTING_GDT.load(Ordering::Relaxed) as *mut Gdt;
    let Some(hv) = running::HYPERVISOR.get() else { super::device::power::halt() };
    // SAFETY: the page was taken for this CPU's descriptors alone, and this is the first that the CPU does.
    unsafe {
        gdt.write(Gdt::flat());
        percpu::fill(number, &*gdt, running::frame_end());
        descriptors::enter_window(tables::direct_machine_address(gdt));
        cpu::set_up(&hv.machine().features);
    }
    hv.speculation.set_up(hv.machine());
    hv.machine().apic.enable();
    let cpu = CpuId(number as u16);
    // SAFETY: likewise; the stubs of this number are for the stack that it stands on.
    let block = unsafe {
        let Some(shared) = hv.cpu(cpu).filter(|_| syscall::enable(number)) else { super::device::power::halt() };
        running::open(hv, cpu, shared)
    };
    if hv.bring_up_cpu(cpu).is_err() {
        super::device::power::halt();
    }
    if !keep_apart(hv, number, block) {
        super::device::power::halt();
    }
    hv.memory.frames.tlb.join(cpu);
    STARTED.store(number, Ordering::Release);
    // SAFETY: the block is this CPU's and open.
    unsafe { enter_guests(block) }
}
