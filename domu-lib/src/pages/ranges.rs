//! Address ranges for windows.
//!
//! The addresses come from one L4 slot. A range's length is a power of two, and a freed one is kept for the next
//! mapping of that length: whatever lengths a workload asks for, it settles. The page tables below stay.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use oxen_abi::errno::Errno;

use super::PAGE_SIZE;
use super::layout::{SLOT_BYTES, WINDOWS};

/// Address ranges in use and free.
#[derive(Debug)]
struct Ranges {
    next: u64,
    free: BTreeMap<usize, Vec<u64>>,
}

static RANGES: spin::Mutex<Ranges> = spin::Mutex::new(Ranges { next: WINDOWS, free: BTreeMap::new() });

/// An address range of whole pages that nobody else uses; nothing is mapped there.
#[derive(Debug)]
pub(crate) struct Range {
    address: u64,
    pages: usize,
}

impl Range {
    /// Takes a range.
    ///
    /// # Errors
    /// `ENOMEM` when the slot is used up.
    pub(crate) fn take(pages: usize) -> Result<Self, Errno> {
        let pages = pages.checked_next_power_of_two().ok_or(Errno::NoMem)?;
        let mut ranges = RANGES.lock();
        if let Some(address) = ranges.free.get_mut(&pages).and_then(Vec::pop) {
            return Ok(Self { address, pages });
        }
        let address = ranges.next;
        let end = (pages * PAGE_SIZE) as u64 + address;
        if end > WINDOWS + SLOT_BYTES {
            return Err(Errno::NoMem);
        }
        ranges.next = end;
        Ok(Self { address, pages })
    }

    /// Where the range starts.
    pub(crate) const fn address(&self) -> u64 {
        self.address
    }

    /// Keeps the addresses out of use for ever: something is still mapped there.
    pub(crate) fn abandon(self) {
        core::mem::forget(self);
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        RANGES.lock().free.entry(self.pages).or_default().push(self.address);
    }
}
