//! The first instructions, the ELF notes that a domain builder reads, and the boot stack.

use core::arch::global_asm;

use oxen_abi::elfnote;

/// Bytes of stack that the program runs on.
pub(crate) const STACK_BYTES: usize = 256 * 1024;

global_asm!(
    ".pushsection .text.entry, \"ax\", @progbits",
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "cld",
    "lea rsp, [rip + oxen_stack_top]",
    "xor ebp, ebp",
    "mov rdi, rsi",
    "call {start}",
    "ud2",
    ".popsection",

    ".pushsection .bss.stack, \"aw\", @nobits",
    ".balign 4096",
    ".globl oxen_stack_guard",
    "oxen_stack_guard:",
    ".skip 4096",
    ".globl oxen_stack_bottom",
    "oxen_stack_bottom:",
    ".skip {stack}",
    ".globl oxen_stack_top",
    "oxen_stack_top:",
    ".popsection",

    ".macro oxen_note type:req, data:vararg",
    ".balign 4",
    ".long 4, 2f - 1f, \\type",
    ".asciz \"Xen\"",
    "1: \\data",
    "2: .balign 4",
    ".endm",

    ".pushsection .note.Xen, \"a\", @note",
    ".globl oxen_elf_notes",
    "oxen_elf_notes:",
    "oxen_note {guest_os}, .asciz \"Oxen\"",
    "oxen_note {guest_version}, .asciz \"0.1\"",
    "oxen_note {xen_version}, .asciz \"xen-3.0\"",
    "oxen_note {loader}, .asciz \"generic\"",
    "oxen_note {pae_mode}, .asciz \"yes\"",
    "oxen_note {entry}, .quad _start",
    "oxen_note {hypercall}, .quad hypercall_page",
    "oxen_note {virt_base}, .quad virt_base",
    "oxen_note {paddr_offset}, .quad 0",
    "oxen_note {features}, .asciz \"!writable_page_tables|auto_translated_physmap|pae_pgdir_above_4gb\"",
    // Bits 0 writable_page_tables and 2 auto_translated_physmap are used where offered, bit 11 says that the image
    // can be dom0.
    "oxen_note {supported_features}, .long 0x805",
    "oxen_note {l1_mfn_valid}, .quad 1, 1",
    "oxen_note {suspend_cancel}, .long 1",
    "oxen_note {mod_start_pfn}, .quad 1",
    "oxen_note {hv_start_low}, .quad 0xffff800000000000",
    ".popsection",
    start = sym super::start,
    stack = const STACK_BYTES,
    guest_os = const elfnote::XEN_ELFNOTE_GUEST_OS,
    guest_version = const elfnote::XEN_ELFNOTE_GUEST_VERSION,
    xen_version = const elfnote::XEN_ELFNOTE_XEN_VERSION,
    loader = const elfnote::XEN_ELFNOTE_LOADER,
    pae_mode = const elfnote::XEN_ELFNOTE_PAE_MODE,
    entry = const elfnote::XEN_ELFNOTE_ENTRY,
    hypercall = const elfnote::XEN_ELFNOTE_HYPERCALL_PAGE,
    virt_base = const elfnote::XEN_ELFNOTE_VIRT_BASE,
    paddr_offset = const elfnote::XEN_ELFNOTE_PADDR_OFFSET,
    features = const elfnote::XEN_ELFNOTE_FEATURES,
    supported_features = const elfnote::XEN_ELFNOTE_SUPPORTED_FEATURES,
    l1_mfn_valid = const elfnote::XEN_ELFNOTE_L1_MFN_VALID,
    suspend_cancel = const elfnote::XEN_ELFNOTE_SUSPEND_CANCEL,
    mod_start_pfn = const elfnote::XEN_ELFNOTE_MOD_START_PFN,
    hv_start_low = const elfnote::XEN_ELFNOTE_HV_START_LOW,
);
