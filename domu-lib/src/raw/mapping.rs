//! Mapping frames into windows, by page-table updates.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::mmu::{MMU_NORMAL_PT_UPDATE, MmuUpdate, UVMF_INVLPG};

use super::tables::{self, bits};
use super::view;
use crate::memory::map::Range;
use crate::memory::{Mfn, PAGE_SIZE};

/// Updates that go to the hypervisor at a time.
const BATCH: usize = 32;

/// What a window may be used for. Writing through one that is only to be read ends the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing.
    ReadWrite,
    /// Reading.
    ReadOnly,
}

/// Memory seen as atomic words: pages of our own, of others, or of a device.
///
/// # Safety
/// The pages stay mapped, writable unless said otherwise, for as long as the value lives, and hold no Rust value.
pub unsafe trait Words {
    /// The address of the first byte.
    fn address(&self) -> u64;
    /// How many pages there are.
    fn pages(&self) -> usize;

    /// As words of 64 bits.
    fn words64(&self) -> &[AtomicU64] {
        // SAFETY: implementors own the addresses and keep them mapped for as long as they live.
        unsafe { view::words(self.address(), self.pages() * PAGE_SIZE / 8) }
    }

    /// As words of 32 bits.
    fn words32(&self) -> &[AtomicU32] {
        let words = self.words64();
        // SAFETY: the same memory in halves.
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) }
    }

    /// As words of 16 bits.
    fn words16(&self) -> &[AtomicU16] {
        let words = self.words64();
        // SAFETY: the same memory in quarters.
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 4) }
    }

    /// As bytes.
    fn bytes(&self) -> &[AtomicU8] {
        let words = self.words64();
        // SAFETY: the same memory in bytes.
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 8) }
    }

    /// As the pages of a ring.
    fn ring_pages(&self) -> &[[AtomicU32; 1024]] {
        // SAFETY: the same memory, page by page.
        unsafe { core::slice::from_raw_parts(self.address() as *const _, self.pages()) }
    }

    /// The words of one page.
    fn page(&self, index: usize) -> &[AtomicU32; 1024] {
        assert!(index < self.pages());
        let address = self.address() + (index * PAGE_SIZE) as u64;
        // SAFETY: as for `words64`, within the range.
        unsafe { &*(address as *const _) }
    }
}

/// Frames mapped at an address of their own; taken away when dropped.
#[derive(Debug)]
pub struct Mapping {
    range: Option<Range>,
    /// Pages from the start that may be mapped.
    mapped: usize,
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
        Self::map(domain, frames.len(), |index| frames.get(index).copied().unwrap_or(Mfn(0)), flags)
    }

    /// Maps device memory at the machine address `start` (page aligned), uncached.
    ///
    /// # Errors
    /// What the hypervisor refuses: RAM, or not for this domain.
    pub fn device(start: u64, bytes: usize) -> Result<Self, Errno> {
        let flags = bits::DATA | bits::NO_CACHE | bits::WRITE_THROUGH;
        let first = start >> 12;
        Self::map(DomId::IO, bytes.div_ceil(PAGE_SIZE), |index| Mfn(first + index as u64), flags)
    }

    fn map(domain: DomId, count: usize, frame: impl Fn(usize) -> Mfn, flags: u64) -> Result<Self, Errno> {
        let range = Range::take(count)?;
        let start = range.address();
        let mut mapping = Self { range: Some(range), mapped: 0 };
        let mut updates = [MmuUpdate { ptr: 0, val: 0 }; BATCH];
        while mapping.mapped < count {
            let batch = updates.get_mut(..BATCH.min(count - mapping.mapped)).unwrap_or_default();
            for (offset, update) in batch.iter_mut().enumerate() {
                let index = mapping.mapped + offset;
                let entry = tables::ensure(start + (index * PAGE_SIZE) as u64)?;
                *update = MmuUpdate { ptr: entry | MMU_NORMAL_PT_UPDATE, val: frame(index).address() | flags };
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

impl Drop for Mapping {
    fn drop(&mut self) {
        let Some(range) = self.range.take() else { return };
        for index in 0..self.mapped {
            // SAFETY: the mapping is ours and nobody holds a view of it any more.
            let result =
                unsafe { tables::update_va_mapping(range.address() + (index * PAGE_SIZE) as u64, 0, UVMF_INVLPG) };
            if result.is_err() {
                range.abandon();
                return;
            }
        }
    }
}
