//! ELF notes by which a kernel image tells its builder how to load it (`elfnote.h`).

/// The notes' owner name, without its terminating zero.
pub const XEN_ELFNOTE_NAME: &[u8] = b"Xen";

/// Free-form information.
pub const XEN_ELFNOTE_INFO: u32 = 0;
/// Virtual address of the entry point.
pub const XEN_ELFNOTE_ENTRY: u32 = 1;
/// Virtual address of the page to fill with hypercall stubs.
pub const XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
/// Virtual address of pseudo-physical address 0.
pub const XEN_ELFNOTE_VIRT_BASE: u32 = 3;
/// What to take from the image's physical addresses to have pseudo-physical ones.
pub const XEN_ELFNOTE_PADDR_OFFSET: u32 = 4;
/// Interface the kernel was written for: "xen-3.0".
pub const XEN_ELFNOTE_XEN_VERSION: u32 = 5;
/// The guest operating system's name.
pub const XEN_ELFNOTE_GUEST_OS: u32 = 6;
/// The guest operating system's version.
pub const XEN_ELFNOTE_GUEST_VERSION: u32 = 7;
/// Kind of loader: "generic".
pub const XEN_ELFNOTE_LOADER: u32 = 8;
/// Whether a 32-bit kernel uses PAE.
pub const XEN_ELFNOTE_PAE_MODE: u32 = 9;
/// Features wanted, as a string; a leading `!` marks a required one.
pub const XEN_ELFNOTE_FEATURES: u32 = 10;
/// Whether to load the symbol table as BSD kernels expect it.
pub const XEN_ELFNOTE_BSD_SYMTAB: u32 = 11;
/// Lowest address the hypervisor may keep for itself (32-bit kernels).
pub const XEN_ELFNOTE_HV_START_LOW: u32 = 12;
/// (mask, value) pairs that tell a valid page-table entry.
pub const XEN_ELFNOTE_L1_MFN_VALID: u32 = 13;
/// Whether the kernel handles a cancelled suspend.
pub const XEN_ELFNOTE_SUSPEND_CANCEL: u32 = 14;
/// Virtual address at which the initial p2m list shall be mapped.
pub const XEN_ELFNOTE_INIT_P2M: u32 = 15;
/// Whether the module may be left unmapped, its start given as a frame number.
pub const XEN_ELFNOTE_MOD_START_PFN: u32 = 16;
/// Features the kernel can use, as a bitmap of `XENFEAT_*`.
pub const XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17;
/// Physical entry point in 32-bit mode (PVH).
pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// The greatest number of a loading note.
pub const XEN_ELFNOTE_MAX: u32 = XEN_ELFNOTE_PHYS32_ENTRY;
/// Crash dump: information on the hypervisor.
pub const XEN_ELFNOTE_CRASH_INFO: u32 = 0x100_0001;
/// Crash dump: registers.
pub const XEN_ELFNOTE_CRASH_REGS: u32 = 0x100_0002;
/// Domain dump: empty note.
pub const XEN_ELFNOTE_DUMPCORE_NONE: u32 = 0x200_0000;
/// Domain dump: header.
pub const XEN_ELFNOTE_DUMPCORE_HEADER: u32 = 0x200_0001;
/// Domain dump: version of the hypervisor.
pub const XEN_ELFNOTE_DUMPCORE_XEN_VERSION: u32 = 0x200_0002;
/// Domain dump: version of the dump's format.
pub const XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION: u32 = 0x200_0003;
