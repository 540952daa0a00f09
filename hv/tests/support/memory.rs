//! The memory of the fake machine: frames, translation caches that remember, and what runs short.

use super::{CPU, CPUS, Fake, MET_SUPERVISOR, RUNNING, this_cpu};
use oxen_abi::errno::Errno;
use oxen_hv::{
    addr::{GuestAddr, GuestHalf, GuestRange, GuestWords, MachineAddr, Mfn, PAGE_BYTES, TABLE_ENTRIES},
    hardware::CpuId,
    heap::Reserve,
    mem::{
        GuestFault, GuestMemory, HypervisorSpace, Ram, RamFrame, Tlb,
        entry::Entry,
        root::RootAddress,
        shadow::fault::{Access, Met},
    },
};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The hypervisor's own root: no frame of the machine's.
const OWN_ROOT: MachineAddr = MachineAddr::new(1 << 40);

/// Tests look at any frame.
impl Fake {
    pub(crate) fn words(&self, frame: impl Into<Mfn>) -> &'static [AtomicU64; TABLE_ENTRIES] {
        &self.frames[frame.into().index()].0
    }

    #[cfg(loom)]
    pub(crate) fn halves(&self, frame: impl Into<Mfn>) -> &'static [AtomicU32; 2 * TABLE_ENTRIES] {
        &self.views[frame.into().index()].0
    }

    #[cfg(loom)]
    pub(crate) fn bytes(&self, frame: impl Into<Mfn>) -> &'static [AtomicU8; PAGE_BYTES] {
        &self.views[frame.into().index()].1
    }

    #[cfg(not(loom))]
    #[expect(unsafe_code, reason = "one memory seen as words of either size, as the real machine does")]
    pub(crate) fn halves(&self, frame: impl Into<Mfn>) -> &'static [AtomicU32; 2 * TABLE_ENTRIES] {
        let words: *const [AtomicU64; TABLE_ENTRIES] = self.words(frame);
        // SAFETY: as for `bytes`.
        unsafe { &*words.cast() }
    }

    #[cfg(not(loom))]
    #[expect(unsafe_code, reason = "one memory seen as words and as bytes, as the real machine does")]
    pub(crate) fn bytes(&self, frame: impl Into<Mfn>) -> &'static [AtomicU8; PAGE_BYTES] {
        let words: *const [AtomicU64; TABLE_ENTRIES] = self.words(frame);
        // SAFETY: both are 4096 bytes of atomics that live for ever and that any bits are a value of.
        unsafe { &*words.cast() }
    }

    pub(crate) fn clear(&self, frame: impl Into<Mfn>) {
        self.words(frame).iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

impl Ram for Fake {
    fn words(&self, frame: RamFrame) -> &'static [AtomicU64; TABLE_ENTRIES] {
        self.words(frame)
    }

    fn halves(&self, frame: RamFrame) -> &'static [AtomicU32; 2 * TABLE_ENTRIES] {
        self.halves(frame)
    }

    fn bytes(&self, frame: RamFrame) -> &'static [AtomicU8; PAGE_BYTES] {
        self.bytes(frame)
    }
}

impl HypervisorSpace for Fake {
    fn root_entries(&self) -> &'static [u64; 16] {
        self.root_entries
    }

    fn own_root(&self) -> MachineAddr {
        OWN_ROOT
    }

    fn machine_to_phys(&self) -> &'static [AtomicU64] {
        self.machine_to_phys
    }

    fn machine_to_phys_chunk(&self, index: usize) -> Option<Mfn> {
        (index == 0).then(|| Mfn::new(2).unwrap())
    }
}

impl Tlb for Fake {
    fn this_cpu(&self) -> CpuId {
        this_cpu()
    }

    fn load_root(&self, root: RootAddress) {
        let mut cpu = self.cpu(CPU.get());
        cpu.root = root.mfn().filter(|_| root.address() != OWN_ROOT);
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
                    cpu.pages.remove(&(va.as_u64() >> 12));
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
    if !entry.has(Entry::USER) {
        MET_SUPERVISOR.set(true);
    }
}

impl Fake {
    /// The frame behind a guest address, as this CPU sees it. Of a fault that is shadows' alone nobody hears.
    pub(crate) fn translate(&self, va: GuestAddr, write: bool) -> Result<Mfn, GuestFault> {
        let faulted = match self.walk(va, write) {
            Err(fault) => fault,
            found => return found,
        };
        let root = self.cpu(CPU.get()).root.ok_or(faulted)?;
        let access = if write { Access::Write } else { Access::Read };
        let met = RUNNING.with_borrow(|running| running.as_ref()?.0.memory.shadow_fault(root, va, access));
        if met != Some(Met::Shown) {
            return Err(faulted);
        }
        // A fault drops what the CPU knew of the page (Intel SDM vol. 3A, 4.10.4.1).
        self.invalidate(va);
        self.translate(va, write)
    }

    fn walk(&self, va: GuestAddr, write: bool) -> Result<Mfn, GuestFault> {
        let mut cpu = self.cpu(CPU.get());
        if let Some(entry) = cpu.pages.get(&(va.as_u64() >> 12))
            && (!write || entry.is_writable())
        {
            note_user(*entry);
            return Ok(entry.mfn().unwrap());
        }
        let (table, allowed) = match cpu.tables.get(&(va.as_u64() >> 21)) {
            Some(&known) => known,
            None => {
                let mut table = cpu.root.ok_or(GuestFault::at(va))?;
                let mut allowed = Entry(0).with(Entry::WRITABLE | Entry::USER);
                for level in (2..=4).rev() {
                    let word = &self.words(table)[va.slot(level).index()];
                    let entry = Entry(word.load(Ordering::SeqCst));
                    if !entry.is_present() {
                        return Err(GuestFault::at(va));
                    }
                    word.fetch_or(Entry::ACCESSED.bits(), Ordering::SeqCst);
                    allowed.0 &= entry.0;
                    table = entry.mfn().unwrap();
                }
                cpu.tables.insert(va.as_u64() >> 21, (table, allowed));
                (table, allowed)
            }
        };
        let word = &self.words(table)[va.slot(1).index()];
        let entry = Entry(word.load(Ordering::SeqCst));
        if !entry.is_present() || write && !(allowed.is_writable() && entry.is_writable()) {
            return Err(GuestFault::at(va));
        }
        word.fetch_or(if write { Entry::NOTES } else { Entry::ACCESSED }.bits(), Ordering::SeqCst);
        let seen = Entry(entry.0 & (allowed.0 | !(Entry::WRITABLE | Entry::USER).bits()));
        note_user(seen);
        cpu.pages.insert(va.as_u64() >> 12, seen);
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
                Some(hv.memory.may_read(&domain.memory, root, start, bytes as u64))
            })
        };
        if self.watches_reads.load(Ordering::SeqCst) && may_read() != Some(true) {
            return Err(GuestFault::at(start));
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
            let va = GuestAddr::new(start.as_u64().wrapping_add(done as u64));
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

    fn read_guest_half(&self, from: GuestHalf) -> Result<u32, GuestFault> {
        let mut bytes = [0; 4];
        self.each_byte(from.start(), 4, false, |i, byte| bytes[i] = byte.load(Ordering::SeqCst))?;
        self.judge_read(from.start(), 4)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn read_guest_words<const N: usize>(&self, from: GuestWords<N>) -> Result<[u64; N], GuestFault> {
        let mut words = [0; N];
        MET_SUPERVISOR.set(false);
        for (i, word) in words.iter_mut().enumerate() {
            let at = GuestAddr::new(from.start().as_u64().wrapping_add(8 * i as u64));
            if at.as_u64().is_multiple_of(8) {
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
            let at = GuestAddr::new(to.start().as_u64().wrapping_add(8 * i as u64));
            if at.as_u64().is_multiple_of(8) {
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
