//! A domain changes the version of its table while others map and copy: nobody takes an entry of one version for one of
//! the other, and all counts come out even.

use super::support::{
    self, Fake,
    audit::{self, Holds},
    boot,
    dice::Dice,
    guest::{Guest, Home},
};
use oxen_abi::{
    domid::DomId,
    grant_table::{self as abi, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef},
};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    caller::Caller,
};
use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const ROUNDS: u32 = 400;
/// Entries that are offered: reserved ones and others.
const REFS: u32 = 16;
const OFFERED: u64 = 0x1111_1111;
const SECRET: u64 = 0x5ec2_e75e;
const PERMIT: u64 = abi::GTF_PERMIT_ACCESS as u64;

/// Pages of the granter, and one that it never offers.
#[derive(Clone, Copy)]
struct Pages {
    offered: Mfn,
    passed: Mfn,
    secret: Mfn,
}

fn ask<T: FromBytes + IntoBytes + Immutable>(guest: &mut Guest, command: u32, op: &mut T) -> bool {
    let machine = guest.hv.machine();
    machine.write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
    let answer = guest.call(Caller::grant_table_op, [command.into(), 0, 1, 0]);
    guest.hv.machine().read_guest(GuestAddr::new(0), op.as_mut_bytes()).unwrap();
    answer.is_ok()
}

/// Writes entries that mean the secret page, or none, if they are read as what they are not.
fn offer(guest: &Guest, version: u32, pages: Pages) {
    let hv = guest.hv;
    let table = hv.machine().words(hv.grant_table_frame(&guest.domain, 0).unwrap());
    for reference in 0..REFS as usize {
        let (offered, secret) = (pages.offered.raw(), pages.secret.raw());
        if version == 1 {
            table[reference].store(PERMIT | 2 << 16 | offered << 32, SeqCst);
            continue;
        }
        let [head, body] = [&table[2 * reference], &table[2 * reference + 1]];
        if reference % 3 == 2 {
            body.store(1, SeqCst);
            head.store(u64::from(abi::GTF_TRANSITIVE) | 2 << 16 | 3 << 32, SeqCst);
        } else {
            body.store(offered, SeqCst);
            // As a word of version 1 this is the secret page.
            head.store(PERMIT | 2 << 16 | secret << 32, SeqCst);
        }
    }
}

/// Changes the version again and again, and offers anew.
fn change(guest: &mut Guest, pages: Pages, is_over: &AtomicBool) {
    support::on_cpu(0);
    guest.run();
    let (mut version, mut changes) = (1, 0);
    while !is_over.load(SeqCst) {
        // A reserved entry that passes something on would keep the version.
        let table = guest.hv.machine().words(guest.hv.grant_table_frame(&guest.domain, 0).unwrap());
        if version == 2 {
            table[..16].iter().for_each(|word| word.store(0, SeqCst));
        }
        let mut op = abi::GnttabSetVersion { version: 3 - version };
        changes += u32::from(ask(guest, abi::GNTTABOP_SET_VERSION, &mut op));
        version = op.version;
        offer(guest, version, pages);
        thread::yield_now();
    }
    assert!(changes > 10, "{changes} changes only");
}

fn use_grants(guest: &mut Guest, home: &Home, pages: Pages, seed: u64, cpu: u16) {
    support::on_cpu(cpu);
    guest.run();
    let mut dice = Dice(seed);
    let (mut mapped, mut copied) = (0, 0);
    for _ in 0..ROUNDS {
        let flags = abi::GNTMAP_DEVICE_MAP | dice.pick(&[0, abi::GNTMAP_READONLY]);
        let reference = dice.roll(REFS);
        let dom = DomId(1);
        let mut op =
            GnttabMapGrantRef { host_addr: 0, flags, r#ref: reference, dom, status: 99, handle: 0, dev_bus_addr: 0 };
        assert!(ask(guest, abi::GNTTABOP_MAP_GRANT_REF, &mut op));
        if op.status == abi::GNTST_OKAY {
            mapped += 1;
            assert_eq!(op.dev_bus_addr, pages.offered.address().as_u64(), "entry {reference}");
            thread::yield_now();
            let (dev_bus_addr, handle) = (op.dev_bus_addr, op.handle);
            let mut op = abi::GnttabUnmapGrantRef { host_addr: 0, dev_bus_addr, handle, status: 99, _pad0: 0 };
            assert!(ask(guest, abi::GNTTABOP_UNMAP_GRANT_REF, &mut op));
            assert_eq!(op.status, abi::GNTST_OKAY);
        }
        let end = |u: u64, domid: DomId| GnttabCopyPtr { u, domid, offset: 0, _pad0: 0 };
        let [source, dest] = [end(dice.roll(REFS).into(), dom), end(home.data[2].raw(), DomId::SELF)];
        let mut op = GnttabCopy { source, dest, len: 8, flags: abi::GNTCOPY_SOURCE_GREF, status: 99, _pad0: 0 };
        assert!(ask(guest, abi::GNTTABOP_COPY, &mut op));
        if op.status == abi::GNTST_OKAY {
            copied += 1;
            let seen = guest.hv.machine().words(home.data[2])[0].load(SeqCst);
            assert_eq!(seen, OFFERED, "entry {}", op.source.u);
        }
    }
    assert!(mapped > 10 && copied > 10, "{mapped} mapped, {copied} copied");
}

fn fill(hv: &Hypervisor<Fake>, pages: Pages) {
    for (frame, value) in [(pages.offered, OFFERED), (pages.passed, OFFERED), (pages.secret, SECRET)] {
        hv.machine().words(frame).iter().for_each(|word| word.store(value, SeqCst));
    }
}

#[test]
fn who_changes_versions_confuses_nobody_who_maps_or_copies() {
    support::on_cpu(0);
    let hv = boot(512);
    let mut guests: Vec<Guest> = (1..=3).map(|id| Guest::new(hv, id, false, 64)).collect();
    let homes: Vec<Home> = guests.iter_mut().map(|guest| guest.build_home(8)).collect();
    let pages = Pages { offered: homes[0].data[3], passed: homes[2].data[3], secret: homes[0].data[4] };
    fill(hv, pages);
    // The third grants to the first, which passes it on to the second.
    hv.grow_grant_table(&guests[2].domain, 1).unwrap();
    let third = hv.machine().words(hv.grant_table_frame(&guests[2].domain, 0).unwrap());
    third[1].store(PERMIT | 1 << 16 | pages.passed.raw() << 32, SeqCst);
    offer(&guests[0], 1, pages);
    let is_over = AtomicBool::new(false);
    let mut granters = guests.drain(..1);
    let mut granter = granters.next().unwrap();
    drop(granters);
    let (second, third) = guests.split_at_mut(1);
    thread::scope(|scope| {
        scope.spawn(|| change(&mut granter, pages, &is_over));
        let users = scope.spawn(|| use_grants(&mut second[0], &homes[1], pages, 7, 1));
        // The third changes its own version meanwhile: what it granted, a reserved entry, outlives that.
        let other = scope.spawn(|| {
            support::on_cpu(2);
            third[0].run();
            for version in (0..ROUNDS).map(|n| 1 + n % 2) {
                let mut op = abi::GnttabSetVersion { version };
                assert!(ask(&mut third[0], abi::GNTTABOP_SET_VERSION, &mut op));
                thread::yield_now();
            }
        });
        let ended = (users.join(), other.join());
        is_over.store(true, SeqCst);
        assert!(ended.0.is_ok() && ended.1.is_ok());
    });
    let mut known = Holds::default();
    let domains = [&granter, &second[0], &third[0]].map(|guest| guest.domain.clone());
    for (domain, home) in domains.iter().zip(&homes) {
        let grants = domain.grants.lock();
        assert_eq!((grants.each_pin().count(), grants.mappings()), (0, 0));
        grants.status_frames().iter().for_each(|&frame| known.add(frame, true));
        drop(grants);
        known.add(domain.shared_info, true);
        known.add(home.tables[0], true);
        known.add(hv.grant_table_frame(domain, 0).unwrap(), true);
    }
    audit::check(hv, &known, audit::nothing_lent);
    // Nobody uses anything any more, and no mark is left that says so.
    for domain in &domains {
        for frame in domain.grants.lock().status_frames() {
            assert!(hv.machine().words(*frame).iter().all(|word| word.load(SeqCst) == 0));
        }
    }
}
