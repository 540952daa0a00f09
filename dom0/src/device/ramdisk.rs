//! A disk in dom0's memory, filled from a file of the archive; what guests write lasts until power-off.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::Ordering;

use super::{Failure, Piece};
use crate::backend::block::request::{Direction, SECTOR};

/// The disk's contents in words of 64 bits.
#[derive(Debug)]
pub struct RamDisk {
    words: RefCell<Vec<u64>>,
}

const WORDS_PER_SECTOR: u64 = SECTOR / 8;

impl RamDisk {
    /// A disk with these contents; a last part of a sector is filled with zeros. `None` if memory is too little.
    pub fn new(contents: &[u8]) -> Option<Self> {
        let mut words: Vec<u64> = Vec::new();
        let length = contents.len().next_multiple_of(512) / 8;
        words.try_reserve_exact(length).ok()?;
        words.extend(contents.chunks(8).map(|chunk| chunk.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b))));
        words.resize(length, 0);
        Some(Self { words: RefCell::new(words) })
    }

    /// Sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.words.borrow().len() as u64 / WORDS_PER_SECTOR
    }

    /// Copies between the disk and the pieces.
    pub fn transfer(&self, direction: Direction, sector: u64, pieces: &[Piece]) -> Result<(), Failure> {
        let mut words = self.words.borrow_mut();
        let mut at = usize::try_from(sector * WORDS_PER_SECTOR).map_err(|_| Failure)?;
        for piece in pieces {
            let memory = piece.words();
            let disk = words.get_mut(at..at + memory.len()).ok_or(Failure)?;
            for (word, cell) in disk.iter_mut().zip(memory) {
                match direction {
                    Direction::Read => cell.store(*word, Ordering::Relaxed),
                    Direction::Write => *word = cell.load(Ordering::Relaxed),
                }
            }
            at += memory.len();
        }
        Ok(())
    }

    /// Fills sectors with zeros.
    pub fn discard(&self, sector: u64, count: u64) -> Result<(), Failure> {
        let place = |sector: u64| usize::try_from(sector * WORDS_PER_SECTOR).map_err(|_| Failure);
        let range = place(sector)?..place(sector + count)?;
        self.words.borrow_mut().get_mut(range).ok_or(Failure)?.fill(0);
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
        assert_eq!(disk.words.borrow()[64], 0xab);
        assert_eq!(RamDisk::new(&[]).unwrap().sectors(), 0);
    }

    #[test]
    fn discarded_sectors_are_zero_and_bounds_hold() {
        let disk = RamDisk::new(&[1; 1024]).unwrap();
        disk.discard(1, 1).unwrap();
        assert_eq!((disk.words.borrow()[63], disk.words.borrow()[64]), (0x0101_0101_0101_0101, 0));
        assert_eq!(disk.discard(1, 2), Err(Failure));
    }
}
