//! A guest's pages that are mapped here: the only way to them, so that each is charged to the guest for as long as it
//! is mapped.

use anyhow::{Context, Result, anyhow};
use oxen_abi::domid::DomId;
use oxen_domu_lib::grant::{GrantError, GrantMapping};
use oxen_domu_lib::memory::map::{Access, Words};
use static_assertions::assert_not_impl_any;

use crate::purse::{Charge, Exhausted, Purse};

/// Granted pages, mapped one behind the other.
#[derive(Debug)]
pub struct Mapped {
    // Dropped in this order: what is given back is free.
    pages: GrantMapping,
    _charge: Charge,
}

// Mapped and paid for once.
assert_not_impl_any!(Mapped: Clone);

impl Mapped {
    /// Maps what `domain` granted by `references`, for which `charge` pays.
    ///
    /// # Errors
    /// The first refusal; nothing stays mapped or charged then.
    pub fn map(domain: DomId, references: &[u32], access: Access, charge: Charge) -> Result<Self, GrantError> {
        debug_assert!(charge.amount() >= references.len(), "a page that nobody pays for");
        Ok(Self { pages: GrantMapping::map(domain, references, access)?, _charge: charge })
    }

    /// Maps the pages of a ring, which stay mapped as long as the device is connected.
    ///
    /// # Errors
    /// The guest's rings are too many pages already, or the guest granted none of these.
    pub fn ring(purse: &Purse, domain: DomId, references: &[u32]) -> Result<Self> {
        let charge = purse.mappings.rings.charge(references.len()).map_err(|Exhausted| {
            let limit = purse.mappings.rings.limit();
            anyhow!("the rings of a guest's devices have at most {limit} pages in all; smaller rings fit")
        })?;
        let mapped = Self::map(domain, references, Access::ReadWrite, charge);
        mapped.context("the ring cannot be mapped")
    }

    /// The pages' machine addresses, for devices.
    pub fn machine_address(&self, page: usize) -> Option<u64> {
        self.pages.machine_address(page)
    }

    /// The pages' contents.
    pub fn words(&self) -> &impl Words {
        &self.pages
    }
}
