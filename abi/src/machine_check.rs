//! Machine checks that the hypervisor recorded (`arch-x86/xen-mca.h`).

use crate::domctl::XenctlBitmap;
use zerocopy::{Immutable, IntoBytes};

/// The one version of [`Mca`] the hypervisor speaks.
pub const XEN_MCA_INTERFACE_VERSION: u32 = 0x01ec_c003;

abi_consts! {
    /// A command of `arch_0`, which is `mca`.
    u32:
    /// Fetch a machine check that was recorded: [`McaFetch`].
    XEN_MC_FETCH = 1,
    /// Tell a guest of a machine check.
    XEN_MC_NOTIFYDOMAIN = 2,
    /// What the processors are: [`McaPhyscpuinfo`].
    XEN_MC_PHYSCPUINFO = 3,
    /// Write registers of machine checks, for tests.
    XEN_MC_MSRINJECT = 4,
    /// Raise a machine check, for tests.
    XEN_MC_MCEINJECT = 5,
    /// Raise an interrupt of machine checks on several processors, for tests: [`McaInjectV2`].
    XEN_MC_INJECT_V2 = 6,
}

abi_consts! {
    /// IN: `flags` of [`McaFetch`].
    u32:
    XEN_MC_NONURGENT = 1,
    XEN_MC_URGENT = 2,
    XEN_MC_ACK = 4,
}

abi_consts! {
    /// IN: `flags` of [`McaInjectV2`]: what is raised, and where.
    u32:
    /// The bits that say what is raised.
    XEN_MC_INJECT_TYPE_MASK = 7,
    /// A machine check.
    XEN_MC_INJECT_TYPE_MCE = 0,
    /// The interrupt of a corrected one.
    XEN_MC_INJECT_TYPE_CMCI = 1,
    /// A machine check of one processor alone.
    XEN_MC_INJECT_TYPE_LMCE = 2,
    /// On every processor, whatever the bitmap says.
    XEN_MC_INJECT_CPU_BROADCAST = 8,
}
/// OUT: `flags` of [`McaFetch`]: nothing was recorded.
pub const XEN_MC_NODATA: u32 = 2;

abi_struct! {
    /// The argument of `mca` (`xen_mc`), as far as it is not only for injecting.
    pub struct Mca [136] {
        /// `XEN_MC_*`: tells what `u` holds.
        pub cmd: u32,
        /// [`XEN_MCA_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The command's structure, from the first byte on.
        pub u: [u8; 128],
    }
    /// Fetch what was recorded (`xen_mc_fetch`).
    pub struct McaFetch [24] {
        /// Flags.
        pub flags: u32,
        /// Padding.
        pub _pad0: u32,
        /// By what it is acknowledged.
        pub fetch_id: u64,
        /// Guest address of the record.
        pub data: u64,
    }
    /// Have registers of a processor read as told (`xen_mc_msrinject`), as far as it is the same for all of them.
    pub struct McaMsrinject [16] {
        /// The processor.
        pub cpu: u32,
        /// Flags.
        pub flags: u32,
        /// How many registers follow.
        pub count: u32,
        /// Whose addresses they name.
        pub domid: u16,
        /// Padding.
        pub _pad0: u16,
    }
    /// Have a processor handle a machine check (`xen_mc_mceinject`).
    pub struct McaMceinject [4] {
        /// The processor.
        pub cpu: u32,
    }
    /// Have processors handle a machine check or another interrupt of the kind (`xen_mc_inject_v2`).
    pub struct McaInjectV2 [24] {
        /// `XEN_MC_INJECT_*`.
        pub flags: u32,
        /// Padding.
        pub _pad0: u32,
        /// The processors.
        pub cpumap: XenctlBitmap,
    }
    /// Ask for the processors (`xen_mc_physcpuinfo`).
    pub struct McaPhyscpuinfo [16] {
        /// IN: room; OUT: how many.
        pub ncpus: u32,
        /// Padding.
        pub _pad0: u32,
        /// Guest address of [`McaLogicalCpu`]s; 0 asks for the number alone.
        pub info: u64,
    }
    /// A processor (`mcinfo_logical_cpu`).
    pub struct McaLogicalCpu [304] {
        /// Its number.
        pub number: u32,
        /// Its socket.
        pub chip_id: u32,
        /// Its core.
        pub core_id: u16,
        /// Its thread.
        pub thread_id: u16,
        /// Its APIC's id.
        pub apic_id: u32,
        /// Its cluster.
        pub cluster_id: u32,
        /// Cores of its socket.
        pub cores: u32,
        /// Of them, those that are up.
        pub active_cores: u32,
        /// Threads of its core.
        pub threads: u32,
        /// Its last leaf of CPUID.
        pub cpuid_level: u32,
        /// Its family.
        pub family: u32,
        /// Its vendor as the hypervisor numbers it.
        pub vendor_number: u32,
        /// Its model.
        pub model: u32,
        /// Its stepping.
        pub stepping: u32,
        /// Its vendor's name.
        pub vendor: [u8; 16],
        /// Its own name.
        pub brand: [u8; 64],
        /// Words of features.
        pub features: [u32; 7],
        /// Its cache.
        pub cache_size: u32,
        /// The cache's alignment.
        pub cache_alignment: u32,
        /// How many registers follow.
        pub registers: u32,
        /// Padding.
        pub _pad0: u32,
        /// Registers with their values.
        pub register_values: [[u64; 2]; 8],
    }
}

impl Mca {
    /// A command with its structure.
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(cmd: u32, command: &T) -> Self {
        let mut call = Self { cmd, interface_version: XEN_MCA_INTERFACE_VERSION, u: [0; 128] };
        call.set(command);
        call
    }
}

crate::command::impl_command!(Mca);
