//! What a host of PV guests has nothing of: devices behind an I/O MMU, guests with hardware's help, debuggers that stop
//! a guest. Each is refused as Xen refuses it on such a machine, in the order of Xen's checks.

use super::{Answer, Outcome, find};
use crate::{caller::Caller, domain::Domain, machine::Machine, reply::Control, rights::last_frame};
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{
        Domctl, DomctlMemoryMapping, DomctlMonitorOp, DomctlSendtrigger, DomctlVmEventOp, XEN_DOMCTL_ASSIGN_DEVICE,
        XEN_DOMCTL_BIND_PT_IRQ, XEN_DOMCTL_DEASSIGN_DEVICE, XEN_DOMCTL_DEBUG_OP, XEN_DOMCTL_GET_DEVICE_GROUP,
        XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, XEN_DOMCTL_GETHVMCONTEXT, XEN_DOMCTL_GETHVMCONTEXT_PARTIAL,
        XEN_DOMCTL_IOPORT_MAPPING, XEN_DOMCTL_PSR_ALLOC, XEN_DOMCTL_PSR_CMT_OP, XEN_DOMCTL_SET_BROKEN_PAGE_P2M,
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, XEN_DOMCTL_SETHVMCONTEXT, XEN_DOMCTL_SOFT_RESET,
        XEN_DOMCTL_TEST_ASSIGN_DEVICE, XEN_DOMCTL_UNBIND_PT_IRQ, XEN_DOMCTL_VMTRACE_OP,
    },
    domid::DomId,
    errno::Errno,
};

/// What of a ring for events needs no domain (`XEN_VM_EVENT_GET_VERSION`).
const GET_VM_EVENT_VERSION: u32 = 3;

/// The version of the interface of rings for events, which can be asked for without naming a domain.
pub(super) fn vm_event_version(_: Control, op: &mut Domctl) -> Outcome {
    /// `VM_EVENT_INTERFACE_VERSION` (`vm_event.h`).
    const VERSION: u32 = 7;
    let request: DomctlVmEventOp = op.get();
    if request.op != GET_VM_EVENT_VERSION {
        return Err(Errno::Srch.into());
    }
    op.set(&DomctlVmEventOp { value: VERSION, ..request });
    Ok(Answer::CopyBack)
}

/// Whether a command is about a device and no domain: one that is kept from all, or asked about without naming any.
pub(super) fn is_about_device(command: u32, domain: DomId) -> bool {
    match command {
        XEN_DOMCTL_ASSIGN_DEVICE | XEN_DOMCTL_DEASSIGN_DEVICE => domain == DomId::IO,
        XEN_DOMCTL_TEST_ASSIGN_DEVICE => domain == DomId::INVALID,
        _ => false,
    }
}

/// Why a command that is not built is refused.
pub(super) fn refusal(op: &Domctl) -> Errno {
    /// The commands of `xen_domctl_psr_alloc`.
    const LAST_ALLOCATION: u32 = 9;
    /// How Xen goes on with a reset.
    const SOFT_RESET_CONT: u32 = 23;
    match op.cmd {
        XEN_DOMCTL_ASSIGN_DEVICE
        | XEN_DOMCTL_TEST_ASSIGN_DEVICE
        | XEN_DOMCTL_DEASSIGN_DEVICE
        | XEN_DOMCTL_GET_DEVICE_GROUP
        | XEN_DOMCTL_IOPORT_MAPPING
        | XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE
        | XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE => Errno::OpNotSupp,
        XEN_DOMCTL_BIND_PT_IRQ
        | XEN_DOMCTL_UNBIND_PT_IRQ
        | XEN_DOMCTL_GETHVMCONTEXT
        | XEN_DOMCTL_SETHVMCONTEXT
        | XEN_DOMCTL_GETHVMCONTEXT_PARTIAL
        | XEN_DOMCTL_DEBUG_OP
        | XEN_DOMCTL_SET_BROKEN_PAGE_P2M
        | XEN_DOMCTL_SOFT_RESET
        | SOFT_RESET_CONT
        | XEN_DOMCTL_VMTRACE_OP => Errno::Inval,
        // Neither caches nor memory's bandwidth are divided or watched.
        XEN_DOMCTL_PSR_CMT_OP => Errno::NoDev,
        XEN_DOMCTL_PSR_ALLOC if op.get::<u32>() <= LAST_ALLOCATION => Errno::NoDev,
        XEN_DOMCTL_PSR_ALLOC => Errno::OpNotSupp,
        _ => Errno::NoSys,
    }
}

impl<M: Machine> Caller<'_, M> {
    /// Memory of a device for a guest: PV guests map it themselves, and are told here only that they may.
    pub(super) fn map_device_memory(&self, _: Control, domain: &Domain, request: DomctlMemoryMapping) -> Outcome {
        let last = |first: u64| first.checked_add(request.nr_mfns.wrapping_sub(1)).filter(|&last| last >= first);
        let (Some(last_mfn), Some(_)) = (last(request.first_mfn), last(request.first_gfn)) else {
            return Err(Errno::Inval.into());
        };
        if request.nr_mfns == 0 || last_mfn > last_frame(self.hv.machine()) {
            return Err(Errno::Inval.into());
        }
        let may = |domain: &Domain| domain.memory.rights.lock().memory.contains(request.first_mfn, last_mfn);
        if may(self.domain) && may(domain) { Ok(Answer::Done) } else { Err(Errno::Perm.into()) }
    }

    /// Watching what a guest does: none of it can be for a PV guest.
    pub(super) fn monitor_op(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        const GET_CAPABILITIES: u32 = 2;
        const EMULATE_EACH_REP: u32 = 3;
        const CONTROL_REGISTERS: u32 = 4;
        if domain.id == self.domain.id {
            return Err(Errno::Perm.into());
        }
        let request: DomctlMonitorOp = op.get();
        match request.op {
            GET_CAPABILITIES => {
                op.set(&DomctlMonitorOp { event: 0, ..request });
                Ok(Answer::CopyBack)
            }
            CONTROL_REGISTERS => Ok(Answer::Done),
            EMULATE_EACH_REP => Err(Errno::Inval.into()),
            _ => Err(Errno::OpNotSupp.into()),
        }
    }

    /// A ring for events of a guest: only its version can be asked for.
    pub(super) fn vm_event_op(&self, control: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        const ENABLE: u32 = 0;
        const DISABLE: u32 = 1;
        const RESUME: u32 = 2;
        const MONITOR: u32 = 2;
        let request: DomctlVmEventOp = op.get();
        if request.op == GET_VM_EVENT_VERSION {
            return vm_event_version(control, op);
        }
        self.other_than_self(domain)?;
        Err(match (request.mode, request.op) {
            (MONITOR, RESUME) => Errno::NoDev,
            (MONITOR, DISABLE) => Errno::Inval,
            (MONITOR, ENABLE) => Errno::OpNotSupp,
            _ => Errno::NoSys,
        }
        .into())
    }

    /// A trigger for a vcpu: of all that real machines have, a PV guest takes the NMI.
    pub(super) fn send_trigger(
        &self,
        _: Control,
        domain: &Domain,
        DomctlSendtrigger { trigger, vcpu }: DomctlSendtrigger,
    ) -> Outcome {
        const NMI: u32 = 0;
        const POWER: u32 = 3;
        const SLEEP: u32 = 4;
        let vcpu = find(domain, vcpu).map_err(|_| Errno::Srch)?;
        match trigger {
            NMI => {
                self.hv.raise_nmi(vcpu);
                Ok(Answer::Done)
            }
            POWER | SLEEP => Err(Errno::Inval.into()),
            _ => Err(Errno::NoSys.into()),
        }
    }

    /// Whether a guest waits for who listens to its memory events: nobody can, so the wish is heard alone.
    pub(super) fn require_vm_event_listener(&self, _: Control, domain: &Domain) -> Outcome {
        if domain.id == self.domain.id { Err(Errno::Perm.into()) } else { Ok(Answer::Done) }
    }

    /// Whether a debugger is attached: noted, and told to who asks.
    pub(super) fn set_debugging(&self, _: Control, domain: &Domain, enable: u8) -> Outcome {
        self.other_than_self(domain)?;
        domain.is_debugged.store(enable != 0, Ordering::Relaxed);
        Ok(Answer::Done)
    }

    /// Whom a domain serves as its device model: guests with hardware's help alone have one.
    pub(super) fn set_device_model_target(&self, _: Control, target: DomId) -> Outcome {
        self.hv.domains.get(target).ok_or(Errno::Srch)?;
        Err(Errno::OpNotSupp.into())
    }
}
