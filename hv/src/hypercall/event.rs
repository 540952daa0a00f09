//! `event_channel_op`: registers to requests, answers back into the guest's structure. And the form of before Xen 3.2.

use super::{
    args::{EventChannelOp, Resume},
    commands::EventCommand,
    number::long,
};
use crate::{
    addr::GuestAddr,
    caller::Caller,
    channel::{self, Reset},
    event::port::Binding,
    machine::Machine,
    reply::{Args, Reply, Stop},
};
use oxen_abi::{errno::Errno, event_channel as abi};

/// Where the argument of the old interface begins, behind the command.
const ARGUMENT_AT: u64 = long(core::mem::offset_of!(abi::EvtchnOp, u));

/// The bits of a link, as `init_control` answers them.
const LINK_BITS: u8 = {
    let [bits, ..] = abi::EVTCHN_FIFO_LINK_BITS.to_le_bytes();
    bits
};

impl<M: Machine> Caller<'_, M> {
    /// `event_channel_op(command, argument)`.
    ///
    /// # Errors
    /// Those of the commands; `Fault` for an argument that cannot be read or written; `NoSys` for unknown commands.
    #[inline]
    pub fn event_channel_op(&mut self, args: &mut Args) -> Reply {
        let request = EventChannelOp::from(&*args);
        if request.is(EventCommand::Send) {
            return self.send_event(self.read_event_port(request.argument)?).map(|()| 0).map_err(Stop::Refused);
        }
        self.event_op(args)
    }

    /// All but the command of the hot path.
    #[inline(never)]
    fn event_op(&mut self, args: &mut Args) -> Reply {
        let request = EventChannelOp::from(&*args);
        self.event_op_on_port(args, request.command()?, request.argument)
    }

    /// `event_channel_op_compat(operation)`: the command stands in memory, before its argument.
    ///
    /// # Errors
    /// As `event_channel_op`; `NoSys` for commands that came later.
    pub fn event_channel_op_compat(&mut self, args: &mut Args) -> Reply {
        let [at, ..] = *args;
        let abi::EvtchnOp { cmd, .. } = self.copy_from_guest(at)?;
        let at = at.wrapping_add(ARGUMENT_AT);
        match EventCommand::try_from(cmd)? {
            EventCommand::Send => Ok(self.send_event_under_lock(self.read_event_port(at)?).map(|()| 0)?),
            command if (abi::EVTCHNOP_BIND_INTERDOMAIN..=abi::EVTCHNOP_UNMASK).contains(&cmd) => {
                self.event_op_on_port(args, command, at)
            }
            _ => Err(Errno::NoSys.into()),
        }
    }

    /// The port that is all of `evtchn_send`.
    #[inline]
    fn read_event_port(&self, at: u64) -> Result<u32, Errno> {
        let place = GuestAddr::new(at).half().ok_or(Errno::Fault)?;
        self.hv.machine().read_guest_half(place).map_err(|_| Errno::Fault)
    }

    /// The commands that are not on anybody's hot path.
    #[inline(never)]
    fn event_op_on_port(&mut self, args: &mut Args, command: EventCommand, at: u64) -> Reply {
        match command {
            EventCommand::Unmask => {
                let request: abi::EvtchnUnmask = self.copy_from_guest(at)?;
                self.unmask_port(request.port)?;
            }
            EventCommand::AllocUnbound => {
                let mut request: abi::EvtchnAllocUnbound = self.copy_from_guest(at)?;
                request.port = self.alloc_unbound(request.dom, request.remote_dom)?;
                self.copy_to_guest(at, &request)?;
            }
            EventCommand::BindInterdomain => {
                let mut request: abi::EvtchnBindInterdomain = self.copy_from_guest(at)?;
                let port = self.bind_interdomain(request.remote_dom, request.remote_port);
                request.local_port = port?;
                self.copy_to_guest(at, &request)?;
            }
            EventCommand::BindVirq => {
                let mut request: abi::EvtchnBindVirq = self.copy_from_guest(at)?;
                request.port = self.bind_virq(request.virq, request.vcpu)?;
                self.copy_to_guest(at, &request)?;
            }
            EventCommand::BindIpi => {
                let mut request: abi::EvtchnBindIpi = self.copy_from_guest(at)?;
                request.port = self.bind_ipi(request.vcpu)?;
                self.copy_to_guest(at, &request)?;
            }
            EventCommand::BindPirq => {
                let mut request: abi::EvtchnBindPirq = self.copy_from_guest(at)?;
                request.port = self.bind_pirq(request.pirq)?;
                self.copy_to_guest(at, &request)?;
            }
            EventCommand::Close => {
                let request: abi::EvtchnClose = self.copy_from_guest(at)?;
                self.hv.close_port(self.domain, request.port)?;
            }
            EventCommand::Status => {
                let mut request: abi::EvtchnStatus = self.copy_from_guest(at)?;
                let status = self.port_status(request.dom, request.port)?;
                fill(&mut request, status);
                self.copy_to_guest(at, &request)?;
            }
            EventCommand::BindVcpu => {
                let request: abi::EvtchnBindVcpu = self.copy_from_guest(at)?;
                self.bind_vcpu(request.port, request.vcpu)?;
            }
            _ => return self.event_op_on_all_ports(args, command, at),
        }
        Ok(0)
    }

    /// The commands that are about all ports, and about how their events are delivered.
    fn event_op_on_all_ports(&self, args: &mut Args, command: EventCommand, at: u64) -> Reply {
        match command {
            EventCommand::Reset | EventCommand::ResetGoOn => {
                let request: abi::EvtchnReset = self.copy_from_guest(at)?;
                let how = if command == EventCommand::Reset { Reset::Begin } else { Reset::GoOn };
                match self.reset_events(request.dom, how) {
                    Err(Stop::Unfinished) => {
                        return Err(EventChannelOp::new(EventCommand::ResetGoOn, at).leave(args));
                    }
                    outcome => outcome?,
                }
            }
            EventCommand::InitControl => {
                let mut request: abi::EvtchnInitControl = self.copy_from_guest(at)?;
                self.init_event_control(&request)?;
                request.link_bits = LINK_BITS;
                self.copy_to_guest(at, &request)?;
            }
            EventCommand::ExpandArray => {
                let request: abi::EvtchnExpandArray = self.copy_from_guest(at)?;
                self.expand_event_array(request.array_gfn)?;
            }
            EventCommand::SetPriority => {
                let request: abi::EvtchnSetPriority = self.copy_from_guest(at)?;
                self.set_event_priority(request.port, request.priority)?;
            }
            _ => return Err(Errno::NoSys.into()),
        }
        Ok(0)
    }
}

fn fill(request: &mut abi::EvtchnStatus, status: channel::Status) {
    request.vcpu = status.vcpu;
    (request.status, request.u) = match status.binding {
        Binding::Closed => (abi::EVTCHNSTAT_CLOSED, request.u),
        Binding::Unbound { remote } => (abi::EVTCHNSTAT_UNBOUND, remote.0.into()),
        Binding::Interdomain { remote, port, .. } => {
            request.remote_port = port;
            (abi::EVTCHNSTAT_INTERDOMAIN, remote.0.into())
        }
        Binding::Pirq(pirq) => (abi::EVTCHNSTAT_PIRQ, pirq),
        Binding::Virq(virq) => (abi::EVTCHNSTAT_VIRQ, virq),
        Binding::Ipi => (abi::EVTCHNSTAT_IPI, request.u),
    };
}
