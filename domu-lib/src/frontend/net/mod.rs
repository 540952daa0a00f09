//! The network frontend: Ethernet frames sent and received as futures, or polled by a protocol stack.
//!
//! One task owns both rings; others put frames into a queue and take them out of another. Pages are granted once and
//! used again and again. In a domain that was restored the task connects anew and sends again what had no answer; what
//! stands in the queues stays there ([`Net::reconnected`] tells when, as others have to learn where this guest is now).
//! Nothing that the backend says is believed: what cannot be closes the device, and everybody who waits is told the
//! reason.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::frontend::net::{Net, NetError};
//!
//! /// Sends every frame back to where it came from.
//! async fn echo(net: &Net) -> Result<(), NetError> {
//!     loop {
//!         let mut frame = net.receive().await?;
//!         if let Some((to, rest)) = frame.bytes.split_at_mut_checked(6) {
//!             to.copy_from_slice(rest.get(..6).unwrap_or(&[0; 6]));
//!         }
//!         net.send(frame).await?;
//!     }
//! }
//! ```

pub mod checksum;
mod connect;
mod frame;
mod queue;
mod receive;
mod server;
#[cfg(test)]
mod tests;
mod transmit;

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::sync::atomic::AtomicU64;

use oxen_abi::io::netif::XEN_NETIF_MAX_TX_SIZE;
use oxen_ring::Overrun;

use super::{ConnectError, Device};
use crate::grant::Grant;
use crate::memory::PAGE_SIZE;
use crate::store::{Error, Store};
use crate::sync::Channel;
use crate::task;
pub use connect::Features;
pub use frame::{Checksum, Frame};
pub use queue::Counters;
use queue::Queues;

/// Bytes of an Ethernet header, without which there is no frame.
const SHORTEST: usize = 14;

/// A page that the backend may use.
trait Buffer {
    /// What the backend is told.
    fn reference(&self) -> u32;
    /// The page.
    fn words(&self) -> &[AtomicU64];
}

impl Buffer for Grant {
    fn reference(&self) -> u32 {
        Self::reference(self)
    }

    fn words(&self) -> &[AtomicU64] {
        self.page().words64()
    }
}

/// Makes pages, while there is memory.
type Maker<B> = Box<dyn FnMut() -> Option<B>>;

/// What a backend said that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// An index of a ring.
    Index(Overrun),
    /// An answer to nothing that is under way.
    Id(u16),
    /// Bytes beyond a page's end.
    Range {
        /// Where they start.
        offset: usize,
        /// How many they are.
        size: usize,
    },
    /// Extra information of a type, or with a content, that there is not.
    Extra(u8),
    /// A frame of so many bytes.
    Length(usize),
    /// A frame of more slots than any takes.
    Slots,
}

impl From<Overrun> for ProtocolError {
    fn from(overrun: Overrun) -> Self {
        Self::Index(overrun)
    }
}

impl core::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Index(overrun) => overrun.fmt(f),
            Self::Id(id) => write!(f, "an answer to request {id}, which is not under way"),
            Self::Range { offset, size } => write!(f, "{size} bytes at offset {offset} of a page"),
            Self::Extra(kind) => write!(f, "extra information of type {kind} that means nothing"),
            Self::Length(length) => write!(f, "a frame of {length} bytes"),
            Self::Slots => f.write_str("a frame of too many slots"),
        }
    }
}

/// Why frames cannot be sent or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetError {
    /// The backend closed the device, or went away.
    Closed,
    /// The backend broke the protocol.
    Protocol(ProtocolError),
    /// The store is gone, and with it the way to the backend.
    Store(Error),
    /// The frame is shorter than its header, or longer than the backend takes.
    Length(usize),
    /// There is no room for a frame now.
    Busy,
}

impl From<ProtocolError> for NetError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl From<Error> for NetError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl core::fmt::Display for NetError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Closed => f.write_str("the backend closed"),
            Self::Protocol(error) => write!(f, "the backend broke the protocol: {error}"),
            Self::Store(error) => error.fmt(f),
            Self::Length(length) => write!(f, "a frame of {length} bytes cannot be sent"),
            Self::Busy => f.write_str("no room for a frame now"),
        }
    }
}

impl core::error::Error for NetError {}

/// What the toolstack and the backend say of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Our hardware address.
    pub mac: [u8; 6],
    /// Bytes of the longest packet that the network carries, without the Ethernet header.
    pub mtu: usize,
    /// What the backend offers.
    pub features: Features,
}

impl Settings {
    /// Bytes of the longest frame that the backend takes.
    const fn longest(&self) -> usize {
        if self.features.scatter_gather { XEN_NETIF_MAX_TX_SIZE as usize } else { PAGE_SIZE }
    }
}

/// A connected network device; it closes when dropped.
#[derive(Debug)]
pub struct Net {
    queues: Rc<Queues>,
}

impl Net {
    /// Connects the device with the number `id` (0 is the first).
    ///
    /// # Errors
    /// Where there is no such device, or the way to its backend fails.
    pub async fn connect(store: &Store, id: &str) -> Result<Self, ConnectError> {
        let device = Device::open(store, "vif", id).await?;
        let queues = Rc::new(Queues::default());
        let (ready, connected) = Channel::pair();
        task::spawn(server::operate(device, queues.clone(), ready));
        connected.receive().await.unwrap_or(Err(ConnectError::Closed))?;
        Ok(Self { queues })
    }

    /// Our hardware address. A guest that is made from another one by `xl clone` has one of its own.
    pub fn mac(&self) -> [u8; 6] {
        self.queues.settings().mac
    }

    /// Bytes of the longest packet that the network carries, without the Ethernet header. Frames within the machine may
    /// be longer, where they say how they are to be cut.
    pub fn mtu(&self) -> usize {
        self.queues.settings().mtu
    }

    /// What the backend offers.
    pub fn features(&self) -> Features {
        self.queues.settings().features
    }

    /// Frames counted so far.
    pub fn counters(&self) -> Counters {
        self.queues.counters()
    }

    /// Sends a frame as soon as there is room for it.
    ///
    /// # Errors
    /// As for [`Net::try_send`], but never [`NetError::Busy`].
    pub async fn send(&self, frame: Frame) -> Result<(), NetError> {
        self.writable().await?;
        self.try_send(frame)
    }

    /// Sends a frame now. A blank checksum is left to the backend where it can fill it in.
    ///
    /// # Errors
    /// [`NetError::Busy`] when there is no room for it, [`NetError::Length`] for what is no frame or too long, else why
    /// the device closed.
    pub fn try_send(&self, mut frame: Frame) -> Result<(), NetError> {
        let length = frame.bytes.len();
        if length < SHORTEST || length > self.queues.settings().longest() || frame.segment == Some(0) {
            return Err(NetError::Length(length));
        }
        let features = self.features();
        let cuts = if frame.is_ipv6() { features.segmentation_ipv6 } else { features.segmentation_ipv4 };
        if frame.segment.is_some() && !cuts {
            return Err(NetError::Length(length));
        }
        if frame.checksum == Checksum::Blank && !checksum::leave_blank(&mut frame.bytes, features.checksum_ipv6) {
            frame.checksum = Checksum::Unknown;
        }
        self.queues.send(frame)
    }

    /// Waits for a frame.
    ///
    /// # Errors
    /// Why no more will come; what came before is received first.
    pub async fn receive(&self) -> Result<Frame, NetError> {
        loop {
            self.readable().await?;
            if let Some(frame) = self.try_receive() {
                return Ok(frame);
            }
        }
    }

    /// The oldest frame that came, if there is one.
    pub fn try_receive(&self) -> Option<Frame> {
        self.queues.receive()
    }

    /// Waits until there is a frame to receive.
    ///
    /// # Errors
    /// Why none will come.
    pub async fn readable(&self) -> Result<(), NetError> {
        self.queues.readable().await
    }

    /// Waits until there is room for a frame to send.
    ///
    /// # Errors
    /// Why none will go.
    pub async fn writable(&self) -> Result<(), NetError> {
        self.queues.writable().await
    }

    /// How often the device has connected.
    pub fn connections(&self) -> u64 {
        self.queues.connections()
    }

    /// Waits until the device has connected more often than `count` times.
    ///
    /// # Errors
    /// Why it will not.
    pub async fn reconnected(&self, count: u64) -> Result<(), NetError> {
        self.queues.reconnected(count).await
    }

    /// Whether there is room for a frame to send.
    pub fn has_room(&self) -> bool {
        self.queues.has_room()
    }

    /// Waits until the backend has taken every frame, closes the device, and waits until the backend has let go of it.
    pub async fn close(self) {
        let queues = self.queues.clone();
        drop(self);
        queues.released().await;
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.queues.abandon();
    }
}
