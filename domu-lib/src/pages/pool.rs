//! The pool of free pages: one bit a page, kept in pages of its own, so that it never needs the heap.

use core::sync::atomic::{AtomicU64, Ordering};

use super::Pfn;

/// A bitmap of free pages; bit *n* is set while page *n* is free.
#[derive(Debug)]
pub(crate) struct Pool<'a> {
    words: &'a [AtomicU64],
    /// Word where the search for a single page starts.
    hint: usize,
    free: usize,
}

impl<'a> Pool<'a> {
    /// A pool without a free page over `words`, which cover 64 pages each.
    pub(crate) fn new(words: &'a [AtomicU64]) -> Self {
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        Self { words, hint: 0, free: 0 }
    }

    /// How many pages are free.
    pub(crate) const fn free_pages(&self) -> usize {
        self.free
    }

    /// Whether `page` is free; pages beyond the bitmap never are.
    fn is_free(&self, page: usize) -> bool {
        self.words.get(page / 64).is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
    }

    fn mark(&mut self, page: usize, free: bool) {
        if let Some(word) = self.words.get(page / 64) {
            let (old, bit) = (word.load(Ordering::Relaxed), 1 << (page % 64));
            word.store(if free { old | bit } else { old & !bit }, Ordering::Relaxed);
        }
    }

    /// Takes `count` neighbouring pages; `None` if there is no such run.
    pub(crate) fn take(&mut self, count: usize) -> Option<Pfn> {
        let first = if count == 1 { self.find_one()? } else { self.find_run(count)? };
        for page in first..first + count {
            self.mark(page, false);
        }
        self.free -= count;
        Some(Pfn::new(first as u64))
    }

    fn find_one(&mut self) -> Option<usize> {
        let order = (self.hint..self.words.len()).chain(0..self.hint);
        for index in order {
            let word = self.words.get(index)?.load(Ordering::Relaxed);
            if word != 0 {
                self.hint = index;
                return Some(index * 64 + word.trailing_zeros() as usize);
            }
        }
        None
    }

    fn find_run(&self, count: usize) -> Option<usize> {
        if count == 0 || count > self.free {
            return None;
        }
        let (mut start, mut length) = (0, 0);
        for page in 0..self.words.len() * 64 {
            if !self.is_free(page) {
                length = 0;
                continue;
            }
            if length == 0 {
                start = page;
            }
            length += 1;
            if length == count {
                return Some(start);
            }
        }
        None
    }

    /// Gives back pages that are not free now; those beyond the bitmap are forgotten.
    pub(crate) fn give(&mut self, first: Pfn, count: usize) {
        for page in (first.raw() as usize..).take(count) {
            if page / 64 < self.words.len() && !self.is_free(page) {
                self.mark(page, true);
                self.free += 1;
            }
        }
    }
}

static POOL: spin::Mutex<Option<Pool<'static>>> = spin::Mutex::new(None);

/// Makes `pool` the one that the runtime allocates from.
pub(crate) fn install(pool: Pool<'static>) {
    *POOL.lock() = Some(pool);
}

/// Takes `count` neighbouring pages out of the pool; the caller gives them back.
pub(crate) fn take(count: usize) -> Option<Pfn> {
    POOL.lock().as_mut()?.take(count)
}

/// Gives pages back to the pool.
pub(crate) fn give(first: Pfn, count: usize) {
    if let Some(pool) = POOL.lock().as_mut() {
        pool.give(first, count);
    }
}

/// How many pages are free.
pub fn free_pages() -> usize {
    POOL.lock().as_ref().map_or(0, Pool::free_pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize) -> std::vec::Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_page_is_never_given_twice() {
        let words = words(3);
        let mut pool = Pool::new(&words);
        pool.give(Pfn::new(10), 150);
        let mut seen = std::collections::BTreeSet::new();
        while let Some(page) = pool.take(1).map(Pfn::raw) {
            assert!((10..160).contains(&page) && seen.insert(page));
        }
        assert_eq!((seen.len(), pool.free_pages()), (150, 0));
    }

    #[test]
    fn runs_are_contiguous_and_respect_holes() {
        let words = words(4);
        let mut pool = Pool::new(&words);
        pool.give(Pfn::new(0), 10);
        pool.give(Pfn::new(60), 20);
        assert_eq!(pool.take(11), Some(Pfn::new(60)));
        assert_eq!(pool.take(11), None);
        assert_eq!(pool.take(10), Some(Pfn::new(0)));
        pool.give(Pfn::new(0), 10);
        assert_eq!(pool.free_pages(), 19);
    }

    #[test]
    fn a_page_given_twice_counts_once() {
        let words = words(1);
        let mut pool = Pool::new(&words);
        pool.give(Pfn::new(5), 1);
        pool.give(Pfn::new(5), 1);
        pool.give(Pfn::new(64), 1);
        assert_eq!(pool.free_pages(), 1);
    }
}
