//! A guest on the fake machine: a domain, a vcpu, and what a test does in its name.

use super::{Fake, this_cpu};
use oxen_abi::domid::DomId;
use oxen_hv::{
    Hypervisor,
    addr::Mfn,
    caller::Caller,
    domain::{
        self, Config, Domain,
        regs::Regs,
        vcpu::{Vcpu, VcpuState},
    },
    mem::frame_alloc,
};
use std::sync::{Arc, atomic::Ordering};

/// A guest that runs on this thread's CPU.
pub(crate) struct Guest {
    /// The hypervisor.
    pub(crate) hv: &'static Hypervisor<Fake>,
    /// Its domain.
    pub(crate) domain: Arc<Domain>,
    /// Its only vcpu.
    pub(crate) vcpu: Arc<Vcpu>,
    /// The vcpu's state.
    pub(crate) state: Box<VcpuState>,
    /// Its registers.
    pub(crate) regs: Regs,
}

/// A domain that is not paused, in the first free slot.
pub(crate) fn new_domain(hv: &'static Hypervisor<Fake>, id: u16, is_privileged: bool, max_pages: u32) -> Arc<Domain> {
    let config = Config { id: Some(DomId(id)), is_privileged, ..Config::CONTROL };
    let domain = domain::create(hv, &config).unwrap();
    domain.max_pages.store(max_pages, Ordering::SeqCst);
    domain.set_paused_by_controller(hv, false);
    domain
}

impl Guest {
    /// A guest with a fresh domain, in the first free slot.
    pub(crate) fn new(hv: &'static Hypervisor<Fake>, id: u16, is_privileged: bool, max_pages: u32) -> Self {
        let domain = new_domain(hv, id, is_privileged, max_pages);
        domain.add_vcpu(hv, 0).unwrap();
        let vcpu = domain.vcpu(0).unwrap().clone();
        let state = vcpu.slot.lock().take().unwrap();
        vcpu.is_initialised.store(true, Ordering::SeqCst);
        vcpu.pauses.store(0, Ordering::SeqCst);
        Self { hv, domain, vcpu, state, regs: Regs::default() }
    }

    /// The guest as a handler sees it.
    pub(crate) fn caller(&mut self) -> Caller<'_, Fake> {
        self.domain.dirty_cpus.fetch_or(1 << this_cpu().0, Ordering::SeqCst);
        Caller {
            hv: self.hv,
            cpu: this_cpu(),
            domain: &self.domain,
            vcpu: &self.vcpu,
            state: &mut self.state,
            regs: &mut self.regs,
        }
    }

    /// A frame for its reservation.
    pub(crate) fn frame(&self) -> Mfn {
        frame_alloc::take_for(self.hv, &self.domain, 0).unwrap()
    }
}
