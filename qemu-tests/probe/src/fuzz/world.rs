//! The memory, ports and registers that sequences work on, and the way back to how they were.
//!
//! Each frame of the experiments has a view, read-only and for good, by which its contents are read, and a window, which
//! the sequences edit. Two more windows are for grants.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use oxen_abi::domid::DomId;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{event_channel, grant_table, mmu};
use oxen_domu_lib::grant::{Access, Grant};
use oxen_domu_lib::memory::{Page, Pages, p2m};
use oxen_domu_lib::{event, start_info};

use super::call::{Call, Kept, Step};
use super::effects::Effects;
use super::random::Random;
use super::value::{FRAMES, Value, WINDOWS};
use crate::judge::call;
use crate::raw::{self, trapped};

/// This domain.
pub(crate) const SELF: u64 = 0x7ff0;
const READ_ONLY: u64 = 1 | 1 << 5 | 1 << 6 | 1 << 63;
const WRITABLE: u64 = READ_ONLY | 2;
/// The slot of the root that sequences edit; nothing of this guest's is there.
pub(crate) const SLOT: u64 = 5;
/// Where the memory of a batch's calls begins, and how much each has.
const BATCH: u64 = 0x200;
/// The bit that Xen sets in entries for user pages: they survive a switch of roots there, and do not here.
const GLOBAL: u64 = 1 << 8;
/// CR4: the guest's kernel may set XCR0.
const OSXSAVE: u64 = 1 << 18;
/// A grant handle that nobody has.
const NO_HANDLE: u32 = 0xffff;
/// Ports that are closed between sequences.
pub(crate) const PORTS: u32 = 8;

/// All that a sequence works on.
pub(crate) struct World {
    /// Whether this is the initial domain.
    pub(crate) privileged: bool,
    /// The machine numbers of the frames.
    pub(crate) frames: [u64; FRAMES],
    views: [u64; FRAMES],
    pages: [u64; FRAMES],
    /// Where the windows are.
    pub(crate) windows: [u64; WINDOWS],
    /// By level less 1, the frames of the tables above the first window.
    pub(crate) tables: [u64; 4],
    entries: [u64; WINDOWS],
    entry_addresses: [u64; WINDOWS],
    root: u64,
    /// The argument memory, and a page that the hypervisor writes when it likes.
    pub(crate) memory: Pages,
    references: [u64; 2],
    me: u64,
    /// The first port that is free.
    pub(crate) port: u32,
    /// Handles with their windows, the newest last.
    handles: Vec<(u32, usize)>,
    cr4: u64,
    xcr0: u64,
    effects: Effects,
}

/// Reads page table entries by the guest's direct map.
struct Tables {
    direct_map: u64,
    root: u64,
}

impl Tables {
    /// The machine address and the place of the entry of this level for an address, and the table's frame.
    fn entry(&self, address: u64, level: u32) -> Option<(u64, u64, u64)> {
        let mut frame = self.root;
        for at in (level..=4).rev() {
            let place = self.place(frame)? + ((address >> (9 * at)) & 0xff8);
            if at == level {
                return Some(((frame << 12) + (place & 0xfff), place, frame));
            }
            frame = raw::trapped::peek(place) >> 12 & 0xff_ffff_ffff;
        }
        None
    }

    fn place(&self, frame: u64) -> Option<u64> {
        let page = p2m::pfn(oxen_domu_lib::memory::Mfn(frame))?;
        Some(self.direct_map + (page.0 << 12))
    }
}

/// This domain's own number, and the first port that is free.
fn own_number(memory: &Pages) -> (u64, u32) {
    let words = memory.words32();
    let ask = |command: u32, given: [u32; 3]| {
        words.iter().zip(given).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
        call(Hypercall::EventChannelOp, [command.into(), memory.address()]);
        let word = |at: usize| words.get(at).map_or(0, |word| word.load(Ordering::SeqCst));
        (word(1), word(2), word(4))
    };
    let own = SELF as u32;
    let (unbound, ..) = ask(event_channel::EVTCHNOP_ALLOC_UNBOUND, [own | own << 16, 0, 0]);
    let (_, bound, _) = ask(event_channel::EVTCHNOP_BIND_INTERDOMAIN, [own, unbound, 0]);
    let (.., number) = ask(event_channel::EVTCHNOP_STATUS, [own, bound, 0]);
    for port in [bound, unbound] {
        ask(event_channel::EVTCHNOP_CLOSE, [port, 0, 0]);
    }
    (u64::from(number & 0xffff), unbound.min(bound))
}

impl World {
    /// The pages, the grants, and what is known of them.
    pub(crate) fn new() -> Option<Self> {
        let memory = Pages::zeroed(2)?;
        let windows = Pages::zeroed(WINDOWS)?.leak();
        let (me, port) = own_number(&memory);
        let mut world = Self {
            privileged: start_info::is_initial_domain(),
            frames: [0; FRAMES],
            views: [0; FRAMES],
            pages: [0; FRAMES],
            windows: core::array::from_fn(|window| windows.address() + (window as u64) * 4096),
            tables: [0; 4],
            entries: [0; WINDOWS],
            entry_addresses: [0; WINDOWS],
            root: 0,
            memory,
            references: [0; 2],
            me,
            port,
            handles: Vec::new(),
            cr4: raw::cr4(),
            xcr0: raw::xcr0(),
            effects: Effects::default(),
        };
        for frame in 0..FRAMES {
            let page = Page::zeroed()?;
            let known = (page.mfn().0, page.address(), page.pfn().0);
            if let Some(reference) = frame.checked_sub(FRAMES - 2).and_then(|at| world.references.get_mut(at)) {
                let access = if frame == FRAMES - 2 { Access::ReadWrite } else { Access::ReadOnly };
                let grant = Grant::new(page, DomId(me as u16), access).ok()?;
                *reference = grant.reference().into();
                core::mem::forget(grant);
            } else {
                page.leak();
            }
            *world.frames.get_mut(frame)? = known.0;
            *world.views.get_mut(frame)? = known.1;
            *world.pages.get_mut(frame)? = known.2;
            let made = call(Hypercall::UpdateVaMapping, [known.1, known.0 << 12 | READ_ONLY, mmu::UVMF_INVLPG]);
            if made != 0 {
                return None;
            }
        }
        let direct_map = windows.address() - (windows.pfn(0).0 << 12);
        let tables = Tables { direct_map, root: raw::cr3() >> 12 };
        for window in 0..WINDOWS {
            let (machine, place, _) = tables.entry(*world.windows.get(window)?, 1)?;
            *world.entry_addresses.get_mut(window)? = machine;
            *world.entries.get_mut(window)? = place;
        }
        for level in 1..=4 {
            let (.., frame) = tables.entry(*world.windows.first()?, level)?;
            *world.tables.get_mut(level as usize - 1)? = frame;
        }
        world.root = tables.place(tables.root)?;
        Some(world)
    }

    /// Brings everything back to how a sequence begins, with contents of the frames that the seed chooses.
    pub(crate) fn reset(&mut self, seed: u64) -> Result<(), String> {
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
        self.fill(seed);
        for port in self.port..self.port + PORTS {
            self.memory.words32().iter().zip([port]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
            call(Hypercall::EventChannelOp, [event_channel::EVTCHNOP_CLOSE.into(), self.memory.address()]);
            event::settle(port);
        }
        self.see();
        Ok(())
    }

    /// Registers, assistance and timers as they are at the start of day.
    fn registers(&mut self) {
        for register in [7, 0, 1, 2, 3] {
            call(Hypercall::SetDebugreg, [register, 0]);
        }
        call(Hypercall::SetDebugreg, [6, 0xffff_0ff0]);
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
    fn catch(&self) {
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
            let [.., for_writing, for_reading] = self.frames;
            // The processor's mapping, and that of devices, which is one of the two.
            for (host, bus) in [(address, 0), (0, for_writing << 12), (0, for_reading << 12)] {
                let words = self.memory.words64().iter();
                words.zip([host, bus, handle.into()]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
                call(Hypercall::GrantTableOp, [grant_table::GNTTABOP_UNMAP_GRANT_REF.into(), self.memory.address(), 1]);
            }
        }
    }

    fn update(&self, pointer: u64, value: u64) -> i64 {
        let words = self.memory.words64();
        words.iter().zip([pointer, value]).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
        call(Hypercall::MmuUpdate, [self.memory.address(), 1, 0, SELF])
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
                let at = random.of_list(&[0, 1, 2, 3, 255, 256, 300, 511]) * 8;
                trapped::attempt(write, [self.value(value, 0), 0, 0, 0, 0, address + at]);
            }
        }
    }

    /// The frame of the table of a level.
    fn frame(&self, level: usize) -> u64 {
        self.tables.get(level.wrapping_sub(1)).copied().unwrap_or(0)
    }

    /// What an argument is here.
    fn value(&self, value: Value, base: u64) -> u64 {
        let of = |list: &[u64], index: usize| list.get(index).copied().unwrap_or(0);
        match value {
            Value::Number(number) => number,
            Value::Memory(at) => self.memory.address() + base + at,
            Value::Frame(frame) => of(&self.frames, frame),
            Value::Machine(frame, bits) => (of(&self.frames, frame) << 12) | bits,
            Value::Window(window, offset) => of(&self.windows, window).wrapping_add(offset),
            Value::Entry(window, kind) => of(&self.entry_addresses, window) | kind,
            Value::Table(level) => self.frame(level),
            Value::TableAt(level, bits) => self.frame(level) << 12 | bits,
            Value::Slot(slot) => (self.frame(4) << 12) | (slot * 8),
            Value::Page(frame) => of(&self.pages, frame),
            Value::Port(port) => u64::from(self.port + port),
            Value::Handle(last) => {
                let index = self.handles.len().checked_sub(last + 1);
                index.and_then(|index| self.handles.get(index)).map_or(NO_HANDLE, |(handle, _)| *handle).into()
            }
            Value::Reference(frame) => of(&self.references, frame.wrapping_sub(FRAMES - 2)),
            Value::Me => self.me,
            Value::Handler(vector) => trapped::entry(vector),
        }
    }

    /// A word by what it means, as [`Value`] prints it.
    pub(crate) fn name(&self, word: u64) -> String {
        let mut text = String::new();
        let frame = word >> 12 & 0xff_ffff_ffff;
        let bits = word & !0x000f_ffff_ffff_f000 & !GLOBAL;
        let known = |list: &[u64], frame: u64| list.iter().position(|known| *known == frame);
        let page = |first: u64, pages: u64| word.checked_sub(first).filter(|at| *at < pages << 12);
        let _ = if let Some(frame) = known(&self.frames, word) {
            write!(text, "F{frame}")
        } else if let Some(level) = known(&self.tables, word) {
            write!(text, "T{}", level + 1)
        } else if let Some(frame) = known(&self.frames, frame) {
            write!(text, "F{frame}:+{bits:x}")
        } else if let Some(level) = known(&self.tables, frame) {
            write!(text, "T{}:+{bits:x}", level + 1)
        } else if let Some(at) = self.windows.first().and_then(|first| page(*first, WINDOWS as u64)) {
            write!(text, "W{}+{:x}", at >> 12, at & 0xfff)
        } else if let Some(at) = page(self.memory.address(), 2) {
            write!(text, "&{at:x}")
        } else {
            write!(text, "{word:x}")
        };
        text
    }

    /// Does a step, and says what came of it.
    pub(crate) fn perform(&mut self, step: &Step) -> String {
        let mut text = String::new();
        self.memory.words64().iter().take(512).for_each(|word| word.store(0, Ordering::SeqCst));
        match step {
            Step::Call(call) => {
                self.write(call, 0);
                self.see();
                let mut args = [0; 5];
                args.iter_mut().zip(&call.args).for_each(|(place, arg)| *place = self.value(*arg, 0));
                let result = raw::hypercall(call.number, args);
                self.answer(&mut text, call, result, 0);
            }
            Step::Batch(calls) => {
                for (index, call) in (0..).zip(calls) {
                    let base = BATCH * (index + 1);
                    self.write(call, base);
                    let args = call.args.iter().map(|arg| self.value(*arg, base));
                    let entry: Vec<u64> = [call.number, 0x5555].into_iter().chain(args).collect();
                    let at = index as usize * 8;
                    let words = self.memory.words64().iter().skip(at);
                    words.zip(entry).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
                }
                self.see();
                let result =
                    raw::hypercall(Hypercall::Multicall as u64, [self.memory.address(), calls.len() as u64, 0, 0, 0]);
                let _ = write!(text, " {result}:");
                for (index, call) in (0..).zip(calls) {
                    let at = index as usize * 8;
                    let words = self.memory.words64();
                    let result = words.get(at + 1).map_or(0, |word| word.load(Ordering::SeqCst));
                    self.answer(&mut text, call, result as i64, BATCH * (index + 1));
                    // The answer has been told; a debug build of Xen overwrites the rest.
                    self.memory.words64().iter().skip(at).take(8).for_each(|word| word.store(0, Ordering::SeqCst));
                }
                self.effects.forget_memory(BATCH as usize / 8);
            }
            Step::Instruction(index, registers) => {
                self.see();
                let registers = registers.map(|register| self.value(register, 0));
                let trial = trapped::attempt(*index, registers);
                if trial.vector != trapped::NONE {
                    let _ = write!(text, " #{} error {:x} at {:x}", trial.vector, trial.error, trial.offset);
                }
                for ((name, before), after) in ["a", "b", "c", "d", "s", "D"].iter().zip(registers).zip(trial.registers)
                {
                    if before != after {
                        let _ = write!(text, " {name}={}", self.name(after));
                    }
                }
            }
        }
        let seen = self.look();
        self.effects.compare(&seen, |word| self.name(word), &mut text);
        self.effects = seen;
        let is = |wanted: Hypercall| matches!(step, Step::Call(call) if call.number == wanted as u64);
        if is(Hypercall::SetTrapTable) || matches!(step, Step::Batch(_)) {
            self.catch();
        }
        text
    }

    fn write(&self, call: &Call, base: u64) {
        let bytes = self.memory.bytes();
        for (offset, width, value) in &call.memory {
            let at = base as usize + offset;
            let value = self.value(*value, base).to_le_bytes();
            bytes.iter().skip(at).take(*width).zip(value).for_each(|(place, byte)| place.store(byte, Ordering::SeqCst));
        }
    }

    /// Tells a result, and keeps what is to be kept.
    fn answer(&mut self, text: &mut String, call: &Call, result: i64, base: u64) {
        let _ = match result {
            1.. if call.is_vague => write!(text, " >0"),
            _ if result > 0xfff => write!(text, " {}", self.name(result as u64)),
            _ => write!(text, " {result}"),
        };
        let word = |at: usize| {
            self.memory.words32().get((base as usize + at) / 4).map_or(0, |word| word.load(Ordering::SeqCst))
        };
        match call.kept {
            Some(Kept::Port(at)) => {
                let _ = write!(text, " port{}", i64::from(word(at)) - i64::from(self.port));
                self.effects.hide(base as usize + at, 4);
            }
            Some(Kept::Handle(at, window)) => {
                // The status stands before the handle.
                let (status, handle) = (word(at - 4) >> 16, word(at));
                if result == 0 && status == 0 && call.args.get(2) == Some(&Value::Number(1)) {
                    // A number that is given out again is no longer what it was. Which is given first varies.
                    for (known, _) in self.handles.iter_mut().filter(|(known, _)| *known == handle) {
                        *known = NO_HANDLE;
                    }
                    self.handles.push((handle, window));
                }
                self.effects.hide(base as usize + at, 4);
            }
            None => {}
        }
        for (at, length) in &call.hidden {
            self.effects.hide(base as usize + at, *length);
        }
    }

    /// Takes the present state as what the next step is compared with.
    fn see(&mut self) {
        self.effects = self.look();
    }

    fn look(&self) -> Effects {
        let mut seen = Effects::default();
        seen.memory = self.memory.words64().iter().take(512).map(|word| word.load(Ordering::SeqCst)).collect();
        for view in self.views {
            seen.frames.extend((0..512).map(|index| trapped::peek(view + index * 8)));
        }
        seen.entries = self.entries.iter().map(|place| trapped::peek(*place) & !GLOBAL).collect();
        seen.entries.push(trapped::peek(self.root + SLOT * 8));
        seen.events = (0..PORTS).map(|port| event::bits(self.port + port)).collect();
        seen.upcall = event::upcall();
        seen
    }
}
