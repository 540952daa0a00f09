//! Entries that change: transfers, exchanges, versions, and what the model expects of them.

use super::{
    support::dice::Dice,
    world::{Entry, GENERAL, OKAY, REFS, RESERVED, World, any_domain, any_ref},
};
use oxen_abi::{
    errno::Errno,
    grant_table::{self as abi, GnttabTransfer},
};
use oxen_hv::addr::Mfn;
use std::sync::atomic::Ordering::SeqCst;

impl World {
    pub(crate) fn transfer(&mut self, me: usize, dice: &mut Dice) {
        let loose = &self.sides[me].loose;
        let mfn = if loose.is_empty() || dice.roll(4) == 0 { self.any_frame(me, dice) } else { dice.pick(loose).raw() };
        let (domid, r#ref) = (any_domain(dice), any_ref(dice));
        let mut op = GnttabTransfer { mfn, domid, _pad0: 0, r#ref, status: 99, _pad1: [0; 3] };
        let expected = self.expect_transfer(me, &op);
        assert_eq!(self.sides[me].ask(abi::GNTTABOP_TRANSFER, &mut op), Ok(0));
        assert_eq!(op.status, expected, "transfer {op:?}");
    }

    fn expect_transfer(&mut self, me: usize, op: &GnttabTransfer) -> i16 {
        let hv = self.sides[me].guest.hv;
        let Some(frame) = Mfn::new(op.mfn).filter(|f| self.sides[me].loose.contains(f)) else {
            return abi::GNTST_BAD_PAGE;
        };
        if hv.memory.frames.state(frame).refs() != 1 {
            return abi::GNTST_BAD_PAGE;
        }
        let Some(to) = Self::by_id(op.domid) else { return abi::GNTST_BAD_DOMAIN };
        let Some(&entry) = self.sides[to].entries.get(op.r#ref as usize) else { return GENERAL };
        let wanted = u64::from(abi::GTF_ACCEPT_TRANSFER) | (me as u64 + 1) << 16;
        let domain = &self.sides[to].guest.domain;
        let is_full = hv.memory.frames.reserved(domain.owner().slot().unwrap()) >= domain.memory.max_pages.load(SeqCst);
        if entry.head & 0xffff_ffff != wanted || is_full {
            return GENERAL;
        }
        let done = abi::GTF_TRANSFER_COMMITTED | abi::GTF_TRANSFER_COMPLETED;
        self.sides[to].entries[op.r#ref as usize] = match self.sides[to].version {
            1 => Entry { head: frame.raw() << 32 | wanted | u64::from(done), ..entry },
            _ => Entry { head: entry.head | u64::from(done), body: frame.raw(), ..entry },
        };
        self.sides[me].loose.retain(|&f| f != frame);
        self.sides[to].loose.push(frame);
        OKAY
    }

    pub(crate) fn swap(&mut self, me: usize, dice: &mut Dice) {
        let (a, b) = (any_ref(dice), any_ref(dice));
        let in_use = |r: u32| self.pins(me, r as usize).is_some();
        let entries = self.entries(me);
        let expected = match (a.max(b) >= entries, a != b && (in_use(a) || in_use(b))) {
            (true, _) => abi::GNTST_BAD_GNTREF,
            (false, true) => abi::GNTST_EAGAIN,
            (false, false) => OKAY,
        };
        let mut op = abi::GnttabSwapGrantRef { ref_a: a, ref_b: b, status: 99, _pad0: 0 };
        if a.max(b) < entries && a.max(b) as usize >= REFS {
            return;
        }
        assert_eq!(self.sides[me].ask(abi::GNTTABOP_SWAP_GRANT_REF, &mut op), Ok(0));
        assert_eq!(op.status, expected, "swap {op:?}");
        if expected == OKAY {
            self.sides[me].entries.swap(a as usize, b as usize);
        }
    }

    pub(crate) fn change_version(&mut self, me: usize, dice: &mut Dice) {
        let wish = dice.pick(&[1, 1, 1, 2, 2, 2, 0, 3]);
        let expected = self.expect_version(me, wish);
        let mut op = abi::GnttabSetVersion { version: wish };
        assert_eq!(self.sides[me].ask(abi::GNTTABOP_SET_VERSION, &mut op), expected.map(|()| 0), "version {wish}");
        assert_eq!(op.version, self.sides[me].version);
    }

    fn expect_version(&mut self, me: usize, wish: u32) -> Result<(), Errno> {
        let side = &self.sides[me];
        if !(1..=2).contains(&wish) {
            return Err(Errno::Inval);
        }
        if wish == side.version {
            return Ok(());
        }
        if self.claims.values().any(|claim| claim.granter == me && claim.reference >= RESERVED) {
            return Err(Errno::Busy);
        }
        let marks = abi::GTF_READING | abi::GTF_WRITING;
        let mut entries = [Entry::default(); REFS];
        for (new, old) in entries.iter_mut().zip(&side.entries[..RESERVED]) {
            let (flags, prefix) = (old.head as u16, old.head & 0xffff_ffff);
            let kind = flags & abi::GTF_TYPE_MASK;
            *new = match wish {
                2 => Entry { head: prefix & !u64::from(marks), body: old.head >> 32, status: flags & marks },
                _ if kind == abi::GTF_TRANSITIVE => return Err(Errno::Range),
                _ if kind != abi::GTF_PERMIT_ACCESS => Entry::default(),
                _ if old.body >> 32 != 0 => return Err(Errno::Range),
                _ => Entry { head: prefix | u64::from(old.status) | old.body << 32, ..Entry::default() },
            };
        }
        if let Some(status) = side.status_frame() {
            let is_mapped = side.spares.iter().flatten().any(|&(frame, _)| frame == status);
            let is_claimed = self.claims.values().any(|claim| claim.frame == status);
            // Somebody may have mapped it by a grant and unmapped it by hand, or the other way round.
            let is_lent = self.sides.iter().any(|side| side.spares.iter().flatten().any(|&(frame, _)| frame == status));
            if is_mapped || is_claimed || is_lent {
                return Err(Errno::Busy);
            }
        }
        let side = &mut self.sides[me];
        (side.version, side.entries) = (wish, entries);
        Ok(())
    }
}
