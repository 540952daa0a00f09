//! Memory under hostile hands: random operations on page tables and reservations, the laws checked all along.
//!
//! Two guests and a control domain act on a small machine with four CPUs. Each has a home address space that keeps its
//! request buffer mapped; everything else it has is thrown about. The hypervisor takes frames for itself in between, and
//! sometimes there are none at the worst moment. After each operation the caches of the CPUs are looked at and what newly
//! came to a guest is searched for what others left there, after each refusal everything must be as before, and every so
//! often all holds are counted again.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used, reason = "it is a test")]

mod support;

use oxen_abi::{domid::DomId, errno::Errno, vm_assist::VMASST_TYPE_WRITABLE_PAGETABLES};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, MachineAddr, Mfn},
    caller::Caller,
    hypercall::{memory, mmu, mmuext},
    mem::{
        Memory,
        editor::{Editor, hold_writable},
        entry::Entry,
        frame_alloc,
        frame_type::{FrameType, Owner},
        grant_mapping::At,
        relinquish::relinquish,
        root, tlb,
        write_emulation::{self, Write},
    },
    reply::{Args, Reply, Stop},
};
use std::sync::atomic::Ordering;
use support::{
    Fake,
    audit::{self, Holds},
    boot, entry_address,
    guest::{Guest, Home},
    table_word,
};

/// Operations of a run: over a million in all.
const OPERATIONS: u32 = 350_000;
const RECOUNT_EVERY: u32 = 200;
const BUFFER: u64 = 0;
const LINEAR_SLOT: usize = 1;
/// What the hypervisor leaves in each of its own frames.
const SECRET: u64 = 0x5ec2_e75e_c2e0;
/// What a guest leaves in each of its frames, with the number of its domain.
const LEFT_BY: u64 = 0x1ef7_0000_0000;
/// The word of a frame at which either stands.
const MARKED_WORD: usize = 509;

/// A small generator: xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Player {
    guest: Guest,
    home: Home,
    /// Descriptor pages that the test holds.
    descriptors: Vec<Mfn>,
    /// Frames of others that it was granted: with the right to write or not.
    claims: Vec<(Mfn, bool)>,
}

struct World {
    hv: &'static Hypervisor<Fake>,
    players: Vec<Player>,
    /// Frames that the hypervisor took for itself.
    own: Vec<Mfn>,
    random: Random,
}

/// What an operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Refused as a whole: nothing may have changed.
    Refused,
    /// Refused or given up half way: something may have changed.
    Partly,
}

impl World {
    fn new(seed: u64) -> Self {
        support::on_cpu(0);
        let hv = boot(180);
        let players = [(0, true), (1, false), (2, false)]
            .map(|(id, is_privileged)| {
                let mut guest = Guest::new(hv, id, is_privileged, 40);
                guest.domain.vm_assist.store(1 << VMASST_TYPE_WRITABLE_PAGETABLES, Ordering::SeqCst);
                let home = guest.build_home(24);
                Editor::open(hv, &guest.domain).unwrap().pin(home.tables[0], 4).unwrap();
                // One of them finds its tables in its address space from the start.
                if id == 1 {
                    let root = home.tables[0];
                    let update = [entry_address(root, LINEAR_SLOT), Entry::to(root, Entry::PRESENT | Entry::USER).0];
                    for (i, word) in update.into_iter().enumerate() {
                        hv.machine.write_guest_word(GuestAddr(BUFFER + 8 * i as u64), word).unwrap();
                    }
                    guest.call(mmu::mmu_update, [BUFFER, 1, 0, 0x7ff0]).unwrap();
                }
                Player { guest, home, descriptors: Vec::new(), claims: Vec::new() }
            })
            .into_iter()
            .collect();
        Self { hv, players, own: Vec::new(), random: Random(seed) }
    }

    fn known(&self) -> Holds {
        let mut holds = Holds::default();
        for player in &self.players {
            holds.add(player.guest.domain.shared_info, true);
            let state = &player.guest.state;
            for root in [state.kernel_root, state.user_root].into_iter().flatten() {
                holds.add(root, true);
            }
            for &frame in &player.descriptors {
                holds.add(frame, true);
            }
            for &(frame, is_writable) in &player.claims {
                holds.add(frame, is_writable);
            }
        }
        holds
    }

    /// Whether a domain may know a frame of another's.
    fn was_lent(&self, owner: Owner, frame: Mfn) -> bool {
        let mut players = self.players.iter().filter(|player| player.guest.domain.owner == owner);
        players.any(|player| player.claims.iter().any(|claim| claim.0 == frame))
    }

    /// Whether a frame is one by which a player's home stays: its tables, its buffer.
    fn is_home(&self, frame: Mfn) -> bool {
        self.players.iter().any(|player| player.home.tables.contains(&frame) || player.home.data[0] == frame)
    }

    /// Any frame, mostly of the player's.
    fn any_frame(&mut self, player: usize) -> Mfn {
        let owner = self.players[player].guest.domain.owner;
        let wild = self.random.chance(10);
        loop {
            let frame = Mfn::new(self.random.below(self.hv.frames.end() as u64)).unwrap();
            if wild || self.hv.frames.state(frame).owner() == owner {
                return frame;
            }
        }
    }

    /// The same, but none of anybody's home.
    fn frame(&mut self, player: usize) -> Mfn {
        loop {
            let frame = self.any_frame(player);
            if !self.is_home(frame) {
                return frame;
            }
        }
    }

    /// A frame that is a table of the player's already, if there is one soon.
    fn table(&mut self, player: usize) -> Mfn {
        for _ in 0..40 {
            let frame = self.frame(player);
            let state = self.hv.frames.state(frame);
            if state.uses() != 0 && state.kind().level().is_some() {
                return frame;
            }
        }
        self.frame(player)
    }

    fn slot(&mut self) -> usize {
        let low = self.random.below(4) as usize;
        self.random.of(&[low, low, low, 255, 256, 271, 272, 511])
    }

    fn entry(&mut self, player: usize) -> u64 {
        let frame = if self.random.chance(40) { self.table(player) } else { self.any_frame(player) };
        let mut flags = self.random.of(&[0, 1, 1, 3, 3, 5, 7, 7, 0x63, 0x67, 0x27]);
        if self.random.chance(8) {
            flags |= 1 << self.random.below(64);
        }
        if self.random.chance(10) { 0 } else { Entry::to(frame, flags).0 }
    }

    /// An entry for a table of the same level: the table itself, or another.
    fn linear_entry(&mut self, player: usize, table: Mfn) -> u64 {
        let state = self.hv.frames.state(table);
        let owner = self.players[player].guest.domain.owner;
        let is_like = |&other: &Mfn| {
            let seen = self.hv.frames.state(other);
            seen.owner() == owner && seen.uses() != 0 && seen.kind() == state.kind()
        };
        let others: Vec<Mfn> = audit::all(self.hv).filter(is_like).collect();
        let target = if others.is_empty() || self.random.chance(40) { table } else { self.random.of(&others) };
        Entry::to(target, self.random.of(&[1, 1, 5, 5, 5, 0x25, 7])).0
    }

    /// The guest names an address for a request that may be anywhere, in its linear slots above all.
    fn ask_from_afar(&mut self, player: usize) -> Outcome {
        let [mut a, b, c, d] = [(); 4].map(|()| self.slot() as u64);
        if self.random.chance(60) {
            a = LINEAR_SLOT as u64;
        }
        let address = a << 39 | b << 30 | c << 21 | d << 12 | (self.random.below(512) << 3);
        let address = if a >= 256 { address | 0xffff << 48 } else { address };
        let count = 1 + self.random.below(2);
        let _ = match self.random.below(4) {
            0 => self.call(player, mmuext::mmuext_op, [address, count, 0, 0x7ff0]),
            1 => self.call(player, mmu::mmu_update, [address, count, 0, 0x7ff0]),
            2 => self.call(player, memory::memory_op, [6, address, 0, 0]),
            _ => {
                let entry = self.entry(player);
                self.call(player, mmu::update_va_mapping, [address & !0xfff, entry, 2, 0])
            }
        };
        Outcome::Partly
    }

    /// Makes sure that the player's buffer is there, and on which CPU it runs. A CPU that runs it already mostly keeps what
    /// it knows.
    fn enter(&mut self, player: usize) {
        support::on_cpu(self.random.below(support::CPUS as u64) as u16);
        let Player { guest, home, .. } = &mut self.players[player];
        let root = self.hv.machine.cpu(support::this_cpu().0).root;
        if root != guest.state.kernel_root || self.random.chance(10) {
            guest.run();
        }
        if guest.state.kernel_root != Some(home.tables[0])
            && (self.random.chance(20) || guest.hv.machine.translate(GuestAddr(BUFFER), true).is_err())
        {
            let hv = guest.hv;
            let domain = guest.domain.clone();
            loop {
                match Editor::open(hv, &domain) {
                    Ok(mut editor) => {
                        root::switch(&mut guest.caller(), &mut editor, home.tables[0]).unwrap();
                        return;
                    }
                    Err(refusal) => assert_eq!(refusal, Stop::Unfinished),
                }
            }
        }
    }

    /// The guest touches a page, takes its mapping away without a flush, and has a frame exchanged: maybe that very one.
    fn unmap_and_exchange(&mut self, player: usize) -> Outcome {
        let va = (1 + self.random.below(24)) << 12;
        let Ok(frame) = self.hv.machine.translate(GuestAddr(va), true) else { return Outcome::Done };
        if self.is_home(frame) || self.call(player, mmu::update_va_mapping, [va, 0, 0, 0]).is_err() {
            return Outcome::Done;
        }
        if self.hv.frames.state(frame).is_loose() && self.put_exchange(&[frame], (0, 0), 1) {
            let _ = self.call(player, memory::memory_op, [11, BUFFER, 0, 0]);
        }
        Outcome::Done
    }

    /// The guest writes what it likes where it can, which makes tables-to-be.
    fn scribble(&mut self, player: usize) -> Outcome {
        let va = (self.random.below(24) << 12) + 8 * self.slot() as u64;
        let value = self.entry(player);
        // The first page holds the requests.
        if va >= 0x1000 {
            let _ = self.hv.machine.write_guest_word(GuestAddr(va), value);
        }
        Outcome::Done
    }

    /// The guest makes a table with care: fills a page that it may write to, gives up its right to write, pins it.
    fn cultivate(&mut self, player: usize) -> Outcome {
        let frame = self.frame(player);
        let level = 1 + self.random.below(4) as u32;
        let owner = self.players[player].guest.domain.owner;
        let state = self.hv.frames.state(frame);
        let may_write = state.owner() == owner && (state.uses() == 0 || state.kind() == FrameType::Writable);
        if !may_write || state.is_shared() || state.is_partial() {
            return Outcome::Done;
        }
        self.hv.machine.clear(frame);
        for _ in 0..self.random.below(5) {
            let below = FrameType::table(level - 1);
            let children: Vec<Mfn> = audit::all(self.hv)
                .filter(|&child| {
                    let state = self.hv.frames.state(child);
                    let is_of_use = below.is_none() || state.uses() != 0 && Some(state.kind()) == below;
                    state.owner() == owner && is_of_use
                })
                .collect();
            let child = if children.is_empty() { self.frame(player) } else { self.random.of(&children) };
            let flags = self.random.of(&[1, 3, 5, 7, 7, 0x67]);
            table_word(self.hv, frame, self.slot()).store(Entry::to(child, flags).0, Ordering::SeqCst);
        }
        if level > 1 && self.random.chance(25) {
            let own_kind = FrameType::table(level);
            let like = audit::all(self.hv).find(|&other| {
                let state = self.hv.frames.state(other);
                state.owner() == owner && state.uses() != 0 && Some(state.kind()) == own_kind
            });
            let target = if self.random.chance(50) { frame } else { like.unwrap_or(frame) };
            let flags = self.random.of(&[1, 5, 5, 7]);
            table_word(self.hv, frame, self.slot()).store(Entry::to(target, flags).0, Ordering::SeqCst);
        }
        for page in 1..40 {
            let seen = self.hv.machine.translate(GuestAddr(page << 12), true);
            if seen == Ok(frame) {
                let read_only = Entry::to(frame, Entry::PRESENT | Entry::USER).0;
                let _ = self.call(player, mmu::update_va_mapping, [page << 12, read_only, 2, 0]);
            }
        }
        if !self.put(&[u64::from(level) - 1, frame.raw(), 0]) {
            return Outcome::Done;
        }
        let _ = self.call(player, mmuext::mmuext_op, [BUFFER, 1, 0, 0x7ff0]);
        Outcome::Done
    }

    fn put(&self, words: &[u64]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(i, &word)| self.hv.machine.write_guest_word(GuestAddr(BUFFER + 8 * i as u64), word).is_ok())
    }

    /// Calls a handler; sometimes the guest does not come back for the rest.
    fn call(
        &mut self,
        player: usize,
        handler: fn(&mut Caller<'_, Fake>, &mut Args) -> Reply,
        args: [u64; 4],
    ) -> Result<u64, Outcome> {
        let mut args = [args[0], args[1], args[2], args[3], 0, 0];
        let mut is_first = true;
        loop {
            match handler(&mut self.players[player].guest.caller(), &mut args) {
                Ok(value) => return Ok(value),
                Err(Stop::Refused(_)) if is_first => return Err(Outcome::Refused),
                Err(Stop::Refused(_)) => return Err(Outcome::Partly),
                Err(Stop::Unfinished) if self.random.chance(10) => return Err(Outcome::Partly),
                Err(Stop::Unfinished) => is_first = false,
                Err(Stop::Fatal(fault)) => panic!("crashed: {}", fault.reason()),
            }
        }
    }

    fn update(&mut self, player: usize) -> Outcome {
        let count = if self.random.chance(90) { 1 } else { 1 + self.random.below(12) };
        let mut words = Vec::new();
        for _ in 0..count {
            let table = if self.random.chance(80) { self.table(player) } else { self.frame(player) };
            let offset = if self.random.chance(2) { 4 } else { 0 };
            let command = self.random.of(&[0, 0, 0, 2, 2, 3, 1]);
            words.push((entry_address(table, self.slot()) + offset) | command);
            words.push(if self.random.chance(15) { self.linear_entry(player, table) } else { self.entry(player) });
        }
        if !self.put(&words) {
            return Outcome::Done;
        }
        let foreign = self.random.of(&[0x7ff0, 0x7ff0, 0x7ff0, 0x7ff1, 0x7ff2, 0, 1, 2, 0x2_7ff0]);
        match self.call(player, mmu::mmu_update, [BUFFER, count, 0, foreign]) {
            Ok(_) => Outcome::Done,
            Err(Outcome::Refused) if count == 1 => Outcome::Refused,
            Err(_) => Outcome::Partly,
        }
    }

    fn update_at(&mut self, player: usize) -> Outcome {
        let va = self.random.below(40) << 12;
        let entry = self.entry(player);
        // The buffer stays where it is.
        if va == BUFFER {
            return Outcome::Done;
        }
        let flags = self.random.of(&[0, 1, 2, 4, 5, 6, 3]);
        let args = [va, entry, flags, self.random.of(&[0, 1, 2, 0x7ff0, 0x7ff1])];
        let handler = if self.random.chance(30) { mmu::update_va_mapping_otherdomain } else { mmu::update_va_mapping };
        self.call(player, handler, args).map_or_else(|outcome| outcome, |_| Outcome::Done)
    }

    fn extended(&mut self, player: usize) -> Outcome {
        let command =
            self.random.of(&[0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15, 16, 17, 19]);
        let frame = if command == 4 { self.table(player) } else { self.frame(player) };
        let argument = if matches!(command, 7 | 11 | 9) { self.random.below(40) << 12 } else { frame.raw() };
        let second = if command == 17 { self.frame(player).raw() } else { BUFFER };
        if !self.put(&[command, argument, second]) {
            return Outcome::Done;
        }
        let foreign = self.random.of(&[0x7ff0, 0x7ff0, 0x7ff0, 0, 1, 2, 0x7ff1]);
        self.call(player, mmuext::mmuext_op, [BUFFER, 1, 0, foreign]).map_or_else(|outcome| outcome, |_| Outcome::Done)
    }

    fn reserve(&mut self, player: usize) -> Outcome {
        let operation = self.random.of(&[0, 1, 1, 6, 6, 6]);
        let list = BUFFER + 256;
        let count = 1 + self.random.below(3);
        for i in 0..count {
            let frame = self.frame(player);
            if self.hv.machine.write_guest_word(GuestAddr(list + 8 * i), frame.raw()).is_err() {
                return Outcome::Done;
            }
        }
        let order = if self.random.chance(80) { 0 } else { self.random.below(12) };
        let id = self.random.of(&[0x7ff0, 0x7ff0, 0, 1, 2, 77]);
        if operation == 1 && order > 0 {
            return Outcome::Done;
        }
        let order = order | self.memory_flags();
        if !self.put(&[list, count, order, id]) {
            return Outcome::Done;
        }
        match self.call(player, memory::memory_op, [operation, BUFFER, 0, 0]) {
            Ok(0) | Err(Outcome::Refused) => Outcome::Refused,
            Ok(_) | Err(_) => Outcome::Done,
        }
    }

    fn exchange(&mut self, player: usize) -> Outcome {
        let (orders, counts) = self.random.of(&[
            ((0, 0), (1, 1)),
            ((0, 0), (4, 4)),
            ((0, 1), (2, 1)),
            ((0, 2), (4, 1)),
            ((0, 2), (8, 2)),
            ((0, 0), (2, 3)),
        ]);
        let mut loose: Vec<Mfn> = audit::all(self.hv)
            .filter(|&frame| {
                let state = self.hv.frames.state(frame);
                state.owner() == self.players[player].guest.domain.owner && state.is_loose()
            })
            .collect();
        let first = self.random.below(loose.len().max(1) as u64) as usize;
        let first = first.min(loose.len());
        loose.rotate_left(first);
        if self.random.chance(10) || loose.len() < counts.0 as usize {
            loose = (0..counts.0).map(|_| self.frame(player)).collect();
        }
        if self.random.chance(10) {
            loose[counts.0 as usize - 1] = loose[0];
        }
        if !self.put_exchange(&loose[..counts.0 as usize], orders, counts.1) {
            return Outcome::Done;
        }
        match self.call(player, memory::memory_op, [11, BUFFER, 0, 0]) {
            Ok(_) => Outcome::Done,
            // Of several chunks, the first may have been exchanged.
            Err(Outcome::Refused) if counts.0 > 1 << orders.1 => Outcome::Partly,
            Err(outcome) => outcome,
        }
    }

    /// Writes the arguments of an exchange: frames, orders of what is given and asked for, extents asked for.
    fn put_exchange(&mut self, frames: &[Mfn], orders: (u64, u64), count: u64) -> bool {
        let (list, out) = (BUFFER + 256, BUFFER + 512);
        for (i, frame) in frames.iter().enumerate() {
            let _ = self.hv.machine.write_guest_word(GuestAddr(list + 8 * i as u64), frame.raw());
        }
        let (given, wanted) = (frames.len() as u64, orders.1 | self.memory_flags());
        self.put(&[list, given, orders.0, 0x7ff0, out, count, wanted, 0x7ff0, 0])
    }

    /// How many bits the addresses of frames may have; as it stands in a reservation.
    fn memory_flags(&mut self) -> u64 {
        self.random.of(&[0, 0, 0, 0, 1, 12, 16, 18, 19, 20, 44, 63, 255]) << 32
    }

    /// The hypervisor takes frames for itself, works with them, and gives them back.
    fn take_own(&mut self) -> Outcome {
        let (order, take) = (self.random.below(3) as u32, self.own.len() < 24 && self.random.chance(55));
        if take && let Ok(first) = frame_alloc::take_own(self.hv, order) {
            for frame in frame_alloc::block(first, order) {
                let is_blank = self.hv.machine.words(frame).iter().all(|word| word.load(Ordering::SeqCst) == 0);
                assert!(is_blank, "law 8: {frame:?} of the hypervisor's is not blank");
                self.hv.machine.words(frame)[MARKED_WORD].store(SECRET, Ordering::SeqCst);
                self.own.push(frame);
            }
        } else {
            for _ in 0..self.random.below(6).min(self.own.len() as u64) {
                let index = self.random.below(self.own.len() as u64) as usize;
                frame_alloc::give_back_own(self.hv, self.own.swap_remove(index));
            }
        }
        Outcome::Done
    }

    /// Whose each frame is. What the player could write to carries its name from now on.
    fn leave_marks(&self, player: usize) -> Vec<Owner> {
        let Player { guest, .. } = &self.players[player];
        let mark = left_by(guest);
        let mark_one = |frame| {
            let state = self.hv.frames.state(frame);
            if state.owner() == guest.domain.owner && (state.is_loose() || state.kind() == FrameType::Writable) {
                self.hv.machine.words(frame)[MARKED_WORD].store(mark, Ordering::SeqCst);
            }
            state.owner()
        };
        audit::all(self.hv).map(mark_one).collect()
    }

    /// Looks at frames that have come to a guest.
    fn check_contents(&self, owners: &[Owner]) {
        for (frame, was) in audit::all(self.hv).zip(owners) {
            let owner = self.hv.frames.state(frame).owner();
            let Some(new) = self.players.iter().find(|player| player.guest.domain.owner == owner) else { continue };
            // What was handed over was given with its contents.
            if owner == *was || was.slot().is_some() {
                continue;
            }
            let word = self.hv.machine.words(frame)[MARKED_WORD].load(Ordering::SeqCst);
            let is_own = word == 0 || word == left_by(&new.guest);
            assert!(is_own, "law 8: {frame:?} came to {:?} with {word:#x}", new.guest.domain.id);
        }
    }

    fn direct_write(&mut self, player: usize) -> Outcome {
        let va =
            GuestAddr((self.random.below(40) << 12) + 8 * self.slot() as u64 + self.random.of(&[0, 0, 0, 0, 1, 4]));
        let value = self.entry(player);
        let bytes = self.random.of(&[8, 8, 8, 4, 2, 1, 3]);
        let expected = self.hv.machine.read_guest_word(GuestAddr(va.0 & !7)).unwrap_or(0) >> (8 * (va.0 & 7));
        let write = if self.random.chance(50) {
            Write::Store(value)
        } else {
            Write::CompareExchange { expected: expected & (u64::MAX >> (64 - 8 * bytes)), new: value }
        };
        let guest = &self.players[player].guest;
        let root = guest.state.kernel_root.unwrap();
        match write_emulation::write(self.hv, &guest.domain, root, va, bytes, write) {
            Ok(_) => Outcome::Done,
            Err(Stop::Unfinished) => Outcome::Partly,
            Err(_) => Outcome::Refused,
        }
    }

    fn descriptors(&mut self, player: usize) -> Outcome {
        let frame = self.frame(player);
        let give_back = self.random.chance(50);
        let Player { guest, descriptors, .. } = &mut self.players[player];
        let Ok(editor) = Editor::open(guest.hv, &guest.domain) else { return Outcome::Partly };
        match descriptors.pop() {
            Some(held) if give_back => {
                editor.put_descriptors(held);
                return Outcome::Done;
            }
            Some(held) => descriptors.push(held),
            None => {}
        }
        match editor.take_descriptors(frame) {
            Ok(()) => {
                descriptors.push(frame);
                Outcome::Done
            }
            Err(_) => Outcome::Refused,
        }
    }

    /// Where a mapping of a grant may be asked for.
    fn place(&mut self, player: usize) -> At {
        let va = GuestAddr((1 + self.random.below(40)) << 12);
        if self.random.chance(70) {
            return At::Address(self.players[player].guest.state.kernel_root.unwrap(), va);
        }
        let misaligned = u64::from(self.random.chance(5));
        At::Entry(MachineAddr(entry_address(self.table(player), self.slot()) + misaligned))
    }

    /// Claims a frame of another and maps it, as the grant table's code does.
    fn map_grant(&mut self, player: usize) -> Outcome {
        let granter = self.random.below(self.players.len() as u64) as usize;
        let owner = self.players[granter].guest.domain.owner;
        let (frame, writable, at) = (self.frame(granter), self.random.chance(50), self.place(player));
        let hv = self.hv;
        let claimed = if writable { hold_writable(hv, frame, owner) } else { hv.frames.reference(frame, owner) };
        if claimed.is_err() {
            return Outcome::Refused;
        }
        let Player { guest, claims, .. } = &mut self.players[player];
        let flags = Entry::PRESENT | if writable { Entry::WRITABLE } else { 0 };
        let mapped = Editor::open(hv, &guest.domain).and_then(|mut editor| editor.map_grant(at, frame, owner, flags));
        if mapped.is_ok() {
            claims.push((frame, writable));
            return Outcome::Done;
        }
        release_claim(hv, (frame, writable));
        Outcome::Refused
    }

    /// Unmaps a claimed frame, or what may not be one, and gives up the claim after a flush.
    fn unmap_grant(&mut self, player: usize) -> Outcome {
        let at = self.place(player);
        let claim = match self.players[player].claims.len() as u64 {
            0 => None,
            count => Some(self.random.below(count) as usize),
        };
        let (frame, writable) = match claim {
            Some(index) if self.random.chance(90) => self.players[player].claims[index],
            _ => (self.frame(player), self.random.chance(50)),
        };
        let from = self.random.chance(20).then(|| GuestAddr((1 + self.random.below(40)) << 12));
        let hv = self.hv;
        let Player { guest, claims, .. } = &mut self.players[player];
        let root = guest.state.kernel_root.unwrap();
        let Ok(mut editor) = Editor::open(hv, &guest.domain) else { return Outcome::Partly };
        let unmapped = match from {
            Some(va) => editor.replace_grant(at, frame, writable, (root, va)),
            None => editor.unmap_grant(at, frame, writable),
        };
        drop(editor);
        if unmapped.is_err() {
            return Outcome::Refused;
        }
        tlb::flush_cpus(hv, guest.domain.dirty_cpus.load(Ordering::SeqCst));
        if let Some(index) = claims.iter().position(|&claim| claim == (frame, writable)) {
            release_claim(hv, claims.swap_remove(index));
        }
        Outcome::Done
    }

    fn hand_over(&mut self, player: usize) -> Outcome {
        let frame = self.frame(player);
        let to = self.random.below(self.players.len() as u64) as usize;
        let receiver = self.players[to].guest.domain.clone();
        let guest = &self.players[player].guest;
        let Ok(editor) = Editor::open(guest.hv, &guest.domain) else { return Outcome::Partly };
        match frame_alloc::hand_over(&editor, frame, &receiver) {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Refused,
        }
    }

    /// Finishes what was left over, so that what is compared is at rest.
    fn settle(&self) {
        for player in &self.players {
            while Editor::open(self.hv, &player.guest.domain).is_err() {}
        }
    }

    fn step(&mut self) {
        let player = self.random.below(self.players.len() as u64) as usize;
        self.enter(player);
        self.settle();
        let before = audit::snapshot(self.hv);
        let owners = self.leave_marks(player);
        let is_short = self.random.chance(10);
        if is_short {
            self.hv.machine.frames_left.store(self.random.below(3), Ordering::SeqCst);
        }
        let outcome = match self.random.below(104) {
            0..=34 => self.update(player),
            35..=44 => self.update_at(player),
            45..=64 => self.extended(player),
            65..=71 => self.reserve(player),
            72..=73 => self.exchange(player),
            74..=79 => self.direct_write(player),
            80..=83 => self.descriptors(player),
            84..=87 => self.map_grant(player),
            88..=91 => self.unmap_grant(player),
            92 => self.hand_over(player),
            100..=101 => self.take_own(),
            102..=103 => self.unmap_and_exchange(player),
            93..=96 => self.cultivate(player),
            97 => self.ask_from_afar(player),
            _ => self.scribble(player),
        };
        self.hv.machine.frames_left.store(u64::MAX, Ordering::SeqCst);
        self.check_contents(&owners);
        if outcome == Outcome::Refused {
            self.settle();
            audit::assert_unchanged(self.hv, &before);
        }
        audit::check_caches(self.hv, |owner, frame| self.was_lent(owner, frame));
    }

    /// Ends all domains and looks whether everything came back.
    fn end(mut self, free_at_first: u32) {
        self.own.drain(..).for_each(|frame| frame_alloc::give_back_own(self.hv, frame));
        for player in &mut self.players {
            let Player { guest, descriptors, claims, .. } = player;
            claims.drain(..).for_each(|claim| release_claim(self.hv, claim));
            guest.domain.is_dying.store(true, Ordering::SeqCst);
            while root::drop_roots(self.hv, &guest.domain, &mut guest.state).is_err() {}
            for frame in descriptors.drain(..) {
                loop {
                    if let Ok(editor) = Editor::open(self.hv, &guest.domain) {
                        editor.put_descriptors(frame);
                        break;
                    }
                }
            }
            frame_alloc::give_back_shared(self.hv, guest.domain.shared_info);
        }
        for _ in 0..2 {
            for player in &self.players {
                let mut next = 0;
                while relinquish(self.hv, &player.guest.domain, &mut next).is_err() {}
            }
        }
        audit::check(self.hv, &Holds::default(), audit::nothing_lent);
        assert_eq!(self.hv.frames.free_frames(), free_at_first, "law 7: not everything came back");
    }
}

/// What a guest leaves in its frames. As an entry, it is not present.
fn left_by(guest: &Guest) -> u64 {
    LEFT_BY + (u64::from(guest.domain.id.0) << 4)
}

fn release_claim(hv: &Hypervisor<Fake>, (frame, is_writable): (Mfn, bool)) {
    if is_writable { hv.frames.put_use(frame) } else { hv.frames.put(frame) }
}

fn run(seed: u64) {
    let free = 180 - support::OWN_FRAMES as u32;
    let mut world = World::new(seed);
    let mut kinds = [0_u32; 4];
    let mut linear = [[0_u32; 2]; 4];
    for count in 1..=OPERATIONS {
        world.step();
        if count % RECOUNT_EVERY == 0 {
            audit::check(world.hv, &world.known(), |owner, frame| world.was_lent(owner, frame));
            let found = audit::check_links(world.hv);
            linear.iter_mut().flatten().zip(found.iter().flatten()).for_each(|(sum, found)| *sum += found);
            for frame in audit::all(world.hv) {
                let state = world.hv.frames.state(frame);
                if let (Some(level), true) = (state.kind().level(), state.uses() != 0) {
                    kinds[level as usize - 1] += 1;
                }
            }
        }
    }
    // The random walk is worth something only if tables of every level come about beside the homes.
    let homes = OPERATIONS / RECOUNT_EVERY * 3;
    assert!(kinds.iter().all(|&n| n > homes * 6 / 5), "{kinds:?} tables against {homes}");
    assert!(linear[1..].iter().flatten().all(|&n| n > 20), "{linear:?} linear entries");
    world.end(free);
}

#[test]
fn the_laws_hold_under_hostile_hands_first_seed() {
    run(0x9e37_79b9_7f4a_7c15);
}

#[test]
fn the_laws_hold_under_hostile_hands_second_seed() {
    run(0xdead_beef_cafe_f00d);
}

#[test]
fn the_laws_hold_under_hostile_hands_third_seed() {
    run(0x0123_4567_89ab_cdef);
}

#[test]
fn dom_ids_of_no_domain_are_told() {
    support::on_cpu(0);
    let mut guest = Guest::new(boot(64), 1, false, 40);
    let _home = guest.build_home(4);
    assert_eq!(guest.call(mmu::mmu_update, [BUFFER, 0, 0, 9]), Err(Errno::Srch));
    assert_eq!(guest.domain.id, DomId(1));
    assert_eq!(guest.hv.frames.state(guest.domain.shared_info).kind(), FrameType::Writable);
}
