//! A port of the bridge as the protocol stack's link.

use alloc::{rc::Rc, vec::Vec};
use core::convert::Infallible;
use core::num::NonZeroU16;

use oxen_domu_lib::ip::Link;

use crate::bridge::{BridgePort, Buffer, Packet};

/// Bytes of a frame behind its header.
const MTU: usize = 1500;

/// What the stack's frames come from. The port takes only frames that are finished: all sums are in them.
#[derive(Clone)]
pub(super) struct Device(pub(super) Rc<BridgePort>);

impl Link for Device {
    type Frame = Buffer;
    /// The bridge is there for good.
    type End = Infallible;

    fn mtu(&self) -> usize {
        MTU
    }

    fn take(&self) -> Option<Buffer> {
        Some(self.0.try_receive()?.bytes)
    }

    fn give(&self, bytes: Vec<u8>, _segment: Option<NonZeroU16>) {
        // What the bridge refuses is counted there, and sent again where that matters.
        let _ = self.0.send(Packet::plain(bytes));
    }

    async fn ready(&self) -> Result<(), Infallible> {
        self.0.arrived().await;
        Ok(())
    }
}
