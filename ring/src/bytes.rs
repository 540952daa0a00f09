//! Byte streams: one end writes, the other reads, indices run freely modulo a power of two.

use crate::{Overrun, PAGE_WORDS, Page};
use core::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a word.
const WORD: usize = size_of::<u32>();

/// Both streams as one end of a page sees them.
pub struct Ends<'a> {
    /// What the other end wrote.
    pub reader: ByteReader<'a>,
    /// What the other end shall read.
    pub writer: ByteWriter<'a>,
}

/// One stream's shared words.
pub(crate) struct Stream<'a> {
    /// The bytes: a power of two of them.
    data: &'a [AtomicU32],
    /// Bytes read so far.
    cons: &'a AtomicU32,
    /// Bytes written so far.
    prod: &'a AtomicU32,
}

impl<'a> Stream<'a> {
    /// The stream with its data and indices at these byte offsets of a page.
    #[expect(clippy::indexing_slicing, reason = "the assertions hold when this is compiled")]
    pub(crate) fn new<const DATA: usize, const LEN: usize, const CONS: usize, const PROD: usize>(
        page: &'a Page,
    ) -> Self {
        const { assert!(LEN.is_power_of_two() && LEN >= WORD && DATA.is_multiple_of(WORD)) };
        const { assert!((DATA + LEN) / WORD <= PAGE_WORDS && CONS / WORD < PAGE_WORDS && PROD / WORD < PAGE_WORDS) };
        Self { data: &page[DATA / WORD..(DATA + LEN) / WORD], cons: &page[CONS / WORD], prod: &page[PROD / WORD] }
    }

    fn size(&self) -> usize {
        self.data.len() * WORD
    }

    /// How many bytes lie between both indices, unless that cannot be true.
    fn used(&self, prod: u32, cons: u32) -> Option<usize> {
        let used = prod.wrapping_sub(cons) as usize;
        (used <= self.size()).then_some(used)
    }

    /// The word that holds the byte of `index`, and the byte's place in it.
    #[expect(clippy::indexing_slicing, reason = "the index is reduced to the number of words")]
    fn place(&self, index: u32) -> (&AtomicU32, usize) {
        let byte = index as usize % self.size();
        (&self.data[byte / WORD], byte % WORD)
    }
}

/// The end that writes a stream.
pub struct ByteWriter<'a> {
    stream: Stream<'a>,
    prod: u32,
}

impl<'a> ByteWriter<'a> {
    /// Goes on where the shared page says the stream is.
    pub(crate) fn new(stream: Stream<'a>) -> Self {
        let prod = stream.prod.load(Ordering::Relaxed);
        Self { stream, prod }
    }

    /// Bytes there is room for.
    ///
    /// # Errors
    /// [`Overrun`]: the reader claims bytes nobody wrote.
    pub fn free(&self) -> Result<usize, Overrun> {
        // Acquire: the reader has taken the bytes before they are written over.
        let cons = self.stream.cons.load(Ordering::Acquire);
        let used = self.stream.used(self.prod, cons).ok_or(Overrun { index: cons, limit: self.prod })?;
        Ok(self.stream.size() - used)
    }

    /// Writes as many bytes as there is room for, and returns how many. The reader is to be sent an event after.
    ///
    /// # Errors
    /// [`Overrun`]: the reader claims bytes nobody wrote.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Overrun> {
        let count = bytes.len().min(self.free()?);
        for byte in bytes.iter().take(count) {
            let (word, place) = self.stream.place(self.prod);
            // Only this end writes the bytes, so reading the neighbours and writing them back loses nothing.
            let mut value = word.load(Ordering::Relaxed).to_ne_bytes();
            if let Some(slot) = value.get_mut(place) {
                *slot = *byte;
            }
            word.store(u32::from_ne_bytes(value), Ordering::Relaxed);
            self.prod = self.prod.wrapping_add(1);
        }
        // Release: the bytes are there before the index says so.
        self.stream.prod.store(self.prod, Ordering::Release);
        Ok(count)
    }
}

/// The end that reads a stream.
pub struct ByteReader<'a> {
    stream: Stream<'a>,
    cons: u32,
}

impl<'a> ByteReader<'a> {
    /// Goes on where the shared page says the stream is.
    pub(crate) fn new(stream: Stream<'a>) -> Self {
        let cons = stream.cons.load(Ordering::Relaxed);
        Self { stream, cons }
    }

    /// Bytes that wait to be read.
    ///
    /// # Errors
    /// [`Overrun`]: the writer claims more bytes than there is room for.
    pub fn available(&self) -> Result<usize, Overrun> {
        // Acquire: the bytes are read after the index.
        let prod = self.stream.prod.load(Ordering::Acquire);
        let limit = self.cons.wrapping_add(self.stream.size() as u32);
        self.stream.used(prod, self.cons).ok_or(Overrun { index: prod, limit })
    }

    /// Reads as many bytes as wait and fit, and returns how many. The writer is to be sent an event after.
    ///
    /// # Errors
    /// [`Overrun`]: the writer claims more bytes than there is room for.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Overrun> {
        let count = buffer.len().min(self.available()?);
        for slot in buffer.iter_mut().take(count) {
            let (word, place) = self.stream.place(self.cons);
            if let Some(byte) = word.load(Ordering::Relaxed).to_ne_bytes().get(place) {
                *slot = *byte;
            }
            self.cons = self.cons.wrapping_add(1);
        }
        // Release: the bytes are read before the writer may write over them.
        self.stream.cons.store(self.cons, Ordering::Release);
        Ok(count)
    }
}
