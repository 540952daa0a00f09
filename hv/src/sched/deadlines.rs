//! One queue of deadlines per CPU: at most one moment for each entity, the earliest on top.

use super::run_queue::EntityId;
use alloc::boxed::Box;

/// One place: a deadline in the heap's order, and where each entity's deadline is in it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    at: u64,
    id: u16,
    place_of: u16,
}

impl Place {
    /// A place that holds nothing, for an entity that waits for nothing.
    pub const EMPTY: Self = Self { at: NEVER, id: 0, place_of: NONE };
}

/// No deadline.
pub const NEVER: u64 = u64::MAX;
const NONE: u16 = u16::MAX;

/// A binary heap over entities, each of which knows its place.
#[derive(Debug)]
pub struct Deadlines {
    places: Box<[Place]>,
    count: usize,
}

#[expect(clippy::indexing_slicing, reason = "places are below `count`, entities below the row's length by `EntityId`")]
impl Deadlines {
    /// An empty queue, with room for as many entities as the row is long.
    #[must_use]
    pub const fn new(places: Box<[Place]>) -> Self {
        Self { places, count: 0 }
    }

    /// The earliest deadline; [`NEVER`] if there is none.
    #[inline]
    #[must_use]
    pub fn first(&self) -> u64 {
        if self.count == 0 { NEVER } else { self.places[0].at }
    }

    /// Replaces the deadline of an entity; [`NEVER`] takes it out.
    pub fn set(&mut self, id: EntityId, at: u64) {
        let place = self.places[id.index()].place_of;
        if place == NONE {
            if at != NEVER {
                let last = self.count;
                self.count += 1;
                self.put(last, at, id.index() as u16);
                self.rise(last);
            }
            return;
        }
        let place = usize::from(place);
        if at == NEVER {
            self.remove(place);
        } else {
            self.places[place].at = at;
            let place = self.rise(place);
            self.sink(place);
        }
    }

    /// Takes out the earliest deadline that is not after `now`.
    pub fn pop(&mut self, now: u64) -> Option<EntityId> {
        if self.first() > now || self.count == 0 {
            return None;
        }
        let id = self.places[0].id;
        self.remove(0);
        Some(EntityId::new(id))
    }

    fn remove(&mut self, place: usize) {
        self.places[usize::from(self.places[place].id)].place_of = NONE;
        self.count -= 1;
        if place != self.count {
            let Place { at, id, .. } = self.places[self.count];
            self.put(place, at, id);
            let place = self.rise(place);
            self.sink(place);
        }
    }

    fn put(&mut self, place: usize, at: u64, id: u16) {
        self.places[place].at = at;
        self.places[place].id = id;
        self.places[usize::from(id)].place_of = place as u16;
    }

    fn swap(&mut self, a: usize, b: usize) {
        let (first, second) = (self.places[a], self.places[b]);
        self.put(a, second.at, second.id);
        self.put(b, first.at, first.id);
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place != 0 {
            let parent = (place - 1) / 2;
            if self.places[parent].at <= self.places[place].at {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.count);
            let Some(child) = children.min_by_key(|&c| self.places[c].at) else { return };
            if self.places[place].at <= self.places[child].at {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn deadlines_come_out_in_order_and_once(
            ops in proptest::collection::vec((0..32_u16, 0..1000_u64, 0..4_u8), 1..400)
        ) {
            let mut queue = Deadlines::new(vec![Place::EMPTY; 32].into_boxed_slice());
            let mut model = [NEVER; 32];
            for (id, at, op) in ops {
                match op {
                    0 => { queue.set(EntityId::new(id), NEVER); model[usize::from(id)] = NEVER; }
                    1 => {
                        let due = queue.pop(at);
                        let earliest = *model.iter().min().unwrap();
                        prop_assert_eq!(due.is_some(), earliest <= at);
                        if let Some(due) = due {
                            prop_assert_eq!(model[due.index()], earliest);
                            model[due.index()] = NEVER;
                        }
                    }
                    _ => { queue.set(EntityId::new(id), at); model[usize::from(id)] = at; }
                }
                prop_assert_eq!(queue.first(), *model.iter().min().unwrap());
            }
        }
    }
}
