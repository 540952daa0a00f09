//! Each CPU's window on descriptor tables: 16 pages of GDT (14 of the running guest's, the hypervisor's), 16 of LDT.

use super::tables::{self, READ, READ_WRITE};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_hv::addr::Mfn;
use oxen_hv::layout::CPU_WINDOW_START;

/// Pages from one CPU's window to the next.
const STRIDE: usize = 64;
const PAGE: u64 = 4096;
/// The hypervisor's own page of the GDT.
const OWN_GDT_PAGE: usize = 14;
/// First page of the LDT, and how many it may have.
const LDT_PAGE: usize = 16;
const LDT_PAGES: usize = 16;

/// Null descriptors: what a guest finds beyond its GDT.
#[repr(C, align(4096))]
struct ZeroPage([u64; 512]);
static ZERO_PAGE: ZeroPage = ZeroPage([0; 512]);

/// A CPU's window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    base: u64,
    entries: &'static [AtomicU64],
}

impl Window {
    /// The window of a CPU, if the tables have room for it.
    pub(crate) fn of(cpu: usize) -> Option<Self> {
        let entries = tables::window_l1().get(cpu * STRIDE..(cpu + 1) * STRIDE)?;
        Some(Self { base: CPU_WINDOW_START + (cpu * STRIDE) as u64 * PAGE, entries })
    }

    /// Where the CPU's GDT begins.
    pub(crate) fn gdt_base(self) -> u64 {
        self.base
    }

    /// Where the CPU's LDT begins.
    pub(crate) fn ldt_base(self) -> u64 {
        self.base + LDT_PAGE as u64 * PAGE
    }

    /// The page of the guest's LDT that an address in the window stands for.
    pub(crate) fn ldt_page(self, address: u64) -> Option<usize> {
        let page = address.checked_sub(self.ldt_base())? / PAGE;
        usize::try_from(page).ok().filter(|&page| page < LDT_PAGES)
    }

    fn put(self, page: usize, entry: u64) {
        if let Some(word) = self.entries.get(page)
            && word.swap(entry, Ordering::AcqRel) != entry
        {
            super::super::cpu::invalidate(self.base + page as u64 * PAGE);
        }
    }

    /// Puts the CPU's own page in place, once.
    pub(crate) fn show_own_gdt(self, machine: u64) {
        self.put(OWN_GDT_PAGE, machine | READ_WRITE);
    }

    /// Shows a guest's GDT; what it does not have are null descriptors.
    pub(crate) fn show_gdt(self, frames: &[Option<Mfn>; 14]) {
        let zero = tables::image_machine_address(&raw const ZERO_PAGE) | READ;
        for (page, frame) in frames.iter().enumerate() {
            self.put(page, frame.map_or(zero, |mfn| mfn.address().0 | READ_WRITE));
        }
    }

    /// Shows one page of a guest's LDT.
    pub(crate) fn show_ldt_page(self, page: usize, mfn: Mfn) {
        self.put(LDT_PAGE + page.min(LDT_PAGES - 1), mfn.address().0 | READ_WRITE);
    }

    /// Hides the guest's LDT; pages come back as they are used.
    pub(crate) fn hide_ldt(self) {
        for page in 0..LDT_PAGES {
            self.put(LDT_PAGE + page, 0);
        }
    }
}
