//! What frames are used as, and whose they are.

/// What a frame is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// Never used as anything that matters.
    None = 0,
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
}

impl FrameType {
    pub(super) const ALL: [Self; 8] =
        [Self::None, Self::L1, Self::L2, Self::L3, Self::L4, Self::Descriptor, Self::Writable, Self::None];

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
            Self::None | Self::Descriptor | Self::Writable => None,
        }
    }

    /// Whether contents must be checked before the type may be relied on.
    #[inline]
    #[must_use]
    pub const fn needs_validation(self) -> bool {
        !matches!(self, Self::None | Self::Writable)
    }
}

/// The owner of a frame: a slot of the domain table, or nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Owner(pub(super) u16);

impl Owner {
    /// The hypervisor itself, or a free frame.
    pub const NOBODY: Self = Self(Self::MASK);
    /// Not RAM: device memory, or nothing at all.
    pub const IO: Self = Self(Self::MASK - 1);
    pub(super) const MASK: u16 = 0x3ff;

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
        if self.0 >= Self::IO.0 { None } else { Some(self.0 as usize) }
    }
}

const _: () = assert!(crate::config::MAX_DOMAINS < Owner::IO.0 as usize);
