//! Both halves against each other, against a model, under threads, and against hostile ends.

mod messages;
mod streams;

use crate::{PAGE_WORDS, Page};
use core::sync::atomic::AtomicU32;
use std::vec::Vec;

/// Zeroed shared pages.
fn pages(count: usize) -> Vec<Page> {
    (0..count).map(|_| [const { AtomicU32::new(0) }; PAGE_WORDS]).collect()
}
