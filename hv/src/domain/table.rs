//! Which domains exist.

use super::Domain;
use crate::config::MAX_DOMAINS;
use alloc::sync::Arc;
use oxen_abi::domid::DomId;
use spin::RwLock;

/// The domains, each in a slot that the frame table can name.
#[derive(Debug)]
pub struct DomainTable {
    slots: RwLock<[Option<Arc<Domain>>; MAX_DOMAINS]>,
}

impl Default for DomainTable {
    fn default() -> Self {
        Self { slots: RwLock::new([const { None }; MAX_DOMAINS]) }
    }
}

impl DomainTable {
    /// The domain of this id.
    #[must_use]
    pub fn get(&self, id: DomId) -> Option<Arc<Domain>> {
        self.slots.read().iter().flatten().find(|d| d.id == id).cloned()
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

    /// A slot that nobody has.
    #[must_use]
    pub fn free_slot(&self) -> Option<usize> {
        self.slots.read().iter().position(Option::is_none)
    }

    /// Puts a domain into its slot, unless the slot or the id is taken.
    ///
    /// # Errors
    /// Gives the domain back.
    pub fn insert(&self, domain: Arc<Domain>) -> Result<(), Arc<Domain>> {
        let mut slots = self.slots.write();
        if slots.iter().flatten().any(|d| d.id == domain.id) {
            return Err(domain);
        }
        match domain.owner.slot().and_then(|s| slots.get_mut(s)) {
            Some(slot @ None) => {
                *slot = Some(domain);
                Ok(())
            }
            _ => Err(domain),
        }
    }

    /// Takes a domain out.
    pub fn remove(&self, domain: &Domain) -> Option<Arc<Domain>> {
        self.slots.write().get_mut(domain.owner.slot()?)?.take()
    }
}
