//! Running user code: out by the iret hypercall, back at its next system call, exception or event.
//!
//! `oxen_run_user` is a call that returns when the user code enters the kernel: it parks the caller's registers on the
//! stack, tells the hypervisor that user code enters the kernel below them, and leaves. The way back (in `trap`) stores
//! the user's registers where they came from and unparks the caller.

use core::arch::global_asm;
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
    "push qword ptr [rbx + 168]",
    "push qword ptr [rbx + 160]",
    "push qword ptr [rbx + 152]",
    "push qword ptr [rbx + 144]",
    "push qword ptr [rbx + 136]",
    "push 0",
    "mov r15, [rbx]",
    "mov r14, [rbx + 8]",
    "mov r13, [rbx + 16]",
    "mov r12, [rbx + 24]",
    "mov rbp, [rbx + 32]",
    "mov r11, [rbx + 48]",
    "mov r10, [rbx + 56]",
    "mov r9, [rbx + 64]",
    "mov r8, [rbx + 72]",
    "mov rax, [rbx + 80]",
    "mov rcx, [rbx + 88]",
    "mov rdx, [rbx + 96]",
    "mov rsi, [rbx + 104]",
    "mov rdi, [rbx + 112]",
    "mov rbx, [rbx + 40]",
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
