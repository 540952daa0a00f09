//! Working sets of domains. Oxen's own: real Xen has no such command, and refuses its number.

use crate::domid::DomId;

/// End a period in which some pages of each domain were watched, and begin the next: [`SysctlWorkingSets`]. Its number
/// is far from those that Xen counts up.
pub const OXEN_SYSCTL_WORKING_SETS: u32 = 0x4f78_0001;

/// How many pages of a domain can be asked to be watched.
pub const MAX_SAMPLES: u32 = 100;

abi_struct! {
    /// Ask which pages domains use.
    pub struct SysctlWorkingSets [24] {
        /// IN: about how many pages of each domain are watched in the period that begins, at most [`MAX_SAMPLES`];
        /// 0: none.
        pub samples: u32,
        /// IN: room; OUT: how many domains are told of.
        pub max_domains: u32,
        /// IN: 0. The hypervisor keeps here how far it has come while it is interrupted.
        pub next: u64,
        /// Guest address of [`WorkingSet`]s.
        pub buffer: u64,
    }
    /// What was seen of a domain in the period that ends.
    pub struct WorkingSet [12] {
        /// Which domain.
        pub domain: DomId,
        /// Padding.
        pub _pad: u16,
        /// Pages that were watched; 0 where none were, as while the domain's writes are logged.
        pub sampled: u32,
        /// Those of them that were used.
        pub touched: u32,
    }
}
