//! A new domain filled from a stream. Whatever the stream says is a claim: numbers of pages are judged before they are
//! used, and tables and registers are the hypervisor's to judge.

use alloc::{boxed::Box, format, string::String, vec, vec::Vec};

use anyhow::{Context, Result, anyhow, bail, ensure};
use oxen_abi::domctl::DomctlTscInfo;
use oxen_abi::domid::DomId;
use oxen_abi::guest_context::VcpuGuestContext;
use oxen_abi::mmu::{MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE};
use oxen_abi::shared_info::SharedInfo;
use oxen_abi::start_info::StartInfo;
use oxen_domu_lib::memory::{
    Mfn, PAGE_SIZE, Pfn, bytes,
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
/// A page of the new domain.
#[derive(Clone, Copy)]
struct Page {
    /// [`Mfn::INVALID`] until it has one.
    frame: Mfn,
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
    p2m: Vec<Pfn>,
    shared_info: Option<Box<SharedInfo>>,
    vcpus: Vec<Vcpu>,
    policy: Option<CpuPolicy>,
    tsc: Option<DomctlTscInfo>,
    progress: Progress,
    /// Pages that came, each as often as it did.
    taken: usize,
    /// Whether the domain stays when this goes.
    is_kept: bool,
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // The reason for which it is not kept says more than a failure to clean up could.
            let _ = control::destroy_domain(self.domain);
        }
    }
}

impl<'a> Receiver<'a> {
    /// Makes the domain. It is gone with this, unless it is kept.
    pub(super) fn new(shell: &'a Shell, what: &'static str) -> Result<Self> {
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
            progress: Progress::new(what),
            taken: 0,
            is_kept: false,
        })
    }

    /// Leaves the domain to others.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
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
        let page = |word: &[u8]| Some(Pfn::new(u64::from_le_bytes(word.try_into().ok()?)));
        self.p2m = pages.chunks_exact(8).filter_map(page).collect();
        let count = usize::try_from(count)?;
        // What a stream claims costs memory here: no more than the configuration's would.
        ensure!(
            count as u64 <= (self.shell.maximum >> 2) + (64 << 8),
            "its p2m has {count} pages, more than its memory"
        );
        self.pages = vec![Page { frame: Mfn::INVALID, kind: KIND_NONE }; count];
        self.progress.begin(count);
        Ok(())
    }

    fn take_vcpu(&mut self, kind: u32, body: &[u8]) -> Result<()> {
        let (id, body) = body.split_at_checked(8).context("a vcpu's record is too short")?;
        let [id, _] = read_words::<2>(id)?;
        let vcpu = self.vcpus.get_mut(id as usize).with_context(|| format!("it has no vcpu {id}"))?;
        vcpu.take(id, kind, body).with_context(|| format!("vcpu {id}"))
    }

    /// Gives pages frames that have none yet.
    fn populate(&mut self, wanted: &[Pfn]) -> Result<()> {
        let mut list = Vec::with_capacity(wanted.len());
        for page in wanted {
            if self.page(*page)?.frame == Mfn::INVALID {
                list.push(*page);
            }
        }
        list.sort_unstable();
        list.dedup();
        self.populated += list.len() as u64;
        ensure!(self.populated <= self.shell.maximum >> 2, "it has more pages than its configuration says");
        if list.is_empty() {
            return Ok(());
        }
        let Ok(frames) = control::populate_physmap(self.domain, &list) else {
            bail!("the machine has too little memory for it; end or shrink another guest (xl mem-set)");
        };
        for (page, frame) in list.into_iter().zip(frames) {
            self.page_mut(page)?.frame = frame;
        }
        Ok(())
    }

    fn page(&self, page: Pfn) -> Result<Page> {
        let found = usize::try_from(page.raw()).ok().and_then(|index| self.pages.get(index));
        found.copied().with_context(|| beyond(page))
    }

    fn page_mut(&mut self, page: Pfn) -> Result<&mut Page> {
        let found = usize::try_from(page.raw()).ok().and_then(|index| self.pages.get_mut(index));
        found.with_context(|| beyond(page))
    }

    /// The frame of a page that has contents.
    fn frame(&self, page: Pfn) -> Result<Mfn> {
        let frame = self.page(page)?.frame;
        ensure!(frame != Mfn::INVALID, "page {:#x} has no memory", page.raw());
        Ok(frame)
    }

    /// The same for numbers, as entries of tables and registers have them.
    fn frame_number(&self, page: u64) -> Result<u64> {
        self.frame(Pfn::new(page)).map(Mfn::raw)
    }

    /// Replaces the pages that a table names by their frames; who has none gets one.
    fn localize(&mut self, level: u8, table: &mut Table) -> Result<()> {
        let mut missing = Vec::new();
        let mut look = *table;
        tables::translate(level, &mut look, |number| {
            let page = Pfn::new(number);
            if self.page(page)?.frame == Mfn::INVALID {
                missing.push(page);
            }
            Ok(number)
        })?;
        self.populate(&missing)?;
        tables::translate(level, table, |page| self.frame_number(page))
    }

    /// Writes whole pages.
    fn fill(&self, pages: impl Iterator<Item = Pfn>, contents: &[Table]) -> Result<()> {
        let frames: Vec<Mfn> = pages.map(|page| self.frame(page)).collect::<Result<_>>()?;
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
            vcpu.set(self.domain, id, |page| self.frame_number(page)).with_context(|| format!("vcpu {id}"))?;
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
        let is_pinned = |page: &&Page| page.kind & KIND_PINNED != 0 && page.frame != Mfn::INVALID;
        let pinned = self.pages.iter().filter(is_pinned);
        let pins: Vec<(u32, Mfn)> =
            pinned.filter_map(|page| Some((command(page.kind & KIND_LEVEL)?, page.frame))).collect();
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
                .map(|part| core::array::from_fn(|index| part.get(index).map_or(Mfn::INVALID, |page| page.frame).raw()))
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
        let frame = self.frame(Pfn::new(first.user_regs.rdx)).context("its start_info")?;
        first.user_regs.rdx = frame.raw();
        let info = asked("describe it", control::domain_info(self.domain))?;
        self.edit_page(frame, |start: &mut StartInfo| {
            let store = self.frame(Pfn::new(start.store_mfn)).context("its store's ring")?;
            let console = self.frame(Pfn::new(start.console_mfn)).context("its console's ring")?;
            start.nr_pages = self.pages.len() as u64;
            start.shared_info = info.shared_info_frame * PAGE_SIZE as u64;
            start.flags = 0;
            (start.store_mfn, start.store_evtchn) = (store.raw(), self.ports.0);
            (start.console_mfn, start.console_evtchn) = (console.raw(), self.ports.1);
            Ok((store, console))
        })
    }

    /// What the vcpus and the architecture had there; no event waits, and all are masked.
    fn write_shared_info(&self) -> Result<()> {
        let saved = self.shared_info.as_ref().context("it has no shared info")?;
        let info = asked("describe it", control::domain_info(self.domain))?;
        self.edit_page(Mfn::new(info.shared_info_frame), |page: &mut SharedInfo| {
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
        let (mut full, mut gone) = (Vec::new(), Vec::new());
        for (page, kind) in &list {
            let known = self.page_mut(*page)?;
            known.kind = *kind;
            if record::has_contents(*kind)? {
                full.push((*page, kind & KIND_LEVEL));
            } else if *kind == KIND_NONE && known.frame != Mfn::INVALID {
                // The guest gave it away while it was on its way here.
                gone.push(core::mem::replace(&mut known.frame, Mfn::INVALID));
            }
        }
        self.populated -= gone.len() as u64;
        if control::take_back(self.domain, &gone).is_err() {
            bail!("the hypervisor refuses to take back memory that the guest gave away");
        }
        let wanted: Vec<Pfn> = list.iter().filter(|(_, kind)| *kind != KIND_NONE).map(|(page, _)| *page).collect();
        self.populate(&wanted)?;
        for batch in full.chunks(BATCH) {
            let mut contents: Vec<Table> = vec![[0; ENTRIES]; batch.len()];
            source.read(contents.as_mut_bytes()).await?;
            for (table, (page, level)) in contents.iter_mut().zip(batch) {
                if *level != 0 {
                    let place = || format!("the page table in page {:#x}", page.raw());
                    self.localize(*level, table).with_context(place)?;
                }
            }
            self.fill(batch.iter().map(|(page, _)| *page), &contents)?;
            task::yield_now().await;
        }
        self.taken += list.len();
        self.progress.reach(self.taken);
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

fn beyond(page: Pfn) -> String {
    format!("page {:#x} is beyond its p2m", page.raw())
}

fn read_words<const N: usize>(bytes: &[u8]) -> Result<[u32; N]> {
    <[u32; N]>::read_from_bytes(bytes).map_err(|_| anyhow!("a record has {} bytes, not {}", bytes.len(), 4 * N))
}
