//! What happens between domains by their event channels ([`crate::event`]): channels are made and ended, events raised
//! and delivered. The scheduler lies below: who waits for an event is woken.
//!
//! ```text
//!   bind · control · reset   what makes, changes and ends channels
//!   virq · pirq              events that come from no guest
//!   deliver                  send, unmask, poll: how an event reaches a vcpu
//! ```

mod audit;
mod bind;
mod control;
pub mod deliver;
pub mod pirq;
mod reset;
pub mod virq;

pub use bind::Status;
pub use reset::Reset;
