//! How the two ends of a split device find each other: one table of states for both.
//!
//! Each end publishes a state (`XenbusState`) and watches the other's. An end offers what the other needs to connect,
//! connects when the other has offered, and closes when the other does. The table knows nothing of devices, rings or
//! the store; a driver of either side does what it says and publishes the state that goes with it.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::abi::io::xenbus::XenbusState::{Connected, InitWait, Initialised, Initialising};
//! use oxen_domu_lib::handshake::{Side, Step, step};
//!
//! assert_eq!(step(Side::Frontend, Initialising, InitWait), Step::Offer(Initialised));
//! assert_eq!(step(Side::Backend, InitWait, Initialised), Step::Connect);
//! assert_eq!(step(Side::Frontend, Initialised, Connected), Step::Connect);
//! assert_eq!(step(Side::Frontend, Connected, Connected), Step::Wait);
//! ```

use oxen_abi::io::xenbus::XenbusState;

/// Which end of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest that uses the device.
    Frontend,
    /// The domain that serves it.
    Backend,
}

/// What an end does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until the other end's state changes.
    Wait,
    /// Write what the other end needs, then publish this state.
    Offer(XenbusState),
    /// Read what the other end wrote, take the ring into use, then publish `Connected`.
    Connect,
    /// Read anew what the other end may change while it is connected, then publish this state.
    Reconfigure(XenbusState),
    /// Take the ring out of use, then publish this state.
    Close(XenbusState),
    /// The device is gone for good.
    Gone,
}

/// What an end in state `own` does when it sees the other in state `peer`; a state that is not there is `Unknown`.
pub const fn step(side: Side, own: XenbusState, peer: XenbusState) -> Step {
    use XenbusState::{
        Closed, Closing, Connected, InitWait, Initialised, Initialising, Reconfigured, Reconfiguring, Unknown,
    };
    match (side, own, peer) {
        // The frontend speaks second: it offers its ring when the backend has said what it can.
        (Side::Frontend, Initialising, InitWait | Initialised | Connected) => Step::Offer(Initialised),
        (Side::Frontend, Initialised, Connected) => Step::Connect,
        // A frontend that starts waits for a backend that has not noticed the end of the one before.
        (Side::Frontend, Initialising, Unknown) => Step::Close(Closed),
        (Side::Frontend, Initialised | Connected, Closing | Closed | Unknown) => Step::Close(Closed),
        (Side::Frontend, Closing, _) => Step::Close(Closed),
        (Side::Frontend, Closed, Closed | Unknown) => Step::Gone,
        // The backend speaks first, and again after a frontend that starts anew.
        (Side::Backend, Initialising, _) => Step::Offer(InitWait),
        (Side::Backend, InitWait, Initialised | Connected) => Step::Connect,
        (Side::Backend, Closed | Closing, Initialising) => Step::Offer(InitWait),
        // A frontend that has changed something goes on when the backend has seen it. Both are connected all the while.
        (Side::Backend, Connected | Reconfigured, Reconfiguring) => Step::Reconfigure(Reconfigured),
        (Side::Backend, Reconfigured, Connected) => Step::Reconfigure(Connected),
        (Side::Backend, InitWait | Initialised | Connected | Reconfigured, Closing) => Step::Close(Closing),
        (Side::Backend, InitWait | Initialised | Connected | Reconfigured | Closing, Closed) => Step::Close(Closed),
        (Side::Backend, Connected | Reconfigured, Unknown) => Step::Close(Closed),
        (Side::Backend, Closed, Unknown) => Step::Gone,
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use XenbusState::{
        Closed, Closing, Connected, InitWait, Initialised, Initialising, Reconfigured, Reconfiguring, Unknown,
    };

    /// Publishes what an end's step says.
    fn advance(side: Side, own: &mut XenbusState, peer: XenbusState) -> bool {
        match step(side, *own, peer) {
            Step::Wait | Step::Gone => return false,
            Step::Offer(state) | Step::Reconfigure(state) | Step::Close(state) => *own = state,
            Step::Connect => *own = Connected,
        }
        true
    }

    fn settle(front: &mut XenbusState, back: &mut XenbusState, front_first: bool) {
        for _ in 0..20 {
            let mut moved = false;
            if front_first {
                moved |= advance(Side::Frontend, front, *back);
            }
            moved |= advance(Side::Backend, back, *front);
            if !front_first {
                moved |= advance(Side::Frontend, front, *back);
            }
            if !moved {
                return;
            }
        }
        panic!("{front:?} {back:?} never settle");
    }

    #[test]
    fn whoever_starts_both_ends_connect() {
        for front_first in [true, false] {
            let (mut front, mut back) = (Initialising, Initialising);
            settle(&mut front, &mut back, front_first);
            assert_eq!((front, back), (Connected, Connected));
        }
    }

    #[test]
    fn either_end_can_close() {
        for front_first in [true, false] {
            let (mut front, mut back) = (Closing, Connected);
            settle(&mut front, &mut back, front_first);
            assert_eq!((front, back), (Closed, Closed));
            let (mut front, mut back) = (Connected, Closing);
            settle(&mut front, &mut back, front_first);
            assert_eq!((front, back), (Closed, Closed));
        }
    }

    #[test]
    fn a_frontend_that_starts_again_finds_its_backend() {
        for front_first in [true, false] {
            for back in [Closed, Closing] {
                let (mut front, mut back) = (Initialising, back);
                settle(&mut front, &mut back, front_first);
                assert_eq!((front, back), (Connected, Connected));
            }
        }
    }

    #[test]
    fn an_end_whose_other_vanished_closes() {
        assert_eq!(step(Side::Frontend, Connected, Unknown), Step::Close(Closed));
        assert_eq!(step(Side::Backend, Connected, Unknown), Step::Close(Closed));
        assert_eq!(step(Side::Backend, Closed, Unknown), Step::Gone);
    }

    #[test]
    fn a_frontend_changes_something_as_often_as_it_likes() {
        let mut back = Connected;
        for _ in 0..2 {
            assert!(advance(Side::Backend, &mut back, Reconfiguring) && back == Reconfigured);
            assert!(advance(Side::Backend, &mut back, Reconfiguring) && back == Reconfigured, "it was quicker");
            assert!(advance(Side::Backend, &mut back, Connected) && back == Connected);
            assert!(!advance(Side::Backend, &mut back, Connected));
        }
        for (peer, want) in [(Closing, Closing), (Closed, Closed), (Unknown, Closed)] {
            assert_eq!(step(Side::Backend, Reconfigured, peer), Step::Close(want));
        }
        assert_eq!(step(Side::Backend, InitWait, Reconfiguring), Step::Wait, "nobody is connected");
    }

    #[test]
    fn nobody_connects_before_the_other_has_offered() {
        for peer in [Unknown, Initialising, Closing, Closed] {
            assert_ne!(step(Side::Frontend, Initialised, peer), Step::Connect);
            assert_ne!(step(Side::Backend, InitWait, peer), Step::Connect);
        }
        assert_ne!(step(Side::Frontend, Initialised, InitWait), Step::Connect);
        assert_eq!(step(Side::Frontend, Initialised, Initialised), Step::Wait);
    }
}
