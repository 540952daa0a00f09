//! The first domain: built from boot modules, as a toolstack builds all others.

use crate::{
    Hypervisor,
    addr::{Mfn, PAGE_BYTES, TABLE_ENTRIES},
    domain::{
        Config, Domain, flags,
        regs::Regs,
        vcpu::{Pauses, Vcpu, VcpuState},
    },
    machine::Machine,
    mem::{RamFrame, editor::Editor, entry::Entry, frame_alloc},
    reply::Stop,
    stubs,
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    errno::Errno,
    segments::{FLAT_KERNEL_CS, FLAT_KERNEL_SS},
    start_info::{MAGIC_DOM0, MAX_GUEST_CMDLINE, StartFlags, StartInfo},
    start_of_day::{self, Layout, Request},
};
use oxen_image::{Image, Kernel, Refusal as ImageRefusal};
use x86_64::structures::paging::PageTableFlags;
use zerocopy::{FromZeros, IntoBytes};

/// What dom0 is made from.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The kernel's file: ELF, or packed as kernels are.
    pub kernel: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// The ramdisk; empty if there is none.
    pub ramdisk: &'a [u8],
    /// Bytes of memory that were asked for.
    pub memory: Option<u64>,
    /// Bytes that it may grow to, if said.
    pub max_memory: Option<u64>,
    /// Vcpus.
    pub vcpus: u32,
}

/// Why there is no dom0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The kernel cannot be built.
    Kernel(ImageRefusal),
    /// It says that it cannot be dom0.
    NotForDom0,
    /// It does not fit as it asks: `VIRT_BASE`, `INIT_P2M` and the rest contradict each other.
    Layout(start_of_day::Refused),
    /// It needs more memory: MiB needed at least, MiB given.
    TooLittleMemory(u64, u64),
    /// The machine has not got the memory, or it is in too many pieces.
    OutOfMemory,
    /// The tables that were built were refused, which is a bug.
    Tables(Stop),
}

impl core::fmt::Display for BuildError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Kernel(refusal @ ImageRefusal::Memory { .. }) => {
                write!(f, "dom0's kernel: {refusal}; give dom0 less (dom0_mem=), or the machine more")
            }
            Self::Kernel(refusal) => write!(f, "dom0's kernel is refused: {refusal}"),
            Self::NotForDom0 => {
                f.write_str("dom0's kernel does not name dom0 among what it supports (Xen note SUPPORTED_FEATURES)")
            }
            Self::Layout(refused) => write!(f, "dom0's kernel does not fit where its notes say: {refused:?}"),
            Self::TooLittleMemory(needed, given) => {
                write!(f, "dom0's kernel and ramdisk need {needed} MiB, dom0_mem gives {given} MiB")
            }
            Self::OutOfMemory => f.write_str("the machine has not enough memory for dom0: lower dom0_mem"),
            Self::Tables(refusal) => write!(f, "dom0's first page tables are refused: {refusal:?}"),
        }
    }
}

impl From<Errno> for BuildError {
    fn from(_: Errno) -> Self {
        Self::OutOfMemory
    }
}

/// The part of free memory that dom0 leaves to others if nobody says how much it gets, and the most that it leaves.
const SHARE_FOR_OTHERS: u64 = 16;
const MAX_FOR_OTHERS: u64 = (128 << 20) / PAGE_BYTES as u64;
/// Flags of first entries: present, writable, user, accessed, dirty.
const TABLE_FLAGS: PageTableFlags =
    Entry::PRESENT.union(Entry::WRITABLE).union(Entry::USER).union(Entry::ACCESSED).union(Entry::DIRTY);
/// Bits 8 to 15 of the start info's flags: which power management dom0 does (C and P states), as Xen leaves it.
const POWER_MANAGEMENT: u32 = 3 << 8;
/// Where the console's screen would be described, and how long that is: nothing is said of a screen.
const NO_SCREEN: u64 = 0;
/// Pieces of memory that dom0 may be put together from.
const MAX_PIECES: usize = 128;

impl<M: Machine> Hypervisor<M> {
    /// Builds dom0 and lets it go.
    ///
    /// # Errors
    /// Why it cannot be built, for the user to read. The machine has no use without it.
    pub fn build_dom0(&'static self, plan: &Plan<'_>) -> Result<Arc<Domain>, BuildError> {
        let (image, kernel) = Kernel::open(plan.kernel, self.room_for_unpacking(plan)).map_err(BuildError::Kernel)?;
        if image.refuses_dom0 {
            return Err(BuildError::NotForDom0);
        }
        let pages = self.pages_for_dom0(plan);
        let layout = lay_out(&image, plan, pages)?;
        let config = Config {
            max_vcpus: plan.vcpus,
            max_grant_frames: self.grants.max_frames,
            max_grant_version: self.grants.max_version,
            max_maptrack_frames: self.grants.max_maptrack_frames,
            ..Config::CONTROL
        };
        let domain = self.create_domain(&config)?;
        let limit = plan.max_memory.map_or(u64::from(u32::MAX), |bytes| bytes / PAGE_BYTES as u64).max(pages);
        domain.memory.max_pages.store(u32::try_from(limit).unwrap_or(u32::MAX), Ordering::Relaxed);
        for id in 0..plan.vcpus {
            self.add_vcpu(&domain, id)?;
        }
        let mut memory = DomainMemory { hv: self, domain: &domain, pieces: heapless::Vec::new() };
        memory.allocate(pages)?;
        memory.load(&image, kernel, &layout)?;
        memory.load_beside(&image, plan, &layout)?;
        memory.write_tables(&layout)?;
        memory.write_start_info(plan, &layout, pages)?;
        let root = memory.mfn(layout.pfn(layout.pt_base).ok_or(BuildError::OutOfMemory)?)?;
        let root = self.adopt_dom0_tables(&domain, root)?;
        let vcpu = domain.vcpu(0).ok_or(BuildError::OutOfMemory)?;
        set_first_context(vcpu, &image, &layout, root);
        self.unpause_by_controller(&domain)?;
        self.unpause_vcpu(vcpu, Pauses::DOWN);
        Ok(domain)
    }

    /// Validates the tables, pins their root as toolstacks do, and takes it for the first vcpu. Nothing else runs yet,
    /// so being asked to come back later means to go on at once.
    fn adopt_dom0_tables(&self, domain: &Domain, root: Mfn) -> Result<RamFrame, BuildError> {
        loop {
            let pinned = Editor::open(&self.memory, &domain.memory).and_then(|mut editor| {
                editor.pin(root, 4)?;
                editor.take_table(root, 4)
            });
            match pinned {
                Ok(root) => return Ok(root),
                Err(Stop::Unfinished) => {}
                Err(refusal) => return Err(BuildError::Tables(refusal)),
            }
        }
    }

    /// Bytes that unpacking the kernel may take: what dom0 does not, or half of all.
    fn room_for_unpacking(&self, plan: &Plan<'_>) -> usize {
        let free = u64::from(self.memory.frames.free_frames()) * PAGE_BYTES as u64;
        let room = plan.memory.map_or(free / 2, |asked| free.saturating_sub(asked));
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    fn pages_for_dom0(&self, plan: &Plan<'_>) -> u64 {
        let free = u64::from(self.memory.frames.free_frames());
        let asked = plan.memory.map(|bytes| bytes / PAGE_BYTES as u64);
        asked.unwrap_or_else(|| free - (free / SHARE_FOR_OTHERS).min(MAX_FOR_OTHERS))
    }
}

fn lay_out(image: &Image, plan: &Plan<'_>, pages: u64) -> Result<Layout, BuildError> {
    let request = Request {
        virt_base: image.virt_base,
        kernel_end: image.end,
        nr_pages: pages,
        initrd_len: plan.ramdisk.len() as u64,
        initrd_by_pfn: image.module_by_pfn,
        init_p2m: image.init_p2m,
        split_pages: false,
    };
    Layout::new(&request).map_err(|refused| {
        // What it would need is what it needs with all the memory in the world.
        let roomy = Layout::new(&Request { nr_pages: pages.max(1 << 24), ..request });
        match (refused, roomy) {
            (start_of_day::Refused::Memory, Ok(roomy)) => {
                BuildError::TooLittleMemory((roomy.first_free_pfn - (1 << 15)).div_ceil(256) + 2, pages / 256)
            }
            _ => BuildError::Layout(refused),
        }
    })
}

/// A run of pseudo-physical frames that is one of machine frames, too.
#[derive(Clone, Copy, Debug)]
struct Piece {
    pfn: u64,
    mfn: Mfn,
    pages: u64,
}

struct DomainMemory<'a, M: Machine> {
    hv: &'static Hypervisor<M>,
    domain: &'a Domain,
    pieces: heapless::Vec<Piece, MAX_PIECES>,
}

impl<M: Machine> DomainMemory<'_, M> {
    /// Takes `pages` frames, in pieces as large as there are.
    fn allocate(&mut self, pages: u64) -> Result<(), BuildError> {
        let mut pfn = 0;
        let mut order = frame_alloc::MAX_ORDER;
        while pfn < pages {
            order = order.min((pages - pfn).ilog2());
            match self.hv.memory.take_for(&self.domain.memory, order) {
                Ok(mfn) => {
                    self.add_piece(Piece { pfn, mfn, pages: 1 << order })?;
                    pfn += 1 << order;
                }
                Err(Stop::Unfinished) => {}
                Err(_) if order > 0 => order -= 1,
                Err(_) => return Err(BuildError::OutOfMemory),
            }
        }
        for piece in &self.pieces {
            for i in 0..piece.pages {
                if let Some(mfn) = piece.mfn.checked_add(i) {
                    self.hv.memory.set_m2p(mfn, piece.pfn + i);
                }
            }
        }
        Ok(())
    }

    /// Adds a piece, to the last one where it continues that.
    fn add_piece(&mut self, piece: Piece) -> Result<(), BuildError> {
        if let Some(last) = self.pieces.last_mut()
            && last.mfn.checked_add(last.pages) == Some(piece.mfn)
        {
            last.pages += piece.pages;
            return Ok(());
        }
        self.pieces.push(piece).map_err(|_| BuildError::OutOfMemory)
    }

    /// The machine frame behind a pseudo-physical one.
    fn mfn(&self, pfn: u64) -> Result<Mfn, BuildError> {
        let piece = self.pieces.iter().find(|p| pfn >= p.pfn && pfn - p.pfn < p.pages);
        piece.and_then(|p| p.mfn.checked_add(pfn - p.pfn)).ok_or(BuildError::OutOfMemory)
    }

    /// The same, to write to it.
    fn frame(&self, pfn: u64) -> Result<RamFrame, BuildError> {
        self.hv.memory.frames.ram_frame(self.mfn(pfn)?).ok_or(BuildError::OutOfMemory)
    }

    /// Writes bytes from the beginning of a frame on, over as many frames as they need. The frames are zero before.
    fn write(&self, pfn: u64, offset: usize, bytes: &[u8]) -> Result<(), BuildError> {
        let (head, rest) = bytes.split_at(bytes.len().min((PAGE_BYTES - offset) % PAGE_BYTES));
        let first = u64::from(!head.is_empty());
        for (place, byte) in self.hv.machine().bytes(self.frame(pfn)?).iter().skip(offset).zip(head) {
            place.store(*byte, Ordering::Relaxed);
        }
        for (page, pfn) in rest.chunks(PAGE_BYTES).zip(pfn + first..) {
            let frame = self.frame(pfn)?;
            let (words, tail) = page.as_chunks::<8>();
            for (place, word) in self.hv.machine().words(frame).iter().zip(words) {
                place.store(u64::from_le_bytes(*word), Ordering::Relaxed);
            }
            for (place, byte) in self.hv.machine().bytes(frame).iter().skip(words.len() * 8).zip(tail) {
                place.store(*byte, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The kernel, piece by piece as it is unpacked.
    fn load(&self, image: &Image, mut kernel: Kernel<'_>, layout: &Layout) -> Result<(), BuildError> {
        let (needed, mut at) = (image.file_end(), 0);
        while at < needed {
            let piece = kernel.next_piece().map_err(BuildError::Kernel)?;
            let cut = ImageRefusal::Cut { what: "its segments", end: needed as u64 };
            let piece = piece.ok_or(BuildError::Kernel(cut))?;
            for (address, part) in image.parts(at, piece) {
                let place = address - layout.virt_base;
                self.write(place / PAGE_BYTES as u64, place as usize % PAGE_BYTES, part)?;
            }
            at += piece.len();
        }
        Ok(())
    }

    /// The hypercall page, the ramdisk and the p2m list.
    fn load_beside(&self, image: &Image, plan: &Plan<'_>, layout: &Layout) -> Result<(), BuildError> {
        if let Some(page) = image.hypercall_page {
            self.write((page - layout.virt_base) / PAGE_BYTES as u64, 0, &stubs::page())?;
        }
        if let Some(frames) = &layout.initrd {
            self.write(frames.start, 0, plan.ramdisk)?;
        }
        for piece in &self.pieces {
            for i in 0..piece.pages {
                let index = (piece.pfn + i) as usize;
                let list = self.frame(layout.p2m.start + (index / TABLE_ENTRIES) as u64)?;
                if let Some(word) = self.hv.machine().words(list).get(index % TABLE_ENTRIES) {
                    word.store(piece.mfn.raw() + i, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// The page tables of the initial mapping; the tables themselves are mapped read-only.
    fn write_tables(&self, layout: &Layout) -> Result<(), BuildError> {
        for table in layout.tables() {
            let words = self.hv.machine().words(self.frame(table.pfn)?);
            for (index, word) in (0..).zip(words) {
                let va = table.entry_va(index);
                let (pfn, flags) = if table.level > 1 {
                    (layout.table(table.level - 1, va), TABLE_FLAGS)
                } else {
                    let leaf = layout.leaf(va);
                    let is_writable = leaf.is_some_and(|leaf| leaf.writable);
                    (leaf.map(|leaf| leaf.pfn), if is_writable { TABLE_FLAGS } else { TABLE_FLAGS - Entry::WRITABLE })
                };
                if let Some(pfn) = pfn {
                    word.store(Entry::to(self.mfn(pfn)?, flags).0, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    fn write_start_info(&self, plan: &Plan<'_>, layout: &Layout, pages: u64) -> Result<(), BuildError> {
        let mut info = StartInfo::new_zeroed();
        let by_pfn = layout.initrd.is_some() && layout.mod_start() < layout.virt_base.max(1 << 40);
        let mut flags = StartFlags::PRIVILEGED | StartFlags::INITDOMAIN;
        flags.set(StartFlags::MOD_START_PFN, by_pfn);
        copy(&mut info.magic, MAGIC_DOM0);
        info.nr_pages = pages;
        info.shared_info = self.domain.shared_info.mfn().address().as_u64();
        info.flags = flags.bits() | POWER_MANAGEMENT;
        info.console_mfn = NO_SCREEN;
        info.pt_base = layout.pt_base;
        info.nr_pt_frames = layout.nr_pt_frames;
        info.mfn_list = layout.mfn_list;
        info.mod_start = layout.mod_start();
        info.mod_len = plan.ramdisk.len() as u64;
        copy(info.cmd_line.get_mut(..MAX_GUEST_CMDLINE - 1).unwrap_or_default(), plan.command_line.as_bytes());
        info.first_p2m_pfn = layout.p2m_frames.start;
        info.nr_p2m_frames = layout.p2m_frames.end - layout.p2m_frames.start;
        self.write(layout.pfn(layout.start_info).ok_or(BuildError::OutOfMemory)?, 0, info.as_bytes())
    }
}

/// Copies as much as fits.
fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// The registers at the entry point (`xen.h`, "start-of-day").
fn set_first_context(vcpu: &Vcpu, image: &Image, layout: &Layout, root: RamFrame) {
    let mut slot = vcpu.slot.lock();
    let Some(state) = slot.as_mut() else { return };
    let VcpuState { regs, in_kernel, kernel_root, kernel_ss, kernel_sp, .. } = &mut **state;
    *regs = Regs {
        rip: image.entry,
        cs: FLAT_KERNEL_CS.into(),
        rflags: flags::AT_START,
        rsp: layout.stack_top(),
        ss: FLAT_KERNEL_SS.into(),
        rsi: layout.start_info,
        ..Regs::default()
    };
    *in_kernel = true;
    *kernel_root = Some(root);
    *kernel_ss = FLAT_KERNEL_SS.into();
    *kernel_sp = layout.stack_top();
    vcpu.is_initialised.store(true, Ordering::Release);
}
