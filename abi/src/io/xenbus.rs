//! States of a split device, as both ends publish them in XenStore (`io/xenbus.h`).
//!
//! # Example
//!
//! ```
//! use oxen_abi::io::xenbus::XenbusState;
//!
//! assert_eq!(XenbusState::from_text("4"), XenbusState::Connected);
//! assert_eq!(XenbusState::from_text("connected"), XenbusState::Unknown);
//! assert_eq!(XenbusState::Closed.as_text(), "6");
//! ```

use core::fmt;

/// What one end of a device says of itself in its `state` key (`xenbus_state`).
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XenbusState {
    /// No key, or none of the values below.
    #[default]
    Unknown = 0,
    /// Just made.
    Initialising = 1,
    /// Ready, and waiting for the peer's details.
    InitWait = 2,
    /// Details published, and waiting for the peer to connect.
    Initialised = 3,
    /// At work.
    Connected = 4,
    /// Going away.
    Closing = 5,
    /// Gone.
    Closed = 6,
    /// Being changed while connected.
    Reconfiguring = 7,
    /// The change is done.
    Reconfigured = 8,
}

impl XenbusState {
    /// Reads a `state` key's text; anything unexpected is [`Self::Unknown`].
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        match text {
            "1" => Self::Initialising,
            "2" => Self::InitWait,
            "3" => Self::Initialised,
            "4" => Self::Connected,
            "5" => Self::Closing,
            "6" => Self::Closed,
            "7" => Self::Reconfiguring,
            "8" => Self::Reconfigured,
            _ => Self::Unknown,
        }
    }

    /// The text of the `state` key.
    #[must_use]
    pub const fn as_text(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }
}

impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_text())
    }
}

#[cfg(test)]
mod tests {
    use super::XenbusState;

    #[test]
    fn text_and_number_agree() {
        for n in 0..=8u32 {
            let text = char::from_digit(n, 10).unwrap();
            let mut buffer = [0; 4];
            let state = XenbusState::from_text(text.encode_utf8(&mut buffer));
            assert_eq!(state as u32, n);
            assert_eq!(state.as_text().parse(), Ok(n));
        }
        for junk in ["", "9", "44", " 4", "x"] {
            assert_eq!(XenbusState::from_text(junk), XenbusState::Unknown);
        }
    }
}
