//! The end of a guest that met a bug: what happened goes to every console, then the domain reports a crash.

use crate::at_end;
use crate::console::print_last_words;
use crate::raw::backtrace::Backtrace;
use crate::raw::trap::Frame;
use crate::sched::{Reason, shutdown};

/// An exception that nothing repairs.
pub(crate) fn exception(frame: &Frame) -> ! {
    let address = crate::raw::shared::fault_address();
    print_last_words(format_args!(
        "exception {} error {:#x} at {:#018x}, address {address:#018x}\n\
         cs {:#06x} rflags {:#010x} rsp {:#018x} ss {:#06x}\n\
         rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}\n\
         rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}\n\
         r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}\n\
         r13 {:016x} r14 {:016x} r15 {:016x}\ncalled from:\n{}",
        frame.vector,
        frame.error,
        frame.rip,
        frame.cs,
        frame.rflags,
        frame.rsp,
        frame.ss,
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11,
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15,
        Backtrace::of(frame),
    ));
    finish()
}

/// Does what is to be done at the end, and ends the domain.
fn finish() -> ! {
    at_end::do_all();
    shutdown(Reason::Crash)
}

/// Says why the guest cannot go on, and ends it.
pub(crate) fn end(reason: core::fmt::Arguments<'_>) -> ! {
    print_last_words(reason);
    finish()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    end(format_args!("{info}\ncalled from:\n{}", Backtrace::here()))
}
