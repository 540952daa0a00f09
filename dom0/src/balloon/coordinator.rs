//! A policy at work: in periods it is asked who should have what, and second by second guests are led there.

use alloc::{collections::BTreeMap, vec::Vec};
use core::cell::{Cell, RefCell};

use anyhow::{Context, Result};
use oxen_abi::{
    domid::DomId,
    sysctl::{MAX_SAMPLES, WorkingSet},
};
use oxen_domu_lib::{control, println};

use super::controller::{Controller, Standing, Subject};
use super::estimate::Estimate;
use super::plan::{self, Way};
use super::policy::{
    Claim, Policy,
    limits::{MACHINE_RESERVE, Situation},
};
use crate::errno::Named;

/// Seconds between two decisions, if nobody says otherwise.
pub const PERIOD: u32 = 30;
/// Domains of which working sets are asked.
const MAX_DOMAINS: usize = 1024;

/// Ends a period in which pages of guests were watched, and begins the next with about `samples` pages of each, or
/// none. Returns what was seen.
///
/// # Errors
/// This hypervisor does not tell.
pub fn turn_working_sets(samples: u32) -> Result<Vec<WorkingSet>> {
    let sets = control::turn_working_sets(samples, MAX_DOMAINS).map_err(Named);
    sets.context("this hypervisor does not tell which pages guests use")
}

/// What a policy decides by, and what it decided.
#[derive(Debug)]
pub struct Coordinator {
    policy: Cell<Policy>,
    /// Seconds between two decisions.
    period: Cell<u32>,
    /// Looks since the last.
    looks: Cell<u32>,
    estimates: RefCell<BTreeMap<DomId, Estimate>>,
    wanted: RefCell<BTreeMap<DomId, u64>>,
}

impl Default for Coordinator {
    fn default() -> Self {
        Self {
            policy: Cell::new(Policy::Fixed),
            period: Cell::new(PERIOD),
            looks: Cell::new(0),
            estimates: RefCell::default(),
            wanted: RefCell::default(),
        }
    }
}

impl Coordinator {
    /// The policy, and the seconds between two decisions.
    pub fn policy(&self) -> (Policy, u32) {
        (self.policy.get(), self.period.get())
    }

    /// Has another policy decide, every `period` seconds. The first decision comes after the first period.
    ///
    /// # Errors
    /// The policy goes by what guests use, and this hypervisor does not tell.
    pub fn set_policy(&self, policy: Policy, period: u32) -> Result<()> {
        let samples = if policy.watches() { MAX_SAMPLES } else { 0 };
        let watched = turn_working_sets(samples);
        if policy.watches() {
            watched?;
        }
        self.policy.set(policy);
        self.period.set(period.max(1));
        self.looks.set(0);
        self.estimates.borrow_mut().clear();
        self.wanted.borrow_mut().clear();
        Ok(())
    }

    /// What a guest uses, as far as it is known.
    pub fn estimate(&self, domain: DomId) -> Option<Estimate> {
        self.estimates.borrow().get(&domain).copied()
    }

    /// What the policy wants a guest to have, in KiB.
    pub fn wanted(&self, domain: DomId) -> Option<u64> {
        self.wanted.borrow().get(&domain).copied()
    }

    /// Once a second: decides if it is time, and leads guests a step towards what was decided.
    pub fn look(&self, balloon: &Controller, guests: &[Subject<'_>]) {
        if self.policy.get() == Policy::Fixed {
            return;
        }
        let known: Vec<_> = guests.iter().filter_map(|guest| Some((guest, balloon.standing(guest).ok()?))).collect();
        let Some(free) = known.first().map(|(_, (_, now))| now.machine_free.saturating_sub(MACHINE_RESERVE)) else {
            return;
        };
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() >= self.period.get() {
            self.looks.set(0);
            self.estimate_all(&known);
            self.decide(&known, free);
        }
        let ways: Vec<Way> = known
            .iter()
            .map(|(guest, (_, now))| Way {
                current: now.current,
                target: now.target,
                wanted: self.wanted(guest.domain).unwrap_or(now.target),
            })
            .collect();
        for ((guest, _), next) in known.iter().zip(plan::next_targets(&ways, free)) {
            // What is refused now is tried again with the next look.
            let _ = next.map(|target| balloon.set_target(guest, target));
        }
    }

    fn estimate_all(&self, known: &[(&Subject<'_>, (Standing, Situation))]) {
        if !self.policy.get().watches() {
            return;
        }
        let sets = match turn_working_sets(MAX_SAMPLES) {
            Ok(sets) => sets,
            Err(why) => {
                println!("balloon: what guests use is not known: {why:#}");
                return;
            }
        };
        let mut estimates = self.estimates.borrow_mut();
        estimates.retain(|domain, _| known.iter().any(|(guest, _)| guest.domain == *domain));
        for set in sets.iter().filter(|set| known.iter().any(|(guest, _)| guest.domain == set.domain)) {
            let next = match estimates.get(&set.domain) {
                Some(estimate) => Some(estimate.next(set.sampled, set.touched)),
                None => Estimate::first(set.sampled, set.touched),
            };
            next.and_then(|next| estimates.insert(set.domain, next));
        }
    }

    fn decide(&self, known: &[(&Subject<'_>, (Standing, Situation))], free: u64) {
        let claims: Vec<Claim> =
            known.iter().map(|(guest, (standing, now))| self.claim(guest, *standing, now)).collect();
        let memory = claims.iter().fold(free, |sum, claim| sum.saturating_add(claim.current));
        let targets = self.policy.get().targets(&claims, memory);
        *self.wanted.borrow_mut() =
            known.iter().zip(targets).map(|((guest, _), target)| (guest.domain, target)).collect();
    }

    fn claim(&self, guest: &Subject<'_>, standing: Standing, now: &Situation) -> Claim {
        let estimate = self.estimate(guest.domain);
        let claim = Claim {
            current: now.current,
            given: now.target,
            floor: now.floor(),
            maximum: now.maximum,
            shares: guest.shares,
            used: estimate.map(Estimate::used),
        };
        match standing {
            // A balloon that does not react can neither give nor take: nothing is planned with it.
            Standing::Dead => Claim { floor: now.current, maximum: now.current, ..claim },
            Standing::Arrived | Standing::Moving => claim,
        }
    }
}
