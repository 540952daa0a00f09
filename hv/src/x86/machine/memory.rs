//! The PC's memory: its RAM, the hypervisor's space, the guest's, translation caches of all CPUs.

use super::super::device::apic::vector;
use super::super::memory::{guest, heap, space::CHUNK, tables};
use super::super::{cpu, percpu};
use super::Pc;
use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use oxen_abi::errno::Errno;
use oxen_hv::addr::{
    GuestAddr, GuestHalf, GuestRange, GuestWords, MachineAddr, Mfn, PAGE_BYTES, PAGE_SHIFT, TABLE_ENTRIES,
};
use oxen_hv::hardware::{Clock, CpuId};
use oxen_hv::heap::Reserve;
use oxen_hv::layout::{DIRECT_MAP_START, END_HV_SLOT, FIRST_HV_SLOT};
use oxen_hv::mem::root::RootAddress;
use oxen_hv::mem::{GuestFault, GuestMemory, HypervisorSpace, Ram, RamFrame, Tlb};
use oxen_hv::shootdown::Silent;

/// Seconds after which a CPU that does not answer is taken for dead. An emulator or a hypervisor around us
/// may not let it run for a while.
const PATIENCE: u64 = 60;

/// Without the flush the frames that another CPU still knows cannot be used, and locks are held that all need.
#[cold]
#[expect(clippy::panic, reason = "a CPU is lost, which only a fault of the machine or a bug causes")]
fn without_an_answer(silent: Silent) -> ! {
    panic!("no answer to a request to flush for {PATIENCE} s from {silent}");
}

impl Ram for Pc {
    #[inline]
    fn words(&self, frame: RamFrame) -> &'static [AtomicU64; TABLE_ENTRIES] {
        // SAFETY: a `RamFrame` is RAM, all of which is in the direct map for good; atomics may alias anything there.
        unsafe { &*((DIRECT_MAP_START + frame.mfn().address().as_u64()) as *const [AtomicU64; TABLE_ENTRIES]) }
    }

    #[inline]
    fn halves(&self, frame: RamFrame) -> &'static [AtomicU32; 2 * TABLE_ENTRIES] {
        // SAFETY: as in `words`.
        unsafe { &*((DIRECT_MAP_START + frame.mfn().address().as_u64()) as *const [AtomicU32; 2 * TABLE_ENTRIES]) }
    }

    #[inline]
    fn bytes(&self, frame: RamFrame) -> &'static [AtomicU8; PAGE_BYTES] {
        // SAFETY: as in `words`.
        unsafe { &*((DIRECT_MAP_START + frame.mfn().address().as_u64()) as *const [AtomicU8; PAGE_BYTES]) }
    }

    #[inline]
    fn clear(&self, frame: RamFrame) {
        // SAFETY: the words are those of the frame; guests that look on see whole words, as from any store.
        unsafe {
            asm!(
                "rep stosq",
                inout("rcx") TABLE_ENTRIES => _,
                inout("rdi") self.words(frame).as_ptr() => _,
                in("rax") 0,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline]
    fn copy(&self, from: RamFrame, to: RamFrame) {
        self.copy_bytes(from, 0, to, 0, PAGE_BYTES);
    }

    #[inline]
    fn copy_bytes(&self, from: RamFrame, first: usize, to: RamFrame, target: usize, bytes: usize) {
        let bytes = bytes.min(PAGE_BYTES.saturating_sub(first)).min(PAGE_BYTES.saturating_sub(target));
        let source = self.bytes(from).as_ptr().wrapping_add(first);
        let target = self.bytes(to).as_ptr().wrapping_add(target);
        // SAFETY: both ends lie in their frames, by the line above; guests may look on and write, as the CPU allows.
        unsafe {
            asm!(
                "rep movsq",
                "mov rcx, {tail}",
                "rep movsb",
                tail = in(reg) bytes % 8,
                inout("rcx") bytes / 8 => _,
                inout("rsi") source => _,
                inout("rdi") target => _,
                options(nostack, preserves_flags),
            );
        }
    }
}

impl HypervisorSpace for Pc {
    #[inline]
    fn root_entries(&self) -> &'static [u64; END_HV_SLOT - FIRST_HV_SLOT] {
        self.space.root_entries
    }

    #[inline]
    fn own_root(&self) -> MachineAddr {
        tables::own_root()
    }

    #[inline]
    fn machine_to_phys(&self) -> &'static [AtomicU64] {
        self.space.machine_to_phys
    }

    fn machine_to_phys_chunk(&self, index: usize) -> Option<Mfn> {
        let offset = (index as u64).checked_mul(CHUNK)?;
        let has_chunk = offset < size_of_val(self.space.machine_to_phys) as u64;
        Mfn::new((self.space.machine_to_phys_address + offset) >> PAGE_SHIFT).filter(|_| has_chunk)
    }
}

impl GuestMemory for Pc {
    #[inline]
    fn read_guest(&self, from: GuestRange, to: &mut [u8]) -> Result<(), GuestFault> {
        guest::read(from, to)
    }

    #[inline]
    fn write_guest(&self, to: GuestRange, from: &[u8]) -> Result<(), GuestFault> {
        guest::write(to, from)
    }

    #[inline]
    fn read_guest_half(&self, from: GuestHalf) -> Result<u32, GuestFault> {
        guest::read_half(from)
    }

    fn read_guest_words<const N: usize>(&self, from: GuestWords<N>) -> Result<[u64; N], GuestFault> {
        guest::read_words(from)
    }

    fn watch_reads(&self) {
        guest::watch_reads();
    }

    #[inline]
    fn write_guest_words<const N: usize>(&self, to: GuestWords<N>, words: [u64; N]) -> Result<(), GuestFault> {
        guest::write_words(to, words)
    }
}

impl Tlb for Pc {
    fn this_cpu(&self) -> CpuId {
        CpuId(percpu::this().number as u16)
    }

    #[inline]
    fn load_root(&self, root: RootAddress) {
        // SAFETY: the library passes validated roots and shadows of them only, which hold the
        // hypervisor's slots, and its own.
        unsafe { cpu::load_root(root.address().as_u64()) }
    }

    #[inline]
    fn flush(&self) {
        cpu::flush();
    }

    #[inline]
    fn invalidate(&self, va: GuestAddr) {
        cpu::invalidate(va.as_u64());
    }

    #[inline]
    fn flush_cpus(&self, cpus: u64, page: Option<GuestAddr>) {
        let this = percpu::this().number;
        let others = cpus & !(1 << this);
        if others != 0 {
            let limit = self.ticks().saturating_add(self.frequency().saturating_mul(PATIENCE));
            let tell = |number| self.interrupt(number, vector::FLUSH);
            let asked = self.shootdown.ask(this, others, page, tell, || self.relax(), || self.ticks() > limit);
            if let Err(silent) = asked {
                without_an_answer(silent);
            }
        }
        if cpus & 1 << this != 0 {
            match page {
                Some(page) => self.invalidate(page),
                None => self.flush(),
            }
        }
    }

    fn flush_data_caches(&self) {
        cpu::flush_caches();
    }
}

impl Reserve for Pc {
    fn reserve(&self, bytes: usize) -> Result<(), Errno> {
        heap::reserve(bytes)
    }
}
