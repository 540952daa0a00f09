//! What one frame is, in one word: owner, references, type, type count. A pure state machine; every transition is here.
//!
//! Two counts rule a frame. *References* keep it from being freed: one for being in a domain's reservation
//! (`allocated`), one for every table entry that maps it and every other user. *Type uses* keep it from changing its
//! type: a frame is a page table of one level, a descriptor page or writable, and becomes something else only when
//! nobody uses it as what it is. Every type use also holds a reference.

mod counting;
#[cfg(test)]
mod every;
mod free;
mod kind;
#[cfg(test)]
mod tests;

pub use kind::{FrameType, Owner};

use bitflags::bitflags;
use oxen_abi::errno::Errno;

/// The state of one frame, packed: references 0..26, type uses 26..46, owner 47..57, type 57..60, and [`Marks`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct FrameState(u64);

const REFS_BITS: u32 = 26;
const USES_SHIFT: u32 = REFS_BITS;
const USES_BITS: u32 = 20;
const OWNER_SHIFT: u32 = USES_SHIFT + USES_BITS + 1;
const TYPE_SHIFT: u32 = OWNER_SHIFT + 10;
const ONE_REF: u64 = 1;
const ONE_USE: u64 = 1 << USES_SHIFT;
const MAX_REFS: u64 = (1 << REFS_BITS) - 1;
const MAX_USES: u64 = (1 << USES_BITS) - 1;
const OWNER: u64 = (Owner::MASK as u64) << OWNER_SHIFT;
const USES: u64 = MAX_USES << USES_SHIFT;
/// Set when a count comes near its end: from there on it is looked at with care.
const MANY_REFS: u64 = 1 << (REFS_BITS - 1);
const MANY_USES: u64 = 1 << (USES_SHIFT + USES_BITS - 1);
const TYPE: u64 = 7 << TYPE_SHIFT;

bitflags! {
    /// What is so of a frame or not.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Marks: u64 {
        /// The hypervisor lent it to its owner, outside of the reservation.
        const SHARED = 1 << 46;
        /// Its contents have been checked against its type.
        const VALIDATED = 1 << 60;
        /// Validation or devalidation stopped half way.
        const PARTIAL = 1 << 61;
        /// The guest pinned its type.
        const PINNED = 1 << 62;
        /// It is part of its owner's reservation.
        const ALLOCATED = 1 << 63;
    }
}

/// The parts of the word have bits of their own.
const _: () = {
    let parts = [MAX_REFS, USES, OWNER, TYPE, Marks::all().bits()];
    assert!(parts[0] | parts[1] | parts[2] | parts[3] | parts[4] == u64::MAX);
    assert!(parts[0].count_ones() + parts[1].count_ones() + parts[2].count_ones() == 56);
    assert!(parts[3].count_ones() + parts[4].count_ones() == 8);
};

/// What remains to be done after a use was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Acquired {
    /// The frame already was what is asked for.
    Ready,
    /// The type is published but nobody may rely on it before its contents are validated; `retyped` if it was
    /// something else before, so that a TLB may still hold the old use.
    Unvalidated {
        /// Whether stale translations of the old type must be flushed first.
        retyped: bool,
    },
    /// Became writable and may have been a table or a descriptor page before: a CPU that still walks it through a stale
    /// translation would believe what is now written there, so those must be flushed first.
    Changed,
}

/// What remains to be done after a use was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Released {
    /// Others still use the type.
    InUse,
    /// That was the last use of a validated type: its contents must be given back, then [`FrameState::devalidated`].
    MustDevalidate,
    /// The last use of a type without contents.
    Idle,
}

impl FrameState {
    /// A free frame: nobody can take a reference.
    pub const FREE: Self = Self((Owner::NOBODY.0 as u64) << OWNER_SHIFT);

    /// The hypervisor's own: nobody can take a reference.
    pub const OWN: Self = Self((Owner::HYPERVISOR.0 as u64) << OWNER_SHIFT);

    /// The word as it stands in the frame table.
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// A word read from the frame table.
    #[inline]
    #[must_use]
    pub(super) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// What is not RAM: nobody can take a reference.
    pub const IO: Self = Self((Owner::IO.0 as u64) << OWNER_SHIFT);

    /// The hypervisor's own that may be mapped to read. Its one use is of nothing: nobody can have it as anything else.
    pub(super) const PUBLISHED: Self = Self((Owner::XEN.0 as u64) << OWNER_SHIFT | ONE_USE | ONE_REF);

    /// A frame of a domain's reservation that no TLB knows: one reference, for being allocated.
    #[inline]
    #[must_use]
    pub(super) const fn fresh(owner: Owner) -> Self {
        Self(
            Marks::ALLOCATED.bits()
                | (owner.0 as u64) << OWNER_SHIFT
                | (FrameType::Fresh as u64) << TYPE_SHIFT
                | ONE_REF,
        )
    }

    /// A frame that the hypervisor keeps but a domain may map writable: the hypervisor's own reference and use hold it.
    #[inline]
    #[must_use]
    pub(super) const fn shared(owner: Owner) -> Self {
        Self(
            (owner.0 as u64) << OWNER_SHIFT
                | (FrameType::Writable as u64) << TYPE_SHIFT
                | Marks::VALIDATED.bits()
                | Marks::SHARED.bits()
                | ONE_USE
                | ONE_REF,
        )
    }

    /// What is so of it.
    #[inline]
    const fn marks(self) -> Marks {
        Marks::from_bits_truncate(self.0)
    }

    /// The same with these marks.
    #[inline]
    const fn with(self, marks: Marks) -> Self {
        Self(self.0 | marks.bits())
    }

    /// The same without them.
    #[inline]
    const fn without(self, marks: Marks) -> Self {
        Self(self.0 & !marks.bits())
    }

    /// Who owns the frame.
    #[inline]
    #[must_use]
    pub const fn owner(self) -> Owner {
        Owner((self.0 >> OWNER_SHIFT) as u16 & Owner::MASK)
    }

    /// References held.
    #[inline]
    #[must_use]
    pub const fn refs(self) -> u64 {
        self.0 & MAX_REFS
    }

    /// Type uses held.
    #[inline]
    #[must_use]
    pub const fn uses(self) -> u64 {
        (self.0 >> USES_SHIFT) & MAX_USES
    }

    /// The type: in force while it is used, history otherwise.
    #[inline]
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "three bits, eight elements")]
    pub const fn kind(self) -> FrameType {
        FrameType::ALL[(self.0 >> TYPE_SHIFT) as usize & 7]
    }

    /// Whether the contents have been checked against the type.
    #[inline]
    #[must_use]
    pub const fn is_validated(self) -> bool {
        self.marks().contains(Marks::VALIDATED)
    }

    /// Whether validation or devalidation stopped half way.
    #[inline]
    #[must_use]
    pub const fn is_partial(self) -> bool {
        self.marks().contains(Marks::PARTIAL)
    }

    /// Whether the guest pinned the type.
    #[inline]
    #[must_use]
    pub const fn is_pinned(self) -> bool {
        self.marks().contains(Marks::PINNED)
    }

    /// Whether the frame is part of its owner's reservation.
    #[inline]
    #[must_use]
    pub const fn is_allocated(self) -> bool {
        self.marks().contains(Marks::ALLOCATED)
    }

    /// Whether the hypervisor lent the frame to its owner outside of the reservation ([`Self::shared`]).
    #[inline]
    #[must_use]
    pub const fn is_shared(self) -> bool {
        self.marks().contains(Marks::SHARED)
    }

    /// Whether two states are the same but for what the frame was once used as.
    #[must_use]
    pub const fn differs_in_past_alone(self, other: Self) -> bool {
        self.uses() == 0 && (self.0 ^ other.0) & !(TYPE | Marks::VALIDATED.bits()) == 0
    }

    /// Takes a reference on a frame of `owner`.
    ///
    /// # Errors
    /// `Inval` if the frame is not `owner`'s, is free, or has too many references already.
    #[inline]
    pub const fn reference(self, owner: Owner) -> Result<Self, Errno> {
        let refs = self.refs();
        if self.owner().0 != owner.0 || refs == 0 || refs == MAX_REFS || !owner.has_pages() {
            return Err(Errno::Inval);
        }
        Ok(Self(self.0 + ONE_REF))
    }

    /// Gives a reference back. With the last one the frame is nobody's and goes back to the allocator.
    #[inline]
    #[must_use]
    pub const fn unreference(self) -> Self {
        debug_assert!(self.refs() > self.uses() || self.refs() > 1 || self.uses() == 0);
        Self(self.0 - ONE_REF)
    }

    /// Takes a reference and a use of `kind` at once, on a frame of `owner`.
    ///
    /// # Errors
    /// `Inval` if the reference cannot be had; `Busy` if the frame is in use as something else or too often, or is half
    /// way through a validation.
    #[inline]
    pub const fn acquire(self, owner: Owner, kind: FrameType) -> Result<(Self, Acquired), Errno> {
        let referenced = match self.reference(owner) {
            Ok(state) => state,
            Err(error) => return Err(error),
        };
        if self.uses() == 0 {
            let retyped = self.kind().may_be_known_otherwise(kind);
            let word = referenced.without(Marks::VALIDATED).0 & !TYPE | (kind as u64) << TYPE_SHIFT;
            if self.is_partial() {
                return Err(Errno::Busy);
            }
            return Ok(if kind.needs_validation() {
                (Self(word + ONE_USE), Acquired::Unvalidated { retyped })
            } else {
                (Self(word + ONE_USE).with(Marks::VALIDATED), if retyped { Acquired::Changed } else { Acquired::Ready })
            });
        }
        if self.kind() as u8 != kind as u8 || !self.is_validated() || self.uses() == MAX_USES {
            return Err(Errno::Busy);
        }
        Ok((Self(referenced.0 + ONE_USE), Acquired::Ready))
    }

    /// The contents have been checked: the type may be relied on.
    #[inline]
    #[must_use]
    pub const fn validated(self) -> Self {
        self.with(Marks::VALIDATED).without(Marks::PARTIAL)
    }

    /// Validation or devalidation stopped: nobody may take the type before it is finished.
    #[inline]
    #[must_use]
    pub const fn partial(self) -> Self {
        self.with(Marks::PARTIAL).without(Marks::VALIDATED)
    }

    /// What giving back one use would mean.
    #[inline]
    pub const fn release_means(self) -> Released {
        if self.uses() > 1 {
            Released::InUse
        } else if self.kind().needs_validation() {
            Released::MustDevalidate
        } else {
            Released::Idle
        }
    }

    /// Gives back one use that is not the last of a validated type, and its reference.
    #[inline]
    #[must_use]
    pub const fn release(self) -> Self {
        Self(self.0 - ONE_USE - ONE_REF)
    }

    /// The last use goes away, its contents having been given back. The reference stays with the caller.
    #[inline]
    #[must_use]
    pub const fn devalidated(self) -> Self {
        Self(self.0 - ONE_USE).without(Marks::VALIDATED.union(Marks::PARTIAL))
    }

    /// Marks the type as pinned by the guest; the caller hands over a use.
    #[inline]
    #[must_use]
    pub const fn pinned(self) -> Self {
        self.with(Marks::PINNED)
    }

    /// Clears the pin; the caller is handed its use.
    #[inline]
    #[must_use]
    pub const fn unpinned(self) -> Self {
        self.without(Marks::PINNED)
    }

    /// Leaves the owner's reservation; the caller is handed the reference that stood for it.
    #[inline]
    #[must_use]
    pub const fn deallocated(self) -> Self {
        self.without(Marks::ALLOCATED)
    }

    /// Whether the frame is in a reservation, nobody else refers to it, and it has no type in use.
    #[inline]
    #[must_use]
    pub const fn is_loose(self) -> bool {
        self.refs() == 1 && self.uses() == 0 && self.is_allocated() && !self.is_partial()
    }

    /// Leaves the reservation of `owner` for the hypervisor's hands, its past with it.
    ///
    /// # Errors
    /// `Inval` if it is not `owner`'s, `Busy` if it is not loose.
    #[inline]
    pub(super) const fn withdrawn(self, owner: Owner) -> Result<Self, Errno> {
        if self.owner().0 != owner.0 {
            return Err(Errno::Inval);
        }
        if !self.is_loose() {
            return Err(Errno::Busy);
        }
        Ok(Self((self.without(Marks::ALLOCATED).0 - ONE_REF) & !OWNER | Self::OWN.0))
    }

    /// Is in the reservation again as it was before [`Self::withdrawn`].
    #[inline]
    #[must_use]
    pub(super) const fn restored(self, owner: Owner) -> Self {
        Self((self.with(Marks::ALLOCATED).0 & !OWNER | (owner.0 as u64) << OWNER_SHIFT) + ONE_REF)
    }
}

impl core::fmt::Debug for FrameState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} {:?} refs {} uses {}", self.owner(), self.kind(), self.refs(), self.uses())?;
        for (name, _) in self.marks().iter_names() {
            write!(f, " {name}")?;
        }
        Ok(())
    }
}
