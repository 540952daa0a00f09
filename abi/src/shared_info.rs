//! What a domain and the hypervisor share (`xen.h`, `arch-x86/xen.h`).

abi_struct! {
    /// The clock (`vcpu_time_info_t`). Even versions are complete.
    pub struct VcpuTimeInfo [32] {
        /// Odd while it is being updated.
        pub version: u32,
        /// Padding.
        pub pad0: u32,
        /// The TSC at [`Self::system_time`].
        pub tsc_timestamp: u64,
        /// Nanoseconds since boot.
        pub system_time: u64,
        /// Scale of ticks, in 2^-32 ns after the shift.
        pub tsc_to_system_mul: u32,
        /// Shift of ticks before the scale.
        pub tsc_shift: i8,
        /// `XEN_PVCLOCK_*`
        pub flags: u8,
        /// Padding.
        pub pad1: [u8; 2],
    }
    /// The architecture's part of [`VcpuInfo`].
    pub struct ArchVcpuInfo [16] {
        /// The address of the last page fault.
        pub cr2: u64,
        /// Padding.
        pub pad: u64,
    }
    /// A vcpu's part.
    pub struct VcpuInfo [64] {
        /// Events wait.
        pub evtchn_upcall_pending: u8,
        /// Events are not delivered.
        pub evtchn_upcall_mask: u8,
        /// Padding.
        pub _pad: [u8; 6],
        /// Which words of `evtchn_pending` have a bit.
        pub evtchn_pending_sel: u64,
        /// The architecture's part.
        pub arch: ArchVcpuInfo,
        /// The clock.
        pub time: VcpuTimeInfo,
    }
    /// The architecture's part of [`SharedInfo`], the guest's to fill.
    pub struct ArchSharedInfo [48] {
        /// Pages in the p2m.
        pub max_pfn: u64,
        /// The frame of the p2m's top.
        pub pfn_to_mfn_frame_list_list: u64,
        /// Why an NMI came.
        pub nmi_reason: u64,
        /// The root that maps a linear p2m.
        pub p2m_cr3: u64,
        /// Where the linear p2m is.
        pub p2m_vaddr: u64,
        /// Odd while the p2m changes.
        pub p2m_generation: u64,
    }
    /// The page that a domain and the hypervisor share.
    pub struct SharedInfo [3136] {
        /// One for each of the first vcpus.
        pub vcpu_info: [VcpuInfo; 32],
        /// Events that wait, a bit a port.
        pub evtchn_pending: [u64; 64],
        /// Events that are masked.
        pub evtchn_mask: [u64; 64],
        /// Odd while the wall clock is being updated.
        pub wc_version: u32,
        /// Seconds since 1970 when system time was 0, low half.
        pub wc_sec: u32,
        /// Nanoseconds.
        pub wc_nsec: u32,
        /// Seconds, high half.
        pub wc_sec_hi: u32,
        /// The architecture's part.
        pub arch: ArchSharedInfo,
    }
}

/// [`VcpuTimeInfo::flags`]: all vcpus see one clock.
pub const XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
/// [`VcpuTimeInfo::flags`]: the guest was stopped.
pub const XEN_PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;
