//! Messages of the store as bytes: requests out, replies and watch events in.

use alloc::string::String;
use alloc::vec::Vec;

use oxen_abi::errno::Errno;
use oxen_abi::io::xs_wire::{XS_ERROR, XS_WATCH_EVENT, XsdSockmsg};
use zerocopy::IntoBytes;

use super::Error;

/// A message with its parts joined; `None` where it is longer than the protocol allows.
pub(super) fn request(kind: u32, id: u32, transaction: u32, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let head = XsdSockmsg::of(kind, id, transaction, length)?;
    let mut message = Vec::with_capacity(XsdSockmsg::BYTES + length);
    message.extend_from_slice(head.as_bytes());
    for part in parts {
        message.extend_from_slice(part);
    }
    Some(message)
}

/// What the store sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// The answer to the request with this id.
    Reply(u32, Result<Vec<u8>, Error>),
    /// Something at `path` changed, which the watch with this token asked for.
    Event {
        /// Where.
        path: String,
        /// The watch.
        token: String,
    },
}

/// Bytes that came and are not a whole message yet.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    /// Adds bytes as they came.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// [`Error::Protocol`] for one that cannot be: the connection is of no more use.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, Error> {
        let Some((head, payload)) = XsdSockmsg::split(&self.bytes).map_err(|_| Error::Protocol)? else {
            return Ok(None);
        };
        let message = match head.r#type {
            XS_WATCH_EVENT => {
                let mut fields = strings(payload).into_iter();
                let (Some(path), Some(token)) = (fields.next(), fields.next()) else { return Err(Error::Protocol) };
                Incoming::Event { path, token }
            }
            XS_ERROR => Incoming::Reply(head.req_id, Err(error(payload))),
            _ => Incoming::Reply(head.req_id, Ok(payload.into())),
        };
        let length = XsdSockmsg::BYTES + payload.len();
        self.bytes.drain(..length);
        Ok(Some(message))
    }
}

/// The error that an answer names.
fn error(payload: &[u8]) -> Error {
    let name = strings(payload).into_iter().next().unwrap_or_default();
    let errno = Errno::ALL.iter().copied().find(|errno| errno.name() == name);
    Error::Refused(errno.unwrap_or(Errno::Inval))
}

/// Strings that end in zero bytes, the last one perhaps without.
pub(super) fn strings(payload: &[u8]) -> Vec<String> {
    let mut parts: Vec<&[u8]> = payload.split(|&byte| byte == 0).collect();
    if parts.last().is_some_and(|last| last.is_empty()) {
        parts.pop();
    }
    parts.into_iter().map(|part| String::from_utf8_lossy(part).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxen_abi::io::xs_wire::XS_READ;

    #[test]
    fn messages_come_out_whole_however_they_arrive() {
        let mut bytes = request(XS_READ, 7, 0, &[b"value"]).unwrap();
        bytes.extend(request(XS_WATCH_EVENT, 0, 0, &[b"a/b\0", b"token\0"]).unwrap());
        bytes.extend(request(XS_ERROR, 8, 0, &[b"ENOENT\0"]).unwrap());
        for step in 1..bytes.len() {
            let mut assembler = Assembler::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(step) {
                assembler.add(chunk);
                while let Some(message) = assembler.next().unwrap() {
                    seen.push(message);
                }
            }
            let expected = [
                Incoming::Reply(7, Ok(b"value".to_vec())),
                Incoming::Event { path: "a/b".into(), token: "token".into() },
                Incoming::Reply(8, Err(Error::Refused(Errno::NoEnt))),
            ];
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_message_longer_than_the_protocol_allows_ends_the_connection() {
        let head = XsdSockmsg { r#type: XS_READ, req_id: 1, tx_id: 0, len: 4097 };
        let mut assembler = Assembler::default();
        assembler.add(head.as_bytes());
        assert_eq!(assembler.next(), Err(Error::Protocol));
        assert_eq!(request(XS_READ, 1, 0, &[&[0; 4097]]), None);
    }

    #[test]
    fn an_event_without_its_token_ends_the_connection() {
        let mut assembler = Assembler::default();
        assembler.add(&request(XS_WATCH_EVENT, 0, 0, &[b"path\0"]).unwrap());
        assert_eq!(assembler.next(), Err(Error::Protocol));
    }

    #[test]
    fn lists_may_end_with_or_without_a_zero_byte() {
        assert_eq!(strings(b"a\0bc\0"), ["a", "bc"]);
        assert_eq!(strings(b"a\0bc"), ["a", "bc"]);
        assert!(strings(b"").is_empty());
    }
}
