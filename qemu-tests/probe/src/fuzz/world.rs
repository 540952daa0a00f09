//! The memory, ports and registers that sequences work on, and the way back to how they were.
//!
//! Each frame of the experiments has a view, read-only and for good, by which its contents are read, and a window,
//! which the sequences edit. Two more windows are for grants.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use oxen_abi::domid::DomId;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::{event_channel, mmu};
use oxen_domu_lib::grant::{Access, Grant};
use oxen_domu_lib::memory::{Mfn, Page, Pages, p2m};
use oxen_domu_lib::{event, start_info};

use super::effects::{Effects, FRAME, GLOBAL, Parts, number};
use super::table::Table;
use super::value::{FRAMES, SELF, Value, WINDOWS};
use crate::judge::call;
use crate::raw::{self, trapped};

pub(super) const READ_ONLY: u64 = 1 | 1 << 5 | 1 << 6 | 1 << 63;
pub(super) const WRITABLE: u64 = READ_ONLY | 2;
/// The slot of the root that sequences edit; nothing of this guest's is there.
pub(crate) const SLOT: u64 = 5;
/// The bit that the processor sets where it has walked.
const ACCESSED: u64 = 1 << 5;
/// CR4: the guest's kernel may set XCR0.
pub(super) const OSXSAVE: u64 = 1 << 18;
/// A grant handle that nobody has.
pub(super) const NO_HANDLE: u32 = 0xffff;
/// A number that no domain has.
pub(super) const NOBODY: u64 = 0x1234;
/// Ports that are closed between sequences.
pub(crate) const PORTS: u32 = 8;

/// The bits of an entry that leads to a table of this guest's kernel: which page that is, its builder chooses.
const TABLE: u64 = 0x67;

/// Whether the bits beside the frame are those of an entry for a page of this guest's kernel. Of a word that is no
/// entry they hardly ever are, and what it would be taken for depends on where the guest's memory lies, or it is beyond
/// the end of the machine-to-physical table.
const fn is_own_entry(bits: u64) -> bool {
    const ALWAYS: u64 = 1 | 1 << 2 | 1 << 52;
    const SOMETIMES: u64 = WRITABLE | 1 << 6;
    bits & ALWAYS == ALWAYS && bits & !(ALWAYS | SOMETIMES) == 0
}

/// All that a sequence works on.
pub(crate) struct World {
    /// Whether this is the initial domain.
    pub(crate) privileged: bool,
    /// The machine numbers of the frames.
    pub(crate) frames: [u64; FRAMES],
    views: [u64; FRAMES],
    pub(super) pages: [u64; FRAMES],
    /// Where the windows are.
    pub(crate) windows: [u64; WINDOWS],
    /// By level less 1, the frames of the tables above the first window.
    pub(crate) tables: [u64; 4],
    entries: [u64; WINDOWS],
    entry_addresses: [u64; WINDOWS],
    root: u64,
    /// The argument memory, and a page that the hypervisor writes when it likes.
    pub(crate) memory: Pages,
    pub(super) references: [u64; 2],
    pub(super) table: Table,
    pub(super) me: u64,
    /// A domain that is made for each sequence, by a control domain.
    pub(super) other: u64,
    pub(super) last_other: u32,
    /// The first port that is free.
    pub(crate) port: u32,
    /// Handles with their windows, the newest last.
    pub(super) handles: Vec<(u32, usize)>,
    /// Handles of sequences that are over, which may still be somebody's.
    pub(super) stale: Vec<u32>,
    pub(super) cr4: u64,
    pub(super) xcr0: u64,
    pub(super) effects: Effects,
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
        let page = p2m::pfn(Mfn::new(frame))?;
        Some(self.direct_map + (page.raw() << 12))
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
        let table = Table::new(&memory)?;
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
            table,
            me,
            other: NOBODY,
            last_other: 0,
            port,
            handles: Vec::new(),
            stale: Vec::new(),
            cr4: raw::cr4(),
            xcr0: raw::xcr0(),
            effects: Effects::default(),
        };
        for frame in 0..FRAMES {
            let page = Page::zeroed()?;
            let known = (page.mfn().raw(), page.address(), page.pfn().raw());
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
        let direct_map = windows.address() - (windows.pfn(0).raw() << 12);
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

    /// The frame of the table of a level.
    pub(super) fn frame(&self, level: usize) -> u64 {
        self.tables.get(level.wrapping_sub(1)).copied().unwrap_or(0)
    }

    /// What an argument is here.
    pub(super) fn value(&self, value: Value, base: u64) -> u64 {
        let of = |list: &[u64], index: usize| list.get(index).copied().unwrap_or(0);
        match value {
            Value::Number(number) => number,
            Value::Memory(at) => self.memory.address().wrapping_add(base) + at,
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
            Value::Status => self.table.status_frame,
            Value::Me => self.me,
            Value::Other => self.other,
            Value::Handler(vector) => trapped::entry(vector),
        }
    }

    /// A word as it is told.
    pub(crate) fn name(&self, word: u64) -> String {
        self.meaning(word).unwrap_or_else(|| number(word))
    }

    /// A word by what it means, as [`Value`] prints it; `None` for one that is no more than a number.
    fn meaning(&self, word: u64) -> Option<String> {
        let frame = word >> 12 & 0xff_ffff_ffff;
        let bits = word & !FRAME & !GLOBAL;
        let known = |list: &[u64], frame: u64| list.iter().position(|known| *known == frame);
        let page = |first: u64, pages: u64| word.checked_sub(first).filter(|at| *at < pages << 12);
        let is_status = |frame: u64| frame != 0 && self.table.status_frames.contains(&frame);
        Some(if is_status(word) {
            "S".into()
        } else if is_status(frame) {
            format!("S:+{bits:x}")
        } else if let Some(frame) = known(&self.frames, word) {
            format!("F{frame}")
        } else if let Some(level) = known(&self.tables, word) {
            format!("T{}", level + 1)
        } else if let Some(frame) = known(&self.frames, frame) {
            format!("F{frame}:+{bits:x}")
        } else if let Some(level) = known(&self.tables, frame) {
            format!("T{}:+{bits:x}", level + 1)
        } else if let Some(at) = self.windows.first().and_then(|first| page(*first, WINDOWS as u64)) {
            format!("W{}+{:x}", at >> 12, at & 0xfff)
        } else if let Some(at) = page(self.memory.address(), 2) {
            format!("&{at:x}")
        } else if let Some(page) = is_own_entry(bits).then(|| p2m::pfn(Mfn::new(frame))).flatten() {
            format!("P{:x}:+{bits:x}", page.raw())
        } else if bits == TABLE && p2m::pfn(Mfn::new(frame)).is_some() {
            format!("P:+{bits:x}")
        } else {
            return None;
        })
    }

    /// Tells what is other now than at the last look, which this one becomes. `parts` as in [`Effects::compare`].
    pub(super) fn tell_changes(&mut self, parts: Parts, text: &mut String) {
        let seen = self.look();
        self.effects.compare(&seen, parts, |word| self.meaning(word), text);
        self.effects = seen;
    }

    /// Takes the present state as what the next step is compared with.
    pub(super) fn see(&mut self) {
        self.effects = self.look();
    }

    pub(super) fn look(&self) -> Effects {
        let mut seen = Effects::default();
        seen.memory = self.memory.words64().iter().take(512).map(|word| word.load(Ordering::SeqCst)).collect();
        for view in self.views {
            seen.frames.extend((0..512).map(|index| trapped::peek(view + index * 8)));
        }
        seen.entries = self.entries.iter().map(|place| trapped::peek(*place) & !GLOBAL).collect();
        // A processor may walk there when it likes.
        seen.entries.push(trapped::peek(self.root + SLOT * 8) & !(GLOBAL | ACCESSED));
        seen.events = (0..PORTS).map(|port| event::bits(self.port + port)).collect();
        seen.upcall = event::upcall();
        seen.grants = self.entries().map(|reference| self.table.entry(reference)).collect();
        seen
    }
}
