//! Virtual interrupts, by their numbers.

use oxen_abi::virq::{VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};

/// Whether there is one of this interrupt for the whole system, and not one for each vcpu.
#[must_use]
pub const fn is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}
