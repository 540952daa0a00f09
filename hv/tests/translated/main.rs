//! Guests whose frames are translated for them: whatever they write into their tables and ask for, they see what their
//! own tables and the p2m say, and nothing else; and everything comes back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod random;
#[path = "../support/mod.rs"]
mod support;
mod world;

use oxen_abi::{
    domctl::{self as abi, DomctlGetdomaininfo, DomctlVcpucontext},
    domid::DomId,
    errno::Errno,
    grant_table as grant,
    guest_context::VcpuGuestContext,
    memory::{self, XENMAPSPACE_GRANT_TABLE, XENMAPSPACE_SHARED_INFO},
    mmu,
    sysctl::{OXEN_SYSCTL_WORKING_SETS, Sysctl, SysctlWorkingSets, WorkingSet},
};
use oxen_hv::{
    addr::GuestAddr,
    caller::Caller,
    mem::{Tlb, entry::Entry},
};
use std::sync::atomic::Ordering::SeqCst;
use support::{
    control::{CONTEXT, LIST, STEPS, ask, control_domain, destroy, make, set_context},
    entry_address,
};
use world::{GDT, PAGES, TABLES, build, call, frame, place, reservation, run, shadow_op, translate};
use zerocopy::{FromZeros, IntoBytes};

/// Where the control domain maps what is another's.
const SPARE: usize = 40;

#[test]
fn only_a_domain_without_memory_that_never_ran_can_be_translated() {
    let mut control = control_domain();
    let hv = control.hv;
    let free = hv.memory.frames.free_frames();
    let domain = make(&mut control);
    assert_eq!(translate(&mut control, domain.id), Err(Errno::Inval), "without vcpus");
    STEPS[1](&mut control, &domain);
    let one = hv.memory.take_for(&domain.memory, 0).unwrap();
    assert_eq!(translate(&mut control, domain.id), Err(Errno::Inval), "with memory");
    hv.memory.frames.release_from_reservation(one, domain.owner()).unwrap();
    translate(&mut control, domain.id).unwrap();
    assert!(domain.memory.is_translated());
    assert_eq!(translate(&mut control, domain.id), Err(Errno::Inval), "twice");
    for op in
        [abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, abi::XEN_DOMCTL_SHADOW_OP_OFF, abi::XEN_DOMCTL_SHADOW_OP_CLEAN]
    {
        assert_eq!(shadow_op(&mut control, domain.id, op, 0, 0), Err(Errno::Inval), "operation {op}");
    }
    let set = abi::XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION;
    assert_eq!(shadow_op(&mut control, domain.id, set, 0, 2), Ok(2));
    assert_eq!(shadow_op(&mut control, domain.id, set, 0, 0), Err(Errno::Inval), "while it is in use");
    let id = domain.id;
    drop(domain);
    destroy(&mut control, id).unwrap();
    assert_eq!(hv.memory.frames.free_frames(), free);
}

#[test]
fn a_guest_is_known_by_its_own_numbers() {
    let mut control = control_domain();
    let hv = control.hv;
    let domain = build(&mut control);
    let id = domain.id;
    // What the toolstack places, it and the guest find there.
    assert_eq!(place(&mut control, id, XENMAPSPACE_SHARED_INFO, 0, 64), Ok(0));
    assert_eq!(place(&mut control, id, XENMAPSPACE_GRANT_TABLE, 0, 65), Ok(0));
    assert_eq!(place(&mut control, id, XENMAPSPACE_SHARED_INFO, 1, 66), Err(Errno::Inval));
    assert_eq!(place(&mut control, id, 2, 0, 66), Err(Errno::Inval));
    assert_eq!(place(&mut control, DomId(0), XENMAPSPACE_SHARED_INFO, 0, 66), Err(Errno::Acces));
    let info = ask(&mut control, abi::XEN_DOMCTL_GETDOMAININFO, id, &0_u64).unwrap();
    assert_eq!(info.get::<DomctlGetdomaininfo>().shared_info_frame, 64);
    assert_eq!(frame(&domain, hv, 64), Some(domain.shared_info.mfn()));
    // Another place is instead of the last.
    assert_eq!(place(&mut control, id, XENMAPSPACE_SHARED_INFO, 0, 70), Ok(0));
    assert_eq!((frame(&domain, hv, 64), frame(&domain, hv, 70)), (None, Some(domain.shared_info.mfn())));
    // The context tells of numbers, too.
    let request = DomctlVcpucontext { vcpu: 0, _pad0: 0, ctxt: CONTEXT };
    ask(&mut control, abi::XEN_DOMCTL_GETVCPUCONTEXT, id, &request).unwrap();
    let mut context = VcpuGuestContext::new_zeroed();
    hv.machine().read_guest(GuestAddr::new(CONTEXT), context.as_mut_bytes()).unwrap();
    assert_eq!((context.ctrlreg[3], context.ctrlreg[1], context.gdt_frames[0]), (0, 0, GDT));
    set_context(&mut control, id, 0, &context).unwrap();
    // The control domain maps by number, or by frame where it says so.
    let root = control.state.kernel_root.unwrap();
    let l1 =
        [3, 2, 1].iter().fold(root.mfn(), |table, _| Entry(hv.machine().words(table)[0].load(SeqCst)).mfn().unwrap());
    let own = frame(&domain, hv, 9).unwrap();
    for (kind, number) in [(mmu::MMU_NORMAL_PT_UPDATE, 9), (mmu::MMU_PT_UPDATE_NO_TRANSLATE, own.raw())] {
        control.put(LIST, &[entry_address(l1, SPARE) | kind, number << 12 | 7]);
        assert_eq!(control.call(Caller::mmu_update, [LIST, 1, 0, id.0.into()]), Ok(0));
        assert_eq!(Entry(hv.machine().words(l1)[SPARE].load(SeqCst)).mfn(), Some(own));
        control.put(LIST, &[entry_address(l1, SPARE), 0]);
        assert_eq!(control.call(Caller::mmu_update, [LIST, 1, 0, DomId::SELF.0.into()]), Ok(0));
    }
    control.put(LIST, &[entry_address(l1, SPARE), 63 << 12 | 7]);
    assert_eq!(control.call(Caller::mmu_update, [LIST, 1, 0, id.0.into()]), Err(Errno::Inval), "where nothing is");
}

#[test]
fn a_granted_number_is_the_frame_behind_it() {
    let mut control = control_domain();
    let hv = control.hv;
    let domain = build(&mut control);
    let table = hv.grant_table_frame(&domain, 0).unwrap();
    let offer = |reference: usize, number: u64| {
        let entry = u64::from(grant::GTF_PERMIT_ACCESS) | number << 32;
        hv.machine().words(table.mfn())[reference].store(entry, SeqCst);
    };
    offer(8, 9);
    offer(9, PAGES + 3);
    // A number that is a frame of the guest's, too, is none.
    offer(10, frame(&domain, hv, 9).unwrap().raw());
    let copy = |control: &mut support::guest::Guest, reference: u64| {
        let [from, to] = [(reference, domain.id), (0, DomId::SELF)].map(|(u, domid)| grant::GnttabCopyPtr {
            u,
            domid,
            offset: 0,
            ..FromZeros::new_zeroed()
        });
        let mut op =
            grant::GnttabCopy { source: from, dest: to, len: 8, flags: 1, status: 99, _pad0: FromZeros::new_zeroed() };
        op.dest.u = control.hv.machine().translate(GuestAddr::new(0x2000), true).unwrap().raw();
        hv.machine().write_guest(GuestAddr::new(LIST), op.as_bytes()).unwrap();
        control.call(Caller::grant_table_op, [grant::GNTTABOP_COPY.into(), LIST, 1, 0]).unwrap();
        hv.machine().read_guest(GuestAddr::new(LIST), op.as_mut_bytes()).unwrap();
        op.status
    };
    hv.machine().words(frame(&domain, hv, 9).unwrap())[0].store(0x1234_5678, SeqCst);
    assert_eq!(copy(&mut control, 8), grant::GNTST_OKAY);
    assert_eq!(hv.machine().read_guest_word(GuestAddr::new(0x2000)), Ok(0x1234_5678));
    assert_eq!([9, 10].map(|reference| copy(&mut control, reference)), [grant::GNTST_BAD_PAGE; 2]);
}

#[test]
fn what_such_a_guest_may_not_do_is_refused() {
    let mut control = control_domain();
    let hv = control.hv;
    let domain = build(&mut control);
    run(&mut control, &domain, |caller| {
        let machine = hv.machine();
        let put = |words: &[u64]| machine.write_guest(GuestAddr::new(LIST), words.as_bytes()).unwrap();
        put(&[5 << 12 | mmu::MMU_MACHPHYS_UPDATE, 6]);
        assert_eq!(call(caller, Caller::mmu_update, [LIST, 1, 0, DomId::SELF.0.into(), 0, 0]), Err(Errno::Inval));
        put(&[PAGES << 12, 6]);
        assert_eq!(call(caller, Caller::mmu_update, [LIST, 1, 0, DomId::SELF.0.into(), 0, 0]), Err(Errno::Inval));
        put(&[mmu::MMUEXT_NEW_BASEPTR.into(), PAGES, 0]);
        assert_eq!(call(caller, Caller::mmuext_op, [LIST, 1, 0, DomId::SELF.0.into(), 0, 0]), Err(Errno::Inval));
        put(&[LIST + 64, 1, 0, DomId::SELF.0.into()]);
        let increase = u64::from(memory::XENMEM_INCREASE_RESERVATION);
        assert_eq!(call(caller, Caller::memory_op, [increase, LIST, 0, 0, 0, 0]), Ok(0), "none is done");
        put(&[0; 9]);
        let exchange = u64::from(memory::XENMEM_EXCHANGE);
        put(&[LIST + 80, 1, 0, DomId::SELF.0.into(), LIST + 88, 1, 0, DomId::SELF.0.into(), 0, 0, 5, 0]);
        assert_eq!(call(caller, Caller::memory_op, [exchange, LIST, 0, 0, 0, 0]), Err(Errno::OpNotSupp));
        // A page of descriptors cannot be written to while it is one, and no table can be in it.
        let gdt = GuestAddr::new(GDT << 12);
        assert!(machine.read_guest_word(gdt).is_ok());
        assert!(machine.write_guest_word(gdt, 0).is_err(), "law 1: a guest writes to its descriptors");
        put(&[6]);
        assert_eq!(call(caller, Caller::set_gdt, [LIST, 512, 0, 0, 0, 0]), Ok(0));
        assert!(machine.write_guest_word(gdt, 0).is_ok(), "it is none any more");
        assert!(machine.write_guest_word(GuestAddr::new(6 << 12), 0).is_err());
    });
}

#[test]
fn where_memory_runs_short_nothing_is_lost_and_shadows_are_made_anew() {
    let mut control = control_domain();
    let hv = control.hv;
    let free = hv.memory.frames.free_frames();
    for left in 0..140 {
        let domain = make(&mut control);
        STEPS[1](&mut control, &domain);
        hv.machine().frames_left.store(left, SeqCst);
        let begun = translate(&mut control, domain.id);
        let numbers: Vec<u64> = (0..PAGES).map(|n| n << 18).collect();
        let done = reservation(&mut control, memory::XENMEM_POPULATE_PHYSMAP, domain.id, &numbers);
        hv.machine().frames_left.store(u64::MAX, SeqCst);
        assert!(begun.is_ok() || begun == Err(Errno::NoMem), "{begun:?}");
        assert!(done < PAGES, "so many places there is no room for: {done}");
        let id = domain.id;
        drop(domain);
        destroy(&mut control, id).unwrap();
        assert_eq!(hv.memory.frames.free_frames(), free, "{left} frames");
    }
    // Places all over: the p2m takes what it may, and shadows go on with the rest.
    let domain = build(&mut control);
    let numbers: Vec<u64> = (1..40).map(|n| n << 18 | 1).collect();
    let done = reservation(&mut control, memory::XENMEM_POPULATE_PHYSMAP, domain.id, &numbers);
    assert!((1..40).contains(&done), "{done}");
    run(&mut control, &domain, |caller| {
        // One table maps itself at each level, so that each address leads somewhere, over many tables.
        put_everywhere(caller);
    });
}

/// Writes through so many tables that all shadows are used up again and again.
fn put_everywhere(caller: &mut Caller<'_, support::Fake>) {
    let (hv, owner) = (caller.hv, caller.domain.owner());
    let word = |gfn: u64, slot: usize| {
        let table = hv.memory.translation(owner, gfn).unwrap().0;
        &hv.machine().words(table)[slot]
    };
    (0..256).for_each(|slot| word(0, slot).store(1 << 12 | 7, SeqCst));
    (0..512).for_each(|slot| word(1, slot).store(2 << 12 | 7, SeqCst));
    for round in 0..3000_u64 {
        let va = GuestAddr::new((round * 7919 % 256) << 39 | (round * 31 % 512) << 30 | 8 << 12);
        hv.machine().write_guest_word(va, round).unwrap();
        assert_eq!(hv.machine().read_guest_word(GuestAddr::new(8 << 12)), Ok(round));
    }
}

#[test]
fn what_is_not_flushed_is_as_on_a_processor_and_a_new_root_means_something_else_at_once() {
    let mut control = control_domain();
    let hv = control.hv;
    let domain = build(&mut control);
    run(&mut control, &domain, |caller| {
        let (machine, at) = (hv.machine(), |page: u64| GuestAddr::new(page << 12));
        (8..12).for_each(|page| machine.write_guest_word(at(page), page).unwrap());
        // The guest changes its table itself: page 3 is that table.
        let own_entry = GuestAddr::new(3 << 12 | 8 << 3);
        machine.write_guest_word(own_entry, 9 << 12 | 7).unwrap();
        machine.flush_cpus(1, None);
        assert_eq!(machine.read_guest_word(at(8)), Ok(8), "a shadow is a translation cache");
        let flush = |caller: &mut Caller<'_, support::Fake>, op: u32, page: u64| {
            let words = [op.into(), page << 12, 0];
            machine.write_guest(GuestAddr::new(LIST), words.as_bytes()).unwrap();
            call(caller, Caller::mmuext_op, [LIST, 1, 0, DomId::SELF.0.into(), 0, 0]).unwrap();
        };
        flush(caller, mmu::MMUEXT_INVLPG_LOCAL, 8);
        assert_eq!(machine.read_guest_word(at(8)), Ok(9));
        // The bits that a processor notes are there, and a page that is only read is not dirty.
        let bits = |page: u64| machine.read_guest_word(GuestAddr::new(3 << 12 | page << 3)).unwrap() & 0x60;
        assert_eq!([8, 10, 13].map(bits), [0x20, 0x60, 0]);
        machine.write_guest_word(at(8), 19).unwrap();
        assert_eq!((bits(8), machine.read_guest_word(at(9))), (0x60, Ok(19)));
        for (op, page) in [(mmu::MMUEXT_TLB_FLUSH_LOCAL, 10), (mmu::MMUEXT_TLB_FLUSH_ALL, 11)] {
            machine.write_guest_word(own_entry, page << 12 | 7).unwrap();
            flush(caller, op, 0);
            assert_eq!(machine.read_guest_word(at(8)), Ok(page));
        }
        // Another root, which leads to the same tables but one entry later.
        machine.write_guest_word(at(15), 0).unwrap();
        machine.write_guest_word(GuestAddr::new(15 << 12 | 8), 1 << 12 | 7).unwrap();
        machine.write_guest_word(at(15), 1 << 12 | 7).unwrap();
        let far = GuestAddr::new(1 << 39 | 9 << 12);
        assert!(machine.read_guest_word(far).is_err());
        machine.write_guest(GuestAddr::new(LIST), [mmu::MMUEXT_NEW_BASEPTR.into(), 15_u64, 0].as_bytes()).unwrap();
        call(caller, Caller::mmuext_op, [LIST, 1, 0, DomId::SELF.0.into(), 0, 0]).unwrap();
        assert_eq!((machine.read_guest_word(far), machine.read_guest_word(at(8))), (Ok(19), Ok(11)));
        machine.write_guest_word(GuestAddr::new(3 << 12 | 8 << 3), 9 << 12 | 7).unwrap();
        machine.write_guest(GuestAddr::new(LIST), [mmu::MMUEXT_NEW_BASEPTR.into(), 0_u64, 0].as_bytes()).unwrap();
        call(caller, Caller::mmuext_op, [LIST, 1, 0, DomId::SELF.0.into(), 0, 0]).unwrap();
        assert_eq!(machine.read_guest_word(at(8)), Ok(19), "a new root is a flush");
        assert!(machine.read_guest_word(far).is_err(), "what another root showed");
    });
}

#[test]
fn what_such_a_guest_uses_is_counted_to_the_page() {
    let mut control = control_domain();
    let domain = build(&mut control);
    let turn = |control: &mut support::guest::Guest| {
        let request = SysctlWorkingSets { samples: 100, max_domains: 8, next: 0, buffer: LIST };
        let op = Sysctl::new(OXEN_SYSCTL_WORKING_SETS, &request);
        control.hv.machine().write_guest(GuestAddr::new(CONTEXT), op.as_bytes()).unwrap();
        control.call(Caller::sysctl, [CONTEXT, 0, 0, 0]).unwrap();
        let mut set = WorkingSet::new_zeroed();
        let at = GuestAddr::new(LIST + size_of::<WorkingSet>() as u64);
        control.hv.machine().read_guest(at, set.as_mut_bytes()).unwrap();
        assert_eq!(set.domain, domain.id);
        (u64::from(set.sampled), u64::from(set.touched))
    };
    turn(&mut control);
    for used in [0, 3, 7, 7, 1, 0] {
        run(&mut control, &domain, |caller| {
            let read = |page: u64| caller.hv.machine().read_guest_word(GuestAddr::new(page << 12)).unwrap();
            (8..8 + used).for_each(|page| assert_eq!(read(page), read(page)));
        });
        // Its tables, where it used them, and its page of descriptors.
        let others = if used == 0 { 1 } else { TABLES + 1 };
        assert_eq!(turn(&mut control), (PAGES, used + others), "{used} pages");
    }
}
