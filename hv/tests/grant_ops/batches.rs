//! Many requests at once, and many mappings.

use super::world::{OKAY, World};
use oxen_abi::{
    domid::DomId,
    grant_table::{self as abi, GnttabMapGrantRef},
};
use oxen_hv::{addr::GuestAddr, caller::Caller, reply::Stop};
use std::sync::atomic::Ordering::SeqCst;
use zerocopy::IntoBytes;

#[test]
fn a_batch_that_is_interrupted_goes_on_where_it_was() {
    let mut world = World::new();
    for r in 0..8 {
        let frame = world.sides[1].home.data[1];
        world.sides[1].offer(r, frame, 1, 0);
    }
    let side = &mut world.sides[0];
    let hv = side.guest.hv;
    let op = |r: u32| GnttabMapGrantRef {
        host_addr: 0,
        flags: abi::GNTMAP_DEVICE_MAP,
        r#ref: r,
        dom: DomId(2),
        status: 99,
        handle: 99,
        dev_bus_addr: 0,
    };
    let mut ops: Vec<_> = (0..8).map(op).collect();
    side.guest.run();
    hv.machine().write_guest(GuestAddr::new(0), ops.as_bytes()).unwrap();
    hv.cpus[0].work.store(oxen_hv::per_cpu::Work::RESCHEDULE, SeqCst);
    assert_eq!(side.guest.call(Caller::grant_table_op, [u64::from(abi::GNTTABOP_MAP_GRANT_REF), 0, 8, 0]), Ok(0));
    hv.machine().read_guest(GuestAddr::new(0), ops.as_mut_bytes()).unwrap();
    assert!(ops.iter().enumerate().all(|(n, op)| (op.status, op.handle) == (OKAY, n as u32)));
    let unmaps: Vec<_> = (0..8)
        .map(|handle| abi::GnttabUnmapGrantRef {
            host_addr: 0,
            dev_bus_addr: ops[0].dev_bus_addr,
            handle,
            status: 99,
            _pad0: 0,
        })
        .collect();
    hv.machine().write_guest(GuestAddr::new(0), unmaps.as_bytes()).unwrap();
    assert_eq!(side.guest.call(Caller::grant_table_op, [u64::from(abi::GNTTABOP_UNMAP_GRANT_REF), 0, 8, 0]), Ok(0));
    assert_eq!(side.guest.domain.grants.lock().mappings(), 0);
    world.check();
    world.count();
}

#[test]
fn a_domain_of_one_frame_of_mappings_has_256() {
    let mut world = World::new();
    let frame = world.sides[1].home.data[0];
    world.sides[1].offer(8, frame, 1, 0);
    let mut op = GnttabMapGrantRef {
        host_addr: 0,
        flags: abi::GNTMAP_DEVICE_MAP | abi::GNTMAP_READONLY,
        r#ref: 8,
        dom: DomId(2),
        status: 99,
        handle: u32::MAX,
        dev_bus_addr: 0,
    };
    for n in 0..256 {
        assert_eq!((world.sides[0].ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), op.status, op.handle), (Ok(0), OKAY, n));
    }
    assert_eq!((world.sides[0].ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), op.status), (Ok(0), abi::GNTST_NO_SPACE));
    // The end of the domain gives all of them back, a bounded number at a time.
    let domain = world.sides[0].guest.domain.clone();
    domain.memory.is_dying.store(true, SeqCst);
    let hv = world.sides[0].guest.hv;
    while hv.release_grants(&domain) == Err(Stop::Unfinished) {}
    assert_eq!(domain.grants.lock().mappings(), 0);
    assert_eq!(world.sides[1].guest.domain.grants.lock().each_pin().count(), 0);
}
