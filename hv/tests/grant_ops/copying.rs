//! Claims, whole, in part or passed on, and copies, and what the model expects of them.

use super::{
    support::dice::Dice,
    world::{Claim, GENERAL, OKAY, World, any_domain, any_ref},
};
use oxen_abi::{
    domid::DomId,
    grant_table::{self as abi, GnttabCopy, GnttabCopyPtr},
};
use oxen_hv::addr::Mfn;
use std::sync::atomic::Ordering::SeqCst;

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Map,
    Copy,
    /// The grantee passes it on.
    Passed,
}

/// A claim with the bytes it is for, and the entry that passed it on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) claim: u32,
    extent: (u16, u16),
    through: Option<(usize, usize)>,
}

const WHOLE: (u16, u16) = (0, 4096);

impl World {
    pub(crate) fn expect_claim(
        &mut self,
        granter: usize,
        grantee: usize,
        reference: u32,
        writes: bool,
        how: Use,
    ) -> Result<Held, i16> {
        if reference >= self.entries(granter) {
            return Err(abi::GNTST_BAD_GNTREF);
        }
        let side = &self.sides[granter];
        let Some(&entry) = side.entries.get(reference as usize) else { return Err(GENERAL) };
        let (is_v2, reference) = (side.version == 2, reference as usize);
        let pins = self.pins(granter, reference);
        if pins.is_some_and(|p| p.0 != grantee) {
            return Err(GENERAL);
        }
        let flags = entry.head as u16;
        let kind = flags & abi::GTF_TYPE_MASK;
        let is_passed = is_v2 && how != Use::Map && kind == abi::GTF_TRANSITIVE;
        if pins.is_none_or(|p| writes && p.3 == 0) {
            let is_whole = how != Use::Map || flags & abi::GTF_SUB_PAGE == 0;
            let is_offer = (kind == abi::GTF_PERMIT_ACCESS && is_whole) || is_passed;
            let is_ours = is_offer && (entry.head >> 16) as u16 == grantee as u16 + 1;
            if (pins.is_none() && !is_ours) || (writes && flags & abi::GTF_READONLY != 0) {
                return Err(GENERAL);
            }
            let mark = abi::GTF_READING | if writes { abi::GTF_WRITING } else { 0 };
            let marked = &mut self.sides[granter].entries[reference];
            if is_v2 {
                marked.status |= mark
            } else {
                marked.head |= u64::from(mark)
            }
            if is_passed {
                let inner = match (pins, how) {
                    (None, Use::Copy) => {
                        self.expect_passed(granter, (entry.head >> 32) as u16, entry.body as u32, writes)
                    }
                    _ => Err(GENERAL),
                };
                return match inner {
                    Ok(held) => Ok(Held { through: Some((granter, reference)), ..held }),
                    Err(status) => {
                        self.unmark(granter, reference, writes);
                        Err(status)
                    }
                };
            }
        }
        let (offered, extent) = match (pins, is_v2) {
            (Some(pins), _) => (Some(pins.1), WHOLE),
            (None, false) => (Mfn::new(entry.head >> 32), WHOLE),
            (None, true) if flags & abi::GTF_SUB_PAGE == 0 => (Mfn::new(entry.body), WHOLE),
            (None, true) => (Mfn::new(entry.body), ((entry.head >> 32) as u16, (entry.head >> 48) as u16)),
        };
        let taken = offered.ok_or(abi::GNTST_BAD_PAGE);
        let frame = match taken.and_then(|f| self.can_take(granter, f, writes).map(|()| f)) {
            Ok(frame) => frame,
            Err(status) => {
                self.unmark(granter, reference, writes);
                return Err(status);
            }
        };
        self.next_claim += 1;
        self.claims.insert(self.next_claim, Claim { granter, grantee, reference, frame, writes });
        Ok(Held { claim: self.next_claim, extent, through: None })
    }

    fn expect_passed(&mut self, granter: usize, from: u16, reference: u32, writes: bool) -> Result<Held, i16> {
        let from = Self::by_id(DomId(from)).filter(|&from| from != granter).ok_or(GENERAL)?;
        self.expect_claim(from, granter, reference, writes, Use::Passed)
    }

    /// The marks that a use leaves go, if nobody else asks for them.
    fn unmark(&mut self, granter: usize, reference: usize, writes: bool) {
        let pins = self.pins(granter, reference);
        let reading = if pins.is_none() { abi::GTF_READING } else { 0 };
        let writing = if writes && pins.is_none_or(|p| p.3 == 0) { abi::GTF_WRITING } else { 0 };
        let side = &mut self.sides[granter];
        let entry = &mut side.entries[reference];
        if side.version == 2 {
            entry.status &= !(reading | writing);
        } else {
            entry.head &= !u64::from(reading | writing);
        }
    }

    pub(crate) fn release(&mut self, claim: u32) {
        let claim = self.claims.remove(&claim).unwrap();
        self.unmark(claim.granter, claim.reference, claim.writes);
    }

    pub(crate) fn copy(&mut self, me: usize, dice: &mut Dice) {
        let flags = dice.roll(4) as u16;
        let end = |world: &Self, dice: &mut Dice, by_ref: bool| {
            let u = if by_ref { u64::from(any_ref(dice)) } else { world.any_frame(me, dice) };
            let domid = if !by_ref && dice.roll(8) != 0 { DomId::SELF } else { any_domain(dice) };
            let offset = dice.pick(&[0, 8, 100, 2048, 4095, 4096, 0xffff]);
            GnttabCopyPtr { u, domid, offset, _pad0: 0 }
        };
        let source = end(self, dice, flags & abi::GNTCOPY_SOURCE_GREF != 0);
        let dest = end(self, dice, flags & abi::GNTCOPY_DEST_GREF != 0);
        let len = dice.pick(&[0, 1, 8, 8, 64, 2048, 4096, u16::MAX]);
        let mut op = GnttabCopy { source, dest, len, flags, status: 99, _pad0: 0 };
        let expected = self.expect_copy(me, &op);
        let hv = self.sides[me].guest.hv;
        // A copied page table has the marks that come by the request itself.
        self.sides[me].place(&op);
        let read = |frame: Mfn, at: u16| -> Vec<u8> {
            hv.machine().bytes(frame).iter().skip(at.into()).take(len.into()).map(|b| b.load(SeqCst)).collect()
        };
        let wanted = expected.ok().map(|(from, to)| (from, to, read(from, op.source.offset)));
        assert_eq!(self.sides[me].ask(abi::GNTTABOP_COPY, &mut op), Ok(0));
        assert_eq!(op.status, expected.err().unwrap_or(OKAY), "copy {op:?}");
        // Marks come and go in status words, and these are written over like any others.
        let is_status = |frame: Mfn| self.is_status(frame);
        if wanted.as_ref().is_some_and(|(from, to, _)| is_status(*from) || is_status(*to)) {
            for side in &mut self.sides {
                side.entries = core::array::from_fn(|reference| side.entry(reference));
            }
        } else if let Some((from, to, bytes)) = wanted.filter(|(from, to, _)| from != to) {
            assert_eq!((read(from, op.source.offset), read(to, op.dest.offset)), (bytes.clone(), bytes));
        }
    }

    fn expect_copy(&mut self, me: usize, op: &GnttabCopy) -> Result<(Mfn, Mfn), i16> {
        let owner = |end: &GnttabCopyPtr, by_ref: bool| match end.domid {
            DomId::SELF => Ok(me),
            _ if !by_ref => Err(abi::GNTST_PERMISSION_DENIED),
            id => Self::by_id(id).ok_or(abi::GNTST_BAD_DOMAIN),
        };
        let by_ref = [abi::GNTCOPY_SOURCE_GREF, abi::GNTCOPY_DEST_GREF].map(|flag| op.flags & flag != 0);
        let owners = [owner(&op.source, by_ref[0])?, owner(&op.dest, by_ref[1])?];
        let mut claims: Vec<Held> = Vec::new();
        let mut extents = Vec::new();
        let mut frames = Vec::new();
        let mut outcome = Ok(());
        for (n, end) in [op.source, op.dest].into_iter().enumerate() {
            let taken = if by_ref[n] {
                self.expect_claim(owners[n], me, end.u as u32, n == 1, Use::Copy).map(|held| {
                    let place = |held: &Held| (self.claims[&held.claim].granter, self.claims[&held.claim].reference);
                    let first = claims.first().filter(|first| place(first) == place(&held));
                    extents.push(first.map_or(held.extent, |first| first.extent));
                    claims.push(held);
                    self.claims[&held.claim].frame
                })
            } else {
                extents.push(WHOLE);
                let frame = Mfn::new(end.u).ok_or(abi::GNTST_BAD_PAGE);
                frame.and_then(|f| self.can_take(owners[n], f, n == 1).map(|()| f))
            };
            match taken {
                Ok(frame) => frames.push(frame),
                Err(status) => {
                    outcome = Err(status);
                    break;
                }
            }
        }
        for (held, writes) in claims.iter().zip(if by_ref[0] { [false, true] } else { [true, true] }).rev() {
            self.release(held.claim);
            if let Some((granter, reference)) = held.through {
                self.unmark(granter, reference, writes);
            }
        }
        outcome?;
        let end = |offset: u16| u32::from(offset) + u32::from(op.len);
        if end(op.source.offset) > 4096 || end(op.dest.offset) > 4096 {
            return Err(abi::GNTST_BAD_COPY_ARG);
        }
        for (offset, (first, bytes)) in [op.source.offset, op.dest.offset].into_iter().zip(extents) {
            if offset < first || end(offset) > u32::from(first) + u32::from(bytes) {
                return Err(GENERAL);
            }
        }
        Ok((frames[0], frames[1]))
    }
}
