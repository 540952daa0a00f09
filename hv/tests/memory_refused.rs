//! What PV domains cannot have done to their memory, and whose memory a call may be
//! about: answered as Xen 4.17 answers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::errno::Errno;
use oxen_hv::{addr::GuestAddr, caller::Caller, mem::entry::Entry};
use std::sync::atomic::Ordering;
use support::{
    guest::{Guest, Home},
    table_word,
};

const SELF: u64 = 0x7ff0;
const IO: u64 = 0x7ff1;
const XEN: u64 = 0x7ff2;
const NOBODY: u64 = 0x1234;
const UNMAPPED: u64 = 1 << 40;
const LIST: u64 = 0x800;

fn guest(is_privileged: bool) -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(256), u16::from(!is_privileged), is_privileged, 64);
    let home = guest.build_home(4);
    (guest, home)
}

#[test]
fn operations_of_translated_guests_look_at_what_they_are_told() {
    let (mut guest, _) = guest(false);
    let own = u64::from(guest.domain.id.0);
    let mut ask = |operation: u64, words: [u64; 5]| {
        assert_eq!(guest.call(Caller::memory_op, [operation, UNMAPPED, 0, 0]), Err(Errno::Fault), "{operation}");
        guest.put(0, &words);
        guest.call(Caller::memory_op, [operation, 0, 0, 0])
    };
    for operation in [7, 15, 23] {
        assert_eq!(ask(operation, [SELF, 0, 0, 0, 0]), Err(Errno::Acces));
        assert_eq!(ask(operation, [NOBODY, 0, 0, 0, 0]), Err(Errno::Srch));
    }
    assert_eq!(ask(7, [NOBODY | 4 << 32, 0, 0, 0, 0]), Err(Errno::NoSys), "foreign frames one by one");
    for operation in [16, 17] {
        assert_eq!(ask(operation, [NOBODY, 0, 0, 0, SELF]), Err(Errno::Inval));
        assert_eq!(ask(operation, [SELF, 0, 0, 0, NOBODY]), Err(Errno::Srch));
    }
    assert_eq!(ask(21, [own << 16, 0, 0, 0, 0]), Err(Errno::Perm));
    assert_eq!(ask(21, [SELF << 16, 0, 0, 0, 0]), Err(Errno::Srch));
    assert_eq!(ask(26, [SELF, 0, 0, 0, 0]), Err(Errno::OpNotSupp));
    assert_eq!(ask(26, [SELF | 1 << 16, 0, 0, 0, 0]), Err(Errno::Inval));
    assert_eq!(ask(26, [NOBODY, 0, 0, 0, 0]), Err(Errno::Srch));
    assert_eq!(ask(27, [2, 0, 0, 0, 0]), Err(Errno::Inval));
    assert_eq!(ask(27, [2, 1 << 47, 0, 0, 0]), Err(Errno::Fault));
    assert_eq!(ask(27, [2, u64::MAX, 0, 0, 0]), Err(Errno::Inval), "its first byte can be the guest's");
    assert_eq!(ask(27, [1 | 5 << 32, 7, 8, 9, 0]), Ok(0));
    assert_eq!(guest.hv.machine().read_guest_word(GuestAddr::new(0)), Ok(1), "no device keeps memory for itself");
    for operation in [8, 20, 22, 29, 33] {
        guest.put(0, &[SELF; 5]);
        assert_eq!(guest.call(Caller::memory_op, [operation, 0, 0, 0]), Err(Errno::NoSys), "{operation}");
    }
    assert_eq!(guest.call(Caller::memory_op, [25, UNMAPPED, 0, 0]), Err(Errno::OpNotSupp));
}

#[test]
fn an_exchange_is_judged_step_by_step() {
    let (mut guest, _) = guest(false);
    let exchange = |guest: &mut Guest, give: (u64, u64), get: (u64, u64), list: u64, whose: u64, done: u64| {
        guest.put(0, &[list, give.0, give.1, whose, list, get.0, get.1, whose, done]);
        guest.hv.machine().write_guest(GuestAddr::new(LIST), &[0xff; 64]).unwrap();
        let answer = guest.call(Caller::memory_op, [11, 0, 0, 0]);
        (answer, guest.hv.machine().read_guest_word(GuestAddr::new(64)).unwrap())
    };
    assert_eq!(exchange(&mut guest, (1, 10), (2, 10), LIST, SELF, 0).0, Err(Errno::Perm), "the order before all");
    assert_eq!(exchange(&mut guest, (2, 0), (1, 0), LIST, SELF, 0).0, Err(Errno::Inval));
    assert_eq!(exchange(&mut guest, (1, 0), (1, 0), LIST, SELF, 2).0, Err(Errno::Inval));
    assert_eq!(exchange(&mut guest, (1, 0), (1, 0), UNMAPPED, NOBODY, 1), (Ok(0), 1), "it is done");
    assert_eq!(
        exchange(&mut guest, (1, 0), (1, 0), 1 << 47, NOBODY, 0).0,
        Err(Errno::Fault),
        "the list before the domain"
    );
    assert_eq!(exchange(&mut guest, (1, 0), (1, 0), UNMAPPED, NOBODY, 0).0, Err(Errno::Srch));
    assert_eq!(exchange(&mut guest, (1, 0), (1, 0), UNMAPPED, SELF, 0).0, Err(Errno::Fault));
    assert_eq!(exchange(&mut guest, (1 << 60, 0), (1 << 60, 0), LIST, SELF, 0).0, Err(Errno::Inval), "no such frame");
    // What is done counts in whole parts.
    assert_eq!(exchange(&mut guest, (4, 0), (2, 1), LIST, SELF, 1), (Err(Errno::Inval), 0));
    assert_eq!(exchange(&mut guest, (4, 0), (2, 1), LIST, SELF, 3), (Err(Errno::Inval), 2));
}

#[test]
fn device_memory_and_the_hypervisors_are_nobodys_to_be_named() {
    for is_privileged in [false, true] {
        let (mut guest, home) = guest(is_privileged);
        let place = home.tables[3].address().as_u64() + 8 * 100;
        let may = if is_privileged { Ok(0) } else { Err(Errno::Perm) };
        for (whose, answer) in [(IO, Ok(0)), (XEN, may), (0x7ff3, Err(Errno::Srch))] {
            guest.put(0, &[place, 0]);
            assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, whose]), answer, "{whose:#x}");
            let entry = Entry::to(home.data[1], Entry::PRESENT).0;
            guest.put(0, &[place, entry]);
            assert!(guest.call(Caller::mmu_update, [0, 1, 0, whose]).is_err(), "one's own is not theirs");
        }
        // What is not one's own is in no upper table, not even nothing.
        guest.put(0, &[home.tables[2].address().as_u64() + 8 * 100, 0]);
        assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, SELF]), Ok(0));
        assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, IO]), Err(Errno::Inval));
        // How a page is cached is for whoever has devices to say, be it mapped or not.
        let no_ram = (guest.hv.memory.frames.end() as u64) << 12;
        let answer = if is_privileged { Errno::Perm } else { Errno::Inval };
        let whose = if is_privileged { XEN } else { IO };
        for slot in [100, 1] {
            guest
                .put(0, &[home.tables[3].address().as_u64() + 8 * slot, no_ram | (Entry::PRESENT | Entry::PCD).bits()]);
            assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, whose]), Err(answer), "over nothing, over a page");
        }
        // Descriptors, roots and flushes are one's own; what is pinned or cleared is somebody's.
        for (command, answer) in [
            (5, Errno::Perm),
            (13, Errno::Perm),
            (6, Errno::Perm),
            (0, Errno::Inval),
            (4, Errno::Inval),
            (16, Errno::Inval),
        ] {
            let answer = if is_privileged { answer } else { Errno::Perm };
            guest.put(0, &[command, home.data[1].raw(), 0]);
            assert_eq!(guest.call(Caller::mmuext_op, [0, 1, 0, IO]), Err(answer), "{command}");
        }
        for (command, answer) in [(19, Errno::OpNotSupp), (20, Errno::OpNotSupp), (21, Errno::NoSys)] {
            guest.put(0, &[command, 0, 0]);
            assert_eq!(guest.call(Caller::mmuext_op, [0, 1, 0, SELF]), Err(answer), "{command}");
        }
    }
}

#[test]
fn a_mapping_is_made_before_the_bitmap_of_its_flush_is_read() {
    let (mut guest, home) = guest(false);
    let entry = Entry::to(home.data[1], Entry::PRESENT | Entry::USER).0;
    for flags in [1 | UNMAPPED, 2 | UNMAPPED] {
        table_word(guest.hv, home.tables[3], 20);
        assert_eq!(guest.call(Caller::update_va_mapping, [20 << 12, 0, 0, 0]), Ok(0));
        assert_eq!(guest.call(Caller::update_va_mapping, [20 << 12, entry, flags, 0]), Err(Errno::Fault));
        assert_eq!(table_word(guest.hv, home.tables[3], 20).load(Ordering::SeqCst), entry);
    }
}
