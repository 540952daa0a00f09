//! Hypercalls one by one, and instructions that are emulated, where a single line makes each.

use core::arch::asm;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::mmu::{self, MmuUpdate, MmuextOp};
use oxen_abi::{event_channel, memory, segments, vcpu, version};
use zerocopy::FromZeros;

use super::{ticks, ticks_if_done};
use crate::memory::Page;
use crate::raw::hypercall::{call1, call2, call3};
use crate::raw::memory::tables;

/// The name of a row, and what measures it.
pub type Named = (&'static str, fn() -> Option<u64>);

/// Calls, by the names of their rows, with what measures them; `None` where the hypervisor refuses.
pub const CALLS: [Named; 28] = [
    ("get_features", get_features),
    ("set_timer", || good(|| one::<{ Hypercall::SetTimerOp as u32 }>(0))),
    ("stack_switch", || good(|| two::<{ Hypercall::StackSwitch as u32 }>(segments::FLAT_KERNEL_SS.into(), STACK))),
    ("segment_base_fs", || good(|| two::<{ Hypercall::SetSegmentBase as u32 }>(segments::SEGBASE_FS.into(), 0x1000))),
    ("segment_base_gs", || {
        good(|| two::<{ Hypercall::SetSegmentBase as u32 }>(segments::SEGBASE_GS_USER.into(), 0x2000))
    }),
    ("fpu_taskswitch", || good(|| one::<{ Hypercall::FpuTaskswitch as u32 }>(0))),
    ("set_debugreg", || good(|| two::<{ Hypercall::SetDebugreg as u32 }>(0, 0))),
    ("get_debugreg", || good(|| one::<{ Hypercall::GetDebugreg as u32 }>(0))),
    ("vcpu_is_up", || good(|| three::<{ Hypercall::VcpuOp as u32 }>(vcpu::VCPUOP_IS_UP.into(), 0, 0) & !1)),
    ("vcpu_runstate", vcpu_runstate),
    ("vcpu_set_timer", vcpu_set_timer),
    ("vcpu_stop_timer", || {
        good(|| three::<{ Hypercall::VcpuOp as u32 }>(vcpu::VCPUOP_STOP_SINGLESHOT_TIMER.into(), 0, 0))
    }),
    ("tlb_flush", || ext(mmu::MMUEXT_TLB_FLUSH_LOCAL, 0)),
    ("tlb_flush_all", || ext(mmu::MMUEXT_TLB_FLUSH_ALL, 0)),
    ("invlpg", || ext(mmu::MMUEXT_INVLPG_LOCAL, mapped_address())),
    ("invlpg_all", || ext(mmu::MMUEXT_INVLPG_ALL, mapped_address())),
    ("new_user_baseptr", || ext(mmu::MMUEXT_NEW_USER_BASEPTR, 0)),
    ("tlb_flush_multi", || ext_of_vcpus(mmu::MMUEXT_TLB_FLUSH_MULTI, 0)),
    ("invlpg_multi", || ext_of_vcpus(mmu::MMUEXT_INVLPG_MULTI, mapped_address())),
    ("event_status", event_status),
    ("event_unmask", event_unmask),
    ("event_alloc_close", event_alloc_close),
    ("event_ipi_close", event_ipi_close),
    ("event_virq_close", event_virq_close),
    ("current_reservation", current_reservation),
    ("read_cr0", || Some(read_cr0())),
    ("clts", || Some(clts())),
    ("port_write", || Some(port_write())),
];

/// A kernel stack that nothing uses: programs run on others.
const STACK: u64 = 0xffff_8800_0000_0000;

fn one<const NR: u32>(argument: u64) -> u64 {
    // SAFETY: the table's arguments are values that name no memory of ours.
    unsafe { call1::<NR>(argument) }
}

fn two<const NR: u32>(first: u64, second: u64) -> u64 {
    // SAFETY: as above, or a structure that the caller has made for the call.
    unsafe { call2::<NR>(first, second) }
}

fn three<const NR: u32>(first: u64, second: u64, third: u64) -> u64 {
    // SAFETY: as above.
    unsafe { call3::<NR>(first, second, third) }
}

/// Ticks of a call whose result is 0.
#[inline(always)]
fn good(call: impl FnOnce() -> u64) -> Option<u64> {
    let mut result = 0;
    let ticks = ticks(|| result = call());
    (result == 0).then_some(ticks)
}

fn get_features() -> Option<u64> {
    let mut info = version::FeatureInfo { submap_idx: 0, submap: 0 };
    good(|| two::<{ Hypercall::XenVersion as u32 }>(version::XENVER_GET_FEATURES.into(), (&raw mut info) as u64))
}

fn vcpu_runstate() -> Option<u64> {
    let mut info = vcpu::VcpuRunstateInfo::new_zeroed();
    let command = vcpu::VCPUOP_GET_RUNSTATE_INFO.into();
    good(|| three::<{ Hypercall::VcpuOp as u32 }>(command, 0, (&raw mut info) as u64))
}

/// A timer that never fires while this runs.
fn vcpu_set_timer() -> Option<u64> {
    let request = vcpu::VcpuSetSingleshotTimer { timeout_abs_ns: 1 << 60, flags: 0, _pad: 0 };
    let command = vcpu::VCPUOP_SET_SINGLESHOT_TIMER.into();
    good(|| three::<{ Hypercall::VcpuOp as u32 }>(command, 0, (&raw const request) as u64))
}

/// An address that is mapped, to be flushed.
fn mapped_address() -> u64 {
    crate::raw::hypercall::page::hypercall_page as *const () as u64
}

fn ext(cmd: u32, arg1: u64) -> Option<u64> {
    ext2(cmd, arg1, 0)
}

/// A flush on the CPUs of the first vcpu.
fn ext_of_vcpus(cmd: u32, address: u64) -> Option<u64> {
    let vcpus = 1_u64;
    ext2(cmd, address, (&raw const vcpus) as u64)
}

/// Clearing a page that nothing shows, or copying another to it.
pub fn whole_page(to: &Page, from: Option<&Page>) -> Option<u64> {
    match from {
        None => ext2(mmu::MMUEXT_CLEAR_PAGE, to.mfn().raw(), 0),
        Some(from) => ext2(mmu::MMUEXT_COPY_PAGE, to.mfn().raw(), from.mfn().raw()),
    }
}

fn ext2(cmd: u32, arg1: u64, arg2: u64) -> Option<u64> {
    let op = [MmuextOp { cmd, _pad: 0, arg1, arg2 }];
    // SAFETY: flushes, unloads a root of programs that run no more, or writes to a page of atomics.
    ticks_if_done(|| unsafe { tables::mmuext_op(&op, DomId::SELF) })
}

/// Setting what the machine-to-physical table says of a page to what it says already.
pub fn machphys_update(page: &Page) -> Option<u64> {
    let update = [MmuUpdate { ptr: page.mfn().address() | mmu::MMU_MACHPHYS_UPDATE, val: page.pfn().raw() }];
    // SAFETY: the table says what it said before.
    ticks_if_done(|| unsafe { tables::mmu_update(&update, DomId::SELF) })
}

fn event<T>(command: u32, request: &mut T) -> u64 {
    two::<{ Hypercall::EventChannelOp as u32 }>(command.into(), core::ptr::from_mut(request) as u64)
}

/// The state of a port that is free.
fn event_status() -> Option<u64> {
    let mut request =
        event_channel::EvtchnStatus { dom: DomId::SELF, port: 1, ..event_channel::EvtchnStatus::new_zeroed() };
    good(|| event(event_channel::EVTCHNOP_STATUS, &mut request))
}

/// Unmasking a port at which nothing waits.
fn event_unmask() -> Option<u64> {
    let mut request = event_channel::EvtchnUnmask { port: 1 };
    good(|| event(event_channel::EVTCHNOP_UNMASK, &mut request))
}

/// Making a port for anybody's other end, and closing it.
fn event_alloc_close() -> Option<u64> {
    let mut made =
        event_channel::EvtchnAllocUnbound { dom: DomId::SELF, remote_dom: DomId::SELF, ..FromZeros::new_zeroed() };
    good(|| {
        let result = event(event_channel::EVTCHNOP_ALLOC_UNBOUND, &mut made);
        let mut close = event_channel::EvtchnClose { port: made.port };
        result | event(event_channel::EVTCHNOP_CLOSE, &mut close)
    })
}

/// Making a port that rings the vcpu itself, and closing it.
fn event_ipi_close() -> Option<u64> {
    let mut made = event_channel::EvtchnBindIpi { vcpu: 0, port: 0 };
    good(|| {
        let result = event(event_channel::EVTCHNOP_BIND_IPI, &mut made);
        let mut close = event_channel::EvtchnClose { port: made.port };
        result | event(event_channel::EVTCHNOP_CLOSE, &mut close)
    })
}

/// Making a port for a virtual interrupt, and closing it.
fn event_virq_close() -> Option<u64> {
    let mut made = event_channel::EvtchnBindVirq { virq: oxen_abi::virq::VIRQ_DEBUG, vcpu: 0, port: 0 };
    good(|| {
        let result = event(event_channel::EVTCHNOP_BIND_VIRQ, &mut made);
        let mut close = event_channel::EvtchnClose { port: made.port };
        result | event(event_channel::EVTCHNOP_CLOSE, &mut close)
    })
}

fn current_reservation() -> Option<u64> {
    let domain = DomId::SELF;
    let mut result = 0;
    let ticks = ticks(|| {
        let command = memory::XENMEM_CURRENT_RESERVATION.into();
        result = two::<{ Hypercall::MemoryOp as u32 }>(command, (&raw const domain) as u64);
    });
    Errno::check(result).ok().map(|_| ticks)
}

fn read_cr0() -> u64 {
    // SAFETY: the hypervisor answers.
    ticks(|| unsafe { asm!("mov {}, cr0", out(reg) _, options(nomem, nostack)) })
}

fn clts() -> u64 {
    // SAFETY: nothing here uses the floating-point unit.
    ticks(|| unsafe { asm!("clts", options(nomem, nostack)) })
}

/// To the port by which firmware tells how far it is.
fn port_write() -> u64 {
    // SAFETY: nobody minds.
    ticks(|| unsafe { asm!("out 0x80, al", in("al") 0u8, options(nomem, nostack)) })
}
