//! A connected block device: the task that takes requests off the ring, and one task for each request.

use alloc::{collections::BTreeMap, format, rc::Rc, string::String, vec::Vec};
use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering;

use oxen_abi::domid::DomId;
use oxen_abi::io::blkif::{BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestSegment, BlkifResponse};
use oxen_domu_lib::event::Port;
use oxen_domu_lib::grant::{GrantError, GrantMapping};
use oxen_domu_lib::memory::map::{Access, Words};
use oxen_domu_lib::sync::{Channel, Receiver, Sender};
use oxen_domu_lib::task;

use oxen_ring::{BackRing, Overrun};

use super::request::{self, Direction, Request, Segment, Work};
use crate::backend::{
    self,
    device::{End, Life},
};
use crate::device::{Medium, Piece};

/// Pages that are kept mapped for one device where its frontend keeps them granted.
const MOST_PERSISTENT: usize = 1056;

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
    /// Pages of the ring.
    pub ring: Vec<u32>,
    /// The frontend's port.
    pub port: u32,
    /// Pages that the guest grants once and for all.
    pub persistent: bool,
    /// What requests are judged by.
    pub disk: Cell<request::Disk>,
    /// Where they go.
    pub medium: Medium,
    /// What is counted.
    pub counts: Rc<Counts>,
}

/// One connection with a frontend.
pub struct Session {
    start: Start,
    words: GrantMapping,
    port: Port,
    kept: RefCell<BTreeMap<u32, Rc<GrantMapping>>>,
    answers: Sender<BlkifResponse>,
    life: Life,
}

impl backend::device::Session for Session {
    fn life(&self) -> &Life {
        &self.life
    }
}

impl Session {
    /// Maps the ring, binds the port and starts serving.
    pub fn open(start: Start) -> Result<Rc<Self>, String> {
        let refused = |what: &str, why: GrantError| format!("{what} cannot be mapped: {why:?}");
        let words =
            GrantMapping::map(start.domain, &start.ring, Access::ReadWrite).map_err(|e| refused("the ring", e))?;
        let port = Port::bind_interdomain(start.domain, start.port)
            .map_err(|errno| format!("event channel {} cannot be bound: {}", start.port, errno.name()))?;
        let (answers, answered) = Channel::pair();
        let session = Rc::new(Self { start, words, port, kept: RefCell::default(), answers, life: Life::default() });
        task::spawn(session.clone().run(answered));
        Ok(session)
    }

    /// The disk has so many sectors from now on.
    pub fn resize(&self, sectors: u64) {
        self.start.disk.set(request::Disk { sectors, ..self.start.disk.get() });
    }

    async fn run(self: Rc<Self>, answered: Receiver<BlkifResponse>) {
        let end = if self.serve_ring(&answered).await.is_err() { End::Hostile } else { End::Asked };
        self.kept.borrow_mut().clear();
        self.life.finish(end);
    }

    /// Takes requests and passes answers back, until the session is to end and every request has its answer.
    async fn serve_ring(self: &Rc<Self>, answered: &Receiver<BlkifResponse>) -> Result<(), Hostile> {
        let mut ring = Ring::attach(self.words.words32().as_chunks().0).map_err(|_| Hostile)?;
        let mut broken = false;
        loop {
            while let Some(response) = answered.try_receive() {
                // There is a place for it: it was taken off the ring.
                let _ = ring.push(&response);
            }
            if ring.publish() {
                self.port.notify();
            }
            if self.life.is_ending() || broken {
                if ring.unanswered() == 0 {
                    return if broken { Err(Hostile) } else { Ok(()) };
                }
            } else {
                match self.take(&mut ring) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(Overrun { .. }) => {
                        broken = true;
                        continue;
                    }
                }
            }
            let events = task::select(self.port.wait(), self.life.told());
            if let task::Either::First(Some(response)) = task::select(answered.receive(), events).await {
                let _ = ring.push(&response);
            }
        }
    }

    /// Takes what requests there are; says whether more came meanwhile.
    fn take(self: &Rc<Self>, ring: &mut Ring<'_>) -> Result<bool, Overrun> {
        while let Some(raw) = ring.pop()? {
            match request::judge(&raw, self.start.disk.get()) {
                Ok(request) => _ = task::spawn(self.clone().serve(request)),
                Err(answer) => self.answer(answer),
            }
        }
        ring.final_check()
    }

    async fn serve(self: Rc<Self>, request: Request) {
        let done = self.carry_out(request.work).await;
        let status = if done.is_ok() { BLKIF_RSP_OKAY } else { BLKIF_RSP_ERROR };
        self.answer(request::answer(request.id, request.operation, status));
    }

    fn answer(&self, response: BlkifResponse) {
        let counts = &self.start.counts;
        counts.requests.set(counts.requests.get() + 1);
        counts.errors.set(counts.errors.get() + u64::from(response.status != BLKIF_RSP_OKAY));
        self.answers.send(response);
    }

    async fn carry_out(&self, work: Work) -> Result<(), Refused> {
        let medium = &self.start.medium;
        match work {
            Work::Transfer { direction, sector, segments } => self.transfer(direction, sector, &segments).await,
            Work::Indirect { direction, sector, count, pages } => {
                let raw = self.indirect_segments(&pages, count.into())?;
                let segments = request::judge_segments(&raw, sector, self.start.disk.get()).map_err(|_| Refused)?;
                self.transfer(direction, sector, &segments).await
            }
            Work::Flush => medium.flush().await.map_err(|_| Refused),
            Work::Discard { sector, count } => medium.discard(sector, count).await.map_err(|_| Refused),
        }
    }

    async fn transfer(&self, direction: Direction, sector: u64, segments: &[Segment]) -> Result<(), Refused> {
        let pieces =
            if self.start.persistent { self.kept_pieces(segments)? } else { self.pieces(direction, segments)? };
        self.start.medium.transfer(direction, sector, &pieces).await.map_err(|_| Refused)?;
        let counts = &self.start.counts;
        let (number, sum) = match direction {
            Direction::Read => (&counts.reads, &counts.read),
            Direction::Write => (&counts.writes, &counts.written),
        };
        number.set(number.get() + 1);
        sum.set(sum.get() + segments.iter().map(|s| u64::from(s.bytes)).sum::<u64>());
        Ok(())
    }

    /// Maps the pages of one request.
    fn pieces(&self, direction: Direction, segments: &[Segment]) -> Result<Vec<Piece>, Refused> {
        let access = match direction {
            Direction::Read => Access::ReadWrite,
            Direction::Write => Access::ReadOnly,
        };
        let references: Vec<u32> = segments.iter().map(|s| s.gref).collect();
        let mapping = Rc::new(GrantMapping::map(self.start.domain, &references, access)?);
        let piece =
            |(page, s): (usize, &Segment)| Piece { mapping: mapping.clone(), page, offset: s.offset, bytes: s.bytes };
        Ok(segments.iter().enumerate().map(piece).collect())
    }

    /// Maps pages that stay granted, those that are not mapped yet.
    fn kept_pieces(&self, segments: &[Segment]) -> Result<Vec<Piece>, Refused> {
        let mut kept = self.kept.borrow_mut();
        let piece = |s: &Segment| {
            let mapping = match kept.get(&s.gref) {
                Some(mapping) => mapping.clone(),
                None => {
                    let mapping = Rc::new(GrantMapping::map(self.start.domain, &[s.gref], Access::ReadWrite)?);
                    if kept.len() < MOST_PERSISTENT {
                        kept.insert(s.gref, mapping.clone());
                    }
                    mapping
                }
            };
            Ok(Piece { mapping, page: 0, offset: s.offset, bytes: s.bytes })
        };
        segments.iter().map(piece).collect()
    }

    /// Copies the descriptions of segments out of the guest's pages.
    fn indirect_segments(&self, pages: &[u32], count: usize) -> Result<Vec<BlkifRequestSegment>, Refused> {
        let mapping = GrantMapping::map(self.start.domain, pages, Access::ReadOnly)?;
        let words = mapping.words64().iter().take(count);
        let segment = |word: &core::sync::atomic::AtomicU64| {
            let [a, b, c, d, first_sect, last_sect, ..] = word.load(Ordering::Relaxed).to_le_bytes();
            BlkifRequestSegment { gref: u32::from_le_bytes([a, b, c, d]), first_sect, last_sect, _pad0: 0 }
        };
        Ok(words.map(segment).collect())
    }
}

/// The ring as the frontend made it.
type Ring<'a> = BackRing<'a, BlkifRequest, BlkifResponse>;

/// The frontend broke its ring.
struct Hostile;

/// The request cannot be carried out; its answer says so.
struct Refused;

impl From<GrantError> for Refused {
    fn from(_: GrantError) -> Self {
        Self
    }
}
