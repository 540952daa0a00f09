//! What a vcpu did how long (`vcpu_runstate_info`, `vcpu.h`), and the copy that its guest reads.

use super::clock;
use crate::{
    Hypervisor,
    addr::{GuestAddr, GuestRange},
    domain::{
        Domain,
        vcpu::{Vcpu, VcpuState},
    },
    machine::Machine,
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    vcpu::{RUNSTATE_OFFLINE, RUNSTATE_RUNNING, VcpuRunstateInfo, XEN_RUNSTATE_UPDATE},
    vm_assist::VMASST_TYPE_RUNSTATE_UPDATE_FLAG,
};
use zerocopy::IntoBytes;

/// The record of one vcpu.
#[derive(Clone, Copy, Debug)]
pub struct Runstate(VcpuRunstateInfo);

impl Runstate {
    /// Off since `now`.
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self(VcpuRunstateInfo { state: RUNSTATE_OFFLINE, _pad: 0, state_entry_time: now, time: [0; 4] })
    }

    /// Enters a `RUNSTATE_*`.
    #[inline]
    pub fn enter(&mut self, state: i32, now: u64) {
        self.account(now);
        self.0.state = state;
    }

    fn account(&mut self, now: u64) {
        let spent = now.saturating_sub(self.0.state_entry_time);
        if let Some(time) = usize::try_from(self.0.state).ok().and_then(|s| self.0.time.get_mut(s)) {
            *time = time.saturating_add(spent);
        }
        self.0.state_entry_time = now;
    }

    /// The record as it is, last changed when the state was entered.
    #[must_use]
    pub const fn info(&self) -> VcpuRunstateInfo {
        self.0
    }

    /// The record with the times as they are `now`.
    #[must_use]
    pub fn until(&self, now: u64) -> VcpuRunstateInfo {
        let mut until_now = *self;
        until_now.account(now);
        VcpuRunstateInfo { state_entry_time: self.0.state_entry_time, ..until_now.0 }
    }

    /// Nanoseconds spent running until `now`.
    #[must_use]
    pub fn ran(&self, now: u64) -> u64 {
        self.until(now).time.get(RUNSTATE_RUNNING as usize).copied().unwrap_or(0)
    }
}

/// Copies the record to where the guest wants it, and the time where that could not be written yet. The vcpu's tables are
/// loaded on this CPU. Where the guest's address leads nowhere, nothing happens.
pub fn publish<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, vcpu: &Vcpu, state: &VcpuState) {
    let area = vcpu.sched.runstate_area.load(Ordering::Relaxed);
    let time_area = vcpu.sched.time_area_due(state.traps_tsc);
    if area | time_area == 0 {
        return;
    }
    let (machine, info) = (&hv.machine, vcpu.sched.runstate.lock().info());
    // The addresses are the kernel's.
    let away = if state.in_kernel { None } else { state.kernel_root.zip(state.user_root) };
    if let Some((kernel, _)) = away {
        machine.load_root(kernel);
    }
    if let Some(area) = GuestAddr(area).range(size_of::<VcpuRunstateInfo>() as u64).filter(|_| area != 0) {
        write(machine, domain, area, &info);
    }
    if let Some(area) = GuestAddr(time_area).words().filter(|_| time_area != 0)
        && clock::publish_to_guest(machine, area, domain.time_info(hv))
    {
        vcpu.sched.time_is_due.store(false, Ordering::Relaxed);
    }
    if let Some((_, user)) = away {
        machine.load_root(user);
    }
}

fn write<M: Machine>(machine: &M, domain: &Domain, area: GuestRange, info: &VcpuRunstateInfo) {
    let entry_time = core::mem::offset_of!(VcpuRunstateInfo, state_entry_time) as u64;
    let Some(entry_time) = area.part(entry_time, size_of::<u64>() as u64) else { return };
    let is_flagged = domain.assists(VMASST_TYPE_RUNSTATE_UPDATE_FLAG);
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

#[cfg(test)]
mod tests {
    use super::*;
    use oxen_abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_RUNNABLE};

    #[test]
    fn the_times_add_up_to_the_life_of_the_vcpu() {
        let mut runstate = Runstate::new(100);
        for (state, at) in
            [(RUNSTATE_RUNNABLE, 130), (RUNSTATE_RUNNING, 150), (RUNSTATE_BLOCKED, 220), (RUNSTATE_RUNNING, 300)]
        {
            runstate.enter(state, at);
        }
        assert_eq!(runstate.info().time, [70, 20, 80, 30]);
        assert_eq!(runstate.ran(310), 80);
    }
}
