//! What a toolstack lets a guest see of the processor (`XEN_DOMCTL_set_cpu_policy`): one guest's
//! alone, set whole or not at all.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::{
        self as abi, CpuidLeaf, DomctlCpuPolicy, XEN_CPUID_INPUT_UNUSED as UNUSED, XEN_CPUID_NO_SUBLEAF as NONE,
        XEN_DOMCTL_GET_CPU_POLICY, XEN_DOMCTL_SET_CPU_POLICY,
    },
    domid::DomId,
    errno::Errno,
};
use oxen_hv::{addr::GuestAddr, domain::Domain};
use std::sync::Arc;
use support::{
    control::{LIST, REQUEST, as_guest, ask, control_domain, furnish, make, set_context},
    guest::Guest,
};
use x86_64::registers::control::Cr4Flags;
use zerocopy::{FromZeros, IntoBytes};

const XSAVE: u32 = 1 << 26;
const AES: u32 = 1 << 25;
const AVX2: u32 = 1 << 5;

/// A control domain on a machine whose CPU has everything.
fn control() -> Guest {
    let control = control_domain();
    let mut peripherals = control.hv.machine().peripherals.lock().unwrap();
    peripherals.cpuid.insert(0, [0xd, u32::from_le_bytes(*b"Auth"), 0, 0]);
    peripherals.cpuid.insert(1, [0x6_03a9, 0x0102_0800, u32::MAX, u32::MAX]);
    peripherals.cpuid.insert(7, [0, u32::MAX, u32::MAX, u32::MAX]);
    peripherals.cpuid.insert(0x8000_0000, [0x8000_0008, 0, 0, 0]);
    drop(peripherals);
    control
}

/// A domain whose vcpus are there, but have not begun.
fn furnished(control: &mut Guest) -> Arc<Domain> {
    let domain = make(control);
    ask(control, abi::XEN_DOMCTL_MAX_VCPUS, domain.id, &abi::DomctlMaxVcpus { max: 2 }).unwrap();
    ask(control, abi::XEN_DOMCTL_MAX_MEM, domain.id, &abi::DomctlMaxMem { max_memkb: 1024 }).unwrap();
    domain
}

fn set(control: &mut Guest, id: DomId, leaves: &[CpuidLeaf]) -> Result<(), Errno> {
    control.hv.machine().write_guest(GuestAddr::new(LIST), leaves.as_bytes()).unwrap();
    let request = DomctlCpuPolicy { nr_leaves: leaves.len() as u32, leaves: LIST, ..FromZeros::new_zeroed() };
    ask(control, XEN_DOMCTL_SET_CPU_POLICY, id, &request).map(drop)
}

fn leaf(leaf: u32, subleaf: u32, [a, b, c, d]: [u32; 4]) -> CpuidLeaf {
    CpuidLeaf { leaf, subleaf, a, b, c, d }
}

fn seen(control: &Guest, domain: &Arc<Domain>, leaf: u32) -> [u32; 4] {
    as_guest(control.hv, domain, |caller| caller.cpuid_leaf(leaf, 0))
}

#[test]
fn one_guest_sees_less_and_the_others_as_before() {
    let mut control = control();
    let [domain, other] = [0; 2].map(|_| furnished(&mut control));
    let before = seen(&control, &other, 1);
    assert_eq!(before[2] & (XSAVE | AES), XSAVE | AES);
    let wanted = [leaf(1, NONE, [0x6_03a0, 0, !XSAVE, u32::MAX]), leaf(0, NONE, [0xb, 0, 0, 0])];
    assert_eq!(set(&mut control, domain.id, &wanted), Ok(()));
    let after = seen(&control, &domain, 1);
    assert_eq!((after[0], after[2] & (XSAVE | AES)), (0x6_03a0, AES));
    assert_eq!(seen(&control, &domain, 7)[1] & AVX2, 0, "it needs AVX, and AVX needs XSAVE");
    assert_eq!((seen(&control, &domain, 0)[0], seen(&control, &domain, 0xd)), (0xb, [0; 4]));
    assert_eq!(seen(&control, &domain, 0x4000_0000)[0], 0x4000_0005, "the hypervisor's own leaves stay");
    assert_eq!(seen(&control, &other, 1), before);
    // What was not said again stays as it was said.
    assert_eq!(set(&mut control, domain.id, &[leaf(7, 0, [0, 0, 0, 0])]), Ok(()));
    assert_eq!((seen(&control, &domain, 7), seen(&control, &domain, 1)), ([0; 4], after));
}

#[test]
fn the_toolstack_reads_what_the_guest_sees() {
    let mut control = control();
    let domain = furnished(&mut control);
    set(&mut control, domain.id, &[leaf(1, NONE, [1, 0, !AES, 0])]).unwrap();
    let request = DomctlCpuPolicy { nr_leaves: 64, leaves: LIST, ..FromZeros::new_zeroed() };
    let answer: DomctlCpuPolicy = ask(&mut control, XEN_DOMCTL_GET_CPU_POLICY, domain.id, &request).unwrap().get();
    let mut told = vec![CpuidLeaf::new_zeroed(); answer.nr_leaves as usize];
    control.hv.machine().read_guest(GuestAddr::new(LIST), told.as_mut_slice().as_mut_bytes()).unwrap();
    let [first] = told.iter().filter(|told| told.leaf == 1).collect::<Vec<_>>()[..] else { panic!("no leaf 1") };
    assert_eq!((first.a, first.c & AES, first.d), (1, 0, 0));
}

#[test]
fn what_the_processor_has_not_is_refused_and_changes_nothing() {
    let mut control = control();
    let domain = furnished(&mut control);
    let before = [0, 1, 7].map(|leaf| seen(&control, &domain, leaf));
    let harmless = leaf(1, NONE, [0; 4]);
    for (beyond, wanted, told) in [
        (leaf(0, NONE, [0xe, 0, 0, 0]), Errno::Inval, (0, NONE)),
        (leaf(7, 0, [1, 0, 0, 0]), Errno::Inval, (7, 0)),
        (leaf(0x8000_0000, NONE, [0x8000_0009, 0, 0, 0]), Errno::Inval, (0x8000_0000, NONE)),
        (leaf(7, 2, [0; 4]), Errno::Range, (7, 2)),
    ] {
        assert_eq!(set(&mut control, domain.id, &[harmless, beyond]), Err(wanted));
        let mut answer = abi::Domctl::new_zeroed();
        control.hv.machine().read_guest(GuestAddr::new(REQUEST), answer.as_mut_bytes()).unwrap();
        let answer: DomctlCpuPolicy = answer.get();
        assert_eq!((answer.err_leaf, answer.err_subleaf, answer.err_msr), (told.0, told.1, UNUSED));
        assert_eq!([0, 1, 7].map(|leaf| seen(&control, &domain, leaf)), before);
    }
}

#[test]
fn a_guest_without_xsave_cannot_switch_it_on() {
    let mut control = control();
    let domain = furnished(&mut control);
    set(&mut control, domain.id, &[leaf(1, NONE, [0, 0, !XSAVE, u32::MAX])]).unwrap();
    let (mut context, _) = furnish(control.hv, &domain);
    context.ctrlreg[4] = Cr4Flags::OSXSAVE.bits();
    set_context(&mut control, domain.id, 0, &context).unwrap();
    let cr4 = as_guest(control.hv, &domain, |caller| caller.state.cr4);
    assert!(!cr4.contains(Cr4Flags::OSXSAVE));
    ask(&mut control, abi::XEN_DOMCTL_UNPAUSEDOMAIN, domain.id, &0_u64).unwrap();
    assert_eq!(set(&mut control, domain.id, &[]), Err(Errno::Exist), "it has begun");
}
