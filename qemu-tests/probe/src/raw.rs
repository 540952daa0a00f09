//! Any hypercall with any arguments.
#![expect(unsafe_code, reason = "the test guest must say what no typed interface lets through")]

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

/// What a hypercall by its page leaves in RCX and R11, which hold 1 and 2 before.
#[cfg(target_os = "none")]
pub(crate) fn registers_kept() -> (u64, u64) {
    unsafe extern "C" {
        fn hypercall_page();
    }
    let target = hypercall_page as *const () as u64 + oxen_abi::hypercall::Hypercall::XenVersion as u64 * 32;
    let (rcx, r11);
    // SAFETY: the slot's code follows the calling convention, and the question touches no memory.
    unsafe {
        core::arch::asm!(
            "call {target}",
            target = in(reg) target,
            inlateout("rdi") 0_u64 => _,
            inlateout("rsi") 0_u64 => _,
            inlateout("rcx") 1_u64 => rcx,
            inlateout("r11") 2_u64 => r11,
            lateout("rax") _,
        );
    }
    (rcx, r11)
}

/// The host has no such page.
#[cfg(not(target_os = "none"))]
pub(crate) fn registers_kept() -> (u64, u64) {
    (1, 2)
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
                unsafe { core::arch::asm!($text, out("rax") value, out("rcx") _, out("rdx") _, out("rsi") _, options(nostack)) };
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
