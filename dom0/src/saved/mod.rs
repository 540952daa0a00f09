//! Domains that are put down as a stream of bytes, and come back from one: the formats of Xen 4.17.
//!
//! Three formats lie in one another. The outermost is xl's: a header with the guest's configuration in JSON
//! ([`envelope`], [`config`]). In it lies libxl's stream of version 2, records of which one announces the innermost:
//! libxc's stream of version 3, with the guest's memory and processors ([`record`]). A saved guest knows no machine
//! frames: page tables hold page numbers in their place ([`tables`]), and so do the few other places that name frames.
//! Who reads such a stream goes through it by [`walk`].
//!
//! A guest that moves to another machine goes there as such a stream, sealed ([`sealed`]), within what the two machines
//! say to each other ([`talk`]), most of it while it runs ([`rounds`]).
//!
//! Nothing here knows a domain: what is read from a stream is a claim, and each number of it is judged before it is
//! used.

pub mod config;
pub mod envelope;
pub mod p2m;
pub mod record;
pub mod rounds;
pub mod sealed;
pub mod stream;
pub mod tables;
pub mod talk;
#[cfg(test)]
mod tests;
pub mod walk;
