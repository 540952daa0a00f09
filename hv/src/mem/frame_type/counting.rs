//! The transitions in which nothing changes but the counts: nearly all of them, each in a few instructions.

use super::{
    FrameState, FrameType, MANY_REFS, MANY_USES, MAX_REFS, Marks, ONE_REF, ONE_USE, OWNER, OWNER_SHIFT, Owner, TYPE,
    TYPE_SHIFT, USES,
};

impl FrameState {
    /// What [`Self::acquire`] for writing comes to where it only counts on: nearly always, and in a few instructions.
    #[inline(always)]
    #[must_use]
    pub const fn plus_writable_fast(self, owner: Owner) -> Option<Self> {
        self.plus_table_use_fast(owner, FrameType::Writable)
    }

    /// The same for any kind, validated already.
    #[inline(always)]
    #[must_use]
    pub const fn plus_table_use_fast(self, owner: Owner, kind: FrameType) -> Option<Self> {
        const MARKS: Marks = Marks::VALIDATED.union(Marks::PARTIAL);
        const RELEVANT: u64 = OWNER | TYPE | MARKS.bits() | MANY_REFS | MANY_USES;
        let plain = (owner.0 as u64) << OWNER_SHIFT | (kind as u64) << TYPE_SHIFT | Marks::VALIDATED.bits();
        if self.0 & RELEVANT == plain { Some(Self(self.0 + ONE_USE + ONE_REF)) } else { None }
    }

    /// What giving back a use of a table comes to where it is not the last.
    #[inline(always)]
    #[must_use]
    pub const fn minus_table_use_fast(self) -> Option<Self> {
        if self.uses() > 1 { Some(Self(self.0 - ONE_USE - ONE_REF)) } else { None }
    }

    /// The same as for writing, for [`Self::reference`].
    #[inline(always)]
    #[must_use]
    pub const fn plus_reference_fast(self, owner: Owner) -> Option<Self> {
        let plain = if !owner.has_pages() { u64::MAX } else { (owner.0 as u64) << OWNER_SHIFT };
        if self.0 & (OWNER | MANY_REFS) == plain { Some(Self(self.0 + ONE_REF)) } else { None }
    }

    /// What giving back a writable use comes to where the frame stays with its owner; whether that was the last use.
    #[inline(always)]
    #[must_use]
    pub const fn minus_writable_fast(self) -> Option<(Self, bool)> {
        let next = self.0.wrapping_sub(ONE_USE + ONE_REF);
        let is_writable = self.0 & TYPE == (FrameType::Writable as u64) << TYPE_SHIFT;
        if !is_writable || next & MAX_REFS == 0 { None } else { Some((Self(next), next & USES == 0)) }
    }

    /// The same for [`Self::unreference`]; `None` for what is not RAM, too.
    #[inline(always)]
    #[must_use]
    pub const fn minus_reference_fast(self) -> Option<Self> {
        if self.refs() <= 1 { None } else { Some(Self(self.0 - ONE_REF)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::frame_type::{Acquired, Released};
    use proptest::prelude::*;

    fn owner() -> Owner {
        Owner::domain(1).unwrap()
    }

    proptest! {
        /// Whatever the word: where the short way answers, it answers what the long one does.
        #[test]
        fn the_short_way_leads_where_the_long_one_does(raw: u64, tame: bool, refs in 1_u64..1000, uses in 0_u64..900) {
            let raw = if tame { raw & !(MAX_REFS | USES | OWNER) | refs | uses << 26 | 1 << OWNER_SHIFT } else { raw };
            let state = FrameState::from_raw(raw);
            let is_possible = state.refs() >= state.uses() && state.refs() > 0;
            if let Some(next) = state.plus_reference_fast(owner()) && is_possible {
                prop_assert_eq!(state.reference(owner()), Ok(next));
            }
            for kind in [FrameType::Writable, FrameType::L1, FrameType::L4] {
                let in_use = state.uses() > 0 || kind == FrameType::Writable;
                if let Some(next) = state.plus_table_use_fast(owner(), kind) && is_possible && in_use {
                    prop_assert_eq!(state.acquire(owner(), kind), Ok((next, Acquired::Ready)));
                }
            }
            if let Some((next, is_last)) = state.minus_writable_fast() && state.uses() > 0 && is_possible {
                prop_assert_eq!(next, state.release());
                prop_assert_eq!(is_last, state.release_means() == Released::Idle);
                prop_assert!(next.refs() > 0);
            }
            if let Some(next) = state.minus_table_use_fast() {
                prop_assert_eq!(state.release_means(), Released::InUse);
                prop_assert_eq!(next, state.release());
            }
            if let Some(next) = state.minus_reference_fast() && is_possible {
                prop_assert!(next.refs() > 0 && next.raw() == state.raw() - 1);
            }
        }
    }
}
