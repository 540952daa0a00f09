//! Each CPU's window on descriptor tables: 16 pages of GDT (14 of the running guest's, the hypervisor's), 16 of LDT.
//! And on one page of device registers at a time.

use super::tables::{self, DEVICE, READ, READ_WRITE, WINDOW_PAGES as STRIDE, entry};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_hv::domain::vcpu::LDT_PAGES;
use oxen_hv::layout::CPU_WINDOW_START;
use oxen_hv::mem::RamFrame;

const PAGE: u64 = 4096;
/// The hypervisor's own page of the GDT.
const OWN_GDT_PAGE: usize = 14;
/// First page of the LDT.
const LDT_PAGE: usize = 16;

/// The page for device registers.
const DEVICE_PAGE: usize = 32;

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
    /// The window of a CPU, if there is a table for it.
    pub(crate) fn of(cpu: usize) -> Option<Self> {
        let first = cpu * STRIDE;
        let entries = tables::window_l1(first)?.get(first % 512..first % 512 + STRIDE)?;
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

    /// How far into the guest's LDT an address of the window is.
    pub(crate) fn ldt_offset(self, address: u64) -> Option<u64> {
        address.checked_sub(self.ldt_base()).filter(|&offset| offset < LDT_PAGES as u64 * PAGE)
    }

    fn put(self, page: usize, entry: u64) {
        if let Some(word) = self.entries.get(page)
            && word.load(Ordering::Relaxed) != entry
        {
            word.store(entry, Ordering::Release);
            super::super::cpu::invalidate(self.base + page as u64 * PAGE);
        }
    }

    /// Puts the CPU's own page in place, once.
    pub(crate) fn show_own_gdt(self, machine: u64) {
        self.put(OWN_GDT_PAGE, entry(machine, READ_WRITE));
    }

    /// Shows a guest's GDT; what it does not have are null descriptors.
    pub(crate) fn show_gdt(self, frames: &[Option<RamFrame>; 14]) {
        let zero = entry(tables::image_machine_address(&raw const ZERO_PAGE), READ);
        for (page, frame) in frames.iter().enumerate() {
            self.put(page, frame.map_or(zero, |frame| entry(frame.mfn().address().as_u64(), READ_WRITE)));
        }
    }

    /// Shows the page of a device's registers at a machine address for as long as `work` takes, which gets the address
    /// where they are seen.
    pub(crate) fn with_device<R>(self, machine: u64, work: impl FnOnce(u64) -> R) -> R {
        self.put(DEVICE_PAGE, entry(machine & !(PAGE - 1), DEVICE));
        let result = work(self.base + DEVICE_PAGE as u64 * PAGE + machine % PAGE);
        self.put(DEVICE_PAGE, 0);
        result
    }

    /// Shows a guest's LDT, as far as it was used.
    pub(crate) fn show_ldt(self, frames: &[Option<RamFrame>; LDT_PAGES]) {
        for (page, frame) in frames.iter().enumerate() {
            self.put(LDT_PAGE + page, frame.map_or(0, |frame| entry(frame.mfn().address().as_u64(), READ_WRITE)));
        }
    }
}
