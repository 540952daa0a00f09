//! Attacks that hypervisors of this kind have fallen to, done again: each test names the advisory of Xen's (XSA) in
//! whose way it goes. What other tests do already is not repeated here; `docs/security.md` has the whole list.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domid::DomId,
    errno::Errno,
    grant_table::{self as grants, GnttabMapGrantRef, GnttabUnmapGrantRef},
    hypercall::Hypercall,
    memory as op, mmu, vcpu as vcpu_abi,
};
use oxen_hv::{
    addr::GuestAddr,
    caller::Caller,
    mem::{RamFrame, entry::Entry, frame_type::FrameType},
};
use std::sync::atomic::Ordering::SeqCst;
use support::{
    audit, boot, entry_address,
    guest::{Guest, Home},
    table_word,
};
use x86_64::structures::paging::PageTableFlags;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const SELF: u64 = 0x7ff0;
const FLAGS: PageTableFlags = Entry::PRESENT.union(Entry::ACCESSED).union(Entry::USER);
/// The first address of the hypervisor's.
const HYPERVISOR: u64 = 0xffff_8000_0000_0000;
const DATA: usize = 8;

fn guest() -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(boot(128), 1, false, 40);
    let home = guest.build_home(DATA);
    (guest, home)
}

fn update(guest: &mut Guest, at: u64, value: u64) -> Result<u64, Errno> {
    guest.put(0, &[at, value]);
    guest.call(Caller::mmu_update, [0, 1, 0, SELF])
}

fn ask<T: FromBytes + IntoBytes + Immutable>(guest: &mut Guest, command: u32, request: &mut T) -> Result<u64, Errno> {
    guest.hv.machine().write_guest(GuestAddr::new(0), request.as_bytes()).unwrap();
    let answer = guest.call(Caller::grant_table_op, [u64::from(command), 0, 1, 0]);
    guest.hv.machine().read_guest(GuestAddr::new(0), request.as_mut_bytes()).unwrap();
    answer
}

/// A second guest's page 0, granted to the first as reference 8, for writing.
fn with_a_grant() -> (Guest, Home, Guest) {
    let (mut guest, home) = guest();
    let mut other = Guest::new(guest.hv, 2, false, 40);
    let others = other.build_home(DATA);
    guest.hv.grow_grant_table(&other.domain, 1).unwrap();
    let table = guest.hv.grant_table_frame(&other.domain, 0).unwrap();
    let offer = u64::from(grants::GTF_PERMIT_ACCESS) | 1 << 16 | others.data[0].raw() << 32;
    guest.hv.machine().words(table)[8].store(offer, SeqCst);
    guest.run();
    (guest, home, other)
}

fn map(guest: &mut Guest, flags: u32, host_addr: u64) -> (i16, u32) {
    let mut op =
        GnttabMapGrantRef { host_addr, flags, r#ref: 8, dom: DomId(2), status: 99, handle: 77, dev_bus_addr: 0 };
    assert_eq!(ask(guest, grants::GNTTABOP_MAP_GRANT_REF, &mut op), Ok(0));
    (op.status, op.handle)
}

#[test]
fn xsa_31_an_extent_of_a_senseless_order_takes_no_memory() {
    let (mut guest, _) = guest();
    for command in [op::XENMEM_INCREASE_RESERVATION, op::XENMEM_DECREASE_RESERVATION, op::XENMEM_POPULATE_PHYSMAP] {
        for order in [10, 21, 31, 63, 64, 255, u32::MAX] {
            let before = audit::snapshot(guest.hv);
            guest.put(0, &[1 << 12, 1, u64::from(order), SELF]);
            guest.put(1 << 12, &[5]);
            assert_eq!(guest.call(Caller::memory_op, [command.into(), 0, 0, 0]), Ok(0), "{command}, order {order}");
            audit::assert_unchanged(guest.hv, &before);
        }
    }
}

#[test]
fn xsa_29_and_212_an_exchange_writes_nothing_outside_the_guest_however_far_it_says_to_be() {
    let (mut guest, home) = guest();
    let lists = 1 << 12;
    guest.put(lists, &[home.data[5].raw(), home.data[6].raw(), home.data[7].raw()]);
    // Where the list of results begins is the guest's; where its elements lie, so far on, is not.
    for done in [0, 1, 2, 1 << 32, u64::MAX / 8, u64::MAX] {
        for out in
            [HYPERVISOR - 8, HYPERVISOR, HYPERVISOR.wrapping_sub(done.wrapping_mul(8)), 0xffff_82d0_8000_0000 - 8]
        {
            for count in [1, 3, u64::MAX] {
                let before = audit::snapshot(guest.hv);
                guest.put(0, &[lists, count, 0, SELF, out, count, 0, SELF, done]);
                // The fake machine panics at an address that nobody judged.
                let answer = guest.call(Caller::memory_op, [op::XENMEM_EXCHANGE.into(), 0, 0, 0]);
                let changed = audit::snapshot(guest.hv) != before;
                assert!(!changed || answer.is_ok(), "{out:#x}, {count} extents, {done} done: {answer:?}");
            }
        }
    }
}

#[test]
fn xsa_213_a_batch_ends_where_an_iret_leaves_the_kernel() {
    let (mut guest, _) = guest();
    let root = guest.state.kernel_root;
    guest.state.user_root = root;
    guest.run();
    // To user mode, flags and stack as they may be: RAX, R11, RCX, flags, RIP, CS, RFLAGS, RSP, SS.
    let frame = 3 << 12;
    guest.put(frame, &[0, 0, 0, 0, 0x1000, 0xe033, 1 << 9, 0x2000, 0xe02b]);
    guest.regs.rsp = frame;
    let unpin_the_root = 2 << 12;
    guest.put(unpin_the_root, &[mmu::MMUEXT_NEW_BASEPTR.into(), root.unwrap().mfn().raw(), 0]);
    let mut batch = [0; 16];
    batch[0] = Hypercall::Iret as u64;
    batch[8..14].copy_from_slice(&[Hypercall::MmuextOp as u64, 99, unpin_the_root, 1, 0, SELF]);
    guest.put(0, &batch);
    let _ = guest.call(Caller::multicall, [0, 2, 0, 0]);
    assert!(!guest.state.in_kernel, "the iret is carried out");
    assert_eq!(guest.hv.machine().read_guest_word(GuestAddr::new(72)).unwrap(), 99, "what follows it is not");
}

#[test]
fn xsa_227_a_grant_is_mapped_by_whole_entries_of_the_guests_own_tables_alone() {
    let (mut guest, home, _other) = with_a_grant();
    let flags = grants::GNTMAP_HOST_MAP | grants::GNTMAP_CONTAINS_PTE;
    let good = entry_address(home.tables[3], 20);
    for at in (1..8).map(|n| good + n).chain([
        entry_address(home.data[3], 0),
        entry_address(home.tables[2], 20),
        entry_address(home.tables[0], 256),
        0x10,
        u64::MAX - 7,
        1 << 52,
    ]) {
        let before = audit::snapshot(guest.hv);
        assert_ne!(map(&mut guest, flags, at).0, grants::GNTST_OKAY, "{at:#x}");
        audit::assert_unchanged(guest.hv, &before);
    }
    assert_eq!(map(&mut guest, flags, good).0, grants::GNTST_OKAY);
}

#[test]
fn xsa_234_an_entry_that_is_not_the_mapping_any_more_is_not_taken_for_it() {
    let (mut guest, home, other) = with_a_grant();
    let (at, slot) = (20 << 12, 20);
    let (status, handle) = map(&mut guest, grants::GNTMAP_HOST_MAP, at);
    assert_eq!(status, grants::GNTST_OKAY);
    let unmap = |guest: &mut Guest, host_addr| {
        let mut op = GnttabUnmapGrantRef { host_addr, dev_bus_addr: 0, handle, status: 99, _pad0: 0 };
        assert_eq!(ask(guest, grants::GNTTABOP_UNMAP_GRANT_REF, &mut op), Ok(0));
        op.status
    };
    // The same frame, for reading alone, in the mapping's own place: what was counted was a writer.
    let mapped = table_word(guest.hv, home.tables[3], slot).load(SeqCst);
    let entry = entry_address(home.tables[3], slot);
    let _ = update(&mut guest, entry, Entry(mapped).without(Entry::WRITABLE).0);
    let is_read_only = table_word(guest.hv, home.tables[3], slot).load(SeqCst) & Entry::WRITABLE.bits() == 0;
    let status = unmap(&mut guest, at);
    let frame = Entry(mapped).mfn().unwrap();
    let uses = guest.hv.memory.frames.state(frame).uses();
    let pins = other.domain.grants.lock().each_pin().count();
    assert!(is_read_only || status == grants::GNTST_OKAY);
    assert!(
        status != grants::GNTST_OKAY || pins == 0 && uses == 1,
        "unmapped, and still used: {uses} uses, {pins} pins"
    );
    assert!(status == grants::GNTST_OKAY || pins != 0, "still mapped, and the granter is told otherwise");
    assert_ne!(unmap(&mut guest, 21 << 12), grants::GNTST_OKAY, "where it never was");
}

#[test]
fn xsa_298_a_selector_beyond_the_ldt_makes_no_page_a_descriptor_page() {
    let (mut guest, home) = guest();
    let page = home.data[4];
    // Mapped for reading alone, so that it could become one.
    assert_eq!(update(&mut guest, entry_address(home.tables[3], 4), Entry::to(page, FLAGS).0), Ok(0));
    guest.put(0, &[mmu::MMUEXT_SET_LDT.into(), 3 << 12, 512]);
    assert_eq!(guest.call(Caller::mmuext_op, [0, 1, 0, SELF]), Ok(0));
    // Entries 512 and above are in that page.
    for selector in [512 << 3 | 7, 1023 << 3 | 7, 0xffff] {
        assert!(!guest.caller().take_ldt_page_of(selector), "{selector:#x}");
        assert_ne!(guest.hv.memory.frames.state(page).kind(), FrameType::Descriptor);
    }
    guest.put(0, &[mmu::MMUEXT_SET_LDT.into(), 3 << 12, 513]);
    assert_eq!(guest.call(Caller::mmuext_op, [0, 1, 0, SELF]), Ok(0));
    assert!(guest.caller().take_ldt_page_of(512 << 3 | 7));
    assert_eq!(guest.state.ldt[1].map(RamFrame::mfn), Some(page));
}

#[test]
fn xsa_279_an_address_of_nobodys_is_neither_mapped_nor_flushed() {
    let (mut guest, home) = guest();
    let entry = Entry::to(home.data[1], FLAGS).0;
    for va in [1 << 47, 0xffff_7fff_ffff_f000, HYPERVISOR, 0xffff_87ff_ffff_f000, 0x8000_0000_0000_0000] {
        let before = audit::snapshot(guest.hv);
        let answer = guest.call(Caller::update_va_mapping, [va, entry, mmu::UVMF_INVLPG, 0]);
        assert!(answer.is_err(), "{va:#x}: {answer:?}");
        audit::assert_unchanged(guest.hv, &before);
        for command in [mmu::MMUEXT_INVLPG_LOCAL, mmu::MMUEXT_INVLPG_ALL] {
            guest.put(0, &[command.into(), va, 0]);
            assert_eq!(guest.call(Caller::mmuext_op, [0, 1, 0, SELF]), Ok(0), "{va:#x}");
        }
    }
}

#[test]
fn xsa_148_and_182_a_bit_that_no_entry_may_have_is_not_slipped_in_by_an_update_of_flags() {
    for level in 1..=4_usize {
        for bit in (0..64).filter(|bit| !(12..40).contains(bit)) {
            for command in [mmu::MMU_NORMAL_PT_UPDATE, mmu::MMU_PT_UPDATE_PRESERVE_AD] {
                let (mut guest, home) = guest();
                let (table, slot) = (home.tables[4 - level], if level == 1 { 5 } else { 0 });
                let was = Entry(table_word(guest.hv, table, slot).load(SeqCst));
                let _ = update(&mut guest, entry_address(table, slot) | command, was.0 ^ 1 << bit);
                let is = Entry(table_word(guest.hv, table, slot).load(SeqCst));
                let caching = Entry::PCD | Entry::PWT | Entry::PAT_OR_SIZE;
                let is_sound = !is.is_present() || is.mfn() == was.mfn() && !is.has_any(caching);
                assert!(is_sound, "level {level}, bit {bit}: {was:?} became {is:?}");
            }
        }
    }
}

#[test]
fn xsa_20_a_timer_for_the_end_of_time_neither_fires_nor_overflows() {
    let (mut guest, _) = guest();
    for (command, words) in [
        (vcpu_abi::VCPUOP_SET_PERIODIC_TIMER, [u64::MAX, 0]),
        (vcpu_abi::VCPUOP_SET_PERIODIC_TIMER, [1 << 63, 0]),
        (vcpu_abi::VCPUOP_SET_PERIODIC_TIMER, [i64::MAX as u64, 0]),
        (vcpu_abi::VCPUOP_SET_SINGLESHOT_TIMER, [i64::MAX as u64, 0]),
    ] {
        guest.put(0, &words);
        let answer = guest.call(Caller::vcpu_op, [command.into(), 0, 0, 0]);
        assert!(answer.is_ok() || answer == Err(Errno::Inval), "{command}, {words:?}: {answer:?}");
        guest.hv.machine().time.fetch_add(1 << 40, SeqCst);
    }
    guest.put(0, &[0, 0]);
    assert_eq!(guest.call(Caller::vcpu_op, [vcpu_abi::VCPUOP_SET_PERIODIC_TIMER.into(), 0, 0, 0]), Err(Errno::Inval));
}
