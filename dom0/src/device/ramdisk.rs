//! A disk in dom0's memory, filled from a file of the archive; what guests write lasts until power-off.

use alloc::vec::Vec;
use core::cell::RefCell;

use oxen_domu_lib::memory::bytes;

use super::{Failure, Piece};
use crate::backend::block::request::{Direction, SECTOR};

/// The disk's contents.
#[derive(Debug)]
pub struct RamDisk {
    bytes: RefCell<Vec<u8>>,
}

impl RamDisk {
    /// A disk with these contents; a last part of a sector is filled with zeros. `None` if memory is too little.
    pub fn new(contents: &[u8]) -> Option<Self> {
        let mut bytes: Vec<u8> = Vec::new();
        let length = contents.len().next_multiple_of(512);
        bytes.try_reserve_exact(length).ok()?;
        bytes.extend_from_slice(contents);
        bytes.resize(length, 0);
        Some(Self { bytes: RefCell::new(bytes) })
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

    /// Copies between the disk and the pieces.
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

    /// Fills sectors with zeros.
    pub fn discard(&self, sector: u64, count: u64) -> Result<(), Failure> {
        let place = |sector: u64| usize::try_from(sector * SECTOR).map_err(|_| Failure);
        let range = place(sector)?..place(sector + count)?;
        self.bytes.borrow_mut().get_mut(range).ok_or(Failure)?.fill(0);
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
        assert_eq!((disk.sectors(), disk.discard(1, 1)), (1, Err(Failure)));
        assert_eq!((disk.resize(u64::MAX), disk.resize(1 << 50), disk.sectors()), (None, None, 1));
    }

    #[test]
    fn discarded_sectors_are_zero_and_bounds_hold() {
        let disk = RamDisk::new(&[1; 1024]).unwrap();
        disk.discard(1, 1).unwrap();
        assert_eq!(disk.bytes.borrow()[511..513], [1, 0]);
        assert_eq!(disk.discard(1, 2), Err(Failure));
    }
}
