//! Mapping frames into windows, by page-table updates.

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::mmu::{MMU_NORMAL_PT_UPDATE, MmuUpdate, UVMF_INVLPG};
use x86_64::structures::paging::PageTableFlags;

use static_assertions::assert_not_impl_any;

use super::foreign::Foreign;
use super::tables::{self, bits};
use super::words::{Access, Words};
use crate::pages::ranges::Range;
use crate::pages::{Mfn, PAGE_SIZE};

/// Updates that go to the hypervisor at a time.
const BATCH: usize = 32;

/// Frames mapped at an address of their own; taken away when dropped.
#[derive(Debug)]
pub struct Mapping {
    range: Option<Range>,
    /// Pages from the start that may be mapped.
    mapped: usize,
    /// Where the frames are not this domain's.
    foreign: Option<Foreign>,
}

impl Mapping {
    /// Maps frames that `domain` owns: another domain's, this one's ([`DomId::SELF`]).
    ///
    /// # Errors
    /// What the hypervisor refuses: not that domain's, or no right to map it so.
    pub fn of(domain: DomId, frames: &[Mfn], access: Access) -> Result<Self, Errno> {
        let flags = match access {
            Access::ReadWrite => bits::DATA,
            Access::ReadOnly => bits::READ_ONLY,
        };
        Self::map(domain, frames.len(), |index| frames.get(index).copied().unwrap_or(Mfn::new(0)), flags)
    }

    /// Maps device memory at the machine address `start` (page aligned), uncached.
    ///
    /// # Errors
    /// What the hypervisor refuses: RAM, or not for this domain.
    pub fn device(start: u64, bytes: usize) -> Result<Self, Errno> {
        let first = start >> 12;
        Self::map(DomId::IO, bytes.div_ceil(PAGE_SIZE), |index| Mfn::new(first + index as u64), bits::DEVICE)
    }

    fn map(domain: DomId, count: usize, frame: impl Fn(usize) -> Mfn, flags: PageTableFlags) -> Result<Self, Errno> {
        let range = Range::take(count)?;
        let start = range.address();
        let foreign = (domain != DomId::SELF).then(Foreign::new);
        let mut mapping = Self { range: Some(range), mapped: 0, foreign };
        let mut updates = [MmuUpdate { ptr: 0, val: 0 }; BATCH];
        while mapping.mapped < count {
            let batch = updates.get_mut(..BATCH.min(count - mapping.mapped)).unwrap_or_default();
            for (offset, update) in batch.iter_mut().enumerate() {
                let index = mapping.mapped + offset;
                let entry = tables::ensure(start + (index * PAGE_SIZE) as u64)?;
                *update = MmuUpdate { ptr: entry | MMU_NORMAL_PT_UPDATE, val: frame(index).entry(flags) };
            }
            // SAFETY: the entries are those of a range that nothing else uses.
            match unsafe { tables::mmu_update(batch, domain) } {
                Ok(()) => mapping.mapped += batch.len(),
                Err((done, errno)) => {
                    mapping.mapped += done;
                    return Err(errno);
                }
            }
        }
        Ok(mapping)
    }
}

// SAFETY: `mapped` pages of the range are mapped until `drop`.
unsafe impl Words for Mapping {
    fn address(&self) -> u64 {
        self.range.as_ref().map_or(0, Range::address)
    }

    fn pages(&self) -> usize {
        self.mapped
    }
}

// A mapping that two values stood for would be taken away under one of them.
assert_not_impl_any!(Mapping: Clone);

impl Drop for Mapping {
    fn drop(&mut self) {
        let Some(range) = self.range.take() else { return };
        for index in 0..self.mapped {
            // SAFETY: the mapping is ours and nobody holds a view of it any more.
            let result =
                unsafe { tables::update_va_mapping(range.address() + (index * PAGE_SIZE) as u64, 0, UVMF_INVLPG) };
            if result.is_err() {
                range.abandon();
                self.foreign.take().into_iter().for_each(Foreign::abandon);
                return;
            }
        }
    }
}
