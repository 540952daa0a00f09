//! `ins` and `outs` of a kernel that may use the port: what they move, how far they come, where they fault.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_hv::{addr::GuestAddr, caller::Caller, domain::traps::TrapHandler};
use support::guest::Guest;
use x86_64::registers::rflags::RFlags;

const PLACE: u64 = 0x800;
const DATA: u64 = 0x1000;
const HANDLER: u64 = 0x7000;
const PORT: u64 = 0x60;

fn guest(is_privileged: bool) -> Guest {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(256), u16::from(!is_privileged), is_privileged, 64);
    guest.build_home(4);
    guest.state.iopl = 1;
    for vector in [13, 14] {
        guest.state.traps.set(vector, TrapHandler { address: HANDLER + u64::from(vector), cs: 0xe033, flags: 0 });
    }
    (guest.regs.rsp, guest.regs.rdx) = (0x2800, PORT);
    (guest.regs.rdi, guest.regs.rsi) = (DATA, DATA);
    guest
}

/// The instruction faults, and is done or not.
fn fault(guest: &mut Guest, code: &[u8]) {
    guest.hv.machine().write_guest(GuestAddr::new(PLACE), code).unwrap();
    guest.regs.rip = PLACE;
    guest.caller().general_protection(0);
}

fn bytes<const N: usize>(guest: &Guest, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    guest.hv.machine().read_guest(GuestAddr::new(at), &mut bytes).unwrap();
    bytes
}

#[test]
fn an_instruction_may_end_where_the_mapped_pages_do() {
    const END: u64 = 0x2000;
    let mut guest = guest(true);
    guest.call(Caller::update_va_mapping, [END, 0, 0, 0]).unwrap();
    for (code, is_whole) in [(&[0x6d][..], true), (&[0x66, 0x6d], true), (&[0x66], false)] {
        guest.regs.rip = END - code.len() as u64;
        guest.regs.rsp = 0x1800;
        guest.hv.machine().write_guest(GuestAddr::new(guest.regs.rip), code).unwrap();
        guest.caller().general_protection(0);
        assert_eq!(guest.regs.rip, if is_whole { END } else { HANDLER + 13 }, "{code:x?}");
    }
}

#[test]
fn a_string_comes_from_a_port_and_goes_to_one() {
    let mut guest = guest(true);
    guest.hv.machine().peripherals.lock().unwrap().port_values.insert(PORT as u16, 0x4433_2211);
    guest.regs.rcx = 9;
    fault(&mut guest, &[0x6d]);
    assert_eq!((guest.regs.rip, guest.regs.rdi, guest.regs.rcx), (PLACE + 1, DATA + 4, 9));
    assert_eq!(bytes(&guest, DATA), [0x11, 0x22, 0x33, 0x44, 0]);
    guest.regs.rcx = 3;
    fault(&mut guest, &[0xf3, 0x66, 0x6d]);
    assert_eq!((guest.regs.rip, guest.regs.rdi, guest.regs.rcx), (PLACE + 3, DATA + 10, 0));
    assert_eq!(bytes(&guest, DATA + 4), [0x11, 0x22, 0x11, 0x22, 0x11, 0x22, 0]);
    fault(&mut guest, &[0xf3, 0x6d]);
    assert_eq!((guest.regs.rip, guest.regs.rdi), (PLACE + 2, DATA + 10), "none are none");
    guest.regs.rcx = 2;
    fault(&mut guest, &[0xf3, 0x6f]);
    assert_eq!((guest.regs.rip, guest.regs.rsi, guest.regs.rcx), (PLACE + 2, DATA + 8, 0));
    let written = guest.hv.machine().peripherals.lock().unwrap().port_writes.clone();
    assert_eq!(written, [(PORT as u16, 4, 0x4433_2211), (PORT as u16, 4, 0x2211_2211)]);
}

#[test]
fn the_direction_flag_turns_it_round() {
    let mut guest = guest(false);
    guest.regs.rflags |= RFlags::DIRECTION_FLAG;
    guest.regs.rcx = 2;
    fault(&mut guest, &[0xf3, 0x6c]);
    assert_eq!((guest.regs.rdi, bytes(&guest, DATA - 2)), (DATA - 2, [0, 0xff, 0xff, 0]));
}

#[test]
fn a_long_string_is_done_in_parts() {
    let mut guest = guest(false);
    guest.regs.rcx = 100;
    fault(&mut guest, &[0xf3, 0x6c]);
    assert_eq!((guest.regs.rip, guest.regs.rcx, guest.regs.rdi), (PLACE, 36, DATA + 64));
    fault(&mut guest, &[0xf3, 0x6c]);
    assert_eq!((guest.regs.rip, guest.regs.rcx, guest.regs.rdi), (PLACE + 2, 0, DATA + 100));
}

#[test]
fn what_is_not_mapped_is_the_guests_own_page_fault() {
    let mut guest = guest(false);
    (guest.regs.rcx, guest.regs.rdi) = (5, 0x3ffe);
    fault(&mut guest, &[0xf3, 0x6c]);
    assert_eq!((guest.regs.rip, guest.regs.rcx, guest.regs.rdi), (HANDLER + 14, 3, 0x4000), "two went through");
    assert_eq!(guest.state.info.cr2(), 0x4000);
    guest.regs.rsp = 0x2800;
    guest.regs.rsi = 0xffff_8300_0000_0000;
    fault(&mut guest, &[0x6e]);
    assert_eq!(guest.regs.rip, HANDLER + 13, "what is the hypervisor's is not to be had");
}

#[test]
fn who_may_not_use_the_port_is_refused() {
    let mut guest = guest(false);
    guest.state.iopl = 0;
    fault(&mut guest, &[0x6c]);
    assert_eq!((guest.regs.rip, guest.regs.rdi), (HANDLER + 13, DATA));
    fault(&mut guest, &[0xf3, 0x6c]);
    assert_eq!(guest.regs.rip, PLACE + 2, "none at all he may have");
}
