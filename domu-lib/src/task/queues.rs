//! Which tasks are to be polled: who has used least of the time comes first.

use alloc::collections::{BTreeMap, VecDeque};

/// Ticks that who had nothing to do may have been behind the others: so much comes first when there is something again.
const CREDIT: u64 = 1 << 21;
/// The weight of an owner of whom nothing else was said, as the scheduler's for domains.
pub(super) const USUAL_WEIGHT: u16 = 256;
/// Owners that are remembered though they have nothing to do and no debt.
const MAX_IDLE: usize = 16;
/// Owners that are remembered at all, more than there are domains at a time.
const MAX_OWNERS: usize = 512;

/// The tasks of one owner that are to be polled, oldest first.
#[derive(Debug, Default)]
struct Own {
    /// Those that were woken.
    woken: VecDeque<u64>,
    /// Those that let others run first.
    yielded: VecDeque<u64>,
    /// Ticks of the time stamp counter that its tasks took, as they would be at the usual weight.
    used: u64,
}

impl Own {
    fn is_empty(&self) -> bool {
        self.woken.is_empty() && self.yielded.is_empty()
    }
}

/// Which tasks are to be polled, by owner.
#[derive(Debug, Default)]
pub(super) struct Queues {
    owners: BTreeMap<u16, Own>,
    /// Weights of owners that are not the usual one.
    weights: BTreeMap<u16, u16>,
    /// What the owner of the task that ran last had used before it: it never runs back.
    level: u64,
    /// Who wakes itself now lets others run first.
    pub(super) is_yielding: bool,
}

impl Queues {
    pub(super) fn add(&mut self, id: u64, owner: u16) {
        if self.owners.len() >= MAX_IDLE && !self.owners.contains_key(&owner) {
            self.forget();
        }
        let own = self.owners.entry(owner).or_default();
        if own.is_empty() {
            own.used = own.used.max(self.level.saturating_sub(CREDIT));
        }
        if own.woken.contains(&id) {
            return;
        }
        if self.is_yielding {
            if !own.yielded.contains(&id) {
                own.yielded.push_back(id);
            }
        } else {
            own.yielded.retain(|other| *other != id);
            own.woken.push_back(id);
        }
    }

    /// Takes the next task: of who has used least, and there the oldest that was woken, or else that let others run
    /// first.
    pub(super) fn next(&mut self) -> Option<u64> {
        let ready = self.owners.values_mut().filter(|own| !own.is_empty());
        let own = ready.min_by_key(|own| (own.used, own.woken.is_empty()))?;
        self.level = self.level.max(own.used);
        own.woken.pop_front().or_else(|| own.yielded.pop_front())
    }

    /// An owner's task took so many ticks. They count for less the more the owner weighs.
    pub(super) fn charge(&mut self, owner: u16, ticks: u64) {
        if let Some(own) = self.owners.get_mut(&owner) {
            let weight = self.weights.get(&owner).copied().unwrap_or(USUAL_WEIGHT).max(1);
            own.used = own.used.saturating_add(ticks.saturating_mul(USUAL_WEIGHT.into()) / u64::from(weight));
        }
    }

    /// An owner gets time by this weight from now on.
    pub(super) fn set_weight(&mut self, owner: u16, weight: u16) {
        if weight == USUAL_WEIGHT {
            self.weights.remove(&owner);
        } else {
            self.weights.insert(owner, weight);
        }
    }

    /// Forgets owners with nothing to do: those whose time would not count any more, all where there are too many.
    fn forget(&mut self) {
        let least = self.level.saturating_sub(CREDIT);
        self.owners.retain(|_, own| !own.is_empty() || own.used > least);
        if self.owners.len() >= MAX_OWNERS {
            self.owners.retain(|_, own| !own.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_used_less_comes_first() {
        let mut queues = Queues::default();
        for (id, owner) in [(1, 1), (2, 1), (3, 2)] {
            queues.add(id, owner);
        }
        assert_eq!(queues.next(), Some(1));
        queues.charge(1, 10 * CREDIT);
        queues.is_yielding = true;
        queues.add(1, 1);
        queues.is_yielding = false;
        assert_eq!(queues.next(), Some(3));
        queues.charge(2, CREDIT);
        queues.add(3, 2);
        // Of the same owner's, the one that was woken comes before the one that goes on.
        assert_eq!([(); 4].map(|()| queues.next()), [Some(3), Some(2), Some(1), None]);
    }

    #[test]
    fn time_that_nobody_else_wanted_is_no_debt_and_time_without_work_little_credit() {
        let mut queues = Queues::default();
        queues.add(1, 1);
        assert_eq!(queues.next(), Some(1));
        queues.charge(1, 100 * CREDIT);
        queues.add(1, 1);
        assert_eq!(queues.next(), Some(1));
        queues.add(2, 2);
        queues.add(1, 1);
        assert_eq!(queues.owners[&2].used, 99 * CREDIT);
        assert_eq!(queues.next(), Some(2));
        queues.charge(2, 2 * CREDIT);
        queues.add(2, 2);
        assert_eq!([(); 3].map(|()| queues.next()), [Some(1), Some(2), None]);
    }

    #[test]
    fn time_is_shared_by_weight() {
        let mut queues = Queues::default();
        queues.set_weight(1, 4 * USUAL_WEIGHT);
        let mut turns = [0; 3];
        for id in [1, 2] {
            queues.add(id, id as u16);
        }
        for _ in 0..1000 {
            let id = queues.next().unwrap();
            turns[id as usize] += 1;
            queues.charge(id as u16, CREDIT);
            queues.add(id, id as u16);
        }
        assert!((795..=805).contains(&turns[1]), "{turns:?}");
        queues.set_weight(1, USUAL_WEIGHT);
        assert!(queues.weights.is_empty());
    }

    #[test]
    fn owners_that_are_gone_are_forgotten() {
        let mut queues = Queues::default();
        for owner in 0..2000 {
            queues.add(1, owner);
            queues.next();
            queues.charge(owner, 1);
        }
        assert!(queues.owners.len() <= MAX_OWNERS, "{}", queues.owners.len());
    }
}
