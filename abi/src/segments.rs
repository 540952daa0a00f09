//! Selectors, address ranges and context flags (`arch-x86/xen.h`, `arch-x86/xen-x86_64.h`).

abi_consts! {
    /// A selector of the flat descriptors that the hypervisor puts behind every guest GDT.
    u16:
    FLAT_RING3_CS32 = 0xe023,
    FLAT_RING3_CS64 = 0xe033,
    FLAT_RING3_DS32 = 0xe02b,
    FLAT_RING3_DS64 = 0,
    FLAT_RING3_SS32 = 0xe02b,
    FLAT_RING3_SS64 = 0xe02b,
    FLAT_KERNEL_CS = 0xe033,
    FLAT_KERNEL_DS = 0,
    FLAT_KERNEL_SS = 0xe02b,
    FLAT_USER_CS = 0xe033,
    FLAT_USER_CS32 = 0xe023,
    FLAT_USER_DS = 0,
    FLAT_USER_SS = 0xe02b,
}

/// Pages of a guest's GDT before the hypervisor's own.
pub const FIRST_RESERVED_GDT_PAGE: usize = 14;
/// Bytes of a guest's GDT before the hypervisor's own descriptors.
pub const FIRST_RESERVED_GDT_BYTE: usize = FIRST_RESERVED_GDT_PAGE * 4096;
/// Entries of a guest's GDT before the hypervisor's own.
pub const FIRST_RESERVED_GDT_ENTRY: usize = FIRST_RESERVED_GDT_BYTE / 8;
/// Vcpus that `shared_info` has room for.
pub const XEN_LEGACY_MAX_VCPUS: usize = 32;

abi_consts! {
    /// The bounds of what a guest cannot map, and of the machine-to-phys table inside it.
    u64:
    HYPERVISOR_VIRT_START = 0xffff_8000_0000_0000,
    HYPERVISOR_VIRT_END = 0xffff_8800_0000_0000,
    MACH2PHYS_VIRT_START = 0xffff_8000_0000_0000,
    MACH2PHYS_VIRT_END = 0xffff_8040_0000_0000,
}

abi_consts! {
    /// What `set_segment_base` sets; the last takes a selector.
    u32:
    SEGBASE_FS = 0,
    SEGBASE_GS_USER = 1,
    SEGBASE_GS_KERNEL = 2,
    SEGBASE_GS_USER_SEL = 3,
}

abi_consts! {
    /// Flags of a vcpu's context and of `iret`.
    u32:
    VGCF_I387_VALID = 1 << 0,
    VGCF_IN_KERNEL = 1 << 2,
    VGCF_FAILSAFE_DISABLES_EVENTS = 1 << 3,
    VGCF_SYSCALL_DISABLES_EVENTS = 1 << 4,
    VGCF_ONLINE = 1 << 5,
    VGCF_IN_SYSCALL = 1 << 8,
}

abi_flags! {
    /// The flags of a vcpu's context and of `iret`, which the ABI has in words of 64 bits.
    pub struct ContextFlags: u32 {
        I387_VALID = VGCF_I387_VALID,
        IN_KERNEL = VGCF_IN_KERNEL,
        FAILSAFE_DISABLES_EVENTS = VGCF_FAILSAFE_DISABLES_EVENTS,
        SYSCALL_DISABLES_EVENTS = VGCF_SYSCALL_DISABLES_EVENTS,
        ONLINE = VGCF_ONLINE,
        IN_SYSCALL = VGCF_IN_SYSCALL,
    }
}

impl ContextFlags {
    /// Those in a word of a guest's. All that mean anything are in the lower half.
    #[inline]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self::from_bits_retain(word as u32)
    }
}

/// The bytes before a `cpuid` that make the hypervisor emulate it (`XEN_EMULATE_PREFIX`): `ud2` and "xen".
pub const XEN_EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];

abi_struct! {
    /// What the `iret` hypercall finds at the stack pointer (`struct iret_context`).
    #[expect(missing_docs, reason = "the registers' own names")]
    pub struct IretContext [72] {
        pub rax: u64,
        pub r11: u64,
        pub rcx: u64,
        pub flags: u64,
        pub rip: u64,
        pub cs: u64,
        pub rflags: u64,
        pub rsp: u64,
        pub ss: u64,
    }
}
