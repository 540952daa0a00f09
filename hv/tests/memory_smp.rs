//! Several CPUs at the same frames at once: what one takes nobody else has, and all counts come out even.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::mmu::{MMUEXT_PIN_L1_TABLE, MMUEXT_UNPIN_TABLE, UVMF_INVLPG};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    caller::Caller,
    mem::{entry::Entry, frame_type::Owner},
};
use std::{sync::atomic::Ordering, thread};
use support::{
    Fake,
    audit::{self, Holds},
    boot,
    guest::{Guest, Home},
    table_word,
};
use x86_64::structures::paging::PageTableFlags;

const FLAGS: PageTableFlags = Entry::PRESENT.union(Entry::USER);
/// Few: where there are fewer processors than threads, a fair lock costs a time slice each time it changes hands.
const ROUNDS: u64 = 500;
const DATA: usize = 12;

/// What one CPU does: its own guest's pages out and in, its tables up and down, and claims on everybody's frames.
fn work(cpu: u16, guest: &mut Guest, home: &mut Home, others: &[(Owner, Vec<Mfn>)]) {
    support::on_cpu(cpu);
    guest.run();
    let hv = guest.hv;
    for round in 0..ROUNDS {
        let index = 1 + (round as usize * 7 + usize::from(cpu)) % (DATA - 1);
        let va = (index as u64) << 12;
        let frame = home.data[index];
        assert_eq!(guest.call(Caller::update_va_mapping, [va, 0, UVMF_INVLPG, 0]), Ok(0));
        if round % 3 == 0 {
            pin_and_unpin(hv, guest, frame, home.data[1 + index % (DATA - 1)]);
        } else {
            hv.memory.frames.release_from_reservation(frame, guest.domain.owner()).unwrap();
            home.data[index] = hv.memory.take_for(&guest.domain.memory, 0).unwrap();
        }
        let entry = Entry::to(home.data[index], FLAGS | Entry::WRITABLE).0;
        // Somebody may still hold the frame as writable: that is no obstacle to mapping it so.
        assert_eq!(guest.call(Caller::update_va_mapping, [va, entry, 0, 0]), Ok(0));
        hv.machine().write_guest_word(GuestAddr::new(va + 8), round).unwrap();
        let (owner, frames) = &others[round as usize % others.len()];
        let wanted = frames[index];
        drop(hv.memory.hold_writable(wanted, *owner));
        drop(hv.memory.hold(wanted, *owner));
    }
}

/// May be refused while another CPU holds the frame; then nothing has changed.
fn pin_and_unpin(hv: &Hypervisor<Fake>, guest: &mut Guest, table: Mfn, page: Mfn) {
    table_word(hv, table, 1).store(0, Ordering::SeqCst);
    table_word(hv, table, 5).store(Entry::to(page, FLAGS | Entry::WRITABLE).0, Ordering::SeqCst);
    let put = |words: [u64; 3]| {
        words
            .iter()
            .zip(0..)
            .for_each(|(&word, i)| hv.machine().write_guest_word(GuestAddr::new(8 * i), word).unwrap());
    };
    put([u64::from(MMUEXT_PIN_L1_TABLE), table.raw(), 0]);
    if guest.call(Caller::mmuext_op, [0, 1, 0, 0x7ff0]).is_ok() {
        put([u64::from(MMUEXT_UNPIN_TABLE), table.raw(), 0]);
        assert_eq!(guest.call(Caller::mmuext_op, [0, 1, 0, 0x7ff0]), Ok(0));
    }
    table_word(hv, table, 5).store(0, Ordering::SeqCst);
}

#[test]
fn cpus_at_once_leave_every_count_right() {
    support::on_cpu(0);
    let hv = boot(120);
    let mut players: Vec<(Guest, Home)> = (0..2)
        .map(|id| {
            let mut guest = Guest::new(hv, 1 + id, false, 32);
            let home = guest.build_home(DATA);
            (guest, home)
        })
        .collect();
    let all: Vec<_> = players.iter().map(|(guest, home)| (guest.domain.owner(), home.data.clone())).collect();
    thread::scope(|scope| {
        for (cpu, (guest, home)) in (0..).zip(&mut players) {
            let all = &all;
            scope.spawn(move || work(cpu, guest, home, all));
        }
    });
    let mut known = Holds::default();
    for (guest, _) in &players {
        known.add(guest.domain.shared_info, true);
        known.add(guest.state.kernel_root.unwrap(), true);
    }
    audit::check(hv, &known, audit::nothing_lent);
}
