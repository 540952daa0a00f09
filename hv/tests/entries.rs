//! How a guest's kernel is entered: by which handler, and what its frame says.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::segments::{FLAT_USER_CS32, FLAT_USER_SS};
use oxen_hv::{
    addr::GuestAddr,
    caller::Caller,
    domain::traps::{Callback, NMI, TrapHandler},
    per_cpu::Work,
    trap::vector,
};
use std::sync::atomic::Ordering;
use support::{
    guest::{Guest, Home},
    table_word,
};
use x86_64::registers::rflags::RFlags;

const HANDLER: u64 = 0x7000;
const STACK_TOP: u64 = 0x1000;
const IF: u64 = 1 << 9;

/// A guest in user mode, with a handler for everything and a page for its kernel's stack.
fn guest() -> (Guest, Home) {
    let mut guest = Guest::new(support::boot(64), 1, false, 16);
    let home = guest.build_home(1);
    let state = &mut guest.state;
    state.info.set_upcall_mask(false);
    let callback = Callback { address: HANDLER, masks_events: false };
    (state.in_kernel, state.user_root, state.kernel_sp) = (false, state.kernel_root, STACK_TOP);
    (state.sysenter_callback, state.failsafe_callback) = (callback, callback);
    for vector in [vector::GENERAL_PROTECTION, vector::STACK_FAULT, vector::PAGE_FAULT] {
        state.traps.set(vector, TrapHandler { address: HANDLER + u64::from(vector), cs: 0xe033, flags: 0 });
    }
    (guest.regs.rip, guest.regs.cs, guest.regs.rflags) = (0x1234, 0xfff7, RFlags::from_bits_retain(2 | IF));
    (guest.regs.rsp, guest.regs.ss) = (0x5678, FLAT_USER_SS.into());
    (guest, home)
}

/// What stands on the kernel's stack, from its pointer up.
fn frame<const WORDS: usize>(guest: &Guest, home: &Home) -> [u64; WORDS] {
    let first = guest.regs.rsp as usize / 8;
    std::array::from_fn(|word| table_word(guest.hv, home.data[0], first + word).load(Ordering::SeqCst))
}

#[test]
fn a_return_that_the_cpu_refuses_is_the_exception_it_met() {
    for met in [vector::GENERAL_PROTECTION, vector::STACK_FAULT] {
        let (mut guest, home) = guest();
        guest.caller().refused_return(met, 0xfff4);
        assert!(guest.state.in_kernel);
        assert_eq!(guest.regs.rip, HANDLER + u64::from(met));
        let [_, _, error_code, rip, cs, ..] = frame::<8>(&guest, &home);
        assert_eq!((error_code, rip, cs & 0xffff), (0xfff4, 0x1234, 0xfff7));
    }
}

#[test]
fn selectors_that_are_gone_are_told_by_the_failsafe_callback() {
    let (mut guest, home) = guest();
    guest.state.selectors = [1, 2, 0x17, 4];
    guest.state.selectors_wait = true;
    guest.vcpu.work.store(Work::SELECTORS, Ordering::SeqCst);
    guest.hv.machine().good_selectors.store(0x10, Ordering::SeqCst);
    (guest.regs.rcx, guest.regs.r11) = (0xc, 0xb);
    guest.caller().deliver_pending();
    assert_eq!(guest.regs.rip, HANDLER);
    let [rcx, r11, ds, es, fs, gs, rip, ..] = frame::<11>(&guest, &home);
    assert_eq!(([rcx, r11], [ds, es, fs, gs], rip), ([0xc, 0xb], [1, 2, 0x17, 4], 0x1234));
    assert_eq!(guest.vcpu.work.load(Ordering::SeqCst), Work::empty());
    assert!(!guest.state.selectors_wait, "the CPU holds what there is now");
}

#[test]
fn an_nmi_has_its_entry_in_the_trap_table_and_is_lost_without_one() {
    let (mut guest, home) = guest();
    let nmi = |guest: &mut Guest| {
        guest.regs.rip = 0x1234;
        guest.vcpu.work.store(Work::NMI, Ordering::SeqCst);
        guest.caller().deliver_pending();
        assert_eq!(guest.vcpu.work.load(Ordering::SeqCst), Work::empty());
        guest.regs.rip
    };
    guest.state.traps.set(NMI, TrapHandler::default());
    assert_eq!(nmi(&mut guest), 0x1234);
    guest.state.traps.set(NMI, TrapHandler { address: 0x7000, cs: 0xe033, flags: 0 });
    assert_eq!(nmi(&mut guest), 0x7000);
    assert_eq!(frame::<4>(&guest, &home)[2], 0x1234, "where it came from");
    // Registered by its own call, it stands there as well.
    guest.hv.machine().write_guest_word(GuestAddr::new(0), 0x8000).unwrap();
    assert_eq!(guest.call(Caller::nmi_op, [0, 0, 0, 0]), Ok(0));
    assert_eq!(guest.state.traps.handler(NMI), TrapHandler { address: 0x8000, cs: 0xe033, flags: 4 });
    assert_eq!(nmi(&mut guest), 0x8000);
    assert_eq!(guest.call(Caller::nmi_op, [1, 0, 0, 0]), Ok(0));
    assert_eq!(guest.state.traps.handler(NMI), TrapHandler::default());
}

#[test]
fn selectors_that_load_at_the_second_try_are_not_told() {
    let (mut guest, _) = guest();
    guest.state.selectors = [1, 2, 3, 4];
    guest.state.selectors_wait = true;
    guest.vcpu.work.store(Work::SELECTORS, Ordering::SeqCst);
    guest.caller().deliver_pending();
    assert_eq!((guest.regs.rip, guest.vcpu.work.load(Ordering::SeqCst)), (0x1234, Work::empty()));
    assert!(!guest.state.selectors_wait);
}

#[test]
fn sysenter_goes_to_its_callback_with_interrupts_on_and_else_is_refused() {
    let (mut guest, home) = guest();
    // As the CPU leaves it: nothing but the flags is known, and IF is clear.
    (guest.regs.rip, guest.regs.rsp, guest.regs.rflags, guest.regs.cs) =
        (0, 0, RFlags::from_bits_retain(2), FLAT_USER_CS32.into());
    let entered = guest.regs;
    guest.caller().user_sysenter();
    assert_eq!(guest.regs.rip, HANDLER);
    let [_, _, rip, cs, rflags, rsp, ss] = frame::<7>(&guest, &home);
    assert_eq!((rip, cs & 0xffff, rsp, ss), (0, FLAT_USER_CS32.into(), 0, FLAT_USER_SS.into()));
    assert_eq!(rflags & IF, IF);

    (guest.regs, guest.state.in_kernel) = (entered, false);
    guest.state.sysenter_callback = Callback::default();
    guest.caller().user_sysenter();
    assert_eq!(guest.regs.rip, HANDLER + u64::from(vector::GENERAL_PROTECTION));
    assert_eq!(frame::<3>(&guest, &home)[2], 0, "the error code");
}
