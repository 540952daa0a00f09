//! `shadow_op` as a toolstack calls it: what is refused, what is told, and that all memory comes back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::{self as abi, DomctlShadowOp, DomctlShadowOpStats},
    domid::DomId,
    errno::Errno,
};
use oxen_hv::{
    addr::{GuestAddr, Mfn, PAGE_BYTES},
    caller::Caller,
    domain::{Domain, regs::Regs},
    mem::{Tlb, editor::Editor, entry::Entry, shadow::log::PART_BITS},
    reply::Stop,
};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use support::{
    control::{LIST, REQUEST, STEPS, ask, control_domain, destroy, furnish, make, set_context},
    guest::Guest,
    run_domain,
};
use x86_64::structures::paging::PageTableFlags;
use zerocopy::{FromZeros, IntoBytes};

fn request(op: u32) -> DomctlShadowOp {
    DomctlShadowOp { op, ..FromZeros::new_zeroed() }
}

fn shadow_op(control: &mut Guest, id: DomId, request: &DomctlShadowOp) -> Result<DomctlShadowOp, Errno> {
    ask(control, abi::XEN_DOMCTL_SHADOW_OP, id, request).map(|answer| answer.get())
}

/// A guest with vcpus and memory, each frame at a place of its own, in order.
fn guest(control: &mut Guest) -> (Arc<Domain>, Vec<Mfn>) {
    let domain = make(control);
    STEPS[1](control, &domain);
    let (context, frames) = furnish(control.hv, &domain);
    for (place, &frame) in frames.iter().enumerate() {
        control.hv.memory.set_m2p(frame, place as u64);
    }
    set_context(control, domain.id, 0, &context).unwrap();
    (domain, frames)
}

/// What the guest's kernel does while its vcpu is on this CPU.
fn run<R>(control: &mut Guest, domain: &Arc<Domain>, act: impl FnOnce(&mut Caller<'_, support::Fake>) -> R) -> R {
    let hv = control.hv;
    let vcpu = domain.vcpu(0).unwrap();
    let mut state = vcpu.slot.lock().take().unwrap();
    hv.memory.frames.tlb.enter(domain.owner(), 1);
    state.loaded = hv.memory.roots_to_load(&domain.memory, 0, state.user_root, state.kernel_root);
    hv.machine().load_root(state.loaded_root());
    run_domain(hv, domain);
    let mut regs = Regs::default();
    let cpu = support::this_cpu();
    let shared = hv.cpu(cpu).unwrap();
    let result = act(&mut Caller { hv, cpu, shared, domain, vcpu, state: &mut state, regs: &mut regs });
    *vcpu.slot.lock() = Some(state);
    control.run();
    result
}

/// The log of the first 64 pages, and what was counted.
fn read(control: &mut Guest, id: DomId, op: u32) -> (u64, DomctlShadowOpStats) {
    control.hv.machine().write_guest_word(GuestAddr::new(LIST), u64::MAX).unwrap();
    let answer = shadow_op(control, id, &DomctlShadowOp { dirty_bitmap: LIST, pages: 64, ..request(op) }).unwrap();
    assert_eq!(answer.pages, 64);
    let log = control.hv.machine().read_guest_word(GuestAddr::new(LIST)).unwrap();
    assert_eq!(answer.stats.dirty_count, log.count_ones(), "pages in the log {log:#x}");
    (log, answer.stats)
}

#[test]
fn what_cannot_be_is_refused_and_what_is_not_there_is_nothing() {
    let mut control = control_domain();
    let (own, hv) = (control.domain.id, control.hv);
    assert_eq!(shadow_op(&mut control, own, &request(0)).unwrap_err(), Errno::Inval, "a domain's own");
    let domain = make(&mut control);
    let id = domain.id;
    assert_eq!(shadow_op(&mut control, id, &request(0)).unwrap_err(), Errno::Inval, "without vcpus");
    STEPS[1](&mut control, &domain);
    let free = hv.memory.frames.free_frames();
    for op in [3, 10, 13, 29, 33, 77] {
        assert_eq!(shadow_op(&mut control, id, &request(op)).unwrap_err(), Errno::Inval, "operation {op}");
    }
    for op in [abi::XEN_DOMCTL_SHADOW_OP_CLEAN, abi::XEN_DOMCTL_SHADOW_OP_PEEK] {
        let strange = DomctlShadowOp { mode: 2, ..request(op) };
        assert_eq!(shadow_op(&mut control, id, &strange).unwrap_err(), Errno::Inval, "a mode of nothing");
        assert_eq!(read(&mut control, id, op), (0, FromZeros::new_zeroed()), "without a log");
        let wild = DomctlShadowOp { dirty_bitmap: 1 << 47, pages: 64, ..request(op) };
        assert_eq!(shadow_op(&mut control, id, &wild).unwrap_err(), Errno::Fault);
    }
    // The tenth is for guests that are translated, which have no memory yet.
    let one = hv.memory.take_for(&domain.memory, 0).unwrap();
    for mode in [2, 8, 10, 16, 26] {
        let translated = DomctlShadowOp { mode, ..request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE) };
        assert_eq!(shadow_op(&mut control, id, &translated).unwrap_err(), Errno::Inval, "mode {mode}");
    }
    hv.memory.frames.release_from_reservation(one, domain.owner()).unwrap();
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_OFF)).unwrap();
    assert_eq!(hv.memory.frames.free_frames(), free);
}

#[test]
fn memory_for_shadows_is_what_was_asked_for_and_comes_back() {
    let mut control = control_domain();
    let hv = control.hv;
    let (domain, _) = guest(&mut control);
    let id = domain.id;
    let free = hv.memory.frames.free_frames();
    let get = request(abi::XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION);
    let set = |mb| DomctlShadowOp { mb, ..request(abi::XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION) };
    let allocation = |control: &mut Guest| shadow_op(control, id, &get).unwrap().mb;
    assert_eq!(allocation(&mut control), 0);
    for (asked, told) in [(1, 1), (2, 2), (1, 1), (0, 0), (0, 0)] {
        assert_eq!(shadow_op(&mut control, id, &set(asked)).unwrap().mb, told);
        assert_eq!(allocation(&mut control), told);
        assert_eq!(u64::from(free - hv.memory.frames.free_frames()) >> 8, told.into());
    }
    assert_eq!(hv.memory.frames.free_frames(), free);
    assert_eq!(shadow_op(&mut control, id, &set(4000)).unwrap_err(), Errno::NoMem);
    shadow_op(&mut control, id, &set(0)).unwrap();
    assert_eq!(hv.memory.frames.free_frames(), free);
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)).unwrap();
    assert_eq!(allocation(&mut control), 1);
    assert_eq!(shadow_op(&mut control, id, &set(0)).unwrap_err(), Errno::Inval, "while they are in use");
    for op in [abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, abi::XEN_DOMCTL_SHADOW_OP_ENABLE_TEST] {
        assert_eq!(shadow_op(&mut control, id, &request(op)).unwrap_err(), Errno::Inval, "twice");
    }
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_OFF)).unwrap();
    assert_eq!((allocation(&mut control), hv.memory.frames.free_frames()), (0, free));
    // At each point where memory runs short everything goes back.
    for left in 0..260 {
        hv.machine().frames_left.store(left, SeqCst);
        let begun = shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY));
        hv.machine().frames_left.store(u64::MAX, SeqCst);
        if let Err(refusal) = begun {
            assert_eq!(refusal, Errno::NoMem);
            assert_eq!(hv.memory.frames.free_frames(), free, "{left} frames");
        } else {
            shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_OFF)).unwrap();
        }
    }
    // A domain that ends in the middle of it leaves nothing either.
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)).unwrap();
    run(&mut control, &domain, |caller| caller.hv.machine().write_guest_word(GuestAddr::new(0), 1).unwrap());
    let reserved = hv.memory.frames.reserved(domain.owner().slot().unwrap());
    drop(domain);
    destroy(&mut control, id).unwrap();
    assert!(hv.memory.frames.free_frames() >= free + reserved);
}

#[test]
fn what_a_guest_writes_to_is_in_the_log_and_nothing_else() {
    const CLEAN: u32 = abi::XEN_DOMCTL_SHADOW_OP_CLEAN;
    const PEEK: u32 = abi::XEN_DOMCTL_SHADOW_OP_PEEK;
    let mut control = control_domain();
    let (domain, frames) = guest(&mut control);
    let id = domain.id;
    // The descriptors in frame 4 are marked by the CPU itself.
    let held = 1 << 4;
    let write = |control: &mut Guest, page: u64| {
        run(control, &domain, |caller| {
            caller.hv.machine().write_guest_word(GuestAddr::new(page << 12), 7).unwrap();
        });
    };
    let table = |slot: usize| support::table_word(control.hv, frames[3], slot).load(SeqCst);
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)).unwrap();
    assert_eq!(read(&mut control, id, PEEK).0, held);
    // Pages of the guest follow its tables and its descriptors: the first is frame 5. Its table is written to, too: the
    // dirty bit comes into it.
    assert_eq!(table(2) & 0x60, 0x20);
    write(&mut control, 2);
    assert_eq!(table(2) & 0x60, 0x60);
    assert_eq!(
        read(&mut control, id, PEEK),
        (held | 1 << 7 | 1 << 3, DomctlShadowOpStats { fault_count: 1, dirty_count: 3 })
    );
    assert_eq!(read(&mut control, id, CLEAN).0, held | 1 << 7 | 1 << 3);
    assert_eq!(read(&mut control, id, CLEAN), (held, DomctlShadowOpStats { fault_count: 0, dirty_count: 1 }));
    write(&mut control, 2);
    assert_eq!(read(&mut control, id, PEEK).0, held | 1 << 7, "its dirty bit was set already");
    // What was only read is not in the log.
    run(&mut control, &domain, |caller| caller.hv.machine().read_guest_word(GuestAddr::new(5 << 12)).unwrap());
    assert_eq!(read(&mut control, id, CLEAN).0, held | 1 << 7);
    // Nor is there a way for a page in which the guest may not write.
    run(&mut control, &domain, |caller| {
        let read_only = table(3) & !2;
        let args = &mut [3 << 12, read_only, 2, 0, 0, 0];
        caller.update_va_mapping(args).unwrap();
        assert!(caller.hv.machine().write_guest_word(GuestAddr::new(3 << 12), 7).is_err());
    });
    assert_eq!(read(&mut control, id, CLEAN).0, held | 1 << 3);
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_OFF)).unwrap();
    write(&mut control, 2);
    assert_eq!(read(&mut control, id, PEEK).0, 0);
}

/// A page with the contents of a table is saved otherwise than the table that it becomes, though no byte of it changes:
/// Xen has both changes in the log, and its tools rely on it.
#[test]
fn what_becomes_a_table_and_what_is_none_any_more_is_in_the_log() {
    const CLEAN: u32 = abi::XEN_DOMCTL_SHADOW_OP_CLEAN;
    const PAGE: u64 = 1 << 10;
    let mut control = control_domain();
    let (domain, frames) = guest(&mut control);
    let id = domain.id;
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)).unwrap();
    run(&mut control, &domain, |caller| caller.update_va_mapping(&mut [5 << 12, 0, 2, 0, 0, 0]).unwrap());
    read(&mut control, id, CLEAN);
    assert_eq!(read(&mut control, id, CLEAN).0 & PAGE, 0);
    let hv = control.hv;
    let editor = || Editor::open(&hv.memory, &domain.memory).unwrap();
    editor().pin(frames[10], 1).unwrap();
    assert_eq!(read(&mut control, id, CLEAN).0 & PAGE, PAGE);
    assert_eq!(read(&mut control, id, CLEAN).0 & PAGE, 0);
    editor().unpin(frames[10]).unwrap();
    assert_eq!(read(&mut control, id, CLEAN).0 & PAGE, PAGE);
    assert_eq!(read(&mut control, id, CLEAN).0 & PAGE, 0);
}

/// What all entries on the way to a page allow, as the CPU finds them: shadows, if the domain runs on them.
fn shown(control: &mut Guest, domain: &Arc<Domain>, page: u64) -> Option<PageTableFlags> {
    run(control, domain, |caller| {
        let (va, mut table) = (GuestAddr::new(page << 12), caller.state.loaded_root().mfn()?);
        (1..=4).rev().try_fold(PageTableFlags::all(), |allowed, level| {
            let entry = Entry(support::table_word(caller.hv, table, va.slot(level).index()).load(SeqCst));
            table = entry.mfn()?;
            entry.is_present().then_some(allowed & entry.flags())
        })
    })
}

#[test]
fn a_clean_takes_the_right_to_write_and_leaves_what_can_be_read() {
    let mut control = control_domain();
    let (domain, _) = guest(&mut control);
    let (id, hv) = (domain.id, control.hv);
    let write = |control: &mut Guest, page: u64| {
        run(control, &domain, |caller| caller.hv.machine().write_guest_word(GuestAddr::new(page << 12), 7).unwrap());
    };
    let rights =
        |control: &mut Guest, page| shown(control, &domain, page).map(|allowed| allowed.contains(Entry::WRITABLE));
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)).unwrap();
    assert_eq!(rights(&mut control, 2), None);
    for round in 0..3 {
        write(&mut control, 2);
        write(&mut control, 5);
        run(&mut control, &domain, |caller| caller.hv.machine().read_guest_word(GuestAddr::new(6 << 12)).unwrap());
        let seen = [2, 5, 6].map(|page| rights(&mut control, page));
        assert_eq!(seen, [Some(true), Some(true), Some(false)], "in round {round}");
        // A CPU may remember the right.
        let flushes = [0, 1].map(|cpu| hv.machine().cpu(cpu).flushes);
        hv.memory.frames.tlb.enter(domain.owner(), 1 << 1);
        read(&mut control, id, abi::XEN_DOMCTL_SHADOW_OP_CLEAN);
        let flushed = [0, 1].map(|cpu| hv.machine().cpu(cpu).flushes > flushes[usize::from(cpu)]);
        assert_eq!(flushed, [true; 2]);
        assert_eq!([2, 5, 6].map(|page| rights(&mut control, page)), [Some(false); 3], "after round {round}");
        // Who may write to one page again may not so to what is beside it.
        write(&mut control, 2);
        let seen = [2, 5, 6].map(|page| rights(&mut control, page));
        assert_eq!(seen, [Some(true), Some(false), Some(false)], "after round {round}");
        assert_eq!(read(&mut control, id, abi::XEN_DOMCTL_SHADOW_OP_PEEK).1.fault_count, 1);
    }
}

#[test]
fn a_clean_that_cannot_be_told_leaves_nothing_that_can_be_written_to_unnoticed() {
    let mut control = control_domain();
    let (domain, _) = guest(&mut control);
    let (id, hv) = (domain.id, control.hv);
    let write = |control: &mut Guest| {
        run(control, &domain, |caller| caller.hv.machine().write_guest_word(GuestAddr::new(2 << 12), 7).unwrap());
    };
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)).unwrap();
    write(&mut control);
    // Room for the first part, and not for the second.
    let is_writable = |&at: &u64| hv.machine().write_guest_word(GuestAddr::new(at), 0).is_ok();
    let end = (LIST..).step_by(PAGE_BYTES).find(|at| !is_writable(at)).unwrap();
    let (dirty_bitmap, pages) = (end - PART_BITS / 8, 2 * PART_BITS);
    let short = DomctlShadowOp { dirty_bitmap, pages, ..request(abi::XEN_DOMCTL_SHADOW_OP_CLEAN) };
    assert_eq!(shadow_op(&mut control, id, &short).unwrap_err(), Errno::Fault);
    assert_eq!(read(&mut control, id, abi::XEN_DOMCTL_SHADOW_OP_PEEK).0 & 1 << 7, 0);
    write(&mut control);
    assert_eq!(read(&mut control, id, abi::XEN_DOMCTL_SHADOW_OP_PEEK).0 & 1 << 7, 1 << 7);
}

#[test]
fn a_fault_tells_the_guest_what_its_own_tables_say() {
    use oxen_hv::domain::traps::TrapHandler;
    let mut control = control_domain();
    let (domain, frames) = guest(&mut control);
    shadow_op(&mut control, domain.id, &request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)).unwrap();
    run(&mut control, &domain, |caller| {
        let handler = TrapHandler { address: 0x1234, cs: 0xe033, flags: 4 };
        caller.state.traps.set(oxen_hv::trap::vector::PAGE_FAULT, handler);
        caller.regs.rsp = 8 << 12;
        caller.regs.rip = 0x42;
        // A write to a page that no shadow shows yet: nothing for the guest.
        caller.page_fault(2 << 12, 6);
        assert_eq!(caller.regs.rip, 0x42);
        // Present in the guest's tables, and not to be written to.
        let read_only = support::entry_of(frames[8], 0x25);
        caller.update_va_mapping(&mut [3 << 12, read_only, 2, 0, 0, 0]).unwrap();
        for (address, told) in [(3 << 12, 7), (100 << 12, 6)] {
            caller.regs.rip = 0x42;
            caller.page_fault(address, 6);
            assert_eq!((caller.regs.rip, caller.state.info.cr2()), (0x1234, address));
            let pushed = caller.hv.machine().read_guest_word(GuestAddr::new(caller.regs.rsp + 16)).unwrap();
            assert_eq!(pushed & 7, told & 3, "at {address:#x}");
        }
    });
}

#[test]
fn one_operation_ends_before_another_begins() {
    let mut control = control_domain();
    let (domain, _) = guest(&mut control);
    let id = domain.id;
    shadow_op(&mut control, id, &request(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)).unwrap();
    run(&mut control, &domain, |caller| caller.hv.machine().write_guest_word(GuestAddr::new(2 << 12), 1).unwrap());
    let pauses = domain.pause_count.load(SeqCst);
    let long = DomctlShadowOp { dirty_bitmap: LIST, pages: 300_000, ..request(abi::XEN_DOMCTL_SHADOW_OP_CLEAN) };
    let op = abi::Domctl::new(abi::XEN_DOMCTL_SHADOW_OP, id, &long);
    control.hv.machine().write_guest(GuestAddr::new(REQUEST), op.as_bytes()).unwrap();
    let once = |control: &mut Guest| control.caller().domctl(&mut [REQUEST, 0, 0, 0, 0, 0]);
    assert_eq!(once(&mut control), Err(Stop::Unfinished));
    assert_eq!(domain.pause_count.load(SeqCst), pauses + 1);
    for op in [0, 2, abi::XEN_DOMCTL_SHADOW_OP_PEEK, abi::XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION] {
        assert_eq!(shadow_op(&mut control, id, &request(op)).unwrap_err(), Errno::Busy, "operation {op}");
    }
    let get = request(abi::XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION);
    assert_eq!(shadow_op(&mut control, id, &get).unwrap().mb, 1);
    control.hv.machine().write_guest(GuestAddr::new(REQUEST), op.as_bytes()).unwrap();
    while once(&mut control) == Err(Stop::Unfinished) {}
    assert_eq!(domain.pause_count.load(SeqCst), pauses);
    let word = control.hv.machine().read_guest_word(GuestAddr::new(LIST)).unwrap();
    assert_eq!(word & 1 << 7, 1 << 7);
    assert_eq!(read(&mut control, id, abi::XEN_DOMCTL_SHADOW_OP_PEEK).0, 1 << 4);
}

#[test]
fn what_there_is_no_log_of_is_told_in_steps_that_end() {
    let mut control = control_domain();
    let (domain, _) = guest(&mut control);
    let pauses = domain.pause_count.load(SeqCst);
    for op in [abi::XEN_DOMCTL_SHADOW_OP_CLEAN, abi::XEN_DOMCTL_SHADOW_OP_PEEK] {
        let long = DomctlShadowOp { dirty_bitmap: LIST, pages: 300_000, ..request(op) };
        let request = abi::Domctl::new(abi::XEN_DOMCTL_SHADOW_OP, domain.id, &long);
        control.hv.machine().write_guest(GuestAddr::new(REQUEST), request.as_bytes()).unwrap();
        let mut once = || control.caller().domctl(&mut [REQUEST, 0, 0, 0, 0, 0]);
        assert_eq!((once(), once()), (Err(Stop::Unfinished), Ok(0)), "operation {op}");
        assert_eq!(domain.pause_count.load(SeqCst), pauses);
    }
}
