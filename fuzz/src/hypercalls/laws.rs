//! The laws, looked at from outside between two steps.

use super::cpus;
use super::support::{Fake, audit};
use oxen_hv::{Hypervisor, addr::Mfn};
use std::collections::HashSet;

/// Counts everything again.
///
/// # Panics
/// With the name of the law that is broken.
pub(super) fn check(hv: &'static Hypervisor<Fake>) {
    let mut recount = audit::recount(hv);
    let mut lent: HashSet<(Option<usize>, Mfn)> = HashSet::new();
    for domain in cpus::domains(hv).iter().filter(|domain| !domain.is_dead()) {
        assert_eq!(hv.audit_events(domain), Ok(()), "the event channels of {}", domain.id);
        recount.add_domain(domain);
        lent.extend(domain.grants.lock().each_mapping().map(|(frame, _)| (domain.owner().slot(), frame)));
    }
    cpus::each_current(|current| recount.add_vcpu(&current.state));
    audit::judge(hv, recount, |owner, frame| lent.contains(&(owner.slot(), frame)));
}
