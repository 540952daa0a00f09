//! Operations on page tables: good ones, bad ones, and what a guest writes itself.

use crate::{
    shadows::PLACES,
    support::{entry_address, entry_of, table_word},
    world::{BUFFER, LINEAR_SLOT, Outcome, Player, World},
};
use oxen_abi::mmu::MMU_MACHPHYS_UPDATE;
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    mem::{editor::Editor, entry::Entry, frame_type::FrameType, write_emulation::Write},
    reply::Stop,
};
use std::sync::atomic::Ordering;

impl World {
    /// An entry for a table of the same level: the table itself, or another.
    pub(crate) fn linear_entry(&mut self, player: usize, table: Mfn) -> u64 {
        let state = self.hv.memory.frames.state(table);
        let owner = self.players[player].guest.domain.owner();
        let is_like = |&other: &Mfn| {
            let seen = self.hv.memory.frames.state(other);
            seen.owner() == owner && seen.uses() != 0 && seen.kind() == state.kind()
        };
        let others: Vec<Mfn> = self.hv.each_frame().filter(is_like).collect();
        let target = if others.is_empty() || self.random.chance(40) { table } else { self.random.of(&others) };
        entry_of(target, self.random.of(&[1, 1, 5, 5, 5, 0x25, 7]))
    }

    /// The guest names an address for a request that may be anywhere, in its linear slots above all.
    pub(crate) fn ask_from_afar(&mut self, player: usize) -> Outcome {
        let [mut a, b, c, d] = [(); 4].map(|()| self.slot() as u64);
        if self.random.chance(60) {
            a = LINEAR_SLOT as u64;
        }
        let address = a << 39 | b << 30 | c << 21 | d << 12 | (self.random.below(512) << 3);
        let address = if a >= 256 { address | 0xffff << 48 } else { address };
        let count = 1 + self.random.below(2);
        let _ = match self.random.below(4) {
            0 => self.call(player, Caller::mmuext_op, [address, count, 0, 0x7ff0]),
            1 => self.call(player, Caller::mmu_update, [address, count, 0, 0x7ff0]),
            2 => self.call(player, Caller::memory_op, [6, address, 0, 0]),
            _ => {
                let entry = self.entry(player);
                self.call(player, Caller::update_va_mapping, [address & !0xfff, entry, 2, 0])
            }
        };
        Outcome::Partly
    }

    /// The guest writes what it likes where it can, which makes tables-to-be.
    pub(crate) fn scribble(&mut self, player: usize) -> Outcome {
        let va = (self.random.below(24) << 12) + 8 * self.slot() as u64;
        let value = self.entry(player);
        // The first page holds the requests.
        if va >= 0x1000 {
            let _ = self.hv.machine().write_guest_word(GuestAddr::new(va), value);
        }
        Outcome::Done
    }

    /// The guest makes a table with care: fills a page that it may write to, gives up its right to write, pins it.
    pub(crate) fn cultivate(&mut self, player: usize) -> Outcome {
        let frame = self.frame(player);
        let level = 1 + self.random.below(4) as u32;
        let owner = self.players[player].guest.domain.owner();
        let state = self.hv.memory.frames.state(frame);
        let may_write = state.owner() == owner && (state.uses() == 0 || state.kind() == FrameType::Writable);
        if !may_write || state.is_shared() || state.is_partial() {
            return Outcome::Done;
        }
        self.hv.machine().clear(frame);
        for _ in 0..self.random.below(5) {
            let below = FrameType::table(level - 1);
            let children: Vec<Mfn> = self
                .hv
                .each_frame()
                .filter(|&child| {
                    let state = self.hv.memory.frames.state(child);
                    let is_of_use = below.is_none() || state.uses() != 0 && Some(state.kind()) == below;
                    state.owner() == owner && is_of_use
                })
                .collect();
            let child = if children.is_empty() { self.frame(player) } else { self.random.of(&children) };
            let flags = self.random.of(&[1, 3, 5, 7, 7, 0x67]);
            table_word(self.hv, frame, self.slot()).store(entry_of(child, flags), Ordering::SeqCst);
        }
        if level > 1 && self.random.chance(25) {
            let own_kind = FrameType::table(level);
            let like = self.hv.each_frame().find(|&other| {
                let state = self.hv.memory.frames.state(other);
                state.owner() == owner && state.uses() != 0 && Some(state.kind()) == own_kind
            });
            let target = if self.random.chance(50) { frame } else { like.unwrap_or(frame) };
            let flags = self.random.of(&[1, 5, 5, 7]);
            table_word(self.hv, frame, self.slot()).store(entry_of(target, flags), Ordering::SeqCst);
        }
        self.wrote(frame);
        for page in 1..40 {
            let seen = self.hv.machine().translate(GuestAddr::new(page << 12), true);
            if seen == Ok(frame) {
                let read_only = Entry::to(frame, Entry::PRESENT | Entry::USER).0;
                let _ = self.call(player, Caller::update_va_mapping, [page << 12, read_only, 2, 0]);
            }
        }
        if !self.put(&[u64::from(level) - 1, frame.raw(), 0]) {
            return Outcome::Done;
        }
        let _ = self.call(player, Caller::mmuext_op, [BUFFER, 1, 0, 0x7ff0]);
        Outcome::Done
    }

    pub(crate) fn update(&mut self, player: usize) -> Outcome {
        let count = if self.random.chance(90) { 1 } else { 1 + self.random.below(12) };
        let mut words = Vec::new();
        for _ in 0..count {
            let table = if self.random.chance(80) { self.table(player) } else { self.frame(player) };
            let offset = if self.random.chance(2) { 4 } else { 0 };
            let command = self.random.of(&[0, 0, 0, 2, 2, 3, 1]);
            words.push((entry_address(table, self.slot()) + offset) | command);
            // A guest knows what places it has. One that gives its frames places all over has a log that fits nowhere.
            let is_place = command == MMU_MACHPHYS_UPDATE && self.random.chance(99);
            words.push(match self.random.below(100) {
                _ if is_place => self.random.below(PLACES),
                0..15 => self.linear_entry(player, table),
                _ => self.entry(player),
            });
        }
        if !self.put(&words) {
            return Outcome::Done;
        }
        let foreign = self.random.of(&[0x7ff0, 0x7ff0, 0x7ff0, 0x7ff1, 0x7ff2, 0, 1, 2, 0x2_7ff0]);
        match self.call(player, Caller::mmu_update, [BUFFER, count, 0, foreign]) {
            Ok(_) => Outcome::Done,
            Err(Outcome::Refused) if count == 1 => Outcome::Refused,
            Err(_) => Outcome::Partly,
        }
    }

    pub(crate) fn update_at(&mut self, player: usize) -> Outcome {
        let va = self.random.below(40) << 12;
        let entry = self.entry(player);
        // The buffer stays where it is.
        if va == BUFFER {
            return Outcome::Done;
        }
        let flags = self.random.of(&[0, 1, 2, 4, 5, 6, 3]);
        let args = [va, entry, flags, self.random.of(&[0, 1, 2, 0x7ff0, 0x7ff1])];
        let handler =
            if self.random.chance(30) { Caller::update_va_mapping_otherdomain } else { Caller::update_va_mapping };
        self.call(player, handler, args).map_or_else(|outcome| outcome, |_| Outcome::Done)
    }

    pub(crate) fn extended(&mut self, player: usize) -> Outcome {
        let command =
            self.random.of(&[0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15, 16, 17, 19]);
        let frame = if command == 4 { self.table(player) } else { self.frame(player) };
        let argument = if matches!(command, 7 | 11 | 9) { self.random.below(40) << 12 } else { frame.raw() };
        let second = if command == 17 { self.frame(player).raw() } else { BUFFER };
        if !self.put(&[command, argument, second]) {
            return Outcome::Done;
        }
        let foreign = self.random.of(&[0x7ff0, 0x7ff0, 0x7ff0, 0, 1, 2, 0x7ff1]);
        self.call(player, Caller::mmuext_op, [BUFFER, 1, 0, foreign]).map_or_else(|outcome| outcome, |_| Outcome::Done)
    }

    pub(crate) fn direct_write(&mut self, player: usize) -> Outcome {
        let va = GuestAddr::new(
            (self.random.below(40) << 12) + 8 * self.slot() as u64 + self.random.of(&[0, 0, 0, 0, 1, 4]),
        );
        let value = self.entry(player);
        let bytes = self.random.of(&[8, 8, 8, 4, 2, 1, 3]);
        let write = if self.random.chance(50) {
            Write::Store(value)
        } else {
            // Who stores has not read there, which the CPU would have noted.
            let word = self.hv.machine().read_guest_word(GuestAddr::new(va.as_u64() & !7)).unwrap_or(0);
            let expected = word >> (8 * (va.as_u64() & 7));
            Write::CompareExchange { expected: expected & (u64::MAX >> (64 - 8 * bytes)), new: value }
        };
        let guest = &self.players[player].guest;
        let root = guest.state.kernel_root.unwrap();
        match self.hv.memory.emulate_write(&guest.domain.memory, root, va, bytes, write) {
            Ok(_) => Outcome::Done,
            Err(Stop::Unfinished) => Outcome::Partly,
            Err(_) => Outcome::Refused,
        }
    }

    pub(crate) fn descriptors(&mut self, player: usize) -> Outcome {
        let frame = self.frame(player);
        let give_back = self.random.chance(50);
        let Player { guest, descriptors, .. } = &mut self.players[player];
        let Ok(editor) = Editor::open(&guest.hv.memory, &guest.domain.memory) else { return Outcome::Partly };
        match descriptors.pop() {
            Some(held) if give_back => {
                editor.put_descriptors(held);
                return Outcome::Done;
            }
            Some(held) => descriptors.push(held),
            None => {}
        }
        match editor.take_descriptors(frame) {
            Ok(held) => {
                descriptors.push(held);
                Outcome::Done
            }
            Err(_) => Outcome::Refused,
        }
    }
}
