//! Where a stack's frames come from and go to: the network frontend, or whatever else moves frames.
//!
//! ```no_run
//! use oxen_domu_lib::{frontend::net::Net, ip::{Stack, link::NetLink}, time};
//!
//! fn on(net: Net) -> Stack<NetLink> {
//!     let link = NetLink::new(net);
//!     Stack::new(link.clone(), link.mac(), time::now)
//! }
//! ```

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::ops::Deref;

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::frontend::net::{Frame, Net, NetError};

/// What frames come from and go to. Clones are the same one.
pub trait Link: Clone {
    /// A frame that came.
    type Frame: Deref<Target = [u8]>;
    /// How it ends.
    type End;

    /// Bytes of a frame behind its header, at most.
    fn mtu(&self) -> usize;

    /// Says what the link does for the stack: sums that it leaves out, packets that it cuts. By default nothing.
    fn offer(&self, _capabilities: &mut DeviceCapabilities) {}

    /// Whether a frame can be given. Without room none is taken either, for it may have to be answered.
    fn has_room(&self) -> bool {
        true
    }

    /// The next frame that came.
    fn take(&self) -> Option<Self::Frame>;

    /// Sends a frame, which is to be cut into segments of that size, if any.
    fn give(&self, bytes: Vec<u8>, segment: Option<NonZeroU16>);

    /// Waits until there may be something to do: a frame came, or there is room for one again.
    fn ready(&self) -> impl Future<Output = Result<(), Self::End>>;
}

/// Bytes of an Ethernet header.
const HEADER: usize = 14;

/// A link as the device that smoltcp polls.
#[derive(Clone, Debug)]
pub(super) struct Device<L>(pub(super) L);

/// A frame that came.
pub(super) struct Received<F>(F);

/// Room for a frame.
pub(super) struct Room<'a, L> {
    link: &'a L,
    segment: Option<NonZeroU16>,
}

impl<L: Link> phy::Device for Device<L> {
    type RxToken<'a>
        = Received<L::Frame>
    where
        L: 'a;
    type TxToken<'a>
        = Room<'a, L>
    where
        L: 'a;

    fn receive(&mut self, timestamp: Instant) -> Option<(Received<L::Frame>, Room<'_, L>)> {
        let room = self.transmit(timestamp)?;
        Some((Received(room.link.take()?), room))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Room<'_, L>> {
        self.0.has_room().then_some(Room { link: &self.0, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.0.mtu() + HEADER;
        self.0.offer(&mut capabilities);
        capabilities
    }
}

impl<B: Deref<Target = [u8]>> phy::RxToken for Received<B> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl<L: Link> phy::TxToken for Room<'_, L> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.link.give(bytes, self.segment);
        result
    }

    #[cfg(feature = "ip-segmentation")]
    fn set_meta(&mut self, meta: phy::PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}

/// The network frontend as a link.
#[derive(Clone, Debug)]
pub struct NetLink(Rc<Net>);

impl NetLink {
    /// A link on a device that is connected.
    #[must_use]
    pub fn new(net: Net) -> Self {
        Self(Rc::new(net))
    }
}

impl Deref for NetLink {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.0
    }
}

impl Link for NetLink {
    type Frame = Vec<u8>;
    type End = NetError;

    fn mtu(&self) -> usize {
        self.0.mtu()
    }

    fn offer(&self, capabilities: &mut DeviceCapabilities) {
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        #[cfg(feature = "ip-segmentation")]
        if self.0.features().segmentation_ipv4 {
            capabilities.segmentation.tcpv4 = core::num::NonZeroUsize::new(usize::from(u16::MAX));
        }
    }

    fn has_room(&self) -> bool {
        self.0.has_room()
    }

    fn take(&self) -> Option<Vec<u8>> {
        // The stack leaves these sums to us; most frames come with word that theirs is right.
        let frame = core::iter::from_fn(|| self.0.try_receive()).find(Frame::is_sound)?;
        Some(frame.bytes)
    }

    fn give(&self, bytes: Vec<u8>, segment: Option<NonZeroU16>) {
        let frame = Frame { segment: segment.map(NonZeroU16::get), ..Frame::blank(bytes) };
        // There is room; a device that closed meanwhile is noticed by who waits for frames.
        let _ = self.0.try_send(frame);
    }

    async fn ready(&self) -> Result<(), NetError> {
        if self.0.has_room() { self.0.readable().await } else { self.0.writable().await }
    }
}
