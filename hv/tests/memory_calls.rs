//! Page tables and reservations by the calls that guests make: what each does, and what it refuses with which error.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used, reason = "it is a test")]

mod support;

use oxen_abi::{errno::Errno, mmu, vm_assist::Assists};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    domain::Domain,
    mem::{
        entry::Entry,
        frame_type::FrameType,
        write_emulation::{Write, Written},
    },
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
const FLAGS: PageTableFlags = Entry::PRESENT.union(Entry::ACCESSED).union(Entry::USER);

fn guest() -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(boot(256), 1, false, 64);
    let home = guest.build_home(16);
    (guest, home)
}

fn update(guest: &mut Guest, ptr: u64, val: u64) -> Result<u64, Errno> {
    guest.put(BUFFER, &[ptr, val]);
    guest.call(Caller::mmu_update, [BUFFER, 1, 0, 0x7ff0])
}

fn extended(guest: &mut Guest, cmd: u32, arg1: u64, arg2: u64) -> Result<u64, Errno> {
    guest.put(BUFFER, &[u64::from(cmd), arg1, arg2]);
    guest.call(Caller::mmuext_op, [BUFFER, 1, 0, 0x7ff0])
}

#[test]
fn the_size_of_an_ldt_is_a_word_of_32_bits_and_without_one_its_place_means_nothing() {
    let (mut guest, _home) = guest();
    let mut ldt = |base, entries| {
        let set = extended(&mut guest, mmu::MMUEXT_SET_LDT, base, entries);
        (set, guest.state.ldt_base, guest.state.ldt_entries)
    };
    // Guests leave in the upper half what was there before.
    assert_eq!(ldt(0x3000, 0xdead_beef << 32 | 8), (Ok(0), 0x3000, 8));
    assert_eq!(ldt(0x3000, 8193), (Err(Errno::Inval), 0x3000, 8));
    assert_eq!(ldt(0x3001, 8), (Err(Errno::Inval), 0x3000, 8));
    assert_eq!(ldt(0xdead_0001, 0xdead_beef << 32), (Ok(0), 0, 0));
}

fn known(guest: &Guest) -> Holds {
    let mut holds = Holds::default();
    holds.add(guest.domain.shared_info, true);
    for root in [guest.state.kernel_root, guest.state.user_root].into_iter().flatten() {
        holds.add(root, true);
    }
    holds
}

#[test]
fn a_validated_tree_is_counted_entry_by_entry() {
    let (guest, home) = guest();
    audit::check(guest.hv, &known(&guest), audit::nothing_lent);
    let l1 = guest.hv.memory.frames.state(home.tables[3]);
    assert_eq!((l1.kind(), l1.uses(), l1.refs()), (FrameType::L1, 1, 3));
}

#[test]
fn a_page_table_is_never_writable() {
    let (mut guest, home) = guest();
    for table in home.tables {
        let ptr = entry_address(home.tables[3], 100);
        let answer = update(&mut guest, ptr, Entry::to(table, FLAGS | Entry::WRITABLE).0);
        assert_eq!(answer, Err(Errno::Busy));
        assert_eq!(update(&mut guest, ptr, Entry::to(table, FLAGS).0), Ok(0));
    }
    // A page that is mapped writable does not become a table.
    let data = home.data[3];
    assert_eq!(extended(&mut guest, mmu::MMUEXT_PIN_L1_TABLE, data.raw(), 0), Err(Errno::Inval));
    audit::check(guest.hv, &known(&guest), audit::nothing_lent);
}

#[test]
fn a_new_table_is_unmapped_filled_pinned_hung_in_and_taken_down() {
    let (mut guest, home) = guest();
    let (l1, page) = (home.data[5], home.data[6]);
    table_word(guest.hv, l1, 7).store(Entry::to(page, Entry::PRESENT | Entry::WRITABLE).0, Ordering::SeqCst);
    let va = 5 << 12;
    guest.hv.machine().write_guest_word(GuestAddr::new(va), 0).unwrap();
    assert_eq!(guest.call(Caller::update_va_mapping, [va, Entry::to(l1, FLAGS).0, mmu::UVMF_INVLPG, 0]), Ok(0));
    assert_eq!(extended(&mut guest, mmu::MMUEXT_PIN_L1_TABLE, l1.raw(), 0), Ok(0));
    assert_eq!(extended(&mut guest, mmu::MMUEXT_PIN_L1_TABLE, l1.raw(), 0), Err(Errno::Inval), "pinned already");
    // The kernel's page was opened to ring 3 and marked.
    let seen = table_word(guest.hv, l1, 7).load(Ordering::SeqCst);
    assert_eq!(seen, Entry::to(page, Entry::PRESENT | Entry::WRITABLE | Entry::USER | Entry::GUEST_KERNEL).0);
    let hang = entry_address(home.tables[2], 1);
    assert_eq!(update(&mut guest, hang, Entry::to(l1, FLAGS | Entry::WRITABLE).0), Ok(0));
    guest.hv.machine().write_guest_word(GuestAddr::new((512 + 7) << 12), 42).unwrap();
    assert_eq!(guest.hv.memory.frames.state(l1).uses(), 2);
    audit::check(guest.hv, &known(&guest), audit::nothing_lent);
    assert_eq!(update(&mut guest, hang, 0), Ok(0));
    assert_eq!(extended(&mut guest, mmu::MMUEXT_UNPIN_TABLE, l1.raw(), 0), Ok(0));
    assert_eq!(extended(&mut guest, mmu::MMUEXT_UNPIN_TABLE, l1.raw(), 0), Err(Errno::Inval));
    assert_eq!(guest.hv.memory.frames.state(l1).uses(), 0);
    // A CPU may still walk through the table that was: it must forget before the guest can write there.
    let writable = Entry::to(l1, FLAGS | Entry::WRITABLE).0;
    assert_eq!(guest.call(Caller::update_va_mapping, [va, writable, mmu::UVMF_INVLPG, 0]), Ok(0));
    audit::check(guest.hv, &known(&guest), audit::nothing_lent);
}

#[test]
fn an_entry_that_is_refused_with_its_table_stays_as_it_was_written() {
    let (mut guest, home) = guest();
    let (root, good, bad) = (home.data[5], home.data[6], home.data[7]);
    table_word(guest.hv, root, 1).store(Entry::to(good, Entry::PRESENT).0, Ordering::SeqCst);
    table_word(guest.hv, root, 2).store(Entry::to(bad, Entry::PRESENT).0, Ordering::SeqCst);
    table_word(guest.hv, bad, 9).store((Entry::PRESENT | Entry::GLOBAL).bits(), Ordering::SeqCst);
    for page in [5, 6, 7] {
        assert_eq!(guest.call(Caller::update_va_mapping, [page << 12, 0, mmu::UVMF_INVLPG, 0]), Ok(0));
    }
    let before = audit::snapshot(guest.hv);
    assert_eq!(extended(&mut guest, mmu::MMUEXT_PIN_L4_TABLE, root.raw(), 0), Err(Errno::Inval));
    let [first, second] = [1, 2].map(|slot| table_word(guest.hv, root, slot).load(Ordering::SeqCst));
    // What held its table first was opened to ring 3, and marked as accessed, as in Xen.
    assert_eq!(first, Entry::to(good, FLAGS).0);
    assert_eq!(second, Entry::to(bad, Entry::PRESENT).0);
    table_word(guest.hv, root, 1).store(Entry::to(good, Entry::PRESENT).0, Ordering::SeqCst);
    audit::assert_unchanged(guest.hv, &before);
    table_word(guest.hv, bad, 9).store(0, Ordering::SeqCst);
    assert_eq!(extended(&mut guest, mmu::MMUEXT_PIN_L4_TABLE, root.raw(), 0), Ok(0));
    let second = table_word(guest.hv, root, 2).load(Ordering::SeqCst);
    assert_eq!(second, Entry::to(bad, FLAGS).0, "a root's entry is marked at once");
}

#[test]
fn what_is_refused_is_refused_with_xens_errors() {
    let (mut guest, home) = guest();
    let before = audit::snapshot(guest.hv);
    let l1 = |slot| entry_address(home.tables[3], slot);
    let page = Entry::to(home.data[1], FLAGS).0;
    let io = Mfn::new(guest.hv.memory.frames.end() as u64 - 1).unwrap();
    let hypervisor = Mfn::new(3).unwrap();
    for (ptr, val, error) in [
        (l1(100) + 4, page, Errno::NoSys),
        (l1(100), page | Entry::PAT_OR_SIZE.bits(), Errno::Inval),
        (l1(100), page | Entry::PCD.bits(), Errno::Inval),
        (l1(100), Entry::to(io, FLAGS).0, Errno::Perm),
        (l1(100), Entry::to(hypervisor, FLAGS).0, Errno::Busy),
        (l1(100), (Entry::FRAME << 1 & Entry::FRAME) | FLAGS.bits(), Errno::Perm),
        (l1(100), Entry::FRAME | FLAGS.bits(), Errno::Inval),
        (entry_address(home.tables[2], 9), page | Entry::PAT_OR_SIZE.bits(), Errno::Inval),
        (entry_address(home.tables[2], 9), Entry::to(home.tables[3], FLAGS | Entry::PAT_OR_SIZE).0, Errno::Inval),
        (entry_address(home.tables[2], 9), page, Errno::Inval),
        (entry_address(home.tables[1], 9), Entry::to(home.tables[1], FLAGS | Entry::WRITABLE).0, Errno::Inval),
        (entry_address(home.tables[0], 256), Entry::to(home.tables[1], FLAGS).0, Errno::Inval),
        (entry_address(home.tables[0], 271), 0, Errno::Inval),
        (entry_address(hypervisor, 0), 0, Errno::Inval),
        (!7, 0, Errno::Inval),
    ] {
        assert_eq!(update(&mut guest, ptr, val), Err(error), "{ptr:#x} {val:#x}");
        audit::assert_unchanged(guest.hv, &before);
    }
    assert_eq!(extended(&mut guest, mmu::MMUEXT_MARK_SUPER, 0, 0), Err(Errno::OpNotSupp));
    assert_eq!(extended(&mut guest, mmu::MMUEXT_FLUSH_CACHE, 0, 0), Err(Errno::Acces));
    assert_eq!(extended(&mut guest, mmu::MMUEXT_NEW_BASEPTR, home.data[2].raw(), 0), Err(Errno::Inval));
    assert_eq!(guest.call(Caller::mmu_update, [1 << 63, 1, 0, 0x7ff0]), Err(Errno::Fault));
    assert_eq!(guest.call(Caller::mmu_update, [BUFFER, 1, 0, 0]), Err(Errno::Srch));
    assert_eq!(guest.call(Caller::mmu_update, [500 << 12, 1, 0, 0x7ff0]), Err(Errno::Fault));
    assert_eq!(guest.call(Caller::update_va_mapping, [1 << 40, 0, 0, 0]), Err(Errno::Inval));
    audit::assert_unchanged(guest.hv, &before);
}

#[test]
fn a_batch_counts_what_it_did() {
    let (mut guest, home) = guest();
    let l1 = home.tables[3];
    let page = Entry::to(home.data[1], FLAGS).0;
    guest.put(BUFFER, &[entry_address(l1, 100), page, entry_address(l1, 101), page, 4, 0]);
    let done = 8 * 100;
    assert_eq!(guest.call(Caller::mmu_update, [BUFFER, 3, done, 0x7ff0]), Err(Errno::NoSys));
    assert_eq!(guest.hv.machine().read_guest_word(GuestAddr::new(done)).unwrap() as u32, 2);
    assert_eq!(guest.hv.memory.frames.state(home.data[1]).refs(), 4);
    // The bits that the CPU notes stay only where the guest says so.
    for (command, dirty) in [(mmu::MMU_PT_UPDATE_PRESERVE_AD, true), (mmu::MMU_NORMAL_PT_UPDATE, false)] {
        table_word(guest.hv, l1, 100).fetch_or(Entry::DIRTY.bits(), Ordering::SeqCst);
        assert_eq!(update(&mut guest, entry_address(l1, 100) | command, page), Ok(0));
        assert_eq!(table_word(guest.hv, l1, 100).load(Ordering::SeqCst) & Entry::DIRTY.bits() != 0, dirty);
    }
}

#[test]
fn direct_writes_to_a_table_are_done_or_left_to_the_guest() {
    let (mut guest, home) = guest();
    let root = guest.state.kernel_root.unwrap();
    let va = GuestAddr::new(((16 + 3) << 12) + 8 * 40);
    let page = Entry::to(home.data[2], FLAGS | Entry::WRITABLE).0;
    let write =
        |guest: &Guest, va, bytes, what| guest.hv.memory.emulate_write(&guest.domain.memory, root, va, bytes, what);
    assert!(write(&guest, va, 8, Write::Store(page)).is_err(), "the guest did not ask for it");
    guest.domain.memory.set_assists(Assists::WRITABLE_PAGETABLES);
    assert_eq!(write(&guest, va, 8, Write::Store(page)), Ok(Written { old: 0, stored: true }));
    // `and byte [entry], 0xfd`: the page is write-protected.
    let low = page & 0xff;
    let narrow = Write::CompareExchange { expected: low, new: low & !2 };
    assert_eq!(write(&guest, va, 1, narrow), Ok(Written { old: low, stored: true }));
    assert_eq!(write(&guest, va, 1, narrow), Ok(Written { old: low & !2, stored: false }));
    audit::check(guest.hv, &known(&guest), audit::nothing_lent);
    let before = audit::snapshot(guest.hv);
    let table = Entry::to(home.tables[3], FLAGS | Entry::WRITABLE).0;
    assert!(write(&guest, va, 8, Write::Store(table)).is_err());
    assert!(write(&guest, GuestAddr::new(va.as_u64() + 1), 8, Write::Store(0)).is_err(), "across two entries");
    assert!(write(&guest, GuestAddr::new((16 + 2) << 12), 8, Write::Store(0)).is_err(), "an L2");
    assert!(write(&guest, GuestAddr::new(3 << 12), 8, Write::Store(0)).is_err(), "no table at all");
    audit::assert_unchanged(guest.hv, &before);
    assert_eq!(write(&guest, va, 8, Write::Store(0)), Ok(Written { old: page & !2, stored: true }));
    assert_eq!(extended(&mut guest, mmu::MMUEXT_TLB_FLUSH_LOCAL, 0, 0), Ok(0));
    audit::check(guest.hv, &known(&guest), audit::nothing_lent);
}

#[test]
fn a_balloon_goes_out_and_in_again() {
    let (mut guest, home) = guest();
    let free = guest.hv.memory.frames.free_frames();
    let page = home.data[9];
    guest.hv.machine().write_guest_word(GuestAddr::new(9 << 12), 0xdead).unwrap();
    assert_eq!(guest.call(Caller::update_va_mapping, [9 << 12, 0, 0, 0]), Ok(0));
    let reservation = |list: u64, pages: u64| [list, pages, 0, 0x7ff0];
    guest.put(BUFFER, &reservation(64, 1));
    guest.hv.machine().write_guest_word(GuestAddr::new(64), page.raw()).unwrap();
    assert_eq!(guest.call(Caller::memory_op, [1, BUFFER, 0, 0]), Ok(1));
    assert_eq!(guest.hv.memory.frames.free_frames(), free + 1);
    assert_eq!(guest.call(Caller::memory_op, [1, BUFFER, 0, 0]), Ok(0), "not the guest's any more");
    guest.hv.machine().write_guest_word(GuestAddr::new(64), 9).unwrap();
    assert_eq!(guest.call(Caller::memory_op, [6, BUFFER, 0, 0]), Ok(1));
    let fresh = Mfn::new(guest.hv.machine().read_guest_word(GuestAddr::new(64)).unwrap()).unwrap();
    assert_eq!(table_word(guest.hv, fresh, 0).load(Ordering::SeqCst), 0, "law 8: scrubbed");
    assert_eq!(
        guest.call(Caller::update_va_mapping, [9 << 12, Entry::to(fresh, FLAGS | Entry::WRITABLE).0, 0, 0]),
        Ok(0)
    );
    audit::check(guest.hv, &known(&guest), audit::nothing_lent);
    // A quota is a quota.
    let room = 64 - 20;
    guest.put(BUFFER, &reservation(0, 1000));
    assert_eq!(guest.call(Caller::memory_op, [0, BUFFER, 0, 0]), Ok(room));
}

#[test]
fn what_a_guest_left_behind_is_seen_by_nobody_else() {
    support::on_cpu(0);
    let hv = boot(256);
    let fill = |domain: &Domain| {
        let mut frames = Vec::new();
        while let Ok(frame) = hv.memory.take_for(&domain.memory, 0) {
            frames.push(frame);
        }
        frames
    };
    let is_blank = |frame: &Mfn| hv.machine().words(*frame).iter().all(|word| word.load(Ordering::SeqCst) == 0);
    let mut guest = Guest::new(hv, 1, false, 1000);
    for (next, id) in [(true, 2), (false, 3), (true, 4)] {
        let frames = fill(&guest.domain);
        assert!(frames.len() > 200 && frames.iter().all(is_blank), "before domain {id}");
        for frame in frames {
            hv.machine().words(frame).iter().for_each(|word| word.store(0x5ec2e7, Ordering::SeqCst));
            hv.memory.frames.release_from_reservation(frame, guest.domain.owner()).unwrap();
        }
        // Once in another slot of the domain table, once in the same.
        hv.memory.give_back_shared(guest.domain.shared_info);
        if next {
            hv.domains.remove(&guest.domain);
        }
        guest = Guest::new(hv, id, false, 1000);
    }
}

#[test]
fn a_frame_goes_to_another_only_when_no_cpu_knows_it() {
    let (mut guest, home) = guest();
    let (hv, page) = (guest.hv, home.data[7]);
    support::on_cpu(1);
    guest.run();
    hv.machine().write_guest_word(GuestAddr::new(7 << 12), 1).unwrap();
    support::on_cpu(0);
    assert_eq!(guest.call(Caller::update_va_mapping, [7 << 12, 0, 0, 0]), Ok(0), "without a flush");
    hv.memory.frames.release_from_reservation(page, guest.domain.owner()).unwrap();
    let other = Guest::new(hv, 2, false, 1000);
    let mut taken = Vec::new();
    while let Ok(frame) = hv.memory.take_for(&other.domain.memory, 0) {
        taken.push(frame);
        audit::check_caches(hv, audit::nothing_lent);
    }
    assert!(taken.contains(&page));
    assert_eq!(hv.memory.frames.free_frames(), 0);
}

#[test]
fn a_table_is_written_to_only_when_no_cpu_walks_through_it() {
    let (mut guest, home) = guest();
    let (hv, l1) = (guest.hv, home.data[5]);
    hv.machine().clear(l1);
    table_word(hv, l1, 0).store(Entry::to(home.data[6], FLAGS).0, Ordering::SeqCst);
    assert_eq!(guest.call(Caller::update_va_mapping, [5 << 12, 0, mmu::UVMF_INVLPG, 0]), Ok(0));
    let hang = entry_address(home.tables[2], 1);
    assert_eq!(update(&mut guest, hang, Entry::to(l1, FLAGS).0), Ok(0));
    support::on_cpu(1);
    guest.run();
    hv.machine().read_guest_word(GuestAddr::new(512 << 12)).unwrap();
    support::on_cpu(0);
    assert_eq!(update(&mut guest, hang, 0), Ok(0), "without a flush");
    let writable = Entry::to(l1, FLAGS | Entry::WRITABLE).0;
    assert_eq!(guest.call(Caller::update_va_mapping, [5 << 12, writable, 0, 0]), Ok(0));
    audit::check_caches(hv, audit::nothing_lent);
    // And the other way round: what a CPU can still write to becomes no table.
    support::on_cpu(1);
    hv.machine().write_guest_word(GuestAddr::new(5 << 12), 0).unwrap();
    support::on_cpu(0);
    assert_eq!(guest.call(Caller::update_va_mapping, [5 << 12, 0, 0, 0]), Ok(0));
    assert_eq!(update(&mut guest, hang, Entry::to(l1, FLAGS).0), Ok(0));
    audit::check_caches(hv, audit::nothing_lent);
}

#[test]
fn claimed_pages_are_kept_for_whom_they_are_promised_to() {
    support::on_cpu(0);
    let hv = boot(256);
    let mut control = Guest::new(hv, 0, true, 64);
    control.build_home(4);
    let wanting = Guest::new(hv, 1, false, 500);
    let other = Guest::new(hv, 2, false, 500);
    let mut claim = |domain: u64, pages: u64| {
        control.put(BUFFER, &[0, pages, 0, domain]);
        control.call(Caller::memory_op, [24, BUFFER, 0, 0])
    };
    let free = u64::from(hv.memory.frames.free_frames());
    assert_eq!(claim(1, free + 1), Err(Errno::NoMem));
    assert_eq!(claim(1, 501), Err(Errno::Inval), "more than it may have");
    assert_eq!(claim(1, free - 10), Ok(0));
    assert_eq!(claim(1, free - 10), Err(Errno::Inval), "one claim at a time");
    assert_eq!(claim(2, 11), Err(Errno::NoMem));
    // Others get what is left, the domain what it was promised, and its promise shrinks with it.
    let take = |guest: &Guest| hv.memory.take_for(&guest.domain.memory, 0);
    assert_eq!((0..20).filter(|_| take(&other).is_ok()).count(), 10);
    let frames: Vec<Mfn> = (0..100).map(|_| take(&wanting).unwrap()).collect();
    assert_eq!(u64::from(hv.memory.frames.claimed()), free - 110);
    hv.memory.frames.release_from_reservation(frames[0], wanting.domain.owner()).unwrap();
    assert_eq!((0..3).filter(|_| take(&other).is_ok()).count(), 1, "what it gives back is everybody's");
    // What is refused half-way is no part of it.
    hv.machine().frames_left.store(0, Ordering::SeqCst);
    assert!(take(&wanting).is_err());
    hv.machine().frames_left.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(u64::from(hv.memory.frames.claimed()), free - 110);
    assert_eq!(claim(1, 0), Ok(0));
    assert_eq!(hv.memory.frames.claimed(), 0);
    assert!(take(&other).is_ok());
}
