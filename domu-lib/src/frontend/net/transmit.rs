//! The half of the device that sends: pages granted once, a slot of the ring for each piece of a frame.

use alloc::vec::Vec;

use oxen_abi::io::netif::{
    NETIF_RSP_NULL, NETIF_RSP_OKAY, NetifExtraGso, NetifExtraInfo, NetifTxRequest, NetifTxResponse, TransmitFlags,
    XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6,
};
use oxen_ring::FrontRing;
use zerocopy::{FromBytes, IntoBytes};

use super::{Buffer, Checksum, Frame, Maker, ProtocolError};
use crate::memory::{PAGE_SIZE, bytes};

/// A piece of a frame as the backend was told of it.
#[derive(Clone, Copy)]
struct Piece {
    /// Pieces put on the ring before it.
    number: u64,
    /// The frame's first.
    is_first: bool,
    flags: TransmitFlags,
    size: u16,
    extra: Option<NetifExtraInfo>,
}

/// A page, and the piece in it that the backend has.
struct Slot<B> {
    page: B,
    under_way: Option<Piece>,
}

/// What is left of a transmitter without its ring.
pub(super) struct Kept<B> {
    slots: Vec<Slot<B>>,
    free: Vec<u16>,
    refused: u64,
    pieces: u64,
}

impl<B> Default for Kept<B> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), refused: 0, pieces: 0 }
    }
}

/// Of pieces and their pages' places, those that make whole frames, in the order in which they were sent, and the
/// places of the others.
fn whole_frames(mut left: Vec<(Piece, u16)>) -> (Vec<(Piece, u16)>, Vec<u16>) {
    left.sort_unstable_by_key(|(piece, _)| piece.number);
    let (mut whole, mut others) = (Vec::new(), Vec::new());
    let goes_on = |(piece, _): &(Piece, u16), (next, _): &(Piece, u16)| {
        piece.flags.contains(TransmitFlags::MORE_DATA) && next.number == piece.number + 1
    };
    for frame in left.chunk_by(goes_on) {
        let begins = frame.first().is_some_and(|(piece, _)| piece.is_first);
        let ends = frame.last().is_some_and(|(piece, _)| !piece.flags.contains(TransmitFlags::MORE_DATA));
        if begins && ends {
            whole.extend_from_slice(frame);
        } else {
            others.extend(frame.iter().map(|(_, id)| *id));
        }
    }
    (whole, others)
}

/// What became of a frame that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on the ring.
    Queued,
    /// There is no room for it now.
    Later,
    /// There is no memory for it, and nothing under way that would free some.
    NoMemory,
}

/// The transmit ring and its pages.
pub(super) struct Transmitter<'a, B> {
    ring: FrontRing<'a, NetifTxRequest, NetifTxResponse>,
    make: Maker<B>,
    /// The pages made so far; a request's id is its page's place here.
    slots: Vec<Slot<B>>,
    free: Vec<u16>,
    /// Extra information slots that the backend has not answered.
    extras: u32,
    refused: u64,
    /// Pieces put on the ring so far.
    pieces: u64,
}

impl<'a, B: Buffer> Transmitter<'a, B> {
    /// Sends over `ring` through pages that `make` makes.
    #[cfg(test)]
    pub(super) fn new(ring: FrontRing<'a, NetifTxRequest, NetifTxResponse>, make: Maker<B>) -> Self {
        Self::resend(ring, make, Kept::default(), |_| ())
    }

    /// Takes back the pages that the backend is done with.
    ///
    /// # Errors
    /// [`ProtocolError`] when it says what cannot be.
    pub(super) fn reap(&mut self) -> Result<(), ProtocolError> {
        while let Some(response) = self.ring.pop()? {
            if response.status == NETIF_RSP_NULL {
                self.extras = self.extras.checked_sub(1).ok_or(ProtocolError::Id(response.id))?;
                continue;
            }
            let slot = self.slots.get_mut(usize::from(response.id));
            slot.and_then(|slot| slot.under_way.take()).ok_or(ProtocolError::Id(response.id))?;
            self.free.push(response.id);
            self.refused += u64::from(response.status != NETIF_RSP_OKAY);
        }
        Ok(())
    }

    /// Puts a frame on the ring, for the backend to see after [`Self::publish`].
    pub(super) fn send(&mut self, frame: &Frame) -> Sent {
        let pieces = frame.bytes.len().div_ceil(PAGE_SIZE);
        let extra = frame.segment.map(|size| gso(size, frame.is_ipv6()));
        if (self.ring.free() as usize) < pieces + usize::from(extra.is_some()) {
            return Sent::Later;
        }
        while self.free.len() < pieces {
            if self.slots.len() >= self.ring.size() as usize {
                return Sent::Later;
            }
            let Some(page) = (self.make)() else {
                return if self.is_idle() { Sent::NoMemory } else { Sent::Later };
            };
            self.free.push(self.slots.len() as u16);
            self.slots.push(Slot { page, under_way: None });
        }
        let mut flags = match frame.checksum {
            Checksum::Unknown => TransmitFlags::empty(),
            Checksum::Verified => TransmitFlags::DATA_VALIDATED,
            Checksum::Blank => TransmitFlags::CSUM_BLANK | TransmitFlags::DATA_VALIDATED,
        };
        if extra.is_some() {
            flags |= TransmitFlags::EXTRA_INFO;
        }
        // The first request tells the whole frame's size, the others their own.
        let mut size = frame.bytes.len() as u16;
        let mut extra = extra;
        for (index, piece) in frame.bytes.chunks(PAGE_SIZE).enumerate() {
            let more = if index + 1 < pieces { TransmitFlags::MORE_DATA } else { TransmitFlags::empty() };
            if index > 0 {
                size = piece.len() as u16;
            }
            let piece_of =
                Piece { number: self.pieces, is_first: index == 0, flags: flags | more, size, extra: extra.take() };
            self.pieces += 1;
            self.fill(piece, piece_of);
            flags = TransmitFlags::empty();
        }
        Sent::Queued
    }

    /// One piece of a frame; a page and its slots are free.
    fn fill(&mut self, bytes: &[u8], piece: Piece) {
        let Some(id) = self.free.pop() else { return };
        let Some(slot) = self.slots.get_mut(usize::from(id)) else { return };
        bytes::write(slot.page.words(), 0, bytes);
        self.push(id, piece);
    }

    /// Puts a piece on the ring, which has room.
    fn push(&mut self, id: u16, piece: Piece) {
        let Some(slot) = self.slots.get_mut(usize::from(id)) else { return };
        slot.under_way = Some(piece);
        let (flags, size) = (piece.flags.bits(), piece.size);
        let _ = self.ring.push(&NetifTxRequest { gref: slot.page.reference(), offset: 0, flags, id, size });
        if let Some(info) = piece.extra {
            self.extras += u32::from(self.ring.push_as(&info).is_ok());
        }
    }

    /// Gives up the ring, and keeps the rest for another one ([`Self::resend`]).
    pub(super) fn take_back(self) -> Kept<B> {
        let Self { slots, free, refused, pieces, .. } = self;
        Kept { slots, free, refused, pieces }
    }

    /// Sends over an empty ring to another backend, first what the one before had not answered: frames of which it has
    /// answered a piece are left out, as it has sent them, or will not. `offer` lets the new backend use a page.
    pub(super) fn resend(
        ring: FrontRing<'a, NetifTxRequest, NetifTxResponse>,
        make: Maker<B>,
        kept: Kept<B>,
        offer: impl Fn(&B),
    ) -> Self {
        let Kept { mut slots, mut free, refused, pieces } = kept;
        slots.iter().for_each(|slot| offer(&slot.page));
        let taken = slots.iter_mut().zip(0..).filter_map(|(slot, id)| Some((slot.under_way.take()?, id)));
        let (again, answered) = whole_frames(taken.collect());
        free.extend(answered);
        let mut transmitter = Self { ring, make, slots, free, extras: 0, refused, pieces };
        again.into_iter().for_each(|(piece, id)| transmitter.push(id, piece));
        transmitter
    }

    /// Shows the backend what was sent; returns whether it wants an event.
    pub(super) fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Asks for an event on the next answer; returns whether some came meanwhile.
    ///
    /// # Errors
    /// [`ProtocolError`] when the backend says what cannot be.
    pub(super) fn final_check(&mut self) -> Result<bool, ProtocolError> {
        Ok(self.ring.final_check()?)
    }

    /// Whether the backend has answered everything.
    pub(super) const fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Pieces of frames that the backend said it did not send.
    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }
}

/// How a large packet is to be cut.
fn gso(size: u16, is_ipv6: bool) -> NetifExtraInfo {
    let kind = if is_ipv6 { XEN_NETIF_GSO_TYPE_TCPV6 } else { XEN_NETIF_GSO_TYPE_TCPV4 };
    let gso = NetifExtraGso { size, r#type: kind, pad: 0, features: 0 };
    let u = <[u8; 6]>::read_from_bytes(gso.as_bytes()).unwrap_or_default();
    NetifExtraInfo { r#type: XEN_NETIF_EXTRA_TYPE_GSO, flags: 0, u }
}
