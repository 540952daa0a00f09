//! One entry of a grant table: the word that the granter shares in version 1, and the pins that the hypervisor
//! keeps beside it in both versions.

use crate::{
    addr::Mfn,
    config::MAX_DOMAINS,
    mem::{Hold, frame_type::Owner},
};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_abi::{
    domid::DomId,
    grant_table::{self as abi, GrantFlags},
};

/// A `GNTST_*` other than okay: why one operation of a batch was not done.
pub type Status = i16;

/// A copy of an entry's first word: flags 0..16 and domain 16..32 in both versions, frame 32..64 in version 1
/// (`grant_entry_v1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shared(pub(crate) u64);

impl Shared {
    /// Type and flags. Whatever the granter wrote is here; what means nothing is not asked for.
    #[inline]
    pub(crate) const fn flags(self) -> GrantFlags {
        GrantFlags::from_bits_retain(self.0 as u16)
    }

    #[inline]
    pub(crate) const fn domain(self) -> DomId {
        DomId((self.0 >> 16) as u16)
    }

    /// The frame that the granter named: a claim, until the frame table has been asked.
    #[inline]
    pub(crate) const fn frame(self) -> Option<Mfn> {
        Mfn::new(self.0 >> 32)
    }

    #[inline]
    pub(crate) const fn with(self, flags: GrantFlags) -> Self {
        Self(self.0 | flags.bits() as u64)
    }
}

/// How an entry is marked that is used so.
#[inline]
pub(crate) const fn mark_of(access: Access) -> GrantFlags {
    match access {
        Access::Read => GrantFlags::READING,
        Access::Write => GrantFlags::IN_USE,
    }
}

/// How often the granter may change an entry while we look at it.
const ATTEMPTS: u32 = 5;

/// Marks an entry as in use by `grantee`: once and for all judged on the very word that the mark is put on.
///
/// A grant that is pinned already (`is_pinned`) has been judged: its granter may have withdrawn it for others
/// meanwhile. `is_mapping`: no part of a page will do, as it does for a copy.
#[inline(always)]
pub(crate) fn mark(
    word: &AtomicU64,
    grantee: DomId,
    access: Access,
    is_pinned: bool,
    is_mapping: bool,
) -> Result<Shared, Status> {
    let kind = if is_mapping { GrantFlags::TYPE.union(GrantFlags::SUB_PAGE) } else { GrantFlags::TYPE };
    let mark = mark_of(access);
    let mut seen = word.load(Ordering::Acquire);
    for _ in 0..ATTEMPTS {
        let entry = Shared(seen);
        let is_for_us = entry.flags().intersection(kind) == GrantFlags::PERMIT_ACCESS && entry.domain() == grantee;
        let is_read_only = entry.flags().contains(GrantFlags::READONLY);
        if (!is_pinned && !is_for_us) || (access == Access::Write && is_read_only) {
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        match word.compare_exchange(seen, entry.with(mark).0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(entry),
            Err(now) => seen = now,
        }
    }
    Err(abi::GNTST_GENERAL_ERROR)
}

/// What a grantee does with a granted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Reads and writes it.
    Write,
}

impl Access {
    /// What is held of the frame meanwhile.
    #[inline]
    pub(crate) const fn hold(self) -> Hold {
        match self {
            Self::Read => Hold::Reference,
            Self::Write => Hold::Writable,
        }
    }
}

/// Who uses an entry, how often, and which frame it was when the first use began: frame 0..32, the grantee's slot
/// 32..40, readers 40..52, writers 52..64. All zero while nobody does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins(pub(crate) u64);

const SLOT_SHIFT: u32 = 32;
const READERS_SHIFT: u32 = 40;
const WRITERS_SHIFT: u32 = 52;
const COUNT: u64 = 0xfff;

const _: () = assert!(MAX_DOMAINS <= 256);

impl Pins {
    #[inline]
    pub(crate) const fn new(frame: Mfn, slot: u8) -> Self {
        Self(frame.raw() | (slot as u64) << SLOT_SHIFT)
    }

    #[inline]
    pub(crate) const fn frame(self) -> Option<Mfn> {
        Mfn::new(self.0 & u32::MAX as u64)
    }

    #[inline]
    pub(crate) const fn slot(self) -> u8 {
        (self.0 >> SLOT_SHIFT) as u8
    }

    #[inline]
    pub(crate) const fn count(self, access: Access) -> u64 {
        match access {
            Access::Read => self.0 >> READERS_SHIFT & COUNT,
            Access::Write => self.0 >> WRITERS_SHIFT & COUNT,
        }
    }

    #[inline]
    pub(crate) const fn in_use(self) -> bool {
        self.0 >> READERS_SHIFT != 0
    }

    #[inline]
    const fn unit(access: Access) -> u64 {
        match access {
            Access::Read => 1 << READERS_SHIFT,
            Access::Write => 1 << WRITERS_SHIFT,
        }
    }

    /// One more use, unless there are as many as can be counted.
    #[inline]
    pub(crate) const fn plus(self, access: Access) -> Option<Self> {
        if self.count(access) == COUNT { None } else { Some(Self(self.0 + Self::unit(access))) }
    }

    /// One use less; nothing is left of the last.
    #[inline]
    pub(crate) const fn minus(self, access: Access) -> Self {
        if self.count(access) == 0 {
            return self;
        }
        let left = Self(self.0 - Self::unit(access));
        if left.in_use() { left } else { Self(0) }
    }

    /// The marks that nobody asks for any more after a use of this kind, these being the pins that are left. A mark of
    /// writing that no writer left is the granter's own affair.
    #[inline]
    pub(crate) const fn stale_marks(self, access: Access) -> GrantFlags {
        let reading = if self.in_use() { GrantFlags::empty() } else { GrantFlags::READING };
        match access {
            Access::Write if self.count(Access::Write) == 0 => reading.union(GrantFlags::WRITING),
            _ => reading,
        }
    }
}

/// The slot of a domain, as pins and tracks keep it.
pub(crate) fn slot(owner: Owner) -> Option<u8> {
    owner.slot().and_then(|slot| u8::try_from(slot).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOR_D1: u64 = 0x77 << 32 | 1 << 16 | abi::GTF_PERMIT_ACCESS as u64;

    #[test]
    fn a_mark_is_put_on_what_was_judged() {
        let word = AtomicU64::new(FOR_D1);
        assert_eq!(mark(&word, DomId(2), Access::Read, false, true), Err(abi::GNTST_GENERAL_ERROR));
        assert_eq!(word.load(Ordering::Relaxed), FOR_D1);
        let entry = mark(&word, DomId(1), Access::Read, false, true).unwrap();
        assert_eq!(entry.frame(), Mfn::new(0x77));
        assert_eq!(word.load(Ordering::Relaxed), FOR_D1 | u64::from(abi::GTF_READING));
    }

    #[test]
    fn a_read_only_grant_cannot_be_marked_for_writing() {
        let word = AtomicU64::new(FOR_D1 | u64::from(abi::GTF_READONLY));
        assert_eq!(mark(&word, DomId(1), Access::Write, true, true), Err(abi::GNTST_GENERAL_ERROR));
        assert!(mark(&word, DomId(1), Access::Read, false, true).is_ok());
    }

    #[test]
    fn nothing_is_left_of_the_last_pin() {
        let one = Pins::new(Mfn::new(5).unwrap(), 9).plus(Access::Read).unwrap().plus(Access::Write).unwrap();
        assert_eq!((one.frame(), one.slot(), one.count(Access::Write)), (Mfn::new(5), 9, 1));
        assert_eq!(one.minus(Access::Write).minus(Access::Read), Pins::default());
        assert_eq!(Pins::default().minus(Access::Read), Pins::default());
    }

    #[test]
    fn marks_go_with_the_last_who_asked_for_them() {
        let none = Pins::default();
        let (nothing, reading, writing) = (GrantFlags::empty(), GrantFlags::READING, GrantFlags::WRITING);
        assert_eq!(none.stale_marks(Access::Write), reading | writing);
        assert_eq!(none.stale_marks(Access::Read), reading);
        let reader = Pins::new(Mfn::new(5).unwrap(), 9).plus(Access::Read).unwrap();
        assert_eq!((reader.stale_marks(Access::Read), reader.stale_marks(Access::Write)), (nothing, writing));
        let writer = reader.plus(Access::Write).unwrap();
        assert_eq!((writer.stale_marks(Access::Read), writer.stale_marks(Access::Write)), (nothing, nothing));
    }

    #[test]
    fn pins_are_counted_to_a_limit_and_never_carry_over() {
        let mut pins = Pins::new(Mfn::new(5).unwrap(), 9);
        while let Some(more) = pins.plus(Access::Read) {
            pins = more;
        }
        assert_eq!((pins.count(Access::Read), pins.count(Access::Write)), (COUNT, 0));
    }
}
