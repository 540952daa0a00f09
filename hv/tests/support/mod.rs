//! A machine in a `Vec`: frames are atomics, translation caches remember, time is a number.
//!
//! Each thread is a CPU ([`on_cpu`] says which). Guest memory is reached as a CPU reaches it: through the root that was
//! loaded last, translation caches first, accessed and dirty bits set on the way, so that a flush forgotten shows.
#![allow(dead_code, reason = "every test crate uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

pub(crate) mod audit;
pub(crate) mod control;
mod devices;
pub(crate) mod dice;
pub(crate) mod guest;
pub(crate) mod hostile;
mod memory;
mod processor;
mod promises;

use oxen_hv::{
    Hypervisor,
    addr::{Mfn, PAGE_SIZE, Slot, TABLE_ENTRIES},
    domain::Domain,
    grant::Policy,
    hardware::CpuId,
    machine::Machine,
    mem::{entry::Entry, frame_table::FrameTable},
};
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
};
use x86_64::structures::paging::PageTableFlags;

/// CPUs of the fake machine.
pub(crate) const CPUS: usize = 4;
/// Frames after the RAM that are device memory.
pub(crate) const IO_FRAMES: usize = 16;
/// Frames at the start of the RAM that the hypervisor keeps.
pub(crate) const OWN_FRAMES: usize = 16;

/// Lines of its interrupt controller, and where that is.
pub(crate) const LINES: u32 = 24;
/// The line that the hypervisor serves.
pub(crate) const OWN_LINE: u32 = 22;
pub(crate) const CONTROLLER: u64 = 0xfec0_0000;

thread_local! {
    /// The locks that each CPU holds, as far as this thread is one.
    static HELD: &'static [oxen_hv::lock::Held; CPUS] =
        Box::leak(Box::new([const { oxen_hv::lock::Held::nothing() }; CPUS]));
    static CPU: Cell<u16> = const { Cell::new(0) };
    static RUNNING: RefCell<Option<(&'static Hypervisor<Fake>, Arc<Domain>)>> = const { RefCell::new(None) };
    /// What other CPUs do while this one waits for them.
    static ELSEWHERE: Cell<fn()> = const { Cell::new(std::thread::yield_now) };
    /// Whether a translation was the supervisor's alone, since this was last cleared.
    static MET_SUPERVISOR: Cell<bool> = const { Cell::new(false) };
}

/// Says whose guest this CPU runs.
pub(crate) fn run_domain(hv: &'static Hypervisor<Fake>, domain: &Arc<Domain>) {
    RUNNING.set(Some((hv, domain.clone())));
}

/// Makes this thread a CPU.
pub(crate) fn on_cpu(cpu: u16) {
    CPU.set(cpu);
}

/// Says what happens while this CPU waits for others: where one thread is several, it lets those go on.
pub(crate) fn while_waiting(elsewhere: fn()) {
    ELSEWHERE.set(elsewhere);
}

/// The CPU that this thread is.
pub(crate) fn this_cpu() -> CpuId {
    CpuId(CPU.get())
}

#[repr(align(4096))]
struct Page([AtomicU64; TABLE_ENTRIES]);

/// A frame's halves of words and its bytes where atomics cannot be seen as others: apart from its words.
#[cfg(loom)]
struct Views([AtomicU32; 2 * TABLE_ENTRIES], [std::sync::atomic::AtomicU8; oxen_hv::addr::PAGE_BYTES]);

/// What a CPU remembers of translations.
#[derive(Debug, Default)]
pub(crate) struct FakeCpu {
    /// The root in force.
    pub(crate) root: Option<Mfn>,
    /// Translations by page number: the L1 entry as it was read.
    pub(crate) pages: HashMap<u64, Entry>,
    /// L1 tables by address in units of 2 MiB, and what the entries on the way there allow together.
    pub(crate) tables: HashMap<u64, (Mfn, Entry)>,
    /// Complete flushes.
    pub(crate) flushes: u64,
}

/// What a test may look at and set.
#[derive(Debug, Default)]
pub(crate) struct Peripherals {
    /// What went out on the serial line.
    pub(crate) sent: Vec<u8>,
    /// What will come in.
    pub(crate) input: VecDeque<u8>,
    /// The moment the timer was armed for, by CPU.
    pub(crate) armed: [Option<u64>; CPUS],
    /// CPUs kicked since the test last looked, as bits.
    pub(crate) kicked: u64,
    /// Port writes: port, width, value.
    pub(crate) port_writes: Vec<(u16, u8, u32)>,
    /// What ports answer; all ones where nothing is said.
    pub(crate) port_values: HashMap<u16, u32>,
    /// Model-specific registers.
    pub(crate) msrs: HashMap<u32, u64>,
    /// What CPUID answers, by leaf; zeros where nothing is said.
    pub(crate) cpuid: HashMap<u32, [u32; 4]>,
    /// Interrupt lines that were routed: how they signal, and whether they are masked.
    pub(crate) lines: HashMap<u32, (oxen_hv::event::pirq::Signal, bool)>,
    /// Registers of devices in memory that were written, by address.
    pub(crate) device_memory: HashMap<u64, u32>,
    /// The configuration space of functions, by bus, device and function.
    pub(crate) functions: HashMap<u32, [u8; 256]>,
    /// The configuration address that was written last.
    pub(crate) config_address: u32,
    /// Entries into `idle`.
    pub(crate) idles: u64,
    /// Calls of `load`, `save`, `switch_mode` and their kin, by name.
    pub(crate) processor_calls: HashMap<&'static str, u64>,
}

/// The machine.
pub(crate) struct Fake {
    frames: &'static [Page],
    #[cfg(loom)]
    views: &'static [Views],
    machine_to_phys: &'static [AtomicU64],
    root_entries: &'static [u64; 16],
    cpus: [Mutex<FakeCpu>; CPUS],
    /// Serial line, timer, ports.
    pub(crate) peripherals: Mutex<Peripherals>,
    /// Ticks so far. One tick is a nanosecond.
    pub(crate) time: AtomicU64,
    /// How many more reservations of the heap succeed.
    pub(crate) heap_left: AtomicU64,
    /// How many more times the allocator gives out frames, if there are any.
    pub(crate) frames_left: AtomicU64,
    /// Contents of `idle`: how far it moves the time.
    pub(crate) idle_step: AtomicU64,
    /// Whether reads are looked at.
    pub(crate) watches_reads: AtomicBool,
    /// Whether the processor accepts a selector for the user's GS.
    pub(crate) good_selectors: AtomicU16,
}

impl core::fmt::Debug for Fake {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "a fake machine of {} frames", self.frames.len())
    }
}

fn leak<T>(count: usize, make: impl Fn() -> T) -> &'static [T] {
    Vec::leak((0..count).map(|_| make()).collect())
}

impl Fake {
    /// A machine with so many frames of RAM.
    pub(crate) fn new(frames: usize) -> Self {
        let entry = Entry::to(Mfn::new(1).unwrap(), Entry::PRESENT | Entry::ACCESSED | Entry::NO_EXECUTE).0;
        let frames_leaked = leak(frames, || Page([const { AtomicU64::new(0) }; TABLE_ENTRIES]));
        // The hypervisor's own tables are one, which is its own memory too.
        frames_leaked[1].0.iter().for_each(|word| word.store(entry, Ordering::SeqCst));
        Self {
            frames: frames_leaked,
            #[cfg(loom)]
            views: leak(frames, || {
                use std::sync::atomic::AtomicU8;
                Views([const { AtomicU32::new(0) }; _], [const { AtomicU8::new(0) }; _])
            }),
            machine_to_phys: leak(frames, || AtomicU64::new(u64::MAX)),
            root_entries: Box::leak(Box::new([entry; 16])),
            cpus: core::array::from_fn(|_| Mutex::default()),
            peripherals: Mutex::default(),
            time: AtomicU64::new(1),
            heap_left: AtomicU64::new(u64::MAX),
            frames_left: AtomicU64::new(u64::MAX),
            idle_step: AtomicU64::new(1),
            watches_reads: AtomicBool::new(false),
            good_selectors: AtomicU16::new(u16::MAX),
        }
    }

    /// The state of a CPU.
    pub(crate) fn cpu(&self, cpu: u16) -> MutexGuard<'_, FakeCpu> {
        self.cpus[usize::from(cpu)].lock().unwrap()
    }

    /// Frames of RAM.
    pub(crate) fn ram(&self) -> usize {
        self.frames.len()
    }
}

/// A hypervisor on a machine with so many frames of RAM, all CPUs there, without domains.
pub(crate) fn boot(frames: usize) -> &'static Hypervisor<Fake> {
    boot_with(frames, Policy::default())
}

/// The same, with grant tables as the command line may want them.
pub(crate) fn boot_with(frames: usize, grants: Policy) -> &'static Hypervisor<Fake> {
    boot_as(frames, |hv| Hypervisor { grants, ..hv })
}

/// The same, with what `change` makes of it before any CPU runs.
pub(crate) fn boot_as(
    frames: usize,
    change: impl FnOnce(Hypervisor<Fake>) -> Hypervisor<Fake>,
) -> &'static Hypervisor<Fake> {
    let table =
        FrameTable::new(leak(frames + IO_FRAMES, || AtomicU64::new(0)), leak(frames + IO_FRAMES, || AtomicU32::new(0)));
    table.keep(Mfn::new(0).unwrap(), OWN_FRAMES as u64);
    table.donate(Mfn::new(OWN_FRAMES as u64).unwrap(), (frames - OWN_FRAMES) as u64);
    // Threads are CPUs, and there may be fewer real ones: who holds the lock must get one.
    oxen_hv::lock::listen_while_waiting(|| ELSEWHERE.get()());
    oxen_hv::lock::watch(|| HELD.with(|held| &held[usize::from(CPU.get())]));
    for cpu in 0..CPUS {
        table.tlb.join(CpuId(cpu as u16));
    }
    let hv = Box::leak(Box::new(change(Hypervisor::new(Fake::new(frames), table, ""))));
    for cpu in 0..CPUS {
        hv.bring_up_cpu(CpuId(cpu as u16)).unwrap();
    }
    hv
}

impl Machine for Fake {}

/// The word of a table.
pub(crate) fn table_word(hv: &Hypervisor<Fake>, table: Mfn, slot: usize) -> &'static AtomicU64 {
    &hv.machine().words(table)[Slot::new(slot).unwrap().index()]
}

/// The machine address of an entry.
pub(crate) fn entry_address(table: Mfn, slot: usize) -> u64 {
    table.raw() * PAGE_SIZE + 8 * slot as u64
}

/// An entry for a frame, with any bits.
pub(crate) fn entry_of(frame: Mfn, bits: u64) -> u64 {
    Entry::to(frame, PageTableFlags::from_bits_retain(bits)).0
}

/// What must stand in a slot of the hypervisor's, in every root.
pub(crate) fn root_entry(hv: &Hypervisor<Fake>, slot: usize) -> u64 {
    hv.machine().root_entries[slot - oxen_hv::layout::FIRST_HV_SLOT]
}
