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

/// On the host nobody answers.
#[cfg(not(target_os = "none"))]
pub(crate) fn hypercall(number: u64, args: [u64; 5]) -> i64 {
    let _ = (number, args);
    -38
}
