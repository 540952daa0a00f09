//! Typed hypercalls: arguments that the compiler checks in, `Result<_, Errno>` out.
//!
//! What edits page tables or maps frames is not here but in [`crate::memory`] and [`crate::grant`], where its effects
//! on this program's memory are answered for.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::Errno;
//! use oxen_domu_lib::hypercall;
//!
//! // A machine without a hypervisor has no answers.
//! assert_eq!(hypercall::event_send(1), Err(Errno::NoSys));
//! ```

use oxen_abi::console_io::{CONSOLEIO_READ, CONSOLEIO_WRITE};
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{event_channel, sched, vcpu};

use super::{call1, call2, call3};

/// Writes to the hypervisor's console.
///
/// # Errors
/// `EPERM` where this domain may not.
pub fn console_write(text: &[u8]) -> Result<(), Errno> {
    let mut rest = text;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(1024));
        // SAFETY: the call reads the bytes it is given.
        Errno::check(unsafe {
            call3::<{ Hypercall::ConsoleIo as u32 }>(CONSOLEIO_WRITE.into(), now.len() as u64, now.as_ptr() as u64)
        })?;
        rest = later;
    }
    Ok(())
}

/// Reads what was typed at the hypervisor's console while its input is ours; returns how many bytes came.
///
/// # Errors
/// `EPERM` where this domain may not.
pub fn console_read(buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the call fills no more than the buffer.
    Errno::check(unsafe {
        call3::<{ Hypercall::ConsoleIo as u32 }>(CONSOLEIO_READ.into(), buffer.len() as u64, buffer.as_mut_ptr() as u64)
    })
    .map(|count| count as usize)
}

fn sched_op<T>(command: u32, argument: &T) -> Result<(), Errno> {
    // SAFETY: the operations used here read their structure, and act on the vcpu alone.
    Errno::check(unsafe {
        call2::<{ Hypercall::SchedOp as u32 }>(command.into(), core::ptr::from_ref(argument) as u64)
    })
    .map(|_| ())
}

/// Lets other vcpus run.
///
/// # Errors
/// None that a hypervisor of this ABI knows.
pub fn sched_yield() -> Result<(), Errno> {
    sched_op(sched::SCHEDOP_YIELD, &())
}

/// Unmasks events and stops until one is pending.
///
/// # Errors
/// None that a hypervisor of this ABI knows.
pub fn sched_block() -> Result<(), Errno> {
    sched_op(sched::SCHEDOP_BLOCK, &())
}

/// Ends the domain for the reason `code` (`SHUTDOWN_*`).
///
/// # Errors
/// `EINVAL` for an unknown reason.
pub fn sched_shutdown(code: u32) -> Result<(), Errno> {
    sched_op(sched::SCHEDOP_SHUTDOWN, &sched::SchedShutdown { reason: code })
}

/// Suspends the domain, whose start-of-day page is in frame `start`. Returns 0 in a domain that was restored, another
/// number where the same one goes on.
///
/// # Errors
/// None that a hypervisor of this ABI knows.
pub(crate) fn sched_suspend(start: u64) -> Result<u64, Errno> {
    let request = sched::SchedShutdown { reason: sched::SHUTDOWN_SUSPEND };
    // SAFETY: the operation reads its structure. What is behind the frames may be other memory afterwards, with the
    // same contents at the same addresses.
    Errno::check(unsafe {
        call3::<{ Hypercall::SchedOp as u32 }>(sched::SCHEDOP_SHUTDOWN.into(), (&raw const request) as u64, start)
    })
}

/// Waits for one of `ports`, or the system time `timeout` in nanoseconds (0 for never).
///
/// # Errors
/// `EINVAL` for a port that is not there or more than 128 of them, `EFAULT`.
pub fn sched_poll(ports: &[u32], timeout: u64) -> Result<(), Errno> {
    let request = sched::SchedPoll { ports: ports.as_ptr() as u64, nr_ports: ports.len() as u32, _pad: 0, timeout };
    sched_op(sched::SCHEDOP_POLL, &request)
}

/// Asks for a timer event at the system time `deadline`; 0 takes the request back.
///
/// # Errors
/// None that a hypervisor of this ABI knows.
pub fn set_timer(deadline: u64) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    Errno::check(unsafe { call1::<{ Hypercall::SetTimerOp as u32 }>(deadline) }).map(|_| ())
}

/// Stops the timer that ticks 100 times a second from the start.
///
/// # Errors
/// None that a hypervisor of this ABI knows.
pub fn stop_periodic_timer() -> Result<(), Errno> {
    // SAFETY: touches no memory.
    Errno::check(unsafe { call3::<{ Hypercall::VcpuOp as u32 }>(vcpu::VCPUOP_STOP_PERIODIC_TIMER.into(), 0, 0) })
        .map(|_| ())
}

/// Rings the other end of `port`.
///
/// # Errors
/// `EINVAL`: the port is not connected.
pub fn event_send(port: u32) -> Result<(), Errno> {
    event_op::call(event_channel::EVTCHNOP_SEND, &mut event_channel::EvtchnSend { port })
}

/// The version of the hypervisor, major and minor.
pub fn xen_version() -> (u32, u32) {
    // SAFETY: touches no memory.
    let version =
        unsafe { call2::<{ Hypercall::XenVersion as u32 }>(oxen_abi::version::XENVER_VERSION.into(), 0) } as u32;
    (version >> 16, version & 0xffff)
}

/// The features (`XENFEAT_*`, as bits) of a submap.
///
/// # Errors
/// `EINVAL` for a submap that is not there.
pub fn features(submap: u32) -> Result<u32, Errno> {
    let mut info = oxen_abi::version::FeatureInfo { submap_idx: submap, submap: 0 };
    // SAFETY: the call fills the structure.
    Errno::check(unsafe {
        call2::<{ Hypercall::XenVersion as u32 }>(oxen_abi::version::XENVER_GET_FEATURES.into(), (&raw mut info) as u64)
    })?;
    Ok(info.submap)
}

/// Operations on event channels.
pub mod event_op {
    use super::{Errno, Hypercall, call2, event_channel};
    use zerocopy::FromZeros;

    pub(super) fn call<T>(command: u32, request: &mut T) -> Result<(), Errno> {
        let argument = core::ptr::from_mut(request) as u64;
        // SAFETY: the operations used here read and fill their structure, and touch no other memory.
        Errno::check(unsafe { call2::<{ Hypercall::EventChannelOp as u32 }>(command.into(), argument) }).map(|_| ())
    }

    macro_rules! operation {
        ($($(#[$doc:meta])* $name:ident($request:ident) = $command:ident;)*) => {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// What the hypervisor answers.
                pub fn $name(request: &mut event_channel::$request) -> Result<(), Errno> {
                    call(event_channel::$command, request)
                }
            )*
        };
    }

    operation! {
        /// Makes a port that a named domain may bind to.
        alloc_unbound(EvtchnAllocUnbound) = EVTCHNOP_ALLOC_UNBOUND;
        /// Connects to a port that another domain left open for this one.
        bind_interdomain(EvtchnBindInterdomain) = EVTCHNOP_BIND_INTERDOMAIN;
        /// Binds a virtual interrupt.
        bind_virq(EvtchnBindVirq) = EVTCHNOP_BIND_VIRQ;
        /// Binds a physical interrupt.
        bind_pirq(EvtchnBindPirq) = EVTCHNOP_BIND_PIRQ;
        /// Makes a port that rings a vcpu of this domain.
        bind_ipi(EvtchnBindIpi) = EVTCHNOP_BIND_IPI;
        /// Closes a port.
        close(EvtchnClose) = EVTCHNOP_CLOSE;
        /// Unmasks a port and delivers what came while it was masked; nothing happens for a port that is not.
        unmask(EvtchnUnmask) = EVTCHNOP_UNMASK;
        /// Tells what a port is bound to.
        status(EvtchnStatus) = EVTCHNOP_STATUS;
        /// Chooses the queue of a port.
        set_priority(EvtchnSetPriority) = EVTCHNOP_SET_PRIORITY;
    }

    /// Goes over to the FIFO ABI, with a frame of zeros as vcpu 0's control block: the hypervisor writes to it.
    ///
    /// # Errors
    /// What the hypervisor answers.
    pub(crate) fn init_control(control_gfn: u64) -> Result<(), Errno> {
        let mut request = event_channel::EvtchnInitControl { control_gfn, ..FromZeros::new_zeroed() };
        call(event_channel::EVTCHNOP_INIT_CONTROL, &mut request)
    }

    /// Gives the hypervisor a frame for more event words: it writes to it.
    ///
    /// # Errors
    /// What the hypervisor answers.
    pub(crate) fn expand_array(array_gfn: u64) -> Result<(), Errno> {
        call(event_channel::EVTCHNOP_EXPAND_ARRAY, &mut event_channel::EvtchnExpandArray { array_gfn })
    }
}
