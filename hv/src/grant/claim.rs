//! Claiming an offer: judged, marked, pinned, the frame held; and giving the claim back.

use super::{
    entry::{self, Access, Pins, Status},
    entry_v2::{Extent, Taker},
    refusal,
    table::Table,
};
use crate::mem::{Hardware, Held, Memory, Ram, frame_type::Owner};
use oxen_abi::{domid::DomId, errno::Errno, grant_table as abi};

/// A domain that takes part in a grant: its name, and the frame table's name for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party {
    pub(crate) id: DomId,
    pub(crate) owner: Owner,
}

/// The right to use a granted frame. The entry's pin is to be given back with
/// [`Table::release`]; the frame is held by value.
#[derive(Debug)]
#[must_use]
pub(crate) struct Claim<'a> {
    pub(crate) reference: u32,
    pub(crate) held: Held<'a>,
}

/// What an entry of version 2 offers.
#[derive(Debug)]
pub(crate) enum Offer<'a> {
    /// These bytes of a frame, which is claimed now.
    Page(Claim<'a>, Extent),
    /// What this entry of another domain offers to the granter. The entry that says so is marked, and not pinned.
    PassedOn(DomId, u32),
}

impl Table {
    /// Claims an entry of `granter`, whose table this is, for `grantee`.
    #[inline(always)]
    pub(crate) fn claim<'a>(
        &mut self,
        memory: &'a Memory<impl Hardware>,
        granter: Owner,
        grantee: Party,
        reference: u32,
        access: Access,
        is_mapping: bool,
    ) -> Result<Claim<'a>, Status> {
        if reference >= self.v1_entries {
            return self.claim_page_v2(memory, granter, grantee, reference, access);
        }
        let slot = entry::slot(grantee.owner).ok_or(abi::GNTST_GENERAL_ERROR)?;
        let word = self.word(&memory.machine, reference).ok_or(abi::GNTST_GENERAL_ERROR)?;
        if self.pins_place(reference).is_none() {
            self.make_room_for_pins(&memory.machine, reference).map_err(|_| abi::GNTST_NO_SPACE)?;
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
        let mut refused = Errno::Inval;
        let taken = pins.and_then(|pins| {
            let frame = pins.frame()?;
            let pins = pins.plus(access)?;
            let held = memory.hold_as(frame, granter, access.hold()).map_err(|error| refused = error).ok()?;
            Some((held, pins))
        });
        let Some((held, pins)) = taken else {
            self.unmark(&memory.machine, reference, old, access);
            return Err(refusal(refused));
        };
        *place = pins.0;
        Ok(Claim { reference, held })
    }

    /// Claims an entry that is not of version 1, for a mapping: a page as a whole.
    #[cold]
    #[inline(never)]
    fn claim_page_v2<'a>(
        &mut self,
        memory: &'a Memory<impl Hardware>,
        granter: Owner,
        grantee: Party,
        reference: u32,
        access: Access,
    ) -> Result<Claim<'a>, Status> {
        match self.claim_offer(memory, granter, grantee, reference, access, true)? {
            Offer::Page(claim, _) => Ok(claim),
            // Not for a mapping.
            Offer::PassedOn(..) => Err(abi::GNTST_GENERAL_ERROR),
        }
    }

    /// Claims an entry, whichever version it is of and whatever it offers: what [`Self::claim`] does fast.
    ///
    /// A page that is pinned is pinned as a whole: parts are claimed for the time of a copy only, and this very copy
    /// knows which part it claimed before.
    #[inline(never)]
    pub(crate) fn claim_offer<'a>(
        &mut self,
        memory: &'a Memory<impl Hardware>,
        granter: Owner,
        grantee: Party,
        reference: u32,
        access: Access,
        is_mapping: bool,
    ) -> Result<Offer<'a>, Status> {
        if reference >= self.entries() {
            return Err(abi::GNTST_BAD_GNTREF);
        }
        let slot = entry::slot(grantee.owner).ok_or(abi::GNTST_GENERAL_ERROR)?;
        self.make_room_for_pins(&memory.machine, reference).map_err(|_| abi::GNTST_NO_SPACE)?;
        let old = self.pins(reference);
        let is_pinned = old.in_use();
        if is_pinned && (old.slot() != slot || old.plus(access).is_none()) {
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        let needs_mark = !is_pinned || (access == Access::Write && old.count(Access::Write) == 0);
        let (mut frame, mut extent) = (old.frame(), Extent::WHOLE);
        if needs_mark && reference < self.v1_entries {
            let word = self.word(&memory.machine, reference).ok_or(abi::GNTST_GENERAL_ERROR)?;
            let entry = entry::mark(word, grantee.id, access, is_pinned, is_mapping)?;
            if !is_pinned {
                frame = entry.frame();
            }
        } else if needs_mark {
            let entry = self.entry_v2(&memory.machine, reference).ok_or(abi::GNTST_GENERAL_ERROR)?;
            let head = entry.mark(Taker { grantee: grantee.id, access, is_pinned, is_mapping })?;
            match head.passed_from() {
                Some(domain) if !is_pinned => return Ok(Offer::PassedOn(domain, entry.passed_reference())),
                // Neither is it the page that is pinned which is offered now, nor can it be asked for another.
                Some(_) if !is_mapping => {
                    self.unmark(&memory.machine, reference, old, access);
                    return Err(abi::GNTST_GENERAL_ERROR);
                }
                _ if !is_pinned => (frame, extent) = (entry.frame(), head.extent()),
                _ => {}
            }
        }
        let taken = memory.hold_granted(granter, frame, access);
        let held = taken.inspect_err(|_| self.unmark(&memory.machine, reference, old, access))?;
        // As the granter names it, whatever frame that means.
        let offered = frame.unwrap_or(held.frame().mfn());
        let pins = if is_pinned { old } else { Pins::new(offered, slot) };
        match (pins.plus(access), self.pins_place(reference)) {
            (Some(pins), Some(place)) => *place = pins.0,
            // Asked before, and made before.
            _ => return Err(abi::GNTST_NO_SPACE),
        }
        Ok(Offer::Page(Claim { reference, held }, extent))
    }

    /// Gives the pin of a claim back.
    #[inline]
    pub(crate) fn release(&mut self, memory: &impl Ram, reference: u32, access: Access) {
        let Some(place) = self.pins_place(reference) else { return };
        let left = Pins(*place).minus(access);
        *place = left.0;
        self.unmark(memory, reference, left, access);
    }
}
