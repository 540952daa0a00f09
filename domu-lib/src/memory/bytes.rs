//! Bytes copied into and out of memory that is seen as atomic words.
//!
//! # Example
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//!
//! use oxen_domu_lib::memory::bytes;
//!
//! let shared = [const { AtomicU64::new(0) }; 2];
//! bytes::write(&shared, 6, b"abcd");
//! let mut copy = [0; 4];
//! bytes::read(&shared, 6, &mut copy);
//! assert_eq!(&copy, b"abcd");
//! ```

pub use crate::raw::memory::bytes::{read, write};

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;
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
