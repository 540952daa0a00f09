//! The copy of a vcpu's runstate that its guest reads (`VCPUOP_register_runstate_memory_area`, `vcpu.h`).

use crate::{
    Hypervisor,
    addr::{GuestAddr, GuestRange},
    domain::{
        Domain,
        vcpu::{Vcpu, VcpuState},
    },
    machine::Machine,
    mem::GuestMemory,
    sched::clock,
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    vcpu::{VcpuRunstateInfo, XEN_RUNSTATE_UPDATE},
    vm_assist::Assists,
};
use zerocopy::IntoBytes;

impl<M: Machine> Hypervisor<M> {
    /// Copies the record to where the guest wants it, and the time where that could not be written yet. The vcpu's
    /// tables are loaded on this CPU. Where the guest's address leads nowhere, nothing happens.
    #[inline]
    pub fn publish_runstate(&self, domain: &Domain, vcpu: &Vcpu, state: &VcpuState) {
        let area = vcpu.sched.runstate_area.load(Ordering::Relaxed);
        let time_area = vcpu.sched.time_area_due(state.traps_tsc);
        if area | time_area != 0 {
            self.write_runstate(domain, vcpu, state, [area, time_area]);
        }
    }

    #[inline(never)]
    fn write_runstate(&self, domain: &Domain, vcpu: &Vcpu, state: &VcpuState, [area, time_area]: [u64; 2]) {
        let (machine, info) = (self.machine(), vcpu.sched.runstate.lock().info());
        // The addresses are the kernel's.
        if !state.in_kernel {
            machine.load_root(state.loaded.kernel);
        }
        if let Some(area) = GuestAddr::new(area).range(size_of::<VcpuRunstateInfo>() as u64).filter(|_| area != 0) {
            write(machine, domain, area, &info);
        }
        if let Some(area) = GuestAddr::new(time_area).words().filter(|_| time_area != 0)
            && clock::publish_to_guest(machine, area, self.time_info(domain))
        {
            vcpu.sched.time_is_due.store(false, Ordering::Relaxed);
        }
        if !state.in_kernel {
            machine.load_root(state.loaded.user);
        }
    }
}

fn write(machine: &impl GuestMemory, domain: &Domain, area: GuestRange, info: &VcpuRunstateInfo) {
    let entry_time = core::mem::offset_of!(VcpuRunstateInfo, state_entry_time) as u64;
    let Some(entry_time) = area.part(entry_time, size_of::<u64>() as u64) else { return };
    let is_flagged = domain.assists(Assists::RUNSTATE_UPDATE_FLAG);
    let mut copy = *info;
    if is_flagged {
        copy.state_entry_time |= XEN_RUNSTATE_UPDATE;
        if machine.write_guest(entry_time, copy.state_entry_time.as_bytes()).is_err() {
            return;
        }
    }
    if machine.write_guest(area, copy.as_bytes()).is_ok() && is_flagged {
        let _gone = machine.write_guest(entry_time, info.state_entry_time.as_bytes());
    }
}
