//! A busy machine, on which a guest's vcpus are taken away at any moment: what depends on timing shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Threads that do nothing but take time, until this is dropped.
#[derive(Debug)]
pub struct Burning {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burning {
    /// Starts so many threads.
    #[must_use]
    pub fn start(count: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let burn = |over: Arc<AtomicBool>| move || while !over.load(Ordering::Relaxed) {};
        let threads = (0..count).map(|_| thread::spawn(burn(over.clone()))).collect();
        Self { over, threads }
    }
}

impl Drop for Burning {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_end_with_it() {
        let burning = Burning::start(2);
        let over = burning.over.clone();
        assert!(Arc::strong_count(&over) > 1);
        drop(burning);
        assert_eq!(Arc::strong_count(&over), 1);
    }
}
