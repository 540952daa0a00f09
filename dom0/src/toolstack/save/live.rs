//! A guest's memory read while it runs: all of it once, then in rounds what it has written to meanwhile, until little
//! is left or no more is gained. What is left goes when it has suspended itself.

use alloc::{vec, vec::Vec};

use anyhow::{Result, ensure};
use oxen_abi::domid::DomId;
use oxen_domu_lib::memory::Pfn;
use oxen_domu_lib::{control, println, time};

use super::sender::{Moment, Run, Sender};
use super::{Progress, seconds};
use crate::saved::rounds::Rounds;
use crate::saved::stream::Sink;
use crate::toolstack::build::shell::asked;

/// Pages whose kinds are asked for at once.
const ASKED: usize = 1024;

/// A guest whose writes are logged.
pub(super) struct Live {
    domain: DomId,
    sender: Sender,
    run: Run,
    rounds: Rounds,
    /// Pages that were sent.
    sent: usize,
    /// What the guest has written to, a bit for each page.
    log: Vec<u64>,
}

impl Drop for Live {
    fn drop(&mut self) {
        // A domain that is gone has no log.
        let _ = control::log_dirty(self.domain, false);
    }
}

impl Live {
    /// Begins to log what the guest writes to.
    pub(super) fn begin(domain: DomId) -> Result<Self> {
        let sender = Sender::new(domain)?;
        asked("log what it writes to", control::log_dirty(domain, true))?;
        let pages = sender.pages();
        let (run, log) = (Run::new(pages), vec![0; pages.div_ceil(64)]);
        Ok(Self { domain, sender, run, rounds: Rounds::default(), sent: 0, log })
    }

    /// Rounds and pages so far.
    pub(super) const fn sent(&self) -> (u32, usize) {
        (self.rounds.count(), self.sent)
    }

    /// Sends rounds until the guest is to be stopped.
    pub(super) async fn send_rounds(&mut self, sink: &mut impl Sink) -> Result<()> {
        self.sender.send_heads(sink).await?;
        let mut pages: Vec<Pfn> = (0..self.sender.pages() as u64).map(Pfn::new).collect();
        loop {
            let begun = time::now();
            let moment = &mut Moment::Running(&mut self.run);
            self.sender.send_pages(sink, pages.iter().copied(), moment, &mut Progress::quiet()).await?;
            let took = time::now().saturating_sub(begun);
            self.sent += pages.len();
            let sent = pages.len();
            self.read_log()?;
            pages = self.logged();
            let stop = self.rounds.judge(sent, took, pages.len());
            let (round, left) = (self.rounds.count(), pages.len());
            println!("round {round}: {sent} pages in {}, {left} written to meanwhile", seconds(took));
            if let Some(stop) = stop {
                println!("it is stopped now: {stop}");
                return Ok(());
            }
            self.log.fill(0);
        }
    }

    /// Sends what is left of a guest that has suspended itself.
    pub(super) async fn send_rest(&mut self, sink: &mut impl Sink) -> Result<()> {
        let now = Sender::new(self.domain)?;
        ensure!(now.has_p2m_of(&self.sender), "its p2m was moved while it was read; another try may do");
        self.read_log()?;
        let all: Vec<Pfn> = (0..now.pages() as u64).map(Pfn::new).collect();
        for pages in all.chunks(ASKED) {
            for (page, kind) in pages.iter().zip(now.kinds(pages)?) {
                if now.has_moved(&self.sender, *page) || !self.run.was_sent_as(*page, kind) {
                    self.mark(*page);
                }
            }
        }
        for page in core::mem::take(&mut self.run.later) {
            self.mark(page);
        }
        let left = self.logged();
        self.sent += left.len();
        now.send_pages(sink, left.into_iter(), &mut Moment::Stopped, &mut Progress::quiet()).await?;
        now.send_rest(sink).await
    }

    fn mark(&mut self, page: Pfn) {
        let word = usize::try_from(page.raw() / 64).ok().and_then(|at| self.log.get_mut(at));
        if let Some(word) = word {
            *word |= 1 << (page.raw() % 64);
        }
    }

    /// Adds what the guest has written to since the last look.
    fn read_log(&mut self) -> Result<()> {
        let mut more = vec![0; self.log.len()];
        asked("show what it writes to", control::read_dirty(self.domain, true, &mut more))?;
        self.log.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
        Ok(())
    }

    /// The pages in the log.
    fn logged(&self) -> Vec<Pfn> {
        let words = (0_u64..).zip(&self.log).filter(|(_, word)| **word != 0);
        let bits =
            words.flat_map(|(at, word)| (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| 64 * at + bit));
        let pages = self.sender.pages() as u64;
        bits.filter(|page| *page < pages).map(Pfn::new).collect()
    }
}
