//! Questions about tables.

use super::world::{GENERAL, OKAY, Side, World};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    grant_table::{self as abi},
};
use oxen_hv::{
    addr::GuestAddr,
    caller::Caller,
    grant,
    mem::{editor::Editor, entry::Entry},
};
use std::sync::atomic::Ordering::SeqCst;
use zerocopy::IntoBytes;

#[test]
fn questions_about_tables_are_answered_as_xen_does() {
    let mut world = World::new();
    let side = &mut world.sides[0];
    let mut size =
        abi::GnttabQuerySize { dom: DomId::SELF, _pad0: 0, nr_frames: 0, max_nr_frames: 0, status: 99, _pad1: 0 };
    assert_eq!(side.ask(abi::GNTTABOP_QUERY_SIZE, &mut size), Ok(0));
    assert_eq!((size.status, size.nr_frames, size.max_nr_frames), (OKAY, 1, 4));
    for (dom, status) in [(2, abi::GNTST_PERMISSION_DENIED), (9, abi::GNTST_BAD_DOMAIN)] {
        size.dom = DomId(dom);
        assert_eq!((side.ask(abi::GNTTABOP_QUERY_SIZE, &mut size), size.status), (Ok(0), status));
    }
    for (wish, answer) in [(1, Ok(0)), (3, Err(Errno::Inval)), (0, Err(Errno::Inval))] {
        let mut version = abi::GnttabSetVersion { version: wish };
        assert_eq!((side.ask(abi::GNTTABOP_SET_VERSION, &mut version), version.version), (answer, 1));
    }
    let mut version = abi::GnttabGetVersion { dom: DomId(2), pad: 0, version: 9 };
    assert_eq!(side.ask(abi::GNTTABOP_GET_VERSION, &mut version), Err(Errno::Perm));
    version.dom = DomId(9);
    assert_eq!(side.ask(abi::GNTTABOP_GET_VERSION, &mut version), Err(Errno::Srch));
    version.dom = DomId::SELF;
    assert_eq!((side.ask(abi::GNTTABOP_GET_VERSION, &mut version), version.version), (Ok(0), 1));
    for command in [abi::GNTTABOP_DUMP_TABLE, 13, 77] {
        assert_eq!(side.ask(command, &mut [0_u64; 4]), Err(Errno::NoSys));
    }
    let map = u64::from(abi::GNTTABOP_MAP_GRANT_REF);
    assert_eq!(side.guest.call(Caller::grant_table_op, [map, 0, 1 << 31, 0]), Err(Errno::Inval));
    assert_eq!(side.guest.call(Caller::grant_table_op, [map, 0xffff_8300_0000_0000, 1, 0]), Err(Errno::Fault));
    assert_eq!(side.guest.call(Caller::grant_table_op, [map, 0x7000_0000_0000, 1, 0]), Err(Errno::Fault));
    assert_eq!(side.guest.call(Caller::grant_table_op, [map, 0x7000_0000_0000, 0, 0]), Ok(0));
}

#[test]
fn a_table_is_set_up_and_its_frames_can_be_mapped_by_its_domain_alone() {
    let mut world = World::new();
    let mut setup =
        abi::GnttabSetupTable { dom: DomId::SELF, _pad0: 0, nr_frames: 3, status: 99, _pad1: [0; 3], frame_list: 512 };
    let side = &mut world.sides[0];
    assert_eq!((side.ask(abi::GNTTABOP_SETUP_TABLE, &mut setup), setup.status), (Ok(0), OKAY));
    let (hv, owner) = (side.guest.hv, side.guest.domain.clone());
    let mut list = [0_u64; 3];
    hv.machine().read_guest(GuestAddr::new(512), list.as_mut_bytes()).unwrap();
    for (index, mfn) in list.into_iter().enumerate() {
        let frame = hv.grant_table_frame(&owner, index as u32).unwrap().mfn();
        assert_eq!(frame.raw(), mfn);
        let entry = Entry::to(frame, Entry::PRESENT | Entry::WRITABLE | Entry::USER).0;
        for (n, is_own) in [(0, true), (1, false)] {
            let side = &world.sides[n];
            let mut editor = Editor::open(&side.guest.hv.memory, &side.guest.domain.memory).unwrap();
            let rights = editor.own_rights();
            let root = side.guest.state.kernel_root.unwrap();
            let mapped = editor.map_at(root, GuestAddr::new(Side::spare(index)), entry, &rights);
            assert_eq!(mapped.is_ok(), is_own);
        }
    }
    setup.nr_frames = 5;
    let side = &mut world.sides[0];
    assert_eq!((side.ask(abi::GNTTABOP_SETUP_TABLE, &mut setup), setup.status), (Ok(0), GENERAL));
    (setup.nr_frames, setup.frame_list) = (1, 0xffff_8300_0000_0000);
    assert_eq!(side.ask(abi::GNTTABOP_SETUP_TABLE, &mut setup), Err(Errno::Fault));
    (setup.nr_frames, setup.frame_list) = (1, 0x7000_0000_0000);
    assert_eq!((side.ask(abi::GNTTABOP_SETUP_TABLE, &mut setup), setup.status), (Ok(0), abi::GNTST_BAD_VIRT_ADDR));
}

#[test]
fn caches_are_flushed_of_pages_that_one_has_or_uses_alone() {
    let mut world = World::new();
    let flush = |world: &mut World, command: u32, address: u64, op: u32| {
        let mut request = abi::GnttabCacheFlush { a: address, offset: 8, length: 16, op };
        world.sides[0].ask(command, &mut request)
    };
    let command = abi::GNTTABOP_CACHE_FLUSH;
    let (clean, drop) = (abi::GNTTAB_CACHE_CLEAN, abi::GNTTAB_CACHE_INVAL);
    let own = world.sides[0].home.data[3].address().as_u64();
    for (op, answer) in [(clean, Ok(0)), (clean | drop, Ok(0)), (drop, Err(Errno::OpNotSupp)), (0, Ok(0))] {
        assert_eq!(flush(&mut world, command, own, op), answer, "{op}");
    }
    for bad in [4, abi::GNTTAB_CACHE_SOURCE_GREF | clean] {
        assert_eq!(flush(&mut world, command, own, bad), Err(Errno::Inval));
    }
    let end = (world.sides[0].guest.hv.memory.frames.end() as u64) << 12;
    for (address, error) in [(end, Errno::Inval), (u64::MAX, Errno::Inval), (0, Errno::Perm), (end - 1, Errno::Perm)] {
        assert_eq!(flush(&mut world, command, address, clean), Err(error), "{address:#x}");
    }
    // Another's page, granted by an entry far behind: one step after the other, with something more urgent each time.
    let side = &world.sides[1];
    let hv = side.guest.hv;
    *side.guest.domain.grants.lock() = grant::Grants::new(20, 1, 2);
    let (page, reference) = (side.home.data[3], 9000);
    let table = hv.grant_table_frame(&side.guest.domain, reference / 512).unwrap();
    let word = u64::from(abi::GTF_PERMIT_ACCESS) | 1 << 16 | page.raw() << 32;
    hv.machine().words(table)[reference as usize % 512].store(word, SeqCst);
    assert_eq!(flush(&mut world, command, page.address().as_u64(), clean), Err(Errno::Inval), "granted, but not used");
    let (flags, dom) = (abi::GNTMAP_DEVICE_MAP, DomId(2));
    let mut op =
        abi::GnttabMapGrantRef { host_addr: 0, flags, r#ref: reference, dom, status: 99, handle: 0, dev_bus_addr: 0 };
    assert_eq!((world.sides[0].ask(abi::GNTTABOP_MAP_GRANT_REF, &mut op), op.status), (Ok(0), OKAY));
    hv.cpus[0].work.store(oxen_hv::per_cpu::Work::RESCHEDULE, SeqCst);
    assert_eq!(flush(&mut world, command, page.address().as_u64(), clean), Ok(0));
    assert_eq!(flush(&mut world, command, page.address().as_u64(), drop), Err(Errno::OpNotSupp));
    // Gone on with behind it, there is none; and nothing cannot be gone on with.
    assert_eq!(flush(&mut world, command | 3 << 12, page.address().as_u64(), clean), Err(Errno::Inval));
    assert_eq!(flush(&mut world, command | 2 << 12, page.address().as_u64(), clean), Ok(0));
    assert_eq!(flush(&mut world, command | 1 << 12, own, 0), Err(Errno::IlSeq));
    assert_eq!(flush(&mut world, abi::GNTTABOP_COPY | 1 << 12, own, clean), Err(Errno::Inval));
    let many: Vec<_> = (0..3)
        .map(|_| abi::GnttabCacheFlush { a: page.address().as_u64(), offset: 0, length: 4096, op: clean })
        .collect();
    hv.machine().write_guest(GuestAddr::new(0), many.as_bytes()).unwrap();
    assert_eq!(world.sides[0].guest.call(Caller::grant_table_op, [command.into(), 0, 3, 0]), Ok(0));
}
