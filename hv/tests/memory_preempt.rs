//! Long work on page tables, cut off anywhere: others meddle, the guest comes back or does not, the domain dies.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used, reason = "it is a test")]

mod support;

use oxen_abi::mmu::{
    MMUEXT_NEW_BASEPTR, MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, UVMF_INVLPG,
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    mem::{RamFrame, editor::Editor, entry::Entry, walk},
    reply::Stop,
};
use std::sync::atomic::Ordering;
use support::{
    audit::{self, Holds},
    boot, entry_address,
    guest::{Guest, Home},
    table_word,
};
use x86_64::structures::paging::PageTableFlags;

const L1S: usize = 40;
const FLAGS: PageTableFlags = Entry::PRESENT.union(Entry::USER).union(Entry::WRITABLE);

struct World {
    guest: Guest,
    home: Home,
    /// A second tree: L4, L3, two L2s, and many L1s.
    tree: Vec<Mfn>,
    page: Mfn,
    random: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        support::on_cpu(0);
        let mut guest = Guest::new(boot(256), 1, false, 128);
        let home = guest.build_home(8);
        Editor::open(&guest.hv.memory, &guest.domain.memory).unwrap().pin(home.tables[0], 4).unwrap();
        let tree: Vec<Mfn> = (0..L1S + 4).map(|_| guest.frame()).collect();
        let page = guest.frame();
        let mut world = Self { guest, home, tree, page, random: seed };
        world.fill();
        world
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % end
    }

    /// Writes the tree, all of which is the guest's plain memory.
    fn fill(&mut self) {
        let hv = self.guest.hv;
        let set = |table: Mfn, slot: usize, to: Mfn| {
            table_word(hv, table, slot).store(Entry::to(to, FLAGS).0, Ordering::SeqCst);
        };
        set(self.tree[0], 3, self.tree[1]);
        set(self.tree[1], 0, self.tree[2]);
        set(self.tree[1], 511, self.tree[3]);
        for (i, &l1) in self.tree[4..].iter().enumerate() {
            set(self.tree[2 + i % 2], i * 7, l1);
            set(l1, i, self.page);
        }
    }

    fn any_table(&mut self) -> Mfn {
        let index = self.below(self.tree.len() as u64) as usize;
        self.tree[index]
    }

    fn set_bad_entry(&mut self) -> Option<(Mfn, usize)> {
        let table = self.any_table();
        let slot = self.below(512) as usize;
        let state = self.guest.hv.memory.frames.state(table);
        let word = table_word(self.guest.hv, table, slot);
        if state.uses() != 0 || word.load(Ordering::SeqCst) != 0 || walk::is_hypervisor_slot(4, slot) {
            return None;
        }
        word.store(Entry::to(Mfn::new(3).unwrap(), FLAGS).0, Ordering::SeqCst);
        Some((table, slot))
    }

    /// One go of an operation: whether it is to be called again.
    fn once(&mut self, command: u32, frame: Mfn) -> Result<u64, Stop> {
        self.guest.run();
        for (i, word) in [u64::from(command), frame.raw(), 0].into_iter().enumerate() {
            self.guest.hv.machine().write_guest_word(GuestAddr::new(8 * i as u64), word).unwrap();
        }
        self.guest.caller().mmuext_op(&mut [0, 1, 0, 0x7ff0, 0, 0])
    }

    fn meddle(&mut self) {
        let frame = self.any_table();
        let command = match self.below(6) {
            0 => MMUEXT_PIN_L1_TABLE + self.below(4) as u32,
            1 => MMUEXT_UNPIN_TABLE,
            2 => {
                let entry = Entry::to(frame, FLAGS).0;
                let _ = self.guest.caller().update_va_mapping(&mut [5 << 12, entry, UVMF_INVLPG, 0, 0, 0]);
                let _ = self.guest.caller().update_va_mapping(&mut [5 << 12, 0, UVMF_INVLPG, 0, 0, 0]);
                return;
            }
            3 => {
                let ptr = entry_address(self.home.tables[0], 7);
                for word in [Entry::to(self.tree[1], FLAGS).0, 0] {
                    self.guest.hv.machine().write_guest_word(GuestAddr::new(0), ptr).unwrap();
                    self.guest.hv.machine().write_guest_word(GuestAddr::new(8), word).unwrap();
                    let _ = self.guest.caller().mmu_update(&mut [0, 1, 0, 0x7ff0, 0, 0]);
                }
                return;
            }
            4 => MMUEXT_NEW_BASEPTR,
            _ => MMUEXT_PIN_L3_TABLE,
        };
        let _ = self.once(command, frame);
        let home = self.home.tables[0];
        if self.guest.state.kernel_root.map(RamFrame::mfn) != Some(home) {
            let domain = self.guest.domain.clone();
            while Editor::open(&self.guest.hv.memory, &domain.memory).is_err() {}
            let mut editor = Editor::open(&self.guest.hv.memory, &domain.memory).unwrap();
            let (cpu, state) = (support::this_cpu(), &mut self.guest.state);
            let (current, loaded) = (&mut state.kernel_root, &mut state.loaded.kernel);
            editor.switch(cpu, current, loaded, home).unwrap();
        }
    }

    fn check(&self) {
        let mut known = Holds::default();
        known.add(self.guest.domain.shared_info, true);
        known.add(self.guest.state.kernel_root.unwrap(), true);
        audit::check(self.guest.hv, &known, audit::nothing_lent);
    }

    /// Lets go of every pin and of everything half done, and writes the tree anew.
    fn flatten(&mut self) {
        let hv = self.guest.hv;
        for table in self.tree.clone() {
            while Editor::open(&hv.memory, &self.guest.domain.memory).is_err() {}
            if hv.memory.frames.state(table).is_pinned() {
                self.once(MMUEXT_UNPIN_TABLE, table).unwrap();
            }
        }
        // What was given up half way is there for whoever asks for it again.
        while let Some(table) = self.tree.iter().copied().find(|&table| {
            while Editor::open(&hv.memory, &self.guest.domain.memory).is_err() {}
            hv.memory.frames.under_way(table).is_some_and(|at| !at.is_nested)
        }) {
            let level = hv.memory.frames.state(table).kind().level().unwrap();
            if self.once(MMUEXT_PIN_L1_TABLE + level - 1, table).is_ok() {
                self.once(MMUEXT_UNPIN_TABLE, table).unwrap();
            }
        }
        assert!(
            self.tree.iter().all(|&table| hv.memory.frames.state(table).uses() == 0),
            "nobody holds the tree any more"
        );
        for &table in &self.tree {
            hv.machine().clear(table);
        }
        self.fill();
    }
}

#[test]
fn pinning_a_large_tree_takes_several_goes_and_ends() {
    let mut world = World::new(1);
    let mut goes = 1;
    while let Err(refusal) = world.once(MMUEXT_PIN_L4_TABLE, world.tree[0]) {
        assert_eq!(refusal, Stop::Unfinished);
        world.check();
        goes += 1;
    }
    assert!((5..=L1S).contains(&goes), "{goes} goes");
    assert!(world.tree.iter().all(|&frame| world.guest.hv.memory.frames.state(frame).uses() == 1));
    assert_eq!(world.once(MMUEXT_UNPIN_TABLE, world.tree[0]), Ok(0), "unpinning is done at once");
    world.check();
    assert!(
        world.tree.iter().any(|&frame| world.guest.hv.memory.frames.state(frame).uses() == 1),
        "but not to the end"
    );
    while Editor::open(&world.guest.hv.memory, &world.guest.domain.memory).is_err() {
        world.check();
    }
    assert!(world.tree.iter().all(|&frame| world.guest.hv.memory.frames.state(frame).uses() == 0));
}

#[test]
fn a_bad_entry_anywhere_undoes_everything() {
    for seed in 1..60 {
        let mut world = World::new(seed);
        let Some((table, slot)) = world.set_bad_entry() else { continue };
        let outcome = loop {
            match world.once(MMUEXT_PIN_L4_TABLE, world.tree[0]) {
                Err(Stop::Unfinished) => world.check(),
                other => break other,
            }
        };
        assert!(matches!(outcome, Err(Stop::Refused(_))), "{outcome:?} with a bad entry in {table:?}, {slot}");
        world.check();
        while Editor::open(&world.guest.hv.memory, &world.guest.domain.memory).is_err() {}
        assert!(world.tree.iter().all(|&frame| world.guest.hv.memory.frames.state(frame).uses() == 0));
        world.check();
    }
}

#[test]
fn others_meddle_and_the_guest_may_never_come_back() {
    let mut world = World::new(77);
    let mut given_up = 0;
    for round in 0..1500 {
        if world.below(4) == 0 {
            world.set_bad_entry();
        }
        loop {
            match world.once(MMUEXT_PIN_L4_TABLE, world.tree[0]) {
                Err(Stop::Unfinished) if world.below(6) == 0 => {
                    given_up += 1;
                    break;
                }
                Err(Stop::Unfinished) => {}
                _ => break,
            }
            if world.below(2) == 0 {
                world.meddle();
            }
            world.check();
        }
        if round % 3 != 0 {
            world.flatten();
        }
        world.check();
    }
    assert!(given_up > 50, "{given_up} given up");
}

#[test]
fn a_domain_may_die_at_any_moment() {
    for goes in 0..14 {
        let mut world = World::new(5);
        let free = world.guest.hv.memory.frames.free_frames() + 128 - (128 - world.guest.hv.memory.frames.reserved(0));
        for _ in 0..goes {
            let _ = world.once(MMUEXT_PIN_L4_TABLE, world.tree[0]);
        }
        if goes % 2 == 1 {
            while world.once(MMUEXT_PIN_L4_TABLE, world.tree[0]) == Err(Stop::Unfinished) {}
            let _ = world.once(MMUEXT_UNPIN_TABLE, world.tree[0]);
        }
        let (hv, domain) = (world.guest.hv, world.guest.domain.clone());
        while hv
            .memory
            .drop_roots(&domain.memory, &mut world.guest.state.kernel_root, &mut world.guest.state.user_root)
            .is_err()
        {}
        hv.memory.give_back_shared(domain.shared_info);
        let mut next = 0;
        let mut steps = 0;
        while hv.memory.relinquish(&domain.memory, &mut next).is_err() {
            steps += 1;
        }
        assert!(steps < 200, "{steps} steps");
        audit::check(hv, &Holds::default(), audit::nothing_lent);
        assert_eq!((hv.memory.frames.reserved(0), hv.memory.frames.shared(0)), (0, 0), "law 7 after {goes} goes");
        assert_eq!(hv.memory.frames.free_frames(), free + 1);
    }
}
