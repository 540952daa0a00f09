//! Linear page tables: what is allowed, what it holds, and what nobody may do with it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used, reason = "it is a test")]

mod support;

use oxen_abi::errno::Errno;
use oxen_hv::{
    addr::Mfn,
    caller::Caller,
    mem::{editor::Editor, entry::Entry},
};
use std::sync::atomic::Ordering;
use support::{
    audit::{self, Holds},
    boot, entry_address,
    guest::{Guest, Home},
    table_word,
};
use x86_64::structures::paging::PageTableFlags;

const BUFFER: u64 = 0;
const SELF: u64 = 0x7ff0;
const READ: PageTableFlags = Entry::PRESENT.union(Entry::USER);
const WRITE: PageTableFlags = READ.union(Entry::WRITABLE);
const PIN_L1: u64 = 0;
const UNPIN: u64 = 4;

fn start() -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(boot(180), 1, false, 100);
    let home = guest.build_home(4);
    (guest, home)
}

fn update(guest: &mut Guest, table: Mfn, slot: usize, entry: u64) -> Result<u64, Errno> {
    guest.put(BUFFER, &[entry_address(table, slot), entry]);
    guest.call(Caller::mmu_update, [BUFFER, 1, 0, SELF])
}

fn extended(guest: &mut Guest, command: u64, frame: Mfn) -> Result<u64, Errno> {
    guest.put(BUFFER, &[command, frame.raw(), 0]);
    guest.call(Caller::mmuext_op, [BUFFER, 1, 0, SELF])
}

fn to(frame: Mfn, flags: PageTableFlags) -> u64 {
    Entry::to(frame, flags).0
}

/// An empty table of a level, pinned.
fn table(guest: &mut Guest, level: u32) -> Mfn {
    let frame = guest.frame();
    extended(guest, PIN_L1 + u64::from(level) - 1, frame).unwrap();
    frame
}

fn recount(guest: &Guest) {
    let mut known = Holds::default();
    known.add(guest.domain.shared_info, true);
    known.add(guest.state.kernel_root.unwrap(), true);
    audit::check(guest.hv, &known, audit::nothing_lent);
}

/// The domain ends, and all comes back.
fn end(mut guest: Guest) {
    guest.domain.memory.is_dying.store(true, Ordering::SeqCst);
    while guest
        .hv
        .memory
        .drop_roots(&guest.domain.memory, &mut guest.state.kernel_root, &mut guest.state.user_root)
        .is_err()
    {}
    let mut next = 0;
    while guest.hv.memory.relinquish(&guest.domain.memory, &mut next).is_err() {}
    let slot = guest.domain.owner().slot().unwrap();
    assert_eq!(guest.hv.memory.frames.reserved(slot), 0);
    assert_eq!(guest.hv.machine().ram() as u32 - support::OWN_FRAMES as u32 - 1, guest.hv.memory.frames.free_frames());
}

#[test]
fn a_table_may_refer_to_itself_to_be_read_and_holds_nothing_by_it() {
    let (mut guest, _home) = start();
    for level in 2..=4 {
        let own = table(&mut guest, level);
        let before = guest.hv.memory.frames.state(own);
        assert_eq!(update(&mut guest, own, 5, to(own, WRITE)), Err(Errno::Inval), "level {level}");
        assert_eq!(update(&mut guest, own, 5, to(own, READ | Entry::PAT_OR_SIZE)), Err(Errno::Inval));
        assert_eq!(update(&mut guest, own, 5, to(own, READ)), Ok(0), "level {level}");
        assert_eq!(guest.hv.memory.frames.state(own), before);
        // Neither becomes it writable afterwards.
        assert_eq!(update(&mut guest, own, 5, to(own, WRITE)), Err(Errno::Inval));
        assert_eq!(update(&mut guest, own, 5, to(own, READ | Entry::AVAILABLE)), Ok(0));
        recount(&guest);
        assert_eq!(extended(&mut guest, UNPIN, own), Ok(0));
        assert_eq!((guest.hv.memory.frames.state(own).uses(), guest.hv.memory.frames.state(own).refs()), (0, 1));
        // Nor when the table is made with it.
        for (flags, answer) in [(WRITE, Err(Errno::Inval)), (READ, Ok(0))] {
            table_word(guest.hv, own, 5).store(to(own, flags), Ordering::SeqCst);
            assert_eq!(extended(&mut guest, PIN_L1 + u64::from(level) - 1, own), answer, "level {level}");
            recount(&guest);
        }
    }
    end(guest);
}

#[test]
fn a_table_may_refer_to_another_and_keeps_it_so() {
    let (mut guest, _home) = start();
    for level in 2..=4 {
        let (one, other) = (table(&mut guest, level), table(&mut guest, level));
        assert_eq!(update(&mut guest, one, 7, to(other, WRITE)), Err(Errno::Inval), "level {level}");
        assert_eq!(update(&mut guest, one, 7, to(other, READ)), Ok(0), "level {level}");
        assert_eq!(update(&mut guest, one, 8, to(other, READ)), Ok(0));
        assert_eq!((guest.hv.memory.frames.links(one), guest.hv.memory.frames.links(other)), (2, -2));
        recount(&guest);
        assert_eq!(extended(&mut guest, UNPIN, other), Ok(0));
        assert_eq!(guest.hv.memory.frames.state(other).uses(), 2, "what is referred to stays a table");
        assert_eq!(update(&mut guest, one, 7, 0), Ok(0));
        recount(&guest);
        assert_eq!(extended(&mut guest, UNPIN, one), Ok(0));
        for frame in [one, other] {
            assert_eq!(
                (guest.hv.memory.frames.state(frame).uses(), guest.hv.memory.frames.state(frame).refs()),
                (0, 1)
            );
        }
    }
    end(guest);
}

#[test]
fn no_chain_is_longer_than_two() {
    let (mut guest, _home) = start();
    for level in 2..=4 {
        let [one, two, three] = [(); 3].map(|()| table(&mut guest, level));
        assert_eq!(update(&mut guest, one, 7, to(two, READ)), Ok(0));
        assert_eq!(update(&mut guest, two, 7, to(three, READ)), Err(Errno::Inval), "what is referred to has none");
        assert_eq!(update(&mut guest, two, 7, to(one, READ)), Err(Errno::Inval), "no circle");
        assert_eq!(update(&mut guest, three, 7, to(one, READ)), Err(Errno::Inval), "who has one is not referred to");
        assert_eq!(update(&mut guest, two, 9, to(two, READ)), Ok(0), "itself it may");
        assert_eq!(update(&mut guest, one, 9, to(one, READ)), Ok(0));
        assert_eq!(update(&mut guest, one, 7, 0), Ok(0));
        assert_eq!(update(&mut guest, two, 7, to(one, READ)), Ok(0), "the other way round, now");
        recount(&guest);
    }
    end(guest);
}

#[test]
fn tables_that_are_none_or_another_s_are_not_referred_to() {
    let (mut guest, _home) = start();
    let mut stranger = Guest::new(guest.hv, 2, false, 40);
    let theirs = stranger.build_home(4).tables[1];
    guest.run();
    let (l3, l2, plain) = (table(&mut guest, 3), table(&mut guest, 2), guest.frame());
    assert_eq!(update(&mut guest, l3, 1, to(theirs, READ)), Err(Errno::Inval));
    assert_eq!(update(&mut guest, l2, 1, to(l3, READ)), Err(Errno::Inval), "of the level above");
    let _ = update(&mut guest, l3, 1, to(plain, READ));
    assert_eq!(
        guest.hv.memory.frames.state(plain).kind().level(),
        Some(2),
        "an idle frame is made what the entry needs"
    );
    // Half a table is none.
    guest.hv.memory.has_linear_tables.store(false, Ordering::SeqCst);
    assert_eq!(update(&mut guest, l3, 2, to(l3, READ)), Err(Errno::Inval), "pv-linear-pt=no");
}

/// Behind the linear entry of a root are the hypervisor's slots, at an address that is the guest's.
#[test]
fn the_hypervisor_reads_nothing_of_its_own_for_a_guest() {
    let (mut guest, home) = start();
    let root = home.tables[0];
    let far = |a: u64, b: u64, c: u64, d: u64| a << 39 | b << 30 | c << 21 | d << 12;
    let places = [far(5, 256, 0, 0), far(5, 5, 260, 1), far(5, 5, 5, 271), far(5, 271, 3, 3), far(6, 0, 0, 0) - 8];
    assert_eq!(update(&mut guest, root, 5, to(root, READ)), Ok(0));
    for place in places {
        assert_eq!(guest.call(Caller::mmu_update, [place, 2, 0, SELF]), Err(Errno::Fault), "{place:#x}");
        assert_eq!(guest.call(Caller::mmuext_op, [place, 1, 0, SELF]), Err(Errno::Fault));
        assert_eq!(guest.call(Caller::memory_op, [3, place, 0, 0]), Err(Errno::Fault));
    }
    // Nor while a CPU may be between its read and its question: the entry goes, all are interrupted, the mark goes.
    guest.hv.memory.frames.tlb.enter(guest.domain.owner(), 0b101);
    let flushes = guest.hv.machine().cpu(2).flushes;
    assert_eq!(update(&mut guest, root, 5, 0), Ok(0));
    assert_eq!(guest.hv.machine().cpu(2).flushes, flushes + 1);
    assert_eq!(guest.domain.memory.linear_slot_going.load(Ordering::SeqCst), 0);
    guest.domain.memory.linear_slot_going.store(1, Ordering::SeqCst);
    assert_eq!(guest.call(Caller::mmu_update, [BUFFER, 0, 0, SELF]), Ok(0));
    assert_eq!(guest.call(Caller::mmu_update, [BUFFER, 1, 0, SELF]), Err(Errno::Fault), "in the slot that is going");
    guest.domain.memory.linear_slot_going.store(0, Ordering::SeqCst);
    // Other addresses are as good as ever, and the slot is one of them then.
    assert_eq!(update(&mut guest, root, 5, to(home.tables[1], WRITE)), Ok(0));
    guest.put(BUFFER, &[entry_address(root, 6), 0]);
    assert_eq!(guest.call(Caller::mmu_update, [BUFFER | 5 << 39, 1, 0, SELF]), Ok(0));
}

#[test]
fn an_address_behind_a_linear_entry_names_no_l1_entry() {
    let (mut guest, home) = start();
    let root = home.tables[0];
    assert_eq!(update(&mut guest, root, 5, to(root, READ)), Ok(0));
    let page = to(home.data[1], WRITE);
    for va in [5 << 39, 5 << 39 | 5 << 30, 5 << 39 | 5 << 30 | 5 << 21 | 5 << 12, 5 << 39 | 256 << 30] {
        assert_eq!(guest.call(Caller::update_va_mapping, [va, page, 2, 0]), Err(Errno::Inval), "{va:#x}");
    }
    assert_eq!(guest.call(Caller::update_va_mapping, [9 << 12, page, 2, 0]), Ok(0));
    recount(&guest);
}

/// Seven tables, each held by the one before alone.
#[test]
fn the_longest_chain_is_given_back_step_by_step() {
    let (mut guest, _home) = start();
    let mut below: Option<Mfn> = None;
    for level in 1..=4 {
        let target = table(&mut guest, level);
        if let Some(below) = below {
            assert_eq!(update(&mut guest, target, 0, to(below, WRITE)), Ok(0));
            assert_eq!(extended(&mut guest, UNPIN, below), Ok(0));
        }
        below = Some(target);
        // So many that time is up while all of the chain is under way.
        for slot in (1..12).filter(|_| level == 2) {
            let l1 = table(&mut guest, 1);
            assert_eq!(update(&mut guest, target, slot, to(l1, WRITE)), Ok(0));
            assert_eq!(extended(&mut guest, UNPIN, l1), Ok(0));
        }
        if level > 1 {
            let upper = table(&mut guest, level);
            assert_eq!(update(&mut guest, upper, 0, to(target, READ)), Ok(0));
            assert_eq!(extended(&mut guest, UNPIN, target), Ok(0));
            below = Some(upper);
        }
    }
    let top = below.unwrap();
    recount(&guest);
    assert_eq!(extended(&mut guest, UNPIN, top), Ok(0));
    recount(&guest);
    let mut pauses = 0;
    while Editor::open(&guest.hv.memory, &guest.domain.memory).is_err() {
        pauses += 1;
        recount(&guest);
    }
    assert!(pauses > 0, "each part is found again from the top");
    let tables = guest.hv.each_frame().filter(|&frame| guest.hv.memory.frames.state(frame).kind().level().is_some());
    assert_eq!(tables.filter(|&frame| guest.hv.memory.frames.state(frame).uses() != 0).count(), 4, "the home's alone");
    end(guest);
}
