//! The way back to how a sequence begins.

use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{domctl, event_channel, grant_table, mmu};
use oxen_domu_lib::event;

use super::random::Random;
use super::value::SELF;
use super::value::{FRAMES, Value};
use super::world::{NOBODY, OSXSAVE, PORTS, READ_ONLY, SLOT, WRITABLE, World};
use crate::judge::call;
use crate::raw::{self, trapped};

/// The numbers of the domains that are made for sequences, each used once before they begin anew.
const FIRST_OTHER: u32 = 0x400;
const LAST_OTHER: u32 = 0x7000;

impl World {
    /// Brings everything back to how a sequence begins, with contents of the frames that the seed chooses.
    pub(crate) fn reset(&mut self, seed: u64, needs_other: bool) -> Result<(), String> {
        self.leave_queues();
        if self.privileged {
            self.take_the_usual_share();
        }
        self.registers();
        self.ungrant();
        self.update((self.frame(4) << 12) | (SLOT * 8), 0);
        self.extended(mmu::MMUEXT_NEW_USER_BASEPTR, 0, 0);
        self.extended(mmu::MMUEXT_SET_LDT, 0, 0);
        call(Hypercall::SetGdt, [self.memory.address(), 0]);
        for window in self.windows {
            call(Hypercall::UpdateVaMapping, [window, 0, mmu::UVMF_INVLPG]);
        }
        for (frame, page) in self.frames.into_iter().zip(self.pages) {
            self.extended(mmu::MMUEXT_UNPIN_TABLE, frame, 0);
            self.update(frame << 12 | mmu::MMU_MACHPHYS_UPDATE, page);
        }
        for (window, frame) in self.windows.into_iter().zip(self.frames) {
            let entry = frame << 12 | WRITABLE;
            let made = call(Hypercall::UpdateVaMapping, [window, entry, mmu::UVMF_TLB_FLUSH | mmu::UVMF_ALL]);
            if made != 0 {
                let mut what = String::new();
                let _ = write!(what, "{} is not writable again: {made}", self.name(frame));
                return Err(what);
            }
        }
        self.unmap_the_rest();
        self.reset_table(seed)?;
        self.fill(seed);
        for port in self.port..self.port + PORTS {
            self.memory.words32().iter().zip([port]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
            call(Hypercall::EventChannelOp, [event_channel::EVTCHNOP_CLOSE.into(), self.memory.address()]);
            event::settle(port);
        }
        if self.privileged && needs_other {
            self.make_other()?;
        }
        self.see();
        Ok(())
    }

    /// Goes back to the two-level interface, which closes every port; those below ours are taken again.
    fn leave_queues(&self) {
        let words = self.memory.words32();
        let ask = |command: u32, argument: u32| {
            words.iter().zip([argument, 0]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
            call(Hypercall::EventChannelOp, [command.into(), self.memory.address()])
        };
        // Who has no queues has no priorities.
        if ask(event_channel::EVTCHNOP_SET_PRIORITY, 0) == -i64::from(Errno::NoSys as u16) {
            return;
        }
        ask(event_channel::EVTCHNOP_RESET, SELF as u32);
        for _ in 1..self.port {
            ask(event_channel::EVTCHNOP_BIND_IPI, 0);
        }
    }

    /// Gives this domain back the weight that domains have, without a cap: with a small
    /// one all that follows takes long.
    fn take_the_usual_share(&self) {
        let weight = 256;
        let (version, credit) = (domctl::XEN_DOMCTL_INTERFACE_VERSION, domctl::XEN_SCHEDULER_CREDIT);
        let put = domctl::XEN_DOMCTL_SCHEDOP_PUTINFO;
        self.control(&[domctl::XEN_DOMCTL_SCHEDULER_OP, version, self.me as u32, 0, credit, put, weight]);
    }

    /// Ends the other domain and makes a new one: two vcpus without a context, no memory, paused.
    fn make_other(&mut self) -> Result<(), String> {
        let version = domctl::XEN_DOMCTL_INTERFACE_VERSION;
        if self.other != NOBODY {
            self.control(&[domctl::XEN_DOMCTL_DESTROYDOMAIN, version, self.other as u32]);
        }
        let vcpus = 2;
        let mut request = [0; 24];
        // No number that a sequence draws means it by accident.
        self.last_other =
            if (FIRST_OTHER..LAST_OTHER).contains(&self.last_other) { self.last_other + 1 } else { FIRST_OTHER };
        request[..3].copy_from_slice(&[domctl::XEN_DOMCTL_CREATEDOMAIN, version, self.last_other]);
        // How many vcpus, its last port, its grants' and mappings' frames, and their version.
        request[11..16].copy_from_slice(&[vcpus, 1023, 4, 4, 1]);
        let made = self.control(&request);
        self.other = self.memory.words32().get(2).map_or(0, |word| word.load(Ordering::SeqCst) & 0xffff).into();
        let given = self.control(&[domctl::XEN_DOMCTL_MAX_VCPUS, version, self.other as u32, 0, vcpus]);
        let mut what = String::new();
        if made != 0 || given != 0 {
            let _ = write!(what, "no other domain can be made: {made} {given}");
            return Err(what);
        }
        Ok(())
    }

    fn control(&self, request: &[u32]) -> i64 {
        let words = request.iter().chain(core::iter::repeat(&0)).take(36);
        self.memory.words32().iter().zip(words).for_each(|(place, word)| place.store(*word, Ordering::SeqCst));
        call(Hypercall::Domctl, [self.memory.address()])
    }

    /// Registers, assistance and timers as they are at the start of day.
    fn registers(&mut self) {
        for register in [7, 0, 1, 2, 3] {
            call(Hypercall::SetDebugreg, [register, 0]);
        }
        call(Hypercall::SetDebugreg, [6, 0xffff_0ff0]);
        call(Hypercall::SetTrapTable, [0]);
        self.catch();
        for assistance in [0, 1, 2, 3, 4, 5, 32] {
            call(Hypercall::VmAssist, [1, assistance]);
        }
        for segment in 0..3 {
            call(Hypercall::SetSegmentBase, [segment, 0]);
        }
        call(Hypercall::FpuTaskswitch, [0]);
        let words = self.memory.words64();
        words.iter().zip([1]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
        call(Hypercall::PhysdevOp, [6, self.memory.address()]);
        for command in [7, 9] {
            call(Hypercall::VcpuOp, [command, 0, 0]);
        }
        call(Hypercall::SetTimerOp, [0]);
        let word = self.memory.address() + 4096;
        words.iter().zip([word]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
        call(Hypercall::VcpuOp, [5, 0, self.memory.address()]);
        self.instruction("flip cr4", [0, raw::cr4() ^ (self.cr4 | OSXSAVE), 0, 0, 0, 0]);
        self.instruction("xsetbv", [self.xcr0, 0, 0, 0, 0, 0]);
        self.instruction("flip cr4", [0, raw::cr4() ^ self.cr4, 0, 0, 0, 0]);
        self.instruction("write cr2", [0; 6]);
        self.instruction("cli", [0; 6]);
    }

    /// Registers our own exception entries and callbacks.
    pub(super) fn catch(&self) {
        let words = self.memory.words64();
        for vector in 0..32_u64 {
            let at = vector as usize * 2;
            let flags = if vector == 3 { 3 } else { 0 };
            let entry = [vector | flags << 8 | 0xe033 << 16, trapped::entry(vector)];
            words.iter().skip(at).zip(entry).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
        }
        words.iter().skip(64).zip([0, 0]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
        call(Hypercall::SetTrapTable, [self.memory.address()]);
    }

    fn ungrant(&mut self) {
        for (handle, window) in core::mem::take(&mut self.handles) {
            let address = self.windows.get(window).copied().unwrap_or(0);
            self.unmap_grant(address, 0, handle);
            // The mapping of devices, which is of one of the frames.
            for frame in self.frames.into_iter().chain(self.tables).chain([self.table.status_frame]) {
                self.unmap_grant(0, frame << 12, handle);
            }
            self.stale.push(handle);
        }
    }

    /// Ends a mapping by its place and its bus address. What came of it is found out later.
    fn unmap_grant(&self, host: u64, bus: u64, handle: u32) -> u64 {
        let words = self.memory.words64();
        words.iter().zip([host, bus, handle.into()]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
        call(Hypercall::GrantTableOp, [grant_table::GNTTABOP_UNMAP_GRANT_REF.into(), self.memory.address(), 1]);
        words.get(2).map_or(0, |word| word.load(Ordering::SeqCst) >> 32)
    }

    /// Ends the mappings whose entries a sequence has written over: they are put where they were, whichever they were.
    fn unmap_the_rest(&mut self) {
        /// Status: there is no such handle.
        const NONE: u64 = grant_table::GNTST_BAD_HANDLE as u16 as u64;
        let Some(&window) = self.windows.last() else { return };
        for handle in core::mem::take(&mut self.stale) {
            let frames = self.frames.into_iter().chain(self.tables).chain([self.table.status_frame]);
            let entries = frames.flat_map(|frame| [WRITABLE, READ_ONLY].map(|flags| frame << 12 | flags));
            for entry in entries {
                if self.unmap_grant(0, 0, handle) & 0xffff == NONE {
                    break;
                }
                call(Hypercall::UpdateVaMapping, [window, entry, mmu::UVMF_INVLPG]);
                self.unmap_grant(window, 0, handle);
            }
            call(Hypercall::UpdateVaMapping, [window, 0, mmu::UVMF_INVLPG]);
        }
    }

    fn update(&self, pointer: u64, value: u64) -> i64 {
        let words = self.memory.words64();
        words.iter().zip([pointer, value]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
        call(Hypercall::MmuUpdate, [self.memory.address(), 1, 0, SELF])
    }

    /// Flushes all that this processor knows of the tables.
    pub(super) fn forget_translations(&self) {
        self.extended(mmu::MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
    }

    fn extended(&self, command: u32, first: u64, second: u64) -> i64 {
        let words = self.memory.words64();
        let operation = [command.into(), first, second];
        words.iter().zip(operation).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
        call(Hypercall::MmuextOp, [self.memory.address(), 1, 0, SELF])
    }

    fn instruction(&self, name: &str, registers: [u64; 6]) -> trapped::Trial {
        let index = trapped::NAMES.iter().position(|known| *known == name).unwrap_or(0);
        trapped::attempt(index, registers)
    }

    /// Writes what the frames hold at first: nothing, entries for one another, or noise.
    fn fill(&mut self, seed: u64) {
        let mut random = Random::of(seed, u64::MAX);
        let write = trapped::NAMES.iter().position(|known| *known == "write").unwrap_or(0);
        for window in 0..FRAMES {
            let address = self.windows.get(window).copied().unwrap_or(0);
            let kind = random.below(5);
            let count = if kind == 0 { 0 } else { 1 + random.below(4) };
            for index in 0..512_u64 {
                trapped::attempt(write, [0, 0, 0, 0, 0, address + index * 8]);
            }
            for _ in 0..count {
                let other = random.below(FRAMES as u64) as usize;
                let value = match kind {
                    1 => Value::Machine(other, READ_ONLY),
                    2 => Value::Machine(other, super::draw::flags(&mut random)),
                    3 => Value::Machine(other, 0x67),
                    _ => Value::Number(random.word()),
                };
                let at = random.of_list(&super::draw::SLOTS) * 8;
                trapped::attempt(write, [self.value(value, 0), 0, 0, 0, 0, address + at]);
            }
        }
    }
}
