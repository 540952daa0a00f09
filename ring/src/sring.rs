//! The shared part of a request/response ring: header words, and messages copied word by word.

use crate::{Overrun, PAGE_WORDS, Page, TooSmall};
use core::marker::PhantomData;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU32, Ordering, fence};
use oxen_abi::io::ring::{SringHeader, ring_size};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of a word.
const WORD: usize = size_of::<u32>();

/// A word of the header.
#[derive(Clone, Copy)]
pub(crate) enum Index {
    /// Requests published.
    ReqProd = offset_of!(SringHeader, req_prod) as isize,
    /// When the backend wants an event.
    ReqEvent = offset_of!(SringHeader, req_event) as isize,
    /// Responses published.
    RspProd = offset_of!(SringHeader, rsp_prod) as isize,
    /// When the frontend wants an event.
    RspEvent = offset_of!(SringHeader, rsp_event) as isize,
}

/// The shared pages of a ring whose slots hold a `Q` or a `P`.
pub(crate) struct Sring<'a, Q, P> {
    pages: &'a [Page],
    size: u32,
    messages: PhantomData<(Q, P)>,
}

impl<'a, Q, P> Sring<'a, Q, P> {
    /// Bytes of a slot: the larger of both messages.
    pub(crate) const SLOT: usize = if size_of::<Q>() > size_of::<P>() { size_of::<Q>() } else { size_of::<P>() };

    /// The ring on these pages, as large as they allow.
    pub(crate) fn new(pages: &'a [Page]) -> Result<Self, TooSmall> {
        const { assert!(Self::SLOT != 0 && Self::SLOT.is_multiple_of(WORD)) };
        let size = ring_size(pages.len() * PAGE_WORDS * WORD, Self::SLOT);
        if size == 0 { Err(TooSmall) } else { Ok(Self { pages, size, messages: PhantomData }) }
    }

    /// Slots.
    pub(crate) const fn size(&self) -> u32 {
        self.size
    }

    /// Empties the ring. Only the frontend does, before the backend knows of the pages.
    pub(crate) fn reset(&self) {
        for word in 0..size_of::<SringHeader>() / WORD {
            self.word(word).store(0, Ordering::Relaxed);
        }
        self.header(Index::ReqEvent).store(1, Ordering::Relaxed);
        self.header(Index::RspEvent).store(1, Ordering::Release);
    }

    /// A word of the header.
    pub(crate) fn header(&self, index: Index) -> &AtomicU32 {
        self.word(index as usize / WORD)
    }

    /// Publishes messages up to `new`, and tells whether the other end wants an event for them. `old` is what was
    /// published before.
    pub(crate) fn publish(&self, producer: Index, event: Index, old: u32, new: u32) -> bool {
        if old == new {
            return false;
        }
        // Release: the messages are there before the index says so.
        self.header(producer).store(new, Ordering::Release);
        // The index is there before the wish is read. The other end writes its wish before it looks at the index a last
        // time, so either we see the wish or it sees the messages.
        fence(Ordering::SeqCst);
        let wish = self.header(event).load(Ordering::Relaxed);
        new.wrapping_sub(wish) < new.wrapping_sub(old)
    }

    /// How many messages beyond `consumed` the other end has published; at most `most` can be true.
    pub(crate) fn published(&self, producer: Index, consumed: u32, most: u32) -> Result<u32, Overrun> {
        // Acquire: the messages are read after the index.
        let index = self.header(producer).load(Ordering::Acquire);
        let count = index.wrapping_sub(consumed);
        if count <= most { Ok(count) } else { Err(Overrun { index, limit: consumed.wrapping_add(most) }) }
    }

    /// Wishes an event once the message after `consumed` is published.
    pub(crate) fn wish(&self, event: Index, consumed: u32) {
        self.header(event).store(consumed.wrapping_add(1), Ordering::Relaxed);
        // See `publish`.
        fence(Ordering::SeqCst);
    }

    /// Copies a message out of the slot of `index`.
    pub(crate) fn read<T: FromBytes + IntoBytes>(&self, index: u32) -> T {
        const { assert!(size_of::<T>() <= Self::SLOT && size_of::<T>().is_multiple_of(WORD)) };
        let mut message = T::new_zeroed();
        for (n, bytes) in message.as_mut_bytes().chunks_exact_mut(WORD).enumerate() {
            let value = self.word(self.slot(index) + n).load(Ordering::Relaxed);
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
        message
    }

    /// Copies a message into the slot of `index`.
    pub(crate) fn write<T: IntoBytes + Immutable>(&self, index: u32, message: &T) {
        const { assert!(size_of::<T>() <= Self::SLOT && size_of::<T>().is_multiple_of(WORD)) };
        let words = message.as_bytes().as_chunks::<WORD>().0;
        for (n, bytes) in words.iter().enumerate() {
            self.word(self.slot(index) + n).store(u32::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }

    /// First word of the slot of `index`.
    const fn slot(&self, index: u32) -> usize {
        let slot = index & (self.size - 1);
        (size_of::<SringHeader>() + slot as usize * Self::SLOT) / WORD
    }

    #[expect(clippy::indexing_slicing, reason = "`new` made the size from the pages' length: no slot ends beyond them")]
    fn word(&self, word: usize) -> &AtomicU32 {
        &self.pages[word / PAGE_WORDS][word % PAGE_WORDS]
    }
}
