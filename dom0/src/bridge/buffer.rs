//! A frame's bytes, one behind the other however their sender cut them. Long frames begin with a page, so that the
//! hypervisor fills each of a receiver's pages with one copy.

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use oxen_domu_lib::memory::PAGE_SIZE;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// A page of ours.
#[repr(C, align(4096))]
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Aligned([u8; PAGE_SIZE]);

#[derive(Clone)]
enum Memory {
    /// Wherever the heap had room.
    Anywhere(Vec<u8>),
    /// From the first page's first byte on.
    Pages { pages: Vec<Aligned>, length: usize },
}

/// The bytes of a frame.
#[derive(Clone)]
pub struct Buffer(Memory);

impl Buffer {
    /// `length` bytes, all zero; none where there is no memory for them.
    pub fn zeroed(length: usize) -> Option<Self> {
        if length <= PAGE_SIZE {
            return u8::new_vec_zeroed(length).ok().map(Into::into);
        }
        let pages = Aligned::new_vec_zeroed(length.div_ceil(PAGE_SIZE)).ok()?;
        Some(Self(Memory::Pages { pages, length }))
    }

    /// Bytes of memory that it takes.
    pub const fn footprint(&self) -> usize {
        match &self.0 {
            Memory::Anywhere(bytes) => bytes.capacity(),
            Memory::Pages { pages, .. } => pages.len() * PAGE_SIZE,
        }
    }

    /// The bytes as a receiver gets them who has `headroom` bytes of the first page left free, less than a page: each
    /// page is full before the next begins, so that all headers are in the first and none is empty. Linux's backend
    /// hands frames on in the same form; its frontend relies on the first.
    pub fn pieces(&self, headroom: u16) -> impl ExactSizeIterator<Item = &[u8]> {
        let free = usize::from(headroom) % PAGE_SIZE;
        let count = if self.is_empty() { 0 } else { (free + self.len()).div_ceil(PAGE_SIZE) };
        (0..count).map(move |page| {
            let end = (PAGE_SIZE * (page + 1) - free).min(self.len());
            self.get((PAGE_SIZE * page).saturating_sub(free)..end).unwrap_or_default()
        })
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Memory::Anywhere(bytes))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Anywhere(bytes) => bytes,
            Memory::Pages { pages, length } => pages.as_bytes().get(..*length).unwrap_or_default(),
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Anywhere(bytes) => bytes,
            Memory::Pages { pages, length } => {
                pages.as_mut_slice().as_mut_bytes().get_mut(..*length).unwrap_or_default()
            }
        }
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Buffer {}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_but_the_last_is_a_page() {
        for (length, sizes) in [(60, &[60][..]), (4096, &[4096]), (4097, &[4096, 1]), (9000, &[4096, 4096, 808])] {
            let mut buffer = Buffer::zeroed(length).unwrap();
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.pieces(0).map(<[u8]>::len).collect::<Vec<_>>(), sizes);
            assert!(buffer.footprint() >= length);
            buffer.fill(7);
            let aligned = |piece: &[u8]| (piece.as_ptr() as usize).is_multiple_of(PAGE_SIZE);
            assert!(length <= PAGE_SIZE || buffer.pieces(0).all(aligned));
            assert_eq!(buffer, Buffer::from(vec![7; length]));
        }
        assert_eq!(Buffer::from(vec![0; 5000]).pieces(0).map(<[u8]>::len).collect::<Vec<_>>(), [4096, 904]);
        let bytes: Vec<u8> = (0..9000_u32).map(|at| (at / 7) as u8).collect();
        for (headroom, length, sizes) in [
            (256, 0, &[][..]),
            (256, 3840, &[3840]),
            (256, 3841, &[3840, 1]),
            (2048, 9000, &[2048, 4096, 2856]),
            (4095, 2, &[1, 1]),
        ] {
            let buffer = Buffer::from(bytes[..length].to_vec());
            assert_eq!(buffer.pieces(headroom).map(<[u8]>::len).collect::<Vec<_>>(), sizes);
            assert_eq!(buffer.pieces(headroom).collect::<Vec<_>>().concat(), bytes[..length]);
        }
    }
}
