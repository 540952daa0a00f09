//! `sched_op` (`sched.h`).

use crate::domid::DomId;

abi_consts! {
    /// A command of `sched_op`.
    u32:
    /// Let others run; the caller may run on at once. No argument.
    SCHEDOP_YIELD = 0,
    /// Unmask events and wait for one, in one step. No argument.
    SCHEDOP_BLOCK = 1,
    /// End the calling domain: [`SchedShutdown`]. Does not come back, except after a suspend.
    SCHEDOP_SHUTDOWN = 2,
    /// Wait for one of some ports, or for a time, with events masked: [`SchedPoll`]. `EINVAL` for too many ports, or
    /// one that is not in use.
    SCHEDOP_POLL = 3,
    /// End another domain: [`SchedRemoteShutdown`].
    SCHEDOP_REMOTE_SHUTDOWN = 4,
    /// Say beforehand why the domain will have ended: [`SchedShutdown`]. What was said first stands.
    SCHEDOP_SHUTDOWN_CODE = 5,
    /// Set, renew or end a watchdog, which ends the domain when its time has passed: [`SchedWatchdog`]. `ENOSPC` if
    /// both are in use; `EINVAL`.
    SCHEDOP_WATCHDOG = 6,
    /// Run the calling vcpu on one CPU whatever its affinity: [`SchedPinOverride`]. For the control domain.
    SCHEDOP_PIN_OVERRIDE = 7,
}

abi_consts! {
    /// Why a domain ended.
    u32:
    SHUTDOWN_POWEROFF = 0,
    SHUTDOWN_REBOOT = 1,
    SHUTDOWN_SUSPEND = 2,
    SHUTDOWN_CRASH = 3,
    SHUTDOWN_WATCHDOG = 4,
    SHUTDOWN_SOFT_RESET = 5,
    SHUTDOWN_MAX = 5,
}

abi_struct! {
    /// `SCHEDOP_shutdown` and `SCHEDOP_shutdown_code`.
    pub struct SchedShutdown [4] {
        /// `SHUTDOWN_*`
        pub reason: u32,
    }
    /// `SCHEDOP_poll`.
    pub struct SchedPoll [24] {
        /// The ports: `u32`s.
        pub ports: u64,
        /// How many, at most 128.
        pub nr_ports: u32,
        /// Padding.
        pub _pad: u32,
        /// System time in nanoseconds; 0: for ever.
        pub timeout: u64,
    }
    /// `SCHEDOP_remote_shutdown`.
    pub struct SchedRemoteShutdown [8] {
        /// Whom.
        pub domain_id: DomId,
        /// Padding.
        pub _pad: u16,
        /// `SHUTDOWN_*`
        pub reason: u32,
    }
    /// `SCHEDOP_watchdog`.
    pub struct SchedWatchdog [8] {
        /// Which timer; 0 asks for a new one.
        pub id: u32,
        /// Seconds; 0 ends it.
        pub timeout: u32,
    }
    /// `SCHEDOP_pin_override`.
    pub struct SchedPinOverride [4] {
        /// The CPU; negative ends it.
        pub pcpu: i32,
    }
}
