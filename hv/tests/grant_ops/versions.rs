//! Changing the version: what is kept, what is refused, and the frames that come and go with it.

use super::{
    support::{
        audit::{self, Holds},
        boot,
        guest::Guest,
    },
    world::{Entry, OKAY, RESERVED, Side, World},
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    grant_table::{self as abi, GnttabMapGrantRef},
    memory::{
        MemAcquireResource, XENMEM_ACQUIRE_RESOURCE, XENMEM_RESOURCE_GRANT_TABLE,
        XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS,
    },
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    grant,
    mem::{editor::Editor, entry::Entry as PageEntry},
};
use std::sync::atomic::Ordering::SeqCst;
use zerocopy::IntoBytes;

const PERMIT: u64 = abi::GTF_PERMIT_ACCESS as u64;

/// Asks for a version; what came of it, and the version that was answered.
fn set(side: &mut Side, version: u32) -> (Result<u64, Errno>, u32) {
    let mut op = abi::GnttabSetVersion { version };
    (side.ask(abi::GNTTABOP_SET_VERSION, &mut op), op.version)
}

fn version(side: &mut Side) -> u32 {
    let mut op = abi::GnttabGetVersion { dom: DomId::SELF, pad: 0, version: 0 };
    assert_eq!(side.ask(abi::GNTTABOP_GET_VERSION, &mut op), Ok(0));
    op.version
}

fn map(side: &mut Side, granter: u16, reference: u32) -> GnttabMapGrantRef {
    let (flags, dom) = (abi::GNTMAP_DEVICE_MAP, DomId(granter));
    let mut op =
        GnttabMapGrantRef { host_addr: 0, flags, r#ref: reference, dom, status: 99, handle: 0, dev_bus_addr: 0 };
    assert_eq!((side.ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), op.status), (Ok(0), OKAY));
    op
}

fn unmap(side: &mut Side, op: &GnttabMapGrantRef) {
    let (dev_bus_addr, handle) = (op.dev_bus_addr, op.handle);
    let mut unmap = abi::GnttabUnmapGrantRef { host_addr: 0, dev_bus_addr, handle, status: 99, _pad0: 0 };
    assert_eq!((side.ask(abi::GNTTABOP_UNMAP_GRANT_REF, &mut unmap), unmap.status), (Ok(0), OKAY));
}

#[test]
fn reserved_entries_stay_in_use_across_versions_and_lose_their_marks_in_the_one_in_force() {
    let mut world = World::new();
    let pages = world.sides[0].home.data.clone();
    world.sides[0].offer(1, pages[3], 2, 0);
    let mapped = map(&mut world.sides[1], 1, 1);
    let marks = abi::GTF_READING | abi::GTF_WRITING;
    world.sides[0].become_version(2);
    let entry = world.sides[0].entry(1);
    assert_eq!((entry.head, entry.body, entry.status), (PERMIT | 2 << 16, pages[3].raw(), marks));
    unmap(&mut world.sides[1], &mapped);
    assert_eq!(world.sides[0].entry(1), Entry { status: 0, ..entry });
    // And the other way round.
    let mapped = map(&mut world.sides[1], 1, 1);
    assert_eq!(mapped.dev_bus_addr, pages[3].address().as_u64());
    world.sides[0].become_version(1);
    let word = PERMIT | 2 << 16 | pages[3].raw() << 32;
    assert_eq!(world.sides[0].entry(1).head, word | u64::from(marks));
    unmap(&mut world.sides[1], &mapped);
    assert_eq!(world.sides[0].entry(1).head, word);
    world.sides[0].entries[1] = world.sides[0].entry(1);
    world.check();
    world.count();
}

#[test]
fn what_is_in_use_or_cannot_be_told_keeps_the_version() {
    let mut world = World::new();
    let page = world.sides[0].home.data[3];
    world.sides[0].offer(RESERVED, page, 2, 0);
    let mapped = map(&mut world.sides[1], 1, RESERVED as u32);
    assert_eq!(set(&mut world.sides[0], 2), (Err(Errno::Busy), 1));
    assert_eq!(set(&mut world.sides[0], 1), (Ok(0), 1));
    unmap(&mut world.sides[1], &mapped);
    world.sides[0].become_version(2);
    assert_eq!(version(&mut world.sides[0]), 2);
    // Of what was not reserved nothing is left.
    assert_eq!(world.sides[0].entries[RESERVED..], [Entry::default(); super::world::REFS - RESERVED]);
    for entry in [
        Entry { head: PERMIT | 2 << 16, body: 1 << 32, status: 0 },
        Entry { head: u64::from(abi::GTF_TRANSITIVE), body: 0, status: 0 },
    ] {
        world.sides[0].write(RESERVED - 1, entry);
        assert_eq!(set(&mut world.sides[0], 1), (Err(Errno::Range), 2));
        world.check();
    }
    for (wish, answer) in [(0, Errno::Inval), (3, Errno::Inval), (u32::MAX, Errno::Inval)] {
        assert_eq!(set(&mut world.sides[0], wish), (Err(answer), 2));
    }
    world.sides[0].write(RESERVED - 1, Entry { head: u64::from(abi::GTF_ACCEPT_TRANSFER), body: 9, status: 0 });
    world.sides[0].become_version(1);
    assert_eq!(world.sides[0].entries[RESERVED - 1], Entry::default());
    world.count();
}

#[test]
fn a_domain_has_no_more_than_its_toolstack_gave_it() {
    let mut world = World::new();
    *world.sides[0].guest.domain.grants.lock() = grant::Grants::new(4, 1, 1);
    assert_eq!(set(&mut world.sides[0], 2), (Err(Errno::NoSys), 1));
    assert_eq!(set(&mut world.sides[0], 3), (Err(Errno::Inval), 1));
    assert_eq!(set(&mut world.sides[0], 1), (Ok(0), 1));
}

/// Maps a frame of the guest's own at a spare slot, or takes it away.
fn map_own(side: &Side, slot: usize, frame: Option<Mfn>) -> bool {
    let mut editor = Editor::open(&side.guest.hv.memory, &side.guest.domain.memory).unwrap();
    let rights = editor.own_rights();
    let flags = PageEntry::PRESENT | PageEntry::WRITABLE | PageEntry::USER;
    let entry = frame.map_or(0, |frame| PageEntry::to(frame, flags).0);
    let root = side.guest.state.kernel_root.unwrap();
    editor.map_at(root, GuestAddr::new(Side::spare(slot)), entry, &rights).is_ok()
}

#[test]
fn status_frames_that_are_mapped_keep_the_version_and_free_ones_are_nobody_s() {
    let mut world = World::new();
    world.sides[0].become_version(2);
    let side = &mut world.sides[0];
    let status = side.status_frame().unwrap();
    let (hv, free) = (side.guest.hv, side.guest.hv.memory.frames.free_frames());
    assert!(map_own(side, 0, Some(status)));
    assert!(!map_own(&world.sides[1], 0, Some(status)), "it is lent to its domain alone");
    let side = &mut world.sides[0];
    assert_eq!(set(side, 1), (Err(Errno::Busy), 2));
    assert!(map_own(side, 0, None));
    side.become_version(1);
    assert_eq!((side.status_frame(), hv.memory.frames.free_frames()), (None, free + 1));
    assert!(!map_own(side, 0, Some(status)));
    // Granted and mapped by another it is held as well.
    side.become_version(2);
    let status = side.status_frame().unwrap();
    side.offer(0, status, 2, 0);
    let mapped = map(&mut world.sides[1], 1, 0);
    assert_eq!(set(&mut world.sides[0], 1), (Err(Errno::Busy), 2));
    unmap(&mut world.sides[1], &mapped);
    world.sides[0].become_version(1);
    world.count();
}

/// Asks for frames of the table, or for its status frames.
fn frames(side: &mut Side, command: u32, count: u32) -> (i16, Vec<u64>) {
    let (dom, frame_list) = (DomId::SELF, 512);
    let status = if command == abi::GNTTABOP_SETUP_TABLE {
        let mut op = abi::GnttabSetupTable { dom, _pad0: 0, nr_frames: count, status: 99, _pad1: [0; 3], frame_list };
        assert_eq!(side.ask(command, &mut op), Ok(0));
        op.status
    } else {
        let mut op = abi::GnttabGetStatusFrames { nr_frames: count, dom, status: 99, frame_list };
        assert_eq!(side.ask(command, &mut op), Ok(0));
        op.status
    };
    let mut list = vec![0_u64; if status == OKAY { count as usize } else { 0 }];
    side.guest.hv.machine().read_guest(GuestAddr::new(512), list.as_mut_bytes()).unwrap();
    (status, list)
}

#[test]
fn a_table_and_its_status_frames_grow_together_or_not_at_all() {
    let mut world = World::new();
    let side = &mut world.sides[0];
    *side.guest.domain.grants.lock() = grant::Grants::new(20, 1, 2);
    assert_eq!(frames(side, abi::GNTTABOP_GET_STATUS_FRAMES, 0), (OKAY, vec![]));
    assert_eq!(frames(side, abi::GNTTABOP_GET_STATUS_FRAMES, 1).0, abi::GNTST_GENERAL_ERROR);
    let hv = side.guest.hv;
    // Neither the frame of the entries nor that of their status can be had.
    for left in 0..2 {
        hv.machine().frames_left.store(left, SeqCst);
        assert_eq!(set(side, 2), (Err(Errno::NoMem), 1));
    }
    hv.machine().frames_left.store(u64::MAX, SeqCst);
    assert_eq!(set(side, 2), (Ok(0), 2));
    for (count, status) in [(1, 1), (8, 1), (9, 2), (16, 2), (17, 3)] {
        assert_eq!(frames(side, abi::GNTTABOP_SETUP_TABLE, count).0, OKAY);
        let (outcome, list) = frames(side, abi::GNTTABOP_GET_STATUS_FRAMES, status);
        assert_eq!(outcome, OKAY);
        let known: Vec<u64> =
            side.guest.domain.grants.lock().status_frames().iter().map(|frame| frame.mfn().raw()).collect();
        assert_eq!((list, known.len()), (known.clone(), status as usize), "of {count} frames");
        assert_eq!(
            frames(side, abi::GNTTABOP_GET_STATUS_FRAMES, status + 1).0,
            abi::GNTST_GENERAL_ERROR,
            "of {count} frames"
        );
    }
    assert_eq!(frames(side, abi::GNTTABOP_SETUP_TABLE, 21).0, abi::GNTST_GENERAL_ERROR);
    // Going to version 2 with a long table, where the last status frame cannot be had.
    assert_eq!(set(side, 1), (Ok(0), 1));
    let free = hv.memory.frames.free_frames();
    hv.machine().frames_left.store(2, SeqCst);
    assert_eq!(set(side, 2), (Err(Errno::NoMem), 1));
    assert_eq!(hv.memory.frames.free_frames(), free);
    hv.machine().frames_left.store(u64::MAX, SeqCst);
    assert_eq!((set(side, 2), hv.memory.frames.free_frames()), ((Ok(0), 2), free - 3));
    // Growing over the end of a status frame, where the next one cannot be had.
    *world.sides[1].guest.domain.grants.lock() = grant::Grants::new(20, 1, 2);
    let side = &mut world.sides[1];
    assert_eq!((set(side, 2), frames(side, abi::GNTTABOP_SETUP_TABLE, 8).0), ((Ok(0), 2), OKAY));
    let free = hv.memory.frames.free_frames();
    hv.machine().frames_left.store(1, SeqCst);
    assert_eq!(frames(side, abi::GNTTABOP_SETUP_TABLE, 9).0, abi::GNTST_GENERAL_ERROR);
    assert_eq!((hv.memory.frames.free_frames(), side.guest.domain.grants.lock().size().0), (free, 8));
}

#[test]
fn every_entry_has_a_status_word_of_its_own() {
    let mut world = World::new();
    let side = &mut world.sides[0];
    *side.guest.domain.grants.lock() = grant::Grants::new(17, 1, 2);
    assert_eq!((set(side, 2), frames(side, abi::GNTTABOP_SETUP_TABLE, 17).0), ((Ok(0), 2), OKAY));
    let (hv, page) = (side.guest.hv, side.home.data[3]);
    let tables = frames(side, abi::GNTTABOP_SETUP_TABLE, 17).1;
    let status = frames(side, abi::GNTTABOP_GET_STATUS_FRAMES, 3).1;
    let words = |frames: &[u64], index: usize| hv.machine().words(Mfn::new(frames[index]).unwrap());
    for reference in [8_usize, 255, 256, 2047, 2048, 4095, 4096, 17 * 256 - 1] {
        let entry = &words(&tables, reference / 256)[reference % 256 * 2..];
        entry[1].store(page.raw(), SeqCst);
        entry[0].store(PERMIT | 2 << 16, SeqCst);
        let mapped = map(&mut world.sides[1], 1, reference as u32);
        let marks = u64::from(abi::GTF_READING | abi::GTF_WRITING) << (reference % 4 * 16);
        for (index, frame) in status.iter().enumerate() {
            for (at, word) in hv.machine().words(Mfn::new(*frame).unwrap()).iter().enumerate() {
                let expected = if index * 512 + at == reference / 4 { marks } else { 0 };
                assert_eq!(word.load(SeqCst), expected, "entry {reference}, word {at} of status frame {index}");
            }
        }
        unmap(&mut world.sides[1], &mapped);
    }
    let beyond = GnttabMapGrantRef {
        host_addr: 0,
        flags: abi::GNTMAP_DEVICE_MAP,
        r#ref: 17 * 256,
        dom: DomId(1),
        status: 99,
        handle: 0,
        dev_bus_addr: 0,
    };
    let mut op = beyond;
    assert_eq!(world.sides[1].ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), Ok(0));
    assert_eq!(op.status, abi::GNTST_BAD_GNTREF);
}

#[test]
fn the_toolstack_is_shown_entries_and_status_frames() {
    super::support::on_cpu(0);
    let hv = boot(256);
    let mut control = Guest::new(hv, 0, true, 64);
    control.build_home(4);
    let guest = Guest::new(hv, 1, false, 64);
    *guest.domain.grants.lock() = grant::Grants::new(20, 1, 2);
    let mut acquire = |id: u32, frame: u64, count: u32| {
        let frame_list = if count == 0 { 0 } else { 512 };
        let mut asked = MemAcquireResource {
            domid: DomId(1),
            r#type: XENMEM_RESOURCE_GRANT_TABLE,
            id,
            nr_frames: count,
            pad: 0,
            frame,
            frame_list,
        };
        hv.machine().write_guest(GuestAddr::new(0), asked.as_bytes()).unwrap();
        control.call(Caller::memory_op, [XENMEM_ACQUIRE_RESOURCE.into(), 0, 0, 0])?;
        hv.machine().read_guest(GuestAddr::new(0), asked.as_mut_bytes()).unwrap();
        let mut list = vec![0_u64; count as usize];
        hv.machine().read_guest(GuestAddr::new(512), list.as_mut_bytes()).unwrap();
        Ok((asked.nr_frames, list))
    };
    let (shared, status) = (XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS);
    assert_eq!((acquire(shared, 0, 0), acquire(status, 0, 0)), (Ok((20, vec![])), Ok((3, vec![]))));
    assert_eq!(acquire(status, 0, 1), Err(Errno::Inval), "in version 1 there are none");
    assert_eq!(acquire(2, 0, 1), Err(Errno::Inval));
    assert_eq!(hv.set_grant_version(&guest.domain, 2), (Ok(()), 2));
    let known = |index: u32| hv.grant_status_frame(&guest.domain, index).unwrap().mfn().raw();
    assert_eq!(acquire(status, 0, 1), Ok((1, vec![known(0)])));
    // The second is made with the frames whose status it has: of a table of 20, there is none for a third whole one.
    assert_eq!(guest.domain.grants.lock().size().0, 1);
    assert_eq!(acquire(status, 1, 1), Ok((1, vec![known(1)])));
    assert_eq!(guest.domain.grants.lock().size().0, 16);
    assert_eq!((acquire(status, 2, 1), acquire(status, 3, 1)), (Err(Errno::Inval), Err(Errno::Inval)));
}

#[test]
fn a_domain_that_ends_gives_its_status_frames_back() {
    let mut world = World::new();
    world.sides[0].become_version(2);
    let domain = world.sides[0].guest.domain.clone();
    let hv = world.sides[0].guest.hv;
    domain.memory.is_dying.store(true, SeqCst);
    while hv.release_grants(&domain) == Err(oxen_hv::reply::Stop::Unfinished) {}
    assert_eq!(domain.grants.lock().size().0, 0);
    assert_eq!(hv.set_grant_version(&domain, 2), (Err(Errno::Inval), 1));
    assert!(hv.grant_status_frame(&domain, 0).is_err());
    let mut known = Holds::default();
    for (n, side) in world.sides.iter().enumerate() {
        known.add(side.guest.domain.shared_info, true);
        known.add(side.home.tables[0], true);
        if n != 0 {
            known.add(hv.grant_table_frame(&side.guest.domain, 0).unwrap(), true);
        }
    }
    audit::check(hv, &known, audit::nothing_lent);
}
