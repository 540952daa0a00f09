//! A new domain filled from a stream. Whatever the stream says is a claim: numbers of pages are judged before they are
//! used, and tables and registers are the hypervisor's to judge.

use alloc::{boxed::Box, format, vec, vec::Vec};

use anyhow::{Context, Result, anyhow, bail, ensure};
use oxen_abi::domctl::DomctlTscInfo;
use oxen_abi::domid::DomId;
use oxen_abi::guest_context::VcpuGuestContext;
use oxen_abi::mmu::{MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE};
use oxen_abi::shared_info::SharedInfo;
use oxen_abi::start_info::StartInfo;
use oxen_domu_lib::memory::{
    Mfn, PAGE_SIZE, bytes,
    map::{Access, Mapping, Words},
};
use oxen_domu_lib::{
    control::{self, CpuPolicy},
    task,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Progress;
use super::vcpu::Vcpu;
use crate::saved::record::{self, KIND_LEVEL, KIND_NONE, KIND_PINNED, RecordHeader};
use crate::saved::stream::Source;
use crate::saved::tables::{ENTRIES, Table};
use crate::saved::walk::{self, Taker};
use crate::saved::{p2m, tables};
use crate::toolstack::build::Built;
use crate::toolstack::build::shell::{self, Shell, asked};

/// Pages that are mapped at a time.
const BATCH: usize = 64;
/// A page without a frame, as p2ms have it.
const NOTHING: u64 = u64::MAX;

/// A page of the new domain.
#[derive(Clone, Copy)]
struct Page {
    frame: u64,
    kind: u8,
}

/// A domain that is being filled.
pub(super) struct Receiver<'a> {
    shell: &'a Shell,
    domain: DomId,
    ports: (u32, u32),
    pages: Vec<Page>,
    /// Pages that have a frame.
    populated: u64,
    /// The pages that hold the p2m.
    p2m: Vec<u64>,
    shared_info: Option<Box<SharedInfo>>,
    vcpus: Vec<Vcpu>,
    policy: Option<CpuPolicy>,
    tsc: Option<DomctlTscInfo>,
    progress: Progress,
}

impl<'a> Receiver<'a> {
    /// Makes the domain.
    pub(super) fn new(shell: &'a Shell) -> Result<Self> {
        shell.has_room()?;
        let domain = shell.make()?;
        Ok(Self {
            shell,
            domain,
            ports: (0, 0),
            pages: Vec::new(),
            populated: 0,
            p2m: Vec::new(),
            shared_info: None,
            vcpus: (0..shell.vcpus).map(|_| Vcpu::default()).collect(),
            policy: None,
            tsc: None,
            progress: Progress::new("restoring"),
        })
    }

    /// The domain that is filled.
    pub(super) const fn domain(&self) -> DomId {
        self.domain
    }

    /// Reads the whole stream, and makes the domain ready to run.
    pub(super) async fn receive(&mut self, source: &mut impl Source) -> Result<Built> {
        self.ports = self.shell.equip(self.domain)?;
        walk::read(source, self).await?;
        self.finish().await
    }

    fn take_p2m(&mut self, body: &[u8]) -> Result<()> {
        let (range, pages) = body.split_at_checked(8).context("its p2m is not told")?;
        let [first, last] = read_words::<2>(range)?;
        let count = u64::from(last) + 1;
        ensure!(first == 0 && count <= p2m::MAX_PAGES, "its p2m claims the pages {first} to {last}");
        ensure!(self.pages.is_empty(), "its p2m is told twice");
        let words = count.div_ceil(ENTRIES as u64);
        ensure!(pages.len() as u64 == words * 8, "its p2m of {count} pages is in {} pages", pages.len() / 8);
        self.p2m = pages.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?))).collect();
        let count = usize::try_from(count)?;
        // What a stream claims costs memory here: no more than the configuration's would.
        ensure!(
            count as u64 <= (self.shell.maximum >> 2) + (64 << 8),
            "its p2m has {count} pages, more than its memory"
        );
        self.pages = vec![Page { frame: NOTHING, kind: KIND_NONE }; count];
        self.progress.begin(count.min(usize::try_from(self.shell.pages)?));
        Ok(())
    }

    fn take_vcpu(&mut self, kind: u32, body: &[u8]) -> Result<()> {
        let (id, body) = body.split_at_checked(8).context("a vcpu's record is too short")?;
        let [id, _] = read_words::<2>(id)?;
        let vcpu = self.vcpus.get_mut(id as usize).with_context(|| format!("it has no vcpu {id}"))?;
        vcpu.take(id, kind, body).with_context(|| format!("vcpu {id}"))
    }

    /// Gives pages frames that have none yet.
    fn populate(&mut self, wanted: &[u64]) -> Result<()> {
        let mut list = Vec::with_capacity(wanted.len());
        for page in wanted {
            if self.page(*page)?.frame == NOTHING {
                list.push(*page);
            }
        }
        list.sort_unstable();
        list.dedup();
        let numbers = list.clone();
        self.populated += list.len() as u64;
        ensure!(self.populated <= self.shell.maximum >> 2, "it has more pages than its configuration says");
        if !list.is_empty() && control::populate_physmap(self.domain, &mut list).is_err() {
            bail!("the machine has too little memory for it; end or shrink another guest (xl mem-set)");
        }
        for (number, frame) in numbers.iter().zip(list) {
            self.page_mut(*number)?.frame = frame;
        }
        Ok(())
    }

    fn page(&self, number: u64) -> Result<Page> {
        let page = usize::try_from(number).ok().and_then(|index| self.pages.get(index));
        page.copied().with_context(|| format!("page {number:#x} is beyond its p2m"))
    }

    fn page_mut(&mut self, number: u64) -> Result<&mut Page> {
        let page = usize::try_from(number).ok().and_then(|index| self.pages.get_mut(index));
        page.with_context(|| format!("page {number:#x} is beyond its p2m"))
    }

    /// The frame of a page that has contents.
    fn frame(&self, number: u64) -> Result<u64> {
        let frame = self.page(number)?.frame;
        ensure!(frame != NOTHING, "page {number:#x} has no memory");
        Ok(frame)
    }

    /// Replaces the pages that a table names by their frames; who has none gets one.
    fn localize(&mut self, level: u8, table: &mut Table) -> Result<()> {
        let mut missing = Vec::new();
        let mut look = *table;
        tables::translate(level, &mut look, |page| {
            if self.page(page)?.frame == NOTHING {
                missing.push(page);
            }
            Ok(page)
        })?;
        self.populate(&missing)?;
        tables::translate(level, table, |page| self.frame(page))
    }

    /// Writes whole pages.
    fn fill(&self, numbers: impl Iterator<Item = u64>, contents: &[Table]) -> Result<()> {
        let frames: Vec<Mfn> = numbers.map(|number| self.frame(number).map(Mfn)).collect::<Result<_>>()?;
        let window = asked("fill its memory", Mapping::of(self.domain, &frames, Access::ReadWrite))?;
        for (place, page) in window.words64().chunks(ENTRIES).zip(contents) {
            bytes::write(place, 0, page.as_bytes());
        }
        Ok(())
    }

    /// What is left when everything was read.
    async fn finish(&mut self) -> Result<Built> {
        self.pin().await?;
        self.write_p2m().await?;
        let mut vcpus = core::mem::take(&mut self.vcpus);
        let first = vcpus.first_mut().and_then(|vcpu| vcpu.context.as_mut()).context("it has no first vcpu")?;
        let (store, console) = self.write_start_info(first)?;
        self.write_shared_info()?;
        if let Some(tsc) = &self.tsc {
            asked("go on with its time stamp counter", control::set_tsc_info(self.domain, tsc))?;
        }
        for (id, vcpu) in (0..).zip(&mut vcpus) {
            vcpu.set(self.domain, id, |page| self.frame(page)).with_context(|| format!("vcpu {id}"))?;
        }
        shell::offer_rings(self.domain, store, console)?;
        let (store_port, console_port) = self.ports;
        Ok(Built { domain: self.domain, store, store_port, console, console_port, used: 0 })
    }

    /// Makes tables of the pages that were pinned as such.
    async fn pin(&self) -> Result<()> {
        let command = |level| match level {
            1 => Some(MMUEXT_PIN_L1_TABLE),
            2 => Some(MMUEXT_PIN_L2_TABLE),
            3 => Some(MMUEXT_PIN_L3_TABLE),
            4 => Some(MMUEXT_PIN_L4_TABLE),
            _ => None,
        };
        let is_pinned = |page: &&Page| page.kind & KIND_PINNED != 0 && page.frame != NOTHING;
        let pinned = self.pages.iter().filter(is_pinned);
        let pins: Vec<(u32, Mfn)> =
            pinned.filter_map(|page| Some((command(page.kind & KIND_LEVEL)?, Mfn(page.frame)))).collect();
        for pins in pins.chunks(BATCH) {
            asked("accept its page tables", control::pin_tables(self.domain, pins))?;
            task::yield_now().await;
        }
        Ok(())
    }

    async fn write_p2m(&self) -> Result<()> {
        for (numbers, pages) in self.p2m.chunks(BATCH).zip(self.pages.chunks(BATCH * ENTRIES)) {
            let contents: Vec<Table> = pages
                .chunks(ENTRIES)
                .map(|part| core::array::from_fn(|index| part.get(index).map_or(NOTHING, |page| page.frame)))
                .collect();
            self.fill(numbers.iter().copied(), &contents).context("its p2m")?;
            task::yield_now().await;
        }
        Ok(())
    }

    /// Has a structure changed that stands at the start of a page of the domain's; one that is refused stays as it was.
    fn edit_page<T: FromBytes + IntoBytes + Immutable, R>(
        &self,
        frame: Mfn,
        edit: impl FnOnce(&mut T) -> Result<R>,
    ) -> Result<R> {
        let window = asked("fill its memory", Mapping::of(self.domain, &[frame], Access::ReadWrite))?;
        let mut value = Box::new(T::new_zeroed());
        bytes::read(window.words64(), 0, value.as_mut_bytes());
        let answer = edit(&mut value)?;
        bytes::write(window.words64(), 0, value.as_bytes());
        Ok(answer)
    }

    /// Tells the guest what it needs to know of its new domain; returns the frames of its two rings.
    fn write_start_info(&self, first: &mut VcpuGuestContext) -> Result<(Mfn, Mfn)> {
        let frame = self.frame(first.user_regs.rdx).context("its start_info")?;
        first.user_regs.rdx = frame;
        let info = asked("describe it", control::domain_info(self.domain))?;
        self.edit_page(Mfn(frame), |start: &mut StartInfo| {
            let store = Mfn(self.frame(start.store_mfn).context("its store's ring")?);
            let console = Mfn(self.frame(start.console_mfn).context("its console's ring")?);
            start.nr_pages = self.pages.len() as u64;
            start.shared_info = info.shared_info_frame * PAGE_SIZE as u64;
            start.flags = 0;
            (start.store_mfn, start.store_evtchn) = (store.0, self.ports.0);
            (start.console_mfn, start.console_evtchn) = (console.0, self.ports.1);
            Ok((store, console))
        })
    }

    /// What the vcpus and the architecture had there; no event waits, and all are masked.
    fn write_shared_info(&self) -> Result<()> {
        let saved = self.shared_info.as_ref().context("it has no shared info")?;
        let info = asked("describe it", control::domain_info(self.domain))?;
        self.edit_page(Mfn(info.shared_info_frame), |page: &mut SharedInfo| {
            page.vcpu_info = saved.vcpu_info;
            page.vcpu_info.iter_mut().for_each(|vcpu| vcpu.evtchn_pending_sel = 0);
            page.arch = saved.arch;
            page.arch.pfn_to_mfn_frame_list_list = 0;
            page.evtchn_pending = [0; 64];
            page.evtchn_mask = [u64::MAX; 64];
            Ok(())
        })
    }
}

impl Taker for Receiver<'_> {
    async fn take_pages(&mut self, source: &mut impl Source, header: &RecordHeader) -> Result<()> {
        let list = record::read_pages(source, header).await?;
        let mut full = Vec::new();
        for (number, kind) in &list {
            self.page_mut(*number)?.kind = *kind;
            if record::has_contents(*kind)? {
                full.push((*number, kind & KIND_LEVEL));
            }
        }
        let wanted: Vec<u64> = list.iter().filter(|(_, kind)| *kind != KIND_NONE).map(|(number, _)| *number).collect();
        self.populate(&wanted)?;
        for batch in full.chunks(BATCH) {
            let mut contents: Vec<Table> = vec![[0; ENTRIES]; batch.len()];
            source.read(contents.as_mut_bytes()).await?;
            for (page, (number, level)) in contents.iter_mut().zip(batch) {
                if *level != 0 {
                    self.localize(*level, page).with_context(|| format!("the page table in page {number:#x}"))?;
                }
            }
            self.fill(batch.iter().map(|(number, _)| *number), &contents)?;
            task::yield_now().await;
        }
        self.progress.reach(usize::try_from(self.populated)?);
        Ok(())
    }

    fn take_record(&mut self, header: &RecordHeader, body: &[u8]) -> Result<()> {
        let policy =
            |old: Option<CpuPolicy>| old.unwrap_or(CpuPolicy { leaves: Box::default(), registers: Box::default() });
        match header.kind {
            record::PV_INFO => {
                ensure!(body == record::PV_64_BIT.as_bytes(), "it is no guest of 64 bits");
            }
            record::CPUID_POLICY => {
                self.policy = Some(CpuPolicy { leaves: body.into(), ..policy(self.policy.take()) });
            }
            record::MSR_POLICY => {
                self.policy = Some(CpuPolicy { registers: body.into(), ..policy(self.policy.take()) });
            }
            record::STATIC_DATA_END => {
                if let Some(policy) = &self.policy {
                    let set = control::set_cpu_policy(self.domain, policy);
                    asked("show it the processor that it had", set)?;
                }
            }
            record::PV_P2M_FRAMES => self.take_p2m(body)?,
            record::TSC_INFO => {
                let [tsc_mode, gtsc_khz, low, high, incarnation, _] = read_words::<6>(body)?;
                let elapsed_nsec = u64::from(high) << 32 | u64::from(low);
                self.tsc = Some(DomctlTscInfo { tsc_mode, gtsc_khz, incarnation, pad: 0, elapsed_nsec });
            }
            record::SHARED_INFO => {
                let (page, _) =
                    SharedInfo::read_from_prefix(body).map_err(|_| anyhow!("its shared info is too short"))?;
                self.shared_info = Some(Box::new(page));
            }
            record::PV_VCPU_BASIC..=record::PV_VCPU_XSAVE | record::PV_VCPU_MSRS => {
                self.take_vcpu(header.kind, body)?
            }
            _ if header.is_optional() => {}
            kind => bail!("it has a record of type {kind:#x}, which is not known here"),
        }
        Ok(())
    }
}

fn read_words<const N: usize>(bytes: &[u8]) -> Result<[u32; N]> {
    <[u32; N]>::read_from_bytes(bytes).map_err(|_| anyhow!("a record has {} bytes, not {}", bytes.len(), 4 * N))
}
