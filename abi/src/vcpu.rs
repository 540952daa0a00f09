//! `vcpu_op` (`vcpu.h`).

abi_consts! {
    /// A command of `vcpu_op`.
    u32:
    /// Give a vcpu its first registers: the argument is a `VcpuGuestContext`. `EEXIST` if it has some; `EINVAL` for
    /// registers that guests may not have.
    VCPUOP_INITIALISE = 0,
    /// Let a vcpu run. `EINVAL` if it has no registers yet.
    VCPUOP_UP = 1,
    /// Stop a vcpu. When the last one goes down, so does the domain.
    VCPUOP_DOWN = 2,
    /// The result is 1 if it is up, else 0.
    VCPUOP_IS_UP = 3,
    /// For how long a vcpu ran, could have run, waited and was off: [`VcpuRunstateInfo`].
    VCPUOP_GET_RUNSTATE_INFO = 4,
    /// Have the same kept in memory: [`VcpuRegisterRunstateMemoryArea`].
    VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA = 5,
    /// Raise `VIRQ_TIMER` again and again: [`VcpuSetPeriodicTimer`]. `EINVAL` for a period below a millisecond.
    VCPUOP_SET_PERIODIC_TIMER = 6,
    /// End that.
    VCPUOP_STOP_PERIODIC_TIMER = 7,
    /// Raise `VIRQ_TIMER` once, at a system time: [`VcpuSetSingleshotTimer`]. `EINVAL` for another vcpu than the
    /// calling one.
    VCPUOP_SET_SINGLESHOT_TIMER = 8,
    /// End that. `EINVAL` for another vcpu than the calling one.
    VCPUOP_STOP_SINGLESHOT_TIMER = 9,
    /// Keep the vcpu's `vcpu_info` in a frame of the guest's: [`VcpuRegisterVcpuInfo`]. `ENXIO` if it would not fit in
    /// the page; `EINVAL` for the frame, or if it was done before.
    VCPUOP_REGISTER_VCPU_INFO = 10,
    /// Send a vcpu an NMI. No argument.
    VCPUOP_SEND_NMI = 11,
    /// The physical CPU to which a vcpu is pinned: [`VcpuGetPhysid`]. `EINVAL` if it is not pinned, or not the control
    /// domain's.
    VCPUOP_GET_PHYSID = 12,
    /// Have the vcpu's time record kept in memory as well: [`VcpuRegisterTimeMemoryArea`].
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
