//! Grant tables, version 1 (`grant_table.h`).
//!
//! A domain offers frames in the entries of its table, words that it shares with the hypervisor ([`entry`]). Whoever
//! takes an offer *claims* it: the entry is judged and marked in one step, pinned in the granter's table, and the frame
//! gets a reference, a writable use if it is to be written ([`Table::claim`]). From then on the granter's word is not read
//! again. A mapping is a claim with a handle ([`map`]); a copy holds its claims for as long as it takes ([`copy`]).
//!
//! The page table entry that maps a granted frame holds a reference of its own, like every entry: whatever becomes of it,
//! the claim keeps its pin, and the pin its frame, until the handle is given back or its domain ends ([`release_all`]).

pub mod copy;
pub mod entry;
pub mod map;
mod maptrack;
pub mod transfer;

use crate::{
    Hypervisor,
    addr::{Mfn, TABLE_ENTRIES},
    config::MAX_GRANT_FRAMES,
    domain::Domain,
    heap::{self, Reserve},
    lock::{Guard, both},
    machine::Machine,
    mem::{Memory, editor::hold_writable, frame_alloc},
};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use entry::{Access, Pins, Status};
use heapless::Vec;
use maptrack::Maptrack;
use oxen_abi::{domid::DomId, errno::Errno, grant_table as abi};

pub use map::release_all;

/// What a domain granted and what it maps of others.
#[derive(Debug, Default)]
pub struct Grants {
    table: Table,
    maptrack: Maptrack,
}

/// The offers of a domain.
#[derive(Debug)]
struct Table {
    /// The frames that hold the entries, lent to the domain.
    frames: Vec<Mfn, MAX_GRANT_FRAMES>,
    /// The pins of each frame's entries, made at the first claim.
    pins: [Option<Box<[u64; TABLE_ENTRIES]>>; MAX_GRANT_FRAMES],
    /// Frames that there may be.
    limit: usize,
    /// The domain ended: there is no table any more.
    is_closed: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self { frames: Vec::new(), pins: [const { None }; MAX_GRANT_FRAMES], limit: MAX_GRANT_FRAMES, is_closed: false }
    }
}

/// The right to use a granted frame, to be given back with [`Table::release`] and [`drop_frame`].
#[derive(Clone, Copy, Debug)]
struct Claim {
    reference: u32,
    frame: Mfn,
    access: Access,
}

impl Table {
    /// Entries there are. The first frame is made at need, but counts from the start.
    fn entries(&self) -> u32 {
        if self.is_closed { 0 } else { (self.frames.len().max(1) * TABLE_ENTRIES) as u32 }
    }

    fn word<'m>(&self, memory: &'m impl Memory, reference: u32) -> Option<&'m AtomicU64> {
        let frame = *self.frames.get(reference as usize / TABLE_ENTRIES)?;
        memory.words(frame).get(reference as usize % TABLE_ENTRIES)
    }

    fn pins(&self, reference: u32) -> Pins {
        let chunk = self.pins.get(reference as usize / TABLE_ENTRIES).and_then(Option::as_deref);
        Pins(chunk.and_then(|pins| pins.get(reference as usize % TABLE_ENTRIES)).copied().unwrap_or(0))
    }

    fn pins_place(&mut self, reference: u32) -> Option<&mut u64> {
        let chunk = self.pins.get_mut(reference as usize / TABLE_ENTRIES)?.as_deref_mut()?;
        chunk.get_mut(reference as usize % TABLE_ENTRIES)
    }

    #[cold]
    fn make_room_for_pins(&mut self, machine: &impl Reserve, reference: u32) -> Result<(), Errno> {
        if let Some(chunk @ None) = self.pins.get_mut(reference as usize / TABLE_ENTRIES) {
            *chunk = Some(heap::own(machine, [0; TABLE_ENTRIES])?);
        }
        Ok(())
    }

    /// Claims an entry of `granter`, whose table this is, for `grantee`.
    #[inline(always)]
    fn claim<M: Machine>(
        &mut self,
        hv: &Hypervisor<M>,
        granter: &Domain,
        grantee: &Domain,
        reference: u32,
        access: Access,
        is_mapping: bool,
    ) -> Result<Claim, Status> {
        if reference >= self.entries() {
            return Err(abi::GNTST_BAD_GNTREF);
        }
        let slot = entry::slot(grantee).ok_or(abi::GNTST_GENERAL_ERROR)?;
        let word = self.word(&hv.machine, reference).ok_or(abi::GNTST_GENERAL_ERROR)?;
        if self.pins_place(reference).is_none() {
            self.make_room_for_pins(&hv.machine, reference).map_err(|_| abi::GNTST_NO_SPACE)?;
        }
        let place = self.pins_place(reference).ok_or(abi::GNTST_NO_SPACE)?;
        let old = Pins(*place);
        let pins = if old.in_use() {
            if old.slot() != slot || old.plus(access).is_none() {
                return Err(abi::GNTST_GENERAL_ERROR);
            }
            Some(old)
        } else {
            None
        };
        let needs_mark = pins.is_none() || (access == Access::Write && old.count(Access::Write) == 0);
        let pins = if needs_mark {
            let entry = entry::mark(word, grantee.id, access, pins.is_some(), is_mapping)?;
            pins.or_else(|| entry.frame().map(|frame| Pins::new(frame, slot)))
        } else {
            pins
        };
        let taken = pins.and_then(|pins| {
            let frame = pins.frame()?;
            take_frame(hv, granter, frame, access).ok()?;
            Some((frame, pins.plus(access)?))
        });
        let Some((frame, pins)) = taken else {
            unmark(word, old);
            return Err(abi::GNTST_BAD_PAGE);
        };
        *place = pins.0;
        Ok(Claim { reference, frame, access })
    }

    /// Gives a claim back, the frame itself excepted.
    #[inline]
    fn release(&mut self, memory: &impl Memory, claim: Claim) {
        let Some(place) = self.pins_place(claim.reference) else { return };
        let left = Pins(*place).minus(claim.access);
        *place = left.0;
        if let Some(word) = self.word(memory, claim.reference) {
            unmark(word, left);
        }
    }

    /// Makes frames until there are `count`, or none.
    fn grow<M: Machine>(&mut self, hv: &Hypervisor<M>, domain: &Domain, count: usize) -> Result<(), Errno> {
        if count > self.limit || self.is_closed {
            return Err(Errno::Inval);
        }
        let before = self.frames.len();
        while self.frames.len() < count {
            let grown = frame_alloc::take_shared(hv, domain.owner)
                .and_then(|frame| self.frames.push(frame).map_err(|_| Errno::NoMem));
            if let Err(error) = grown {
                self.frames.drain(before..).for_each(|frame| frame_alloc::give_back_shared(hv, frame));
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Takes the marks off an entry that the pins which are left do not ask for.
#[inline]
fn unmark(word: &AtomicU64, left: Pins) {
    let stale = match (left.in_use(), left.count(Access::Write)) {
        (false, _) => abi::GTF_READING | abi::GTF_WRITING,
        (true, 0) => abi::GTF_WRITING,
        (true, _) => return,
    };
    word.fetch_and(!u64::from(stale), Ordering::AcqRel);
}

/// Takes a reference on a frame of `owner`, and a use if it is to be written.
#[inline]
fn take_frame<M: Machine>(hv: &Hypervisor<M>, owner: &Domain, frame: Mfn, access: Access) -> Result<(), Errno> {
    match access {
        Access::Read => hv.frames.reference(frame, owner.owner),
        Access::Write => hold_writable(hv, frame, owner.owner),
    }
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
    /// Nothing yet, and limits for the frames of the table and for the frames' worth of mappings of others' grants
    /// (`max_grant_frames`, `max_maptrack_frames`); this build's own are the upper bounds.
    #[must_use]
    pub fn new(frames: u32, maptrack_frames: u32) -> Self {
        let table = Table { limit: MAX_GRANT_FRAMES.min(frames as usize), ..Table::default() };
        Self { table, maptrack: Maptrack::new(maptrack_frames) }
    }

    /// Frames that the table has and may have.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        (self.entries_frames(), self.table.limit as u32)
    }

    fn entries_frames(&self) -> u32 {
        self.table.entries() / TABLE_ENTRIES as u32
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

/// The frame that holds a part of a domain's table, made if it is not there yet: for `GNTTABOP_setup_table` and for the
/// toolstack, which writes the first entries (`XENMEM_acquire_resource`).
///
/// # Errors
/// `Inval` beyond the table's limit, `NoMem` for the frame.
pub fn table_frame<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, index: u32) -> Result<Mfn, Errno> {
    let mut grants = domain.grants.lock();
    grants.table.grow(hv, domain, index as usize + 1)?;
    grants.table.frames.get(index as usize).copied().ok_or(Errno::Inval)
}

/// Makes a domain's table at least `count` frames long.
///
/// # Errors
/// As [`table_frame`].
pub fn grow<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, count: u32) -> Result<(), Errno> {
    domain.grants.lock().table.grow(hv, domain, count as usize)
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
    if let (Some(first), Some(second)) = (table.word(&hv.machine, a), table.word(&hv.machine, b)) {
        first.store(second.swap(first.load(Ordering::Acquire), Ordering::AcqRel), Ordering::Release);
    }
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
