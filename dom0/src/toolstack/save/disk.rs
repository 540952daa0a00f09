//! A whole disk as a stream of bytes, from its first sector on.

use alloc::{rc::Rc, vec::Vec};
use core::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, ensure};
use oxen_domu_lib::memory::{PAGE_SIZE, Pages, bytes};

use crate::device::transfer::{Direction, SECTOR};
use crate::device::{Failure, Gate, Memory, OpenDisk, Piece};
use crate::saved::stream::{Sink, Source};

/// Pages that are moved at a time, where the disk takes so many.
const PAGES: usize = 32;

/// A place on a disk, with the bytes around it in memory.
struct Place {
    disk: OpenDisk,
    gate: Rc<Gate>,
    pages: Rc<Pages>,
    /// Bytes that fit into the pages.
    room: usize,
    /// The sector of the first byte in memory.
    sector: u64,
    /// Where in memory the next byte is.
    at: usize,
}

impl Place {
    fn new(disk: OpenDisk) -> Result<Self> {
        let count = PAGES.min(disk.medium.max_pieces());
        let pages = Pages::zeroed(count).context("dom0 has too little memory for a disk's buffer")?;
        let (gate, pages) = (Rc::default(), Rc::new(pages));
        Ok(Self { disk, gate, pages, room: count * PAGE_SIZE, sector: 0, at: 0 })
    }

    /// Moves the first bytes of the memory, a multiple of a sector.
    async fn transfer(&self, direction: Direction, bytes: usize) -> Result<()> {
        let pieces: Vec<Piece> = (0..bytes.div_ceil(PAGE_SIZE))
            .map(|page| {
                let bytes = (bytes - page * PAGE_SIZE).min(PAGE_SIZE) as u16;
                Piece { memory: Memory::Own(self.pages.clone()), page, offset: 0, bytes }
            })
            .collect();
        let failed = |Failure| anyhow!("the disk has failed at sector {}", self.sector);
        let room = self.disk.medium.room(pieces.len(), &self.gate).await.map_err(failed)?;
        self.disk.medium.transfer(direction, self.sector, pieces, room).await.map_err(failed)
    }

    /// The bytes of the disk that are behind what is in memory.
    fn bytes_left(&self) -> u64 {
        self.disk.medium.sectors().saturating_sub(self.sector).saturating_mul(SECTOR)
    }
}

/// Writes a disk.
pub(in crate::toolstack) struct Writer(Place);

impl Writer {
    /// One at the disk's beginning.
    pub(in crate::toolstack) fn new(disk: OpenDisk) -> Result<Self> {
        Place::new(disk).map(Self)
    }

    async fn put(&mut self) -> Result<()> {
        let place = &mut self.0;
        let bytes = place.at.next_multiple_of(SECTOR as usize);
        ensure!(bytes as u64 <= place.bytes_left(), "the disk is full");
        let rest = place.pages.bytes().iter().take(bytes).skip(place.at);
        rest.for_each(|byte| byte.store(0, Ordering::Relaxed));
        place.transfer(Direction::Write, bytes).await?;
        place.sector += bytes as u64 / SECTOR;
        place.at = 0;
        Ok(())
    }

    /// Puts down what is left, and makes all of it durable. Returns how many bytes the disk holds now.
    pub(in crate::toolstack) async fn finish(mut self) -> Result<u64> {
        self.put().await?;
        let place = self.0;
        place.disk.medium.flush(&place.gate).await.map_err(|Failure| anyhow!("the disk cannot be flushed"))?;
        Ok(place.sector * SECTOR)
    }
}

impl Sink for Writer {
    async fn write(&mut self, mut rest: &[u8]) -> Result<()> {
        while !rest.is_empty() {
            let now = rest.len().min(self.0.room - self.0.at);
            let (part, later) = rest.split_at(now);
            bytes::write(self.0.pages.words64(), self.0.at, part);
            self.0.at += now;
            rest = later;
            if self.0.at == self.0.room {
                self.put().await?;
            }
        }
        Ok(())
    }
}

/// Reads a disk.
pub(super) struct Reader {
    place: Place,
    /// Bytes in memory.
    filled: usize,
}

impl Reader {
    /// One at the disk's beginning.
    pub(super) fn new(disk: OpenDisk) -> Result<Self> {
        Ok(Self { place: Place::new(disk)?, filled: 0 })
    }

    async fn fill(&mut self) -> Result<()> {
        let place = &mut self.place;
        place.sector += self.filled as u64 / SECTOR;
        let bytes = usize::try_from(place.bytes_left()).unwrap_or(usize::MAX).min(place.room);
        ensure!(bytes != 0, "it ends too early");
        place.transfer(Direction::Read, bytes).await?;
        (self.filled, place.at) = (bytes, 0);
        Ok(())
    }
}

impl Source for Reader {
    async fn read(&mut self, mut rest: &mut [u8]) -> Result<()> {
        while !rest.is_empty() {
            if self.place.at == self.filled {
                self.fill().await?;
            }
            let now = rest.len().min(self.filled - self.place.at);
            let (part, later) = rest.split_at_mut(now);
            bytes::read(self.place.pages.words64(), self.place.at, part);
            self.place.at += now;
            rest = later;
        }
        Ok(())
    }
}
