//! A machine in a `Vec`: frames are atomics, translation caches remember, time is a number.
//!
//! Each thread is a CPU ([`on_cpu`] says which). Guest memory is reached as a CPU reaches it: through the root that was
//! loaded last, translation caches first, accessed and dirty bits set on the way, so that a flush forgotten shows.
#![allow(dead_code, reason = "every test crate uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

pub(crate) mod audit;
pub(crate) mod control;
pub(crate) mod dice;
pub(crate) mod guest;

use oxen_abi::errno::Errno;
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, GuestRange, GuestWords, MachineAddr, Mfn, PAGE_BYTES, PAGE_SIZE, Slot, TABLE_ENTRIES},
    domain::{
        Domain,
        vcpu::{Processor, VcpuState},
    },
    grant::Policy,
    hardware::{Clock, CpuId, Power},
    heap::Reserve,
    machine::Machine,
    mem::{GuestFault, GuestMemory, HypervisorSpace, Memory, Tlb, entry::Entry, frame_table::FrameTable, linear},
    pci::{DeviceMemory, Message},
    ports::Ports,
    sched,
};
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
};

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
    static CPU: Cell<u16> = const { Cell::new(0) };
    static RUNNING: RefCell<Option<(&'static Hypervisor<Fake>, Arc<Domain>)>> = const { RefCell::new(None) };
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

/// The CPU that this thread is.
pub(crate) fn this_cpu() -> CpuId {
    CpuId(CPU.get())
}

#[repr(align(4096))]
struct Page([AtomicU64; TABLE_ENTRIES]);

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
    let table =
        FrameTable::new(leak(frames + IO_FRAMES, || AtomicU64::new(0)), leak(frames + IO_FRAMES, || AtomicU32::new(0)));
    table.keep(Mfn::new(0).unwrap(), OWN_FRAMES as u64);
    table.donate(Mfn::new(OWN_FRAMES as u64).unwrap(), (frames - OWN_FRAMES) as u64);
    // Threads are CPUs, and there may be fewer real ones: who holds the lock must get one.
    oxen_hv::lock::listen_while_waiting(std::thread::yield_now);
    for cpu in 0..CPUS {
        table.tlb.join(CpuId(cpu as u16));
    }
    let hv = Box::leak(Box::new(Hypervisor { grants, ..Hypervisor::new(Fake::new(frames), table, "") }));
    for cpu in 0..CPUS {
        sched::bring_up(hv, CpuId(cpu as u16)).unwrap();
    }
    hv
}

impl Machine for Fake {}

impl Memory for Fake {
    fn words(&self, mfn: Mfn) -> &'static [AtomicU64; TABLE_ENTRIES] {
        &self.frames[mfn.index()].0
    }

    #[expect(unsafe_code, reason = "one memory seen as words of either size, as the real machine does")]
    fn halves(&self, mfn: Mfn) -> &'static [AtomicU32; 2 * TABLE_ENTRIES] {
        let words: *const [AtomicU64; TABLE_ENTRIES] = self.words(mfn);
        // SAFETY: as for `bytes`.
        unsafe { &*words.cast() }
    }

    #[expect(unsafe_code, reason = "one memory seen as words and as bytes, as the real machine does")]
    fn bytes(&self, mfn: Mfn) -> &'static [AtomicU8; PAGE_BYTES] {
        let words: *const [AtomicU64; TABLE_ENTRIES] = self.words(mfn);
        // SAFETY: both are 4096 bytes of atomics that live for ever and that any bits are a value of.
        unsafe { &*words.cast() }
    }
}

impl HypervisorSpace for Fake {
    fn root_entries(&self) -> &'static [u64; 16] {
        self.root_entries
    }

    fn machine_to_phys(&self) -> &'static [AtomicU64] {
        self.machine_to_phys
    }

    fn machine_to_phys_chunk(&self, index: usize) -> Option<Mfn> {
        (index == 0).then(|| Mfn::new(2).unwrap())
    }
}

impl Tlb for Fake {
    fn load_root(&self, root: Mfn) {
        let mut cpu = self.cpu(CPU.get());
        cpu.root = Some(root);
        cpu.pages.clear();
        cpu.tables.clear();
    }

    fn flush(&self) {
        self.flush_cpus(1 << CPU.get(), None);
    }

    fn invalidate(&self, va: GuestAddr) {
        self.flush_cpus(1 << CPU.get(), Some(va));
    }

    fn flush_cpus(&self, cpus: u64, va: Option<GuestAddr>) {
        for n in (0..CPUS).filter(|n| cpus >> n & 1 != 0) {
            let mut cpu = self.cpu(n as u16);
            match va {
                // INVLPG drops all paging-structure caches too (Intel SDM vol. 3A, 4.10.4.1).
                Some(va) => {
                    cpu.pages.remove(&(va.0 >> 12));
                }
                None => {
                    cpu.pages.clear();
                    cpu.flushes += 1;
                }
            }
            cpu.tables.clear();
        }
    }

    fn flush_data_caches(&self) {}
}

fn note_user(entry: Entry) {
    if entry.0 & Entry::USER == 0 {
        MET_SUPERVISOR.set(true);
    }
}

impl Fake {
    /// The frame behind a guest address, as this CPU sees it.
    pub(crate) fn translate(&self, va: GuestAddr, write: bool) -> Result<Mfn, GuestFault> {
        let mut cpu = self.cpu(CPU.get());
        if let Some(entry) = cpu.pages.get(&(va.0 >> 12))
            && (!write || entry.is_writable())
        {
            note_user(*entry);
            return Ok(entry.mfn().unwrap());
        }
        let (table, allowed) = match cpu.tables.get(&(va.0 >> 21)) {
            Some(&known) => known,
            None => {
                let mut table = cpu.root.ok_or(GuestFault(va))?;
                let mut allowed = Entry(Entry::WRITABLE | Entry::USER);
                for level in (2..=4).rev() {
                    let word = &self.words(table)[va.slot(level).index()];
                    let entry = Entry(word.load(Ordering::SeqCst));
                    if !entry.is_present() {
                        return Err(GuestFault(va));
                    }
                    word.fetch_or(Entry::ACCESSED, Ordering::SeqCst);
                    allowed.0 &= entry.0;
                    table = entry.mfn().unwrap();
                }
                cpu.tables.insert(va.0 >> 21, (table, allowed));
                (table, allowed)
            }
        };
        let word = &self.words(table)[va.slot(1).index()];
        let entry = Entry(word.load(Ordering::SeqCst));
        if !entry.is_present() || write && !(allowed.is_writable() && entry.is_writable()) {
            return Err(GuestFault(va));
        }
        word.fetch_or(Entry::ACCESSED | if write { Entry::DIRTY } else { 0 }, Ordering::SeqCst);
        let seen = Entry(entry.0 & (allowed.0 | !(Entry::WRITABLE | Entry::USER)));
        note_user(seen);
        cpu.pages.insert(va.0 >> 12, seen);
        Ok(entry.mfn().unwrap())
    }

    /// A guest that maps device memory finds the machine's first frame there.
    fn in_ram(&self, frame: Mfn) -> Mfn {
        if frame.index() < self.frames.len() { frame } else { Mfn::new(0).unwrap() }
    }

    /// What was read may be used: no linear slot was read in.
    fn judge_read(&self, start: GuestAddr, bytes: usize) -> Result<(), GuestFault> {
        let may_read = || {
            let root = self.cpu(CPU.get()).root?;
            RUNNING.with_borrow(|running| {
                let (hv, domain) = running.as_ref()?;
                Some(linear::may_read(hv, domain, root, start, bytes as u64))
            })
        };
        if self.watches_reads.load(Ordering::SeqCst) && may_read() != Some(true) {
            return Err(GuestFault(start));
        }
        assert!(!MET_SUPERVISOR.get(), "law 8: the hypervisor read its own memory in a guest's name, at {start:?}");
        Ok(())
    }

    fn each_byte(
        &self,
        start: GuestAddr,
        count: usize,
        write: bool,
        mut act: impl FnMut(usize, &AtomicU8),
    ) -> Result<(), GuestFault> {
        let mut done = 0;
        while done < count {
            let va = GuestAddr(start.0.wrapping_add(done as u64));
            assert!(va.is_guest_range(1), "{va:?} was not judged");
            let here = (count - done).min(PAGE_BYTES - va.offset());
            let page = self.bytes(self.in_ram(self.translate(va, write)?));
            for i in 0..here {
                act(done + i, &page[va.offset() + i]);
            }
            done += here;
        }
        Ok(())
    }
}

impl GuestMemory for Fake {
    fn read_guest(&self, from: GuestRange, to: &mut [u8]) -> Result<(), GuestFault> {
        let bytes = to.len().min(from.bytes() as usize);
        MET_SUPERVISOR.set(false);
        self.each_byte(from.start(), bytes, false, |i, byte| to[i] = byte.load(Ordering::SeqCst))?;
        self.judge_read(from.start(), bytes)
    }

    fn write_guest(&self, to: GuestRange, from: &[u8]) -> Result<(), GuestFault> {
        let bytes = from.len().min(to.bytes() as usize);
        MET_SUPERVISOR.set(false);
        let written = self.each_byte(to.start(), bytes, true, |i, byte| byte.store(from[i], Ordering::SeqCst));
        assert!(written.is_err() || !MET_SUPERVISOR.get(), "law 1: the hypervisor wrote to its own memory");
        written
    }

    fn read_guest_words<const N: usize>(&self, from: GuestWords<N>) -> Result<[u64; N], GuestFault> {
        let mut words = [0; N];
        MET_SUPERVISOR.set(false);
        for (i, word) in words.iter_mut().enumerate() {
            let at = GuestAddr(from.start().0.wrapping_add(8 * i as u64));
            if at.0.is_multiple_of(8) {
                *word = self.words(self.in_ram(self.translate(at, false)?))[at.offset() / 8].load(Ordering::SeqCst);
            } else {
                let mut bytes = [0; 8];
                self.each_byte(at, 8, false, |i, byte| bytes[i] = byte.load(Ordering::SeqCst))?;
                *word = u64::from_le_bytes(bytes);
            }
        }
        self.judge_read(from.start(), 8 * N)?;
        Ok(words)
    }

    fn watch_reads(&self) {
        self.watches_reads.store(true, Ordering::SeqCst);
    }

    fn write_guest_words<const N: usize>(&self, to: GuestWords<N>, words: [u64; N]) -> Result<(), GuestFault> {
        for (i, word) in words.into_iter().enumerate() {
            let at = GuestAddr(to.start().0.wrapping_add(8 * i as u64));
            if at.0.is_multiple_of(8) {
                let frame = self.in_ram(self.translate(at, true)?);
                self.words(frame)[at.offset() / 8].store(word, Ordering::SeqCst);
            } else {
                let bytes = word.to_le_bytes();
                self.each_byte(at, 8, true, |i, byte| byte.store(bytes[i], Ordering::SeqCst))?;
            }
        }
        Ok(())
    }
}

/// What a test does in a guest's name, at addresses that are the guest's.
impl Fake {
    pub(crate) fn read_guest(&self, from: GuestAddr, to: &mut [u8]) -> Result<(), GuestFault> {
        GuestMemory::read_guest(self, from.range(to.len() as u64).unwrap(), to)
    }

    pub(crate) fn write_guest(&self, to: GuestAddr, from: &[u8]) -> Result<(), GuestFault> {
        GuestMemory::write_guest(self, to.range(from.len() as u64).unwrap(), from)
    }

    pub(crate) fn read_guest_word(&self, from: GuestAddr) -> Result<u64, GuestFault> {
        self.read_guest_words(from.words().unwrap()).map(|[word]| word)
    }

    pub(crate) fn write_guest_word(&self, to: GuestAddr, value: u64) -> Result<(), GuestFault> {
        self.write_guest_words(to.words().unwrap(), [value])
    }
}

impl Reserve for Fake {
    fn reserve(&self, _bytes: usize) -> Result<(), Errno> {
        if one_less(&self.heap_left) { Ok(()) } else { Err(Errno::NoMem) }
    }

    fn refuses_frames(&self) -> bool {
        !one_less(&self.frames_left)
    }
}

/// Counts down; false when there was nothing left. All ones stand for ever.
fn one_less(left: &AtomicU64) -> bool {
    let next = |n: u64| if n == u64::MAX { Some(n) } else { n.checked_sub(1) };
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
}

impl Fake {
    fn count(&self, name: &'static str) {
        *self.peripherals.lock().unwrap().processor_calls.entry(name).or_default() += 1;
    }
}

impl Power for Fake {
    fn power_off(&self) {
        self.count("power_off");
    }

    fn reboot(&self) {
        self.count("reboot");
    }

    fn fail(&self) {
        self.count("fail");
    }
}

impl Processor for Fake {
    fn this_cpu(&self) -> CpuId {
        this_cpu()
    }

    fn unload(&self) {
        self.count("unload");
        self.cpu(this_cpu().0).root = None;
    }

    fn load(&self, state: &VcpuState) -> bool {
        self.count("load");
        self.switch_mode(state);
        self.load_segments(state)
    }

    fn load_segments(&self, state: &VcpuState) -> bool {
        state.selectors.iter().all(|&selector| selector < self.good_selectors.load(Ordering::SeqCst))
    }

    fn save(&self, _state: &mut VcpuState) {
        self.count("save");
    }

    fn bases(&self, state: &VcpuState) -> (u64, u64, u64) {
        let (kernel, user) = (state.gs_base_kernel, state.gs_base_user);
        if state.in_kernel { (state.fs_base, kernel, user) } else { (state.fs_base, user, kernel) }
    }

    fn set_fs_base(&self, _base: u64) {
        self.count("set_fs_base");
    }

    fn set_tsc_aux(&self, _value: u32) {
        self.count("set_tsc_aux");
    }

    fn set_gs_base(&self, _base: u64) {
        self.count("set_gs_base");
    }

    fn set_other_gs_base(&self, _base: u64) {
        self.count("set_other_gs_base");
    }

    fn set_guest_cr4(&self, _cr4: u64) -> bool {
        self.count("set_guest_cr4");
        true
    }

    fn take_debug_status(&self) -> u64 {
        0xffff_0ff0
    }

    fn set_task_switched(&self, _set: bool) {
        self.count("set_task_switched");
    }

    fn set_user_gs(&self, selector: u16) -> bool {
        self.count("set_user_gs");
        selector < self.good_selectors.load(Ordering::SeqCst)
    }

    fn load_descriptor_tables(&self, _state: &VcpuState) {
        self.count("load_descriptor_tables");
    }

    fn load_debug_registers(&self, _state: &VcpuState) {
        self.count("load_debug_registers");
    }

    fn switch_mode(&self, state: &VcpuState) {
        self.count("switch_mode");
        if let Some(root) = if state.in_kernel { state.kernel_root } else { state.user_root } {
            self.load_root(root);
        }
    }
}

impl Fake {
    /// The function and the register that a data port stands for, where a test has put functions.
    fn config_space(&self, port: u16) -> Option<((u32, usize), MutexGuard<'_, Peripherals>)> {
        let peripherals = self.peripherals.lock().unwrap();
        let address = peripherals.config_address;
        let is_data = (0xcfc..0xd00).contains(&port) && address >> 31 == 1 && !peripherals.functions.is_empty();
        let place = (address >> 8 & 0xffff, (address & 0xfc) as usize | usize::from(port & 3));
        is_data.then_some((place, peripherals))
    }
}

impl Clock for Fake {
    fn ticks(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }

    fn frequency(&self) -> u64 {
        1_000_000_000
    }

    fn arm(&self, deadline: u64) {
        self.peripherals.lock().unwrap().armed[usize::from(CPU.get())] = Some(deadline);
    }

    fn kick(&self, cpu: CpuId) {
        self.peripherals.lock().unwrap().kicked |= 1 << cpu.0;
    }

    fn idle(&self) {
        self.peripherals.lock().unwrap().idles += 1;
        std::thread::yield_now();
        self.time.fetch_add(self.idle_step.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn wall_clock_at_boot(&self) -> (u64, u32) {
        (1_700_000_000, 0)
    }
}

impl Ports for Fake {
    fn port_in(&self, port: u16, bytes: u8) -> u32 {
        if let Some((place, mut peripherals)) = self.config_space(port) {
            let space = peripherals.functions.entry(place.0).or_insert([0xff; 256]);
            let mut word = [0; 4];
            word[..usize::from(bytes)].copy_from_slice(&space[place.1..place.1 + usize::from(bytes)]);
            return u32::from_le_bytes(word);
        }
        let all_ones = u32::MAX >> (32 - 8 * u32::from(bytes));
        self.peripherals.lock().unwrap().port_values.get(&port).copied().unwrap_or(all_ones) & all_ones
    }

    fn port_out(&self, port: u16, bytes: u8, value: u32) {
        if let Some((place, mut peripherals)) = self.config_space(port) {
            let space = peripherals.functions.entry(place.0).or_insert([0xff; 256]);
            space[place.1..place.1 + usize::from(bytes)].copy_from_slice(&value.to_le_bytes()[..usize::from(bytes)]);
        }
        let mut peripherals = self.peripherals.lock().unwrap();
        if port == 0xcf8 && bytes == 4 {
            peripherals.config_address = value;
        }
        peripherals.port_writes.push((port, bytes, value));
    }

    fn read_msr(&self, msr: u32) -> Option<u64> {
        self.peripherals.lock().unwrap().msrs.get(&msr).copied()
    }

    fn write_msr(&self, msr: u32, value: u64) -> bool {
        self.peripherals.lock().unwrap().msrs.insert(msr, value).is_some()
    }

    fn is_console_port(&self, port: u16) -> bool {
        (0x3f8..0x400).contains(&port)
    }

    fn cpuid(&self, leaf: u32, _subleaf: u32) -> [u32; 4] {
        self.peripherals.lock().unwrap().cpuid.get(&leaf).copied().unwrap_or_default()
    }

    fn set_xcr0(&self, value: u64) -> bool {
        value & 1 != 0
    }
}

impl oxen_hv::console::Serial for Fake {
    fn send(&self, bytes: &[u8]) {
        self.peripherals.lock().unwrap().sent.extend_from_slice(bytes);
    }

    fn receive(&self) -> Option<u8> {
        self.peripherals.lock().unwrap().input.pop_front()
    }
}

impl oxen_hv::event::pirq::Interrupts for Fake {
    fn lines(&self) -> u32 {
        LINES
    }

    fn is_own(&self, gsi: u32) -> bool {
        gsi == OWN_LINE
    }

    fn message(&self, pirq: u32, cpu: CpuId) -> Message {
        Message { address: 0xfee0_0000 | u32::from(cpu.0) << 12, data: 0x4020 + pirq }
    }

    fn read_controller(&self, address: u64, register: u32) -> Option<u32> {
        (address == CONTROLLER).then_some(register)
    }

    fn line_of_pin(&self, address: u64, pin: u32) -> Option<u32> {
        (address == CONTROLLER && pin < LINES).then_some(pin)
    }

    fn route(&self, gsi: u32, signal: oxen_hv::event::pirq::Signal) -> Result<(), Errno> {
        self.peripherals.lock().unwrap().lines.insert(gsi, (signal, true));
        Ok(())
    }

    fn set_masked(&self, gsi: u32, masked: bool) {
        if let Some(line) = self.peripherals.lock().unwrap().lines.get_mut(&gsi) {
            line.1 = masked;
        }
    }
}

impl DeviceMemory for Fake {
    fn read_device(&self, at: MachineAddr) -> u32 {
        self.peripherals.lock().unwrap().device_memory.get(&at.0).copied().unwrap_or(u32::MAX)
    }

    fn write_device(&self, at: MachineAddr, bytes: u8, value: u32) {
        assert_eq!(at.0 % u64::from(bytes), 0, "the write is aligned");
        let mut peripherals = self.peripherals.lock().unwrap();
        let mut bytes_of = peripherals.device_memory.get(&(at.0 & !3)).copied().unwrap_or(0).to_le_bytes();
        let first = at.0 as usize % 4;
        bytes_of[first..first + usize::from(bytes)].copy_from_slice(&value.to_le_bytes()[..usize::from(bytes)]);
        peripherals.device_memory.insert(at.0 & !3, u32::from_le_bytes(bytes_of));
    }
}

/// The word of a table.
pub(crate) fn table_word(hv: &Hypervisor<Fake>, table: Mfn, slot: usize) -> &'static AtomicU64 {
    &hv.machine.words(table)[Slot::new(slot).unwrap().index()]
}

/// The machine address of an entry.
pub(crate) fn entry_address(table: Mfn, slot: usize) -> u64 {
    table.raw() * PAGE_SIZE + 8 * slot as u64
}

/// What must stand in a slot of the hypervisor's, in every root.
pub(crate) fn root_entry(hv: &Hypervisor<Fake>, slot: usize) -> u64 {
    hv.machine.root_entries[slot - oxen_hv::layout::FIRST_HV_SLOT]
}
