//! The network frontend as the protocol stack's device.

use alloc::rc::Rc;
use alloc::vec;
use core::num::{NonZeroU16, NonZeroUsize};

use oxen_domu_lib::frontend::net::{Frame, Net};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

/// Bytes of an Ethernet header.
const HEADER: usize = 14;

/// The device that the stack polls.
#[derive(Debug)]
pub(crate) struct Device(pub(crate) Rc<Net>);

/// A frame that came.
pub(crate) struct Received(Frame);

/// Room for a frame.
pub(crate) struct Room<'a> {
    net: &'a Net,
    segment: Option<NonZeroU16>,
}

impl phy::Device for Device {
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
        if self.0.features().segmentation_ipv4 {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(usize::from(u16::MAX));
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

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}
