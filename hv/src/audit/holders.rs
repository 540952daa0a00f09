//! What domains hold besides their tables: by their vcpus, events, interrupts and grants.

use super::Recount;
use crate::{
    domain::{Domain, vcpu::VcpuState},
    machine::Machine,
};

impl<M: Machine> Recount<'_, M> {
    /// Counts what a domain holds, but for what a vcpu keeps with it while it runs.
    pub fn add_domain(&mut self, domain: &Domain) {
        self.add(domain.shared_info, true);
        self.add_events(domain);
        self.add_translations(domain);
        domain.pirqs.lock().page().iter().for_each(|&page| self.add(page, true));
        for vcpu in domain.each_vcpu() {
            vcpu.info_frame.lock().iter().for_each(|&frame| self.add(frame, true));
            if let Some(state) = vcpu.slot.try_lock().as_deref().and_then(Option::as_ref) {
                self.add_vcpu(state);
            }
        }
        let frames = {
            let grants = domain.grants.lock();
            grants.status_frames().iter().for_each(|&frame| self.add(frame, true));
            grants.each_mapping().for_each(|(frame, is_written)| self.add(frame, is_written));
            grants.size().0
        };
        for frame in (0..frames).filter_map(|index| self.hv.grant_table_frame(domain, index).ok()) {
            self.add(frame, true);
        }
    }

    /// Counts the frames of a domain's queues of events.
    pub fn add_events(&mut self, domain: &Domain) {
        domain.events.each_frame(|frame| self.add(frame, true));
    }

    /// Counts what stands in the domain's memory, where its frames are translated.
    pub fn add_translations(&mut self, domain: &Domain) {
        let hv = self.hv;
        hv.memory.each_translation(domain.owner()).for_each(|(_, frame, is_writable)| self.add(frame, is_writable));
    }

    /// Counts what a vcpu refers to: its address spaces and descriptor tables.
    pub fn add_vcpu(&mut self, state: &VcpuState) {
        let roots = [state.kernel_root, state.user_root];
        roots.iter().chain(&state.gdt).chain(&state.ldt).flatten().for_each(|&frame| self.add(frame, true));
    }
}
