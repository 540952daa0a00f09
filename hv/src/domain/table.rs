//! Which domains exist.

use super::Domain;
use crate::{
    config::MAX_DOMAINS,
    lock::{Lock, SharedLock, rank},
    mem::frame_type::Owner,
};
use alloc::sync::Arc;
use oxen_abi::{domid::DomId, errno::Errno};

/// The domains, each in a slot that the frame table can name.
#[derive(Debug)]
pub struct DomainTable {
    slots: SharedLock<[Option<Arc<Domain>>; MAX_DOMAINS], { rank::DOMAINS }>,
    /// The id given out last. Held while a domain is being made, so that ids and slots are given out once.
    last_id: Lock<u16, { rank::CREATION }>,
}

impl Default for DomainTable {
    fn default() -> Self {
        Self { slots: SharedLock::new([const { None }; MAX_DOMAINS]), last_id: Lock::new(0) }
    }
}

impl DomainTable {
    /// The domain of this id.
    #[must_use]
    pub fn get(&self, id: DomId) -> Option<Arc<Domain>> {
        self.slots.read().iter().flatten().find(|d| d.id == id).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.read().iter().flatten().count()
    }

    /// The domain in this slot, which the frame table calls an owner.
    #[must_use]
    pub fn in_slot(&self, slot: usize) -> Option<Arc<Domain>> {
        self.slots.read().get(slot)?.clone()
    }

    /// The first domain whose id is `id` or greater.
    #[must_use]
    pub fn next_from(&self, id: DomId) -> Option<Arc<Domain>> {
        self.slots.read().iter().flatten().filter(|d| d.id.0 >= id.0).min_by_key(|d| d.id.0).cloned()
    }

    /// The domains whose ids are `id` or greater, by their ids.
    pub fn from(&self, id: DomId) -> impl Iterator<Item = Arc<Domain>> {
        core::iter::successors(self.next_from(id), |last| self.next_from(DomId(last.id.0.saturating_add(1))))
    }

    /// The id for a new domain: the one that is wanted, or the next free one after the last. An id is not given out
    /// again before all others were, also where no domain comes of it.
    ///
    /// # Errors
    /// `Exist` for an id in use, `Inval` for one that no domain can have, `NFile` when there is none left.
    pub fn choose_id(&self, wanted: Option<DomId>) -> Result<DomId, Errno> {
        self.next_id(&mut self.last_id.lock(), wanted)
    }

    fn next_id(&self, last_id: &mut u16, wanted: Option<DomId>) -> Result<DomId, Errno> {
        match wanted {
            Some(id) if !id.is_real() => Err(Errno::Inval),
            Some(id) if self.get(id).is_some() => Err(Errno::Exist),
            Some(id) => Ok(id),
            None => {
                let real = DomId::FIRST_RESERVED.0;
                let later = (*last_id + 1).max(1)..real;
                let id = later.chain(1..real).map(DomId).find(|&id| self.get(id).is_none()).ok_or(Errno::NFile)?;
                *last_id = id.0;
                Ok(id)
            }
        }
    }

    /// Makes a domain of such an id, in a slot that nobody has.
    ///
    /// # Errors
    /// As [`Self::choose_id`]; `NFile` when there is no slot left; `make`'s own.
    pub fn create(
        &self,
        id: Option<DomId>,
        make: impl FnOnce(DomId, Owner) -> Result<Arc<Domain>, Errno>,
    ) -> Result<Arc<Domain>, Errno> {
        let mut last_id = self.last_id.lock();
        let id = self.next_id(&mut last_id, id)?;
        let free = self.slots.read().iter().position(Option::is_none).ok_or(Errno::NFile)?;
        let domain = make(id, Owner::domain(free).ok_or(Errno::NFile)?)?;
        if let Some(slot) = self.slots.write().get_mut(free) {
            *slot = Some(domain.clone());
        }
        Ok(domain)
    }

    /// Takes a domain out.
    pub fn remove(&self, domain: &Domain) -> Option<Arc<Domain>> {
        self.slots.write().get_mut(domain.owner().slot()?)?.take()
    }
}
