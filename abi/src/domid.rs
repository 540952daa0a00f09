//! Domain ids (`xen.h`).
//!
//! # Example
//!
//! ```
//! use oxen_abi::domid::DomId;
//!
//! assert!(DomId(3).is_real() && !DomId::SELF.is_real());
//! assert_eq!(DomId(3).to_string(), "d3");
//! ```

/// A domain's id. The small ones are real domains, those from [`DomId::FIRST_RESERVED`] on have meanings.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::KnownLayout,
    zerocopy::Immutable,
)]
#[repr(transparent)]
pub struct DomId(pub u16);

impl DomId {
    /// The control domain.
    pub const DOM0: Self = Self(0);
    /// Real domains have ids below this one (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The calling domain (`DOMID_SELF`).
    pub const SELF: Self = Self(0x7ff0);
    /// The owner of memory that is not RAM (`DOMID_IO`).
    pub const IO: Self = Self(0x7ff1);
    /// The hypervisor (`DOMID_XEN`).
    pub const XEN: Self = Self(0x7ff2);
    /// The owner of shared copies (`DOMID_COW`).
    pub const COW: Self = Self(0x7ff3);
    /// Nobody (`DOMID_INVALID`).
    pub const INVALID: Self = Self(0x7ff4);
    /// The idle domain (`DOMID_IDLE`).
    pub const IDLE: Self = Self(0x7fff);

    /// Whether a domain can have this id.
    #[inline]
    #[must_use]
    pub const fn is_real(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

impl core::fmt::Display for DomId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "d{}", self.0)
    }
}
