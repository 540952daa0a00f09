//! What a guest finds at RSI when it starts (`xen.h`).

/// [`StartInfo::magic`] of a domain that a toolstack built.
pub const MAGIC_DOMU: &[u8] = b"xen-3.0-x86_64";
/// The magic of the first domain that Xen builds.
pub const MAGIC_DOM0: &[u8] = b"xen-3.0-x86_64p";
/// Bytes of [`StartInfo::cmd_line`].
pub const MAX_GUEST_CMDLINE: usize = 1024;

abi_consts! {
    /// A flag of [`StartInfo::flags`].
    u32:
    SIF_PRIVILEGED = 1 << 0,
    SIF_INITDOMAIN = 1 << 1,
    SIF_MULTIBOOT_MOD = 1 << 2,
    SIF_MOD_START_PFN = 1 << 3,
    SIF_VIRT_P2M_4TOOLS = 1 << 4,
    SIF_PM_MASK = 0xff << 8,
}

abi_flags! {
    /// [`StartInfo::flags`], beside the power management that the first domain does ([`SIF_PM_MASK`]).
    pub struct StartFlags: u32 {
        PRIVILEGED = SIF_PRIVILEGED,
        INITDOMAIN = SIF_INITDOMAIN,
        MULTIBOOT_MOD = SIF_MULTIBOOT_MOD,
        MOD_START_PFN = SIF_MOD_START_PFN,
        VIRT_P2M_4TOOLS = SIF_VIRT_P2M_4TOOLS,
    }
}

abi_struct! {
    /// The start of day.
    pub struct StartInfo [1168] {
        /// `xen-3.0-x86_64`.
        pub magic: [u8; 32],
        /// Pages of the domain.
        pub nr_pages: u64,
        /// MACHINE address of `shared_info`.
        pub shared_info: u64,
        /// `SIF_*`
        pub flags: u32,
        /// Padding.
        pub _pad0: u32,
        /// MACHINE frame of the xenstore ring.
        pub store_mfn: u64,
        /// Event channel of the xenstore ring.
        pub store_evtchn: u32,
        /// Padding.
        pub _pad1: u32,
        /// DomU: MACHINE frame of the console ring. Dom0: offset (low half) and size
        /// (high half) of the VGA information.
        pub console_mfn: u64,
        /// DomU: event channel of the console ring.
        pub console_evtchn: u32,
        /// Padding.
        pub _pad2: u32,
        /// Virtual address of the root page table.
        pub pt_base: u64,
        /// Page table frames of the initial mapping.
        pub nr_pt_frames: u64,
        /// Virtual address of the p2m list.
        pub mfn_list: u64,
        /// Virtual address, or with `SIF_MOD_START_PFN` the pfn, of the ramdisk.
        pub mod_start: u64,
        /// Bytes of the ramdisk.
        pub mod_len: u64,
        /// The command line, ending with 0.
        pub cmd_line: [u8; MAX_GUEST_CMDLINE],
        /// First pfn of the p2m list, if it is not in the initial mapping.
        pub first_p2m_pfn: u64,
        /// Frames of the p2m list and its page tables.
        pub nr_p2m_frames: u64,
    }
}
