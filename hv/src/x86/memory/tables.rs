//! The hypervisor's page tables: slots 256 to 271, the same in every address space, each page with the least rights.
//!
//! Built once on top of the boot tables (`entry::boot`), whose first 4 GiB of direct map stay.

use super::super::percpu::{GUARD_OFFSET, STACK_BYTES};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_hv::addr::MachineAddr;
use oxen_hv::layout::{CPU_WINDOW_START, DIRECT_MAP_START, FIRST_HV_SLOT, IMAGE_START};
use x86_64::structures::paging::PageTableFlags;

/// A page table.
pub(crate) type Table = [AtomicU64; 512];

/// A table of the next level, any rights: those of the leaf decide.
const LINK: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::ACCESSED);
/// Read-only data.
pub(super) const READ: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::ACCESSED).union(PageTableFlags::NO_EXECUTE);
/// Data.
pub(super) const READ_WRITE: PageTableFlags = READ.union(PageTableFlags::WRITABLE).union(PageTableFlags::DIRTY);
/// Code.
const EXECUTE: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::ACCESSED);
/// Device registers.
pub(super) const DEVICE: PageTableFlags =
    READ_WRITE.union(PageTableFlags::WRITE_THROUGH).union(PageTableFlags::NO_CACHE);
/// Ring 3 may use it.
const USER: PageTableFlags = PageTableFlags::USER_ACCESSIBLE;

/// Bits of an entry that say where.
const ADDRESS: u64 = 0xf_ffff_ffff_f000;

const PAGE: u64 = 4096;
/// Pages from one CPU's window to the next.
pub(super) const WINDOW_PAGES: usize = 64;
const LARGE_PAGE: u64 = 2 << 20;
/// The 2 MiB into which the loader puts the image.
const LOAD_ADDRESS: u64 = 2 << 20;
/// Bytes that the boot tables map.
const EARLY_REACH: u64 = 4 << 30;
/// Where device registers are mapped: the last 2 MiB of the image's GiB.
const DEVICE_START: u64 = CPU_WINDOW_START - LARGE_PAGE;

unsafe extern "C" {
    static early_l4: Table;
    static early_l3_low: Table;
    static hv_l3_image: Table;
    static hv_l3_direct: Table;
    static hv_l2_image: Table;
    static early_l2: [Table; 4];
    safe static image_start: u8;
    safe static text_end: u8;
    safe static rodata_end: u8;
    safe static image_end: u8;
    safe static boot_cpu_stack: u8;
    safe static secondary_stacks: u8;
}

/// Tables that the image itself holds.
#[repr(C, align(4096))]
struct Own([Table; 5]);
static OWN: Own = Own([const { [const { AtomicU64::new(0) }; 512] }; 5]);

fn own(index: usize) -> &'static Table {
    #[expect(clippy::indexing_slicing, reason = "five tables, named below")]
    &OWN.0[index]
}
/// The image in 4 KiB pages.
fn image_l1() -> &'static Table {
    own(0)
}
/// The same 2 MiB in the direct map.
fn alias_l1() -> &'static Table {
    own(1)
}
fn device_l1() -> &'static Table {
    own(2)
}
fn window_l2() -> &'static Table {
    own(3)
}
/// The table for a page of the windows, counted from their start, if it is there.
pub(super) fn window_l1(page: usize) -> Option<&'static Table> {
    let entry = get(window_l2(), page as u64 >> 9);
    // SAFETY: what is there was put there by `protect_image` or `map_secondary`: links to tables.
    is_present(entry).then(|| unsafe { table_at(entry & ADDRESS) })
}

/// The machine address of something in the image.
pub(crate) fn image_machine_address<T>(thing: *const T) -> u64 {
    thing as u64 - IMAGE_START
}

/// The machine address of something in the direct map.
pub(crate) fn direct_machine_address<T>(thing: *const T) -> u64 {
    thing as u64 - DIRECT_MAP_START
}

/// Where the image lies in machine memory.
pub(crate) fn image_range() -> core::ops::Range<u64> {
    image_machine_address(&raw const image_start)..image_machine_address(&raw const image_end)
}

/// The frame with this machine address, through the direct map.
///
/// # Safety
/// It must be mapped there, and used as a page table only.
pub(super) unsafe fn table_at(machine: u64) -> &'static Table {
    // SAFETY: the caller's duty; a table is nothing but atomic words.
    unsafe { &*((DIRECT_MAP_START + machine) as *const Table) }
}

/// The entry that shows a frame, or a table, with these rights.
pub(super) const fn entry(machine: u64, rights: PageTableFlags) -> u64 {
    machine | rights.bits()
}

const fn is_present(entry: u64) -> bool {
    PageTableFlags::from_bits_retain(entry).contains(PageTableFlags::PRESENT)
}

fn set(table: &Table, index: u64, entry: u64) {
    if let Some(word) = table.get(index as usize & 511) {
        word.store(entry, Ordering::Release);
    }
}

fn get(table: &Table, index: u64) -> u64 {
    table.get(index as usize & 511).map_or(0, |word| word.load(Ordering::Acquire))
}

/// The table that `table[index]` points to, made with `frames` where there is none.
///
/// # Safety
/// `table` is one of the hypervisor's, its entry is empty or a link; `frames` gives zeroed frames in the direct map.
unsafe fn below(table: &Table, index: u64, frames: &mut impl FnMut() -> u64) -> &'static Table {
    let mut link = get(table, index);
    if !is_present(link) {
        link = entry(frames(), LINK);
        set(table, index, link);
    }
    // SAFETY: the entry is a link, by the caller's word or just made.
    unsafe { table_at(link & ADDRESS) }
}

/// Extends the direct map to all RAM below `end`, in 2 MiB pages.
///
/// # Safety
/// On the boot CPU, before anything relies on what lies there; `frames` gives zeroed frames below 4 GiB.
pub(crate) unsafe fn extend_direct_map(end: u64, mut frames: impl FnMut() -> u64) {
    let mut machine = EARLY_REACH;
    while machine < end {
        // SAFETY: the direct map's tables are the hypervisor's.
        let l2 = unsafe { below(&hv_l3_direct, machine >> 30, &mut frames) };
        set(l2, machine >> 21, entry(machine, READ_WRITE | PageTableFlags::HUGE_PAGE));
        machine += LARGE_PAGE;
    }
}

/// Takes what no RAM is behind out of the direct map: `is_used` says of each 2 MiB whether anything in it is.
///
/// # Safety
/// On the boot CPU, when nothing outside what `is_used` keeps will be touched through the direct map.
pub(crate) unsafe fn trim_direct_map(is_used: impl Fn(core::ops::Range<u64>) -> bool) {
    // SAFETY: the boot tables are the hypervisor's, and atomic.
    let tables = unsafe { &early_l2 };
    for (machine, word) in (0..).step_by(LARGE_PAGE as usize).zip(tables.iter().flatten()) {
        if machine != LOAD_ADDRESS && !is_used(machine..machine + LARGE_PAGE) {
            word.store(0, Ordering::Release);
        }
    }
}

/// Shows the machine-to-phys table to guests, read-only, in slot 256.
///
/// # Safety
/// `machine` is where it is: whole frames, the hypervisor's for good, below `machine + bytes`.
pub(crate) unsafe fn map_machine_to_phys(machine: u64, bytes: u64, mut frames: impl FnMut() -> u64) {
    for done in (0..bytes).step_by(PAGE as usize) {
        // SAFETY: slot 256 is the hypervisor's and holds nothing else.
        let (l3, l2, l1) = unsafe {
            let l3 = below(&early_l4, FIRST_HV_SLOT as u64, &mut frames);
            let l2 = below(l3, done >> 30, &mut frames);
            (l3, l2, below(l2, done >> 21, &mut frames))
        };
        set(l1, done >> 12, entry(machine + done, READ | USER));
        // SAFETY: the boot CPU's root is the hypervisor's own, and atomic.
        for (table, index) in [(unsafe { &early_l4 }, FIRST_HV_SLOT as u64), (l3, done >> 30), (l2, done >> 21)] {
            set(table, index, entry(get(table, index), USER));
        }
    }
}

/// Gives every page of the image its rights, unmaps the guard page and the loader's one-to-one map, and flushes.
///
/// # Safety
/// On the boot CPU, running at the link address, when nothing below the hypervisor's slots is needed any more.
pub(crate) unsafe fn protect_image() {
    let [start, code_end, constants_end, end, stack] = [
        &raw const image_start,
        &raw const text_end,
        &raw const rodata_end,
        &raw const image_end,
        &raw const boot_cpu_stack,
    ]
    .map(image_machine_address);
    let guard = stack + GUARD_OFFSET as u64;
    for machine in (LOAD_ADDRESS..LOAD_ADDRESS + LARGE_PAGE).step_by(PAGE as usize) {
        let (rights, alias) = match machine {
            m if m < code_end && m >= start => (Some(EXECUTE), READ),
            m if m < constants_end => (Some(READ), READ),
            m if m == guard => (None, READ_WRITE),
            m if m < end => (Some(READ_WRITE), READ_WRITE),
            _ => (None, READ_WRITE),
        };
        set(image_l1(), machine >> 12, rights.map_or(0, |rights| entry(machine, rights)));
        set(alias_l1(), machine >> 12, entry(machine, alias));
    }
    // SAFETY: the tables are the hypervisor's; the pages it runs on keep the rights that it uses.
    unsafe {
        set(window_l2(), 0, entry(image_machine_address(own(4)), LINK));
        set(&hv_l3_image, CPU_WINDOW_START >> 30, entry(image_machine_address(window_l2()), LINK));
        set(&hv_l2_image, DEVICE_START >> 21, entry(image_machine_address(device_l1()), LINK));
        set(&hv_l2_image, LOAD_ADDRESS >> 21, entry(image_machine_address(image_l1()), LINK));
        set(&early_l2[0], LOAD_ADDRESS >> 21, entry(image_machine_address(alias_l1()), LINK));
        set(&early_l4, 0, 0);
    }
    super::super::cpu::flush();
}

/// Shows in `root` the page at an address of the image or of a stack as the hypervisor's own tables show it.
///
/// # Safety
/// As for [`below`], of which `root` is the top.
pub(super) unsafe fn show_alike(root: &Table, address: u64, frames: &mut impl FnMut() -> u64) {
    // SAFETY: the image's tables are the hypervisor's, and hold small pages; the caller's word for the rest.
    unsafe {
        let own = table_at(get(&hv_l2_image, address >> 21) & ADDRESS);
        let l3 = below(root, address >> 39, frames);
        let l2 = below(l3, address >> 30, frames);
        set(below(l2, address >> 21, frames), address >> 12, get(own, address >> 12));
    }
}

/// Shows in `root` the table of level 1 that an address of the windows is in.
///
/// # Safety
/// As for [`below`], of which `root` is the top.
pub(super) unsafe fn share_window(root: &Table, address: u64, frames: &mut impl FnMut() -> u64) {
    // SAFETY: as there.
    unsafe {
        let l3 = below(root, address >> 39, frames);
        set(below(l3, address >> 30, frames), address >> 21, get(window_l2(), address >> 21));
    }
}

/// Maps the stack area of a CPU that is not the boot CPU, all but its guard page, and makes room for its
/// window. Returns where the area ends.
///
/// # Safety
/// Once for each `number`, from 1, by one CPU at a time; `frames` gives zeroed frames of the direct map, for good.
pub(crate) unsafe fn map_secondary(number: usize, mut frames: impl FnMut() -> u64) -> u64 {
    let start = &raw const secondary_stacks as u64 + ((number - 1) * STACK_BYTES) as u64;
    for address in (start..start + STACK_BYTES as u64).step_by(PAGE as usize) {
        // SAFETY: the image's tables are the hypervisor's, and nothing else is linked where the stacks are.
        let l1 = unsafe { below(&hv_l2_image, address >> 21, &mut frames) };
        if address != start + GUARD_OFFSET as u64 {
            set(l1, address >> 12, entry(frames(), READ_WRITE));
        }
    }
    // SAFETY: likewise the windows' tables.
    unsafe { below(window_l2(), (CPU_WINDOW_START + WINDOW_PAGES as u64 * PAGE * number as u64) >> 21, &mut frames) };
    start + STACK_BYTES as u64
}

/// Shows the hypervisor's own root the lowest memory one to one, executable, while CPUs start; or no more.
///
/// # Safety
/// On the boot CPU; nobody else uses the hypervisor's own root meanwhile but CPUs that start.
pub(crate) unsafe fn show_low_memory(shown: bool) {
    // SAFETY: the tables are the hypervisor's; the boot tables of the lowest GiB are as they were.
    unsafe {
        let low = if shown { entry(image_machine_address(&raw const early_l3_low), LINK) } else { 0 };
        set(&early_l4, 0, low);
    }
    super::super::cpu::flush();
}

/// Maps a page of device registers, uncached, for good. Returns where it is seen; `None` when 512 of them are mapped.
pub(crate) fn map_device(machine: u64) -> Option<u64> {
    let wanted = entry(machine & !(PAGE - 1), DEVICE);
    let index = device_l1().iter().position(|word| {
        let seen = word.load(Ordering::Acquire);
        seen == wanted || word.compare_exchange(0, wanted, Ordering::AcqRel, Ordering::Acquire).is_ok()
    })?;
    Some(DEVICE_START + index as u64 * PAGE + machine % PAGE)
}

/// The L4 entries of the hypervisor's slots, 256 to 271: what every guest's L4 holds there.
pub(crate) fn hypervisor_slots() -> [u64; 16] {
    // SAFETY: the boot CPU's root is the hypervisor's own, and atomic.
    let root = unsafe { &early_l4 };
    core::array::from_fn(|i| get(root, (FIRST_HV_SLOT + i) as u64))
}

/// The hypervisor's own root, for a CPU that runs no guest.
pub(crate) fn own_root() -> MachineAddr {
    MachineAddr::new(image_machine_address(&raw const early_l4))
}
