//! `vcpu_op` (`vcpu.h`).

abi_consts! {
    /// A command of `vcpu_op`.
    u32:
    VCPUOP_INITIALISE = 0,
    VCPUOP_UP = 1,
    VCPUOP_DOWN = 2,
    VCPUOP_IS_UP = 3,
    VCPUOP_GET_RUNSTATE_INFO = 4,
    VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA = 5,
    VCPUOP_SET_PERIODIC_TIMER = 6,
    VCPUOP_STOP_PERIODIC_TIMER = 7,
    VCPUOP_SET_SINGLESHOT_TIMER = 8,
    VCPUOP_STOP_SINGLESHOT_TIMER = 9,
    VCPUOP_REGISTER_VCPU_INFO = 10,
    VCPUOP_SEND_NMI = 11,
    VCPUOP_GET_PHYSID = 12,
    VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA = 13,
}

abi_consts! {
    /// What a vcpu is doing ([`VcpuRunstateInfo::state`]).
    i32:
    RUNSTATE_RUNNING = 0,
    RUNSTATE_RUNNABLE = 1,
    RUNSTATE_BLOCKED = 2,
    RUNSTATE_OFFLINE = 3,
}

/// Set in `state_entry_time` while the record is being updated.
pub const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;
/// [`VcpuSetSingleshotTimer::flags`]: a time in the past is refused with `-ETIME`.
pub const VCPU_SSHOTTMR_FUTURE: u32 = 1 << 0;

abi_struct! {
    /// `VCPUOP_get_runstate_info`, and the registered area.
    pub struct VcpuRunstateInfo [48] {
        /// `RUNSTATE_*`
        pub state: i32,
        /// Padding.
        pub _pad: u32,
        /// System time in nanoseconds when the state was entered.
        pub state_entry_time: u64,
        /// Nanoseconds spent in each state.
        pub time: [u64; 4],
    }
    /// `VCPUOP_register_runstate_memory_area`.
    pub struct VcpuRegisterRunstateMemoryArea [8] {
        /// Where: a [`VcpuRunstateInfo`].
        pub addr: u64,
    }
    /// `VCPUOP_set_periodic_timer`.
    pub struct VcpuSetPeriodicTimer [8] {
        /// Nanoseconds.
        pub period_ns: u64,
    }
    /// `VCPUOP_set_singleshot_timer`.
    pub struct VcpuSetSingleshotTimer [16] {
        /// System time in nanoseconds.
        pub timeout_abs_ns: u64,
        /// `VCPU_SSHOTTMR_*`
        pub flags: u32,
        /// Padding.
        pub _pad: u32,
    }
    /// `VCPUOP_register_vcpu_info`.
    pub struct VcpuRegisterVcpuInfo [16] {
        /// The frame.
        pub mfn: u64,
        /// The offset in it.
        pub offset: u32,
        /// Reserved.
        pub rsvd: u32,
    }
    /// `VCPUOP_get_physid`.
    pub struct VcpuGetPhysid [8] {
        /// The physical CPU's ids.
        pub phys_id: u64,
    }
    /// `VCPUOP_register_vcpu_time_memory_area`.
    pub struct VcpuRegisterTimeMemoryArea [8] {
        /// Where: a `VcpuTimeInfo`.
        pub addr: u64,
    }
}
