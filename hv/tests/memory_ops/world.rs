//! Who plays, what they may choose from, and what must hold after each operation.

use crate::random::Random;
use crate::sequence;
use crate::shadows::Contents;
use crate::support::{
    self, Fake,
    audit::{self, Holds},
    boot, entry_address, entry_of,
    guest::{Guest, Home},
};
use oxen_abi::vm_assist::Assists;
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    caller::Caller,
    mem::{
        Hold, RamFrame,
        editor::Editor,
        entry::Entry,
        frame_type::{FrameType, Owner},
    },
    reply::{Args, Reply, Stop},
};
use std::sync::atomic::Ordering;

/// Frames of the machine.
const FRAMES: usize = 220;
pub(crate) const BUFFER: u64 = 0;
pub(crate) const LINEAR_SLOT: usize = 1;
/// What the hypervisor leaves in each of its own frames.
pub(crate) const SECRET: u64 = 0x5ec2_e75e_c2e0;
/// What a guest leaves in each of its frames, with the number of its domain.
pub(crate) const LEFT_BY: u64 = 0x1ef7_0000_0000;
/// The word of a frame at which either stands.
pub(crate) const MARKED_WORD: usize = 509;

pub(crate) struct Player {
    pub(crate) guest: Guest,
    pub(crate) home: Home,
    /// Descriptor pages that the test holds.
    pub(crate) descriptors: Vec<RamFrame>,
    /// Frames of others that it was granted: with the right to write or not.
    pub(crate) claims: Vec<(Mfn, bool)>,
    /// What its memory was when the log of its writes was last cleaned, while there is one.
    pub(crate) cleaned: Option<Contents>,
    /// Rounds of that log.
    pub(crate) rounds: u32,
}

pub(crate) struct World {
    pub(crate) hv: &'static Hypervisor<Fake>,
    pub(crate) players: Vec<Player>,
    /// Frames that the hypervisor took for itself.
    pub(crate) own: Vec<Mfn>,
    pub(crate) random: Random,
}

/// What an operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Refused as a whole: nothing may have changed.
    Refused,
    /// Refused or given up half way: something may have changed.
    Partly,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        support::on_cpu(0);
        let hv = boot(FRAMES);
        let players = [(0, true), (1, false), (2, false)]
            .map(|(id, is_privileged)| {
                let mut guest = Guest::new(hv, id, is_privileged, 40);
                guest.domain.memory.set_assists(Assists::WRITABLE_PAGETABLES);
                let home = guest.build_home(24);
                Editor::open(&hv.memory, &guest.domain.memory).unwrap().pin(home.tables[0], 4).unwrap();
                // One of them finds its tables in its address space from the start.
                if id == 1 {
                    let root = home.tables[0];
                    let update = [entry_address(root, LINEAR_SLOT), Entry::to(root, Entry::PRESENT | Entry::USER).0];
                    for (i, word) in update.into_iter().enumerate() {
                        hv.machine().write_guest_word(GuestAddr::new(BUFFER + 8 * i as u64), word).unwrap();
                    }
                    guest.call(Caller::mmu_update, [BUFFER, 1, 0, 0x7ff0]).unwrap();
                }
                Player { guest, home, descriptors: Vec::new(), claims: Vec::new(), cleaned: None, rounds: 0 }
            })
            .into_iter()
            .collect();
        Self { hv, players, own: Vec::new(), random: Random(seed) }
    }

    pub(crate) fn known(&self) -> Holds {
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
    pub(crate) fn was_lent(&self, owner: Owner, frame: Mfn) -> bool {
        let mut players = self.players.iter().filter(|player| player.guest.domain.owner() == owner);
        players.any(|player| player.claims.iter().any(|claim| claim.0 == frame))
    }

    /// Whether a frame is one by which a player's home stays: its tables, its buffer.
    pub(crate) fn is_home(&self, frame: Mfn) -> bool {
        self.players.iter().any(|player| player.home.tables.contains(&frame) || player.home.data[0] == frame)
    }

    /// Any frame, mostly of the player's.
    pub(crate) fn any_frame(&mut self, player: usize) -> Mfn {
        let owner = self.players[player].guest.domain.owner();
        let wild = self.random.chance(10);
        loop {
            let frame = Mfn::new(self.random.below(self.hv.memory.frames.end() as u64)).unwrap();
            if wild || self.hv.memory.frames.state(frame).owner() == owner {
                return frame;
            }
        }
    }

    /// The same, but none of anybody's home.
    pub(crate) fn frame(&mut self, player: usize) -> Mfn {
        loop {
            let frame = self.any_frame(player);
            if !self.is_home(frame) {
                return frame;
            }
        }
    }

    /// A frame that is a table of the player's already, if there is one soon.
    pub(crate) fn table(&mut self, player: usize) -> Mfn {
        for _ in 0..40 {
            let frame = self.frame(player);
            let state = self.hv.memory.frames.state(frame);
            if state.uses() != 0 && state.kind().level().is_some() {
                return frame;
            }
        }
        self.frame(player)
    }

    pub(crate) fn slot(&mut self) -> usize {
        let low = self.random.below(4) as usize;
        self.random.of(&[low, low, low, 255, 256, 271, 272, 511])
    }

    pub(crate) fn entry(&mut self, player: usize) -> u64 {
        let frame = if self.random.chance(40) { self.table(player) } else { self.any_frame(player) };
        let mut flags = self.random.of(&[0, 1, 1, 3, 3, 5, 7, 7, 0x63, 0x67, 0x27]);
        if self.random.chance(8) {
            flags |= 1 << self.random.below(64);
        }
        if self.random.chance(10) { 0 } else { entry_of(frame, flags) }
    }

    /// it knows.
    pub(crate) fn enter(&mut self, player: usize) {
        support::on_cpu(self.random.below(support::CPUS as u64) as u16);
        let Player { guest, home, .. } = &mut self.players[player];
        let root = self.hv.machine().cpu(support::this_cpu().0).root;
        if root != guest.state.loaded_root().mfn() || self.random.chance(10) {
            guest.run();
        }
        if guest.state.kernel_root.map(RamFrame::mfn) != Some(home.tables[0])
            && (self.random.chance(20) || guest.hv.machine().translate(GuestAddr::new(BUFFER), true).is_err())
        {
            let hv = guest.hv;
            let domain = guest.domain.clone();
            loop {
                match Editor::open(&hv.memory, &domain.memory) {
                    Ok(mut editor) => {
                        let (cpu, state) = (support::this_cpu(), &mut guest.state);
                        let loaded = &mut state.loaded.kernel;
                        editor.switch(cpu, &mut state.kernel_root, loaded, home.tables[0]).unwrap();
                        return;
                    }
                    Err(refusal) => assert_eq!(refusal, Stop::Unfinished),
                }
            }
        }
    }

    pub(crate) fn put(&self, words: &[u64]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(i, &word)| self.hv.machine().write_guest_word(GuestAddr::new(BUFFER + 8 * i as u64), word).is_ok())
    }

    /// Calls a handler; sometimes the guest does not come back for the rest.
    pub(crate) fn call<'a>(
        &'a mut self,
        player: usize,
        handler: fn(&mut Caller<'a, Fake>, &mut Args) -> Reply,
        args: [u64; 4],
    ) -> Result<u64, Outcome> {
        let mut args = [args[0], args[1], args[2], args[3], 0, 0];
        let mut is_first = true;
        let mut caller = self.players[player].guest.caller();
        loop {
            match handler(&mut caller, &mut args) {
                Ok(value) => return Ok(value),
                Err(Stop::Refused(_)) if is_first => return Err(Outcome::Refused),
                Err(Stop::Refused(_)) => return Err(Outcome::Partly),
                Err(Stop::Unfinished) if self.random.chance(10) => return Err(Outcome::Partly),
                Err(Stop::Unfinished) => is_first = false,
                Err(Stop::Fatal(fault)) => panic!("crashed: {}", fault.reason()),
            }
        }
    }

    /// Whose each frame is. What the player could write to carries its name from now on.
    pub(crate) fn leave_marks(&self, player: usize) -> Vec<Owner> {
        let Player { guest, .. } = &self.players[player];
        let mark = left_by(guest);
        let mark_one = |frame| {
            let state = self.hv.memory.frames.state(frame);
            if state.owner() == guest.domain.owner() && (state.is_loose() || state.kind() == FrameType::Writable) {
                self.hv.machine().words(frame)[MARKED_WORD].store(mark, Ordering::SeqCst);
            }
            state.owner()
        };
        self.hv.each_frame().map(mark_one).collect()
    }

    /// Looks at frames that have come to a guest.
    pub(crate) fn check_contents(&self, owners: &[Owner]) {
        for (frame, was) in self.hv.each_frame().zip(owners) {
            let owner = self.hv.memory.frames.state(frame).owner();
            let Some(new) = self.players.iter().find(|player| player.guest.domain.owner() == owner) else { continue };
            // What was handed over was given with its contents.
            if owner == *was || was.slot().is_some() {
                continue;
            }
            let word = self.hv.machine().words(frame)[MARKED_WORD].load(Ordering::SeqCst);
            let is_own = word == 0 || word == left_by(&new.guest);
            assert!(is_own, "law 8: {frame:?} came to {:?} with {word:#x}", new.guest.domain.id);
        }
    }

    /// Finishes what was left over, so that what is compared is at rest.
    pub(crate) fn settle(&self) {
        for player in &self.players {
            while Editor::open(&self.hv.memory, &player.guest.domain.memory).is_err() {}
        }
    }

    pub(crate) fn step(&mut self) -> (usize, &'static str, Outcome) {
        let player = self.random.below(self.players.len() as u64) as usize;
        self.enter(player);
        self.settle();
        let before = audit::snapshot(self.hv);
        let owners = self.leave_marks(player);
        let is_short = self.random.chance(10);
        if is_short {
            self.hv.machine().frames_left.store(self.random.below(3), Ordering::SeqCst);
        }
        let (what, outcome) = match self.random.below(107) {
            0..=34 => ("update", self.update(player)),
            35..=44 => ("update_at", self.update_at(player)),
            45..=64 => ("extended", self.extended(player)),
            65..=71 => ("reserve", self.reserve(player)),
            72..=73 => ("exchange", self.exchange(player)),
            74..=79 => ("direct_write", self.direct_write(player)),
            80..=83 => ("descriptors", self.descriptors(player)),
            84..=87 => ("map_grant", self.map_grant(player)),
            88..=91 => ("unmap_grant", self.unmap_grant(player)),
            92 => ("hand_over", self.hand_over(player)),
            100..=101 => ("take_own", self.take_own()),
            102..=103 => ("unmap_and_exchange", self.unmap_and_exchange(player)),
            104..=106 => ("log", self.log(player)),
            93..=96 => ("cultivate", self.cultivate(player)),
            97 => ("ask_from_afar", self.ask_from_afar(player)),
            _ => ("scribble", self.scribble(player)),
        };
        self.hv.machine().frames_left.store(u64::MAX, Ordering::SeqCst);
        self.check_contents(&owners);
        if outcome == Outcome::Refused {
            self.settle();
            audit::assert_unchanged(self.hv, &before);
        }
        audit::check_caches(self.hv, |owner, frame| self.was_lent(owner, frame));
        self.give_places();
        if self.random.chance(5) {
            self.check_shadows();
        }
        (player, what, outcome)
    }

    /// Ends all domains and looks whether everything came back.
    pub(crate) fn end(mut self) {
        self.own.drain(..).for_each(|frame| self.hv.memory.give_back_own(frame));
        for player in &mut self.players {
            let Player { guest, descriptors, claims, .. } = player;
            claims.drain(..).for_each(|claim| release_claim(self.hv, claim));
            while self.hv.memory.end_shadows(&guest.domain.memory).is_err() {}
            guest.domain.memory.is_dying.store(true, Ordering::SeqCst);
            while self
                .hv
                .memory
                .drop_roots(&guest.domain.memory, &mut guest.state.kernel_root, &mut guest.state.user_root)
                .is_err()
            {}
            for frame in descriptors.drain(..) {
                loop {
                    if let Ok(editor) = Editor::open(&self.hv.memory, &guest.domain.memory) {
                        editor.put_descriptors(frame);
                        break;
                    }
                }
            }
            self.hv.memory.give_back_shared(guest.domain.shared_info);
        }
        for _ in 0..2 {
            for player in &self.players {
                let mut next = 0;
                while self.hv.memory.relinquish(&player.guest.domain.memory, &mut next).is_err() {}
            }
        }
        audit::check(self.hv, &Holds::default(), audit::nothing_lent);
        assert_eq!(
            self.hv.memory.frames.free_frames(),
            (FRAMES - support::OWN_FRAMES) as u32,
            "law 7: not everything came back"
        );
    }
}

impl support::hostile::Suite for World {
    const WHAT: (&'static str, &'static str) = ("memory", "1, 2, 3, 5, 7, 8, 9");
    const COUNT_EVERY: u64 = 200;

    fn begin(seed: u64) -> Self {
        Self::new(seed)
    }

    fn step(&mut self) {
        self.step();
    }

    fn count(&mut self) {
        audit::check(self.hv, &self.known(), |owner, frame| self.was_lent(owner, frame));
    }

    fn end(self) {
        self.end();
    }
}

impl sequence::World for World {
    fn begin() -> Self {
        Self::new(1)
    }

    fn act(&mut self, seed: u64) -> String {
        self.random = Random(seed);
        let (player, what, outcome) = self.step();
        audit::check(self.hv, &self.known(), |owner, frame| self.was_lent(owner, frame));
        format!("domain {player}: {what}: {outcome:?}")
    }

    fn end(self) {
        self.end();
    }
}

/// What a guest leaves in its frames. As an entry, it is not present.
pub(crate) fn left_by(guest: &Guest) -> u64 {
    LEFT_BY + (u64::from(guest.domain.id.0) << 4)
}

pub(crate) fn release_claim(hv: &Hypervisor<Fake>, (frame, is_writable): (Mfn, bool)) {
    hv.memory.frames.put_entry(frame, if is_writable { Hold::Writable } else { Hold::Reference });
}
