//! `xen_version` (`version.h`).

abi_consts! {
    /// A command of `xen_version`.
    u32:
    /// The version, as the result: major in the upper half, minor in the lower. No argument.
    XENVER_VERSION = 0,
    /// What follows the version: 16 bytes of text.
    XENVER_EXTRAVERSION = 1,
    /// How the hypervisor was built: [`CompileInfo`].
    XENVER_COMPILE_INFO = 2,
    /// The kinds of guests that there can be: 1024 bytes of text.
    XENVER_CAPABILITIES = 3,
    /// The revision of the sources: 64 bytes of text.
    XENVER_CHANGESET = 4,
    /// Where the hypervisor's addresses begin: [`PlatformParameters`].
    XENVER_PLATFORM_PARAMETERS = 5,
    /// Features, as bits (`XENFEAT_*`): [`FeatureInfo`]. `EINVAL` for a submap that there is not.
    XENVER_GET_FEATURES = 6,
    /// Bytes of a page, as the result. The argument is 0.
    XENVER_PAGESIZE = 7,
    /// The calling domain's UUID: 16 bytes.
    XENVER_GUEST_HANDLE = 8,
    /// The hypervisor's command line: 1024 bytes of text, for guests only that it is denied.
    XENVER_COMMANDLINE = 9,
    /// By what the very image is known: a `u32` with the room, and the bytes behind it; the result is their number.
    /// `ENODATA` if there is none; `ENOBUFS` for too little room.
    XENVER_BUILD_ID = 10,
}

abi_consts! {
    /// Bytes of a string that `xen_version` answers.
    usize:
    XEN_EXTRAVERSION_LEN = 16,
    XEN_CAPABILITIES_INFO_LEN = 1024,
    XEN_CHANGESET_INFO_LEN = 64,
    XEN_COMMANDLINE_LEN = 1024,
}

abi_struct! {
    /// `XENVER_compile_info`: strings that end with 0.
    pub struct CompileInfo [144] {
        /// The compiler.
        pub compiler: [u8; 64],
        /// Who compiled.
        pub compile_by: [u8; 16],
        /// Where.
        pub compile_domain: [u8; 32],
        /// When.
        pub compile_date: [u8; 32],
    }
    /// `XENVER_platform_parameters`.
    pub struct PlatformParameters [8] {
        /// The first address of the hypervisor.
        pub virt_start: u64,
    }
    /// `XENVER_get_features`.
    pub struct FeatureInfo [8] {
        /// In: which 32 features.
        pub submap_idx: u32,
        /// Out: their bits.
        pub submap: u32,
    }
}
