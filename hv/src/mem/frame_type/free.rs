//! What a free frame's word says: its place in the lists, or who had it last. It has no counts, so their bits are used.

use super::{FrameState, Owner};

/// Marks the first frame of a block.
const HEAD: u64 = 1 << 40;
const ORDER_SHIFT: u32 = 32;
/// Marks a frame that says who had it last.
const LEFT: u64 = 1 << 41;
const GENERATION_SHIFT: u32 = 10;

impl FrameState {
    /// The first frame of a free block, linked to the block before it in the list of its order.
    #[must_use]
    pub(in crate::mem) const fn head(order: u32, previous: u32) -> Self {
        Self(Self::FREE.0 | HEAD | (order as u64) << ORDER_SHIFT | previous as u64)
    }

    /// Order and previous block, if this is the state of a free block's first frame.
    #[must_use]
    pub(in crate::mem) const fn as_head(self) -> Option<(u32, u32)> {
        let is_head = self.0 & !(HEAD - 1) == Self::FREE.0 | HEAD;
        if is_head { Some(((self.0 >> ORDER_SHIFT) as u32 & 0xff, self.0 as u32)) } else { None }
    }

    /// A free frame that a domain was the last to have: the one of this `generation` in `owner`'s slot.
    #[must_use]
    pub(in crate::mem) const fn left_by(owner: Owner, generation: u32) -> Self {
        let mark = (generation as u64) << GENERATION_SHIFT | owner.0 as u64;
        Self(Self::FREE.0 | LEFT | mark & (HEAD - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_frame_is_one_thing_at_a_time() {
        let owner = Owner::domain(3).unwrap();
        for (order, previous) in [(0, 0), (18, u32::MAX), (5, 1 << 31)] {
            assert_eq!(FrameState::head(order, previous).as_head(), Some((order, previous)));
        }
        for state in
            [FrameState::FREE, FrameState::left_by(owner, 0), FrameState::left_by(owner, u32::MAX), FrameState::OWN]
        {
            assert_eq!(state.as_head(), None, "{state:?}");
            assert!(state.owner().slot().is_none() && state.reference(owner).is_err());
        }
        assert_ne!(FrameState::left_by(owner, 1), FrameState::left_by(owner, 2));
        assert_ne!(FrameState::left_by(owner, 1), FrameState::left_by(Owner::domain(4).unwrap(), 1));
    }
}
