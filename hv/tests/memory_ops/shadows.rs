//! Shadows in the middle of everything: turned on and off, the log read and cleaned, and what comes of it compared with
//! a model that knows nothing of either: copies of all pages, and ways through the guest's own tables.

use crate::{
    support::{self, audit},
    world::{MARKED_WORD, Outcome, Player, World},
};
use oxen_hv::{
    addr::{GuestAddr, Mfn, Slot},
    mem::{
        HypervisorSpace,
        entry::Entry,
        frame_type::{FrameType, Owner},
        shadow::log::PART_BITS,
        walk,
    },
    reply::Stop,
};
use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
};
use x86_64::structures::paging::PageTableFlags;

/// Where each frame was in its owner's memory, and what stood in it.
pub(crate) type Contents = HashMap<Mfn, (u64, Vec<u64>)>;

/// Places that the model looks at: as many as there are frames, and a few more.
pub(crate) const PLACES: u64 = PART_BITS;

/// Calls until it is not interrupted any more.
fn finish<R>(mut act: impl FnMut() -> Result<R, Stop>) -> Result<R, Stop> {
    loop {
        match act() {
            Err(Stop::Unfinished) => {}
            done => return done,
        }
    }
}

impl World {
    fn place_of(&self, frame: Mfn) -> Option<u64> {
        let place = self.hv.machine().machine_to_phys().get(frame.index())?.load(Ordering::SeqCst);
        (place < PLACES).then_some(place)
    }

    fn owner(&self, player: usize) -> Owner {
        self.players[player].guest.domain.owner()
    }

    /// The test wrote to a frame in the guest's name, past the CPU.
    pub(crate) fn wrote(&self, frame: Mfn) {
        if let Some(word) = self.hv.machine().machine_to_phys().get(frame.index()) {
            self.hv.memory.set_m2p(frame, word.load(Ordering::SeqCst));
        }
    }

    /// Guests give each frame without a place one of its own.
    pub(crate) fn give_places(&self) {
        for frame in self.hv.each_frame().filter(|frame| frame.index() < self.hv.machine().ram()) {
            let state = self.hv.memory.frames.state(frame);
            let is_placed = self.hv.machine().machine_to_phys()[frame.index()].load(Ordering::SeqCst) < u64::MAX;
            if state.owner().slot().is_some() && !state.is_shared() && !is_placed {
                self.hv.memory.set_m2p(frame, frame.raw());
            }
        }
    }

    fn contents(&self, player: usize) -> Contents {
        let owner = self.owner(player);
        let frames = self.hv.each_frame().filter(|&frame| self.hv.memory.frames.state(frame).owner() == owner);
        frames
            .filter_map(|frame| {
                // Marks are the test's own, and no writes of anybody's.
                let words = self.hv.machine().words(frame).iter().enumerate().filter(|&(at, _)| at != MARKED_WORD);
                let words = words.map(|(_, word)| word.load(Ordering::SeqCst));
                self.place_of(frame).map(|place| (frame, (place, words.collect())))
            })
            .collect()
    }

    /// The places in the log, which is cleaned if that is asked for, as a toolstack does it.
    fn read_log(&self, player: usize, is_cleaned: bool) -> HashSet<u64> {
        let (memory, owner) = (&self.hv.memory, self.owner(player));
        let operator = memory.operate_shadows().unwrap();
        if is_cleaned {
            memory.log_lent(&operator, owner);
            let mut next = 0;
            finish(|| memory.find_lent(owner, &mut next)).unwrap();
        }
        let part = memory.read_log(&operator, owner, 0, is_cleaned);
        if is_cleaned {
            memory.end_round(&operator, owner);
        }
        let bits = (0..PLACES).filter(|&bit| part[(bit / 64) as usize] >> (bit % 64) & 1 != 0);
        bits.collect()
    }

    /// What others can write to at this moment, by their tables.
    fn writable_by_others(&self, player: usize) -> HashSet<u64> {
        let owner = self.owner(player);
        let tables = self.hv.each_frame().filter(|&table| {
            let state = self.hv.memory.frames.state(table);
            state.kind() == FrameType::L1 && state.uses() != 0 && state.owner() != owner
        });
        let entries = tables.flat_map(|table| self.hv.machine().words(table).iter());
        entries
            .map(|word| Entry(word.load(Ordering::SeqCst)))
            .filter(|entry| entry.is_present() && entry.is_writable())
            .filter_map(Entry::mfn)
            .filter(|&frame| self.hv.memory.frames.state(frame).owner() == owner)
            .filter_map(|frame| self.place_of(frame))
            .collect()
    }

    /// Takes a domain off all CPUs, as pausing does.
    fn take_off(&self, player: usize) {
        let owner = self.owner(player);
        for number in 0..support::CPUS as u16 {
            let root = self.hv.machine().cpu(number).root;
            if root.is_some_and(|root| audit::owner_of_root(self.hv, root) == owner) {
                *self.hv.machine().cpu(number) = support::FakeCpu::default();
            }
        }
    }

    /// Something is done with a log of what the player writes to.
    pub(crate) fn log(&mut self, player: usize) -> Outcome {
        self.take_off(player);
        let memory = &self.hv.memory;
        let what = self.random.below(10);
        let size = 12 + self.random.below(20) as u32;
        let domain = self.players[player].guest.domain.clone();
        if self.players[player].cleaned.is_none() {
            if finish(|| memory.set_shadow_allocation(&domain.memory, 1, size)).is_ok() {
                let operator = memory.operate_shadows().unwrap();
                memory.begin_log(&operator, &domain.memory, true).unwrap();
                drop(operator);
                let mut next = 0;
                finish(|| memory.find_lent(domain.owner(), &mut next)).unwrap();
                self.players[player].cleaned = Some(self.contents(player));
            }
        } else {
            // A guest that gives its frames places all over has a log that does not fit anywhere; who reads it is told.
            let has_missed = memory.has_log_missed(domain.owner());
            match what {
                _ if has_missed => {
                    finish(|| memory.end_shadows(&domain.memory)).unwrap();
                    self.players[player].cleaned = None;
                }
                0 => {
                    self.check_log(player, false);
                    finish(|| memory.end_shadows(&domain.memory)).unwrap();
                    self.players[player].cleaned = None;
                }
                1 => _ = finish(|| memory.set_shadow_allocation(&domain.memory, 1, size)),
                2..=4 => self.check_log(player, false),
                _ => self.check_log(player, true),
            }
        }
        let Player { guest, .. } = &mut self.players[player];
        guest.run();
        Outcome::Done
    }

    /// Reads the log: every page with other contents than at the beginning of the round is in it, and every one that
    /// others can write to. After it was cleaned these are all.
    fn check_log(&mut self, player: usize, is_cleaned: bool) {
        let found = self.read_log(player, is_cleaned);
        if self.hv.memory.has_log_missed(self.owner(player)) {
            // What was lent had no room in it, when that came to be part of it just now. Who reads it is told so,
            // and what it says is no promise.
            return;
        }
        let now = self.contents(player);
        let before = self.players[player].cleaned.as_ref().unwrap();
        for (frame, seen) in &now {
            let is_same = before.get(frame) == Some(seen);
            assert!(is_same || found.contains(&seen.0), "{frame:?} at {:#x} has changed unnoticed", seen.0);
        }
        let lent = self.writable_by_others(player);
        assert!(lent.is_subset(&found), "others can write unnoticed to what is not in {found:?}: {lent:?}");
        if is_cleaned {
            assert_eq!(self.read_log(player, false), lent, "after it was cleaned");
            self.players[player].cleaned = Some(now);
            self.players[player].rounds += 1;
        }
    }

    /// Looks through all shadows that CPUs have loaded.
    pub(crate) fn check_shadows(&self) {
        let is_logged =
            |player: &Player| player.cleaned.is_some() && !self.hv.memory.has_log_missed(player.guest.domain.owner());
        for (number, player) in self.players.iter().enumerate().filter(|(_, player)| is_logged(player)) {
            let log = self.read_log(number, false);
            for cpu in 0..support::CPUS as u16 {
                let seen = self.hv.machine().cpu(cpu);
                let Some(root) = seen.root else { continue };
                if audit::owner_of_root(self.hv, root) != player.guest.domain.owner() {
                    continue;
                }
                assert_eq!(Some(root), player.guest.state.loaded_root().mfn());
                for entry in seen.pages.values().filter(|entry| entry.is_writable()) {
                    self.check_writable(number, &log, entry.mfn().unwrap());
                }
                drop(seen);
                self.check_table(number, &log, root, 4, 0, Entry::WRITABLE);
            }
        }
    }

    fn check_writable(&self, player: usize, log: &HashSet<u64>, frame: Mfn) {
        if self.hv.memory.frames.is_ram(frame) && self.hv.memory.frames.state(frame).owner() == self.owner(player) {
            let is_noted = self.place_of(frame).is_none_or(|place| log.contains(&place));
            assert!(is_noted, "{frame:?} can be written to unnoticed");
        }
    }

    /// Whatever a shadow shows, the guest's own tables show too.
    fn check_table(&self, player: usize, log: &HashSet<u64>, table: Mfn, level: u32, va: u64, rights: PageTableFlags) {
        for (slot, word) in self.hv.machine().words(table).iter().enumerate() {
            let entry = Entry(word.load(Ordering::SeqCst));
            if level == 4 && walk::is_hypervisor_slot(4, slot) {
                assert_eq!(entry.0, support::root_entry(self.hv, slot), "the hypervisor's slots are the hypervisor's");
                continue;
            }
            if !entry.is_present() {
                continue;
            }
            let va = va | (slot as u64) << (12 + 9 * (level - 1));
            let rights = rights & entry.flags();
            if level > 1 {
                assert_eq!(self.hv.memory.frames.state(entry.mfn().unwrap()).owner(), Owner::HYPERVISOR);
                self.check_table(player, log, entry.mfn().unwrap(), level - 1, va, rights);
                continue;
            }
            let (source, allowed) = self.walk_source(player, va).expect("a shadow shows what its source does not");
            assert_eq!(source.mfn(), entry.mfn(), "a shadow shows another frame at {va:#x}");
            assert!(source.has(Entry::ACCESSED), "a page can be used unnoticed at {va:#x}");
            if rights.contains(Entry::WRITABLE) {
                assert!(allowed.contains(Entry::WRITABLE), "a shadow can be written to at {va:#x}, its source not");
                assert!(source.has(Entry::DIRTY), "a page can be written to without its dirty bit at {va:#x}");
                self.check_writable(player, log, entry.mfn().unwrap());
            }
        }
    }

    /// What translates an address by the guest's own tables, and what all entries on the way allow.
    fn walk_source(&self, player: usize, va: u64) -> Option<(Entry, PageTableFlags)> {
        let mut table = self.players[player].guest.state.kernel_root?.mfn();
        let mut allowed = PageTableFlags::all();
        for level in (1..=4).rev() {
            let slot: Slot = GuestAddr::new(va).slot(level);
            let is_root = self.hv.memory.frames.state(table).kind() == FrameType::L4;
            if is_root && walk::is_hypervisor_slot(4, slot.index()) {
                return None;
            }
            let entry = Entry(self.hv.machine().words(table)[slot.index()].load(Ordering::SeqCst));
            if !entry.is_present() || !entry.has(Entry::ACCESSED) {
                return None;
            }
            allowed &= entry.flags();
            if level == 1 {
                return Some((entry, allowed));
            }
            table = entry.mfn()?;
        }
        None
    }
}
