//! What is said about a guest that has crashed: its last words and its registers.

use alloc::string::String;
use core::fmt::Write;

use oxen_abi::domid::DomId;
use oxen_abi::guest_context::VcpuGuestContext;
use oxen_domu_lib::{control, println};

use super::lifecycle::Guest;

/// Lines of the console that are shown.
const LINES: usize = 24;

/// Prints what is known.
pub fn report(guest: &Guest, domain: DomId) {
    let last = guest.console.last_lines(LINES);
    if last.is_empty() {
        println!("  it printed nothing on its console");
    } else {
        println!("  the last lines of its console (all of it: xl console {}):", guest.config.name);
        for line in String::from_utf8_lossy(&last).lines() {
            println!("  | {line}");
        }
    }
    match control::vcpu_context(domain, 0) {
        Ok(context) => println!("{}", registers(&context)),
        Err(errno) => println!("  its registers cannot be read: {}", errno.name()),
    }
}

/// A vcpu's registers, four on a line.
pub fn registers(context: &VcpuGuestContext) -> String {
    let r = &context.user_regs;
    let named = [
        ("rip", r.rip),
        ("rsp", r.rsp),
        ("flags", r.rflags),
        ("cr3", context.ctrlreg[3]),
        ("rax", r.rax),
        ("rbx", r.rbx),
        ("rcx", r.rcx),
        ("rdx", r.rdx),
        ("rsi", r.rsi),
        ("rdi", r.rdi),
        ("rbp", r.rbp),
        ("cr2", context.ctrlreg[2]),
        ("r8", r.r8),
        ("r9", r.r9),
        ("r10", r.r10),
        ("r11", r.r11),
        ("r12", r.r12),
        ("r13", r.r13),
        ("r14", r.r14),
        ("r15", r.r15),
        ("fs", context.fs_base),
        ("gs", context.gs_base_kernel),
        ("user gs", context.gs_base_user),
    ];
    let mut text = String::new();
    for (i, (name, value)) in named.iter().enumerate() {
        let start = if i % 4 == 0 { "\n  " } else { "  " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{start}{name:>7} {value:016x}");
    }
    let _ = write!(
        text,
        "\n       cs {:04x}  ss {:04x}  cr0 {:x}  cr4 {:x}",
        r.cs, r.ss, context.ctrlreg[0], context.ctrlreg[4]
    );
    String::from(text.trim_start_matches('\n'))
}
