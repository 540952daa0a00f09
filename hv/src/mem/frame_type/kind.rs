//! What frames are used as, and whose they are.

/// What a frame is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// Nobody says what it was: any TLB may know it as anything.
    Unknown = 0,
    /// A page table of level 1; its entries map data.
    L1 = 1,
    /// A page table of level 2.
    L2 = 2,
    /// A page table of level 3.
    L3 = 3,
    /// A page table of level 4: a root.
    L4 = 4,
    /// A page of segment descriptors.
    Descriptor = 5,
    /// Mapped writable, or written to by the hypervisor for the guest.
    Writable = 6,
    /// Not used yet since every TLB forgot it: only a frame that comes from the allocator, or out of another
    /// reservation after a flush, is this.
    Fresh = 7,
}

impl FrameType {
    pub(super) const ALL: [Self; 8] =
        [Self::Unknown, Self::L1, Self::L2, Self::L3, Self::L4, Self::Descriptor, Self::Writable, Self::Fresh];

    /// The page table type of a level, 1 to 4.
    #[inline]
    #[must_use]
    pub const fn table(level: u32) -> Option<Self> {
        match level {
            1 => Some(Self::L1),
            2 => Some(Self::L2),
            3 => Some(Self::L3),
            4 => Some(Self::L4),
            _ => None,
        }
    }

    /// The level of a page table, 1 to 4.
    #[inline]
    #[must_use]
    pub const fn level(self) -> Option<u32> {
        match self {
            Self::L1 | Self::L2 | Self::L3 | Self::L4 => Some(self as u32),
            Self::Unknown | Self::Descriptor | Self::Writable | Self::Fresh => None,
        }
    }

    /// Whether contents must be checked before the type may be relied on.
    #[inline]
    #[must_use]
    pub const fn needs_validation(self) -> bool {
        self.level().is_some() || matches!(self, Self::Descriptor)
    }

    /// Whether a CPU may still act on what a frame of this history was before it became `new`: walk it as a table, or
    /// write to it.
    #[inline]
    #[must_use]
    pub(super) const fn may_be_known_otherwise(self, new: Self) -> bool {
        match self {
            Self::Fresh => false,
            Self::Unknown => true,
            // A stale right to write is as good as a new one.
            Self::Writable => new.needs_validation(),
            _ => self as u8 != new as u8,
        }
    }
}

/// The owner of a frame: a slot of the domain table, or nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Owner(pub(super) u16);

impl Owner {
    /// A free frame's.
    pub const NOBODY: Self = Self(Self::MASK);
    /// Not RAM: device memory, or nothing at all.
    pub const IO: Self = Self(Self::MASK - 1);
    /// The hypervisor itself.
    pub const HYPERVISOR: Self = Self(Self::MASK - 2);
    /// The hypervisor's own that the control domain may map to read: what `DOMID_XEN` names.
    pub const XEN: Self = Self(Self::MASK - 3);
    pub(super) const MASK: u16 = 0x3ff;
    /// Set in the names of [`Self::translated`].
    const NUMBERS: u16 = 1 << 9;

    /// The domain in this slot of the domain table.
    #[inline]
    #[must_use]
    pub const fn domain(slot: usize) -> Option<Self> {
        if slot < crate::config::MAX_DOMAINS { Some(Self(slot as u16)) } else { None }
    }

    /// The slot of the domain table, unless nobody's.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> Option<usize> {
        if self.0 as usize >= crate::config::MAX_DOMAINS { None } else { Some(self.0 as usize) }
    }

    /// In whose name numbers are that a domain's p2m translates ([`super::super::shadow::translated`]). No frame is
    /// this owner's: a number that is taken for a frame's is refused.
    #[must_use]
    pub const fn translated(self) -> Self {
        Self(self.0 | Self::NUMBERS)
    }

    /// Whose numbers they are, if they are such.
    #[must_use]
    pub const fn behind_numbers(self) -> Option<Self> {
        if self.0 & Self::NUMBERS == 0 { None } else { Self::domain((self.0 & !Self::NUMBERS) as usize) }
    }

    pub(in super::super) const fn raw(self) -> u16 {
        self.0
    }

    pub(in super::super) const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// Whether there are frames of this owner's that others can refer to.
    #[inline]
    #[must_use]
    pub(super) const fn has_pages(self) -> bool {
        self.0 <= Self::XEN.0
    }
}

const _: () = assert!(crate::config::MAX_DOMAINS <= Owner::NUMBERS as usize);
const _: () = assert!(Owner::NUMBERS as usize + crate::config::MAX_DOMAINS <= Owner::XEN.0 as usize);
