//! A stream from one task to another.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};

use anyhow::{Result, bail};
use oxen_domu_lib::sync::Waiters;

use crate::saved::stream::{Sink, Source};

/// Bytes that wait between the two, about.
const ROOM: usize = 256 << 10;

/// Bytes that one task has put down and another has not read.
#[derive(Default)]
pub(super) struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
    is_closed: Cell<bool>,
    changed: Waiters,
}

impl Pipe {
    /// Nothing more is written, or read.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        self.changed.wake();
    }
}

impl Sink for &Pipe {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let has_room = || (self.is_closed.get() || self.bytes.borrow().len() < ROOM).then_some(());
        self.changed.until(has_room).await;
        if self.is_closed.get() {
            bail!("nobody takes it any more");
        }
        self.bytes.borrow_mut().extend(bytes);
        self.changed.wake();
        Ok(())
    }
}

impl Source for &Pipe {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let is_ready = || (self.is_closed.get() || !self.bytes.borrow().is_empty()).then_some(());
            self.changed.until(is_ready).await;
            let mut waiting = self.bytes.borrow_mut();
            let (first, _) = waiting.as_slices();
            let now = first.len().min(rest.len());
            if now == 0 {
                bail!("it ends too early");
            }
            let (part, later) = rest.split_at_mut(now);
            part.iter_mut().zip(first).for_each(|(to, from)| *to = *from);
            waiting.drain(..now);
            drop(waiting);
            self.changed.wake();
            rest = later;
        }
        Ok(())
    }
}
