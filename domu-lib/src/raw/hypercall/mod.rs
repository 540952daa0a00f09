//! Hypercall stubs: one `call` into the hypercall page, five argument registers.
//!
//! The page is filled by the hypervisor before the guest starts (ELF note `HYPERCALL_PAGE`); slot *n* holds the code
//! of hypercall *n*. It keeps `rcx` and `r11`; the argument registers may be clobbered.

pub mod call;
#[cfg(target_os = "none")]
pub(crate) mod page;

#[cfg(target_os = "none")]
use core::arch::asm;

macro_rules! stub {
    ($name:ident: $($arg:ident in $reg:tt),*; $($scratch:tt),*) => {
        /// Issues hypercall `NR` and returns what the hypervisor left in `rax`.
        ///
        /// # Safety
        /// The arguments must be such that whatever the hypervisor does on their behalf (reading and writing guest
        /// memory, editing page tables) keeps this program's memory as its owners believe it to be.
        #[cfg(target_os = "none")]
        #[inline(always)]
        pub(crate) unsafe fn $name<const NR: u32>($($arg: u64),*) -> u64 {
            let result: u64;
            // SAFETY: the page's code follows the hypercall calling convention; effects are the caller's promise.
            unsafe {
                asm!(
                    "call {page} + {offset}",
                    page = sym page::hypercall_page,
                    offset = const NR * 32,
                    $(inlateout($reg) $arg => _,)*
                    $(lateout($scratch) _,)*
                    lateout("rax") result,
                    out("rcx") _,
                    out("r11") _,
                );
            }
            result
        }

        /// On the host nobody answers.
        ///
        /// # Safety
        /// Always.
        #[cfg(not(target_os = "none"))]
        pub(crate) unsafe fn $name<const NR: u32>($($arg: u64),*) -> u64 {
            let _ = (NR, $($arg),*);
            oxen_abi::errno::Errno::NoSys.to_return_value()
        }
    };
}

stub!(call1: a1 in "rdi"; "rsi", "rdx", "r10", "r8", "r9");
stub!(call2: a1 in "rdi", a2 in "rsi"; "rdx", "r10", "r8", "r9");
stub!(call3: a1 in "rdi", a2 in "rsi", a3 in "rdx"; "r10", "r8", "r9");
stub!(call4: a1 in "rdi", a2 in "rsi", a3 in "rdx", a4 in "r10"; "r8", "r9");
