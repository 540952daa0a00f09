//! What the policy knows of an entity: its share, its credit, where it waits.

use super::{DEFAULT_WEIGHT, MAX_CREDIT};

/// An entity of a run queue, by its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityId(pub(super) u16);

impl EntityId {
    /// The number of the place: below the queue's capacity.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The place with this number.
    #[must_use]
    pub const fn new(index: u16) -> Self {
        Self(index)
    }
}

/// How much an entity may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its part in relation to the others'; not zero.
    pub weight: u16,
    /// At most this many hundredths of the CPU; 0: no limit.
    pub cap: u16,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: DEFAULT_WEIGHT, cap: 0 }
    }
}

/// Who goes first: a lower class before a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Boosted = 0,
    InCredit = 1,
    Overdrawn = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Empty,
    Asleep,
    Queued(Class),
    Running(Class),
    /// Wants to run, but its cap is spent until the next period.
    Resting,
}

/// One entity, as the policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Entity {
    pub(super) mode: Mode,
    pub(super) next: u16,
    pub(super) share: Share,
    /// Entities of one group may hold locks that the others of it need.
    pub(super) group: u16,
    /// Nanoseconds it may run ahead of the others, below zero what it owes.
    pub(super) credit: i64,
    /// Whether it wanted to run since credit was last given.
    pub(super) was_active: bool,
    /// Whether it slept since then.
    pub(super) slept: bool,
}

impl Entity {
    /// An entity that nobody has.
    pub const EMPTY: Self = Self {
        mode: Mode::Empty,
        next: NONE,
        share: Share { weight: 0, cap: 0 },
        group: 0,
        credit: 0,
        was_active: false,
        slept: true,
    };

    /// Whether it wanted to run since credit was last given.
    pub(super) const fn is_active(&self) -> bool {
        self.was_active || !matches!(self.mode, Mode::Asleep | Mode::Empty)
    }

    /// It does not want to run any more.
    pub(super) const fn fall_asleep(&mut self) {
        self.mode = Mode::Asleep;
        self.slept = true;
    }

    pub(super) const fn class(&self) -> Class {
        if self.credit >= 0 { Class::InCredit } else { Class::Overdrawn }
    }
}

/// A stretch of time to be divided: the part of it that goes by weight, and the sum of those weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) time: u64,
    pub(super) by_weight: u64,
    pub(super) weights: u64,
}

impl Parts {
    fn cap_of(&self, entity: &Entity) -> u64 {
        if entity.share.cap == 0 { u64::MAX } else { self.time * u64::from(entity.share.cap) / 100 }
    }

    /// The credit that an entity may have in hand.
    pub(super) fn ceiling_of(&self, entity: &Entity) -> i64 {
        MAX_CREDIT.min(i64::try_from(self.cap_of(entity).saturating_mul(2)).unwrap_or(i64::MAX))
    }

    /// What an entity can take at most: its cap; if it does not want all it can get, no more than it may have in hand.
    pub(super) fn most_of(&self, entity: &Entity) -> u64 {
        let cap = self.cap_of(entity);
        if !entity.slept {
            return cap;
        }
        cap.min(self.ceiling_of(entity).saturating_sub(entity.credit).max(0) as u64)
    }

    /// What an entity gets.
    pub(super) fn of(&self, entity: &Entity) -> u64 {
        (self.by_weight * u64::from(entity.share.weight) / self.weights).min(self.most_of(entity))
    }
}

pub(super) const NONE: u16 = u16::MAX;

/// Entities in the order in which they came, linked through [`Entity::next`].
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };

    #[expect(clippy::indexing_slicing, reason = "links are places in the row")]
    pub(super) fn pop(&mut self, entities: &[Entity]) -> Option<u16> {
        let index = self.first;
        if index == NONE {
            return None;
        }
        self.first = entities[usize::from(index)].next;
        Some(index)
    }
}
