//! The grant table as a sequence finds, writes and leaves it.

use alloc::string::String;
use core::fmt::Write;
use core::ops::Range;

use oxen_abi::grant_table as abi;

use super::call::Entry;
use super::table::{answer, operation};
use super::value::FRAMES;
use super::world::World;

/// Reserved entries that nobody else uses.
pub(crate) const RESERVED: Range<u64> = 2..6;

impl World {
    /// The entries whose contents are compared: the reserved ones and those of the two grants.
    pub(super) fn entries(&self) -> impl Iterator<Item = u64> {
        RESERVED.chain(self.references)
    }

    /// Writes an entry.
    pub(super) fn offer(&self, entry: &Entry) {
        let value = |value| self.value(value, 0);
        let prefix = u32::from(entry.flags) | (value(entry.domain) as u32 & 0xffff) << 16;
        let upper = value(entry.first) as u32 & 0xffff | u32::from(entry.bytes) << 16;
        self.table.write(value(entry.reference), prefix, upper, value(entry.frame));
    }

    /// Changes the version, with no status frame mapped by the way.
    pub(super) fn change_version(&mut self, version: u32) -> (i64, u32) {
        self.table.forget_status();
        let result = operation(&self.memory, abi::GNTTABOP_SET_VERSION, &[version.into()]);
        let now = answer(&self.memory, 0) as u32;
        self.table.see_version(&self.memory);
        (result, now)
    }

    /// The table as a sequence begins: of the version that the seed chooses, with the two grants alone.
    pub(super) fn reset_table(&mut self, seed: u64) -> Result<(), String> {
        self.table.status_frames.clear();
        RESERVED.for_each(|reference| self.table.write(reference, 0, 0, 0));
        let (result, _) = self.change_version(1);
        if result != 0 {
            let mut what = String::new();
            let _ = write!(what, "the grant table is not of version 1 again: {result}");
            return Err(what);
        }
        RESERVED.for_each(|reference| self.table.write(reference, 0, 0, 0));
        if seed.is_multiple_of(2) {
            self.change_version(2);
        }
        let flags = [abi::GTF_PERMIT_ACCESS, abi::GTF_PERMIT_ACCESS | abi::GTF_READONLY];
        let frames = self.frames.into_iter().skip(FRAMES - 2);
        for ((reference, frame), flags) in self.references.into_iter().zip(frames).zip(flags) {
            self.table.write(reference, u32::from(flags) | (self.me as u32) << 16, 0, frame);
        }
        Ok(())
    }
}
