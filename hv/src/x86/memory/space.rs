//! The boot's division of memory: what the hypervisor keeps for its tables, what is left for guests.

use super::tables;
use core::slice;
use core::sync::atomic::{AtomicU32, AtomicU64};
use oxen_hv::addr::Mfn;
use oxen_hv::firmware::BootMemory;
use oxen_hv::firmware::handoff::BootInfo;
use oxen_hv::firmware::memory_map::{BootAllocator, LOW_MEMORY_END, MemoryMap};
use oxen_hv::layout::{DIRECT_MAP_START, END_HV_SLOT, FIRST_HV_SLOT};
use oxen_hv::mem::frame_table::FrameTable;
use spin::Once;

const PAGE: u64 = 4096;

/// Bytes of the machine-to-phys table that the ABI names at once, and that tools map at once: it is of whole ones.
pub(crate) const CHUNK: u64 = 2 << 20;
/// What the boot tables map, and with it everything that a loader can have put somewhere.
const EARLY_REACH: u64 = 4 << 30;

/// Slots 256 to 271 of every root, once the hypervisor's tables are built.
static ROOT_ENTRIES: Once<[u64; 16]> = Once::new();

/// Memory through the boot tables.
pub(crate) struct Loaded;

impl BootMemory for Loaded {
    fn bytes(&self, start: u64, length: usize) -> Option<&'static [u8]> {
        start.checked_add(length as u64).filter(|&end| end <= EARLY_REACH)?;
        // SAFETY: the boot tables map it all; what the loader left there stays while it is looked at.
        Some(unsafe { slice::from_raw_parts((DIRECT_MAP_START + start) as *const u8, length) })
    }
}

/// What every address space shows of the hypervisor.
#[derive(Debug)]
pub(crate) struct Space {
    /// Slots 256 to 271 of every root.
    pub root_entries: &'static [u64; END_HV_SLOT - FIRST_HV_SLOT],
    /// The machine-to-phys table, writable.
    pub machine_to_phys: &'static [AtomicU64],
    /// Its machine address.
    pub machine_to_phys_address: u64,
}

/// Memory as it is divided before there is an allocator.
pub(crate) struct Division {
    pub boot: BootAllocator,
    pub frames: u64,
}

impl Division {
    /// All RAM but the image and what the loader left.
    pub(crate) fn new(info: &BootInfo) -> Self {
        let mut boot = BootAllocator::new(&info.memory_map);
        boot.keep(tables::image_range());
        for module in &info.modules {
            boot.keep(module.range.clone());
        }
        for bytes in info.kept() {
            // What is empty may be a constant of the image.
            if let Some(start) = (bytes.as_ptr() as u64).checked_sub(DIRECT_MAP_START) {
                boot.keep(start..start + bytes.len() as u64);
            }
        }
        Self { boot, frames: info.memory_map.end_of_ram() / PAGE }
    }

    /// Takes zeroed memory for good. Without it there is no hypervisor.
    #[expect(clippy::panic, reason = "there is nobody yet to whom it could be told otherwise")]
    fn take(&mut self, bytes: u64, limit: u64) -> u64 {
        let Some(range) = self.boot.take(bytes, PAGE, limit) else {
            panic!("too little memory: {bytes} bytes for the hypervisor's own tables are not there");
        };
        // SAFETY: the range is RAM that nobody has, and in the direct map.
        unsafe {
            core::ptr::write_bytes((DIRECT_MAP_START + range.start) as *mut u8, 0, (range.end - range.start) as usize)
        };
        range.start
    }

    /// Takes a zeroed array for good.
    fn take_words<T>(&mut self, count: u64) -> (u64, &'static [T]) {
        let address = self.take(count * size_of::<T>() as u64, u64::MAX);
        // SAFETY: the memory is taken for good, zeroed, aligned to a page, and in the
        // direct map; `T` is an atomic word.
        (address, unsafe { slice::from_raw_parts((DIRECT_MAP_START + address) as *const T, count as usize) })
    }

    /// Builds the hypervisor's final address space, and the tables of frames in it.
    ///
    /// # Safety
    /// Once, on the boot CPU, alone.
    pub(crate) unsafe fn build(&mut self) -> (Space, FrameTable) {
        // SAFETY: the boot CPU is alone; frames are taken below what the boot tables map.
        unsafe { tables::extend_direct_map(self.frames * PAGE, || self.take(PAGE, EARLY_REACH)) };
        let words = self.frames.next_multiple_of(CHUNK / size_of::<AtomicU64>() as u64);
        let (machine_to_phys_address, machine_to_phys) = self.take_words::<AtomicU64>(words);
        let (_, state) = self.take_words::<AtomicU64>(self.frames);
        let (_, aux) = self.take_words::<AtomicU32>(self.frames);
        for word in machine_to_phys {
            word.store(oxen_hv::mem::frame_alloc::INVALID_M2P_ENTRY, core::sync::atomic::Ordering::Relaxed);
        }
        // SAFETY: the table was just taken, for good.
        unsafe {
            let bytes = size_of_val(machine_to_phys) as u64;
            tables::map_machine_to_phys(machine_to_phys_address, bytes, || self.take(PAGE, EARLY_REACH));
            tables::protect_image();
        }
        let root_entries = ROOT_ENTRIES.call_once(tables::hypervisor_slots);
        let machine_to_phys = machine_to_phys.get(..self.frames as usize).unwrap_or(machine_to_phys);
        (Space { root_entries, machine_to_phys, machine_to_phys_address }, FrameTable::new(state, aux))
    }

    /// Gives the frame table what is free, and tells it what is the hypervisor's. Low memory stays what all is that
    /// nobody tells it of: I/O memory. The machine-to-physical table can be mapped by those who save domains.
    pub(crate) fn hand_over(&self, map: &MemoryMap, space: &Space, frames: &FrameTable) {
        let each = |range: core::ops::Range<u64>, then: &dyn Fn(Mfn, u64)| {
            if let Some(first) = Mfn::new(range.start / PAGE) {
                then(first, (range.end - range.start) / PAGE);
            }
        };
        for range in map.ram_above_low_memory() {
            each(range, &|first, count| frames.keep(first, count));
        }
        for range in self.boot.free() {
            each(range, &|first, count| frames.donate(first, count));
        }
        let (table, bytes) = (space.machine_to_phys_address, size_of_val(space.machine_to_phys) as u64);
        each(table..table + bytes.next_multiple_of(CHUNK), &|first, count| frames.publish(first, count));
    }
}

/// Gives the allocator the whole pages of a range that was kept from it until now, but those of low memory.
pub(crate) fn take_back(frames: &FrameTable, range: &core::ops::Range<u64>) {
    let (start, end) = (range.start.max(LOW_MEMORY_END) / PAGE, range.end.div_ceil(PAGE));
    if let (Some(first), Some(count)) = (Mfn::new(start), end.checked_sub(start)) {
        frames.donate(first, count);
    }
}
