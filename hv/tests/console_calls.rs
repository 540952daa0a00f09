//! The console and `xen_version` by the calls that guests make: who may, what comes out,
//! what is refused with which error.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    console_io::{CONSOLEIO_READ, CONSOLEIO_WRITE},
    errno::Errno,
    version,
};
use oxen_hv::{addr::GuestAddr, caller::Caller, console::Level};
use std::sync::atomic::Ordering;
use support::guest::Guest;

const WRITE: u64 = CONSOLEIO_WRITE as u64;
const READ: u64 = CONSOLEIO_READ as u64;
/// An address that nothing is mapped at.
const NOWHERE: u64 = 0x7000_0000_0000;

/// A control domain and a guest.
fn guests() -> [Guest; 2] {
    support::on_cpu(0);
    let hv = support::boot(512);
    [(0, true), (1, false)].map(|(id, is_privileged)| {
        let mut guest = Guest::new(hv, id, is_privileged, 64);
        guest.build_home(4);
        guest
    })
}

fn write(guest: &mut Guest, text: &str) -> Result<u64, Errno> {
    guest.run();
    guest.hv.machine().write_guest(GuestAddr::new(0), text.as_bytes()).unwrap();
    guest.call(Caller::console_io, [WRITE, text.len() as u64, 0, 0])
}

/// What went out on the line since the last look.
fn sent(guest: &Guest) -> String {
    String::from_utf8(std::mem::take(&mut guest.hv.machine().peripherals.lock().unwrap().sent)).unwrap()
}

fn type_in(guest: &Guest, bytes: &[u8]) {
    guest.hv.machine().peripherals.lock().unwrap().input.extend(bytes);
    guest.hv.receive_input();
}

#[test]
fn the_control_domain_s_words_go_out_as_they_are() {
    let [mut dom0, mut guest] = guests();
    sent(&dom0);
    let long = "x".repeat(1000) + "\n";
    assert_eq!((write(&mut dom0, &long), sent(&dom0)), (Ok(0), "x".repeat(1000) + "\r\n"));
    // Interrupted after each piece, nothing is lost or said twice.
    dom0.hv.cpus[0].work.store(oxen_hv::per_cpu::Work::RESCHEDULE, Ordering::SeqCst);
    assert_eq!((write(&mut dom0, &long), sent(&dom0)), (Ok(0), "x".repeat(1000) + "\r\n"));
    assert_eq!((write(&mut guest, "hello\n"), sent(&guest)), (Err(Errno::Perm), String::new()));
    dom0.run();
    assert_eq!(dom0.call(Caller::console_io, [WRITE, 8, NOWHERE, 0]), Err(Errno::Fault));
    assert_eq!(dom0.call(Caller::console_io, [WRITE, 8, u64::MAX - 3, 0]), Err(Errno::Fault));
    assert_eq!(dom0.call(Caller::console_io, [READ, 1 << 31, 0, 0]), Err(Errno::TooBig));
    assert_eq!(dom0.call(Caller::console_io, [2, 0, 0, 0]), Err(Errno::NoSys));
}

#[test]
fn a_guest_s_lines_carry_its_name_and_nothing_that_moves_a_cursor() {
    let [_, mut guest] = guests();
    guest.hv.console.guests_may_write.store(true, Ordering::SeqCst);
    sent(&guest);
    assert_eq!(write(&mut guest, "half a "), Ok(0));
    assert_eq!(sent(&guest), "");
    assert_eq!(write(&mut guest, "line\x1b[2J\nnext\n"), Ok(0));
    assert_eq!(sent(&guest), "(XEN) (d1) half a line[2J\r\n(XEN) (d1) next\r\n");
    for _ in 0..1000 {
        write(&mut guest, "flood\n").unwrap();
    }
    let lines = sent(&guest).lines().count();
    assert!((50..200).contains(&lines), "{lines} lines of a thousand");
}

#[test]
fn input_is_the_control_domain_s_until_three_keys_make_it_the_hypervisor_s() {
    let [mut dom0, _] = guests();
    let port = dom0.caller().bind_virq(oxen_abi::virq::VIRQ_CONSOLE, 0).unwrap();
    type_in(&dom0, b"ls\n");
    let words = oxen_hv::mem::Ram::words(dom0.hv.machine(), dom0.domain.shared_info);
    assert_eq!(words[256].load(Ordering::SeqCst), 1 << port);
    dom0.run();
    assert_eq!(dom0.call(Caller::console_io, [READ, 2, 0, 0]), Ok(2));
    assert_eq!(dom0.call(Caller::console_io, [READ, 100, 2, 0]), Ok(1));
    let mut read = [0; 3];
    dom0.hv.machine().read_guest(GuestAddr::new(0), &mut read).unwrap();
    assert_eq!((&read, dom0.call(Caller::console_io, [READ, 100, 0, 0])), (b"ls\n", Ok(0)));
    sent(&dom0);
    type_in(&dom0, b"\x01\x01\x01h");
    let shown = sent(&dom0);
    assert!(shown.contains("Serial input to") && shown.contains("key 'q' => "), "{shown}");
    assert_eq!(dom0.call(Caller::console_io, [READ, 100, 0, 0]), Ok(0));
}

#[test]
fn every_key_shows_something_and_harms_nothing() {
    let [dom0, _] = guests();
    for key in 0..=u8::MAX {
        dom0.hv.handle_key(key);
    }
    let shown = sent(&dom0);
    for what in ["domain 0:", "domain 1:", "event channels of domain 1", "grants of domain 1", "key 'h' => "] {
        assert!(shown.contains(what), "{what} is missing in {shown}");
    }
}

#[test]
fn the_log_is_kept_as_far_as_there_is_room() {
    let [dom0, _] = guests();
    dom0.hv.console.clear_log();
    dom0.hv.log(Level::Error, format_args!("first"));
    let mut text = [0; 64];
    let (count, end) = dom0.hv.console.read_log(0, &mut text);
    assert_eq!(&text[..count], b"(XEN) first\n");
    for n in 0..3000 {
        dom0.hv.log(Level::Error, format_args!("line {n}"));
    }
    let mut all = vec![0; 40_000];
    let (count, last) = dom0.hv.console.read_log(end, &mut all);
    assert_eq!(count, 16 * 1024);
    assert!(all[..count].ends_with(b"(XEN) line 2999\n"));
    assert_eq!(dom0.hv.console.read_log(last, &mut text), (0, last));
}

#[test]
fn a_guest_learns_of_the_hypervisor_what_xen_would_tell() {
    let [mut dom0, mut guest] = guests();
    let ask = |guest: &mut Guest, command: u32, at: u64| {
        guest.run();
        guest.call(Caller::xen_version, [command.into(), at, 0, 0])
    };
    let text = |guest: &Guest| {
        let mut bytes = [0; 64];
        guest.hv.machine().read_guest(GuestAddr::new(0), &mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).split('\0').next().unwrap().to_string()
    };
    assert_eq!(ask(&mut guest, version::XENVER_VERSION, NOWHERE), Ok(0x0004_0011));
    assert_eq!(ask(&mut guest, version::XENVER_PAGESIZE, 0), Ok(4096));
    assert_eq!(ask(&mut guest, version::XENVER_PAGESIZE, 8), Err(Errno::Inval));
    for (is_control, features) in [(false, 0x2_20e0), (true, 0x2_28e0)] {
        let asker = if is_control { &mut dom0 } else { &mut guest };
        asker.run();
        asker.hv.machine().write_guest_word(GuestAddr::new(0), 0).unwrap();
        assert_eq!(ask(asker, version::XENVER_GET_FEATURES, 0), Ok(0));
        assert_eq!(asker.hv.machine().read_guest_word(GuestAddr::new(0)), Ok(features << 32));
        asker.hv.machine().write_guest_word(GuestAddr::new(0), 1).unwrap();
        assert_eq!(ask(asker, version::XENVER_GET_FEATURES, 0), Err(Errno::Inval));
    }
    assert_eq!((ask(&mut guest, version::XENVER_CAPABILITIES, 0), text(&guest)), (Ok(0), "xen-3.0-x86_64 ".into()));
    assert_eq!((ask(&mut guest, version::XENVER_COMMANDLINE, 0), text(&guest)), (Ok(0), "<denied>".into()));
    assert_eq!(ask(&mut guest, version::XENVER_BUILD_ID, 0), Err(Errno::Perm));
    assert_eq!(ask(&mut dom0, version::XENVER_BUILD_ID, 0), Err(Errno::NoData));
    assert_eq!(ask(&mut guest, version::XENVER_EXTRAVERSION, NOWHERE), Err(Errno::Fault));
    assert_eq!(ask(&mut guest, 11, 0), Err(Errno::NoSys));
}
