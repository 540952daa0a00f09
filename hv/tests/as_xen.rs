//! Answers that `cargo xtask fuzz` found to be other than real Xen's, as they are there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    callback::{
        CALLBACKOP_REGISTER, CALLBACKOP_UNREGISTER, CALLBACKTYPE_SYSCALL32, CALLBACKTYPE_SYSENTER,
        CALLBACKTYPE_SYSENTER_DEPRECATED,
    },
    domctl::{
        CpuidLeaf, Domctl, DomctlVcpuaffinity, DomctlVmEventOp, XEN_DOMCTL_ASSIGN_DEVICE, XEN_DOMCTL_DEASSIGN_DEVICE,
        XEN_DOMCTL_GETVCPUAFFINITY, XEN_DOMCTL_TEST_ASSIGN_DEVICE, XEN_DOMCTL_VM_EVENT_OP, XenctlBitmap,
    },
    domid::DomId,
    errno::Errno,
    event_channel::EVTCHNOP_RESET_CONT,
    features::XENFEAT_PAE_PGDIR_ABOVE_4GB,
    grant_table::{
        GNTST_GENERAL_ERROR, GNTST_OKAY, GNTTABOP_GET_STATUS_FRAMES, GNTTABOP_GET_VERSION, GNTTABOP_SET_VERSION,
        MapFlags,
    },
    memory::{XENMEM_ACQUIRE_RESOURCE, XENMEM_SET_MEMORY_MAP},
    mmu::MMU_MACHPHYS_UPDATE,
    physdev::PHYSDEVOP_IRQ_UNMASK_NOTIFY,
    platform::{PlatformOp, XENPF_RESOURCE_OP, XenpfResourceEntry, XenpfResourceOp},
    sched::SCHEDOP_REMOTE_SHUTDOWN,
    vcpu::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
    vm_assist::VMASST_TYPE_PAE_EXTENDED_CR3,
};
use oxen_hv::{
    addr::GuestAddr,
    caller::Caller,
    domain::{control_registers::CR4_GUEST, cpu_policy::CpuPolicy, debug, traps::TrapHandler},
    mem::{entry::Entry, grant_mapping::entry_flags},
};
use std::sync::{Arc, atomic::Ordering};
use support::guest::{Guest, Home};
use x86_64::registers::control::Cr4Flags;
use x86_64::structures::paging::PageTableFlags;
use zerocopy::{FromZeros, IntoBytes};

const SELF: u64 = 0x7ff0;

fn guest() -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(256), 1, false, 64);
    let home = guest.build_home(4);
    (guest, home)
}

#[test]
fn the_kind_of_a_page_table_update_has_three_bits() {
    let (mut guest, home) = guest();
    let place = home.tables[3].address().as_u64() + 8 * 100;
    for (kind, answer) in [(0, Ok(0)), (2, Ok(0)), (3, Ok(0)), (4, Err(Errno::NoSys)), (5, Err(Errno::NoSys))] {
        guest.put(0, &[place | kind, 0]);
        assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, SELF]), answer, "{kind}");
    }
    guest.put(0, &[home.data[1].address().as_u64() | 4 | MMU_MACHPHYS_UPDATE, 1]);
    assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, SELF]), Err(Errno::NoSys), "no machine-to-phys update");
}

#[test]
fn the_debug_status_has_32_bits() {
    let (guest, _) = guest();
    let mut state = guest.state;
    for register in [4, 6] {
        assert_eq!(debug::set(&mut state, register, 1 << 32), Err(Errno::Inval));
        assert_eq!(debug::set(&mut state, register, 0xffff_ffff), Ok(()));
    }
}

#[test]
fn a_grant_tables_version_is_asked_for_whatever_the_count_says() {
    let (mut guest, _) = guest();
    for count in [0, 1, 2] {
        guest.put(0, &[SELF]);
        assert_eq!(guest.call(Caller::grant_table_op, [GNTTABOP_GET_VERSION.into(), 0, count, 0]), Ok(0));
        guest.put(0, &[1]);
        assert_eq!(guest.call(Caller::grant_table_op, [GNTTABOP_SET_VERSION.into(), 0, count, 0]), Ok(0));
    }
}

#[test]
fn nothing_runs_in_a_granted_page() {
    for flags in [MapFlags::empty(), MapFlags::APPLICATION_MAP] {
        assert_eq!(entry_flags(flags) & Entry::NO_EXECUTE, Entry::NO_EXECUTE);
    }
}

#[test]
fn a_reset_that_nobody_began_does_not_go_on() {
    let (mut guest, _) = guest();
    for (domain, error) in [(0x1234, Errno::Srch), (0x7ff0, Errno::Busy)] {
        guest.put(0, &[domain]);
        assert_eq!(guest.call(Caller::event_channel_op, [EVTCHNOP_RESET_CONT.into(), 0, 0, 0]), Err(error));
    }
}

#[test]
fn the_call_that_interrupts_are_unmasked_means_nothing_and_is_taken() {
    let (mut guest, _) = guest();
    assert_eq!(guest.call(Caller::physdev_op, [PHYSDEVOP_IRQ_UNMASK_NOTIFY.into(), 0, 0, 0]), Ok(0));
}

/// Whether an instruction is done in the kernel's place; it goes to the kernel's handler otherwise.
fn is_emulated(guest: &mut Guest, code: [u8; 3]) -> bool {
    const PLACE: u64 = 0x800;
    guest.put(0, &[0; 16]);
    let word = u64::from_le_bytes([code[0], code[1], code[2], 0x90, 0x90, 0x90, 0x90, 0x90]);
    guest.hv.machine().write_guest_word(GuestAddr::new(PLACE), word).unwrap();
    let mut caller = guest.caller();
    caller.regs.rip = PLACE;
    (caller.regs.rax, caller.regs.rcx, caller.regs.rdx) = (3, 0, 0);
    caller.general_protection(0);
    (PLACE + 1..PLACE + 4).contains(&caller.regs.rip)
}

#[test]
fn caches_are_written_back_but_not_thrown_away() {
    let (mut guest, _) = guest();
    assert!(is_emulated(&mut guest, [0x0f, 0x09, 0x90]), "wbinvd");
    assert!(!is_emulated(&mut guest, [0x0f, 0x08, 0x90]), "invd");
}

#[test]
fn a_translation_is_forgotten_by_hypercall_alone() {
    let (mut guest, _) = guest();
    assert!(!is_emulated(&mut guest, [0x0f, 0x01, 0x38]), "invlpg");
}

#[test]
fn debug_registers_4_and_5_are_none_for_who_does_not_want_them() {
    const HANDLER: u64 = 0x2000;
    let (mut guest, _) = guest();
    let read = [0x0f, 0x21, 0xe8];
    assert!(is_emulated(&mut guest, read));
    guest.state.cr4 |= Cr4Flags::DEBUGGING_EXTENSIONS;
    guest.state.traps.set(6, TrapHandler { address: HANDLER, cs: 0xe033, flags: 0 });
    guest.regs.rsp = 0x1800;
    assert!(!is_emulated(&mut guest, read));
    assert_eq!(guest.regs.rip, HANDLER, "an undefined opcode");
}

#[test]
fn xcr0_is_set_by_a_kernel_that_turned_xsave_on() {
    let (mut guest, _) = guest();
    let xsetbv = [0x0f, 0x01, 0xd1];
    assert!(!is_emulated(&mut guest, xsetbv));
    guest.state.cr4 |= Cr4Flags::OSXSAVE;
    assert!(is_emulated(&mut guest, xsetbv));
    for (absent, expected) in [(1 << 26, false), (1 << 28, true)] {
        let mut policy = CpuPolicy::default();
        policy.set(&CpuidLeaf { leaf: 1, subleaf: u32::MAX, a: 0, b: 0, c: !absent, d: u32::MAX });
        policy.settle();
        *guest.domain.cpu_policy.lock() = Some(Arc::new(policy));
        assert_eq!(is_emulated(&mut guest, xsetbv), expected, "a guest that is not to see {absent:#x}");
    }
}

#[test]
fn bits_of_cr4_that_are_not_the_guests_are_ignored() {
    let (mut guest, _) = guest();
    let at_start = guest.state.cr4;
    // `mov cr4, rax`, with RAX 3: two bits of virtual-8086 mode, which no PV guest has.
    assert!(is_emulated(&mut guest, [0x0f, 0x22, 0xe0]));
    assert_eq!(guest.state.cr4, at_start - CR4_GUEST);
}

#[test]
fn a_runstate_area_is_where_the_guest_says_mapped_or_not() {
    let (mut guest, _) = guest();
    let register = |guest: &mut Guest, at| {
        guest.put(0, &[at]);
        guest.call(Caller::vcpu_op, [VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA.into(), guest.vcpu.id.into(), 0, 0])
    };
    assert_eq!(register(&mut guest, 1 << 40), Ok(0));
    assert_eq!(guest.vcpu.sched.runstate_area.load(Ordering::SeqCst), 1 << 40);
    assert_eq!(register(&mut guest, 1 << 63), Err(Errno::Fault));
    assert_eq!(guest.vcpu.sched.runstate_area.load(Ordering::SeqCst), 1 << 40);
    assert_eq!(register(&mut guest, u64::MAX), Ok(0), "it begins in the guest's part");
}

#[test]
fn a_device_and_the_version_of_events_are_asked_about_without_a_domain() {
    support::on_cpu(0);
    let mut dom0 = Guest::new(support::boot(256), 0, true, 64);
    dom0.build_home(4);
    let mut ask = |command: u32, domain: u16| {
        let op = Domctl::new(command, DomId(domain), &0_u64);
        dom0.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
        dom0.call(Caller::domctl, [0; 4])
    };
    for (command, nobody, devices) in [
        (XEN_DOMCTL_ASSIGN_DEVICE, Errno::Srch, Errno::OpNotSupp),
        (XEN_DOMCTL_TEST_ASSIGN_DEVICE, Errno::OpNotSupp, Errno::Srch),
        (XEN_DOMCTL_DEASSIGN_DEVICE, Errno::Srch, Errno::OpNotSupp),
    ] {
        assert_eq!(ask(command, 0x7ff4), Err(nobody), "{command}");
        assert_eq!(ask(command, 0x7ff1), Err(devices), "{command}");
    }
    let mut version = |op: u32| {
        let op = Domctl::new(XEN_DOMCTL_VM_EVENT_OP, DomId::INVALID, &DomctlVmEventOp { op, mode: 0, value: 0 });
        dom0.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
        dom0.call(Caller::domctl, [0; 4])
    };
    assert_eq!([2, 3, 4].map(&mut version), [Err(Errno::Srch), Ok(0), Err(Errno::Srch)]);
}

#[test]
fn no_status_frames_are_had_for_the_asking() {
    let (mut guest, _) = guest();
    for (frames, status) in [(0, GNTST_OKAY), (1, GNTST_GENERAL_ERROR)] {
        guest.put(0, &[frames | SELF << 32 | 0x7777 << 48, 0x800]);
        assert_eq!(guest.call(Caller::grant_table_op, [GNTTABOP_GET_STATUS_FRAMES.into(), 0, 1, 0]), Ok(0));
        let answer = guest.hv.machine().read_guest_word(GuestAddr::new(0)).unwrap() >> 48;
        assert_eq!(answer as i16, status, "{frames}");
    }
}

#[test]
fn the_first_kind_of_sysenter_callbacks_is_not_there() {
    let (mut guest, _) = guest();
    guest.put(0, &[CALLBACKTYPE_SYSCALL32.into(), 0]);
    assert_eq!(guest.call(Caller::callback_op, [CALLBACKOP_UNREGISTER.into(), 0, 0, 0]), Err(Errno::Inval));
    for command in [CALLBACKOP_REGISTER, CALLBACKOP_UNREGISTER] {
        for (kind, is_known) in [(CALLBACKTYPE_SYSENTER, true), (CALLBACKTYPE_SYSENTER_DEPRECATED, false)] {
            guest.put(0, &[kind.into(), 0x1000]);
            let answer = guest.call(Caller::callback_op, [command.into(), 0, 0, 0]);
            assert_eq!(answer == Err(Errno::NoSys), !is_known, "{command} of {kind}: {answer:?}");
        }
    }
}

#[test]
fn who_may_do_nothing_to_others_is_told_first_that_there_is_no_such_domain() {
    let (mut guest, _) = guest();
    let own = u64::from(guest.domain.id.0);
    for (domain, answer) in [(0x1234, Errno::Srch), (own, Errno::Perm)] {
        guest.put(0, &[domain, 0, 0]);
        let map = guest.call(Caller::memory_op, [XENMEM_SET_MEMORY_MAP.into(), 0, 0, 0]);
        let is_own = domain == own;
        assert_eq!(map, if is_own { Ok(0) } else { Err(answer) }, "the memory map of {domain:#x}: its own is its own");
        let shutdown = guest.call(Caller::sched_op, [SCHEDOP_REMOTE_SHUTDOWN.into(), 0, 0, 0]);
        assert_eq!(shutdown, Err(answer), "the shutdown of {domain:#x}");
    }
}

#[test]
fn a_root_beyond_4_gib_is_a_feature_of_who_asked_for_it() {
    let (mut guest, _) = guest();
    let submap = |guest: &mut Guest| {
        guest.put(0, &[0]);
        assert_eq!(guest.call(Caller::xen_version, [6, 0, 0, 0]), Ok(0));
        guest.hv.machine().read_guest_word(GuestAddr::new(0)).unwrap() >> 32
    };
    let before = submap(&mut guest);
    for (command, more) in [(0, 1 << XENFEAT_PAE_PGDIR_ABOVE_4GB), (1, 0)] {
        assert_eq!(guest.call(Caller::vm_assist, [command, VMASST_TYPE_PAE_EXTENDED_CR3.into(), 0, 0]), Ok(0));
        assert_eq!(submap(&mut guest), before | more);
    }
}

#[test]
fn a_resource_begins_within_32_bits() {
    let (mut guest, _) = guest();
    for (frame, answer) in [(0, Errno::Srch), (1 << 32, Errno::Inval)] {
        guest.put(0, &[0x1234, 0, frame, 0]);
        assert_eq!(guest.call(Caller::memory_op, [XENMEM_ACQUIRE_RESOURCE.into(), 0, 0, 0]), Err(answer), "{frame:#x}");
    }
}

#[test]
fn of_two_affinities_that_are_asked_for_the_second_is_answered_for() {
    support::on_cpu(0);
    let mut dom0 = Guest::new(support::boot(256), 0, true, 64);
    dom0.build_home(4);
    let map = |bitmap| XenctlBitmap { bitmap, nr_bits: 64, _pad0: 0 };
    let mut ask = |flags, hard, soft| {
        let request =
            DomctlVcpuaffinity { flags, cpumap_hard: map(hard), cpumap_soft: map(soft), ..FromZeros::new_zeroed() };
        let op = Domctl::new(XEN_DOMCTL_GETVCPUAFFINITY, DomId(0), &request);
        dom0.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
        dom0.call(Caller::domctl, [0; 4])
    };
    assert_eq!(ask(1, 1 << 40, 0x1000), Err(Errno::Fault));
    assert_eq!(ask(3, 1 << 40, 0x1000), Ok(0));
    assert_eq!(ask(3, 0x1000, 1 << 40), Err(Errno::Fault));
}

#[test]
fn a_register_beyond_32_bits_is_told_apart_from_one_that_is_forbidden() {
    support::on_cpu(0);
    let mut dom0 = Guest::new(support::boot(256), 0, true, 64);
    dom0.build_home(4);
    for (idx, error) in [(0x1b, Errno::Perm), (0x1b | 1 << 32, Errno::Inval)] {
        let entry = XenpfResourceEntry { idx, ..FromZeros::new_zeroed() };
        dom0.hv.machine().write_guest(GuestAddr::new(0x1000), entry.as_bytes()).unwrap();
        let request = XenpfResourceOp { nr_entries: 1, cpu: 0, entries: 0x1000 };
        let op = PlatformOp::new(XENPF_RESOURCE_OP, &request);
        dom0.hv.machine().write_guest(GuestAddr::new(0), op.as_bytes()).unwrap();
        assert_eq!(dom0.call(Caller::platform_op, [0; 4]), Ok(0));
        let told = dom0.hv.machine().read_guest_word(GuestAddr::new(0x1000)).unwrap();
        assert_eq!(told as u32, (error as u32).wrapping_neg());
    }
}

#[test]
fn device_memory_is_named_in_a_list_of_updates_by_anybody_and_for_one_address_by_the_control_domain() {
    support::on_cpu(0);
    for is_privileged in [false, true] {
        let mut guest = Guest::new(support::boot(256), u16::from(!is_privileged), is_privileged, 64);
        let home = guest.build_home(16);
        let own = Entry::to(home.data[0], Entry::PRESENT | Entry::USER).0;
        let io = DomId::IO.0.into();
        let error = if is_privileged { Errno::Busy } else { Errno::Perm };
        assert_eq!(guest.call(Caller::update_va_mapping_otherdomain, [0x5000, own, 2, io]), Err(error));
        guest.put(0, &[support::entry_address(home.tables[3], 300), own]);
        assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, io]), Err(Errno::Busy));
    }
}

#[test]
fn device_memory_is_not_cached_whatever_is_asked_for() {
    const UNCACHED: PageTableFlags = Entry::PWT.union(Entry::PCD);
    const COMBINING: PageTableFlags = Entry::PAT_OR_SIZE;
    support::on_cpu(0);
    let mut dom0 = Guest::new(support::boot(256), 0, true, 64);
    let home = dom0.build_home(16);
    let word = support::table_word(dom0.hv, home.tables[3], 9);
    let device = Entry((dom0.hv.memory.frames.end() as u64) << 12).with(Entry::PRESENT | Entry::USER);
    let cached = [PageTableFlags::empty(), Entry::PWT, COMBINING | Entry::PWT].map(|asked| (asked, UNCACHED));
    let others = [Entry::PCD, UNCACHED, COMBINING, COMBINING | Entry::PCD, COMBINING | UNCACHED];
    for (asked, stands) in cached.into_iter().chain(others.map(|asked| (asked, asked))) {
        assert_eq!(dom0.call(Caller::update_va_mapping, [0x9000, device.with(asked).0, 2, 0]), Ok(0));
        assert_eq!(word.load(Ordering::SeqCst), device.with(stands).0, "{asked:?}");
        dom0.put(0, &[support::entry_address(home.tables[3], 9), device.with(Entry::WRITABLE | asked).0]);
        assert_eq!(dom0.call(Caller::mmu_update, [0, 1, 0, 0x7ff0]), Ok(0));
        assert_eq!(word.load(Ordering::SeqCst), device.with(Entry::WRITABLE | stands).0, "{asked:?}");
    }
}

#[test]
fn the_control_domain_maps_no_frame_that_the_cpu_cannot_address() {
    const ADDRESS_BITS: u32 = 40;
    support::on_cpu(0);
    let hv = support::boot(256);
    hv.machine().peripherals.lock().unwrap().cpuid.insert(0x8000_0008, [ADDRESS_BITS, 0, 0, 0]);
    let mut dom0 = Guest::new(hv, 0, true, 64);
    dom0.build_home(16);
    let end = 1_u64 << ADDRESS_BITS;
    for (address, answer) in [(end - 0x1000, Ok(0)), (end, Err(Errno::Perm)), (1 << 51, Err(Errno::Perm))] {
        let entry = Entry(address).with(Entry::PRESENT | Entry::USER);
        assert_eq!(dom0.call(Caller::update_va_mapping, [0x9000, entry.0, 2, 0]), answer, "{address:#x}");
    }
}
