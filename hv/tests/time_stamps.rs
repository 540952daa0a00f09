//! The time stamp counter of a domain that reads an emulated one, and what a toolstack chooses and is told.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::{self as abi, DomctlTscInfo, TSC_MODE_ALWAYS_EMULATE, TSC_MODE_DEFAULT, TSC_MODE_NEVER_EMULATE},
    domid::DomId,
    errno::Errno,
};
use oxen_hv::addr::GuestAddr;
use std::sync::atomic::Ordering::SeqCst;
use support::{
    control::{ask, control_domain, make},
    guest::Guest,
};
use x86_64::registers::control::Cr4Flags;

const PLACE: u64 = 0x800;
const TSC: u32 = 0x10;
/// The fake machine's own: a tick is a nanosecond.
const OWN_KHZ: u32 = 1_000_000;

fn always(gtsc_khz: u32) -> DomctlTscInfo {
    DomctlTscInfo { tsc_mode: TSC_MODE_ALWAYS_EMULATE, gtsc_khz, incarnation: 0, pad: 0, elapsed_nsec: 0 }
}

/// An instruction that faulted; whether it was done.
fn fault(guest: &mut Guest, code: &[u8]) -> bool {
    guest.hv.machine().write_guest(GuestAddr::new(PLACE), code).unwrap();
    (guest.regs.rip, guest.regs.rsp) = (PLACE, 0x2800);
    guest.caller().general_protection(0);
    guest.regs.rip == PLACE + code.len() as u64
}

#[test]
fn rdtsc_is_counted_for_kernel_and_user_mode_and_never_goes_back() {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(256), 1, false, 64);
    guest.build_home(4);
    guest.state.user_root = guest.state.kernel_root;
    let hv = guest.hv;
    guest.domain.tsc.set(&always(2 * OWN_KHZ), hv.now(), OWN_KHZ).unwrap();
    let began = hv.now();
    let mut last = 0;
    for (in_kernel, cr4, code, is_done) in [
        (true, Cr4Flags::empty(), &[0x0f, 0x31][..], true),
        (false, Cr4Flags::empty(), &[0x0f, 0x31], true),
        (true, Cr4Flags::TIMESTAMP_DISABLE, &[0x0f, 0x01, 0xf9], true),
        (false, Cr4Flags::TIMESTAMP_DISABLE, &[0x0f, 0x31], false),
        (false, Cr4Flags::TIMESTAMP_DISABLE, &[0x0f, 0x01, 0xf9], false),
    ] {
        hv.machine().time.fetch_add(1000, SeqCst);
        (guest.state.in_kernel, guest.state.cr4, guest.state.tsc_aux) = (in_kernel, cr4, 7);
        guest.regs.rcx = 0;
        assert_eq!(fault(&mut guest, code), is_done, "{in_kernel} {cr4:?} {code:x?}");
        if is_done {
            let read = guest.regs.rdx << 32 | guest.regs.rax;
            assert_eq!(read, 2 * (hv.now() - began));
            assert_eq!(guest.regs.rcx, if code.len() == 3 { 7 } else { 0 });
            assert!(core::mem::replace(&mut last, read) < read);
        }
    }
    guest.state.in_kernel = true;
    let [first, second] = [0; 2].map(|_| guest.caller().read_msr(TSC).unwrap());
    assert!(first > last && second > first, "twice at one moment");
}

#[test]
fn a_toolstack_chooses_and_is_told_as_by_xen() {
    let mut control = control_domain();
    let hv = control.hv;
    let domain = make(&mut control);
    ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, domain.id, &abi::DomctlMaxVcpus { max: 2 }).unwrap();
    let tell = |control: &mut Guest| {
        let answer = ask(control, abi::XEN_DOMCTL_GETTSCINFO, domain.id, &always(5)).unwrap();
        answer.get::<DomctlTscInfo>()
    };
    let told = tell(&mut control);
    assert_eq!((told.tsc_mode, told.gtsc_khz, told.incarnation), (TSC_MODE_DEFAULT, OWN_KHZ, 1));
    hv.machine().time.fetch_add(5000, SeqCst);
    ask(&mut control, abi::XEN_DOMCTL_SETTSCINFO, domain.id, &always(3 * OWN_KHZ)).unwrap();
    let words = hv.machine().words(domain.shared_info);
    for vcpu in 0..2 {
        let [stamp, time] = [5, 6].map(|word| words[8 * vcpu + word].load(SeqCst));
        assert_eq!((stamp, time), (0, hv.now()), "both vcpus are told at once");
    }
    hv.machine().time.fetch_add(70, SeqCst);
    let told = tell(&mut control);
    assert_eq!((told.tsc_mode, told.gtsc_khz, told.incarnation, told.elapsed_nsec), (1, 3 * OWN_KHZ, 1, 70));
    let never = DomctlTscInfo { tsc_mode: TSC_MODE_NEVER_EMULATE, incarnation: 8, ..always(0) };
    ask(&mut control, abi::XEN_DOMCTL_SETTSCINFO, domain.id, &never).unwrap();
    assert_eq!(words[5].load(SeqCst), hv.time.vcpu_time_info()[1], "the machine's own again");
    let told = tell(&mut control);
    assert_eq!((told.tsc_mode, told.gtsc_khz, told.incarnation, told.elapsed_nsec), (2, 0, 9, 0));
    let unknown = DomctlTscInfo { tsc_mode: 3, ..always(0) };
    assert_eq!(ask(&mut control, abi::XEN_DOMCTL_SETTSCINFO, domain.id, &unknown).map(drop), Err(Errno::Inval));
    assert_eq!(ask(&mut control, abi::XEN_DOMCTL_SETTSCINFO, DomId(0), &always(0)).map(drop), Err(Errno::Inval));
    assert_eq!(tell(&mut control), told);
}
