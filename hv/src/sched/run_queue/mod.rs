//! The policy of one CPU: whose turn it is, by credit. Pure: it names no vcpu and no
//! hardware, only entities and moments.
//!
//! Every period, each entity that wanted to run is given credit in proportion to its weight, and running costs credit.
//! Entities with credit go before those without, in turn. Who wakes with credit left goes first for a moment, so that
//! short work is prompt, but lets one of its own group who runs do so for a moment, too. A capped entity is given no
//! more than its cap, and rests when that is spent.

mod entity;

pub use entity::{Entity, EntityId, Share};

use alloc::boxed::Box;
use entity::{Class, List, Mode, NONE, Parts};

/// How long an entity runs before it is another's turn, in nanoseconds. Kernels with several vcpus spin for one
/// another: while one waits for a lock whose holder was put off, this is how long it wastes.
pub const SLICE: u64 = 2_000_000;
/// How often credit is given, in nanoseconds.
pub const PERIOD: u64 = 30_000_000;
/// How long an entity runs at the least before somebody of its group who was woken goes first, in nanoseconds. Who
/// wakes another is about to wait itself, more often than not, and may hold locks that the other needs.
pub const RATE_LIMIT: u64 = 500_000;
/// How long somebody who was just woken goes before everybody else, in nanoseconds.
pub const BOOST_SLICE: u64 = 2_000_000;
/// Credit is kept within this distance of zero, in nanoseconds of running.
const MAX_CREDIT: i64 = PERIOD as i64;
/// The most that an entity owes. It is little: who ran because nobody else wanted to took nothing from anybody.
const MIN_CREDIT: i64 = -2 * SLICE as i64;
/// Periods for which credit is given at once, when nobody asked for long.
const MAX_PERIODS: u64 = 4;
/// The weight of who was given none.
pub const DEFAULT_WEIGHT: u16 = 256;

/// What the policy answers: who should run, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Whose turn it is; nobody's if nobody wants to run.
    pub next: Option<EntityId>,
    /// The moment at which the answer may be another; `u64::MAX` if only an event can change it.
    pub until: u64,
}

/// What came of waking an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It was awake already.
    Before,
    /// It waits behind the one who runs.
    Waits,
    /// It waits, and a new choice is due.
    ChoiceDue,
}

/// The entities of one CPU.
#[derive(Debug)]
pub struct RunQueue {
    entities: Box<[Entity]>,
    lists: [List; 3],
    running: u16,
    /// Since when the running entity was not yet charged.
    charged_until: u64,
    slice_end: u64,
    /// Until when nobody of its group who wakes takes the CPU from the running entity.
    kept_until: u64,
    next_period: u64,
    resting: u32,
    /// Entities from here on were never taken.
    top: usize,
}

#[expect(clippy::indexing_slicing, reason = "entities are given out by `join` below the row's length, lists are three")]
impl RunQueue {
    /// An empty queue over this row of entities.
    #[must_use]
    pub fn new(entities: Box<[Entity]>) -> Self {
        debug_assert!(entities.len() < usize::from(NONE));
        Self {
            entities,
            lists: [List::EMPTY; 3],
            running: NONE,
            charged_until: 0,
            slice_end: 0,
            kept_until: 0,
            next_period: 0,
            resting: 0,
            top: 0,
        }
    }

    /// Gives out an entity, asleep, if one is left. Entities of one `group` give each other a moment more.
    pub fn join(&mut self, share: Share, group: u16) -> Option<EntityId> {
        let index = self.entities.iter().position(|e| e.mode == Mode::Empty)?;
        self.entities[index] = Entity { mode: Mode::Asleep, share, group, ..Entity::EMPTY };
        self.top = self.top.max(index + 1);
        Some(EntityId(index as u16))
    }

    /// Takes an entity back, wherever it is in the queue. A running one must have been stopped before.
    pub fn quit(&mut self, id: EntityId) {
        self.unlink(id.0);
        if self.running == id.0 {
            self.running = NONE;
        }
        self.entities[id.index()] = Entity::EMPTY;
    }

    /// Changes an entity's weight and cap, from the next period on.
    pub fn set_share(&mut self, id: EntityId, share: Share) {
        self.entities[id.index()].share = share;
    }

    /// How many entities are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.entities.iter().filter(|e| e.mode != Mode::Empty).count()
    }

    /// Whether anybody but the running entity waits for the CPU.
    #[inline]
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.lists.iter().any(|l| l.first != NONE)
    }

    /// Whether somebody waits who is not the next to run at once: behind the one who runs, or behind another who waits.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        let waiting = self.lists.iter().filter(|l| l.first != NONE);
        let several = self.lists.iter().any(|l| l.first != NONE && l.first != l.last);
        several || waiting.count() + usize::from(self.running != NONE) > 1
    }

    /// The first of those who wait, in the order in which they would run, that `may`.
    pub fn find_waiting(&self, mut may: impl FnMut(EntityId) -> bool) -> Option<EntityId> {
        self.lists.iter().find_map(|list| {
            let mut rest = *list;
            core::iter::from_fn(|| rest.pop(&self.entities)).map(EntityId).find(|&id| may(id))
        })
    }

    /// Gives somebody who waits in another queue an entity here, where it waits with all that it has, if one is left.
    pub fn move_from(&mut self, other: &mut Self, id: EntityId) -> Option<EntityId> {
        let entity = other.entities[id.index()];
        let Mode::Queued(class) = entity.mode else { return None };
        let index = self.entities.iter().position(|e| e.mode == Mode::Empty)?;
        other.quit(id);
        self.entities[index] = entity;
        self.top = self.top.max(index + 1);
        self.push(index as u16, class);
        Some(EntityId(index as u16))
    }

    /// Whether the first of those who wait in a class is of the running entity's group.
    fn is_sibling_first(&self, class: usize, running: EntityId) -> bool {
        let first = self.lists.get(class).and_then(|list| self.entities.get(usize::from(list.first)));
        first.is_some_and(|first| first.group == self.entities[running.index()].group)
    }

    /// The class of those who wait and go first among them.
    fn best_waiting(&self) -> Option<usize> {
        self.lists.iter().position(|list| list.first != NONE)
    }

    /// The entity that runs.
    #[inline]
    #[must_use]
    pub fn running(&self) -> Option<EntityId> {
        (self.running != NONE).then_some(EntityId(self.running))
    }

    /// An entity wants to run again.
    pub fn wake(&mut self, id: EntityId) -> Woken {
        let entity = &mut self.entities[id.index()];
        if entity.mode != Mode::Asleep {
            return Woken::Before;
        }
        entity.was_active = true;
        if entity.share.cap != 0 && entity.credit <= 0 {
            entity.mode = Mode::Resting;
            self.resting += 1;
            return Woken::ChoiceDue;
        }
        let class = if entity.credit >= 0 { Class::Boosted } else { Class::Overdrawn };
        // Even without a preemption somebody now waits, so the one who runs needs an end of its slice.
        let was_alone = !self.has_waiting();
        self.push(id.0, class);
        let goes_first = match self.running() {
            None => true,
            Some(running) => matches!(self.entities[running.index()].mode, Mode::Running(current) if class < current),
        };
        if was_alone || goes_first { Woken::ChoiceDue } else { Woken::Waits }
    }

    /// Chooses who runs from `now` on. `is_ready` is the mechanism's word on who can; an entity that cannot falls
    /// asleep. `yields`: the running entity lets others of its class go first.
    pub fn choose(&mut self, now: u64, yields: bool, mut is_ready: impl FnMut(EntityId) -> bool) -> Choice {
        self.charge(now);
        if now >= self.next_period {
            let periods = (now - self.next_period) / PERIOD + 1;
            self.give_credit(periods.min(MAX_PERIODS));
            self.next_period = now.saturating_add(PERIOD);
        }
        if let Some(running) = self.running()
            && let Some(stay) = self.stay_or_step_down(now, yields, running, &mut is_ready)
        {
            return stay;
        }
        while let Some(index) = self.pop() {
            if !is_ready(EntityId(index)) {
                self.entities[usize::from(index)].fall_asleep();
                continue;
            }
            self.kept_until = now.saturating_add(RATE_LIMIT);
            return self.start(now, index);
        }
        self.running = NONE;
        Choice { next: None, until: if self.resting != 0 { self.next_period } else { u64::MAX } }
    }

    /// Charges the running entity for its time so far.
    pub fn charge(&mut self, now: u64) {
        let ran = now.saturating_sub(self.charged_until);
        self.charged_until = now;
        if let Some(running) = self.running() {
            let entity = &mut self.entities[running.index()];
            entity.was_active = true;
            entity.credit = entity.credit.saturating_sub_unsigned(ran).max(MIN_CREDIT);
        }
    }

    /// Lets the running entity go on, or puts it where it waits.
    fn stay_or_step_down(
        &mut self,
        now: u64,
        yields: bool,
        running: EntityId,
        is_ready: &mut impl FnMut(EntityId) -> bool,
    ) -> Option<Choice> {
        let best = self.best_waiting();
        let is_kept = now < self.kept_until && best.is_some_and(|best| self.is_sibling_first(best, running));
        let entity = &mut self.entities[running.index()];
        let Mode::Running(held) = entity.mode else { return None };
        self.running = NONE;
        if !is_ready(running) {
            entity.fall_asleep();
            return None;
        }
        if entity.share.cap != 0 && entity.credit <= 0 {
            entity.mode = Mode::Resting;
            self.resting += 1;
            return None;
        }
        let expired = now >= self.slice_end;
        let class = if expired { entity.class() } else { held };
        let gives_way = best.is_some_and(|best| {
            yields || (best < class as usize && (expired || !is_kept)) || (best == class as usize && expired)
        });
        if !gives_way {
            entity.mode = Mode::Running(class);
            self.running = running.0;
            return Some(if expired {
                self.start(now, running.0)
            } else {
                Choice { next: Some(running), until: self.until(running) }
            });
        }
        // Who yields to a lower class goes behind everybody, once.
        let class = if yields { Class::Overdrawn } else { entity.class() };
        self.push(running.0, class);
        None
    }

    fn start(&mut self, now: u64, index: u16) -> Choice {
        let entity = &mut self.entities[usize::from(index)];
        let class = match entity.mode {
            Mode::Queued(Class::Boosted) => Class::Boosted,
            _ => entity.class(),
        };
        entity.mode = Mode::Running(class);
        let mut slice = if class == Class::Boosted { BOOST_SLICE } else { SLICE };
        if entity.share.cap != 0 {
            slice = slice.min(entity.credit.max(1) as u64);
        }
        self.running = index;
        self.charged_until = now;
        self.slice_end = now.saturating_add(slice);
        Choice { next: Some(EntityId(index)), until: self.until(EntityId(index)) }
    }

    /// Until when the running entity need not be looked at: for ever if it is alone and has no cap.
    fn until(&self, running: EntityId) -> u64 {
        let entity = &self.entities[running.index()];
        let turn = match (self.best_waiting(), entity.mode) {
            (Some(best), Mode::Running(class)) if best < class as usize && self.is_sibling_first(best, running) => {
                self.slice_end.min(self.kept_until)
            }
            (Some(_), _) => self.slice_end,
            (None, _) if entity.share.cap != 0 => self.slice_end,
            (None, _) => u64::MAX,
        };
        if self.resting != 0 { turn.min(self.next_period) } else { turn }
    }

    /// Gives every entity that wanted to run its part of some periods, wakes who rested, and lets those in credit again
    /// wait among their like.
    fn give_credit(&mut self, periods: u64) {
        let time = periods * PERIOD;
        let parts = self.parts(time);
        for index in 0..self.top {
            let entity = &mut self.entities[index];
            if !entity.is_active() {
                // Nobody owes for what was long ago.
                if entity.credit < 0 {
                    entity.credit = (entity.credit + MAX_CREDIT).min(0);
                }
                continue;
            }
            entity.was_active = false;
            let part = parts.of(entity);
            entity.slept = entity.mode == Mode::Asleep;
            entity.credit = entity.credit.saturating_add_unsigned(part).min(parts.ceiling_of(entity));
            if entity.mode == Mode::Resting && entity.credit > 0 {
                self.resting -= 1;
                self.push(index as u16, Class::InCredit);
            }
        }
        let mut waiting = core::mem::replace(&mut self.lists[Class::Overdrawn as usize], List::EMPTY);
        while let Some(index) = waiting.pop(&self.entities) {
            let class = self.entities[usize::from(index)].class();
            self.push(index, class);
        }
    }

    /// How `time` is divided: who would have more than it can take has what it can, the others have the rest by weight.
    /// All of the time is given out if it can be, or those who use theirs would all come to owe, and weights would mean
    /// nothing.
    fn parts(&self, time: u64) -> Parts {
        /// Each round finds those who can take no more of what the last one left; more rounds change little.
        const ROUNDS: usize = 3;
        let active = || self.taken_entities().iter().filter(|e| e.is_active());
        let all = active().map(|e| u64::from(e.share.weight)).sum::<u64>();
        let mut parts = Parts { time, by_weight: time, weights: all.max(1) };
        for _ in 0..ROUNDS {
            let (mut taken, mut weights) = (0, 0);
            for entity in active().filter(|e| parts.of(e) == parts.most_of(e)) {
                taken += parts.most_of(entity);
                weights += u64::from(entity.share.weight);
            }
            if weights == all {
                // Each has what it can take: there is nobody to divide the rest among.
                break;
            }
            parts.by_weight = time.saturating_sub(taken);
            parts.weights = all.saturating_sub(weights).max(1);
        }
        parts
    }

    /// The row up to the last entity that was ever taken.
    fn taken_entities(&self) -> &[Entity] {
        self.entities.get(..self.top).unwrap_or_default()
    }

    fn push(&mut self, index: u16, class: Class) {
        let entity = &mut self.entities[usize::from(index)];
        entity.mode = Mode::Queued(class);
        entity.next = NONE;
        let list = &mut self.lists[class as usize];
        if list.first == NONE {
            list.first = index;
        } else {
            self.entities[usize::from(list.last)].next = index;
        }
        list.last = index;
    }

    fn pop(&mut self) -> Option<u16> {
        self.lists.iter_mut().find_map(|list| list.pop(&self.entities))
    }

    /// Takes an entity out of whatever it waits in.
    fn unlink(&mut self, index: u16) {
        match self.entities[usize::from(index)].mode {
            Mode::Resting => self.resting -= 1,
            Mode::Queued(class) => {
                let mut others = core::mem::replace(&mut self.lists[class as usize], List::EMPTY);
                while let Some(other) = others.pop(&self.entities) {
                    if other != index {
                        self.push(other, class);
                    }
                }
            }
            Mode::Empty | Mode::Asleep | Mode::Running(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
