//! The straight-line code that the CPU enters: saves the registers, calls one function, restores them.
//!
//! A guest's registers always land at the same place, the frame in the [`CpuBlock`] at the top of the stack, and RSP
//! points to the block when Rust is called. GS and the data selectors stay the guest's throughout; the hypervisor uses
//! none of them.

use super::super::machine::Pc;
use super::super::percpu::STACK_BYTES;
use super::super::running::{self, BLOCK_OFFSET, CpuBlock};
use super::super::segments::HYPERVISOR_SS;
use super::{exception, syscall};
use core::arch::global_asm;
use core::mem::offset_of;
use oxen_abi::segments::{FLAT_USER_CS, FLAT_USER_CS32, FLAT_USER_SS};
use oxen_hv::addr::TABLE_ENTRIES;
use oxen_hv::caller::Caller;
use oxen_hv::domain::regs::Regs;
use oxen_hv::domain::vcpu::VcpuState;
use oxen_hv::hypercall::NUMBERS;
use oxen_hv::layout::{DIRECT_MAP_START, END_HV_SLOT, FIRST_HV_SLOT};
use oxen_hv::per_cpu::CpuShared;
use oxen_hv::shared_info::VcpuInfoPlace;
use oxen_hv::speculation::{self, SpecCtrl, Way, Ways};

const FRAME: usize = offset_of!(CpuBlock, frame);
const WAYS: usize = offset_of!(VcpuState, ways);
/// Returns that a CPU foresees by the calls before them, at most.
const REMEMBERED_RETURNS: usize = 32;

global_asm!(
    include_str!("macros.s"),
    include_str!("defend.s"),
    include_str!("stubs.s"),
    cs = const offset_of!(Regs, cs),
    rip = const offset_of!(Regs, rip),
    rflags = const offset_of!(Regs, rflags),
    rsp = const offset_of!(Regs, rsp),
    rax = const offset_of!(Regs, rax),
    rbx = const offset_of!(Regs, rbx),
    rbp = const offset_of!(Regs, rbp),
    rdi = const offset_of!(Regs, rdi),
    rsi = const offset_of!(Regs, rsi),
    rdx = const offset_of!(Regs, rdx),
    rcx = const offset_of!(Regs, rcx),
    r8 = const offset_of!(Regs, r8),
    r9 = const offset_of!(Regs, r9),
    r10 = const offset_of!(Regs, r10),
    r11 = const offset_of!(Regs, r11),
    r12 = const offset_of!(Regs, r12),
    r13 = const offset_of!(Regs, r13),
    r14 = const offset_of!(Regs, r14),
    r15 = const offset_of!(Regs, r15),
    entry_vector = const offset_of!(Regs, entry_vector),
    frame = const FRAME,
    frame_words = const size_of::<Regs>() / 8,
    block_offset = const BLOCK_OFFSET,
    stack_mask = const STACK_BYTES - 1,
    stack_bytes = const STACK_BYTES,
    secondary_stub_bytes = const syscall::SECONDARY_STUB_BYTES,
    args = const offset_of!(CpuBlock, args),
    caller = const offset_of!(CpuBlock, caller),
    caller_state = const offset_of!(CpuBlock, caller) + offset_of!(Caller<'static, Pc>, state),
    shared = const offset_of!(CpuBlock, shared),
    work = const offset_of!(CpuShared, work),
    way = const WAYS + offset_of!(Ways, way),
    own_control = const WAYS + offset_of!(Ways, own),
    guests_control = const WAYS + offset_of!(Ways, guests),
    rounds = const WAYS + offset_of!(Ways, rounds),
    way_barrier = const Way::BARRIER.bits(),
    way_control = const Way::CONTROL.bits(),
    way_returns = const Way::RETURNS.bits(),
    way_history = const Way::HISTORY.bits(),
    way_divider = const Way::DIVIDER.bits(),
    way_apart = const Way::APART.bits(),
    left_root = const running::LEFT_ROOT,
    apart = const running::APART,
    apart_root = const running::APART_ROOT,
    direct_map = const DIRECT_MAP_START,
    shown_first = const FIRST_HV_SLOT + 1,
    hidden = const END_HV_SLOT - FIRST_HV_SLOT - 1,
    shown_last = const TABLE_ENTRIES - END_HV_SLOT,
    is_controlled = sym super::defend::IS_CONTROLLED,
    remembered_returns = const REMEMBERED_RETURNS,
    spec_ctrl = const speculation::SPEC_CTRL,
    ibrs = const SpecCtrl::IBRS.bits(),
    pred_cmd = const speculation::PRED_CMD,
    ibpb = const speculation::IBPB,
    hypervisor_ss = const HYPERVISOR_SS,
    in_kernel = const offset_of!(VcpuState, in_kernel),
    upcall_pending = const offset_of!(VcpuState, info) + VcpuInfoPlace::PENDING_OFFSET,
    numbers = const NUMBERS,
    no_such_call = const oxen_abi::errno::Errno::NoSys.to_return_value() as i64,
    user_ss = const FLAT_USER_SS,
    user_cs = const FLAT_USER_CS,
    user_cs32 = const FLAT_USER_CS32,
    syscall_vector_number = const Regs::SYSCALL_VECTOR,
    entries = const offset_of!(CpuBlock, entries),
    finish = sym super::finish,
    deliver = sym syscall::deliver,
    guest_exception = sym exception::guest_exception,
    guest_exception_on_own_stack = sym exception::guest_exception_on_own_stack,
    guest_page_fault = sym exception::guest_page_fault,
    guest_interrupt = sym exception::guest_interrupt,
    idle_interrupt = sym exception::idle_interrupt,
    hypervisor_exception = sym exception::hypervisor_exception,
    refused_return = sym exception::refused_return,
    unanswered = sym syscall::unanswered,
    user_syscall = sym syscall::user_syscall,
    user_syscall32 = sym syscall::user_syscall32,
    user_sysenter = sym syscall::user_sysenter,
);
