//! The messages of io/xs_wire.h as they stand on a ring: header, payload, error names.

use alloc::{string::String, vec::Vec};

use oxen_abi::errno::Errno;
use oxen_abi::io::xs_wire as xs;
use zerocopy::IntoBytes;

/// The most bytes that follow a header.
pub const PAYLOAD_MAX: usize = xs::XENSTORE_PAYLOAD_MAX;
/// Bytes of a header.
pub const HEADER_SIZE: usize = xs::XsdSockmsg::BYTES;

/// Why the store refuses; travels as its C name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Malformed request.
    Invalid,
    /// No permission.
    Access,
    /// Exists already.
    Exists,
    /// No such node, watch or transaction.
    NotFound,
    /// A quota is used up.
    NoSpace,
    /// The operation does not exist.
    NotSupported,
    /// Not in this state.
    Busy,
    /// The transaction conflicts with another change: try again.
    Again,
    /// The answer or the list of watches is too long.
    TooBig,
    /// Not by this domain.
    NotPermitted,
}

impl Error {
    /// The name by which the wire knows this error.
    pub fn name(self) -> &'static str {
        let errno = match self {
            Self::Invalid => Errno::Inval,
            Self::Access => Errno::Acces,
            Self::Exists => Errno::Exist,
            Self::NotFound => Errno::NoEnt,
            Self::NoSpace => Errno::NoSpc,
            Self::NotSupported => Errno::NoSys,
            Self::Busy => Errno::Busy,
            Self::Again => Errno::Again,
            Self::TooBig => Errno::TooBig,
            Self::NotPermitted => Errno::Perm,
        };
        errno.name()
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let explanation = match self {
            Self::Invalid => "malformed path or argument",
            Self::Access => "permission denied",
            Self::Exists => "exists already",
            Self::NotFound => "no such path",
            Self::NoSpace => "a quota is used up",
            Self::NotSupported => "not supported",
            Self::Busy => "busy",
            Self::Again => "the transaction met another change",
            Self::TooBig => "too long",
            Self::NotPermitted => "not permitted",
        };
        write!(f, "{} ({explanation})", self.name())
    }
}

impl core::error::Error for Error {}

/// One message, request or answer: type, identifiers and payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// One of `XS_*`.
    pub kind: u32,
    /// Chosen by the client, echoed.
    pub request: u32,
    /// Transaction, 0 for none.
    pub transaction: u32,
    /// At most [`PAYLOAD_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// The client did what no client may do: its connection ends, with this error (`XENSTORE_ERROR_*`) for it to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub u32);

impl Message {
    /// The answer to `self` of the same kind.
    pub fn reply(&self, payload: Vec<u8>) -> Self {
        Self { kind: self.kind, request: self.request, transaction: self.transaction, payload }
    }

    /// The answer that refuses `self`.
    pub fn refuse(&self, error: Error) -> Self {
        let mut payload = Vec::from(error.name());
        payload.push(0);
        Self { kind: xs::XS_ERROR, ..self.reply(payload) }
    }

    /// A watch event; both strings end in NUL.
    pub fn event(path: &str, token: &[u8]) -> Self {
        let mut payload = Vec::with_capacity(path.len() + token.len() + 2);
        payload.extend_from_slice(path.as_bytes());
        payload.push(0);
        payload.extend_from_slice(token);
        payload.push(0);
        payload.truncate(PAYLOAD_MAX);
        Self { kind: xs::XS_WATCH_EVENT, request: 0, transaction: 0, payload }
    }

    /// Appends header and payload to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let len = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let header = xs::XsdSockmsg { r#type: self.kind, req_id: self.request, tx_id: self.transaction, len };
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&self.payload);
    }

    /// Takes the first whole message off `buffer`; `None` where more bytes must come first.
    ///
    /// # Errors
    /// [`ProtocolError`]: its header names more bytes than a message may have.
    pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>, ProtocolError> {
        let split = xs::XsdSockmsg::split(buffer).map_err(|_| ProtocolError(xs::XENSTORE_ERROR_PROTO))?;
        let Some((header, payload)) = split else { return Ok(None) };
        let message =
            Self { kind: header.r#type, request: header.req_id, transaction: header.tx_id, payload: payload.to_vec() };
        buffer.drain(..HEADER_SIZE + message.payload.len());
        Ok(Some(message))
    }
}

/// Reads a payload argument by argument; each ends in NUL.
pub struct Arguments<'a> {
    rest: &'a [u8],
}

impl<'a> Arguments<'a> {
    /// Starts at the payload's first byte.
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// The next NUL-terminated string, as bytes.
    ///
    /// # Errors
    /// `EINVAL`: no NUL is left.
    pub fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let end = self.rest.iter().position(|&b| b == 0).ok_or(Error::Invalid)?;
        let (head, tail) = self.rest.split_at(end);
        self.rest = tail.get(1..).unwrap_or_default();
        Ok(head)
    }

    /// The next string; anything but UTF-8 is refused.
    ///
    /// # Errors
    /// `EINVAL`: no string is left, or it is not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Error> {
        core::str::from_utf8(self.bytes()?).map_err(|_| Error::Invalid)
    }

    /// The next string as a decimal number.
    ///
    /// # Errors
    /// `EINVAL`: no string is left, or it is no such number.
    pub fn number<T: core::str::FromStr>(&mut self) -> Result<T, Error> {
        self.text()?.parse().map_err(|_| Error::Invalid)
    }

    /// All bytes that are left, without any rule.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Whether every byte was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// `text` with its closing NUL, as most answers want it.
pub fn terminated(text: impl Into<String>) -> Vec<u8> {
    let mut bytes = text.into().into_bytes();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn a_message_survives_the_wire() {
        let message = Message { kind: 2, request: 7, transaction: 9, payload: b"a\0b".to_vec() };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let last = bytes.pop().unwrap();
        assert_eq!(Message::take(&mut bytes), Ok(None));
        bytes.push(last);
        assert_eq!(Message::take(&mut bytes), Ok(Some(message)));
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_payload_beyond_the_limit_is_a_violation() {
        let mut bytes = vec![0; 12];
        bytes.extend_from_slice(&4097u32.to_le_bytes());
        assert_eq!(Message::take(&mut bytes), Err(ProtocolError(xs::XENSTORE_ERROR_PROTO)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let before = bytes.len();
            if let Ok(Some(m)) = Message::take(&mut bytes) {
                prop_assert_eq!(bytes.len() + HEADER_SIZE + m.payload.len(), before);
            }
        }
    }
}
