//! What the ring's task does for others: orders, each of which becomes a request, or several where it is too large for
//! one, and the place where the answers meet.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::BlockError;
use super::request::SECTORS_PER_PAGE;
use crate::grant::Grant;
use crate::sync::Latch;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Work<P = Grant> {
    /// Read or write through these pages.
    Transfer { write: bool, sector: u64, sectors: usize, pages: Vec<P> },
    /// Make what was written last.
    Flush,
    /// Forget sectors.
    Discard { sector: u64, sectors: u64 },
}

impl<P> Work<P> {
    /// Cuts off what goes beyond `limit` pages.
    pub(super) fn cut(&mut self, limit: usize) -> Option<Self> {
        let Self::Transfer { write, sector, sectors, pages } = self else { return None };
        if pages.len() <= limit {
            return None;
        }
        let now = limit * SECTORS_PER_PAGE;
        let (at, later) = (*sector + now as u64, sectors.saturating_sub(now));
        *sectors = now;
        Some(Self::Transfer { write: *write, sector: at, sectors: later, pages: pages.split_off(limit) })
    }
}

/// A place for the answer to one order.
#[derive(Debug)]
pub(super) struct Done<P = Grant> {
    answer: Latch<Result<(), BlockError>>,
    /// Answers that are missing.
    left: Cell<usize>,
    failed: Cell<Option<BlockError>>,
    /// Pages on their way back to the pool, by the sectors that they hold.
    pages: RefCell<Vec<(u64, Vec<P>)>>,
}

impl<P> Default for Done<P> {
    fn default() -> Self {
        Self { answer: Latch::new(), left: Cell::new(1), failed: Cell::new(None), pages: RefCell::default() }
    }
}

impl<P> Done<P> {
    /// One more answer belongs to it.
    pub(super) fn expect_another(&self) {
        self.left.set(self.left.get() + 1);
    }

    /// Takes one of the answers.
    pub(super) fn finish(&self, answer: Result<(), BlockError>) {
        if let (Err(error), None) = (answer, self.failed.get()) {
            self.failed.set(Some(error));
        }
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            self.answer.set(self.failed.get().map_or(Ok(()), Err));
        }
    }

    /// Takes back what was used.
    pub(super) fn give_back(&self, work: Work<P>) {
        if let Work::Transfer { sector, pages, .. } = work {
            self.pages.borrow_mut().push((sector, pages));
        }
    }

    /// Waits for the last answer.
    pub(super) async fn wait(&self) -> Result<(), BlockError> {
        self.answer.wait().await
    }

    /// The pages, in the order of their sectors.
    pub(super) fn take_pages(&self) -> impl Iterator<Item = P> + use<P> {
        let mut pages = self.pages.take();
        pages.sort_unstable_by_key(|(sector, _)| *sector);
        pages.into_iter().flat_map(|(_, pages)| pages)
    }
}

/// What is to be done, and where its answer goes.
pub(super) type Order = (Work, Rc<Done>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task;

    fn transfer(sector: u64, sectors: usize, pages: &[u32]) -> Work<u32> {
        Work::Transfer { write: true, sector, sectors, pages: pages.into() }
    }

    #[test]
    fn what_is_too_large_for_a_request_becomes_several_with_one_answer() {
        let done = Done::default();
        let mut work = transfer(100, 37, &[1, 2, 3, 4, 5]);
        let mut parts = Vec::new();
        while let Some(rest) = work.cut(2) {
            done.expect_another();
            parts.push(core::mem::replace(&mut work, rest));
        }
        parts.push(work);
        let shape: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Work::Transfer { sector, sectors, pages, .. } => (*sector, *sectors, pages.len()),
                _ => (0, 0, 0),
            })
            .collect();
        assert_eq!(shape, [(100, 16, 2), (116, 16, 2), (132, 5, 1)]);
        // The answers come in any order, and one of them is bad.
        for (part, answer) in parts.into_iter().rev().zip([Ok(()), Err(BlockError::Failed), Ok(())]) {
            assert!(!done.answer.is_set());
            done.give_back(part);
            done.finish(answer);
        }
        assert_eq!(task::run(done.wait()), Err(BlockError::Failed));
        assert_eq!(done.take_pages().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_fits_stays_whole() {
        assert!(transfer(0, 16, &[1, 2]).cut(2).is_none());
        assert!(Work::<u32>::Flush.cut(0).is_none());
    }
}
