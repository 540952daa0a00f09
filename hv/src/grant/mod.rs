//! Grant tables, versions 1 and 2 (`grant_table.h`).
//!
//! A domain offers frames in the entries of its table, words that it shares with the hypervisor ([`entry`] and, for version
//! 2, [`entry_v2`]). Whoever takes an offer *claims* it: the entry is judged and marked, pinned in the granter's table, and
//! the frame gets a reference, a writable use if it is to be written ([`claim`]). From then on the granter's word is not
//! read again. A mapping is a claim with a handle ([`map`]); a copy holds its claims for as long as it takes ([`copy`]).
//!
//! The page table entry that maps a granted frame holds a reference of its own, like every entry: whatever becomes of it,
//! the claim keeps its pin, and the pin its frame, until the handle is given back or its domain ends ([`release_all`]).
//!
//! # Two versions of one table
//!
//! In version 1 an entry is a word of 64 bits, and a mark stands in its flags. In version 2 an entry is two words, 256 to a
//! frame, and its mark stands apart, in a frame of status words, 2048 to a frame ([`table`]). A domain chooses by
//! `GNTTABOP_set_version` ([`version`]); nothing about it shows to those who use its grants. Four things hold:
//!
//! - Which version a table is, how many entries it has and where they lie is asked under the table's lock, each time. Who
//!   maps or copies while the granter changes the version sees either the table before or the table after.
//! - Pins know no version: they stand beside the table, by reference. A claim that outlives a change, which only those to
//!   the reserved entries may, takes its mark off in the version that is in force when it ends.
//! - Only whole pages stay claimed. What version 2 has besides, parts of pages and offers that pass another domain's on,
//!   can be copied from and to, not mapped; the copy holds the locks of all tables that take part, so such a claim is
//!   never seen by anybody, and no check goes stale ([`parts`]).
//! - Status frames are the domain's to map, so they are given back only if nobody refers to them, in one step with finding
//!   that out; else the version stays (`-EBUSY`). The table and its status frames grow together, or not at all.

mod cache;
mod claim;
pub mod copy;
pub mod entry;
mod entry_v2;
pub mod map;
mod maptrack;
mod parts;
mod table;
pub mod transfer;
mod version;

use crate::{
    Hypervisor,
    addr::Mfn,
    config::{MAX_GRANT_FRAMES, MAX_MAPTRACK_FRAMES},
    domain::Domain,
    lock::{Guard, both},
    machine::Machine,
    mem::editor::hold_writable,
};
use entry::{Access, Status};
use maptrack::Maptrack;
use oxen_abi::{domid::DomId, errno::Errno, grant_table as abi};
use table::Table;

pub use cache::{Flushed, flush_cache};
pub use map::release_all;
pub use table::{MAX_STATUS_FRAMES, grow, status_frame, status_frames_of, table_frame};
pub use version::{MAX_VERSION, set_version};

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
    table: Table,
    maptrack: Maptrack,
}

/// Takes a reference on a frame of `owner`, and a use if it is to be written.
///
/// # Errors
/// For [`refusal`]: `Inval` if it is not `owner`'s, `Busy` if it is, and is in use as something else.
#[inline]
fn take_frame<M: Machine>(hv: &Hypervisor<M>, owner: &Domain, frame: Mfn, access: Access) -> Result<(), Errno> {
    match access {
        Access::Read => hv.frames.reference(frame, owner.owner),
        Access::Write => hold_writable(hv, frame, owner.owner),
    }
}

/// The same where nothing is in a hurry, with the status of a refusal.
#[cold]
#[inline(never)]
fn take_any_frame<M: Machine>(
    hv: &Hypervisor<M>,
    owner: &Domain,
    frame: Option<Mfn>,
    access: Access,
) -> Result<Mfn, Status> {
    let frame = frame.ok_or(abi::GNTST_BAD_PAGE)?;
    take_frame(hv, owner, frame, access).map(|()| frame).map_err(refusal)
}

/// What is told of a frame that cannot be used as it was asked for.
#[cold]
fn refusal(error: Errno) -> Status {
    if error == Errno::Busy { abi::GNTST_GENERAL_ERROR } else { abi::GNTST_BAD_PAGE }
}

/// Gives back what [`take_frame`] took.
#[inline]
fn drop_frame<M: Machine>(hv: &Hypervisor<M>, frame: Mfn, access: Access) {
    match access {
        Access::Read => hv.frames.put(frame),
        Access::Write => hv.frames.put_use(frame),
    }
}

/// The grants of a domain and of another, or of the same.
fn lock_both<'a>(domain: &'a Domain, other: &'a Domain) -> (Guard<'a, Grants>, Option<Guard<'a, Grants>>) {
    both((domain.id.0.into(), &domain.grants), (other.id.0.into(), &other.grants))
}

impl Grants {
    /// Nothing yet, and limits for the frames of the table, for the frames' worth of mappings of others' grants and for the
    /// table's version (`max_grant_frames`, `max_maptrack_frames`, `grant_opts`); this build's own are the upper bounds.
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
    pub fn status_frames(&self) -> &[Mfn] {
        self.table.status_frames()
    }

    /// Mappings of others' grants that the domain holds.
    #[must_use]
    pub fn mappings(&self) -> u32 {
        self.maptrack.live
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

/// Exchanges two entries that nobody uses (`GNTTABOP_swap_grant_ref`).
///
/// # Errors
/// `GNTST_bad_gntref`, or `GNTST_eagain` if somebody does.
pub fn swap<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, a: u32, b: u32) -> Result<(), Status> {
    let grants = domain.grants.lock();
    let table = &grants.table;
    if a >= table.entries() || b >= table.entries() {
        return Err(abi::GNTST_BAD_GNTREF);
    }
    // With itself there is nothing to do, in use or not.
    if a == b {
        return Ok(());
    }
    if table.pins(a).in_use() || table.pins(b).in_use() {
        return Err(abi::GNTST_EAGAIN);
    }
    table.exchange(&hv.machine, a, b);
    Ok(())
}

/// The domain that an operation of a batch names, looked up once for a row of the same.
#[derive(Debug, Default)]
pub struct Peer(Option<(DomId, alloc::sync::Arc<Domain>)>);

impl Peer {
    /// The domain of this id.
    ///
    /// # Errors
    /// `GNTST_bad_domain` if it does not exist.
    pub fn get<M: Machine>(&mut self, hv: &Hypervisor<M>, id: DomId) -> Result<&alloc::sync::Arc<Domain>, Status> {
        if self.0.as_ref().is_none_or(|(known, _)| *known != id) {
            self.0 = Some((id, hv.domains.get(id).ok_or(abi::GNTST_BAD_DOMAIN)?));
        }
        self.0.as_ref().map(|(_, domain)| domain).ok_or(abi::GNTST_BAD_DOMAIN)
    }
}
