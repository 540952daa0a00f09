//! Bytes copied into and out of memory that is seen as atomic words, eight at a time.

use core::sync::atomic::{AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();

/// Copies what stands `offset` bytes behind the first word; where the words end, the rest of `to` stays as it is.
pub fn read(words: &[AtomicU64], offset: usize, to: &mut [u8]) {
    let mut words = words.get(offset / WORD..).unwrap_or_default().iter();
    let skip = offset % WORD;
    let (head, body) = to.split_at_mut(if skip == 0 { 0 } else { to.len().min(WORD - skip) });
    if !head.is_empty()
        && let Some(word) = words.next()
    {
        take(word, skip, head);
    }
    let mut chunks = body.chunks_exact_mut(WORD);
    for (chunk, word) in chunks.by_ref().zip(words.by_ref()) {
        chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    if let Some(word) = words.next() {
        take(word, 0, chunks.into_remainder());
    }
}

/// Copies to where `offset` bytes behind the first word begin; what does not fit is left out. Of a word that is written
/// in part the other bytes are read and written back, so nobody else may change them meanwhile.
pub fn write(words: &[AtomicU64], offset: usize, from: &[u8]) {
    let mut words = words.get(offset / WORD..).unwrap_or_default().iter();
    let skip = offset % WORD;
    let (head, body) = from.split_at(if skip == 0 { 0 } else { from.len().min(WORD - skip) });
    if !head.is_empty()
        && let Some(word) = words.next()
    {
        put(word, skip, head);
    }
    let (chunks, tail) = body.as_chunks::<WORD>();
    for (chunk, word) in chunks.iter().zip(words.by_ref()) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if !tail.is_empty()
        && let Some(word) = words.next()
    {
        put(word, 0, tail);
    }
}

fn take(word: &AtomicU64, skip: usize, to: &mut [u8]) {
    let value = word.load(Ordering::Relaxed).to_le_bytes();
    for (byte, value) in to.iter_mut().zip(value.iter().skip(skip)) {
        *byte = *value;
    }
}

fn put(word: &AtomicU64, skip: usize, from: &[u8]) {
    let mut value = word.load(Ordering::Relaxed).to_le_bytes();
    for (value, byte) in value.iter_mut().skip(skip).zip(from) {
        *value = *byte;
    }
    word.store(u64::from_le_bytes(value), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn bytes_come_back_from_where_they_were_put_and_touch_nothing_else() {
        for offset in 0..40 {
            for length in 0..40 {
                let words: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(u64::MAX)).collect();
                let data: Vec<u8> = (1..=length as u8).collect();
                write(&words, offset, &data);
                let mut expected = std::vec![0xff; 40.max(offset + length)];
                expected[offset..offset + length].copy_from_slice(&data);
                let mut all = [0; 40];
                read(&words, 0, &mut all);
                assert_eq!(all, expected[..40], "{length} bytes at {offset}");
                let mut back = std::vec![0; length];
                read(&words, offset, &mut back);
                let there = length.min(40 - offset);
                assert_eq!(back[..there], data[..there]);
                assert!(back[there..].iter().all(|&byte| byte == 0));
            }
        }
    }
}
