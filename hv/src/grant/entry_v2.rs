//! One entry of version 2 (`union grant_entry_v2`): two words, and a status word apart.
//!
//! The granter may not change an entry that is marked, and the marks are not in the word that it would exchange to find
//! out. So each side writes its own word, then looks at the other's: the hypervisor marks, then judges the entry again;
//! the granter withdraws the offer, then reads the status. Between write and read stands a full barrier on both sides,
//! and one of the two sees the other.

use super::entry::{Access, Shared, Status, mark_of};
use crate::addr::{Mfn, PAGE_BYTES};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use oxen_abi::{
    domid::DomId,
    grant_table::{self as abi, GrantFlags},
};

/// The bytes of a page that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    first: u16,
    bytes: u16,
}

impl Extent {
    /// The page.
    pub(crate) const WHOLE: Self = Self { first: 0, bytes: PAGE_BYTES as u16 };

    /// Whether these bytes are among them.
    pub(crate) const fn holds(self, offset: u16, bytes: u16) -> bool {
        offset >= self.first && offset as u32 + bytes as u32 <= self.first as u32 + self.bytes as u32
    }
}

/// What the first word says in version 2 beside flags and domain: first byte 32..48 and bytes 48..64 of a part of a
/// page, or the domain 32..48 whose offer is passed on.
impl Shared {
    /// The part of the page that is offered.
    pub(crate) const fn extent(self) -> Extent {
        if !self.flags().contains(GrantFlags::SUB_PAGE) {
            return Extent::WHOLE;
        }
        Extent { first: (self.0 >> 32) as u16, bytes: (self.0 >> 48) as u16 }
    }

    /// Whose offer is passed on.
    pub(crate) const fn passed_from(self) -> Option<DomId> {
        match self.flags().intersection(GrantFlags::TYPE) {
            GrantFlags::TRANSITIVE => Some(DomId((self.0 >> 32) as u16)),
            _ => None,
        }
    }
}

/// The words of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryV2<'m> {
    /// Flags, domain, and what [`Shared`] says of the rest.
    pub(crate) head: &'m AtomicU64,
    /// The frame; or the reference of the entry passed on, in 32 bits.
    pub(crate) body: &'m AtomicU64,
    /// Four status words.
    pub(crate) status: &'m AtomicU64,
    /// Where in them this entry's begins.
    pub(crate) shift: u32,
}

impl EntryV2<'_> {
    /// The frame that the granter named, of which nothing is known. A machine may have fewer than the word can tell.
    pub(crate) fn frame(&self) -> Option<Mfn> {
        Mfn::new(self.body.load(Ordering::Acquire))
    }

    /// The entry of the other domain that is passed on.
    pub(crate) fn passed_reference(&self) -> u32 {
        self.body.load(Ordering::Acquire) as u32
    }

    /// The status word.
    pub(crate) fn status(&self) -> GrantFlags {
        GrantFlags::from_bits_retain((self.status.load(Ordering::Acquire) >> self.shift) as abi::GrantStatus)
    }

    pub(crate) fn set_status(&self, marks: GrantFlags) {
        self.status.fetch_or(u64::from(marks.bits()) << self.shift, Ordering::SeqCst);
    }

    pub(crate) fn clear_status(&self, marks: GrantFlags) {
        self.status.fetch_and(!(u64::from(marks.bits()) << self.shift), Ordering::AcqRel);
    }

    /// Exchanges the status words of two entries, bit by bit where they differ, so that neighbours stay as they are.
    pub(crate) fn exchange_status(&self, other: &Self) {
        let differs = u64::from((self.status() ^ other.status()).bits());
        self.status.fetch_xor(differs << self.shift, Ordering::AcqRel);
        other.status.fetch_xor(differs << other.shift, Ordering::AcqRel);
    }

    /// Marks an entry as in use. The first word that is answered is the one that was judged after the mark.
    pub(crate) fn mark(&self, taker: Taker) -> Result<Shared, Status> {
        self.judge(taker)?;
        self.confirm(taker)
    }

    /// Marks an entry that was judged, and judges it again: what has changed before the mark
    /// shows its granter may count on.
    fn confirm(&self, taker: Taker) -> Result<Shared, Status> {
        self.set_status(mark_of(taker.access));
        fence(Ordering::SeqCst);
        self.judge(taker).inspect_err(|_| {
            self.clear_status(if taker.is_pinned { GrantFlags::WRITING } else { GrantFlags::IN_USE });
        })
    }

    /// Whether the entry offers, at this moment, what is wanted.
    fn judge(&self, taker: Taker) -> Result<Shared, Status> {
        let entry = Shared(self.head.load(Ordering::SeqCst));
        let flags = entry.flags();
        let is_part = taker.is_mapping && flags.contains(GrantFlags::SUB_PAGE);
        let is_offer = match flags.intersection(GrantFlags::TYPE) {
            GrantFlags::PERMIT_ACCESS => !is_part,
            GrantFlags::TRANSITIVE => !taker.is_mapping,
            _ => false,
        };
        let is_for_us = taker.is_pinned || (is_offer && entry.domain() == taker.grantee);
        let is_enough = taker.access == Access::Read || !flags.contains(GrantFlags::READONLY);
        if is_for_us && is_enough { Ok(entry) } else { Err(abi::GNTST_GENERAL_ERROR) }
    }
}

/// Who wants to use an entry, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taker {
    pub(crate) grantee: DomId,
    pub(crate) access: Access,
    /// It uses the entry already, and was judged then: its granter may have withdrawn it for others meanwhile.
    pub(crate) is_pinned: bool,
    /// It maps. Who does not can do with a part of a page, and with what another offers.
    pub(crate) is_mapping: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words([AtomicU64; 3]);

    impl Words {
        fn new(head: u64, body: u64) -> Self {
            Self([head, body, 0xffff_0000_ffff_ffff].map(AtomicU64::new))
        }

        fn entry(&self) -> EntryV2<'_> {
            let [head, body, status] = &self.0;
            EntryV2 { head, body, status, shift: 32 }
        }
    }

    fn taker(grantee: u16, access: Access, is_pinned: bool, is_mapping: bool) -> Taker {
        Taker { grantee: DomId(grantee), access, is_pinned, is_mapping }
    }

    const FOR_D1: u64 = 1 << 16 | abi::GTF_PERMIT_ACCESS as u64;

    #[test]
    fn a_mark_stands_in_the_status_word_alone() {
        let words = Words::new(FOR_D1, 0x77);
        let entry = words.entry();
        assert_eq!(entry.mark(taker(2, Access::Read, false, true)), Err(abi::GNTST_GENERAL_ERROR));
        assert_eq!(entry.status(), GrantFlags::empty());
        assert_eq!(entry.mark(taker(1, Access::Write, false, true)), Ok(Shared(FOR_D1)));
        assert_eq!((entry.status(), entry.frame()), (GrantFlags::IN_USE, Mfn::new(0x77)));
        entry.clear_status(GrantFlags::IN_USE);
        assert_eq!(words.0.map(AtomicU64::into_inner), [FOR_D1, 0x77, 0xffff_0000_ffff_ffff]);
    }

    #[test]
    fn parts_and_what_another_offers_are_not_for_mapping() {
        let part = FOR_D1 | u64::from(abi::GTF_SUB_PAGE) | 16 << 32 | 8 << 48;
        let passed = u64::from(abi::GTF_TRANSITIVE) | 1 << 16 | 7 << 32;
        for head in [part, passed] {
            let words = Words::new(head, 5);
            assert!(words.entry().mark(taker(1, Access::Read, false, true)).is_err());
            assert_eq!(words.entry().mark(taker(1, Access::Read, false, false)), Ok(Shared(head)));
        }
        assert_eq!(Shared(passed).passed_from(), Some(DomId(7)));
        assert_eq!((Shared(part).passed_from(), Shared(FOR_D1).extent()), (None, Extent::WHOLE));
        let extent = Shared(part).extent();
        for (offset, bytes, is_in) in [(16, 8, true), (24, 0, true), (15, 1, false), (20, 5, false), (25, 0, false)] {
            assert_eq!(extent.holds(offset, bytes), is_in, "{offset} {bytes}");
        }
        let longest = Extent { first: u16::MAX, bytes: u16::MAX };
        assert!(longest.holds(u16::MAX, u16::MAX) && !longest.holds(0, 0));
    }

    #[test]
    fn a_read_only_grant_is_not_marked_for_writing_pinned_or_not() {
        let words = Words::new(FOR_D1 | u64::from(abi::GTF_READONLY), 0x77);
        for is_pinned in [false, true] {
            assert!(words.entry().mark(taker(1, Access::Write, is_pinned, true)).is_err());
            assert_eq!(words.entry().status(), GrantFlags::empty());
        }
    }

    #[test]
    fn an_offer_that_is_withdrawn_before_the_mark_shows_is_not_taken() {
        let taker = Taker { grantee: DomId(1), access: Access::Write, is_pinned: false, is_mapping: true };
        let withdrawn = [0, FOR_D1 | u64::from(abi::GTF_READONLY), FOR_D1 | 1 << 17];
        for head in withdrawn {
            let words = Words::new(FOR_D1, 0x77);
            let entry = words.entry();
            assert!(entry.judge(taker).is_ok());
            // Here the granter withdraws, and finds no mark: the page is its own again.
            entry.head.store(head, Ordering::SeqCst);
            assert_eq!(entry.status(), GrantFlags::empty());
            assert_eq!(entry.confirm(taker), Err(abi::GNTST_GENERAL_ERROR));
            assert_eq!(entry.status(), GrantFlags::empty());
        }
        // Who reads already goes on reading, if it may no longer write.
        let words = Words::new(FOR_D1 | u64::from(abi::GTF_READONLY), 0x77);
        let entry = words.entry();
        entry.set_status(GrantFlags::READING);
        assert!(entry.confirm(Taker { is_pinned: true, ..taker }).is_err());
        assert_eq!(entry.status(), GrantFlags::READING);
    }

    #[test]
    fn an_exchange_of_status_words_leaves_their_neighbours() {
        let word = AtomicU64::new(0x1111_0018_2222_0008);
        let entry = |shift| EntryV2 { head: &word, body: &word, status: &word, shift };
        entry(0).exchange_status(&entry(32));
        assert_eq!(word.load(Ordering::Relaxed), 0x1111_0008_2222_0018);
    }

    #[test]
    fn a_frame_that_no_machine_has_is_none() {
        assert_eq!(Words::new(FOR_D1, 1 << 32).entry().frame(), None);
        assert_eq!(Words::new(FOR_D1, u64::MAX).entry().frame(), None);
    }
}
