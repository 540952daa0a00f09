//! The time stamp counter that a guest reads, and the time that it computes from it.

use crate::{Hypervisor, domain::Domain, machine::Machine};

impl<M: Machine> Hypervisor<M> {
    /// What a domain's time stamp counter says.
    pub fn read_tsc(&self, domain: &Domain) -> u64 {
        let emulated = if domain.tsc.is_emulated() { domain.tsc.read(self.now()) } else { None };
        emulated.unwrap_or_else(|| self.machine().ticks())
    }

    /// What a domain's vcpus are told of the time, `vcpu_time_info` as words; the version is left zero.
    pub fn time_info(&self, domain: &Domain) -> [u64; 4] {
        let emulated = if domain.tsc.is_emulated() { domain.tsc.info(self.now()) } else { None };
        emulated.unwrap_or_else(|| self.time.vcpu_time_info())
    }
}
