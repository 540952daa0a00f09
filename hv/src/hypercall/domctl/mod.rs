//! `domctl`: what the control domain does to other domains.

mod absent;
mod affinity;
mod life;
mod policy;
mod rights;
mod shadow;
mod state;
mod time;
mod vcpu;

use super::number::index;
use crate::{
    caller::Caller,
    domain::{Domain, vcpu::Vcpu},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Control, Reply, Stop},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{
        Domctl, XEN_DOMCTL_CREATEDOMAIN, XEN_DOMCTL_DESTROYDOMAIN, XEN_DOMCTL_GET_ADDRESS_SIZE,
        XEN_DOMCTL_GET_CPU_POLICY, XEN_DOMCTL_GET_EXT_VCPUCONTEXT, XEN_DOMCTL_GET_VCPU_MSRS, XEN_DOMCTL_GETDOMAININFO,
        XEN_DOMCTL_GETNODEAFFINITY, XEN_DOMCTL_GETPAGEFRAMEINFO3, XEN_DOMCTL_GETTSCINFO, XEN_DOMCTL_GETVCPUAFFINITY,
        XEN_DOMCTL_GETVCPUCONTEXT, XEN_DOMCTL_GETVCPUEXTSTATE, XEN_DOMCTL_GETVCPUINFO, XEN_DOMCTL_HYPERCALL_INIT,
        XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_IOMEM_PERMISSION, XEN_DOMCTL_IOPORT_PERMISSION,
        XEN_DOMCTL_IRQ_PERMISSION, XEN_DOMCTL_MAX_MEM, XEN_DOMCTL_MAX_VCPUS, XEN_DOMCTL_MEMORY_MAPPING,
        XEN_DOMCTL_MONITOR_OP, XEN_DOMCTL_PAUSEDOMAIN, XEN_DOMCTL_RESUMEDOMAIN, XEN_DOMCTL_SCHEDULER_OP,
        XEN_DOMCTL_SENDTRIGGER, XEN_DOMCTL_SET_ACCESS_REQUIRED, XEN_DOMCTL_SET_ADDRESS_SIZE, XEN_DOMCTL_SET_CPU_POLICY,
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT, XEN_DOMCTL_SET_TARGET, XEN_DOMCTL_SET_VCPU_MSRS, XEN_DOMCTL_SET_VIRQ_HANDLER,
        XEN_DOMCTL_SETDEBUGGING, XEN_DOMCTL_SETDOMAINHANDLE, XEN_DOMCTL_SETNODEAFFINITY, XEN_DOMCTL_SETTIMEOFFSET,
        XEN_DOMCTL_SETTSCINFO, XEN_DOMCTL_SETVCPUAFFINITY, XEN_DOMCTL_SETVCPUCONTEXT, XEN_DOMCTL_SETVCPUEXTSTATE,
        XEN_DOMCTL_SETVNUMAINFO, XEN_DOMCTL_SHADOW_OP, XEN_DOMCTL_SUBSCRIBE, XEN_DOMCTL_UNPAUSEDOMAIN,
        XEN_DOMCTL_VM_EVENT_OP, XenctlBitmap,
    },
    domid::DomId,
    errno::Errno,
};

/// Whether the request is copied back to the caller, with what was answered in it.
enum Answer {
    /// Nothing is.
    Done,
    /// All of it is.
    CopyBack,
    /// All of it is, and the command has failed nevertheless.
    CopyBackAnd(Errno),
}

/// What a command answers.
type Outcome = Result<Answer, Stop>;

impl<M: Machine> Caller<'_, M> {
    /// `domctl(request)`.
    ///
    /// # Errors
    /// `Fault` for an unreadable request, `Acces` for another version of the interface, `Srch` for a domain that there
    /// is not, `Perm` for everybody but the control domain, `NoSys` for what there is not, and the commands' own.
    #[inline]
    pub fn domctl(&mut self, args: &mut Args) -> Reply {
        let request = GuestPtr::<Domctl>::one(args[0])?;
        let mut op = request.read(self.hv.machine(), 0)?;
        if op.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
            return Err(Errno::Acces.into());
        }
        let done = match op.cmd {
            XEN_DOMCTL_CREATEDOMAIN => self.create_domain(self.control()?, &mut op),
            XEN_DOMCTL_GETDOMAININFO => self.get_domain_info(self.control()?, &mut op),
            command if absent::is_about_device(command, op.domain) => {
                self.control()?;
                Err(absent::refusal(&op).into())
            }
            XEN_DOMCTL_VM_EVENT_OP if op.domain == DomId::INVALID => absent::vm_event_version(self.control()?, &mut op),
            _ => {
                let domain = self.hv.domains.get(op.domain).ok_or(Errno::Srch)?;
                let control = self.control()?;
                self.domctl_on_domain(control, &domain, &mut op)
            }
        };
        match done? {
            Answer::Done => {}
            Answer::CopyBack => request.write(self.hv.machine(), 0, &op)?,
            Answer::CopyBackAnd(error) => {
                request.write(self.hv.machine(), 0, &op)?;
                return Err(error.into());
            }
        }
        Ok(0)
    }

    fn domctl_on_domain(&mut self, control: Control, domain: &Arc<Domain>, op: &mut Domctl) -> Outcome {
        match op.cmd {
            XEN_DOMCTL_DESTROYDOMAIN => self.destroy_domain(control, domain),
            XEN_DOMCTL_PAUSEDOMAIN => self.pause_domain(control, domain),
            XEN_DOMCTL_UNPAUSEDOMAIN => self.unpause_domain(control, domain),
            XEN_DOMCTL_RESUMEDOMAIN => self.resume_domain(control, domain),
            XEN_DOMCTL_MAX_VCPUS => self.make_vcpus(control, domain, op.get()),
            XEN_DOMCTL_MAX_MEM => life::limit_memory(control, domain, op.get()),
            XEN_DOMCTL_SETDOMAINHANDLE => life::set_handle(control, domain, op.get()),
            XEN_DOMCTL_SUBSCRIBE => life::subscribe(control, domain, op.get()),
            XEN_DOMCTL_SETTIMEOFFSET => self.set_time_offset(control, domain, op.get()),
            XEN_DOMCTL_SETTSCINFO => self.set_tsc_info(control, domain, op.get()),
            XEN_DOMCTL_GETTSCINFO => self.get_tsc_info(control, domain, op),
            XEN_DOMCTL_SET_ADDRESS_SIZE => life::set_address_size(control, op.get()),
            XEN_DOMCTL_GET_ADDRESS_SIZE => life::get_address_size(control, op),
            XEN_DOMCTL_GET_CPU_POLICY => self.get_cpu_policy(control, domain, op),
            XEN_DOMCTL_SET_CPU_POLICY => self.set_cpu_policy(control, domain, op),
            XEN_DOMCTL_HYPERCALL_INIT => self.hypercall_init(control, domain, op.get()),
            XEN_DOMCTL_GETPAGEFRAMEINFO3 => self.get_page_types(control, domain, op.get()),
            _ => self.domctl_on_vcpus(control, domain, op),
        }
    }

    /// What is about a domain's vcpus, its rights, and what is not built.
    fn domctl_on_vcpus(&mut self, control: Control, domain: &Arc<Domain>, op: &mut Domctl) -> Outcome {
        match op.cmd {
            XEN_DOMCTL_SETVCPUCONTEXT => self.set_vcpu_context(control, domain, op.get()),
            XEN_DOMCTL_GETVCPUCONTEXT => self.get_vcpu_context(control, domain, op.get()),
            XEN_DOMCTL_GETVCPUINFO => self.get_vcpu_info(control, domain, op),
            XEN_DOMCTL_SETVCPUAFFINITY => self.set_vcpu_affinity(control, domain, op.get()),
            XEN_DOMCTL_GETVCPUAFFINITY => self.get_vcpu_affinity(control, domain, op.get()),
            XEN_DOMCTL_SCHEDULER_OP => self.domctl_scheduler_op(control, domain, op),
            XEN_DOMCTL_SET_EXT_VCPUCONTEXT => self.set_ext_vcpu_context(control, domain, op.get()),
            XEN_DOMCTL_GET_EXT_VCPUCONTEXT => self.get_ext_vcpu_context(control, domain, op),
            XEN_DOMCTL_SETVCPUEXTSTATE => self.set_extended_state(control, domain, op.get()),
            XEN_DOMCTL_GETVCPUEXTSTATE => self.get_extended_state(control, domain, op),
            XEN_DOMCTL_SET_VCPU_MSRS => self.set_vcpu_msrs(control, domain, op),
            XEN_DOMCTL_GET_VCPU_MSRS => self.get_vcpu_msrs(control, domain, op),
            XEN_DOMCTL_SETNODEAFFINITY => self.set_node_affinity(control, domain, op.get()),
            XEN_DOMCTL_GETNODEAFFINITY => self.get_node_affinity(control, domain, op.get()),
            XEN_DOMCTL_SETVNUMAINFO => Ok(self.set_vnuma_info(control, domain, &op.get()).map(|()| Answer::Done)?),
            XEN_DOMCTL_IRQ_PERMISSION => self.permit_interrupt(control, domain, op.get()),
            XEN_DOMCTL_IOMEM_PERMISSION => self.permit_memory(control, domain, op.get()),
            XEN_DOMCTL_IOPORT_PERMISSION => self.permit_ports(control, domain, op.get()),
            XEN_DOMCTL_MEMORY_MAPPING => self.map_device_memory(control, domain, op.get()),
            XEN_DOMCTL_SET_TARGET => self.set_device_model_target(control, DomId(op.get())),
            XEN_DOMCTL_SET_VIRQ_HANDLER => self.set_virq_handler(control, domain, op.get()),
            XEN_DOMCTL_MONITOR_OP => self.monitor_op(control, domain, op),
            XEN_DOMCTL_VM_EVENT_OP => self.vm_event_op(control, domain, op),
            XEN_DOMCTL_SENDTRIGGER => self.send_trigger(control, domain, op.get()),
            XEN_DOMCTL_SET_ACCESS_REQUIRED => self.require_vm_event_listener(control, domain),
            XEN_DOMCTL_SHADOW_OP => self.shadow_op(control, domain, op),
            XEN_DOMCTL_SETDEBUGGING => self.set_debugging(control, domain, op.get()),
            _ => Err(absent::refusal(op).into()),
        }
    }

    /// Answers for the first domain whose id is not below the one asked for.
    fn get_domain_info(&self, _: Control, op: &mut Domctl) -> Outcome {
        if !op.domain.is_real() {
            return Err(Errno::Inval.into());
        }
        let domain = self.hv.domains.next_from(op.domain).ok_or(Errno::Srch)?;
        op.domain = domain.id;
        op.set(&self.hv.domain_info(&domain));
        Ok(Answer::CopyBack)
    }

    /// Another domain than the caller's own: what cannot be done to the domain that does it.
    fn other_than_self(&self, domain: &Domain) -> Result<(), Errno> {
        if domain.id == self.domain.id { Err(Errno::Inval) } else { Ok(()) }
    }

    /// Bits of a caller's bitmap, as far as it has any; the rest is zero.
    pub(super) fn read_cpu_bitmap(&self, bitmap: &XenctlBitmap) -> Result<u64, Errno> {
        let bytes = bitmap.nr_bits.div_ceil(8).min(8);
        let mut word = [0; 8];
        if let Some(known) = word.get_mut(..index(bytes)) {
            GuestPtr::<u8>::new(bitmap.bitmap, bytes.into())?.read_many(self.hv.machine(), 0, known)?;
        }
        let mask = 1_u64.checked_shl(bitmap.nr_bits).map_or(u64::MAX, |bit| bit.wrapping_sub(1));
        Ok(u64::from_le_bytes(word) & mask)
    }

    /// Writes a caller's bitmap, all the bytes it has room for.
    pub(super) fn write_cpu_bitmap(&self, bitmap: &XenctlBitmap, bits: u64) -> Result<(), Errno> {
        /// No caller needs room for more processors.
        const MAX_BYTES: u32 = 1024;
        let bytes = bitmap.nr_bits.div_ceil(8).min(MAX_BYTES);
        let map = GuestPtr::<u8>::new(bitmap.bitmap, bytes.into())?;
        let known = bits.to_le_bytes().into_iter().chain(core::iter::repeat(0));
        (0..u64::from(bytes)).zip(known).try_for_each(|(i, byte)| map.write(self.hv.machine(), i, &byte))
    }
}

/// A vcpu of the domain.
fn find(domain: &Domain, id: u32) -> Result<&Arc<Vcpu>, Errno> {
    if id >= domain.max_vcpus.load(Ordering::Relaxed) {
        return Err(Errno::Inval);
    }
    domain.vcpu(id).ok_or(Errno::Srch)
}
