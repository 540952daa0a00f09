//! Frames that change hands, or nearly do: what they were is not forgotten, what is in them is shown to nobody else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{errno::Errno, mmu, vm_assist::Assists};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    domain::traps::TrapHandler,
    mem::{Hold, entry::Entry, frame_alloc, frame_type::FrameType},
};
use std::sync::atomic::Ordering;
use support::{
    audit, boot, entry_address,
    guest::{Guest, Home},
};
use x86_64::structures::paging::PageTableFlags;

const BUFFER: u64 = 0;
/// The page that the tests play with: its address, and its place among the guest's pages.
const PAGE: u64 = 5 << 12;
const PAGE_INDEX: usize = 5;
const FLAGS: PageTableFlags = Entry::PRESENT.union(Entry::ACCESSED).union(Entry::USER);
const SECRET: u64 = 0x5ec2_e75e_c2e7;

fn update(guest: &mut Guest, at: u64, value: u64) -> Result<u64, Errno> {
    guest.put(BUFFER, &[at, value]);
    guest.call(Caller::mmu_update, [BUFFER, 1, 0, 0x7ff0])
}

/// A guest whose CPU still knows a page that it has unmapped as writable.
fn with_a_stale_page() -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(boot(256), 1, false, 64);
    let home = guest.build_home(16);
    for word in 0..512 {
        guest.hv.machine().write_guest_word(GuestAddr::new(PAGE + 8 * word), 0).unwrap();
    }
    assert_eq!(update(&mut guest, entry_address(home.tables[3], PAGE_INDEX), 0), Ok(0));
    (guest, home)
}

/// Exchanges frames for one block of as many, whose addresses have so many bits, or any number for 0.
fn exchange(guest: &mut Guest, frames: &[Mfn], address_bits: u64) -> Result<u64, Errno> {
    let (list, out) = (1 << 12, (1 << 12) + 64);
    for (i, frame) in frames.iter().enumerate() {
        guest.hv.machine().write_guest_word(GuestAddr::new(list + 8 * i as u64), frame.raw()).unwrap();
    }
    let order = u64::from(frames.len().ilog2());
    guest.put(BUFFER, &[list, frames.len() as u64, 0, 0x7ff0, out, 1, order | address_bits << 32, 0x7ff0, 0]);
    guest.call(Caller::memory_op, [11, BUFFER, 0, 0])
}

/// Makes the page a table of the guest's and writes to it by the translation that the CPU may still know.
fn is_out_of_reach_as_a_table(guest: &mut Guest, home: &Home) -> bool {
    let page = home.data[PAGE_INDEX];
    guest.put(BUFFER, &[u64::from(mmu::MMUEXT_PIN_L1_TABLE), page.raw(), 0]);
    assert_eq!(guest.call(Caller::mmuext_op, [BUFFER, 1, 0, 0x7ff0]), Ok(0));
    assert_eq!(guest.hv.memory.frames.state(page).kind(), FrameType::L1);
    let way = Entry::to(page, FLAGS | Entry::WRITABLE).0;
    assert_eq!(update(guest, entry_address(home.tables[2], 3), way), Ok(0));
    guest.hv.machine().write_guest_word(GuestAddr::new(PAGE), Entry::to(Mfn::new(1).unwrap(), FLAGS).0).is_err()
}

#[test]
fn a_page_that_becomes_a_table_is_flushed_first() {
    let (mut guest, home) = with_a_stale_page();
    assert!(is_out_of_reach_as_a_table(&mut guest, &home));
}

#[test]
fn a_refused_exchange_keeps_the_past_of_its_frames() {
    type Refuse = fn(&mut Guest, &Home) -> Result<u64, Errno>;
    let refusals: [(Refuse, Errno); 5] = [
        (|guest, home| exchange(guest, &[home.data[PAGE_INDEX]], 1), Errno::NoMem),
        (
            |guest, home| {
                guest.hv.machine().frames_left.store(0, Ordering::SeqCst);
                let answer = exchange(guest, &[home.data[PAGE_INDEX]], 0);
                guest.hv.machine().frames_left.store(u64::MAX, Ordering::SeqCst);
                answer
            },
            Errno::NoMem,
        ),
        (|guest, home| exchange(guest, &[home.data[PAGE_INDEX]; 2], 0), Errno::Inval),
        (|guest, home| exchange(guest, &[home.data[PAGE_INDEX], home.data[3]], 0), Errno::Busy),
        (|guest, home| exchange(guest, &[home.data[PAGE_INDEX], Mfn::new(1).unwrap()], 0), Errno::Inval),
    ];
    for (refuse, error) in refusals {
        let (mut guest, home) = with_a_stale_page();
        let before = audit::snapshot(guest.hv);
        assert_eq!(refuse(&mut guest, &home), Err(error));
        audit::assert_unchanged(guest.hv, &before);
        assert!(is_out_of_reach_as_a_table(&mut guest, &home), "after {error:?}");
    }
}

#[test]
fn what_the_hypervisor_left_in_a_frame_is_shown_to_nobody() {
    support::on_cpu(0);
    let guest = Guest::new(boot(256), 1, false, 200);
    let hv = guest.hv;
    // The guest gives frames back, two of them neighbours: they are known as its own.
    let pair = hv.memory.take_for(&guest.domain.memory, 1).unwrap();
    let single = (0..40).map(|_| guest.frame());
    for frame in frame_alloc::block(pair, 1).chain(single.collect::<Vec<_>>()) {
        hv.memory.frames.release_from_reservation(frame, guest.domain.owner()).unwrap();
    }
    // The hypervisor works with them in between.
    let own: Vec<Mfn> = (0..42).map(|_| hv.memory.take_own(0).unwrap().mfn()).collect();
    for &frame in &own {
        hv.machine().words(frame).iter().for_each(|word| word.store(SECRET, Ordering::SeqCst));
    }
    own.iter().rev().for_each(|&frame| hv.memory.give_back_own(frame));
    while let Ok(first) = hv.memory.take_for(&guest.domain.memory, 1) {
        for frame in frame_alloc::block(first, 1) {
            let is_blank = hv.machine().words(frame).iter().all(|word| word.load(Ordering::SeqCst) == 0);
            assert!(is_blank, "{frame:?} is not blank");
        }
    }
}

#[test]
fn a_frame_that_is_not_the_hypervisors_is_not_given_back_as_such() {
    support::on_cpu(0);
    let guest = Guest::new(boot(64), 1, false, 20);
    let frame = guest.frame();
    let free = guest.hv.memory.frames.free_frames();
    for frame in [frame, guest.domain.shared_info.mfn(), Mfn::new(63).unwrap(), Mfn::new(1 << 20).unwrap()] {
        let was = guest.hv.memory.frames.state(frame);
        assert_eq!(guest.hv.memory.frames.free_own(frame, |_| panic!("cleared")), Err(Errno::Inval));
        assert_eq!(guest.hv.memory.frames.state(frame), was);
    }
    assert_eq!(guest.hv.memory.frames.free_frames(), free);
}

#[test]
fn nothing_is_read_at_an_address_of_the_hypervisors() {
    support::on_cpu(0);
    let mut guest = Guest::new(boot(256), 1, false, 64);
    let _home = guest.build_home(16);
    guest.domain.memory.change_assists(Assists::WRITABLE_PAGETABLES, true);
    guest.state.traps.set(14, TrapHandler { address: 0x2000, cs: 0xe033, flags: 0 });
    for address in [0xffff_8300_0000_0000, 0xffff_82d0_8000_0000, 0xffff_87ff_ffff_fffc, 1 << 47] {
        // and qword ptr [rdi], 0: reads before it writes.
        guest.hv.machine().write_guest(GuestAddr::new(0x1000), &[0x48, 0x83, 0x27, 0]).unwrap();
        guest.regs.rip = 0x1000;
        guest.regs.rdi = address;
        guest.regs.rsp = 0x3000;
        guest.caller().page_fault(address, 7);
        assert_eq!(guest.regs.rip, 0x2000, "the fault is the guest's own");
    }
}

#[test]
fn a_held_frame_gives_its_count_back_with_the_value_or_leaves_it_to_an_entry() {
    support::on_cpu(0);
    let guest = Guest::new(boot(64), 1, false, 20);
    let (frame, memory, owner) = (guest.frame(), &guest.hv.memory, guest.domain.owner());
    let counts = || (memory.frames.state(frame).refs(), memory.frames.state(frame).uses());
    let before = counts();
    for (hold, uses) in [(Hold::Reference, 0), (Hold::Writable, 1)] {
        let held = memory.hold_as(frame, owner, hold).unwrap();
        assert_eq!(counts(), (before.0 + 1, before.1 + uses));
        drop(held);
        assert_eq!(counts(), before);
        let entry = memory.hold_as(frame, owner, hold).unwrap().into_entry();
        assert_eq!(counts(), (before.0 + 1, before.1 + uses));
        memory.frames.put_entry(entry.mfn(), hold);
        assert_eq!(counts(), before);
    }
    assert!(memory.hold(Mfn::new(1 << 20).unwrap(), owner).is_err(), "a number beyond the frame table");
    assert!(memory.frames.ram_frame(frame).is_some());
    assert_eq!(memory.frames.ram_frame(Mfn::new(1 << 20).unwrap()), None);
}
