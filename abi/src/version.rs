//! `xen_version` (`version.h`).

abi_consts! {
    /// A command of `xen_version`.
    u32:
    XENVER_VERSION = 0,
    XENVER_EXTRAVERSION = 1,
    XENVER_COMPILE_INFO = 2,
    XENVER_CAPABILITIES = 3,
    XENVER_CHANGESET = 4,
    XENVER_PLATFORM_PARAMETERS = 5,
    XENVER_GET_FEATURES = 6,
    XENVER_PAGESIZE = 7,
    XENVER_GUEST_HANDLE = 8,
    XENVER_COMMANDLINE = 9,
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
