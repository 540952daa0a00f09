//! Grant tables, versions 1 and 2 (`grant_table.h`).
//!
//! A domain offers frames in the entries of its table, words that it shares with the hypervisor ([`entry`]).
//! Whoever takes an offer *claims* it: the entry is judged and marked, pinned in the granter's table, and the frame
//! gets a reference, a writable use if it is to be written ([`Claim`]). From then on the granter's word is not read
//! again. A mapping is a claim with a handle ([`crate::granted::map`]); a copy holds its claims for as long as it
//! takes ([`crate::granted::copy`]).
//!
//! The page table entry that maps a granted frame holds a reference of its own, like every entry: whatever
//! becomes of it, the claim keeps its pin, and the pin its frame, until the handle is given back or its
//! domain ends ([`crate::granted`]).
//!
//! # Two versions of one table
//!
//! In version 1 an entry is a word of 64 bits, and a mark stands in its flags. In version 2 an entry is two words, 256
//! to a frame, and its mark stands apart, in a frame of status words, 2048 to a frame ([`Table`]). A domain chooses by
//! `GNTTABOP_set_version`; nothing about it shows to those who use its grants. Four things hold:
//!
//! - Which version a table is, how many entries it has and where they lie is asked under the table's lock, each time.
//!   Who maps or copies while the granter changes the version sees either the table before or the table after.
//! - Pins know no version: they stand beside the table, by reference. A claim that outlives a change, which only those
//!   to the reserved entries may, takes its mark off in the version that is in force when it ends.
//! - Only whole pages stay claimed. What version 2 has besides, parts of pages and offers that pass another domain's
//!   on, can be copied from and to, not mapped; the copy holds the locks of all tables that take part, so such a claim
//!   is never seen by anybody, and no check goes stale ([`crate::granted::copy`]).
//! - Status frames are the domain's to map, so they are given back only if nobody refers to them, in one step with
//!   finding that out; else the version stays (`-EBUSY`). The table and its status frames grow together, or not at all.

mod claim;
pub mod entry;
pub(crate) mod entry_v2;
pub(crate) mod maptrack;
mod table;
mod version;

use crate::{
    addr::Mfn,
    config::{MAX_GRANT_FRAMES, MAX_MAPTRACK_FRAMES},
    mem::{Hardware, Held, Memory, RamFrame, frame_type::Owner},
};
pub(crate) use claim::{Claim, Offer, Party};
use entry::{Access, Status};
use maptrack::Maptrack;
use oxen_abi::{errno::Errno, grant_table as abi};
pub use table::MAX_STATUS_FRAMES;
pub use table::status_frames_of;
pub(crate) use table::{FRAMES_PER_STATUS, Table};
pub use version::MAX_VERSION;

/// What the command line says of all grant tables (`gnttab=`, `gnttab_max_frames=`, `gnttab_max_maptrack_frames=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The greatest version that a domain may use.
    pub max_version: u32,
    /// Whether offers that pass another domain's on can be used.
    pub is_transitive: bool,
    /// Frames of a domain's table at most; the control domain's may have as many.
    pub max_frames: u32,
    /// Frames' worth of mappings of others' grants at most, likewise.
    pub max_maptrack_frames: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_version: MAX_VERSION,
            is_transitive: true,
            max_frames: MAX_GRANT_FRAMES as u32,
            max_maptrack_frames: MAX_MAPTRACK_FRAMES as u32,
        }
    }
}

/// What a domain granted and what it maps of others.
#[derive(Debug, Default)]
pub struct Grants {
    pub(crate) table: Table,
    pub(crate) maptrack: Maptrack,
}

impl Grants {
    /// Nothing yet, and limits for the frames of the table, for the frames' worth of mappings of others'
    /// grants and for the table's version (`max_grant_frames`, `max_maptrack_frames`, `grant_opts`); this
    /// build's own are the upper bounds.
    #[must_use]
    pub fn new(frames: u32, maptrack_frames: u32, max_version: u32) -> Self {
        Self { table: Table::new(frames as usize, max_version), maptrack: Maptrack::new(maptrack_frames) }
    }

    /// Frames that the table has and may have.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        (self.table.frame_count() as u32, self.table.limit as u32)
    }

    /// The table's version, 1 or 2.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.table.version()
    }

    /// The status frames of version 2; none in version 1.
    #[must_use]
    pub fn status_frames(&self) -> &[RamFrame] {
        self.table.status_frames()
    }

    /// Mappings of others' grants that the domain holds.
    #[must_use]
    pub fn mappings(&self) -> u32 {
        self.maptrack.live
    }

    /// The mappings of others' grants: the frame of each, which is referred to, and whether it is used to be written.
    pub fn each_mapping(&self) -> impl Iterator<Item = (Mfn, bool)> + '_ {
        self.maptrack.each().filter_map(|track| Some((track.frame()?, track.access() == Access::Write)))
    }

    /// The entries that somebody uses: reference, frame, the grantee's slot, readers, writers.
    pub fn each_pin(&self) -> impl Iterator<Item = (u32, Mfn, u8, u64, u64)> + '_ {
        (0..self.table.entries()).filter_map(|reference| {
            let pins = self.table.pins(reference);
            let frame = pins.frame().filter(|_| pins.in_use())?;
            Some((reference, frame, pins.slot(), pins.count(Access::Read), pins.count(Access::Write)))
        })
    }
}

impl<M: Hardware> Memory<M> {
    /// Holds a frame of `owner` for an access, where nothing is in a hurry.
    #[cold]
    #[inline(never)]
    pub(crate) fn hold_granted(&self, owner: Owner, frame: Option<Mfn>, access: Access) -> Result<Held<'_>, Status> {
        let frame = frame.ok_or(abi::GNTST_BAD_PAGE)?;
        self.hold_as(frame, owner, access.hold()).map_err(refusal)
    }
}

/// What is told of a frame that cannot be used as it was asked for.
#[cold]
pub(crate) fn refusal(error: Errno) -> Status {
    if error == Errno::Busy { abi::GNTST_GENERAL_ERROR } else { abi::GNTST_BAD_PAGE }
}
