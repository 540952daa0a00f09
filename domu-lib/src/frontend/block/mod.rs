//! The block frontend: reads, writes, flushes and discards as futures.
//!
//! One task owns the ring; others send it requests and wait. Data goes through pages that are granted once and used
//! again and again, so a backend that keeps grants mapped maps each of them once. In a domain that was restored the
//! task connects anew and asks again for all that had no answer, in the order in which it was asked for.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::frontend::block::{Block, BlockError, SECTOR};
//!
//! /// Copies a sector to the one behind it, for good.
//! async fn copy(disk: &Block, sector: u64) -> Result<(), BlockError> {
//!     let mut data = [0; SECTOR];
//!     disk.read(sector, &mut data).await?;
//!     disk.write(sector + 1, &data).await?;
//!     disk.flush().await
//! }
//! ```

mod order;
mod request;
mod requests;
mod server;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use oxen_abi::errno::Errno;
use oxen_ring::Overrun;

use super::{ConnectError, Device};
use crate::grant::{Access, Grant};
use crate::memory::{PAGE_SIZE, bytes};
use crate::store::Store;
use crate::sync::{Channel, Latch, Sender};
use crate::task;
use order::{Done, Order, Work};
pub use request::SECTOR;

/// Requests of one transfer that are on their way at a time.
const DEPTH: usize = 4;

/// What a backend said that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// An index of the ring.
    Index(Overrun),
    /// An answer to nothing that is under way.
    Id(u64),
}

impl core::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Index(overrun) => overrun.fmt(f),
            Self::Id(id) => write!(f, "an answer to request {id}, which is not under way"),
        }
    }
}

/// Why a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The backend answered with an error.
    Failed,
    /// The backend does not offer the operation.
    NotSupported,
    /// The range is not the device's, or not whole sectors.
    Range,
    /// The backend went away.
    Closed,
    /// The backend broke the protocol.
    Protocol(ProtocolError),
    /// No memory for the transfer.
    NoMemory,
}

impl core::fmt::Display for BlockError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Protocol(error) => return write!(f, "the backend broke the protocol: {error}"),
            Self::Failed => "input/output error",
            Self::NotSupported => "operation not supported",
            Self::Range => "range outside of the device, or not whole sectors",
            Self::Closed => "the backend is gone",
            Self::NoMemory => "no memory",
        })
    }
}

impl core::error::Error for BlockError {}

/// What the backend says of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Geometry {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of the device's own sectors.
    pub sector_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// [`Block::flush`] works.
    pub flush: bool,
    /// [`Block::discard`] works.
    pub discard: bool,
    /// Pages of data that a request carries.
    pub pages_per_request: usize,
}

impl From<ProtocolError> for BlockError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

/// What the ring's task and the disk's users have in common.
#[derive(Debug)]
struct Shared {
    /// Pages that no transfer uses.
    pool: RefCell<Vec<Grant>>,
    geometry: Cell<Geometry>,
    /// Why nothing is done any more.
    end: Latch<BlockError>,
}

/// A connected disk; it closes when dropped.
#[derive(Debug)]
pub struct Block {
    orders: Sender<Order>,
    shared: Rc<Shared>,
}

impl Block {
    /// Connects the disk with the virtual device number `id` (51712 is xvda).
    ///
    /// # Errors
    /// Where there is no such disk, or the way to its backend fails.
    pub async fn connect(store: &Store, id: &str) -> Result<Self, ConnectError> {
        let handle = id.parse::<u32>().map_err(|_| Errno::Inval)? as u16;
        let device = Device::open(store, "vbd", id).await?;
        let pool = RefCell::default();
        let shared = Rc::new(Shared { pool, geometry: Cell::new(Geometry::default()), end: Latch::new() });
        let (orders, receiver) = Channel::pair();
        let (ready, connected) = Channel::pair();
        task::spawn(server::operate(device, handle, shared.clone(), receiver, ready));
        connected.receive().await.unwrap_or(Err(ConnectError::Closed))?;
        Ok(Self { orders, shared })
    }

    /// What the backend says of the device; after a restore perhaps something else.
    pub fn geometry(&self) -> Geometry {
        self.shared.geometry.get()
    }

    /// Reads whole sectors from `sector` on.
    ///
    /// # Errors
    /// [`BlockError`].
    pub async fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), BlockError> {
        self.check(sector, buffer.len() as u64)?;
        let mut under_way: VecDeque<(Rc<Done>, &mut [u8])> = VecDeque::new();
        let mut at = sector;
        for chunk in buffer.chunks_mut(self.geometry().pages_per_request * PAGE_SIZE) {
            let pages = self.pages(chunk.len())?;
            let sectors = chunk.len() / SECTOR;
            let done = self.order(Work::Transfer { write: false, sector: at, sectors, pages });
            at += sectors as u64;
            under_way.push_back((done, chunk));
            if under_way.len() == DEPTH {
                self.collect_read(&mut under_way).await?;
            }
        }
        while !under_way.is_empty() {
            self.collect_read(&mut under_way).await?;
        }
        Ok(())
    }

    async fn collect_read(&self, under_way: &mut VecDeque<(Rc<Done>, &mut [u8])>) -> Result<(), BlockError> {
        let Some((done, chunk)) = under_way.pop_front() else { return Ok(()) };
        let answer = done.wait().await;
        let pages: Vec<Grant> = done.take_pages().collect();
        if answer.is_ok() {
            for (part, page) in chunk.chunks_mut(PAGE_SIZE).zip(&pages) {
                bytes::read(page.page().words64(), 0, part);
            }
        }
        self.shared.pool.borrow_mut().extend(pages);
        answer
    }

    /// Writes whole sectors from `sector` on. What is written is last when [`Block::flush`] says so.
    ///
    /// # Errors
    /// [`BlockError`].
    pub async fn write(&self, sector: u64, data: &[u8]) -> Result<(), BlockError> {
        self.check(sector, data.len() as u64)?;
        let mut under_way: VecDeque<Rc<Done>> = VecDeque::new();
        let mut at = sector;
        for chunk in data.chunks(self.geometry().pages_per_request * PAGE_SIZE) {
            let pages = self.pages(chunk.len())?;
            for (part, page) in chunk.chunks(PAGE_SIZE).zip(&pages) {
                bytes::write(page.page().words64(), 0, part);
            }
            let sectors = chunk.len() / SECTOR;
            under_way.push_back(self.order(Work::Transfer { write: true, sector: at, sectors, pages }));
            at += sectors as u64;
            if under_way.len() == DEPTH {
                self.collect_write(&mut under_way).await?;
            }
        }
        while !under_way.is_empty() {
            self.collect_write(&mut under_way).await?;
        }
        Ok(())
    }

    async fn collect_write(&self, under_way: &mut VecDeque<Rc<Done>>) -> Result<(), BlockError> {
        let Some(done) = under_way.pop_front() else { return Ok(()) };
        let answer = done.wait().await;
        self.shared.pool.borrow_mut().extend(done.take_pages());
        answer
    }

    /// Waits until everything written before is on the medium.
    ///
    /// # Errors
    /// [`BlockError`].
    pub async fn flush(&self) -> Result<(), BlockError> {
        if !self.geometry().flush {
            return Err(BlockError::NotSupported);
        }
        self.order(Work::Flush).wait().await
    }

    /// Tells the device that nobody needs these sectors any more.
    ///
    /// # Errors
    /// [`BlockError`].
    pub async fn discard(&self, sector: u64, sectors: u64) -> Result<(), BlockError> {
        if !self.geometry().discard {
            return Err(BlockError::NotSupported);
        }
        self.check(sector, sectors.saturating_mul(SECTOR as u64))?;
        self.order(Work::Discard { sector, sectors }).wait().await
    }

    fn check(&self, sector: u64, bytes: u64) -> Result<(), BlockError> {
        let end = sector.checked_add(bytes / SECTOR as u64).ok_or(BlockError::Range)?;
        let whole = bytes.is_multiple_of(SECTOR as u64);
        if whole && end <= self.geometry().sectors { Ok(()) } else { Err(BlockError::Range) }
    }

    fn order(&self, work: Work) -> Rc<Done> {
        let done = Rc::new(Done::default());
        if self.orders.try_send((work, done.clone())).is_err() {
            done.finish(Err(self.shared.end.get().unwrap_or(BlockError::Closed)));
        }
        done
    }

    /// Pages for `bytes`, used ones first; who puts them on the ring offers them to the backend.
    fn pages(&self, bytes: usize) -> Result<Vec<Grant>, BlockError> {
        let count = bytes.div_ceil(PAGE_SIZE);
        let mut pages = Vec::with_capacity(count);
        while pages.len() < count {
            let used = self.shared.pool.borrow_mut().pop();
            let page = match used {
                Some(page) => page,
                None => Grant::withheld(Access::ReadWrite).map_err(|_| BlockError::NoMemory)?,
            };
            pages.push(page);
        }
        Ok(pages)
    }
}
