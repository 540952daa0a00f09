//! What it costs to ask the hypervisor: single operations between two looks at the time stamp counter.
//!
//! The handlers here do the least that a guest can do, so that what is measured is the hypervisor's part. They replace
//! the runtime's while a measurement runs. Every function gives the ticks of one operation.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use alloc::vec::Vec;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::grant_table as grant;
use oxen_abi::hypercall::{HYPERCALL_SLOT_BYTES, Hypercall, MulticallEntry};
use oxen_abi::mmu::{self, MmuUpdate, MmuextOp};
use oxen_abi::{callback, event_channel, sched, segments, trap, version};
use zerocopy::FromZeros;

use super::frame::Frame;
use super::hypercall::{call1, call2};
use super::page::Page;
use super::tables::{self, bits};
use super::{entry, shared, trap as traps};
use crate::grant::Grant;
use crate::memory::map::Range;
use crate::memory::{Mfn, PAGE_SIZE};

unsafe extern "C" {
    fn oxen_measure_syscall();
    fn oxen_measure_int3();
    fn oxen_measure_fault();
    fn oxen_measure_upcall();
    fn oxen_measure_timer();
}

/// Address of the pending word and the bit of the port that `oxen_measure_upcall` acknowledges.
#[unsafe(no_mangle)]
static oxen_measure_pending: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static oxen_measure_bit: AtomicU64 = AtomicU64::new(0);
/// Address of vcpu 0's information in the shared page.
#[unsafe(no_mangle)]
static oxen_measure_vcpu: AtomicU64 = AtomicU64::new(0);
/// When the last timer upcall began.
#[unsafe(no_mangle)]
static oxen_measure_stamp: AtomicU64 = AtomicU64::new(0);

global_asm!(
    ".pushsection .text.measure, \"ax\", @progbits",
    // The frame of a syscall becomes that of the iret hypercall: flags, rip, cs, rflags, rsp, ss.
    "oxen_measure_syscall:",
    "add rsp, 8",
    "mov qword ptr [rsp], {in_syscall}",
    "jmp {page} + {iret}",
    "oxen_measure_int3:",
    "pop rcx",
    "pop r11",
    "push 0",
    "jmp {page} + {iret}",
    // Goes on behind the faulting instruction, which has three bytes.
    "oxen_measure_fault:",
    "pop rcx",
    "pop r11",
    "add rsp, 8",
    "add qword ptr [rsp], 3",
    "push 0",
    "jmp {page} + {iret}",
    // Acknowledges one port: nothing else can be pending while this is measured. The iret unmasks.
    "oxen_measure_upcall:",
    "push rax",
    "mov rcx, [rip + oxen_measure_vcpu]",
    "mov rax, [rip + oxen_measure_pending]",
    "mov r11, [rip + oxen_measure_bit]",
    "mov byte ptr [rcx], 0",
    "mov qword ptr [rcx + 8], 0",
    "lock btr [rax], r11",
    "pop rax",
    "pop rcx",
    "pop r11",
    "push 0",
    "jmp {page} + {iret}",
    "oxen_measure_timer:",
    "push rax",
    "push rdx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rip + oxen_measure_stamp], rax",
    "pop rdx",
    "pop rax",
    "pop rcx",
    "pop r11",
    "and dword ptr [rsp + 16], ~0x200",
    "push 0",
    "jmp {page} + {iret}",
    ".popsection",
    page = sym entry::hypercall_page,
    iret = const Hypercall::Iret as usize * HYPERCALL_SLOT_BYTES,
    in_syscall = const segments::VGCF_IN_SYSCALL,
);

/// Ticks from one look at the counter to the next with nothing between.
fn overhead() -> u64 {
    let before = now();
    now().wrapping_sub(before)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: reads the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks that `operation` takes.
#[inline(always)]
fn ticks(operation: impl FnOnce()) -> u64 {
    let before = now();
    operation();
    let after = now();
    after.wrapping_sub(before).saturating_sub(overhead())
}

/// A hypercall that does nothing.
pub fn null_hypercall() -> u64 {
    ticks(|| {
        // SAFETY: asks for the version number.
        unsafe { call2::<{ Hypercall::XenVersion as u32 }>(version::XENVER_VERSION.into(), 0) };
    })
}

/// One of 64 such calls in a multicall.
pub fn multicall_null() -> u64 {
    let mut list = [MulticallEntry { op: Hypercall::XenVersion as u64, ..MulticallEntry::new_zeroed() }; 64];
    let total = ticks(|| {
        multicall(&mut list);
    });
    total / list.len() as u64
}

fn multicall(list: &mut [MulticallEntry]) -> u64 {
    // SAFETY: the callers' entries are harmless one by one.
    unsafe { call2::<{ Hypercall::Multicall as u32 }>(list.as_mut_ptr() as u64, list.len() as u64) }
}

/// Giving up the processor with nobody else to run.
pub fn sched_yield() -> u64 {
    ticks(|| {
        // SAFETY: touches no memory.
        unsafe { call2::<{ Hypercall::SchedOp as u32 }>(sched::SCHEDOP_YIELD.into(), 0) };
    })
}

/// An address range to measure mappings in.
#[derive(Debug)]
pub struct Window {
    range: Range,
    pages: Vec<Page>,
    entries: Vec<u64>,
}

impl Window {
    /// A window of `count` pages, and pages to map there.
    ///
    /// # Errors
    /// Without memory.
    pub fn new(count: usize) -> Result<Self, Errno> {
        let range = Range::take(count)?;
        let mut pages = Vec::with_capacity(count);
        let mut entries = Vec::with_capacity(count);
        for index in 0..count {
            entries.push(tables::ensure(range.address() + (index * PAGE_SIZE) as u64)?);
            pages.push(Page::zeroed().ok_or(Errno::NoMem)?);
        }
        Ok(Self { range, pages, entries })
    }

    /// Mapping and unmapping one page by `update_va_mapping`.
    pub fn update_va_mapping(&self) -> Option<(u64, u64)> {
        let address = self.range.address();
        let entry = self.pages.first()?.mfn().address() | bits::DATA;
        let update = |value| {
            // SAFETY: the range is this window's.
            let mut result = Ok(());
            let ticks = ticks(|| result = unsafe { tables::update_va_mapping(address, value, mmu::UVMF_INVLPG) });
            result.ok().map(|()| ticks)
        };
        Some((update(entry)?, update(0)?))
    }

    /// Mapping and unmapping all pages by one `mmu_update`, for each page.
    pub fn mmu_update(&self) -> Option<(u64, u64)> {
        let list = |map: bool| -> Vec<MmuUpdate> {
            let entry = |page: &Page| if map { page.mfn().address() | bits::DATA } else { 0 };
            self.entries.iter().zip(&self.pages).map(|(&ptr, page)| MmuUpdate { ptr, val: entry(page) }).collect()
        };
        let update = |list: &[MmuUpdate]| {
            let mut result = Ok(());
            // SAFETY: the range is this window's.
            let ticks = ticks(|| result = unsafe { tables::mmu_update(list, DomId::SELF) });
            result.ok().map(|()| ticks / list.len() as u64)
        };
        Some((update(&list(true))?, update(&list(false))?))
    }

    /// A store to the read-only page table that maps the window: by `mov`, and by `xchg`. Needs the assistance
    /// `writable_pagetables`.
    pub fn write_table(&self) -> Option<(u64, u64)> {
        let place = tables::walk(tables::root(), self.range.address(), 1)?;
        let table = super::view::address(crate::memory::p2m::pfn(place.table)?);
        let address = table + tables::slot(self.range.address(), 1) as u64 * 8;
        let entry = self.pages.first()?.mfn().address() | bits::DATA;
        // SAFETY: writes an entry of this window; the hypervisor emulates the store.
        let stored = ticks(|| unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) entry, options(nostack)) });
        // SAFETY: as above.
        let swapped =
            ticks(|| unsafe { asm!("xchg [{}], {}", in(reg) address, inout(reg) 0u64 => _, options(nostack)) });
        Some((stored, swapped))
    }

    /// Mapping and unmapping grants of our own pages, for each of them.
    pub fn grant_map(&self, grants: &[Grant], us: DomId) -> Option<(u64, u64)> {
        let start = self.range.address();
        let address = |index: usize| start + (index * PAGE_SIZE) as u64;
        let mut maps: Vec<grant::GnttabMapGrantRef> = grants
            .iter()
            .enumerate()
            .map(|(index, entry)| grant::GnttabMapGrantRef {
                host_addr: address(index),
                flags: grant::GNTMAP_HOST_MAP,
                r#ref: entry.reference(),
                dom: us,
                ..grant::GnttabMapGrantRef::new_zeroed()
            })
            .collect();
        let count = maps.len() as u64;
        let mut result = Ok(());
        // SAFETY: the addresses are this window's.
        let mapped = ticks(|| result = unsafe { super::grant::call(grant::GNTTABOP_MAP_GRANT_REF, &mut maps) });
        let good = result.is_ok() && maps.iter().all(|op| op.status == grant::GNTST_OKAY);
        let mut unmaps: Vec<grant::GnttabUnmapGrantRef> = maps
            .iter()
            .filter(|op| op.status == grant::GNTST_OKAY)
            .map(|op| grant::GnttabUnmapGrantRef {
                host_addr: op.host_addr,
                handle: op.handle,
                ..grant::GnttabUnmapGrantRef::new_zeroed()
            })
            .collect();
        // SAFETY: as above.
        let unmapped = ticks(|| result = unsafe { super::grant::call(grant::GNTTABOP_UNMAP_GRANT_REF, &mut unmaps) });
        good.then_some((mapped / count, unmapped / count))
    }
}

/// Copying `length` bytes out of each grant of `from` to the page of `to` in the same place, for each of them.
pub fn grant_copy(from: &[Grant], to: &[Page], us: DomId, length: u16) -> Option<u64> {
    let mut list: Vec<grant::GnttabCopy> = from
        .iter()
        .zip(to)
        .map(|(from, to)| grant::GnttabCopy {
            source: grant::GnttabCopyPtr { u: from.reference().into(), domid: us, offset: 0, _pad0: 0 },
            dest: grant::GnttabCopyPtr { u: to.mfn().0, domid: DomId::SELF, offset: 0, _pad0: 0 },
            len: length,
            flags: grant::GNTCOPY_SOURCE_GREF,
            status: 0,
            _pad0: 0,
        })
        .collect();
    let mut result = Ok(());
    // SAFETY: the destinations are pages of atomics.
    let ticks = ticks(|| result = unsafe { super::grant::call(grant::GNTTABOP_COPY, &mut list) });
    let good = result.is_ok() && list.iter().all(|op| op.status == grant::GNTST_OKAY);
    good.then_some(ticks / list.len() as u64)
}

fn ext(ops: &[MmuextOp]) -> Result<(), Errno> {
    // SAFETY: the callers pin and unpin tables of their own, and load roots that map the runtime.
    unsafe { tables::mmuext_op(ops, DomId::SELF) }.map_err(|(_, errno)| errno)
}

const fn op(cmd: u32, frame: Mfn) -> MmuextOp {
    MmuextOp { cmd, _pad: 0, arg1: frame.0, arg2: 0 }
}

/// Page tables that nothing loads: the user half of a process.
#[derive(Debug)]
pub struct Process {
    /// The tables, the root last.
    tables: Vec<crate::memory::Pfn>,
    pages: Vec<Page>,
}

impl Process {
    /// `leaves` last-level tables of `used` writable entries each, and the tables above them.
    ///
    /// # Errors
    /// Without memory, and what the hypervisor refuses.
    pub fn new(leaves: usize, used: usize, with_root: bool) -> Result<Self, Errno> {
        let mut process = Self { tables: Vec::new(), pages: Vec::new() };
        let mut below = Vec::new();
        for _ in 0..leaves {
            let mut frames = Vec::new();
            for _ in 0..used {
                let page = Page::zeroed().ok_or(Errno::NoMem)?;
                frames.push(page.mfn());
                process.pages.push(page);
            }
            below.push(process.table(&frames, bits::DATA | bits::USER)?);
        }
        if with_root {
            for _ in 2..=4 {
                let next = process.table(&below, bits::TABLE)?;
                below.clear();
                below.push(next);
            }
        }
        Ok(process)
    }

    fn table(&mut self, frames: &[Mfn], flags: u64) -> Result<Mfn, Errno> {
        let page = Page::zeroed().ok_or(Errno::NoMem)?;
        for (word, frame) in page.words64().iter().zip(frames) {
            word.store(frame.address() | flags, Ordering::Relaxed);
        }
        let frame = page.mfn();
        let pfn = page.into_pfn();
        self.tables.push(pfn);
        // SAFETY: the page is ours alone and its view is gone.
        unsafe { tables::protect(pfn) }?;
        Ok(frame)
    }

    /// Pinning and unpinning the root (or the only table) as a table of `level`.
    pub fn pin_unpin(&self, level: u32) -> Option<(u64, u64)> {
        let frame = crate::memory::p2m::mfn(*self.tables.last()?)?;
        let run = |cmd| {
            let mut result = Ok(());
            let ticks = ticks(|| result = ext(&[op(cmd, frame)]));
            result.ok().map(|()| ticks)
        };
        Some((run(mmu::MMUEXT_PIN_L1_TABLE + level - 1)?, run(mmu::MMUEXT_UNPIN_TABLE)?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for &pfn in self.tables.iter().rev() {
            // SAFETY: nothing refers to a table above the ones that are ordinary pages again.
            if unsafe { tables::unprotect(pfn) }.is_ok() {
                crate::memory::pool::give(pfn, 1);
            } else {
                core::mem::forget(core::mem::take(&mut self.pages));
                return;
            }
        }
    }
}

/// Loading another kernel root, and the way back.
pub fn new_baseptr(other: Mfn) -> Option<u64> {
    let home = tables::root();
    let mut result = Ok(());
    let ticks = ticks(|| result = ext(&[op(mmu::MMUEXT_NEW_BASEPTR, other)]));
    let back = ext(&[op(mmu::MMUEXT_NEW_BASEPTR, home)]);
    (result.is_ok() && back.is_ok()).then_some(ticks)
}

/// A descriptor table of our own, which the hypervisor has loaded, for the part of a context switch that edits it.
#[derive(Debug)]
pub struct Descriptors(crate::memory::Pfn);

impl Descriptors {
    /// Loads a table of 16 empty descriptors; the runtime uses the hypervisor's.
    ///
    /// # Errors
    /// Without memory, and what the hypervisor refuses.
    pub fn new() -> Result<Self, Errno> {
        let page = Page::zeroed().ok_or(Errno::NoMem)?;
        let frame = page.mfn();
        let pfn = page.into_pfn();
        // SAFETY: the page is ours alone and its view is gone.
        unsafe { tables::protect(pfn) }?;
        let frames = [frame.0];
        // SAFETY: no selector in use points into the table.
        Errno::check(unsafe { call2::<{ Hypercall::SetGdt as u32 }>(frames.as_ptr() as u64, 16) })?;
        Ok(Self(pfn))
    }

    /// The machine address of descriptor `index`.
    fn address(&self, index: u64) -> u64 {
        crate::memory::p2m::mfn(self.0).map_or(0, Mfn::address) + index * 8
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: no selector in use points into the table.
        unsafe { call2::<{ Hypercall::SetGdt as u32 }>(0, 0) };
        // SAFETY: the table is not loaded any more.
        if unsafe { tables::unprotect(self.0) }.is_ok() {
            crate::memory::pool::give(self.0, 1);
        }
    }
}

/// A context switch as Linux makes it: one multicall that sets the kernel's stack, the descriptors of thread-local
/// storage, the segment bases and both roots.
pub fn context_switch(descriptors: &Descriptors, kernel: Mfn, user: Mfn) -> Option<u64> {
    const DATA_SEGMENT: u64 = 0x00cf_f300_0000_ffff;
    let roots = [op(mmu::MMUEXT_NEW_BASEPTR, kernel), op(mmu::MMUEXT_NEW_USER_BASEPTR, user)];
    let stack = &raw const roots as u64;
    let call = |op: Hypercall, args: [u64; 6]| MulticallEntry { op: op as u64, result: 0, args };
    let describe = |index| call(Hypercall::UpdateDescriptor, [descriptors.address(index), DATA_SEGMENT, 0, 0, 0, 0]);
    let mut list = [
        call(Hypercall::MmuextOp, [roots.as_ptr() as u64, 2, 0, DomId::SELF.0.into(), 0, 0]),
        call(Hypercall::StackSwitch, [segments::FLAT_KERNEL_SS.into(), stack, 0, 0, 0, 0]),
        describe(12),
        describe(13),
        describe(14),
        call(Hypercall::SetSegmentBase, [segments::SEGBASE_FS.into(), 0x1000, 0, 0, 0, 0]),
        call(Hypercall::SetSegmentBase, [segments::SEGBASE_GS_USER.into(), 0x2000, 0, 0, 0, 0]),
    ];
    let home = tables::root();
    let ticks = ticks(|| {
        multicall(&mut list);
    });
    let good = list.iter().all(|entry| entry.result == 0);
    let back = ext(&[op(mmu::MMUEXT_NEW_BASEPTR, home), op(mmu::MMUEXT_NEW_USER_BASEPTR, Mfn(0))]);
    (good && back.is_ok()).then_some(ticks)
}

/// Sending an event to the port that `from` rings; where `upcall` is set, with the upcall that it makes.
pub fn event_send(from: u32, to: u32, upcall: bool) -> u64 {
    let word = core::mem::offset_of!(oxen_abi::shared_info::SharedInfo, evtchn_pending) + to as usize / 64 * 8;
    oxen_measure_pending.store(core::ptr::from_ref(shared::word(word)) as u64, Ordering::Relaxed);
    oxen_measure_bit.store(u64::from(to) % 64, Ordering::Relaxed);
    oxen_measure_vcpu.store(core::ptr::from_ref(shared::word(0)) as u64, Ordering::Relaxed);
    if upcall {
        traps::register_callback(callback::CALLBACKTYPE_EVENT, oxen_measure_upcall as *const () as u64);
        shared::upcall_pending().store(0, Ordering::SeqCst);
        shared::upcall_mask().store(0, Ordering::SeqCst);
    }
    let request = event_channel::EvtchnSend { port: from };
    let ticks = ticks(|| {
        // SAFETY: the call reads the structure; the handler keeps what it uses.
        unsafe {
            call2::<{ Hypercall::EventChannelOp as u32 }>(
                event_channel::EVTCHNOP_SEND.into(),
                (&raw const request) as u64,
            )
        };
    });
    shared::upcall_mask().store(1, Ordering::SeqCst);
    if upcall {
        traps::register_event_entry();
    } else {
        shared::word(word).fetch_and(!(1 << (to % 64)), Ordering::SeqCst);
    }
    ticks
}

fn with_handler<T>(vector: u8, handler: u64, run: impl FnOnce() -> T) -> T {
    let set = |address| {
        let entry = trap::TrapInfo { vector, flags: 3, cs: segments::FLAT_KERNEL_CS, _pad: 0, address };
        let table = [entry, trap::TrapInfo::new_zeroed()];
        // SAFETY: the handlers here keep every register but rcx and r11, which the code below gives up.
        unsafe { call1::<{ Hypercall::SetTrapTable as u32 }>(table.as_ptr() as u64) };
    };
    set(handler);
    let result = run();
    set(traps::exception_entry(vector));
    result
}

/// `int3` to the handler and back.
pub fn breakpoint() -> u64 {
    with_handler(3, oxen_measure_int3 as *const () as u64, || {
        // SAFETY: the handler returns behind the instruction.
        ticks(|| unsafe { asm!("int3", out("rcx") _, out("r11") _) })
    })
}

/// A page fault to the handler and back.
pub fn page_fault(window: &Window) -> u64 {
    let address = window.range.address();
    with_handler(14, oxen_measure_fault as *const () as u64, || {
        // SAFETY: nothing is mapped there; the handler skips the instruction.
        ticks(|| unsafe {
            asm!(".byte 0x48, 0x8b, 0x07", in("rdi") address, inout("rax") 0u64 => _, out("rcx") _, out("r11") _);
        })
    })
}

/// Reading the page attribute table's MSR.
pub fn read_msr() -> u64 {
    // SAFETY: the hypervisor answers for this register.
    ticks(|| unsafe { asm!("rdmsr", in("ecx") 0x277, out("eax") _, out("edx") _) })
}

/// Reading a byte from an I/O port.
pub fn read_port() -> u64 {
    ticks(|| {
        super::machine::port::read8(0x80);
    })
}

/// System calls that the user code of [`syscall_program`] makes.
const SYSCALLS: u32 = 256;

/// User code that makes system calls and leaves the ticks of all in rax, then traps: position independent.
pub fn syscall_program() -> Vec<u8> {
    let mut code = Vec::new();
    // rdtsc; shl rdx, 32; or rax, rdx; mov rbx, rax; mov ebp, SYSCALLS
    code.extend([0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x89, 0xc3, 0xbd]);
    code.extend(SYSCALLS.to_le_bytes());
    // 1: syscall; dec ebp; jnz 1b
    code.extend([0x0f, 0x05, 0xff, 0xcd, 0x75, 0xfa]);
    // rdtsc; shl rdx, 32; or rax, rdx; sub rax, rbx; int3
    code.extend([0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x29, 0xd8, 0xcc]);
    code
}

/// A system call of user code to this kernel and back, once the code is mapped at `address` of `space`.
pub fn user_syscall(space: &super::space::AddressSpace, address: u64) -> Option<u64> {
    traps::register_callback(callback::CALLBACKTYPE_SYSCALL, oxen_measure_syscall as *const () as u64);
    let mut frame = Frame { rip: address, rsp: address, ..Frame::default() };
    let ran = space.run_user(&mut frame);
    traps::register_syscall_entry();
    // Two instructions of the loop are not the system call's.
    (ran.is_ok() && frame.vector == 3).then(|| frame.rax / u64::from(SYSCALLS) - 2)
}

/// From the moment a timer was set for, to the first instruction of a blocked guest's handler.
pub fn timer_latency() -> Option<u64> {
    let (deadline, stamp) = crate::time::ahead(200_000);
    traps::register_callback(callback::CALLBACKTYPE_EVENT, oxen_measure_timer as *const () as u64);
    oxen_measure_stamp.store(0, Ordering::Relaxed);
    // SAFETY: touches no memory.
    let set = unsafe { call1::<{ Hypercall::SetTimerOp as u32 }>(deadline) };
    crate::sched::block();
    traps::register_event_entry();
    crate::event::collect();
    let came = oxen_measure_stamp.load(Ordering::Relaxed);
    (set == 0 && came >= stamp).then(|| came - stamp)
}

/// Giving `count` pages back to the hypervisor and taking as many again, for each of them.
pub fn balloon(count: usize) -> Option<u64> {
    let pages: Option<Vec<Page>> = (0..count).map(|_| Page::zeroed()).collect();
    let pfns: Vec<_> = pages.as_ref()?.iter().map(Page::pfn).collect();
    let mut done = (Ok(0), Ok(0));
    let ticks = ticks(|| {
        done.0 = super::reservation::release(pages.unwrap_or_default());
        done.1 = super::reservation::populate(&pfns);
    });
    (done == (Ok(count), Ok(count))).then(|| ticks / count as u64)
}

/// Turns on the hypervisor's emulation of stores to page tables.
///
/// # Errors
/// Where it is not offered.
pub fn enable_writable_tables() -> Result<(), Errno> {
    use oxen_abi::vm_assist::{VMASST_CMD_ENABLE, VMASST_TYPE_WRITABLE_PAGETABLES};
    // SAFETY: changes what happens to stores that would fault.
    Errno::check(unsafe {
        call2::<{ Hypercall::VmAssist as u32 }>(VMASST_CMD_ENABLE.into(), VMASST_TYPE_WRITABLE_PAGETABLES.into())
    })
    .map(|_| ())
}
