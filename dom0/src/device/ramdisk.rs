//! A disk in dom0's memory, filled from a file of the archive; what guests write lasts until power-off.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use oxen_domu_lib::memory::bytes;
use oxen_domu_lib::task;

use super::transfer::{Direction, SECTOR};
use super::{Failure, Gate, Piece, Room, room};
use crate::purse::Budget;

/// Pieces, a page each at most, that are copied in one step of dom0.
pub const MAX_PIECES: usize = 32;
/// Bytes that are zeroed in one.
const MAX_ZEROED: usize = 256 << 10;

/// The disk's contents.
#[derive(Debug)]
pub struct RamDisk {
    bytes: RefCell<Vec<u8>>,
    /// One step at a time, in the order of those who want one.
    steps: Budget,
}

impl RamDisk {
    /// A disk with these contents; a last part of a sector is filled with zeros. `None` if memory is too little.
    pub fn new(contents: &[u8]) -> Option<Self> {
        let mut bytes: Vec<u8> = Vec::new();
        let length = contents.len().next_multiple_of(512);
        bytes.try_reserve_exact(length).ok()?;
        bytes.extend_from_slice(contents);
        bytes.resize(length, 0);
        Some(Self { bytes: RefCell::new(bytes), steps: Budget::new(1) })
    }

    /// Sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.bytes.borrow().len() as u64 / SECTOR
    }

    /// Cuts the disk, or adds zeros to it; `None` if memory is too little.
    pub fn resize(&self, sectors: u64) -> Option<()> {
        let length = usize::try_from(sectors.checked_mul(SECTOR)?).ok()?;
        let mut bytes = self.bytes.borrow_mut();
        let more = length.saturating_sub(bytes.len());
        bytes.try_reserve_exact(more).ok()?;
        bytes.resize(length, 0);
        Some(())
    }

    /// Waits for this disk's next step.
    ///
    /// # Errors
    /// None; there is always a step to wait for.
    pub async fn room(&self, gate: &Rc<Gate>) -> Result<Room, Failure> {
        room(&self.steps, 1, gate).await
    }

    /// Copies between the disk and the pieces.
    ///
    /// # Errors
    /// Where the disk has no such sectors.
    pub fn transfer(&self, direction: Direction, sector: u64, pieces: &[Piece]) -> Result<(), Failure> {
        let mut disk = self.bytes.borrow_mut();
        let mut at = usize::try_from(sector * SECTOR).map_err(|_| Failure)?;
        for piece in pieces {
            let memory = piece.words();
            let part = disk.get_mut(at..at + size_of_val(memory)).ok_or(Failure)?;
            match direction {
                Direction::Read => bytes::write(memory, 0, part),
                Direction::Write => bytes::read(memory, 0, part),
            }
            at += part.len();
        }
        Ok(())
    }

    /// Fills sectors with zeros, step by step: others have their turn in between.
    ///
    /// # Errors
    /// Where the disk has no such sectors.
    pub async fn discard(&self, sector: u64, count: u64, gate: &Rc<Gate>) -> Result<(), Failure> {
        let place = |sector: u64| {
            let byte = sector.checked_mul(SECTOR).and_then(|byte| usize::try_from(byte).ok());
            byte.filter(|&byte| byte <= self.bytes.borrow().len()).ok_or(Failure)
        };
        let (start, end) = (place(sector)?, place(sector.checked_add(count).ok_or(Failure)?)?);
        for start in (start..end).step_by(MAX_ZEROED) {
            let _room = self.room(gate).await?;
            let step = start..end.min(start + MAX_ZEROED);
            // The disk may have been cut meanwhile.
            self.bytes.borrow_mut().get_mut(step).ok_or(Failure)?.fill(0);
            task::yield_now().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_padded_to_sectors() {
        let disk = RamDisk::new(&[0xab; 513]).unwrap();
        assert_eq!(disk.sectors(), 2);
        assert_eq!(disk.bytes.borrow()[512..514], [0xab, 0]);
        assert_eq!(RamDisk::new(&[]).unwrap().sectors(), 0);
    }

    #[test]
    fn a_disk_grows_by_zeros_and_is_cut() {
        let disk = RamDisk::new(&[1; 1024]).unwrap();
        disk.resize(4).unwrap();
        assert_eq!((disk.sectors(), disk.bytes.borrow()[1024]), (4, 0));
        disk.resize(1).unwrap();
        assert_eq!((disk.sectors(), task::run(disk.discard(1, 1, &Rc::default()))), (1, Err(Failure)));
        assert_eq!((disk.resize(u64::MAX), disk.resize(1 << 50), disk.sectors()), (None, None, 1));
    }

    #[test]
    fn discarded_sectors_are_zero_and_bounds_hold() {
        let disk = RamDisk::new(&[1; 1024]).unwrap();
        task::run(disk.discard(1, 1, &Rc::default())).unwrap();
        assert_eq!(disk.bytes.borrow()[511..513], [1, 0]);
        assert_eq!(task::run(disk.discard(1, 2, &Rc::default())), Err(Failure));
        assert_eq!(task::run(disk.discard(u64::MAX, 2, &Rc::default())), Err(Failure));
    }

    #[test]
    fn many_great_discards_are_many_small_steps_with_others_in_between() {
        let disk = Rc::new(RamDisk::new(&[1; 4 * MAX_ZEROED + 512]).unwrap());
        let sectors = disk.sectors();
        let zeroed = |disk: &RamDisk| disk.bytes.borrow().iter().filter(|&&byte| byte == 0).count();
        task::run(async {
            let all: Vec<_> = (0..3)
                .map(|_| {
                    let disk = disk.clone();
                    task::spawn(async move { disk.discard(0, sectors, &Rc::default()).await })
                })
                .collect();
            let (mut turns, mut before) = (0, 0);
            while !all.iter().all(task::JoinHandle::is_finished) {
                task::yield_now().await;
                turns += 1;
                let now = zeroed(&disk);
                assert!(now - before <= MAX_ZEROED, "{} bytes in one turn", now - before);
                before = now;
            }
            assert!(turns >= 3 * 5, "{turns} turns");
            assert_eq!(zeroed(&disk), 4 * MAX_ZEROED + 512);
        });
    }
}
