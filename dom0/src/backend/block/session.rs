//! A connected block device: the task that takes requests off the ring, and one task for each request. Both can be cut
//! off wherever they stand: the ledger tells the next instance what is left to do.
//!
//! A guest can put more on its rings than dom0 has mappings or memory for. So only [`MAX_IN_FLIGHT`] requests are off a
//! ring at a time and the others wait on it. One that is off is done in steps, each of which waits for its guest's
//! share of mappings, then for its guest's turn, then for room at the disk, always in the order in which they came;
//! only then are its pages mapped. Since a guest has one turn at a time, guests that use a disk together use it by
//! turns.

use alloc::{collections::BTreeMap, format, rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};
use core::future::pending;
use core::sync::atomic::Ordering;

use anyhow::{Context, Result};
use oxen_abi::domid::DomId;
use oxen_abi::io::blkif::{BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestSegment, BlkifResponse};
use oxen_abi::trace::{
    OXEN_BLOCK_ANSWERED, OXEN_BLOCK_FROM_DISK, OXEN_BLOCK_TAKEN, OXEN_BLOCK_TO_DISK, OXEN_TRC_BLOCK,
};
use oxen_domu_lib::event::Port;
use oxen_domu_lib::grant::GrantError;
use oxen_domu_lib::memory::map::{Access, Words};
use oxen_domu_lib::sync::{Channel, Receiver, Sender};
use oxen_domu_lib::task::{self, JoinHandle};

use oxen_ring::Overrun;

use super::ledger::{Desk, Ledger, Number};
use super::request::{self, Request, Segment, Work};
use crate::backend::session::{Life, Session, SessionEnd};
use crate::device::transfer::{Direction, SECTOR};
use crate::device::{Failure, Gate, Medium, Memory, Piece};
use crate::errno::Named;
use crate::mapped::Mapped;
use crate::notes::Notes;
use crate::purse::{Charge, Exhausted, Purse, TURN};

/// Requests of one ring that are taken off it and have no answer yet.
const MAX_IN_FLIGHT: u32 = 32;
/// Bytes of heap that a request takes beside its mappings: 256 segments, the task, and its place in the ledger.
const REQUEST_HEAP: usize = 3328;
/// Bytes of heap that all requests of a device take at most.
pub const HEAP: usize = MAX_IN_FLIGHT as usize * REQUEST_HEAP;

/// What has been done, for `xl block-list`.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests answered.
    pub requests: Cell<u64>,
    /// Of these, reads that succeeded.
    pub reads: Cell<u64>,
    /// Writes that succeeded.
    pub writes: Cell<u64>,
    /// Bytes read.
    pub read: Cell<u64>,
    /// Bytes written.
    pub written: Cell<u64>,
    /// Requests refused or failed.
    pub errors: Cell<u64>,
}

/// What a session starts with.
pub struct Start {
    /// The guest.
    pub domain: DomId,
    /// Its share of dom0.
    pub purse: Rc<Purse>,
    /// Pages of the ring.
    pub ring: Vec<u32>,
    /// The frontend's port.
    pub port: u32,
    /// Pages that the guest grants once and for all.
    pub persistent: bool,
    /// What requests are judged by.
    pub disk: Cell<request::Limits>,
    /// Where they go.
    pub medium: Medium,
    /// What is counted.
    pub counts: Rc<Counts>,
    /// The disk's number, by which it is named where its requests are noted.
    pub number: u32,
    /// Where they are noted.
    pub notes: Rc<Notes>,
}

/// One instance of the backend at work for a frontend.
pub struct BlockSession {
    start: Start,
    ring: Mapped,
    port: Port,
    kept: RefCell<BTreeMap<u32, Rc<Mapped>>>,
    answers: Sender<Answer>,
    ledger: Rc<Ledger>,
    /// What the disk has in work of it.
    gate: Rc<Gate>,
    server: RefCell<Option<JoinHandle<()>>>,
    life: Life,
}

/// An answer, and to which request.
type Answer = (Number, BlkifResponse);

impl Session for BlockSession {
    type Legacy = Rc<Ledger>;

    fn life(&self) -> &Life {
        &self.life
    }

    async fn cut(&self) -> Rc<Ledger> {
        if let Some(server) = self.server.take() {
            server.cancel();
        }
        self.ledger.cancel();
        // What the disk does yet would meet what the next instance has it do once more.
        self.gate.empty().await;
        self.kept.borrow_mut().clear();
        self.ledger.clone()
    }
}

impl BlockSession {
    /// Maps the ring, binds the port and starts serving, by the ledger of an earlier instance where there was one.
    ///
    /// # Errors
    /// The ring cannot be mapped or the port cannot be bound.
    pub fn open(start: Start, ledger: Rc<Ledger>) -> Result<Rc<Self>> {
        let ring = Mapped::ring(&start.purse, start.domain, &start.ring)?;
        let port = Port::bind_interdomain(start.domain, start.port)
            .map_err(Named)
            .with_context(|| format!("event channel {} cannot be bound", start.port))?;
        let (answers, answered) = Channel::pair();
        let session = Rc::new(Self {
            start,
            ring,
            port,
            kept: RefCell::default(),
            answers,
            ledger,
            gate: Rc::default(),
            server: RefCell::default(),
            life: Life::default(),
        });
        let server = task::spawn(session.clone().run(answered));
        *session.server.borrow_mut() = Some(server);
        Ok(session)
    }

    /// The disk has so many sectors from now on.
    pub fn resize(&self, sectors: u64) {
        self.start.disk.set(request::Limits { sectors, ..self.start.disk.get() });
    }

    async fn run(self: Rc<Self>, answered: Receiver<Answer>) {
        let end = if self.serve_ring(&answered).await.is_err() { SessionEnd::ProtocolError } else { SessionEnd::Asked };
        self.kept.borrow_mut().clear();
        self.life.finish(end);
    }

    /// Takes requests and passes answers back, until the session is to end and every request has its answer.
    async fn serve_ring(self: &Rc<Self>, answered: &Receiver<Answer>) -> Result<(), ProtocolError> {
        let pages = self.ring.words().words32().as_chunks().0;
        let mut ring = Desk::open(pages, &self.ledger).map_err(|_| ProtocolError)?;
        let mut broken = false;
        for (number, request) in self.ledger.orphans() {
            self.begin(number, &request);
        }
        loop {
            while let Some((number, response)) = answered.try_receive() {
                ring.answer(number, &response);
            }
            if ring.publish() {
                self.port.notify();
            }
            if self.life.is_ending() || broken {
                if ring.unanswered() == 0 {
                    return if broken { Err(ProtocolError) } else { Ok(()) };
                }
            } else {
                match self.take(&mut ring) {
                    Ok(true) => {
                        // A guest that makes requests as fast as they are taken does not keep others waiting.
                        task::yield_now().await;
                        continue;
                    }
                    Ok(false) => {}
                    Err(Overrun { .. }) => {
                        broken = true;
                        continue;
                    }
                }
            }
            let events = async {
                if self.life.is_ending() {
                    // Answers are all that is waited for now.
                    pending().await
                }
                task::select(self.port.wait(), self.life.told()).await;
            };
            if let task::Either::First(Some((number, response))) = task::select(answered.receive(), events).await {
                ring.answer(number, &response);
            }
        }
    }

    /// Takes requests off the ring, as many as may be in flight; returns whether there is work to do at once. Those
    /// that are left are looked at after the next answer.
    fn take(self: &Rc<Self>, ring: &mut Desk<'_>) -> Result<bool, Overrun> {
        let mut was_answered = false;
        while ring.unanswered() < MAX_IN_FLIGHT {
            let Some((number, raw)) = ring.take()? else { return Ok(ring.final_check()? || was_answered) };
            was_answered |= !self.begin(number, &raw);
        }
        Ok(was_answered)
    }

    /// Judges a request and has it carried out; returns whether it is, and is not refused at once.
    fn begin(self: &Rc<Self>, number: Number, raw: &BlkifRequest) -> bool {
        self.note(number, OXEN_BLOCK_TAKEN, u32::from(raw.operation));
        match request::judge(raw, self.start.disk.get()) {
            Ok(request) => {
                self.ledger.assign(number, task::spawn(self.clone().serve(number, request)));
                true
            }
            Err(answer) => {
                self.answer(number, answer);
                false
            }
        }
    }

    async fn serve(self: Rc<Self>, number: Number, request: Request) {
        let done = self.carry_out(number, &request).await;
        let status = if done.is_ok() { BLKIF_RSP_OKAY } else { BLKIF_RSP_ERROR };
        self.answer(number, request::answer(request.id, request.operation, status));
    }

    fn answer(&self, number: Number, response: BlkifResponse) {
        let counts = &self.start.counts;
        counts.requests.set(counts.requests.get() + 1);
        counts.errors.set(counts.errors.get() + u64::from(response.status != BLKIF_RSP_OKAY));
        self.note(number, OXEN_BLOCK_ANSWERED, u32::from(response.status.cast_unsigned()));
        self.answers.send((number, response));
    }

    /// Notes how far a request is.
    fn note(&self, number: Number, step: u32, more: u32) {
        let Start { domain, notes, number: disk, .. } = &self.start;
        notes.note(OXEN_TRC_BLOCK, [domain.0.into(), *disk, number, step, more]);
    }

    async fn carry_out(&self, number: Number, request: &Request) -> Result<(), Refused> {
        let medium = &self.start.medium;
        match &request.work {
            Work::Transfer { direction, sector, segments } => {
                self.transfer(number, *direction, *sector, segments).await
            }
            Work::Indirect { direction, sector, count, pages } => {
                let raw = self.indirect_segments(pages, (*count).into()).await?;
                let segments = request::judge_segments(&raw, *sector, self.start.disk.get()).map_err(|_| Refused)?;
                drop(raw);
                self.transfer(number, *direction, *sector, &segments).await
            }
            Work::Flush => self.at_the_disk(number, medium.flush(&self.gate)).await,
            Work::Discard { sector, count } => {
                self.at_the_disk(number, medium.discard(*sector, *count, &self.gate)).await
            }
        }
    }

    /// What the disk does for a request, noted as it begins and ends.
    async fn at_the_disk(
        &self,
        number: Number,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Refused> {
        self.note(number, OXEN_BLOCK_TO_DISK, 0);
        let done = work.await;
        self.note(number, OXEN_BLOCK_FROM_DISK, 0);
        Ok(done?)
    }

    /// Moves the segments' data, step by step.
    async fn transfer(
        &self,
        number: Number,
        direction: Direction,
        sector: u64,
        segments: &[Segment],
    ) -> Result<(), Refused> {
        let (mut at, mut rest) = (sector, segments);
        while !rest.is_empty() {
            let (step, missing) = self.next_step(rest);
            rest = rest.get(step.len()..).unwrap_or_default();
            self.step(number, direction, at, step, missing).await?;
            at += step.iter().map(|s| u64::from(s.bytes) / SECTOR).sum::<u64>();
        }
        let counts = &self.start.counts;
        let (requests, sum) = match direction {
            Direction::Read => (&counts.reads, &counts.read),
            Direction::Write => (&counts.writes, &counts.written),
        };
        requests.set(requests.get() + 1);
        sum.set(sum.get() + segments.iter().map(|s| u64::from(s.bytes)).sum::<u64>());
        Ok(())
    }

    /// The segments of the next step, at least one, and how many of their pages are not mapped yet: as many as the disk
    /// takes at once and a turn allows.
    fn next_step<'a>(&self, segments: &'a [Segment]) -> (&'a [Segment], usize) {
        let kept = self.kept.borrow();
        let mut missing = 0;
        let is_in = |s: &&Segment| {
            missing += usize::from(!kept.contains_key(&s.gref));
            missing <= TURN
        };
        let count = segments.iter().take(self.start.medium.max_pieces()).take_while(is_in).count();
        (segments.get(..count).unwrap_or_default(), missing.min(TURN))
    }

    async fn step(
        &self,
        number: Number,
        direction: Direction,
        sector: u64,
        segments: &[Segment],
        missing: usize,
    ) -> Result<(), Refused> {
        let medium = &self.start.medium;
        // Who waits for mappings holds nothing that others wait for.
        let charge = self.pay(missing).await?;
        let turn = self.start.purse.turn.wait_for(missing.max(segments.len() / 4).clamp(1, TURN)).await?;
        let room = medium.room(segments.len(), &self.gate).await?;
        let pieces = if self.start.persistent {
            self.kept_pieces(segments, charge)?
        } else {
            self.pieces(direction, segments, charge)?
        };
        let next_turn = async move {
            task::yield_now().await;
            drop(turn);
        };
        let work = self.at_the_disk(number, medium.transfer(direction, sector, pieces, room));
        let (done, ()) = task::join(work, next_turn).await;
        done
    }

    /// Waits for mappings of so many pages.
    async fn pay(&self, pages: usize) -> Result<Charge, Exhausted> {
        let budget = &self.start.purse.mappings.requests;
        if pages == 0 { Ok(budget.empty()) } else { budget.wait_for(pages).await }
    }

    /// Maps the pages of one step.
    fn pieces(&self, direction: Direction, segments: &[Segment], charge: Charge) -> Result<Vec<Piece>, Refused> {
        let access = match direction {
            Direction::Read => Access::ReadWrite,
            Direction::Write => Access::ReadOnly,
        };
        let references: Vec<u32> = segments.iter().map(|s| s.gref).collect();
        let mapping = Rc::new(Mapped::map(self.start.domain, &references, access, charge)?);
        let piece = |(page, s): (usize, &Segment)| Piece {
            memory: Memory::Granted(mapping.clone()),
            page,
            offset: s.offset,
            bytes: s.bytes,
        };
        Ok(segments.iter().enumerate().map(piece).collect())
    }

    /// Maps pages that stay granted, those that are not mapped yet; they stay mapped as far as the guest's share goes.
    fn kept_pieces(&self, segments: &[Segment], mut charge: Charge) -> Result<Vec<Piece>, Refused> {
        let mut kept = self.kept.borrow_mut();
        let piece = |s: &Segment| {
            let mapping = match kept.get(&s.gref) {
                Some(page) => page.clone(),
                None => {
                    let stays = self.start.purse.mappings.kept.charge(1);
                    let (pays, stays) = stays.map_or_else(|Exhausted| (charge.split(1), false), |pays| (pays, true));
                    let page = Rc::new(Mapped::map(self.start.domain, &[s.gref], Access::ReadWrite, pays)?);
                    if stays {
                        kept.insert(s.gref, page.clone());
                    }
                    page
                }
            };
            Ok(Piece { memory: Memory::Granted(mapping), page: 0, offset: s.offset, bytes: s.bytes })
        };
        segments.iter().map(piece).collect()
    }

    /// Copies the descriptions of segments out of the guest's pages.
    async fn indirect_segments(&self, pages: &[u32], count: usize) -> Result<Vec<BlkifRequestSegment>, Refused> {
        let charge = self.pay(pages.len()).await?;
        let mapping = Mapped::map(self.start.domain, pages, Access::ReadOnly, charge)?;
        let words = mapping.words().words64().iter().take(count);
        let segment = |word: &core::sync::atomic::AtomicU64| {
            let [a, b, c, d, first_sect, last_sect, ..] = word.load(Ordering::Relaxed).to_le_bytes();
            BlkifRequestSegment { gref: u32::from_le_bytes([a, b, c, d]), first_sect, last_sect, _pad0: 0 }
        };
        Ok(words.map(segment).collect())
    }
}

/// The frontend broke the ring's protocol.
struct ProtocolError;

/// The request cannot be carried out; its answer says so.
struct Refused;

impl From<GrantError> for Refused {
    fn from(_: GrantError) -> Self {
        Self
    }
}

impl From<Exhausted> for Refused {
    fn from(_: Exhausted) -> Self {
        Self
    }
}

impl From<Failure> for Refused {
    fn from(_: Failure) -> Self {
        Self
    }
}
