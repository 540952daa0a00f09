//! Start of day: from the builder's page tables to a heap, in order.

mod entry;

use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::structures::paging::PageTableFlags;

use oxen_abi::domid::DomId;
use oxen_abi::mmu;
use oxen_abi::start_info::StartInfo;

use crate::pages::pool::{self, Pool};
use crate::pages::{Mfn, PAGE_SIZE, Pfn, layout, p2m};
use crate::raw::memory::tables::{self, bits};
use crate::raw::memory::{p2m_lists, reservation, view};
use crate::raw::{suspend, trap};
use crate::{console, event, panic, sched, start_info, time};

unsafe extern "C" {
    static oxen_stack_guard: u8;
    static __image_end: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    fn oxen_guest_main();
}

/// A page of the image that stands for pages not mapped yet, one after the other.
#[repr(C, align(4096))]
struct Window([AtomicU64; 512]);
static WINDOW: Window = Window([const { AtomicU64::new(0) }; 512]);

/// Where the entry code goes: nothing but the image, the stack and what `info` names is there yet.
extern "C" fn start(info: *const StartInfo) -> ! {
    // SAFETY: the builder passes the address of the start-of-day page, mapped and filled.
    let info = unsafe { &*info };
    trap::install(panic::exception);
    view::find_machine_to_phys();
    view::find_translation(info.shared_info);
    let pt_pfn = layout::pfn_of(info.pt_base);
    // SAFETY: the builder's list has `nr_pages` entries and nobody else uses it.
    let list = unsafe { view::words(info.mfn_list, info.nr_pages as usize) };
    p2m::install(list);
    tables::set_root(pt_pfn);
    suspend::map_shared_info(info.shared_info);
    start_info::install(info);
    suspend::keep(info);
    console::start();
    // SAFETY: nothing lives in the guard page; touching it is meant to be the end.
    let guarded = unsafe { tables::update_va_mapping((&raw const oxen_stack_guard) as u64, 0, mmu::UVMF_INVLPG) };
    assert!(guarded.is_ok(), "stack guard: {guarded:?}");
    protect_image();
    let limit = limit_from_map(info.nr_pages);
    lay_out_memory(info, limit);
    if !start_info::is_initial_domain() {
        p2m_lists::start();
    }
    if let Err(errno) = event::start() {
        crate::println!("events: {errno:?}; they come by two levels");
    }
    if let Err(errno) = time::start() {
        crate::println!("timer: {errno:?}; sleeping tasks will not wake up by themselves");
    }
    // SAFETY: `entry!` defines it as a Rust function without arguments.
    unsafe { oxen_guest_main() };
    sched::shutdown(sched::Reason::Poweroff)
}

/// The frame behind a page, [`Mfn::INVALID`] where there is none.
fn frame(pfn: u64) -> Mfn {
    p2m::mfn(Pfn::new(pfn)).unwrap_or(Mfn::INVALID)
}

/// How many pages the domain may ever have: what its memory map says, at least what it has now.
fn limit_from_map(now: u64) -> u64 {
    // Without a map (in dom0) the domain keeps to what it started with. A map is nothing to size tables by blindly.
    const MAX: u64 = 1 << 28;
    reservation::top_of_memory().unwrap_or(now).clamp(now, MAX.max(now))
}

/// Which pages the builder filled: everything below `end`, the module, the p2m.
struct Filled {
    end: u64,
    module: core::ops::Range<u64>,
    p2m: core::ops::Range<u64>,
}

impl Filled {
    fn of(info: &StartInfo) -> Self {
        let after = |address: u64, bytes: u64| layout::pfn_of(address).raw() + bytes.div_ceil(4096);
        let mut end = after((&raw const __image_end) as u64, 0);
        end = end.max(after(core::ptr::from_ref(info) as u64, 4096)).max(after(info.pt_base, info.nr_pt_frames * 4096));
        for mfn in start_info::ring_frames() {
            end = end.max(view::machine_to_phys(mfn).map_or(0, |pfn| pfn.raw() + 1));
        }
        let module_pages = info.mod_len.div_ceil(4096);
        let module = if module_pages == 0 {
            0..0
        } else if start_info::module_is_pfn() {
            info.mod_start..info.mod_start + module_pages
        } else {
            let first = layout::pfn_of(info.mod_start).raw();
            first..first + module_pages
        };
        let p2m = if info.mfn_list >= layout::VIRT_BASE {
            let first = layout::pfn_of(info.mfn_list).raw();
            first..after(info.mfn_list, info.nr_pages * 8)
        } else {
            info.first_p2m_pfn..info.first_p2m_pfn + info.nr_p2m_frames
        };
        for range in [&module, &p2m] {
            // Where these are mapped behind the image they stay mapped there.
            if range.start <= end && (info.mfn_list >= layout::VIRT_BASE || !start_info::module_is_pfn()) {
                end = end.max(range.end);
            }
        }
        Self { end, module, p2m }
    }

    fn is_taken(&self, pfn: u64) -> bool {
        pfn < self.end || self.module.contains(&pfn) || self.p2m.contains(&pfn)
    }

    /// The first of `count` neighbouring pages that the builder left alone.
    fn find_run(&self, count: u64, total: u64) -> u64 {
        let mut first = self.end;
        loop {
            let clash = (first..first + count).rev().find(|&pfn| self.is_taken(pfn));
            match clash {
                None if first + count <= total => return first,
                None => panic::end(format_args!("{total} pages are too few: {count} are needed for tables\n")),
                Some(pfn) => first = pfn + 1,
            }
        }
    }
}

/// Builds the direct map, the p2m and the pool.
fn lay_out_memory(info: &StartInfo, limit: u64) {
    let total = info.nr_pages;
    let filled = Filled::of(info);
    unmap_leftovers(filled.end);
    let leaves = total.div_ceil(512);
    let middles = leaves.div_ceil(512);
    // One L3 for the direct map, one for the windows.
    let table_count = leaves + middles + 2;
    let bitmap_pages = limit.div_ceil(64 * 512);
    let more = limit - p2m::kept(total);
    let more_pages = more.div_ceil(p2m::PER_PAGE as u64);
    let first = filled.find_run(table_count + bitmap_pages + more_pages, total);
    let read_only = |pfn: u64| {
        let builders = layout::pfn_of(info.pt_base).raw();
        (builders..builders + info.nr_pt_frames).contains(&pfn)
            || (first..first + table_count).contains(&pfn)
            || pfn < layout::pfn_of((&raw const __rodata_end) as u64).raw()
    };
    for leaf in 0..leaves {
        fill(frame(first + leaf), |index| {
            let pfn = leaf * 512 + index;
            let flags = if read_only(pfn) { bits::READ_ONLY } else { bits::DATA };
            (pfn < total && frame(pfn) != Mfn::INVALID).then(|| frame(pfn).entry(flags))
        });
    }
    for middle in 0..middles {
        fill(frame(first + leaves + middle), |index| {
            let leaf = middle * 512 + index;
            (leaf < leaves).then(|| frame(first + leaf).entry(bits::TABLE))
        });
    }
    let top = first + leaves + middles;
    fill(frame(top), |index| (index < middles).then(|| frame(first + leaves + index).entry(bits::TABLE)));
    fill(frame(top + 1), |_| None);
    let root = tables::root().address();
    let updates = [(layout::DIRECT_MAP, top), (layout::WINDOWS, top + 1)].map(|(address, pfn)| mmu::MmuUpdate {
        ptr: root + tables::slot(address, 4) as u64 * 8,
        val: frame(pfn).entry(bits::TABLE),
    });
    // SAFETY: both slots were empty, the tables below map each page as its owners expect.
    let linked = unsafe { tables::mmu_update(&updates, DomId::SELF) };
    assert!(linked.is_ok(), "direct map: {linked:?}");
    layout::use_direct_map();
    // SAFETY: these pages were free and are mapped writable now.
    let (bitmap, more) = unsafe {
        let address = layout::address(Pfn::new(first + table_count));
        let more = view::words(address + bitmap_pages * PAGE_SIZE as u64, more_pages as usize * p2m::PER_PAGE);
        (view::words(address, bitmap_pages as usize * 512), more)
    };
    p2m::extend(more, limit);
    let mut pool = Pool::new(bitmap);
    let ours = first..first + table_count + bitmap_pages + more_pages;
    for pfn in filled.end..total {
        if !filled.is_taken(pfn) && !ours.contains(&pfn) && frame(pfn) != Mfn::INVALID {
            pool.give(Pfn::new(pfn), 1);
        }
    }
    pool::install(pool);
}

/// What a page of the image is mapped as: code is not written, data is not run.
fn image_flags(address: u64) -> PageTableFlags {
    if address < (&raw const __text_end) as u64 {
        bits::CODE
    } else if address < (&raw const __rodata_end) as u64 {
        bits::READ_ONLY
    } else {
        bits::DATA
    }
}

/// Maps the image by what its parts are, where the builder mapped all of it writable.
fn protect_image() {
    let end = (&raw const __image_end) as u64;
    for address in (layout::VIRT_BASE..end).step_by(PAGE_SIZE) {
        let own = frame(layout::pfn_of(address).raw());
        let place = tables::walk(tables::root(), address, 1);
        let mapped = place.is_some_and(|place| place.value & bits::FRAME == own.address());
        // The shared page and the guard stand in places of their own.
        if mapped {
            // SAFETY: the linker script puts what is written or run where these flags allow it.
            let result =
                unsafe { tables::update_va_mapping(address, own.entry(image_flags(address)), mmu::UVMF_INVLPG) };
            assert!(result.is_ok(), "image at {address:#x}: {result:?}");
        }
    }
}

/// Takes away the builder's mappings of pages behind the boot image: each page keeps one writable mapping.
fn unmap_leftovers(end: u64) {
    let mut address = layout::VIRT_BASE + (end << 12);
    while address >= layout::VIRT_BASE {
        let Some(place) = tables::walk(tables::root(), address, 1).filter(|place| place.level == 1) else { return };
        if bits::is_present(place.value) {
            // SAFETY: nothing of ours lives behind the boot image.
            let result = unsafe { tables::update_va_mapping(address, 0, mmu::UVMF_INVLPG) };
            assert!(result.is_ok(), "unmapping {address:#x}: {result:?}");
        }
        address = address.wrapping_add(4096);
    }
}

/// Writes a page of table entries through the window.
fn fill(table: Mfn, entry: impl Fn(u64) -> Option<u64>) {
    let window = (&raw const WINDOW) as u64;
    // SAFETY: the window page holds nothing; only this function maps it, writes it and takes it away again.
    let result = unsafe { tables::update_va_mapping(window, table.entry(bits::DATA), mmu::UVMF_INVLPG) };
    assert!(result.is_ok(), "window: {result:?}");
    for (index, word) in WINDOW.0.iter().enumerate() {
        word.store(entry(index as u64).unwrap_or(0), Ordering::Relaxed);
    }
    // SAFETY: as above.
    let result = unsafe { tables::update_va_mapping(window, 0, mmu::UVMF_INVLPG) };
    assert!(result.is_ok(), "window: {result:?}");
}
