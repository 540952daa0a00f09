//! NUMA nodes that a toolstack lets a guest see: set, read, and refused in Xen's order.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::{DomctlVnuma, XEN_DOMCTL_SETVNUMAINFO},
    domid::DomId,
    errno::Errno,
    memory::{Vmemrange, VnumaTopologyInfo, XENMEM_GET_VNUMAINFO},
};
use oxen_hv::{addr::GuestAddr, caller::Caller};
use support::{
    control::{ask, control_domain, destroy, make},
    guest::Guest,
};
use zerocopy::{FromZeros, IntoBytes};

const DISTANCES: u64 = 0x4000;
const VCPUS: u64 = 0x4100;
const NODES: u64 = 0x4200;
const RANGES: u64 = 0x4300;
const ANSWER: u64 = 0x5000;
const QUESTION: u64 = 0x6000;

/// Two nodes for a domain of two vcpus, as they stand in the control domain's memory.
fn two_nodes() -> DomctlVnuma {
    DomctlVnuma {
        nr_vnodes: 2,
        nr_vmemranges: 2,
        nr_vcpus: 2,
        pad: 0,
        vdistance: DISTANCES,
        vcpu_to_vnode: VCPUS,
        vnode_to_pnode: NODES,
        vmemrange: RANGES,
    }
}

fn put<T: IntoBytes + zerocopy::Immutable + ?Sized>(control: &Guest, at: u64, value: &T) {
    control.hv.machine().write_guest(GuestAddr::new(at), value.as_bytes()).unwrap();
}

fn take<T: FromZeros + zerocopy::FromBytes + IntoBytes>(control: &Guest, at: u64) -> T {
    let mut value = T::new_zeroed();
    control.hv.machine().read_guest(GuestAddr::new(at), value.as_mut_bytes()).unwrap();
    value
}

fn ranges(flags: u32) -> [Vmemrange; 2] {
    [0, 1].map(|nid| Vmemrange { start: u64::from(nid) << 30, end: u64::from(nid + 1) << 30, flags, nid })
}

fn lay_out(control: &Guest) {
    put(control, DISTANCES, &[10_u32, 20, 21, 11]);
    put(control, VCPUS, &[1_u32, 0]);
    put(control, NODES, &[0_u32, 63]);
    put(control, RANGES, &ranges(0));
}

fn set(control: &mut Guest, id: DomId, request: &DomctlVnuma) -> Result<(), Errno> {
    ask(control, XEN_DOMCTL_SETVNUMAINFO, id, request).map(drop)
}

fn get(control: &mut Guest, question: &VnumaTopologyInfo) -> Result<u64, Errno> {
    put(control, QUESTION, question);
    control.call(Caller::memory_op, [XENMEM_GET_VNUMAINFO.into(), QUESTION, 0, 0])
}

fn question(domid: DomId, room: u32) -> VnumaTopologyInfo {
    VnumaTopologyInfo {
        domid,
        pad: 0,
        nr_vnodes: room,
        nr_vcpus: room,
        nr_vmemranges: room,
        vdistance: ANSWER,
        vcpu_to_vnode: ANSWER + 0x100,
        vmemrange: ANSWER + 0x200,
    }
}

#[test]
fn a_guest_reads_what_its_toolstack_said() {
    let mut control = control_domain();
    let free = control.hv.memory.frames.free_frames();
    let domain = make(&mut control);
    lay_out(&control);
    assert_eq!(get(&mut control, &question(domain.id, 8)), Err(Errno::OpNotSupp), "none was set");
    set(&mut control, domain.id, &two_nodes()).unwrap();
    assert_eq!(get(&mut control, &question(domain.id, 1)), Err(Errno::NoBufs));
    let told: VnumaTopologyInfo = take(&control, QUESTION);
    assert_eq!((told.nr_vnodes, told.nr_vcpus, told.nr_vmemranges), (2, 2, 2), "how much room is needed");
    assert_eq!(get(&mut control, &question(domain.id, 9)), Ok(0));
    let told: VnumaTopologyInfo = take(&control, QUESTION);
    assert_eq!((told.nr_vnodes, told.nr_vcpus, told.nr_vmemranges), (2, 2, 2));
    assert_eq!(take::<[u32; 5]>(&control, ANSWER), [10, 20, 21, 11, 0]);
    assert_eq!(take::<[u32; 3]>(&control, ANSWER + 0x100), [1, 0, 0]);
    assert_eq!(take::<[Vmemrange; 2]>(&control, ANSWER + 0x200), ranges(0));
    // Another set replaces it; one node without ranges is one.
    put(&control, VCPUS, &[0_u32, 0]);
    set(&mut control, domain.id, &DomctlVnuma { nr_vnodes: 1, nr_vmemranges: 0, ..two_nodes() }).unwrap();
    assert_eq!(get(&mut control, &VnumaTopologyInfo { nr_vmemranges: 0, ..question(domain.id, 2) }), Ok(0));
    for (bad, why) in [
        (VnumaTopologyInfo { pad: 1, ..question(DomId(99), 0) }, Errno::Inval),
        (question(DomId(99), 0), Errno::Srch),
        (question(DomId::SELF, 9), Errno::OpNotSupp),
        (VnumaTopologyInfo { vdistance: 1 << 60, ..question(domain.id, 9) }, Errno::Fault),
    ] {
        assert_eq!(get(&mut control, &bad), Err(why));
    }
    destroy(&mut control, domain.id).unwrap();
    assert_eq!(control.hv.memory.frames.free_frames(), free);
}

#[test]
fn what_is_wrong_is_refused_in_order_and_changes_nothing() {
    let mut control = control_domain();
    let domain = make(&mut control);
    let nowhere = 1 << 60;
    let good = two_nodes();
    lay_out(&control);
    for (bad, why) in [
        (DomctlVnuma { nr_vnodes: 0, vdistance: nowhere, ..good }, Errno::Inval),
        (DomctlVnuma { nr_vcpus: 1, vdistance: nowhere, ..good }, Errno::Inval),
        (DomctlVnuma { pad: 1, vdistance: nowhere, ..good }, Errno::Inval),
        (DomctlVnuma { nr_vnodes: 33, vdistance: nowhere, ..good }, Errno::Inval),
        (DomctlVnuma { nr_vnodes: 1 << 16, vdistance: nowhere, ..good }, Errno::Inval),
        (DomctlVnuma { nr_vmemranges: 171, vdistance: nowhere, ..good }, Errno::Inval),
        (DomctlVnuma { vdistance: nowhere, ..good }, Errno::Fault),
        (DomctlVnuma { vmemrange: nowhere, ..good }, Errno::Fault),
        (DomctlVnuma { vcpu_to_vnode: nowhere, nr_vnodes: 1, ..good }, Errno::Fault),
        (DomctlVnuma { nr_vnodes: 1, vnode_to_pnode: nowhere, ..good }, Errno::TooBig),
        (DomctlVnuma { vnode_to_pnode: nowhere, ..good }, Errno::Fault),
        (DomctlVnuma { vnode_to_pnode: DISTANCES + 4, ..good }, Errno::TooBig),
    ] {
        put(&control, DISTANCES, &[10_u32, 20, 64, 11]);
        assert_eq!(set(&mut control, domain.id, &bad), Err(why), "{bad:?}");
    }
    put(&control, RANGES, &ranges(1));
    assert_eq!(set(&mut control, domain.id, &good), Err(Errno::Inval), "flags");
    put(&control, RANGES, &ranges(0));
    let heap = &control.hv.machine().heap_left;
    for left in 0..4 {
        heap.store(left, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(set(&mut control, domain.id, &good), Err(Errno::NoMem), "{left}");
    }
    heap.store(u64::MAX, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(get(&mut control, &question(domain.id, 8)), Err(Errno::OpNotSupp));
    assert_eq!(set(&mut control, domain.id, &good), Ok(()));
}
