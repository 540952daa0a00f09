//! The frontend's half of a request/response ring.

use crate::sring::{Index, Sring};
use crate::{Full, Overrun, Page, TooSmall};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Produces requests `Q`, consumes responses `P`.
pub struct FrontRing<'a, Q, P> {
    shared: Sring<'a, Q, P>,
    req_prod_pvt: u32,
    req_published: u32,
    rsp_cons: u32,
}

impl<'a, Q, P> FrontRing<'a, Q, P>
where
    Q: FromBytes + IntoBytes + Immutable,
    P: FromBytes + IntoBytes + Immutable,
{
    /// Makes an empty ring on these pages, which the backend must not know yet.
    ///
    /// # Errors
    /// [`TooSmall`]: there is no page.
    pub fn new(pages: &'a [Page]) -> Result<Self, TooSmall> {
        let shared = Sring::new(pages)?;
        shared.reset();
        Ok(Self { shared, req_prod_pvt: 0, req_published: 0, rsp_cons: 0 })
    }

    /// Slots of the ring: requests that can be under way at once.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.shared.size()
    }

    /// Requests there is room for.
    #[must_use]
    pub const fn free(&self) -> u32 {
        self.size() - self.req_prod_pvt.wrapping_sub(self.rsp_cons)
    }

    /// Adds a request, which the backend sees after the next [`Self::publish`]. Answers its index.
    ///
    /// # Errors
    /// [`Full`]: responses must be consumed first.
    pub fn push(&mut self, request: &Q) -> Result<u32, Full> {
        self.push_as(request)
    }

    /// [`Self::push`] for a request of another layout, which must not be larger than `Q` and `P`.
    ///
    /// # Errors
    /// [`Full`]: responses must be consumed first.
    pub fn push_as<T: IntoBytes + Immutable>(&mut self, request: &T) -> Result<u32, Full> {
        if self.free() == 0 {
            return Err(Full);
        }
        let index = self.req_prod_pvt;
        self.shared.write(index, request);
        self.req_prod_pvt = index.wrapping_add(1);
        Ok(index)
    }

    /// Shows the backend all requests added so far. Returns whether it wants an event for them.
    #[must_use = "the backend may be waiting for an event"]
    pub fn publish(&mut self) -> bool {
        let old = core::mem::replace(&mut self.req_published, self.req_prod_pvt);
        self.shared.publish(Index::ReqProd, Index::ReqEvent, old, self.req_prod_pvt)
    }

    /// Responses that wait to be consumed.
    ///
    /// # Errors
    /// [`Overrun`]: the backend claims more responses than there were requests.
    pub fn pending(&self) -> Result<u32, Overrun> {
        let under_way = self.req_published.wrapping_sub(self.rsp_cons);
        self.shared.published(Index::RspProd, self.rsp_cons, under_way)
    }

    /// Consumes a response, if there is one.
    ///
    /// # Errors
    /// [`Overrun`]: the backend claims more responses than there were requests.
    pub fn pop(&mut self) -> Result<Option<P>, Overrun> {
        self.pop_as()
    }

    /// [`Self::pop`] for a response of another layout, which must not be larger than `Q` and `P`.
    ///
    /// # Errors
    /// [`Overrun`]: the backend claims more responses than there were requests.
    pub fn pop_as<T: FromBytes + IntoBytes>(&mut self) -> Result<Option<T>, Overrun> {
        if self.pending()? == 0 {
            return Ok(None);
        }
        let response = self.shared.read(self.rsp_cons);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        Ok(Some(response))
    }

    /// Call it when no response is left, before waiting: asks for an event on the next one, and returns whether
    /// some came in the meantime, which are then to be consumed first.
    ///
    /// # Errors
    /// [`Overrun`]: the backend claims more responses than there were requests.
    pub fn final_check(&mut self) -> Result<bool, Overrun> {
        if self.pending()? != 0 {
            return Ok(true);
        }
        self.shared.wish(Index::RspEvent, self.rsp_cons);
        Ok(self.pending()? != 0)
    }
}
