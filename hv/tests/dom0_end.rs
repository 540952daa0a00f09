//! How the control domain ends: what the console says of it, and what becomes of the machine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    sched::{SCHEDOP_SHUTDOWN, SHUTDOWN_CRASH, SHUTDOWN_POWEROFF},
    vcpu::VCPUOP_DOWN,
};
use oxen_hv::{addr::GuestAddr, caller::Caller, domain::regs::Regs};
use support::{boot, guest::Guest};

/// What the console said, and how often the machine was failed and powered off, when a control domain ended so.
fn last_words(end: impl FnOnce(&mut Guest)) -> (String, [u64; 2]) {
    let hv = boot(512);
    let mut dom0 = Guest::new(hv, 0, true, 64);
    dom0.build_home(1);
    dom0.regs.rip = 0xdead_0001;
    dom0.regs.entry_vector = Regs::SYSCALL_VECTOR;
    end(&mut dom0);
    let mut peripherals = hv.machine().peripherals.lock().unwrap();
    let said = String::from_utf8(std::mem::take(&mut peripherals.sent)).unwrap();
    (said, ["fail", "power_off"].map(|call| peripherals.processor_calls.get(call).copied().unwrap_or(0)))
}

#[test]
fn a_control_domain_that_ends_badly_says_how_and_fails_the_machine() {
    let (said, calls) = last_words(|dom0| {
        assert_eq!(dom0.call(Caller::vcpu_op, [VCPUOP_DOWN.into(), 0, 0, 0]), Ok(0));
    });
    assert!(said.contains("d0v0 has gone off line") && said.contains("earlyprintk=xen"), "{said}");
    assert!(said.contains("rip 0x0:0x00000000dead0001"), "{said}");
    assert_eq!(calls, [1, 0]);
    let (said, calls) = last_words(|dom0| {
        dom0.hv.machine().write_guest(GuestAddr::new(0), &SHUTDOWN_CRASH.to_le_bytes()).unwrap();
        assert_eq!(dom0.call(Caller::sched_op, [SCHEDOP_SHUTDOWN.into(), 0, 0, 0]), Ok(0));
    });
    assert!(said.contains("d0v0 says that it has crashed") && said.contains("dead0001"), "{said}");
    assert!(said.contains("(reason 3: crash)"), "{said}");
    assert_eq!(calls, [1, 0]);
    let (said, calls) = last_words(|dom0| dom0.caller().page_fault(0x40e, 4));
    assert!(
        said.contains("d0v0 crashed: exception 14 without a handler, error code 0x0, cr2 0x000000000000040e"),
        "{said}"
    );
    assert_eq!(calls, [1, 0]);
    let (said, calls) = last_words(|dom0| {
        dom0.hv.machine().write_guest(GuestAddr::new(0), &SHUTDOWN_POWEROFF.to_le_bytes()).unwrap();
        assert_eq!(dom0.call(Caller::sched_op, [SCHEDOP_SHUTDOWN.into(), 0, 0, 0]), Ok(0));
    });
    assert!(said.contains("(reason 0: poweroff)") && !said.contains("dead0001"), "{said}");
    assert_eq!(calls, [0, 1]);
}
