//! Running user code: out by the iret hypercall, back at its next system call, exception or event.
//!
//! `oxen_run_user` is a call that returns when the user code enters the kernel: it parks the caller's registers on the
//! stack, tells the hypervisor that user code enters the kernel below them, and leaves. The way back (in `trap`) stores
//! the user's registers where they came from and unparks the caller.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, Ordering};

use oxen_abi::hypercall::{HYPERCALL_SLOT_BYTES, Hypercall};
use oxen_abi::segments;

use super::frame::Frame;
use crate::raw::hypercall::page::hypercall_page;

/// Where the registers of the user code that is running now go when it stops.
static RUNNING: AtomicPtr<Frame> = AtomicPtr::new(core::ptr::null_mut());

unsafe extern "C" {
    fn oxen_run_user(frame: *const Frame);
}

global_asm!(
    ".pushsection .text.user, \"ax\", @progbits",
    "oxen_run_user:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rip + oxen_user_resume], rsp",
    "mov rbx, rdi",
    "mov edi, {stack_segment}",
    "mov rsi, rsp",
    "call {page} + {stack_switch}",
    "push qword ptr [rbx + {ss}]",
    "push qword ptr [rbx + {rsp}]",
    "push qword ptr [rbx + {rflags}]",
    "push qword ptr [rbx + {cs}]",
    "push qword ptr [rbx + {rip}]",
    "push 0",
    "mov r15, [rbx + {r15}]",
    "mov r14, [rbx + {r14}]",
    "mov r13, [rbx + {r13}]",
    "mov r12, [rbx + {r12}]",
    "mov rbp, [rbx + {rbp}]",
    "mov r11, [rbx + {r11}]",
    "mov r10, [rbx + {r10}]",
    "mov r9, [rbx + {r9}]",
    "mov r8, [rbx + {r8}]",
    "mov rax, [rbx + {rax}]",
    "mov rcx, [rbx + {rcx}]",
    "mov rdx, [rbx + {rdx}]",
    "mov rsi, [rbx + {rsi}]",
    "mov rdi, [rbx + {rdi}]",
    "mov rbx, [rbx + {rbx}]",
    // The page's slot pushes rcx, r11 and rax itself and does not come back.
    "jmp {page} + {iret}",
    ".globl oxen_user_left",
    "oxen_user_left:",
    "mov rsp, [rip + oxen_user_resume]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
    ".pushsection .bss.user, \"aw\", @nobits",
    ".balign 8",
    "oxen_user_resume: .skip 8",
    ".popsection",
    r15 = const offset_of!(Frame, r15),
    r14 = const offset_of!(Frame, r14),
    r13 = const offset_of!(Frame, r13),
    r12 = const offset_of!(Frame, r12),
    rbp = const offset_of!(Frame, rbp),
    rbx = const offset_of!(Frame, rbx),
    r11 = const offset_of!(Frame, r11),
    r10 = const offset_of!(Frame, r10),
    r9 = const offset_of!(Frame, r9),
    r8 = const offset_of!(Frame, r8),
    rax = const offset_of!(Frame, rax),
    rcx = const offset_of!(Frame, rcx),
    rdx = const offset_of!(Frame, rdx),
    rsi = const offset_of!(Frame, rsi),
    rdi = const offset_of!(Frame, rdi),
    rip = const offset_of!(Frame, rip),
    cs = const offset_of!(Frame, cs),
    rflags = const offset_of!(Frame, rflags),
    rsp = const offset_of!(Frame, rsp),
    ss = const offset_of!(Frame, ss),
    page = sym hypercall_page,
    stack_segment = const segments::FLAT_KERNEL_SS,
    stack_switch = const Hypercall::StackSwitch as usize * HYPERCALL_SLOT_BYTES,
    iret = const Hypercall::Iret as usize * HYPERCALL_SLOT_BYTES,
);

/// Called on the way out of user code with what it left in the registers.
pub(super) extern "C" fn left(frame: &Frame) {
    let running = RUNNING.load(Ordering::Relaxed);
    // SAFETY: `run` stored a frame that it holds exclusively until this very return.
    unsafe { running.write(*frame) };
}

/// Runs user code with these registers, in the address space that is loaded, until it enters the kernel; `frame` then
/// says how it looks and why it came (`vector`).
///
/// # Safety
/// The user L4 that is loaded must map nothing of this program's writable memory for user code, and the code must not
/// be able to reach this program's memory otherwise.
pub(crate) unsafe fn run(frame: &mut Frame) {
    frame.cs = segments::FLAT_USER_CS.into();
    frame.ss = segments::FLAT_USER_SS.into();
    RUNNING.store(frame, Ordering::Relaxed);
    // SAFETY: the assembly keeps the calling convention; what the user code may do is the caller's promise.
    unsafe { oxen_run_user(frame) };
    RUNNING.store(core::ptr::null_mut(), Ordering::Relaxed);
}
