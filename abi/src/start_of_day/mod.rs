//! Where everything lies in a PV domain's memory when it starts (`xen.h`, "start-of-day memory layout").
//!
//! Pure arithmetic, for whoever builds a domain: the hypervisor its control domain, the toolstack all others. One
//! contiguous region from the kernel's virtual base on maps the first pseudo-physical frames one to one: kernel,
//! initrd, frame list, start info, XenStore page, console page, page tables, boot stack, slack. The initrd and the
//! frame list may lie beyond, in the frames that follow; the frame list is then mapped in a place of its own.
//!
//! # Example
//!
//! ```
//! use oxen_abi::start_of_day::{Layout, Request};
//!
//! // A kernel of 1 MiB in a domain of 16 MiB.
//! let virt_base = 0xffff_ffff_8000_0000;
//! let request = Request {
//!     virt_base,
//!     kernel_end: virt_base + (1 << 20),
//!     nr_pages: 4096,
//!     initrd_len: 0,
//!     initrd_by_pfn: false,
//!     init_p2m: None,
//!     split_pages: true,
//! };
//! let layout = Layout::new(&request).unwrap();
//! assert!(layout.start_info >= request.kernel_end && layout.pt_base > layout.start_info);
//! ```

mod tables;
#[cfg(test)]
mod tests;

pub use tables::{Leaf, Table, Tables};

use core::ops::Range;
use tables::{Area, Maps};

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// The region ends on a multiple of this.
const REGION_ALIGN: u64 = 4 << 20;
/// Bytes that are mapped but unused at the region's end, at the least.
const SLACK: u64 = 512 << 10;

/// What to lay out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Virtual address of pseudo-physical address 0 (`XEN_ELFNOTE_VIRT_BASE`).
    pub virt_base: u64,
    /// Virtual address of the first byte beyond the kernel image, its zeroed memory included.
    pub kernel_end: u64,
    /// The domain's pages.
    pub nr_pages: u64,
    /// Bytes of the initrd; 0: none.
    pub initrd_len: u64,
    /// Whether the kernel takes the initrd's place as a frame number (`XEN_ELFNOTE_MOD_START_PFN`).
    pub initrd_by_pfn: bool,
    /// Where the kernel wants the frame list mapped, if it says (`XEN_ELFNOTE_INIT_P2M`).
    pub init_p2m: Option<u64>,
    /// Whether XenStore and console pages are needed: all but the control domain.
    pub split_pages: bool,
}

/// Why a request cannot be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// An address is not canonical, not aligned to pages, or before another it must follow.
    Address,
    /// A mapped area would reach into the hypervisor's part of the address space or over the end of it.
    Range,
    /// Both mapped areas overlap.
    Overlap,
    /// The domain has not enough pages.
    Memory,
}

/// Where everything lies. Virtual addresses unless named otherwise; page numbers are pseudo-physical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Start of the region, where frame 0 is mapped.
    pub virt_base: u64,
    /// The initrd's frames, if there is one.
    pub initrd: Option<Range<u64>>,
    /// The frame list.
    pub mfn_list: u64,
    /// The frame list's frames.
    pub p2m: Range<u64>,
    /// The frame list's frames and their page tables, when they lie beyond the region; else empty, at 0.
    pub p2m_frames: Range<u64>,
    /// The start info page.
    pub start_info: u64,
    /// The XenStore page, unless it is the control domain.
    pub xenstore: Option<u64>,
    /// The console page, unless it is the control domain.
    pub console: Option<u64>,
    /// The top page table; the region's others follow, highest level first.
    pub pt_base: u64,
    /// The region's page tables.
    pub nr_pt_frames: u64,
    /// The page of the boot stack.
    pub stack: u64,
    /// End of the region.
    pub end: u64,
    /// Frames from this one on are free.
    pub first_free_pfn: u64,
    maps: Maps,
}

impl Layout {
    /// Lays a domain out.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn new(request: &Request) -> Result<Self, Refused> {
        let Request { virt_base, nr_pages, .. } = *request;
        if virt_base % PAGE_SIZE != 0 || request.kernel_end < virt_base {
            return Err(Refused::Address);
        }
        let p2m_len = nr_pages.checked_mul(8).ok_or(Refused::Memory)?;
        let mut cursor = Cursor(request.kernel_end).aligned()?;
        let inner_initrd = if request.initrd_by_pfn { None } else { cursor.take_some(request.initrd_len)? };
        let inner_p2m = if request.init_p2m.is_some() { None } else { cursor.take_some(p2m_len)? };
        let start_info = cursor.take(PAGE_SIZE)?.start;
        let xenstore = cursor.take_some(if request.split_pages { PAGE_SIZE } else { 0 })?;
        let console = cursor.take_some(if request.split_pages { PAGE_SIZE } else { 0 })?;
        let (pt_base, region) = fit_tables(virt_base, cursor.0)?;
        let nr_pt_frames = region.table_count();
        let stack = pt_base + nr_pt_frames * PAGE_SIZE;

        let pfn = |va: u64| (va - virt_base) / PAGE_SIZE;
        let pfns = |range: Range<u64>| pfn(range.start)..pfn(range.end);
        let mut free = pfn(region.end());
        let outer_initrd = take_pages(&mut free, if request.initrd_by_pfn { request.initrd_len } else { 0 })?;
        let outer_p2m = take_pages(&mut free, if request.init_p2m.is_some() { p2m_len } else { 0 })?;
        let mut maps = Maps::new(region, pfn(pt_base), pfn(pt_base)..pfn(stack));
        let (mfn_list, p2m, p2m_frames) = match (request.init_p2m, inner_p2m) {
            (Some(base), _) => {
                let list = outer_p2m.ok_or(Refused::Memory)?;
                let area = Area::new(base, page_round(p2m_len)?)?;
                free = free.checked_add(maps.add(area, list.start, free)?).ok_or(Refused::Memory)?;
                (base, list.clone(), list.start..free)
            }
            (None, Some(list)) => (list.start, pfns(list), 0..0),
            (None, None) => return Err(Refused::Memory),
        };
        if free > nr_pages {
            return Err(Refused::Memory);
        }
        Ok(Self {
            virt_base,
            initrd: outer_initrd.or_else(|| inner_initrd.map(pfns)),
            mfn_list,
            p2m,
            p2m_frames,
            start_info,
            xenstore: xenstore.map(|page| page.start),
            console: console.map(|page| page.start),
            pt_base,
            nr_pt_frames,
            stack,
            end: region.end(),
            first_free_pfn: free,
            maps,
        })
    }

    /// The frame of an address in the region.
    #[must_use]
    pub fn pfn(&self, va: u64) -> Option<u64> {
        (self.virt_base..self.end).contains(&va).then(|| (va - self.virt_base) / PAGE_SIZE)
    }

    /// What `mod_start` of the start info says of the initrd: a frame number or an address; 0 without one.
    #[must_use]
    pub fn mod_start(&self) -> u64 {
        let Some(initrd) = &self.initrd else { return 0 };
        if initrd.start * PAGE_SIZE >= self.end - self.virt_base {
            initrd.start
        } else {
            self.virt_base + initrd.start * PAGE_SIZE
        }
    }

    /// First value of the stack pointer: the end of the boot stack's page.
    #[must_use]
    pub fn stack_top(&self) -> u64 {
        self.stack + PAGE_SIZE
    }

    /// All page tables, in the order of their frames.
    #[must_use]
    pub fn tables(&self) -> Tables<'_> {
        Tables::new(&self.maps)
    }

    /// Frame of the table of `level` (1 to 4) that covers `va`, if there is one.
    #[must_use]
    pub fn table(&self, level: u32, va: u64) -> Option<u64> {
        self.maps.table(level, va)
    }

    /// What is mapped at `va`.
    #[must_use]
    pub fn leaf(&self, va: u64) -> Option<Leaf> {
        self.maps.leaf(va)
    }
}

/// Finds the region that holds everything up to `used`, its own page tables, the boot stack and the slack.
fn fit_tables(virt_base: u64, used: u64) -> Result<(u64, Area), Refused> {
    let mut tables = 0;
    loop {
        let need = Cursor(used).take((tables + 1) * PAGE_SIZE + SLACK)?.end;
        let end = need.checked_next_multiple_of(REGION_ALIGN).ok_or(Refused::Range)?;
        let region = Area::new(virt_base, end - virt_base)?;
        // More tables can make the region longer, which can need more tables. It ends: one table maps 512 pages.
        if region.table_count() == tables {
            return Ok((used, region));
        }
        tables = region.table_count();
    }
}

/// Takes enough frames for `len` bytes; none for no bytes.
fn take_pages(free: &mut u64, len: u64) -> Result<Option<Range<u64>>, Refused> {
    let start = *free;
    *free = start.checked_add(len.div_ceil(PAGE_SIZE)).ok_or(Refused::Memory)?;
    Ok((len != 0).then_some(start..*free))
}

/// Rounds up to whole pages.
fn page_round(bytes: u64) -> Result<u64, Refused> {
    bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Refused::Range)
}

/// A virtual address that moves up as space is given out.
struct Cursor(u64);

impl Cursor {
    /// Moves to the next page boundary.
    fn aligned(self) -> Result<Self, Refused> {
        page_round(self.0).map(Self)
    }

    /// Gives out whole pages for `len` bytes.
    fn take(&mut self, len: u64) -> Result<Range<u64>, Refused> {
        let start = self.0;
        self.0 = start.checked_add(page_round(len)?).ok_or(Refused::Range)?;
        Ok(start..self.0)
    }

    /// Gives out whole pages for `len` bytes, or nothing for none.
    fn take_some(&mut self, len: u64) -> Result<Option<Range<u64>>, Refused> {
        if len == 0 { Ok(None) } else { self.take(len).map(Some) }
    }
}
