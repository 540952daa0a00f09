//! A port of the bridge as the protocol stack's device.

use alloc::{rc::Rc, vec};
use core::convert::Infallible;

use oxen_domu_lib::ip::Link;
use oxen_domu_lib::ip::smoltcp::phy::{self, DeviceCapabilities, Medium};
use oxen_domu_lib::ip::smoltcp::time::Instant;

use crate::bridge::{BridgePort, ETHERNET_HEADER, Packet};

/// Bytes of a frame behind its header.
const MTU: usize = 1500;

/// The device that the stack polls. The port takes only frames that are finished: all sums are in them.
#[derive(Clone)]
pub(super) struct Device(pub(super) Rc<BridgePort>);

impl Link for Device {
    /// The bridge is there for good.
    type End = Infallible;

    async fn ready(&self) -> Result<(), Infallible> {
        self.0.arrived().await;
        Ok(())
    }
}

/// A frame that came.
pub(super) struct Received(Packet);

/// Room for a frame.
pub(super) struct Room<'a>(&'a BridgePort);

impl phy::Device for Device {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Received, Room<'_>)> {
        Some((Received(self.0.try_receive()?), Room(&self.0)))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Room<'_>> {
        Some(Room(&self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = ETHERNET_HEADER + MTU;
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
        // What the bridge refuses is counted there, and sent again where that matters.
        let _ = self.0.send(Packet::plain(bytes));
        result
    }
}
