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
use core::num::NonZeroU16;
use core::ops::Deref;

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::frontend::net::{Frame, Net, NetError};

/// What frames come from and go to. Clones are the same one.
pub trait Link: phy::Device + Clone {
    /// How it ends.
    type End;

    /// Waits until there may be something to do: a frame came, or there is room for one again.
    fn ready(&self) -> impl Future<Output = Result<(), Self::End>>;
}

/// Bytes of an Ethernet header.
const HEADER: usize = 14;

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
    type End = NetError;

    async fn ready(&self) -> Result<(), NetError> {
        if self.0.has_room() { self.0.readable().await } else { self.0.writable().await }
    }
}

/// A frame that came.
#[derive(Debug)]
pub struct Received(Frame);

/// Room for a frame.
#[derive(Debug)]
pub struct Room<'a> {
    net: &'a Net,
    segment: Option<NonZeroU16>,
}

impl phy::Device for NetLink {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, timestamp: Instant) -> Option<(Received, Room<'_>)> {
        let room = self.transmit(timestamp)?;
        // The stack leaves these sums to us; most frames come with word that theirs is right.
        let frame = core::iter::from_fn(|| room.net.try_receive()).find(Frame::is_sound)?;
        Some((Received(frame), room))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Room<'_>> {
        self.0.has_room().then_some(Room { net: &self.0, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.0.mtu() + HEADER;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        #[cfg(feature = "ip-segmentation")]
        if self.0.features().segmentation_ipv4 {
            capabilities.segmentation.tcpv4 = core::num::NonZeroUsize::new(usize::from(u16::MAX));
        }
        capabilities
    }
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0.bytes)
    }
}

impl phy::TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        let frame = Frame { segment: self.segment.map(NonZeroU16::get), ..Frame::blank(bytes) };
        // There is room; a device that closed meanwhile is noticed by who waits for frames.
        let _ = self.net.try_send(frame);
        result
    }

    #[cfg(feature = "ip-segmentation")]
    fn set_meta(&mut self, meta: phy::PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}
