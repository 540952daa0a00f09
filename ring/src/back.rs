//! The backend's half of a request/response ring.

use crate::sring::{Index, Sring};
use crate::{Full, Overrun, Page, TooSmall};
use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Consumes requests `Q`, produces responses `P`.
pub struct BackRing<'a, Q, P> {
    shared: Sring<'a, Q, P>,
    rsp_prod_pvt: u32,
    rsp_published: u32,
    req_cons: u32,
}

/// How far a backend has come on its ring, for another that goes on in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    consumed: u32,
    answered: u32,
    published: u32,
}

impl Position {
    /// The index of the next request.
    #[must_use]
    pub const fn consumed(&self) -> u32 {
        self.consumed
    }
}

/// Why a backend cannot take a ring on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// There is no page.
    TooSmall,
    /// The ring holds more requests than it has slots.
    Overrun(Overrun),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall => TooSmall.fmt(f),
            Self::Overrun(overrun) => overrun.fmt(f),
        }
    }
}

impl core::error::Error for AttachError {}

impl<'a, Q, P> BackRing<'a, Q, P>
where
    Q: FromBytes + IntoBytes + Immutable,
    P: FromBytes + IntoBytes + Immutable,
{
    /// Takes on a ring its frontend has made. Requests that an earlier backend left unanswered come again; where it
    /// answered out of their order, only [`Self::resume`] knows which those are.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(pages: &'a [Page]) -> Result<Self, AttachError> {
        let shared = Sring::new(pages).map_err(|TooSmall| AttachError::TooSmall)?;
        let done = shared.header(Index::RspProd).load(core::sync::atomic::Ordering::Acquire);
        let ring = Self { shared, rsp_prod_pvt: done, rsp_published: done, req_cons: done };
        ring.pending().map_err(AttachError::Overrun)?;
        Ok(ring)
    }

    /// Goes on where another backend stopped. What that one consumed and did not answer is in no slot any more: who
    /// resumes has to know these requests, and answers them first or last as it likes.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn resume(pages: &'a [Page], position: Position) -> Result<Self, AttachError> {
        let shared = Sring::new(pages).map_err(|TooSmall| AttachError::TooSmall)?;
        let Position { consumed, answered, published } = position;
        let ring = Self { shared, rsp_prod_pvt: answered, rsp_published: published, req_cons: consumed };
        ring.pending().map_err(AttachError::Overrun)?;
        Ok(ring)
    }

    /// How far this backend has come.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { consumed: self.req_cons, answered: self.rsp_prod_pvt, published: self.rsp_published }
    }

    /// Slots of the ring.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.shared.size()
    }

    /// Requests consumed but not answered yet.
    #[must_use]
    pub const fn unanswered(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod_pvt)
    }

    /// Requests that wait to be consumed.
    ///
    /// # Errors
    /// [`Overrun`]: the frontend claims more requests than there are slots.
    pub fn pending(&self) -> Result<u32, Overrun> {
        // All other slots hold requests that have no response yet.
        self.shared.published(Index::ReqProd, self.req_cons, self.size() - self.unanswered())
    }

    /// Consumes a request, if there is one.
    ///
    /// # Errors
    /// [`Overrun`]: the frontend claims more requests than there are slots.
    pub fn pop(&mut self) -> Result<Option<Q>, Overrun> {
        self.pop_as()
    }

    /// [`Self::pop`] for a request of another layout, which must not be larger than `Q` and `P`.
    ///
    /// # Errors
    /// [`Overrun`]: the frontend claims more requests than there are slots.
    pub fn pop_as<T: FromBytes + IntoBytes>(&mut self) -> Result<Option<T>, Overrun> {
        if self.pending()? == 0 {
            return Ok(None);
        }
        let request = self.shared.read(self.req_cons);
        self.req_cons = self.req_cons.wrapping_add(1);
        Ok(Some(request))
    }

    /// Adds a response, which the frontend sees after the next [`Self::publish`].
    ///
    /// # Errors
    /// [`Full`]: all requests consumed so far have their responses.
    pub fn push(&mut self, response: &P) -> Result<(), Full> {
        self.push_as(response)
    }

    /// [`Self::push`] for a response of another layout, which must not be larger than `Q` and `P`.
    ///
    /// # Errors
    /// [`Full`]: all requests consumed so far have their responses.
    pub fn push_as<T: IntoBytes + Immutable>(&mut self, response: &T) -> Result<(), Full> {
        if self.unanswered() == 0 {
            return Err(Full);
        }
        self.shared.write(self.rsp_prod_pvt, response);
        self.rsp_prod_pvt = self.rsp_prod_pvt.wrapping_add(1);
        Ok(())
    }

    /// Shows the frontend all responses added so far. Returns whether it wants an event for them.
    #[must_use = "the frontend may be waiting for an event"]
    pub fn publish(&mut self) -> bool {
        let old = core::mem::replace(&mut self.rsp_published, self.rsp_prod_pvt);
        self.shared.publish(Index::RspProd, Index::RspEvent, old, self.rsp_prod_pvt)
    }

    /// Call it when no request is left, before waiting: asks for an event on the next one, and returns whether some
    /// came in the meantime, which are then to be consumed first.
    ///
    /// # Errors
    /// [`Overrun`]: the frontend claims more requests than there are slots.
    pub fn final_check(&mut self) -> Result<bool, Overrun> {
        self.final_check_for(1)
    }

    /// [`Self::final_check`] for who can do nothing with less than `count` requests, which is at least one: the event
    /// comes with the last of them.
    ///
    /// # Errors
    /// [`Overrun`]: the frontend claims more requests than there are slots.
    pub fn final_check_for(&mut self, count: u32) -> Result<bool, Overrun> {
        if self.pending()? >= count {
            return Ok(true);
        }
        self.shared.wish(Index::ReqEvent, self.req_cons.wrapping_add(count.saturating_sub(1)));
        Ok(self.pending()? >= count)
    }
}
