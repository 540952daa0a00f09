//! What is said about a guest that has crashed: its last words and its registers.

use alloc::{string::String, vec::Vec};
use core::fmt::{self, Write};

use oxen_abi::domid::DomId;
use oxen_abi::guest_context::VcpuGuestContext;
use oxen_domu_lib::control;

use super::guest::Guest;
use crate::guest_text;

/// Lines at the console's end that are shown.
const MAX_LAST: usize = 24;
/// Lines before those that are shown because they tell why.
const MAX_TELLING: usize = 12;
/// Bytes of a line that are shown.
const MAX_LINE: usize = 160;

/// What a kernel or a program of ours prints when it goes wrong, and how many lines behind it belong to it.
const TELLING: [(&str, usize); 5] =
    [("Kernel panic", 0), ("panicked at", 1), ("Call Trace", 4), ("BUG", 0), ("Oops", 0)];

/// Prints what is known, as far as the guest's rate allows: one that crashes again and again is explained now and then.
pub fn report(guest: &Guest, domain: DomId) {
    let say = |text: fmt::Arguments<'_>| guest_text::say(&guest.end_log, domain, text);
    let history = guest.console.history();
    let Account { telling, last } = Account::of(&history);
    let show = |lines: &[&[u8]]| {
        lines.iter().for_each(|line| say(format_args!("  | {}", guest_text::line(line).limited(MAX_LINE))));
    };
    if !telling.is_empty() {
        say(format_args!("  lines of its console that tell why:"));
        show(&telling);
    }
    if last.is_empty() {
        say(format_args!("  it printed nothing on its console"));
    } else {
        say(format_args!("  the last lines of its console (all of it: xl console {}):", guest.name()));
        show(&last);
    }
    match control::vcpu_context(domain, 0) {
        Ok(context) => registers(&context).lines().for_each(|line| say(format_args!("{line}"))),
        Err(errno) => say(format_args!("  its registers cannot be read: {}", errno.name())),
    }
}

/// The lines of a console that are shown.
#[derive(Debug, PartialEq, Eq)]
struct Account<'a> {
    /// Those before the last ones that tell why the guest died.
    telling: Vec<&'a [u8]>,
    /// The last ones.
    last: Vec<&'a [u8]>,
}

impl<'a> Account<'a> {
    fn of(history: &'a [u8]) -> Self {
        let text = history.trim_ascii_end();
        let mut lines: Vec<_> = text.split(|&byte| byte == b'\n').filter(|_| !text.is_empty()).collect();
        let last = lines.split_off(lines.len().saturating_sub(MAX_LAST));
        // Lines from here on that belong to one that tells.
        let mut left = 0_usize;
        let mut telling = lines;
        telling.retain(|line| {
            let found = TELLING.iter().filter(|(mark, _)| holds(line, mark)).map(|&(_, behind)| behind + 1).max();
            left = left.max(found.unwrap_or(0));
            let belongs = left != 0;
            left = left.saturating_sub(1);
            belongs
        });
        let excess = telling.len().saturating_sub(MAX_TELLING);
        telling.drain(..excess);
        Self { telling, last }
    }
}

fn holds(line: &[u8], text: &str) -> bool {
    line.windows(text.len()).any(|window| window == text.as_bytes())
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn shown(lines: &[&[u8]]) -> Vec<String> {
        lines.iter().map(|line| format!("{}", guest_text::line(line))).collect()
    }

    #[test]
    fn a_short_console_is_shown_whole_and_nothing_twice() {
        let account = Account::of(b"one\r\nKernel panic - not syncing\r\n\r\n");
        assert_eq!(
            (shown(&account.last), account.telling),
            (vec!["one".into(), "Kernel panic - not syncing".into()], vec![])
        );
        assert_eq!(Account::of(b"\r\n"), Account { telling: vec![], last: vec![] });
    }

    #[test]
    fn what_tells_why_is_found_before_the_last_lines() {
        let filler = |count| (0..count).map(|n| format!("line {n}\r\n")).collect::<String>();
        let told = "panicked at src/main.rs:1:2:\nno more memory\n";
        let trace = "BUG: unable to handle page fault\nCall Trace:\n <TASK>\n a\n b\n c\n";
        let account = format!("{}{told}{}{trace}d\n{}", filler(5), filler(5), filler(MAX_LAST));
        let account = Account::of(account.as_bytes());
        let want =
            "panicked at src/main.rs:1:2:|no more memory|BUG: unable to handle page fault|Call Trace:| <TASK>| a| b| c";
        assert_eq!(shown(&account.telling).join("|"), want);
        assert_eq!(shown(&account.last).first().map(String::as_str), Some("line 0"));
        let many = format!("{}{}", "Oops\n".repeat(1000), filler(MAX_LAST));
        assert_eq!(Account::of(many.as_bytes()).telling.len(), MAX_TELLING);
    }
}
