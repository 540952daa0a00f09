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
use crate::saved::record::{self, KIND_LEVEL, KIND_NONE, KIND_SHIFT, MAX_PAGES};
use crate::saved::stream::Sink;
use crate::saved::tables::{ENTRIES, Table};
use crate::saved::{p2m, tables};
use crate::toolstack::build::shell::asked;

/// Pages that are mapped at a time.
const BATCH: usize = 64;

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

    /// Puts all of it down.
    pub(super) async fn send(&self, sink: &mut impl Sink, progress: &mut Progress) -> Result<()> {
        record::write_heads(sink, hypercall::xen_version()).await?;
        record::write(sink, record::PV_INFO, &[record::PV_64_BIT.as_bytes()]).await?;
        let policy = asked("show its processor", control::cpu_policy(self.domain))?;
        record::write(sink, record::CPUID_POLICY, &[&policy.leaves]).await?;
        record::write(sink, record::MSR_POLICY, &[&policy.registers]).await?;
        record::write(sink, record::STATIC_DATA_END, &[]).await?;
        self.send_p2m(sink).await?;
        progress.begin(self.frames.len());
        let mut first = 0;
        for frames in self.frames.chunks(MAX_PAGES) {
            self.send_pages(sink, first, frames).await?;
            first += frames.len() as u64;
            progress.reach(first as usize);
        }
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

    /// The kinds of pages, by their frames.
    fn kinds(&self, first: u64, frames: &[Mfn]) -> Result<Vec<u8>> {
        // A frame that the machine-to-physical table does not know for this page is somebody else's, or elsewhere.
        let is_own = |(page, frame): (u64, &Mfn)| control::place_of(*frame) == Some(Pfn::new(page));
        let own: Vec<bool> = (first..).zip(frames).map(is_own).collect();
        let asked_of: Vec<Mfn> = frames.iter().zip(&own).filter(|(_, own)| **own).map(|(frame, _)| *frame).collect();
        let words = asked("tell the kinds of its pages", control::page_types(self.domain, &asked_of))?;
        let mut told = words.into_iter().map(|word| (word >> XEN_DOMCTL_PFINFO_LTAB_SHIFT & 0xf) as u8);
        Ok(own.iter().map(|own| if *own { told.next().unwrap_or(KIND_NONE) } else { KIND_NONE }).collect())
    }

    async fn send_pages(&self, sink: &mut impl Sink, first: u64, frames: &[Mfn]) -> Result<()> {
        let kinds = self.kinds(first, frames)?;
        let words: Vec<u64> = (first..).zip(&kinds).map(|(page, kind)| page | u64::from(*kind) << KIND_SHIFT).collect();
        let mut full = Vec::new();
        for (frame, kind) in frames.iter().zip(&kinds) {
            if record::has_contents(*kind)? {
                full.push((*frame, *kind));
            }
        }
        record::begin(sink, record::PAGE_DATA, 8 + 8 * words.len() + 4096 * full.len()).await?;
        sink.write([u32::try_from(words.len())?, 0].as_bytes()).await?;
        sink.write(words.as_bytes()).await?;
        let mut page = Box::new([0; ENTRIES]);
        for batch in full.chunks(BATCH) {
            let list: Vec<Mfn> = batch.iter().map(|(frame, _)| *frame).collect();
            let window = asked("show its memory", Mapping::of(self.domain, &list, Access::ReadOnly))?;
            for (contents, (frame, kind)) in window.words64().chunks(ENTRIES).zip(batch) {
                bytes::read(contents, 0, page.as_mut_bytes());
                let level = kind & KIND_LEVEL;
                if level != 0 {
                    tables::translate(level, &mut page, |frame| self.page_number(frame))
                        .with_context(|| alloc::format!("the page table in frame {:#x}", frame.raw()))?;
                }
                sink.write(page.as_bytes()).await?;
            }
            drop(window);
            task::yield_now().await;
        }
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
        if !state.is_empty() {
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
