//! What a vcpu did how long (`vcpu_runstate_info`, `vcpu.h`).

use oxen_abi::vcpu::{RUNSTATE_OFFLINE, RUNSTATE_RUNNING, VcpuRunstateInfo};

/// The record of one vcpu.
#[derive(Clone, Copy, Debug)]
pub struct Runstate(VcpuRunstateInfo);

impl Runstate {
    /// Off since `now`.
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self(VcpuRunstateInfo { state: RUNSTATE_OFFLINE, _pad: 0, state_entry_time: now, time: [0; 4] })
    }

    /// Enters a `RUNSTATE_*`. Returns the one before.
    #[inline]
    pub fn enter(&mut self, state: i32, now: u64) -> i32 {
        self.account(now);
        core::mem::replace(&mut self.0.state, state)
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
