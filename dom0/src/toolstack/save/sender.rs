//! A stopped domain read whole.

use alloc::{boxed::Box, vec, vec::Vec};

use anyhow::{Context, Result};
use oxen_abi::domctl::{DomctlTscInfo, XEN_DOMCTL_PFINFO_LTAB_SHIFT};
use oxen_abi::domid::DomId;
use oxen_abi::guest_context::VcpuGuestContext;
use oxen_abi::shared_info::SharedInfo;
use oxen_domu_lib::memory::{
    Mfn, Pfn, bytes,
    map::{Access, Mapping, Words},
};
use oxen_domu_lib::{control, hypercall, task};
use zerocopy::{FromBytes, IntoBytes};

use super::Progress;
use crate::saved::record::{self, KIND_LEVEL, KIND_NONE, KIND_SHIFT};
use crate::saved::stream::Sink;
use crate::saved::tables::{ENTRIES, Table};
use crate::saved::{p2m, tables};
use crate::toolstack::build::shell::asked;

/// Pages that are mapped at a time.
const BATCH: usize = 64;

/// Pages as a record has them.
struct Batch {
    /// Each one's number and kind.
    words: Vec<u64>,
    /// What is in the first `full` pages of these that have contents.
    contents: Vec<Table>,
    full: usize,
}

impl Batch {
    /// Room for what is read at a time.
    fn new() -> Self {
        Self { words: Vec::new(), contents: vec![[0; ENTRIES]; BATCH], full: 0 }
    }

    fn clear(&mut self) {
        self.words.clear();
        self.full = 0;
    }
}

fn word(page: Pfn, kind: u8) -> u64 {
    page.raw() | u64::from(kind) << KIND_SHIFT
}

/// When pages are read.
pub(super) enum Moment<'a> {
    /// The domain has suspended itself: what cannot be read is an error.
    Stopped,
    /// It runs.
    Running(&'a mut Run),
}

/// What is remembered of a domain that is read while it runs.
#[derive(Default)]
pub(super) struct Run {
    /// Pages that could not be read.
    pub(super) later: Vec<Pfn>,
    /// Each page's kind as it was sent last, [`UNSENT`] before that.
    kinds: Vec<u8>,
}

/// The kind of a page that was not sent yet: no kind has so many bits.
const UNSENT: u8 = u8::MAX;

impl Run {
    /// A domain of so many pages.
    pub(super) fn new(pages: usize) -> Self {
        Self { later: Vec::new(), kinds: vec![UNSENT; pages] }
    }

    fn note(&mut self, words: &[u64]) {
        for word in words {
            let page = usize::try_from(word & !(u64::MAX << KIND_SHIFT)).ok();
            if let Some(place) = page.and_then(|page| self.kinds.get_mut(page)) {
                *place = (word >> KIND_SHIFT) as u8;
            }
        }
    }

    /// Whether a page was sent as what it is now.
    pub(super) fn was_sent_as(&self, page: Pfn, kind: u8) -> bool {
        usize::try_from(page.raw()).ok().and_then(|page| self.kinds.get(page)) == Some(&kind)
    }
}

/// A domain that does not run, with the frame behind each of its pages.
pub(super) struct Sender {
    domain: DomId,
    shared_info: Box<SharedInfo>,
    frames: Vec<Mfn>,
    /// The frames that hold the p2m.
    p2m: Vec<Mfn>,
    last_vcpu: u32,
}

impl Sender {
    /// Looks where the domain's memory is.
    pub(super) fn new(domain: DomId) -> Result<Self> {
        let info = asked("describe it", control::domain_info(domain))?;
        let page = read_page(domain, Mfn::new(info.shared_info_frame)).context("its shared info")?;
        let (shared_info, _) = SharedInfo::read_from_prefix(page.as_bytes()).ok().context("its shared info")?;
        let shared_info = Box::new(shared_info);
        let p2m = p2m::find(&shared_info.arch, |frame| read_page(domain, frame))?;
        let mut frames = Vec::new();
        for frame in &p2m {
            frames.extend(read_page(domain, *frame).context("its p2m")?.map(Mfn::new));
        }
        frames.truncate(usize::try_from(p2m::pages(&shared_info.arch)?)?);
        Ok(Self { domain, shared_info, frames, p2m, last_vcpu: info.max_vcpu_id })
    }

    /// The page behind which a frame is, as guest and hypervisor both say.
    fn page_of(&self, frame: Mfn) -> Option<Pfn> {
        let page = control::place_of(frame)?;
        (self.frames.get(usize::try_from(page.raw()).ok()?) == Some(&frame)).then_some(page)
    }

    fn known_page_of(&self, frame: Mfn) -> Result<Pfn> {
        self.page_of(frame).with_context(|| alloc::format!("frame {:#x} is none of the guest's pages", frame.raw()))
    }

    /// The same for numbers, as entries of tables and registers have them.
    fn page_number(&self, frame: u64) -> Result<u64> {
        self.known_page_of(Mfn::new(frame)).map(Pfn::raw)
    }

    /// All pages that it may have, by its p2m.
    pub(super) fn pages(&self) -> usize {
        self.frames.len()
    }

    /// Puts all of it down.
    pub(super) async fn send(&self, sink: &mut impl Sink, progress: &mut Progress) -> Result<()> {
        self.send_heads(sink).await?;
        progress.begin(self.frames.len());
        let every = 0..self.frames.len() as u64;
        self.send_pages(sink, every.map(Pfn::new), &mut Moment::Stopped, progress).await?;
        self.send_rest(sink).await
    }

    /// Puts down what stands before its memory, and does not change while it runs.
    pub(super) async fn send_heads(&self, sink: &mut impl Sink) -> Result<()> {
        record::write_heads(sink, hypercall::xen_version()).await?;
        record::write(sink, record::PV_INFO, &[record::PV_64_BIT.as_bytes()]).await?;
        let policy = asked("show its processor", control::cpu_policy(self.domain))?;
        record::write(sink, record::CPUID_POLICY, &[&policy.leaves]).await?;
        record::write(sink, record::MSR_POLICY, &[&policy.registers]).await?;
        record::write(sink, record::STATIC_DATA_END, &[]).await?;
        self.send_p2m(sink).await
    }

    /// Puts down what stands behind its memory; it has suspended itself.
    pub(super) async fn send_rest(&self, sink: &mut impl Sink) -> Result<()> {
        let tsc: DomctlTscInfo = asked("tell its time stamp counter", control::tsc_info(self.domain))?;
        let words =
            [tsc.tsc_mode, tsc.gtsc_khz, tsc.elapsed_nsec as u32, (tsc.elapsed_nsec >> 32) as u32, tsc.incarnation, 0];
        record::write(sink, record::TSC_INFO, &[words.as_bytes()]).await?;
        let padding = vec![0; 4096 - size_of::<SharedInfo>()];
        record::write(sink, record::SHARED_INFO, &[self.shared_info.as_bytes(), &padding]).await?;
        for vcpu in 0..=self.last_vcpu {
            self.send_vcpu(sink, vcpu).await.with_context(|| alloc::format!("vcpu {vcpu}"))?;
        }
        record::write(sink, record::END, &[]).await
    }

    async fn send_p2m(&self, sink: &mut impl Sink) -> Result<()> {
        let pages: Vec<Pfn> = self.p2m.iter().map(|frame| self.known_page_of(*frame)).collect::<Result<_>>()?;
        let range = [0, u32::try_from(self.frames.len() - 1)?];
        record::write(sink, record::PV_P2M_FRAMES, &[range.as_bytes(), pages.as_bytes()]).await
    }

    /// The kinds of pages.
    pub(super) fn kinds(&self, pages: &[Pfn]) -> Result<Vec<u8>> {
        let own: Vec<Option<Mfn>> = pages.iter().map(|page| self.own_frame(*page)).collect();
        let asked_of: Vec<Mfn> = own.iter().flatten().copied().collect();
        let words = asked("tell the kinds of its pages", control::page_types(self.domain, &asked_of))?;
        let mut told = words.into_iter().map(|word| (word >> XEN_DOMCTL_PFINFO_LTAB_SHIFT & 0xf) as u8);
        Ok(own.iter().map(|own| own.and_then(|_| told.next()).unwrap_or(KIND_NONE)).collect())
    }

    /// The frame behind a page. One that the machine-to-physical table does not know for this page is somebody else's,
    /// or elsewhere.
    fn own_frame(&self, page: Pfn) -> Option<Mfn> {
        let frame = usize::try_from(page.raw()).ok().and_then(|at| self.frames.get(at))?;
        (control::place_of(*frame) == Some(page)).then_some(*frame)
    }

    /// Whether a page is behind the same frame as another look found, of the same domain.
    pub(super) fn has_moved(&self, before: &Self, page: Pfn) -> bool {
        let at = |sender: &Self| usize::try_from(page.raw()).ok().and_then(|at| sender.frames.get(at).copied());
        at(self) != at(before)
    }

    /// Whether its p2m is as long and in the same pages as at another look, of the same domain.
    pub(super) fn has_p2m_of(&self, before: &Self) -> bool {
        self.frames.len() == before.frames.len() && self.p2m == before.p2m
    }

    /// Puts pages down, in records of some each.
    pub(super) async fn send_pages(
        &self,
        sink: &mut impl Sink,
        pages: impl Iterator<Item = Pfn>,
        moment: &mut Moment<'_>,
        progress: &mut Progress,
    ) -> Result<()> {
        let (mut pages, mut done) = (pages.peekable(), 0);
        let mut read = Batch::new();
        while pages.peek().is_some() {
            let batch: Vec<Pfn> = pages.by_ref().take(BATCH).collect();
            read.clear();
            if let Err(why) = self.read(&batch, &mut read, moment) {
                match moment {
                    Moment::Stopped => return Err(why),
                    Moment::Running(run) => run.later.extend_from_slice(&batch),
                }
                read.clear();
            }
            if let Moment::Running(run) = moment {
                run.note(&read.words);
            }
            if !read.words.is_empty() {
                let head = [u32::try_from(read.words.len())?, 0];
                let contents = read.contents.get(..read.full).unwrap_or_default();
                let parts = [head.as_bytes(), read.words.as_bytes(), contents.as_bytes()];
                record::write(sink, record::PAGE_DATA, &parts).await?;
            }
            done += batch.len();
            progress.reach(done);
            task::yield_now().await;
        }
        Ok(())
    }

    /// Reads pages as a stream has them. What cannot be read of a running guest is left for later.
    fn read(&self, pages: &[Pfn], read: &mut Batch, moment: &mut Moment<'_>) -> Result<()> {
        let kinds = self.kinds(pages)?;
        let mut full = Vec::new();
        for (page, kind) in pages.iter().zip(&kinds) {
            match self.own_frame(*page).filter(|_| record::has_contents(*kind).unwrap_or(true)) {
                Some(frame) => {
                    record::has_contents(*kind)?;
                    full.push((*page, *kind, frame));
                }
                None => read.words.push(word(*page, *kind)),
            }
        }
        let list: Vec<Mfn> = full.iter().map(|(_, _, frame)| *frame).collect();
        if list.is_empty() {
            return Ok(());
        }
        let window = asked("show its memory", Mapping::of(self.domain, &list, Access::ReadOnly))?;
        // Pages with contents stand in front of a record's contents in the same order.
        let mut words = Vec::new();
        for (place, (page, kind, frame)) in window.words64().chunks(ENTRIES).zip(&full) {
            let Some(contents) = read.contents.get_mut(read.full) else { break };
            bytes::read(place, 0, contents.as_mut_bytes());
            let level = kind & KIND_LEVEL;
            if level != 0 {
                let translated = tables::translate(level, contents, |frame| self.page_number(frame));
                match (translated, &mut *moment) {
                    (Ok(()), _) => {}
                    // It was changed between two looks.
                    (Err(_), Moment::Running(run)) => {
                        run.later.push(*page);
                        continue;
                    }
                    (Err(why), Moment::Stopped) => {
                        return Err(why.context(alloc::format!("the page table in frame {:#x}", frame.raw())));
                    }
                }
            }
            words.push(word(*page, *kind));
            read.full += 1;
        }
        read.words.extend(words);
        Ok(())
    }

    async fn send_vcpu(&self, sink: &mut impl Sink, vcpu: u32) -> Result<()> {
        if asked("describe it", control::vcpu_info(self.domain, vcpu))?.online == 0 {
            return Ok(());
        }
        let mut context = asked("show its registers", control::vcpu_context(self.domain, vcpu))?;
        self.name_pages(vcpu, &mut context)?;
        let id = [vcpu, 0];
        record::write(sink, record::PV_VCPU_BASIC, &[id.as_bytes(), context.as_bytes()]).await?;
        let extended = asked("show its callbacks", control::extended_context(self.domain, vcpu))?;
        record::write(sink, record::PV_VCPU_EXTENDED, &[id.as_bytes(), extended.as_bytes()]).await?;
        let state = asked("show its extended registers", control::extended_state(self.domain, vcpu))?;
        if record::is_any(&state) {
            record::write(sink, record::PV_VCPU_XSAVE, &[id.as_bytes(), &state]).await?;
        }
        let registers = asked("show its model-specific registers", control::vcpu_registers(self.domain, vcpu))?;
        if !registers.is_empty() {
            record::write(sink, record::PV_VCPU_MSRS, &[id.as_bytes(), registers.as_bytes()]).await?;
        }
        Ok(())
    }

    /// Replaces the frames in a vcpu's context by pages.
    fn name_pages(&self, vcpu: u32, context: &mut VcpuGuestContext) -> Result<()> {
        if vcpu == 0 {
            // What the guest said when it suspended itself: where its start_info is.
            let page = self.page_number(context.user_regs.rdx).context("its start_info")?;
            context.user_regs.rdx = page;
        }
        let [_, user_root, ..] = &mut context.ctrlreg;
        *user_root |= u64::from(*user_root != 0);
        tables::translate_context(context, |frame| self.page_number(frame))
    }
}

fn read_page(domain: DomId, frame: Mfn) -> Result<Table> {
    let window = asked("show its memory", Mapping::of(domain, &[frame], Access::ReadOnly))?;
    let mut page = [0; ENTRIES];
    bytes::read(window.words64(), 0, page.as_mut_bytes());
    Ok(page)
}
