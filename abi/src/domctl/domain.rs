//! Structures about whole domains: making, asking, pausing, tracing memory.

use crate::domid::DomId;

abi_consts! {
    /// A flag of [`DomctlCreatedomain`].
    u32:
    XEN_DOMCTL_CDF_HVM = 1 << 0,
    XEN_DOMCTL_CDF_HAP = 1 << 1,
    XEN_DOMCTL_CDF_S3_INTEGRITY = 1 << 2,
    XEN_DOMCTL_CDF_OOS_OFF = 1 << 3,
    XEN_DOMCTL_CDF_XS_DOMAIN = 1 << 4,
    XEN_DOMCTL_CDF_IOMMU = 1 << 5,
    XEN_DOMCTL_CDF_NESTED_VIRT = 1 << 6,
    XEN_DOMCTL_CDF_VPMU = 1 << 7,
}

/// `iommu_opts`: page tables are not shared with the processor.
pub const XEN_DOMCTL_IOMMU_NO_SHAREPT: u32 = 1;
/// The bits of `grant_opts` that hold the greatest grant table version.
pub const XEN_DOMCTL_GRANT_VERSION_MASK: u32 = 0xf;

abi_consts! {
    /// A device of a classic machine emulated for an HVM guest (`arch-x86/xen.h`).
    u32:
    XEN_X86_EMU_LAPIC = 1 << 0,
    XEN_X86_EMU_HPET = 1 << 1,
    XEN_X86_EMU_PM = 1 << 2,
    XEN_X86_EMU_RTC = 1 << 3,
    XEN_X86_EMU_IOAPIC = 1 << 4,
    XEN_X86_EMU_PIC = 1 << 5,
    XEN_X86_EMU_VGA = 1 << 6,
    XEN_X86_EMU_IOMMU = 1 << 7,
    XEN_X86_EMU_PIT = 1 << 8,
    XEN_X86_EMU_USE_PIRQ = 1 << 9,
    XEN_X86_EMU_VPCI = 1 << 10,
}

/// `misc_flags`: unknown model-specific registers read as zero instead of faulting.
pub const XEN_X86_MSR_RELAXED: u32 = 1;

abi_consts! {
    /// A flag of [`DomctlGetdomaininfo`].
    u32:
    XEN_DOMINF_DYING = 1 << 0,
    XEN_DOMINF_HVM_GUEST = 1 << 1,
    XEN_DOMINF_SHUTDOWN = 1 << 2,
    XEN_DOMINF_PAUSED = 1 << 3,
    XEN_DOMINF_BLOCKED = 1 << 4,
    XEN_DOMINF_RUNNING = 1 << 5,
    XEN_DOMINF_DEBUGGED = 1 << 6,
    XEN_DOMINF_XS_DOMAIN = 1 << 7,
    XEN_DOMINF_HAP = 1 << 8,
}

abi_flags! {
    /// `flags` of [`DomctlCreatedomain`].
    pub struct CreateFlags: u32 {
        HVM = XEN_DOMCTL_CDF_HVM,
        HAP = XEN_DOMCTL_CDF_HAP,
        S3_INTEGRITY = XEN_DOMCTL_CDF_S3_INTEGRITY,
        OOS_OFF = XEN_DOMCTL_CDF_OOS_OFF,
        XS_DOMAIN = XEN_DOMCTL_CDF_XS_DOMAIN,
        IOMMU = XEN_DOMCTL_CDF_IOMMU,
        NESTED_VIRT = XEN_DOMCTL_CDF_NESTED_VIRT,
        VPMU = XEN_DOMCTL_CDF_VPMU,
    }
    /// `emulation_flags` of [`DomctlCreatedomain`].
    pub struct EmulationFlags: u32 {
        LAPIC = XEN_X86_EMU_LAPIC,
        HPET = XEN_X86_EMU_HPET,
        PM = XEN_X86_EMU_PM,
        RTC = XEN_X86_EMU_RTC,
        IOAPIC = XEN_X86_EMU_IOAPIC,
        PIC = XEN_X86_EMU_PIC,
        VGA = XEN_X86_EMU_VGA,
        IOMMU = XEN_X86_EMU_IOMMU,
        PIT = XEN_X86_EMU_PIT,
        USE_PIRQ = XEN_X86_EMU_USE_PIRQ,
        VPCI = XEN_X86_EMU_VPCI,
    }
    /// `misc_flags` of [`DomctlCreatedomain`].
    pub struct MiscFlags: u32 {
        MSR_RELAXED = XEN_X86_MSR_RELAXED,
    }
    /// `flags` of [`DomctlGetdomaininfo`], beside the shutdown code.
    pub struct InfoFlags: u32 {
        DYING = XEN_DOMINF_DYING,
        HVM_GUEST = XEN_DOMINF_HVM_GUEST,
        SHUTDOWN = XEN_DOMINF_SHUTDOWN,
        PAUSED = XEN_DOMINF_PAUSED,
        BLOCKED = XEN_DOMINF_BLOCKED,
        RUNNING = XEN_DOMINF_RUNNING,
        DEBUGGED = XEN_DOMINF_DEBUGGED,
        XS_DOMAIN = XEN_DOMINF_XS_DOMAIN,
        HAP = XEN_DOMINF_HAP,
    }
}

/// The shutdown code within `flags`, once shifted down.
pub const XEN_DOMINF_SHUTDOWNMASK: u32 = 255;
/// How far to shift `flags` down for the shutdown code.
pub const XEN_DOMINF_SHUTDOWNSHIFT: u32 = 16;
/// `max_vcpu_id` of a domain without vcpus.
pub const XEN_INVALID_MAX_VCPU_ID: u32 = u32::MAX;

abi_consts! {
    /// The kind of a page as [`DomctlGetpageframeinfo3`] tells it.
    u32:
    XEN_DOMCTL_PFINFO_NOTAB = 0,
    XEN_DOMCTL_PFINFO_L1TAB = 0x1 << 28,
    XEN_DOMCTL_PFINFO_L2TAB = 0x2 << 28,
    XEN_DOMCTL_PFINFO_L3TAB = 0x3 << 28,
    XEN_DOMCTL_PFINFO_L4TAB = 0x4 << 28,
    XEN_DOMCTL_PFINFO_LTABTYPE_MASK = 0x7 << 28,
    XEN_DOMCTL_PFINFO_LPINTAB = 0x1 << 31,
    XEN_DOMCTL_PFINFO_XTAB = 0xf << 28,
    XEN_DOMCTL_PFINFO_XALLOC = 0xe << 28,
    XEN_DOMCTL_PFINFO_BROKEN = 0xd << 28,
    XEN_DOMCTL_PFINFO_LTAB_MASK = 0xf << 28,
}
/// Lowest bit of the kind.
pub const XEN_DOMCTL_PFINFO_LTAB_SHIFT: u32 = 28;

abi_consts! {
    /// What [`DomctlShadowOp`] does.
    u32:
    XEN_DOMCTL_SHADOW_OP_OFF = 0,
    XEN_DOMCTL_SHADOW_OP_ENABLE_TEST = 1,
    XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY = 2,
    XEN_DOMCTL_SHADOW_OP_CLEAN = 11,
    XEN_DOMCTL_SHADOW_OP_PEEK = 12,
    XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION = 30,
    XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION = 31,
    XEN_DOMCTL_SHADOW_OP_ENABLE = 32,
}

abi_consts! {
    /// `mode` of [`DomctlShadowOp`].
    u32:
    XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT = 1 << 1,
    XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY = 1 << 2,
    XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE = 1 << 3,
    XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL = 1 << 4,
    XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL = 1 << 0,
    /// Oxen's own: the frames of a PV guest are translated. Xen has no room for the highest bit in its word of modes,
    /// and refuses what is left.
    OXEN_DOMCTL_SHADOW_ENABLE_TRANSLATED =
        1 << 31 | XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT | XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE,
}

abi_struct! {
    /// What only x86 domains have (`xen_arch_domainconfig`, `arch-x86/xen.h`).
    pub struct ArchDomainconfig [8] {
        /// `XEN_X86_EMU_*`; none for a PV guest.
        pub emulation_flags: u32,
        /// `XEN_X86_MSR_RELAXED`.
        pub misc_flags: u32,
    }
    /// Make a domain; its id is answered in [`super::Domctl::domain`] (`xen_domctl_createdomain`).
    pub struct DomctlCreatedomain [64] {
        /// Security label.
        pub ssidref: u32,
        /// The domain's UUID.
        pub handle: [u8; 16],
        /// `XEN_DOMCTL_CDF_*`.
        pub flags: u32,
        /// `XEN_DOMCTL_IOMMU_*`.
        pub iommu_opts: u32,
        /// Virtual processors it may have.
        pub max_vcpus: u32,
        /// Greatest event channel port.
        pub max_evtchn_port: u32,
        /// Frames of its grant table; negative: the default.
        pub max_grant_frames: i32,
        /// Frames for its mappings of others' grants; negative: the default.
        pub max_maptrack_frames: i32,
        /// Greatest grant table version, in [`XEN_DOMCTL_GRANT_VERSION_MASK`].
        pub grant_opts: u32,
        /// Bytes of trace buffer for each vcpu; 0: none.
        pub vmtrace_size: u32,
        /// Which pool of processors.
        pub cpupool_id: u32,
        /// What only x86 domains have.
        pub arch: ArchDomainconfig,
    }
    /// What is known of a domain (`xen_domctl_getdomaininfo`).
    pub struct DomctlGetdomaininfo [112] {
        /// Its id.
        pub domain: DomId,
        /// Padding.
        pub pad1: u16,
        /// `XEN_DOMINF_*` and the shutdown code.
        pub flags: u32,
        /// Pages it has.
        pub tot_pages: u64,
        /// Pages it may have.
        pub max_pages: u64,
        /// Pages claimed but not yet taken.
        pub outstanding_pages: u64,
        /// Pages shared with others.
        pub shr_pages: u64,
        /// Pages paged out.
        pub paged_pages: u64,
        /// Frame of its shared info page.
        pub shared_info_frame: u64,
        /// Nanoseconds it has run, over all vcpus.
        pub cpu_time: u64,
        /// Vcpus that are up.
        pub nr_online_vcpus: u32,
        /// Greatest vcpu id, or [`XEN_INVALID_MAX_VCPU_ID`].
        pub max_vcpu_id: u32,
        /// Security label.
        pub ssidref: u32,
        /// The domain's UUID.
        pub handle: [u8; 16],
        /// Its pool of processors.
        pub cpupool: u32,
        /// Bits of a guest physical address.
        pub gpaddr_bits: u8,
        /// Padding.
        pub pad2: [u8; 7],
        /// What only x86 domains have.
        pub arch_config: ArchDomainconfig,
    }
    /// Ask for the kinds of pages (`xen_domctl_getpageframeinfo3`).
    pub struct DomctlGetpageframeinfo3 [16] {
        /// How many.
        pub num: u64,
        /// Guest address of u64 frame numbers, replaced by `XEN_DOMCTL_PFINFO_*`.
        pub array: u64,
    }
    /// How far a run over the dirty bitmap came (`xen_domctl_shadow_op_stats`).
    pub struct DomctlShadowOpStats [8] {
        /// Faults taken.
        pub fault_count: u32,
        /// Pages found dirty.
        pub dirty_count: u32,
    }
    /// Track which pages a domain writes (`xen_domctl_shadow_op`).
    pub struct DomctlShadowOp [40] {
        /// `XEN_DOMCTL_SHADOW_OP_*`.
        pub op: u32,
        /// `XEN_DOMCTL_SHADOW_ENABLE_*` or `XEN_DOMCTL_SHADOW_LOGDIRTY_*`.
        pub mode: u32,
        /// Shadow memory in MiB.
        pub mb: u32,
        /// Padding.
        pub _pad0: u32,
        /// Guest address of the bitmap's bytes.
        pub dirty_bitmap: u64,
        /// IN: pages the bitmap has room for; OUT: pages it covers.
        pub pages: u64,
        /// OUT: counts.
        pub stats: DomctlShadowOpStats,
    }
    /// Set the domain's UUID (`xen_domctl_setdomainhandle`).
    pub struct DomctlSetdomainhandle [16] {
        /// The UUID.
        pub handle: [u8; 16],
    }
    /// Say whether a debugger stops the domain at its breakpoints (`xen_domctl_setdebugging`).
    pub struct DomctlSetdebugging [1] {
        /// Not 0: yes.
        pub enable: u8,
    }
    /// Move a domain's wall clock (`xen_domctl_settimeoffset`).
    pub struct DomctlSettimeoffset [8] {
        /// Seconds ahead of the machine's.
        pub time_offset_seconds: i64,
    }
    /// Bits of a word in the guest's kernel (`xen_domctl_address_size`).
    pub struct DomctlAddressSize [4] {
        /// 32 or 64.
        pub size: u32,
    }
    /// How a domain sees the time stamp counter (`xen_domctl_tsc_info`).
    pub struct DomctlTscInfo [24] {
        /// `TSC_MODE_*` of the toolstack.
        pub tsc_mode: u32,
        /// Its frequency in kHz.
        pub gtsc_khz: u32,
        /// How often the domain has been restored.
        pub incarnation: u32,
        /// Padding.
        pub pad: u32,
        /// Nanoseconds since the domain began.
        pub elapsed_nsec: u64,
    }
    /// Fill a page of the domain with hypercall stubs (`xen_domctl_hypercall_init`).
    pub struct DomctlHypercallInit [8] {
        /// The page.
        pub gmfn: u64,
    }
    /// Which domain gets one of the system's virtual interrupts (`xen_domctl_set_virq_handler`).
    pub struct DomctlSetVirqHandler [4] {
        /// The interrupt.
        pub virq: u32,
    }
}

abi_consts! {
    /// How a domain sees the time stamp counter.
    u32:
    TSC_MODE_DEFAULT = 0,
    TSC_MODE_ALWAYS_EMULATE = 1,
    TSC_MODE_NEVER_EMULATE = 2,
}
