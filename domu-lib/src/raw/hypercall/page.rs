//! The hypercall page: code that the hypervisor writes.

use core::arch::global_asm;

unsafe extern "C" {
    /// The page's start; never called by this name alone.
    pub(crate) fn hypercall_page();
}

global_asm!(
    ".pushsection .text.hypercall, \"ax\", @progbits",
    ".balign 4096",
    ".globl hypercall_page",
    ".type hypercall_page, @function",
    "hypercall_page:",
    ".skip 4096, 0xcc",
    ".popsection",
);
