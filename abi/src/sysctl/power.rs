//! Structures about processors' power, damaged memory, the hypervisor's own measurements and patches.

use crate::domctl::XenctlBitmap;

abi_struct! {
    /// Trace buffers (`xen_sysctl_tbuf_op`).
    pub struct SysctlTbufOp [48] {
        /// `XEN_SYSCTL_TBUFOP_*`.
        pub cmd: u32,
        /// Padding.
        pub _pad0: u32,
        /// Processors that are traced.
        pub cpu_mask: XenctlBitmap,
        /// Events that are traced.
        pub evt_mask: u32,
        /// Padding.
        pub _pad1: u32,
        /// OUT: the first frame of the buffers.
        pub buffer_mfn: u64,
        /// IN/OUT: bytes of each.
        pub size: u32,
        /// Padding.
        pub _pad2: u32,
    }
    /// Ask how a processor slept (`pm_cx_stat`).
    pub struct PmCxStat [56] {
        /// States there are, the running one included.
        pub nr: u32,
        /// The last one.
        pub last: u32,
        /// Nanoseconds of idling since the start.
        pub idle_time: u64,
        /// Guest address of u64 counts.
        pub triggers: u64,
        /// Guest address of u64 nanoseconds.
        pub residencies: u64,
        /// Room for the package's states.
        pub nr_pc: u32,
        /// Room for the cores' states.
        pub nr_cc: u32,
        /// Guest address of u64 nanoseconds.
        pub pc: u64,
        /// Guest address of u64 nanoseconds.
        pub cc: u64,
    }
    /// Ask for what is known of a processor's power (`xen_sysctl_get_pmstat`).
    pub struct SysctlGetPmstat [64] {
        /// `PMSTAT_*`.
        pub r#type: u32,
        /// Which processor.
        pub cpuid: u32,
        /// As `type` tells; here what sleeping is told by.
        pub getcx: PmCxStat,
    }
    /// Take a processor up or down (`xen_sysctl_cpu_hotplug`).
    pub struct SysctlCpuHotplug [8] {
        /// Which one.
        pub cpu: u32,
        /// What is done: 0 up, 1 down, 2 and 3 all second threads.
        pub op: u32,
    }
    /// Set or get how processors save power, as far as it fits a word (`xen_sysctl_pm_op`).
    pub struct SysctlPmOp [16] {
        /// What is done.
        pub cmd: u32,
        /// Which processor.
        pub cpuid: u32,
        /// The begin of the union.
        pub value: u32,
        /// More of it.
        pub _pad0: u32,
    }
    /// Damaged memory (`xen_sysctl_page_offline_op`).
    pub struct SysctlPageOfflineOp [24] {
        /// 1: take away; 2: give back; 3: ask.
        pub cmd: u32,
        /// The first frame.
        pub start: u32,
        /// The last frame.
        pub end: u32,
        /// Padding.
        pub _pad0: u32,
        /// Guest address of a u32 for each.
        pub status: u64,
    }
    /// Ask where devices sit (`xen_sysctl_pcitopoinfo`).
    pub struct SysctlPcitopoinfo [24] {
        /// IN: how many; OUT: for how many there is an answer.
        pub num_devs: u32,
        /// Padding.
        pub _pad0: u32,
        /// Guest address of the devices.
        pub devs: u64,
        /// Guest address of a u32 for each.
        pub nodes: u64,
    }
    /// A patch's name (`xen_livepatch_name`).
    pub struct LivepatchName [16] {
        /// Guest address of its letters, a zero at the end.
        pub name: u64,
        /// How many.
        pub size: u16,
        /// Must be zero.
        pub pad: [u16; 3],
    }
    /// List patches (`xen_sysctl_livepatch_list`).
    pub struct SysctlLivepatchList [64] {
        /// OUT: changes with the list.
        pub version: u32,
        /// IN: which one to begin with.
        pub idx: u32,
        /// IN: how many; OUT: how many are left.
        pub nr: u32,
        /// Must be zero.
        pub pad: u32,
        /// OUT: bytes of all names.
        pub name_total_size: u32,
        /// OUT: bytes of all metadata.
        pub metadata_total_size: u32,
        /// Guest addresses of states, names, their lengths, metadata and theirs.
        pub lists: [u64; 5],
    }
    /// Load or list patches (`xen_sysctl_livepatch_op`).
    pub struct SysctlLivepatchOp [72] {
        /// What is done.
        pub cmd: u32,
        /// Must be zero.
        pub pad: u32,
        /// As `cmd` tells; all but the list begin with a [`LivepatchName`].
        pub u: [u64; 8],
    }
}
