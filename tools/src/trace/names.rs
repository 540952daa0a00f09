//! What numbers of a trace are called: hypercalls, their commands and arguments, answers, exceptions, states.

use oxen_abi::errno::Errno;
use oxen_abi::event_channel as evtchn;
use oxen_abi::grant_table as grant;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::io::blkif;
use oxen_abi::memory;
use oxen_abi::sched;
use oxen_abi::trace::{OXEN_BLOCK_ANSWERED, OXEN_BLOCK_FROM_DISK, OXEN_BLOCK_TAKEN, OXEN_BLOCK_TO_DISK};
use oxen_abi::vcpu;

use super::stream::{Disk, Vcpu};

/// Names of the `RUNSTATE_*`.
pub(crate) const RUNSTATES: [&str; 4] = ["running", "runnable", "blocked", "offline"];

/// Names of exceptions by their vectors (Intel SDM vol. 3A, table 6-1).
const EXCEPTIONS: [&str; 20] = [
    "#DE",
    "#DB",
    "NMI",
    "#BP",
    "#OF",
    "#BR",
    "#UD",
    "#NM",
    "#DF",
    "segment overrun",
    "#TS",
    "#NP",
    "#SS",
    "#GP",
    "#PF",
    "15",
    "#MF",
    "#AC",
    "#MC",
    "#XM",
];

/// Names of the reasons for a shutdown.
const REASONS: [&str; 6] = ["poweroff", "reboot", "suspend", "crash", "watchdog", "soft reset"];

/// A vcpu's short name.
pub(crate) fn of_vcpu(vcpu: Option<Vcpu>) -> String {
    match vcpu {
        None => "-".to_owned(),
        Some(vcpu) if vcpu.is_idle() => "idle".to_owned(),
        Some(vcpu) => format!("d{}v{}", vcpu.domain, vcpu.id),
    }
}

/// A guest's disk.
pub(crate) fn of_disk(disk: Disk) -> String {
    format!("disk {} of d{}", disk.number, disk.domain)
}

/// What a guest asks of its disk.
pub(crate) fn of_block_operation(operation: u32) -> &'static str {
    match u8::try_from(operation) {
        Ok(blkif::BLKIF_OP_READ) => "read",
        Ok(blkif::BLKIF_OP_WRITE) => "write",
        Ok(blkif::BLKIF_OP_FLUSH_DISKCACHE) => "flush",
        Ok(blkif::BLKIF_OP_DISCARD) => "discard",
        Ok(blkif::BLKIF_OP_INDIRECT) => "transfer",
        _ => "unknown operation",
    }
}

/// A step of a request through the backend.
pub(crate) fn of_block_step(step: u32, more: u32) -> String {
    match step {
        OXEN_BLOCK_TAKEN => format!("{} taken off the ring", of_block_operation(more)),
        OXEN_BLOCK_TO_DISK => "given to the disk".to_owned(),
        OXEN_BLOCK_FROM_DISK => "done by the disk".to_owned(),
        OXEN_BLOCK_ANSWERED if more == u32::from(blkif::BLKIF_RSP_OKAY.cast_unsigned()) => "answered".to_owned(),
        OXEN_BLOCK_ANSWERED => format!("answered with error {}", more as u16 as i16),
        other => format!("step {other}"),
    }
}

/// An exception's name.
pub(crate) fn of_exception(vector: u8) -> String {
    EXCEPTIONS.get(usize::from(vector)).map_or_else(|| format!("int {vector:#x}"), |&name| name.to_owned())
}

/// The name of the reason for a shutdown.
pub(crate) fn of_reason(reason: u32) -> &'static str {
    REASONS.get(reason as usize).copied().unwrap_or("unknown")
}

/// A hypercall's name.
pub(crate) fn of_hypercall(number: u64) -> String {
    Hypercall::from_number(number).map_or_else(|| format!("hypercall {number}"), |call| call.name().to_owned())
}

/// Names of a hypercall's arguments, as far as there are any.
const fn arguments(hypercall: Hypercall) -> &'static [&'static str] {
    match hypercall {
        Hypercall::SetTrapTable => &["table"],
        Hypercall::MmuUpdate => &["requests", "count", "done", "domain"],
        Hypercall::SetGdt => &["frames", "entries"],
        Hypercall::StackSwitch => &["ss", "sp"],
        Hypercall::SetCallbacks => &["event", "failsafe", "syscall"],
        Hypercall::FpuTaskswitch => &["set"],
        Hypercall::SetDebugreg => &["register", "value"],
        Hypercall::GetDebugreg => &["register"],
        Hypercall::UpdateDescriptor => &["machine address", "descriptor"],
        Hypercall::Multicall => &["entries", "count"],
        Hypercall::UpdateVaMapping => &["va", "entry", "flags"],
        Hypercall::UpdateVaMappingOtherdomain => &["va", "entry", "flags", "domain"],
        Hypercall::SetTimerOp => &["deadline"],
        Hypercall::VmAssist => &["cmd", "type"],
        Hypercall::VcpuOp => &["cmd", "vcpu", "arg"],
        Hypercall::SetSegmentBase => &["which", "base"],
        Hypercall::MmuextOp => &["ops", "count", "done", "domain"],
        Hypercall::ConsoleIo => &["cmd", "count", "buffer"],
        Hypercall::GrantTableOp => &["cmd", "ops", "count"],
        Hypercall::Sysctl | Hypercall::Domctl | Hypercall::PlatformOp => &["request"],
        _ => &["cmd", "arg", "arg2"],
    }
}

/// Commands by hypercall: the first argument is one of them.
fn command(hypercall: Hypercall, number: u64) -> Option<&'static str> {
    let known: &[(u32, &str)] = match hypercall {
        Hypercall::SchedOp => &[
            (sched::SCHEDOP_YIELD, "yield"),
            (sched::SCHEDOP_BLOCK, "block"),
            (sched::SCHEDOP_SHUTDOWN, "shutdown"),
            (sched::SCHEDOP_POLL, "poll"),
            (sched::SCHEDOP_REMOTE_SHUTDOWN, "remote_shutdown"),
            (sched::SCHEDOP_WATCHDOG, "watchdog"),
        ],
        Hypercall::EventChannelOp => &[
            (evtchn::EVTCHNOP_BIND_INTERDOMAIN, "bind_interdomain"),
            (evtchn::EVTCHNOP_BIND_VIRQ, "bind_virq"),
            (evtchn::EVTCHNOP_BIND_PIRQ, "bind_pirq"),
            (evtchn::EVTCHNOP_CLOSE, "close"),
            (evtchn::EVTCHNOP_SEND, "send"),
            (evtchn::EVTCHNOP_STATUS, "status"),
            (evtchn::EVTCHNOP_ALLOC_UNBOUND, "alloc_unbound"),
            (evtchn::EVTCHNOP_BIND_IPI, "bind_ipi"),
            (evtchn::EVTCHNOP_BIND_VCPU, "bind_vcpu"),
            (evtchn::EVTCHNOP_UNMASK, "unmask"),
            (evtchn::EVTCHNOP_INIT_CONTROL, "init_control"),
            (evtchn::EVTCHNOP_EXPAND_ARRAY, "expand_array"),
        ],
        Hypercall::GrantTableOp => &[
            (grant::GNTTABOP_MAP_GRANT_REF, "map_grant_ref"),
            (grant::GNTTABOP_UNMAP_GRANT_REF, "unmap_grant_ref"),
            (grant::GNTTABOP_SETUP_TABLE, "setup_table"),
            (grant::GNTTABOP_TRANSFER, "transfer"),
            (grant::GNTTABOP_COPY, "copy"),
            (grant::GNTTABOP_QUERY_SIZE, "query_size"),
        ],
        Hypercall::VcpuOp => &[
            (vcpu::VCPUOP_INITIALISE, "initialise"),
            (vcpu::VCPUOP_UP, "up"),
            (vcpu::VCPUOP_DOWN, "down"),
            (vcpu::VCPUOP_IS_UP, "is_up"),
            (vcpu::VCPUOP_REGISTER_VCPU_INFO, "register_vcpu_info"),
            (vcpu::VCPUOP_SET_SINGLESHOT_TIMER, "set_singleshot_timer"),
            (vcpu::VCPUOP_STOP_SINGLESHOT_TIMER, "stop_singleshot_timer"),
        ],
        Hypercall::MemoryOp => &[
            (memory::XENMEM_INCREASE_RESERVATION, "increase_reservation"),
            (memory::XENMEM_DECREASE_RESERVATION, "decrease_reservation"),
            (memory::XENMEM_POPULATE_PHYSMAP, "populate_physmap"),
            (memory::XENMEM_EXCHANGE, "exchange"),
            (memory::XENMEM_MEMORY_MAP, "memory_map"),
        ],
        _ => return None,
    };
    known.iter().find(|(command, _)| u64::from(*command) == number).map(|(_, name)| *name)
}

/// A hypercall as one reads it: its name, its command, its arguments by name.
pub(crate) fn of_call(number: u64, args: &[Option<u64>; 6]) -> String {
    let Some(hypercall) = Hypercall::from_number(number) else { return of_hypercall(number) };
    let mut text = hypercall.name().to_owned();
    let named = arguments(hypercall).iter().zip(args).filter_map(|(name, arg)| Some((*name, (*arg)?)));
    let shown: Vec<String> = named
        .map(|(name, value)| match (name, command(hypercall, value)) {
            ("cmd", Some(command)) => command.to_owned(),
            ("count" | "entries" | "vcpu" | "register", _) => format!("{name}={value}"),
            ("domain", _) => match value as u32 & 0xffff {
                0x7ff0 => "domain=self".to_owned(),
                0x7ff1 => "domain=io".to_owned(),
                0x7ff2 => "domain=xen".to_owned(),
                id => format!("domain={id}"),
            },
            _ => format!("{name}={value:#x}"),
        })
        .collect();
    text.push('(');
    text.push_str(&shown.join(", "));
    text.push(')');
    text
}

/// Errors are numbers up to this, negated.
const MAX_ERRNO: u64 = 4095;

/// An answer: a number, or the error that it stands for.
pub(crate) fn of_answer(value: u64) -> String {
    match Errno::check(value) {
        Err(errno) if value > u64::MAX - MAX_ERRNO => errno.to_string(),
        _ if value < 1 << 20 => value.to_string(),
        _ => format!("{value:#x}"),
    }
}
