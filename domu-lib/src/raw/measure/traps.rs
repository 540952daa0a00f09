//! Ways into the guest's kernel and back: events, page faults, emulated instructions, programs' calls, the timer.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use alloc::vec::Vec;

use oxen_abi::hypercall::{HYPERCALL_SLOT_BYTES, Hypercall};
use oxen_abi::{callback, event_channel, segments, trap};
use zerocopy::FromZeros;

use super::{BEGIN, END, Window, begin, count_interval, ticks};
use crate::raw::hypercall::page;
use crate::raw::hypercall::{call1, call2};
use crate::raw::trap::Frame;
use crate::raw::{shared, trap as entries};

unsafe extern "C" {
    fn oxen_measure_syscall();
    pub(super) fn oxen_measure_return();
    pub(super) fn oxen_measure_fault();
    pub(super) fn oxen_measure_skip();
    fn oxen_measure_fault_of_two();
    fn oxen_measure_upcall();
    fn oxen_measure_timer();
}

/// Address of the pending word and the bit of the port that `oxen_measure_upcall` acknowledges.
#[unsafe(no_mangle)]
static oxen_measure_pending: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static oxen_measure_bit: AtomicU64 = AtomicU64::new(0);
/// Address of vcpu 0's information in the shared page.
#[unsafe(no_mangle)]
static oxen_measure_vcpu: AtomicU64 = AtomicU64::new(0);
/// When the last timer upcall began.
#[unsafe(no_mangle)]
static oxen_measure_stamp: AtomicU64 = AtomicU64::new(0);

global_asm!(
    ".pushsection .text.measure, \"ax\", @progbits",
    // The frame of a syscall becomes that of the iret hypercall: flags, rip, cs, rflags, rsp, ss.
    "oxen_measure_syscall:",
    "add rsp, 8",
    "mov qword ptr [rsp], {in_syscall}",
    "jmp {page} + {iret}",
    "oxen_measure_return:",
    "pop rcx",
    "pop r11",
    "push 0",
    "jmp {page} + {iret}",
    // Goes on behind the faulting instruction, which has three bytes.
    "oxen_measure_fault:",
    "pop rcx",
    "pop r11",
    "add rsp, 8",
    "add qword ptr [rsp], 3",
    "push 0",
    "jmp {page} + {iret}",
    // Behind an instruction of two bytes, whose exception has no error code; and one that has one.
    "oxen_measure_skip:",
    "pop rcx",
    "pop r11",
    "add qword ptr [rsp], 2",
    "push 0",
    "jmp {page} + {iret}",
    "oxen_measure_fault_of_two:",
    "pop rcx",
    "pop r11",
    "add rsp, 8",
    "add qword ptr [rsp], 2",
    "push 0",
    "jmp {page} + {iret}",
    // Acknowledges one port: nothing else can be pending while this is measured. The iret unmasks.
    "oxen_measure_upcall:",
    "push rax",
    "mov rcx, [rip + oxen_measure_vcpu]",
    "mov rax, [rip + oxen_measure_pending]",
    "mov r11, [rip + oxen_measure_bit]",
    "mov byte ptr [rcx], 0",
    "mov qword ptr [rcx + 8], 0",
    "lock btr [rax], r11",
    "pop rax",
    "pop rcx",
    "pop r11",
    "push 0",
    "jmp {page} + {iret}",
    "oxen_measure_timer:",
    "push rax",
    "push rdx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rip + oxen_measure_stamp], rax",
    ".ascii \"\\x0f\\x1f\\x80NEXO\"",
    "pop rdx",
    "pop rax",
    "pop rcx",
    "pop r11",
    "and dword ptr [rsp + 16], ~0x200",
    "push 0",
    "jmp {page} + {iret}",
    ".popsection",
    page = sym page::hypercall_page,
    iret = const Hypercall::Iret as usize * HYPERCALL_SLOT_BYTES,
    in_syscall = const segments::VGCF_IN_SYSCALL,
);

/// Sending an event to the port that `from` rings; where `upcall` is set, with the upcall that it makes.
pub fn event_send(from: u32, to: u32, upcall: bool) -> u64 {
    let word = core::mem::offset_of!(oxen_abi::shared_info::SharedInfo, evtchn_pending) + to as usize / 64 * 8;
    oxen_measure_pending.store(core::ptr::from_ref(shared::word(word)) as u64, Ordering::Relaxed);
    oxen_measure_bit.store(u64::from(to) % 64, Ordering::Relaxed);
    oxen_measure_vcpu.store(core::ptr::from_ref(shared::word(0)) as u64, Ordering::Relaxed);
    if upcall {
        entries::register_callback(callback::CALLBACKTYPE_EVENT, oxen_measure_upcall as *const () as u64);
        // What came before is taken first, such as the event of being bound: the next one is to make an upcall.
        crate::event::collect();
        shared::upcall_mask().store(0, Ordering::SeqCst);
    }
    let request = event_channel::EvtchnSend { port: from };
    let ticks = ticks(|| {
        // SAFETY: the call reads the structure; the handler keeps what it uses.
        unsafe {
            call2::<{ Hypercall::EventChannelOp as u32 }>(
                event_channel::EVTCHNOP_SEND.into(),
                (&raw const request) as u64,
            )
        };
    });
    shared::upcall_mask().store(1, Ordering::SeqCst);
    if upcall {
        entries::register_event_entry();
    } else {
        shared::word(word).fetch_and(!(1 << (to % 64)), Ordering::SeqCst);
    }
    ticks
}

/// Runs with `handler` for a vector, which keeps every register but rcx and r11.
pub(super) fn with_handler<T>(vector: u8, handler: u64, run: impl FnOnce() -> T) -> T {
    let set = |address| {
        let entry = trap::TrapInfo { vector, flags: 3, cs: segments::FLAT_KERNEL_CS, _pad: 0, address };
        let table = [entry, trap::TrapInfo::new_zeroed()];
        // SAFETY: the handlers here keep every register but rcx and r11, which the code below gives up.
        unsafe { call1::<{ Hypercall::SetTrapTable as u32 }>(table.as_ptr() as u64) };
    };
    set(handler);
    let result = run();
    if vector < 32 {
        set(entries::exception_entry(vector));
    }
    result
}

/// A page fault to the handler and back.
pub fn page_fault(window: &Window) -> u64 {
    let address = window.address();
    with_handler(14, oxen_measure_fault as *const () as u64, || {
        // SAFETY: nothing is mapped there; the handler skips the instruction.
        ticks(|| unsafe {
            asm!(".byte 0x48, 0x8b, 0x07", in("rdi") address, inout("rax") 0u64 => _, out("rcx") _, out("r11") _);
        })
    })
}

/// Reading the page attribute table's MSR.
pub fn read_msr() -> u64 {
    // SAFETY: the hypervisor answers for this register.
    ticks(|| unsafe { asm!("rdmsr", in("ecx") 0x277, out("eax") _, out("edx") _) })
}

/// Reading a byte from an I/O port.
pub fn read_port() -> u64 {
    ticks(|| {
        crate::raw::machine::port::read8(0x80);
    })
}

/// Calls that a program of [`user_program`] makes.
pub const USER_CALLS: u32 = 256;

/// The vector of system calls by `int`.
const SYSTEM_CALL: u8 = 0x80;

/// How a program comes into its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserCall {
    /// `syscall`.
    Syscall,
    /// `int 0x80`.
    Interrupt,
    /// An instruction that is none.
    InvalidOpcode,
    /// A division by zero.
    DivideError,
    /// A read where nothing is mapped.
    PageFault,
    /// An instruction that is not the program's.
    GeneralProtection,
}

impl UserCall {
    /// The two bytes that make it.
    const fn code(self) -> [u8; 2] {
        match self {
            Self::Syscall => [0x0f, 0x05],
            Self::Interrupt => [0xcd, SYSTEM_CALL],
            Self::InvalidOpcode => [0x0f, 0x0b],
            // div ecx
            Self::DivideError => [0xf7, 0xf1],
            // mov al, [rdi]
            Self::PageFault => [0x8a, 0x07],
            // hlt; nop
            Self::GeneralProtection => [0xf4, 0x90],
        }
    }

    /// The vector of its exception, and the handler.
    fn handler(self) -> (u8, u64) {
        let (vector, handler) = match self {
            Self::Syscall | Self::Interrupt => (SYSTEM_CALL, oxen_measure_return as *const ()),
            Self::InvalidOpcode => (6, oxen_measure_skip as *const ()),
            Self::DivideError => (0, oxen_measure_skip as *const ()),
            Self::PageFault => (14, oxen_measure_fault_of_two as *const ()),
            Self::GeneralProtection => (13, oxen_measure_fault_of_two as *const ()),
        };
        (vector, handler as u64)
    }
}

/// User code that calls its kernel [`USER_CALLS`] times and leaves the ticks of all in rax, then traps: position
/// independent.
pub fn user_program(call: UserCall) -> Vec<u8> {
    let mut code = Vec::from(BEGIN);
    // rdtsc; shl rdx, 32; or rax, rdx; mov rbx, rax; mov ebp, USER_CALLS
    code.extend([0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x89, 0xc3, 0xbd]);
    code.extend(USER_CALLS.to_le_bytes());
    code.extend(call.code());
    // dec ebp; jnz back to the call
    code.extend([0xff, 0xcd, 0x75, 0xfa]);
    // rdtsc; shl rdx, 32; or rax, rdx; sub rax, rbx
    code.extend([0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x29, 0xd8]);
    code.extend(END);
    // int3
    code.push(0xcc);
    code
}

/// Calls of user code to this kernel and back, once the code is mapped at `address` of `space`.
pub fn user_call(call: UserCall, space: &crate::raw::memory::space::AddressSpace, address: u64) -> Option<u64> {
    let mut frame = Frame { rip: address, rsp: address, ..Frame::default() };
    let mut run = || space.run_user(&mut frame);
    let ran = match call {
        UserCall::Syscall => {
            entries::register_callback(callback::CALLBACKTYPE_SYSCALL, oxen_measure_syscall as *const () as u64);
            let ran = run();
            entries::register_syscall_entry();
            ran
        }
        _ => {
            let (vector, handler) = call.handler();
            with_handler(vector, handler, run)
        }
    };
    if ran.is_err() || frame.vector != 3 {
        return None;
    }
    count_interval();
    // Two instructions of the loop are not the call's.
    Some(frame.rax - 2 * u64::from(USER_CALLS))
}

/// From the moment a timer was set for, to the first instruction of a blocked guest's handler.
pub fn timer_latency() -> Option<u64> {
    timer(crate::event::wait_for_any)
}

/// The same for a guest that runs.
pub fn timer_while_running() -> Option<u64> {
    timer(|| {
        shared::upcall_mask().store(0, Ordering::SeqCst);
        while oxen_measure_stamp.load(Ordering::Relaxed) == 0 {}
        shared::upcall_mask().store(1, Ordering::SeqCst);
    })
}

fn timer(wait: impl FnOnce()) -> Option<u64> {
    let (deadline, stamp) = crate::time::ahead(200_000);
    entries::register_callback(callback::CALLBACKTYPE_EVENT, oxen_measure_timer as *const () as u64);
    // What came before is taken first: the next event is to be the timer's.
    crate::event::collect();
    oxen_measure_stamp.store(0, Ordering::Relaxed);
    // SAFETY: touches no memory.
    let set = unsafe { call1::<{ Hypercall::SetTimerOp as u32 }>(deadline) };
    begin();
    wait();
    count_interval();
    entries::register_event_entry();
    crate::event::collect();
    let came = oxen_measure_stamp.load(Ordering::Relaxed);
    (set == 0 && came >= stamp).then(|| came - stamp)
}
