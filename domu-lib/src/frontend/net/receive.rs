//! The half of the device that receives: a ring full of granted pages, and frames put together from what comes back.
//!
//! Responses come in the order of the requests, as a slot of extra information has no id to tell which page it used up.
//! A page's bytes are copied out once, within the page, and nothing in there is looked at before.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use oxen_abi::io::netif::{
    NetifExtraGso, NetifExtraInfo, NetifRxRequest, NetifRxResponse, ReceiveFlags, XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_EXTRA_TYPE_MAX, XEN_NETIF_EXTRA_TYPE_NONE, XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6, XEN_NETIF_NR_SLOTS_MIN,
};
use oxen_ring::FrontRing;
use zerocopy::FromBytes;

use super::{Buffer, Checksum, Frame, Maker, ProtocolError, SHORTEST};
use crate::memory::{PAGE_SIZE, bytes};

/// Bytes of the longest frame that a backend may hand over: a packet of 64 KiB and its Ethernet header, with a tag.
const LONGEST: usize = 65_536 + 18;

/// Slots of a frame at most: data, and one of each type of extra information.
const MAX_SLOTS: u32 = XEN_NETIF_NR_SLOTS_MIN + XEN_NETIF_EXTRA_TYPE_MAX as u32 - 1;

/// A frame of which more is to come.
#[derive(Default)]
struct Assembly {
    frame: Frame,
    /// Slots it took so far.
    slots: u32,
    /// The next slot is extra information.
    extra: bool,
    /// The frame goes on in another data slot.
    more: bool,
    /// The backend could not fill a piece: the rest is thrown away.
    failed: bool,
}

/// The receive ring and its pages.
pub(super) struct Receiver<'a, B> {
    ring: FrontRing<'a, NetifRxRequest, NetifRxResponse>,
    make: Maker<B>,
    /// The pages made so far; a request's id is its page's place here.
    pages: Vec<B>,
    /// Pages on the ring, in the order of their requests.
    posted: VecDeque<u16>,
    idle: Vec<u16>,
    assembly: Option<Assembly>,
    lost: u64,
}

impl<'a, B: Buffer> Receiver<'a, B> {
    /// Receives over `ring` into pages that `make` makes.
    pub(super) const fn new(ring: FrontRing<'a, NetifRxRequest, NetifRxResponse>, make: Maker<B>) -> Self {
        Self { ring, make, pages: Vec::new(), posted: VecDeque::new(), idle: Vec::new(), assembly: None, lost: 0 }
    }

    /// Begins with so many frames that came to nothing before.
    pub(super) fn after(self, lost: u64) -> Self {
        Self { lost, ..self }
    }

    /// Puts every page that is free on the ring; returns whether the backend wants an event for them.
    pub(super) fn post(&mut self) -> bool {
        while self.pages.len() < self.ring.size() as usize
            && let Some(page) = (self.make)()
        {
            self.idle.push(self.pages.len() as u16);
            self.pages.push(page);
        }
        while let Some(&id) = self.idle.last() {
            let Some(page) = self.pages.get(usize::from(id)) else { break };
            if self.ring.push(&NetifRxRequest { id, pad: 0, gref: page.reference() }).is_err() {
                break;
            }
            self.idle.pop();
            self.posted.push_back(id);
        }
        self.ring.publish()
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`ProtocolError`] when the backend says what cannot be.
    pub(super) fn receive(&mut self) -> Result<Option<Frame>, ProtocolError> {
        loop {
            let mut assembly = match self.assembly.take() {
                Some(assembly) => assembly,
                None if self.ring.pending()? == 0 => return Ok(None),
                None => Assembly::default(),
            };
            if assembly.slots == MAX_SLOTS {
                return Err(ProtocolError::Slots);
            }
            let filled = if assembly.extra { self.extra(&mut assembly) } else { self.data(&mut assembly) }?;
            if !filled {
                self.assembly = Some(assembly);
                return Ok(None);
            }
            assembly.slots += 1;
            if assembly.extra || assembly.more {
                self.assembly = Some(assembly);
            } else if assembly.failed || assembly.frame.bytes.len() < SHORTEST {
                self.lost += 1;
            } else {
                return Ok(Some(assembly.frame));
            }
        }
    }

    /// The page of the oldest request, which the response just taken used up.
    fn used(&mut self) -> Result<u16, ProtocolError> {
        // The ring gives no more responses than there were requests.
        let id = self.posted.pop_front().ok_or(ProtocolError::Id(0))?;
        self.idle.push(id);
        Ok(id)
    }

    /// Adds a slot of data; `false` when it has not come yet.
    fn data(&mut self, assembly: &mut Assembly) -> Result<bool, ProtocolError> {
        let Some(response) = self.ring.pop()? else { return Ok(false) };
        let id = self.used()?;
        if response.id != id {
            return Err(ProtocolError::Id(response.id));
        }
        let flags = ReceiveFlags::from_bits_retain(response.flags);
        if assembly.slots == 0 {
            assembly.frame.checksum = match flags {
                flags if flags.contains(ReceiveFlags::CSUM_BLANK) => Checksum::Blank,
                flags if flags.contains(ReceiveFlags::DATA_VALIDATED) => Checksum::Verified,
                _ => Checksum::Unknown,
            };
        }
        assembly.extra = flags.contains(ReceiveFlags::EXTRA_INFO);
        assembly.more = flags.contains(ReceiveFlags::MORE_DATA);
        match usize::try_from(response.status) {
            Ok(size) => self.copy(assembly, usize::from(id), response.offset.into(), size)?,
            Err(_) => assembly.failed = true,
        }
        Ok(true)
    }

    fn copy(&self, assembly: &mut Assembly, page: usize, offset: usize, size: usize) -> Result<(), ProtocolError> {
        if offset + size > PAGE_SIZE {
            return Err(ProtocolError::Range { offset, size });
        }
        let buffer = &mut assembly.frame.bytes;
        let begun = buffer.len();
        if begun + size > LONGEST {
            return Err(ProtocolError::Length(begun + size));
        }
        buffer.resize(begun + size, 0);
        if let (Some(page), Some(piece)) = (self.pages.get(page), buffer.get_mut(begun..)) {
            bytes::read(page.words(), offset, piece);
        }
        Ok(())
    }

    /// Takes a slot of extra information; `false` when it has not come yet.
    fn extra(&mut self, assembly: &mut Assembly) -> Result<bool, ProtocolError> {
        let Some(info) = self.ring.pop_as::<NetifExtraInfo>()? else { return Ok(false) };
        self.used()?;
        if info.r#type == XEN_NETIF_EXTRA_TYPE_NONE || info.r#type >= XEN_NETIF_EXTRA_TYPE_MAX {
            return Err(ProtocolError::Extra(info.r#type));
        }
        if info.r#type == XEN_NETIF_EXTRA_TYPE_GSO {
            let known = |gso: &NetifExtraGso| {
                gso.size != 0 && matches!(gso.r#type, XEN_NETIF_GSO_TYPE_TCPV4 | XEN_NETIF_GSO_TYPE_TCPV6)
            };
            let gso = NetifExtraGso::read_from_bytes(&info.u).ok().filter(known);
            assembly.frame.segment = Some(gso.ok_or(ProtocolError::Extra(info.r#type))?.size);
        }
        assembly.extra = info.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0;
        Ok(true)
    }

    /// Asks for an event on the next response; returns whether some came meanwhile.
    ///
    /// # Errors
    /// [`ProtocolError`] when the backend says what cannot be.
    pub(super) fn final_check(&mut self) -> Result<bool, ProtocolError> {
        Ok(self.ring.final_check()?)
    }

    /// Frames that came to nothing: the backend failed to fill them, or they are no frames.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }
}
