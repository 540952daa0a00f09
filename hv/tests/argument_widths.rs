//! Arguments that are narrower than the registers they come in, and calls whose answer depends on a right or on what
//! was said before: as Xen 4.17 takes them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used, reason = "it is a test")]

mod support;

use oxen_abi::{
    errno::Errno,
    grant_table::{GNTTABOP_COPY, GNTTABOP_QUERY_SIZE},
    hypercall::Hypercall,
    memory as op, mmu,
    sched::{SCHEDOP_POLL, SCHEDOP_SHUTDOWN_CODE},
    vm_assist::VMASST_TYPE_M2P_STRICT,
};
use oxen_hv::{addr::GuestAddr, caller::Caller, mem::entry::Entry};
use std::sync::atomic::Ordering::SeqCst;
use support::{
    boot,
    guest::{Guest, Home},
    table_word,
};

const SELF: u64 = 0x7ff0;
/// The first bit above 32.
const HIGH: u64 = 1 << 32;

fn guest() -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(boot(256), 1, false, 64);
    let home = guest.build_home(4);
    (guest, home)
}

fn extended(guest: &mut Guest, cmd: u32, arg1: u64, arg2: u64) -> Result<u64, Errno> {
    guest.put(0, &[u64::from(cmd), arg1, arg2]);
    guest.call(Caller::mmuext_op, [0, 1, 0, SELF])
}

#[test]
fn an_ldts_number_of_entries_has_32_bits_and_without_entries_it_has_no_place() {
    let (mut guest, _) = guest();
    let ldt = mmu::MMUEXT_SET_LDT;
    assert_eq!(extended(&mut guest, ldt, 0x1000, 8 | HIGH), Ok(0));
    assert_eq!((guest.state.ldt_base, guest.state.ldt_entries), (0x1000, 8));
    assert_eq!(extended(&mut guest, ldt, 0x1000, HIGH), Ok(0), "of 2^32 entries: none");
    assert_eq!((guest.state.ldt_base, guest.state.ldt_entries), (0, 0));
    assert_eq!(extended(&mut guest, ldt, 0x1001, 0), Ok(0));
    assert_eq!(extended(&mut guest, ldt, 0xffff_8300_0000_0000, 0), Ok(0));
    assert_eq!(extended(&mut guest, ldt, 0x1001, 1), Err(Errno::Inval));
    assert_eq!(extended(&mut guest, ldt, 0x1000, 8193), Err(Errno::Inval));
    assert_eq!(extended(&mut guest, ldt, 0x1000, u64::from(u32::MAX)), Err(Errno::Inval));
    assert_eq!((guest.state.ldt_base, guest.state.ldt_entries), (0, 0));
}

#[test]
fn counts_and_owners_of_updates_have_their_own_bits() {
    let (mut guest, home) = guest();
    let entry = Entry::to(home.data[1], Entry::PRESENT | Entry::USER).0;
    guest.put(0, &[support::entry_address(home.tables[3], 1), entry]);
    assert_eq!(guest.call(Caller::mmu_update, [0, 1 | HIGH, 0, SELF | HIGH]), Ok(0));
    assert_eq!(table_word(guest.hv, home.tables[3], 1).load(SeqCst) & entry, entry);
    assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, SELF | 2 << 16]), Ok(0), "tables of domain 1");
    for tables in [SELF, 0x7ff1, 9] {
        let answer = guest.call(Caller::mmu_update, [0, 1, 0, SELF | (tables + 1) << 16]);
        assert_eq!(answer, Err(Errno::Srch), "tables of {tables:#x}");
    }
    guest.put(0, &[u64::from(mmu::MMUEXT_TLB_FLUSH_LOCAL), 0, 0]);
    assert_eq!(guest.call(Caller::mmuext_op, [0, 1 | HIGH, 0, SELF | 1 << 16 | HIGH]), Ok(0));
}

#[test]
fn a_hypercalls_number_has_64_bits_in_a_batch_too() {
    let (mut guest, _) = guest();
    let version = Hypercall::XenVersion as u64;
    guest.put(0, &[version | HIGH, 9, 0, 0, 0, 0, 0, 0, version, 9, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.call(Caller::multicall, [0, 2 | HIGH, 0, 0]), Ok(0));
    assert_eq!(guest.hv.machine().read_guest_word(GuestAddr::new(8)).unwrap(), Errno::NoSys.to_return_value());
    assert_eq!(guest.hv.machine().read_guest_word(GuestAddr::new(72)).unwrap(), 4 << 16 | 17);
}

#[test]
fn only_what_goes_by_extents_may_have_begun() {
    let (mut guest, _) = guest();
    guest.put(0, &[SELF, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (command, answer) in [
        (op::XENMEM_CURRENT_RESERVATION, Errno::Inval),
        (op::XENMEM_MAXIMUM_RAM_PAGE, Errno::Inval),
        (op::XENMEM_EXCHANGE, Errno::Inval),
        (op::XENMEM_CLAIM_PAGES, Errno::Inval),
        (op::XENMEM_REMOVE_FROM_PHYSMAP, Errno::Inval),
        (op::XENMEM_ADD_TO_PHYSMAP, Errno::Acces),
        (op::XENMEM_ACQUIRE_RESOURCE, Errno::Srch),
        (op::XENMEM_MEMORY_MAP, Errno::NoSys),
        (op::XENMEM_MACHPHYS_MAPPING, Errno::NoSys),
    ] {
        let begun = u64::from(command) | 1 << op::MEMOP_EXTENT_SHIFT;
        assert_eq!(guest.call(Caller::memory_op, [begun, 0, 0, 0]), Err(answer), "{command}");
    }
    assert!(guest.call(Caller::memory_op, [u64::from(op::XENMEM_CURRENT_RESERVATION), 0, 0, 0]).is_ok());
}

#[test]
fn a_grant_table_ops_upper_bits_are_a_continuations() {
    let (mut guest, _) = guest();
    guest.put(0, &[SELF, 0]);
    let size = u64::from(GNTTABOP_QUERY_SIZE);
    assert_eq!(guest.call(Caller::grant_table_op, [size | HIGH, 0, 1 | HIGH, 0]), Ok(0));
    assert_eq!(guest.call(Caller::grant_table_op, [size | 1 << 12, 0, 1, 0]), Err(Errno::Inval));
    assert_eq!(guest.call(Caller::grant_table_op, [u64::from(GNTTABOP_COPY) | 1 << 31, 0, 0, 0]), Err(Errno::Inval));
}

#[test]
fn caches_are_flushed_for_who_reaches_a_device() {
    let (mut guest, _) = guest();
    let both = [mmu::MMUEXT_FLUSH_CACHE, mmu::MMUEXT_FLUSH_CACHE_GLOBAL];
    let ask = |guest: &mut Guest| both.map(|cmd| extended(guest, cmd, 0, 0));
    assert_eq!(ask(&mut guest), [Err(Errno::Acces), Err(Errno::Inval)]);
    guest.domain.memory.rights.lock().ports.insert(0x3f8, 0x3ff).unwrap();
    assert_eq!(ask(&mut guest), [Ok(0), Ok(0)]);
    guest.domain.memory.rights.lock().ports.remove(0x3f8, 0x3ff).unwrap();
    guest.domain.memory.rights.lock().memory.insert(0xf_eb00, 0xf_eb00).unwrap();
    assert_eq!(ask(&mut guest), [Ok(0), Ok(0)]);
}

#[test]
fn a_poll_looks_at_its_ports_in_order_up_to_one_that_is_pending() {
    let (mut guest, _) = guest();
    let port = guest.caller().bind_ipi(0).unwrap();
    let poll = |guest: &mut Guest, first: u32, second: u32| {
        guest.put(0, &[24, 2, 1, u64::from(first) | u64::from(second) << 32]);
        guest.call(Caller::sched_op, [SCHEDOP_POLL.into(), 0, 0, 0])
    };
    for none in [0, 63, 64, 4000, u32::MAX] {
        assert_eq!(poll(&mut guest, port, none), Err(Errno::Inval), "{none} is not in use");
    }
    guest.state.info.set_upcall_mask(true);
    guest.caller().send_event(port).unwrap();
    assert_eq!(poll(&mut guest, port, 4000), Ok(0), "the first is pending");
    assert_eq!(poll(&mut guest, 4000, port), Err(Errno::Inval));
    guest.state.info.set_upcall_mask(false);
    assert_eq!(poll(&mut guest, 4000, port), Ok(0), "an event waits to be delivered");
    assert_eq!(guest.vcpu.pauses.load(SeqCst), oxen_hv::domain::vcpu::Pauses::empty());
}

#[test]
fn the_first_reason_to_shut_down_stands() {
    let (mut guest, _) = guest();
    for said in [3 | 0x100, 1] {
        guest.put(0, &[said]);
        assert_eq!(guest.call(Caller::sched_op, [SCHEDOP_SHUTDOWN_CODE.into(), 0, 0, 0]), Ok(0));
    }
    assert_eq!(guest.domain.shutdown_code.load(SeqCst), 3);
}

#[test]
fn a_user_root_hides_the_machine_to_phys_table_from_who_asks_for_that() {
    let (mut guest, home) = guest();
    let hv = guest.hv;
    let kernel = home.tables[0];
    let roots = [guest.frame(), guest.frame()];
    let first_slot = |root| hv.machine().words(root)[256].load(SeqCst);
    assert_ne!(first_slot(kernel), 0);
    assert_eq!(extended(&mut guest, mmu::MMUEXT_NEW_USER_BASEPTR, roots[0].raw(), 0), Ok(0));
    assert_ne!(first_slot(roots[0]), 0);
    assert_eq!(guest.call(Caller::vm_assist, [0, VMASST_TYPE_M2P_STRICT.into(), 0, 0]), Ok(0));
    assert_eq!(extended(&mut guest, mmu::MMUEXT_NEW_USER_BASEPTR, roots[1].raw(), 0), Ok(0));
    assert_eq!(first_slot(roots[1]), 0);
    assert!(hv.machine().words(roots[1])[257].load(SeqCst) != 0, "the hypervisor's own stays");
    assert_eq!(extended(&mut guest, mmu::MMUEXT_NEW_USER_BASEPTR, roots[0].raw(), 0), Ok(0));
    assert_eq!(first_slot(roots[0]), 0, "one that was a root before");
    assert_ne!(first_slot(kernel), 0, "not the kernel's");
}
