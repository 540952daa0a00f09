//! A frame's bytes. Long frames lie in pages as their sender's pieces lay in its pages, so that the hypervisor copies them
//! page by page on both sides, with one operation each.

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
    /// From the byte `start` of the first page on.
    Pages { pages: Vec<Aligned>, start: usize, length: usize },
}

/// The bytes of a frame.
#[derive(Clone)]
pub struct Buffer(Memory);

impl Buffer {
    /// `length` bytes, all zero, the first of them at the byte `start` of a page where they take more than one page; none
    /// where there is no memory for them.
    pub fn zeroed(length: usize, start: usize) -> Option<Self> {
        if length <= PAGE_SIZE {
            return u8::new_vec_zeroed(length).ok().map(Into::into);
        }
        let start = start % PAGE_SIZE;
        let pages = Aligned::new_vec_zeroed((start + length).div_ceil(PAGE_SIZE)).ok()?;
        Some(Self(Memory::Pages { pages, start, length }))
    }

    /// Bytes of memory that it takes.
    pub const fn footprint(&self) -> usize {
        match &self.0 {
            Memory::Anywhere(bytes) => bytes.capacity(),
            Memory::Pages { pages, .. } => pages.len() * PAGE_SIZE,
        }
    }

    /// Bytes that come before the first end of a page.
    const fn first_piece(&self) -> usize {
        match &self.0 {
            Memory::Anywhere(_) => PAGE_SIZE,
            Memory::Pages { start, .. } => PAGE_SIZE - *start,
        }
    }

    /// The bytes, cut so that no piece is longer than a page or, where the buffer is made of pages, goes beyond one.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (first, rest) = self.split_at(self.first_piece().min(self.len()));
        core::iter::once(first).chain(rest.chunks(PAGE_SIZE))
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> usize {
        1 + self.len().saturating_sub(self.first_piece()).div_ceil(PAGE_SIZE)
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
            Memory::Pages { pages, start, length } => {
                pages.as_bytes().get(*start..*start + *length).unwrap_or_default()
            }
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Anywhere(bytes) => bytes,
            Memory::Pages { pages, start, length } => {
                pages.as_mut_slice().as_mut_bytes().get_mut(*start..*start + *length).unwrap_or_default()
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
    fn pieces_end_where_pages_end() {
        for (length, start, sizes) in [
            (60, 4090, &[60][..]),
            (4096, 1, &[4096]),
            (4097, 0, &[4096, 1]),
            (9000, 4030, &[66, 4096, 4096, 742]),
            (8192, 4096, &[4096, 4096]),
        ] {
            let mut buffer = Buffer::zeroed(length, start).unwrap();
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.pieces().map(<[u8]>::len).collect::<Vec<_>>(), sizes);
            assert_eq!(buffer.piece_count(), sizes.len());
            assert!(buffer.footprint() >= length);
            buffer.fill(7);
            let aligned = |piece: &[u8]| (piece.as_ptr() as usize).is_multiple_of(PAGE_SIZE);
            assert!(length <= PAGE_SIZE || buffer.pieces().skip(1).all(aligned));
            assert_eq!(buffer, Buffer::from(vec![7; length]));
        }
        assert_eq!(Buffer::from(vec![0; 5000]).pieces().map(<[u8]>::len).collect::<Vec<_>>(), [4096, 904]);
        assert_eq!(Buffer::from(Vec::new()).piece_count(), 1);
    }
}
