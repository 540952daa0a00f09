//! Building a guest: its memory laid out, filled from dom0, its first vcpu made ready.

pub mod layout;
pub mod shell;

use alloc::{boxed::Box, vec, vec::Vec};
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, ensure};
use oxen_abi::domid::DomId;
use oxen_abi::guest_context::VcpuGuestContext;
use oxen_abi::segments::{ContextFlags, FLAT_KERNEL_CS, FLAT_KERNEL_SS, XEN_LEGACY_MAX_VCPUS};
use oxen_abi::shared_info::{SharedInfo, VcpuInfo};
use oxen_abi::start_info::{MAGIC_DOMU, MAX_GUEST_CMDLINE, StartFlags, StartInfo};
use oxen_domu_lib::memory::{
    Mfn,
    map::{Access, Mapping, Words},
};
use oxen_domu_lib::{control, task};
use zerocopy::{FromZeros, IntoBytes};

use layout::PAGE;
use oxen_abi::start_of_day::Layout;
use oxen_image::{Image, Kernel};
use shell::{Shell, asked};

/// Pages that are mapped or asked for at a time.
const BATCH: usize = 512;

/// What a guest is built from.
pub struct Plan<'a> {
    /// The domain that it is built in.
    pub shell: Shell,
    /// What the kernel's file says.
    pub image: &'a Image,
    /// The ramdisk, unpacked; empty for none.
    pub ramdisk: &'a [u8],
    /// The kernel's command line.
    pub cmdline: &'a str,
}

/// A domain that is ready to run.
#[derive(Clone, Copy, Debug)]
pub struct Built {
    /// Its number.
    pub domain: DomId,
    /// The store's ring.
    pub store: Mfn,
    /// Its port for the store.
    pub store_port: u32,
    /// The console's ring.
    pub console: Mfn,
    /// Its port for the console.
    pub console_port: u32,
    /// KiB that image, ramdisk and tables take.
    pub used: u64,
}

/// Makes the domain; whatever fails, nothing of it stays.
///
/// # Errors
/// The kernel cannot be laid out in the guest's memory, the machine lacks memory, the kernel's file is damaged, or the
/// hypervisor refuses a step.
pub async fn build(plan: &Plan<'_>, kernel: &mut Kernel<'_>) -> Result<Built> {
    let (image, shell) = (plan.image, &plan.shell);
    ensure!(
        image.can_be_translated || !shell.is_translated,
        "`translated`: the kernel does not say that it can do so (auto_translated_physmap)"
    );
    let layout = layout::lay_out(plan.image, plan.ramdisk.len() as u64, plan.shell.pages)?;
    let (length, most) = (plan.cmdline.len(), MAX_GUEST_CMDLINE - 1);
    ensure!(length <= most, "the command line has {length} bytes; {most} fit");
    let domain = plan.shell.make()?;
    let built = Builder { plan, layout, domain, frames: Vec::new() }.build(kernel).await;
    if built.is_err() {
        // The reason for the failure says more than a failure to clean up could.
        let _ = control::destroy_domain(domain);
    }
    built
}

struct Builder<'a> {
    plan: &'a Plan<'a>,
    layout: Layout,
    domain: DomId,
    /// The frame behind each page.
    frames: Vec<Mfn>,
}

impl Builder<'_> {
    async fn build(mut self, kernel: &mut Kernel<'_>) -> Result<Built> {
        let domain = self.domain;
        let (store_port, console_port) = self.plan.shell.equip(domain)?;
        self.frames = self.plan.shell.populate(domain).await?;
        self.plan.shell.place_shared(domain)?;
        self.load_image(kernel).await?;
        let ramdisk = self.layout.initrd.as_ref().map_or(0, |pages| pages.start);
        self.load(ramdisk * PAGE, self.plan.ramdisk, self.plan.ramdisk.len()).await?;
        self.write_p2m().await?;
        self.write_tables().await?;
        self.write_start_info(store_port, console_port).await?;
        if let Some(address) = self.plan.image.hypercall_page {
            let frame = self.frame_at(address);
            asked("fill its hypercall page", control::fill_hypercall_page(domain, frame))?;
        }
        shell::offer_rings(domain, self.frame_at(self.store()), self.frame_at(self.console()))?;
        let root = self.frame_at(self.layout.pt_base);
        asked("accept its page tables", control::pin_root(domain, root))?;
        asked("set up its vcpu", control::set_vcpu_context(domain, 0, &self.context(root)))?;
        Ok(Built {
            domain,
            store: self.frame_at(self.store()),
            store_port,
            console: self.frame_at(self.console()),
            console_port,
            used: self.layout.first_free_pfn * PAGE / 1024,
        })
    }

    fn frame(&self, pfn: u64) -> Mfn {
        let index = usize::try_from(pfn).unwrap_or(usize::MAX);
        self.frames.get(index).copied().unwrap_or(Mfn::INVALID)
    }

    /// The frame behind an address of the initial mapping.
    fn frame_at(&self, address: u64) -> Mfn {
        self.frame(self.layout.pfn(address).unwrap_or(u64::MAX))
    }

    /// The addresses of the two rings, which every guest's layout has.
    fn store(&self) -> u64 {
        self.layout.xenstore.unwrap_or(0)
    }

    fn console(&self) -> u64 {
        self.layout.console.unwrap_or(0)
    }

    /// Puts each piece of the kernel's file where its segments want it, and zeros behind them.
    async fn load_image(&self, kernel: &mut Kernel<'_>) -> Result<()> {
        let image = self.plan.image;
        let (needed, mut at) = (image.file_end(), 0);
        while at < needed {
            let piece = kernel.next_piece().map_err(|why| anyhow!("kernel: {why}"))?;
            let piece = piece.context("the kernel's file is shorter than its headers say")?;
            for (address, part) in image.parts(at, piece) {
                self.load(address - self.layout.virt_base, part, part.len()).await?;
            }
            at += piece.len();
        }
        for segment in &image.segments {
            let zeros =
                usize::try_from(segment.memory).ok().context("a segment is larger than memory")? - segment.bytes;
            let place = segment.start - self.layout.virt_base + segment.bytes as u64;
            self.load(place, &[], zeros).await?;
        }
        Ok(())
    }

    /// Writes `bytes` at `place` (counted from page 0), and zeros behind them up to `length`.
    async fn load(&self, place: u64, bytes: &[u8], length: usize) -> Result<()> {
        let mut done = 0;
        while done < length {
            let at = place + done as u64;
            let offset = usize::try_from(at % PAGE).unwrap_or(0);
            let now = (length - done).min(BATCH * 4096 - offset);
            let first = usize::try_from(at / PAGE).unwrap_or(usize::MAX);
            let frames: Vec<Mfn> =
                self.frames.iter().skip(first).take((offset + now).div_ceil(4096)).copied().collect();
            let window = self.map(&frames)?;
            let part = bytes.get(done.min(bytes.len())..(done + now).min(bytes.len())).unwrap_or_default();
            copy_into(&window, offset, part);
            zero(&window, offset + part.len(), now - part.len());
            done += now;
            drop(window);
            task::yield_now().await;
        }
        Ok(())
    }

    fn map(&self, frames: &[Mfn]) -> Result<Mapping> {
        asked("map its memory", Mapping::of(self.domain, frames, Access::ReadWrite))
    }

    async fn write_p2m(&self) -> Result<()> {
        let list = self.frames.as_bytes();
        self.load(self.layout.p2m.start * PAGE, list, list.len().next_multiple_of(4096)).await
    }

    async fn write_tables(&self) -> Result<()> {
        let frame = |pfn: u64| self.frame(pfn);
        for table in self.layout.tables() {
            let entries = layout::entries(&self.layout, &table, &frame);
            self.load(table.pfn * PAGE, entries.as_bytes(), 4096).await?;
        }
        Ok(())
    }

    async fn write_start_info(&self, store_port: u32, console_port: u32) -> Result<()> {
        let info = asked("describe it", control::domain_info(self.domain))?;
        self.mask_events(Mfn::new(info.shared_info_frame))?;
        let layout = &self.layout;
        let mut start = Box::new(StartInfo::new_zeroed());
        put_text(&mut start.magic, MAGIC_DOMU);
        put_text(&mut start.cmd_line, self.plan.cmdline.as_bytes());
        start.nr_pages = self.plan.shell.pages;
        start.shared_info = info.shared_info_frame * PAGE;
        start.store_mfn = self.frame_at(self.store()).raw();
        start.store_evtchn = store_port;
        start.console_mfn = self.frame_at(self.console()).raw();
        start.console_evtchn = console_port;
        start.pt_base = layout.pt_base;
        start.nr_pt_frames = layout.nr_pt_frames;
        start.mfn_list = layout.mfn_list;
        start.first_p2m_pfn = layout.p2m_frames.start;
        start.nr_p2m_frames = layout.p2m_frames.end - layout.p2m_frames.start;
        start.mod_len = self.plan.ramdisk.len() as u64;
        start.mod_start = layout.mod_start();
        let mut flags = StartFlags::empty();
        flags.set(StartFlags::MOD_START_PFN, self.plan.image.module_by_pfn && layout.initrd.is_some());
        start.flags = flags.bits();
        self.load(layout.start_info - layout.virt_base, start.as_bytes(), 4096).await?;
        for page in [self.store(), self.console(), layout.stack] {
            self.load(page - layout.virt_base, &[], 4096).await?;
        }
        Ok(())
    }

    /// No vcpu is to be told of events before its kernel says how.
    fn mask_events(&self, shared_info: Mfn) -> Result<()> {
        let page = self.map(&[shared_info])?;
        let mask = offset_of!(SharedInfo, vcpu_info) + offset_of!(VcpuInfo, evtchn_upcall_mask);
        let slots = page.bytes().iter().skip(mask).step_by(size_of::<VcpuInfo>());
        slots.take(XEN_LEGACY_MAX_VCPUS).for_each(|slot| slot.store(1, Ordering::Relaxed));
        Ok(())
    }

    fn context(&self, root: Mfn) -> Box<VcpuGuestContext> {
        let mut context = Box::new(VcpuGuestContext::new_zeroed());
        let stack = self.layout.stack_top();
        context.flags = u64::from((ContextFlags::IN_KERNEL | ContextFlags::ONLINE).bits());
        context.user_regs.rip = self.plan.image.entry;
        context.user_regs.rsp = stack;
        context.user_regs.rsi = self.layout.start_info;
        context.user_regs.rflags = 0x200;
        context.user_regs.cs = FLAT_KERNEL_CS;
        context.user_regs.ss = FLAT_KERNEL_SS;
        context.kernel_ss = FLAT_KERNEL_SS.into();
        context.kernel_sp = stack;
        if let Some(cr3) = context.ctrlreg.get_mut(3) {
            *cr3 = root.address();
        }
        context
    }
}

fn put_text(place: &mut [u8], text: &[u8]) {
    for (to, from) in place.iter_mut().zip(text) {
        *to = *from;
    }
}

/// Copies whole words where it can: an image has millions of bytes.
fn copy_into(window: &Mapping, offset: usize, bytes: &[u8]) {
    let lead = bytes.len().min(offset.next_multiple_of(8) - offset);
    let (head, rest) = bytes.split_at(lead);
    let (words, tail) = rest.as_chunks::<8>();
    let start = offset + lead;
    for (to, from) in window.words64().iter().skip(start / 8).zip(words) {
        to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
    }
    for (at, part) in [(offset, head), (start + words.len() * 8, tail)] {
        for (to, from) in window.bytes().iter().skip(at).zip(part) {
            to.store(*from, Ordering::Relaxed);
        }
    }
}

fn zero(window: &Mapping, offset: usize, length: usize) {
    let zeros = vec![0; 4096];
    let mut done = 0;
    while done < length {
        let now = (length - done).min(zeros.len());
        copy_into(window, offset + done, zeros.get(..now).unwrap_or_default());
        done += now;
    }
}
