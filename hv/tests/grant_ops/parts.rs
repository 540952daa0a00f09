//! What version 2 has besides pages: parts of them, and offers that pass another domain's on.

use super::world::{Entry, GENERAL, OKAY, Side, World};
use oxen_abi::{
    domid::DomId,
    grant_table::{self as abi, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef},
};
use oxen_hv::{addr::Mfn, grant::Policy};
use std::sync::atomic::Ordering::SeqCst;

const PERMIT: u64 = abi::GTF_PERMIT_ACCESS as u64;
const PART: u64 = PERMIT | abi::GTF_SUB_PAGE as u64;
const PASSED: u64 = abi::GTF_TRANSITIVE as u64;

fn at(u: u64, domid: u16, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr { u, domid: DomId(domid), offset, _pad0: 0 }
}

/// Copies out of an entry of guest `granter` to the caller's own memory.
fn fetch(side: &mut Side, granter: u16, reference: u64, offset: u16, len: u16) -> i16 {
    let dest = at(side.home.data[2].raw(), DomId::SELF.0, 0);
    let source = at(reference, granter, offset);
    let mut op = GnttabCopy { source, dest, len, flags: abi::GNTCOPY_SOURCE_GREF, status: 99, _pad0: 0 };
    assert_eq!(side.ask(abi::GNTTABOP_COPY, &mut op), Ok(0));
    op.status
}

/// Copies from the caller's own memory into an entry of guest `granter`.
fn put(side: &mut Side, granter: u16, reference: u64, offset: u16, len: u16) -> i16 {
    let source = at(side.home.data[2].raw(), DomId::SELF.0, 0);
    let dest = at(reference, granter, offset);
    let mut op = GnttabCopy { source, dest, len, flags: abi::GNTCOPY_DEST_GREF, status: 99, _pad0: 0 };
    assert_eq!(side.ask(abi::GNTTABOP_COPY, &mut op), Ok(0));
    op.status
}

fn map(side: &mut Side, granter: u16, reference: u32, flags: u32) -> GnttabMapGrantRef {
    let flags = abi::GNTMAP_DEVICE_MAP | flags;
    let dom = DomId(granter);
    let mut op =
        GnttabMapGrantRef { host_addr: 0, flags, r#ref: reference, dom, status: 99, handle: 0, dev_bus_addr: 0 };
    assert_eq!(side.ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), Ok(0));
    op
}

fn unmap(side: &mut Side, op: &GnttabMapGrantRef) {
    let mut unmap = abi::GnttabUnmapGrantRef {
        host_addr: 0,
        dev_bus_addr: op.dev_bus_addr,
        handle: op.handle,
        status: 99,
        _pad0: 0,
    };
    assert_eq!((side.ask(abi::GNTTABOP_UNMAP_GRANT_REF, &mut unmap), unmap.status), (Ok(0), OKAY));
}

/// Three guests, the first two with tables of version 2.
fn world(policy: Policy) -> World {
    let mut world = World::with(policy);
    world.sides[0].become_version(2);
    world.sides[1].become_version(2);
    world
}

fn entry(head: u64, to: u64, upper: u64, body: u64) -> Entry {
    Entry { head: head | to << 16 | upper << 32, body, status: 0 }
}

fn first_word(world: &World, side: usize, frame: Mfn) -> u64 {
    world.sides[side].guest.hv.machine().words(frame)[0].load(SeqCst)
}

#[test]
fn of_a_part_nothing_else_is_read_or_written() {
    let mut world = world(Policy::default());
    let page = world.sides[0].home.data[3];
    world.sides[0].write(9, entry(PART, 3, 100 | 8 << 16, page.raw()));
    for (offset, len, status) in [
        (100, 8, OKAY),
        (100, 0, OKAY),
        (108, 0, OKAY),
        (99, 8, GENERAL),
        (101, 8, GENERAL),
        (100, 9, GENERAL),
        (109, 0, GENERAL),
        (0, 4096, GENERAL),
        (100, 4096, abi::GNTST_BAD_COPY_ARG),
    ] {
        assert_eq!(fetch(&mut world.sides[2], 1, 9, offset, len), status, "from {offset}, {len} bytes");
        assert_eq!(put(&mut world.sides[2], 1, 9, offset, len), status, "to {offset}, {len} bytes");
    }
    // What reaches over the end of the page ends there.
    world.sides[0].write(9, entry(PART, 3, 4090 | 0xffff << 16, page.raw()));
    assert_eq!(fetch(&mut world.sides[2], 1, 9, 4090, 6), OKAY);
    assert_eq!(fetch(&mut world.sides[2], 1, 9, 4090, 7), abi::GNTST_BAD_COPY_ARG);
    assert_eq!(map(&mut world.sides[2], 1, 9, 0).status, GENERAL);
    world.check();
    world.count();
}

#[test]
fn both_ends_by_one_entry_are_of_the_part_that_was_claimed_first() {
    let mut world = world(Policy::default());
    let page = world.sides[0].home.data[3];
    world.sides[0].write(9, entry(PART, 3, 64 | 64 << 16, page.raw()));
    let flags = abi::GNTCOPY_SOURCE_GREF | abi::GNTCOPY_DEST_GREF;
    for (to, status) in [(96, OKAY), (128, GENERAL), (0, GENERAL)] {
        let mut op = GnttabCopy { source: at(9, 1, 64), dest: at(9, 1, to), len: 32, flags, status: 99, _pad0: 0 };
        assert_eq!((world.sides[2].ask(abi::GNTTABOP_COPY, &mut op), op.status), (Ok(0), status), "to {to}");
    }
    world.check();
}

#[test]
fn an_offer_is_passed_on_once_and_by_the_right_of_each_on_the_way() {
    let mut world = world(Policy::default());
    let page = world.sides[1].home.data[3];
    world.sides[1].guest.hv.machine().words(page)[0].store(0x1234, SeqCst);
    // The second guest grants to the first, which passes it on to the third.
    world.sides[1].write(10, entry(PERMIT, 1, 0, page.raw()));
    world.sides[0].write(9, entry(PASSED, 3, 2, 10));
    assert_eq!(fetch(&mut world.sides[2], 1, 9, 0, 8), OKAY);
    let own = world.sides[2].home.data[2];
    assert_eq!(first_word(&world, 2, own), 0x1234);
    world.sides[2].guest.hv.machine().words(own)[0].store(0x77, SeqCst);
    assert_eq!(put(&mut world.sides[2], 1, 9, 0, 8), OKAY);
    assert_eq!(first_word(&world, 1, page), 0x77);
    // To be mapped it is not, nor is it the second guest's own to use.
    assert_eq!(map(&mut world.sides[2], 1, 9, abi::GNTMAP_READONLY).status, GENERAL);
    assert_eq!(fetch(&mut world.sides[1], 1, 9, 0, 8), GENERAL);
    // Reading is what either may restrict.
    let reading = u64::from(abi::GTF_READONLY);
    for (inner, outer) in [(reading, 0), (0, reading)] {
        world.sides[1].write(10, entry(PERMIT | inner, 1, 0, page.raw()));
        world.sides[0].write(9, entry(PASSED | outer, 3, 2, 10));
        assert_eq!(fetch(&mut world.sides[2], 1, 9, 0, 8), OKAY);
        assert_eq!(put(&mut world.sides[2], 1, 9, 0, 8), GENERAL);
    }
    world.sides[0].write(9, entry(PASSED, 3, 2, 10));
    for (inner, status) in [
        (entry(PERMIT, 3, 0, page.raw()), GENERAL),
        (entry(PASSED, 1, 3, 10), GENERAL),
        (entry(PERMIT, 1, 0, 0), abi::GNTST_BAD_PAGE),
        (entry(PART, 1, 8 | 8 << 16, page.raw()), GENERAL),
        (Entry::default(), GENERAL),
    ] {
        world.sides[1].write(10, inner);
        assert_eq!(fetch(&mut world.sides[2], 1, 9, 0, 8), status, "{inner:?}");
        world.check();
    }
    world.sides[1].write(10, entry(PART, 1, 8 | 8 << 16, page.raw()));
    assert_eq!(fetch(&mut world.sides[2], 1, 9, 8, 8), OKAY);
    // Nobody passes on its own, what nobody has, or beyond a table.
    for (outer, status) in [
        (entry(PASSED, 3, 1, 10), GENERAL),
        (entry(PASSED, 3, DomId::SELF.0.into(), 10), GENERAL),
        (entry(PASSED, 3, 9, 10), GENERAL),
        (entry(PASSED, 3, 2, 256), abi::GNTST_BAD_GNTREF),
    ] {
        world.sides[0].write(9, outer);
        assert_eq!(fetch(&mut world.sides[2], 1, 9, 8, 8), status, "{outer:?}");
        world.check();
    }
    world.count();
}

#[test]
fn an_offer_of_version_1_is_passed_on_and_one_s_own_comes_back() {
    let mut world = world(Policy::default());
    let page = world.sides[2].home.data[3];
    world.sides[2].offer(10, page, 1, 0);
    world.sides[0].write(9, entry(PASSED, 3, 3, 10));
    // The third guest's own page, by way of the first.
    assert_eq!(fetch(&mut world.sides[2], 1, 9, 0, 8), OKAY);
    world.check();
    world.count();
}

#[test]
fn what_is_passed_on_finds_the_page_that_is_mapped_already() {
    let mut world = world(Policy::default());
    let page = world.sides[1].home.data[3];
    world.sides[1].write(10, entry(PERMIT, 1, 0, page.raw()));
    world.sides[0].write(9, entry(PASSED, 3, 2, 10));
    let mapped = map(&mut world.sides[0], 2, 10, 0);
    assert_eq!(mapped.status, OKAY);
    assert_eq!(fetch(&mut world.sides[2], 1, 9, 0, 8), OKAY);
    let both = abi::GTF_READING | abi::GTF_WRITING;
    assert_eq!((world.sides[1].entry(10).status, world.sides[0].entry(9).status), (both, 0));
    // An entry that is mapped as a page and then passes something on is neither.
    let own = world.sides[0].home.data[4];
    world.sides[0].write(11, entry(PERMIT, 3, 0, own.raw()));
    let reading = map(&mut world.sides[2], 1, 11, abi::GNTMAP_READONLY);
    world.sides[0].write(11, Entry { status: abi::GTF_READING, ..entry(PASSED, 3, 2, 10) });
    assert_eq!(put(&mut world.sides[2], 1, 11, 0, 8), GENERAL);
    assert_eq!(world.sides[0].entry(11).status, abi::GTF_READING);
    unmap(&mut world.sides[2], &reading);
    unmap(&mut world.sides[0], &mapped);
    assert_eq!((world.sides[0].entry(11).status, world.sides[1].entry(10).status), (0, 0));
}

#[test]
fn nothing_is_passed_on_where_the_command_line_forbids_it() {
    let mut world = world(Policy { is_transitive: false, ..Policy::default() });
    let page = world.sides[1].home.data[3];
    world.sides[1].write(10, entry(PERMIT, 1, 0, page.raw()));
    world.sides[0].write(9, entry(PASSED, 3, 2, 10));
    assert_eq!(fetch(&mut world.sides[2], 1, 9, 0, 8), GENERAL);
    world.check();
}
