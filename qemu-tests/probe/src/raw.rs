//! Any hypercall with any arguments.
#![expect(unsafe_code, reason = "the test guest must say what no typed interface lets through")]

pub(crate) mod racer;
pub(crate) mod trapped;

#[cfg(target_os = "none")]
use oxen_abi::hypercall::Hypercall;

/// Where no guest has memory.
pub(crate) const WILD: u64 = 0x0000_7fff_dead_b000;

/// Issues a hypercall. A test passes memory of its own pages, or what the hypervisor has to refuse.
#[cfg(target_os = "none")]
pub(crate) fn hypercall(number: u64, args: [u64; 5]) -> i64 {
    unsafe extern "C" {
        fn hypercall_page();
    }
    let target = hypercall_page as *const () as u64 + number * 32;
    let result: i64;
    let [a1, a2, a3, a4, a5] = args;
    // SAFETY: the slot's code follows the calling convention. What the hypervisor does in answer reaches no memory but
    // pages that the test holds for itself, or the test is there to find out that it does.
    unsafe {
        core::arch::asm!(
            "call {target}",
            target = in(reg) target,
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            inlateout("rdx") a3 => _,
            inlateout("r10") a4 => _,
            inlateout("r8") a5 => _,
            lateout("r9") _,
            lateout("rax") result,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Issues a hypercall by a number of 64 bits, without the page.
#[cfg(target_os = "none")]
pub(crate) fn numbered(number: u64, a1: u64, a2: u64) -> i64 {
    let result: i64;
    // SAFETY: as for [`hypercall`]; the instruction takes two registers for itself.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            lateout("rdx") _, lateout("r10") _, lateout("r8") _, lateout("r9") _, lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// Asks for the version by the page; returns whether RCX and R11 came back as they were.
#[cfg(target_os = "none")]
pub(crate) fn page_keeps_registers() -> bool {
    unsafe extern "C" {
        fn hypercall_page();
    }
    let (first, second): (u64, u64);
    // SAFETY: the call has no effect on memory.
    unsafe {
        core::arch::asm!(
            "call {target}",
            target = in(reg) hypercall_page as *const () as u64 + Hypercall::XenVersion as u64 * 32,
            inlateout("rdi") 0_u64 => _,
            inlateout("rsi") 0_u64 => _,
            lateout("rdx") _, lateout("r10") _, lateout("r8") _, lateout("r9") _, lateout("rax") _,
            inlateout("rcx") 0x1122_3344_5566_7788_u64 => first,
            inlateout("r11") 0x99aa_bbcc_ddee_ff00_u64 => second,
        );
    }
    (first, second) == (0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00)
}

/// On the host nobody answers.
#[cfg(not(target_os = "none"))]
pub(crate) fn numbered(_number: u64, _a1: u64, _a2: u64) -> i64 {
    -38
}

/// On the host there is no page.
#[cfg(not(target_os = "none"))]
pub(crate) fn page_keeps_registers() -> bool {
    false
}

/// On the host nobody answers.
#[cfg(not(target_os = "none"))]
pub(crate) fn hypercall(number: u64, args: [u64; 5]) -> i64 {
    let _ = (number, args);
    -38
}

/// Goes on at an address where there is no code.
pub(crate) fn jump(address: u64) {
    // SAFETY: no page is there, so the processor faults before anything happens.
    unsafe { core::arch::asm!("jmp {}", in(reg) address, options(noreturn)) }
}

/// A privileged instruction that reads: the hypervisor answers in its place.
macro_rules! reads {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $(
            $(#[$doc])*
            #[cfg(target_os = "none")]
            pub(crate) fn $name() -> u64 {
                let value;
                // SAFETY: reads a register.
                unsafe {
                    core::arch::asm!(
                        $text,
                        out("rax") value,
                        out("rcx") _,
                        out("rdx") _,
                        out("rsi") _,
                        options(nostack)
                    );
                }
                value
            }

            /// The host's kernel keeps it to itself.
            #[cfg(not(target_os = "none"))]
            pub(crate) fn $name() -> u64 {
                0
            }
        )*
    };
}

reads! {
    /// Control register 0.
    cr0 = "mov rax, cr0";
    /// The root of the page tables.
    cr3 = "mov rax, cr3";
    /// Control register 4.
    cr4 = "mov rax, cr4";
    /// Debug register 7.
    dr7 = "mov rax, dr7";
    /// Which states XSAVE keeps; 0 where there is no XSAVE.
    xcr0 = "xor ecx, ecx; xgetbv";
    /// Clears CR0.TS.
    clts = "clts; xor eax, eax";
    /// Sets CR0.TS and clears it again; what CR0 was in between.
    task_switched = "mov rax, cr0; or rax, 8; mov cr0, rax; mov rax, cr0; clts";
    /// Writes CR4 as it is.
    rewrite_cr4 = "mov rax, cr4; mov cr4, rax; mov rax, cr4";
    /// The machine status word, which a processor can be told to keep from user mode.
    smsw = "smsw rax";
    /// Writes the caches back.
    wbinvd = "wbinvd; xor eax, eax";
    /// The features of this processor, by the plain instruction.
    cpuid_plain = "mov rsi, rbx; mov eax, 1; xor ecx, ecx; cpuid; mov eax, ecx; mov rbx, rsi";
}

/// Reads a model-specific register.
#[cfg(target_os = "none")]
pub(crate) fn rdmsr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register of those that no code of ours relies on.
#[cfg(target_os = "none")]
pub(crate) fn wrmsr(number: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the bases of FS and GS hold nothing here.
    unsafe { core::arch::asm!("wrmsr", in("ecx") number, in("eax") low, in("edx") high, options(nostack)) };
}

/// The host has none for us.
#[cfg(not(target_os = "none"))]
pub(crate) fn rdmsr(_number: u32) -> u64 {
    0
}

/// The host has none for us.
#[cfg(not(target_os = "none"))]
pub(crate) fn wrmsr(_number: u32, _value: u64) {}

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".pushsection .text.probe, \"ax\", @progbits",
    // A general protection fault: of the two instructions that are tried here, it is noted and they are skipped.
    "probe_fault_entry:",
    "pop rcx",
    "pop r11",
    "add rsp, 8",
    "lea rcx, [rip + probe_rdmsr_at]",
    "cmp [rsp], rcx",
    "je 2f",
    "lea rcx, [rip + probe_wrmsr_at]",
    "cmp [rsp], rcx",
    "je 2f",
    "ud2",
    "2: add qword ptr [rsp], 2",
    "mov r8d, 1",
    "mov ecx, edi",
    "push 0",
    "jmp hypercall_page + {iret}",
    // The register in edi; answers in rax, and in the word at rsi whether it faulted.
    "probe_rdmsr:",
    "mov ecx, edi",
    "xor r8d, r8d",
    "xor eax, eax",
    "xor edx, edx",
    "probe_rdmsr_at: rdmsr",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rsi], r8",
    "ret",
    // The register in edi, the value in rsi; returns whether it faulted.
    "probe_wrmsr:",
    "mov ecx, edi",
    "xor r8d, r8d",
    "mov eax, esi",
    "mov rdx, rsi",
    "shr rdx, 32",
    "probe_wrmsr_at: wrmsr",
    "mov rax, r8",
    "ret",
    // Returns through the context at rdi, whose place and stack it fills in, while DR7 is as in rsi.
    "probe_iret_watched:",
    "push r12",
    "mov r12, rdi",
    "lea rax, [rip + 2f]",
    "mov [r12 + 32], rax",
    "mov [r12 + 56], rsp",
    "mov edi, 7",
    "call hypercall_page + {set_debugreg}",
    "mov rsp, r12",
    "mov eax, {iret_number}",
    "syscall",
    "2: pop r12",
    "push rax",
    "mov edi, 7",
    "xor esi, esi",
    "call hypercall_page + {set_debugreg}",
    "pop rax",
    "ret",
    ".popsection",
    iret = const Hypercall::Iret as usize * 32,
    iret_number = const Hypercall::Iret as u32,
    set_debugreg = const Hypercall::SetDebugreg as usize * 32,
);

/// Returns to itself by the iret hypercall, from a context at `place` (of at least 72 bytes), with DR7 set to `control`
/// for as long as that takes. Answers what the context holds for RAX.
#[cfg(target_os = "none")]
pub(crate) fn iret_watched(place: &[core::sync::atomic::AtomicU64], control: u64) -> u64 {
    use core::sync::atomic::Ordering;
    use oxen_abi::segments::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};
    unsafe extern "C" {
        fn probe_iret_watched(context: u64, control: u64) -> u64;
    }
    let kernel = u64::from(FLAT_KERNEL_CS) & !3;
    for (word, value) in place.iter().zip([0x7e57, 0, 0, 0, 0, kernel, 2, 0, FLAT_KERNEL_SS.into()]) {
        word.store(value, Ordering::SeqCst);
    }
    // SAFETY: the context is complete once the function has filled in itself and its stack, and nothing else is on the
    // stack between.
    unsafe { probe_iret_watched(place.as_ptr() as u64, control) }
}

/// On the host nobody returns.
#[cfg(not(target_os = "none"))]
pub(crate) fn iret_watched(_place: &[core::sync::atomic::AtomicU64], _control: u64) -> u64 {
    0
}

/// Lets the two functions below survive a refusal; other faults end the guest as before.
#[cfg(target_os = "none")]
pub(crate) fn catch_refusals() -> i64 {
    unsafe extern "C" {
        fn probe_fault_entry();
    }
    let table = [13 | 0xe033 << 16, probe_fault_entry as *const () as u64, 0, 0_u64];
    hypercall(Hypercall::SetTrapTable as u64, [table.as_ptr() as u64, 0, 0, 0, 0])
}

/// Reads a model-specific register; `None` if the instruction faults.
#[cfg(target_os = "none")]
pub(crate) fn try_rdmsr(number: u32) -> Option<u64> {
    unsafe extern "C" {
        fn probe_rdmsr(number: u32, failed: *mut u64) -> u64;
    }
    let mut failed = 0;
    // SAFETY: reads a register; the fault is caught after [`catch_refusals`].
    let value = unsafe { probe_rdmsr(number, &raw mut failed) };
    (failed == 0).then_some(value)
}

/// Writes a model-specific register of those that no code of ours relies on; returns whether it took.
#[cfg(target_os = "none")]
pub(crate) fn try_wrmsr(number: u32, value: u64) -> bool {
    unsafe extern "C" {
        fn probe_wrmsr(number: u32, value: u64) -> u64;
    }
    // SAFETY: as above.
    unsafe { probe_wrmsr(number, value) == 0 }
}

/// On the host there is nothing to catch.
#[cfg(not(target_os = "none"))]
pub(crate) fn catch_refusals() -> i64 {
    -38
}

/// The host has none for us.
#[cfg(not(target_os = "none"))]
pub(crate) fn try_rdmsr(_number: u32) -> Option<u64> {
    None
}

/// The host has none for us.
#[cfg(not(target_os = "none"))]
pub(crate) fn try_wrmsr(_number: u32, _value: u64) -> bool {
    false
}
