//! The laws, looked at from outside between two steps.

use super::cpus;
use super::support::{
    Fake,
    audit::{self, Holds},
};
use oxen_hv::{Hypervisor, addr::Mfn, domain::vcpu::VcpuState};
use std::collections::HashSet;

/// Counts everything again.
///
/// # Panics
/// With the name of the law that is broken.
pub(super) fn check(hv: &'static Hypervisor<Fake>) {
    let mut known = Holds::default();
    let mut lent: HashSet<(Option<usize>, Mfn)> = HashSet::new();
    for domain in cpus::domains(hv).iter().filter(|domain| !domain.is_dead()) {
        assert_eq!(hv.audit_events(domain), Ok(()), "the event channels of {}", domain.id);
        known.add(domain.shared_info, true);
        domain.pirqs.lock().page().iter().for_each(|&page| known.add(page, true));
        for vcpu in domain.each_vcpu() {
            vcpu.info_frame.lock().iter().for_each(|&frame| known.add(frame, true));
            vcpu.slot.lock().iter().for_each(|state| held_by_a_vcpu(state, &mut known));
        }
        let frames = {
            let grants = domain.grants.lock();
            grants.status_frames().iter().for_each(|&frame| known.add(frame, true));
            for (frame, is_written) in grants.each_mapping() {
                known.add(frame, is_written);
                lent.insert((domain.owner().slot(), frame));
            }
            grants.size().0
        };
        (0..frames).filter_map(|i| hv.grant_table_frame(domain, i).ok()).for_each(|frame| known.add(frame, true));
    }
    cpus::each_current(|current| held_by_a_vcpu(&current.state, &mut known));
    audit::check(hv, &known, |owner, frame| lent.contains(&(owner.slot(), frame)));
}

fn held_by_a_vcpu(state: &VcpuState, known: &mut Holds) {
    let roots = [state.kernel_root, state.user_root];
    roots.iter().chain(&state.gdt).chain(&state.ldt).flatten().for_each(|&frame| known.add(frame, true));
}
