//! What waits to be sent to a domain: answers and events, and what is paid for them.

use alloc::{
    rc::Rc,
    string::{String, ToString},
};
use core::mem::size_of;

use super::{DomId, cost, wire::Message};
use crate::purse::{Charge, Exhausted, Purse};

/// Bytes of one place in the queue, which has room for four times what is in it at most.
pub(super) const PLACE: usize = 4 * size_of::<Outgoing>();

/// What waits to be sent to a domain.
pub(super) enum Outgoing {
    /// The first of several replies is paid for by the connection.
    Reply {
        /// The reply.
        message: Message,
        /// What is paid for it.
        _charge: Option<Charge>,
    },
    /// Something happened.
    Event(Event),
}

/// Something to tell a domain. The domain pays for it until it has been told.
#[derive(Debug)]
pub struct Event {
    /// Who is told.
    pub domain: DomId,
    /// The name as this watch wants it.
    pub path: String,
    /// The watch's token.
    pub token: Rc<[u8]>,
    _heap: Charge,
    _place: Charge,
}

impl Event {
    /// An event, paid for.
    ///
    /// # Errors
    /// [`Exhausted`] if the purse cannot pay.
    pub(super) fn new(domain: DomId, path: &str, token: Rc<[u8]>, purse: &Purse) -> Result<Self, Exhausted> {
        let place = purse.events.charge(1)?;
        let bytes = cost::block(path.len()) + token_cost(&token) + 4 * size_of::<Self>() + PLACE;
        let heap = purse.heap.charge(bytes)?;
        Ok(Self { domain, path: path.to_string(), token, _heap: heap, _place: place })
    }

    /// Returns whether it says the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.domain == other.domain && self.path == other.path && self.token == other.token
    }
}

/// Bytes of a token at most.
pub(super) fn token_cost(token: &[u8]) -> usize {
    cost::shared(token.len().next_multiple_of(8))
}
