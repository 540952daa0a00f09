//! Domains made and ended through the control domain's calls: whatever state they are ended in, everything comes back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::{self as abi, DomctlCreatedomain},
    domid::DomId,
    errno::Errno,
    guest_context::VcpuGuestContext,
    platform::{PlatformOp, XENPF_GET_CPUINFO},
    segments::VGCF_IN_KERNEL,
    sysctl::{self, Sysctl, SysctlGetdomaininfolist, SysctlPhysinfo},
    vcpu::VCPUOP_INITIALISE,
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    grant,
    mem::{Tlb, root::RootAddress},
    reply::Stop,
};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use support::{
    audit, boot_with,
    control::{LIST, REQUEST, STEPS, as_guest, ask, control_domain, destroy, furnish, make, set_context, wanted},
    guest::Guest,
    on_cpu,
};
use zerocopy::{FromZeros, IntoBytes};

#[test]
fn a_domain_ended_in_any_state_gives_everything_back() {
    for last in 0..STEPS.len() {
        let mut control = control_domain();
        let hv = control.hv;
        let free = hv.memory.frames.free_frames();
        let domain = make(&mut control);
        for step in &STEPS[..=last] {
            step(&mut control, &domain);
        }
        destroy(&mut control, domain.id).unwrap();
        assert_eq!(hv.memory.frames.free_frames(), free, "after step {last}");
        assert!(hv.domains.get(domain.id).is_none(), "after step {last}");
        assert_eq!(Arc::strong_count(&domain), 1, "after step {last}");
        assert_eq!(destroy(&mut control, domain.id), Err(Errno::Srch));
        let mut holds = audit::Holds::default();
        holds.add(control.domain.shared_info, true);
        holds.add(control.state.kernel_root.unwrap(), true);
        audit::check(hv, &holds, audit::nothing_lent);
    }
}

#[test]
fn who_is_mapped_by_another_is_dead_and_not_reaped() {
    let mut control = control_domain();
    let hv = control.hv;
    let free = hv.memory.frames.free_frames();
    let domain = make(&mut control);
    STEPS[1](&mut control, &domain);
    let (_, frames) = furnish(hv, &domain);
    let held = hv.memory.hold(frames[7], domain.owner()).unwrap();
    destroy(&mut control, domain.id).unwrap();
    let info: abi::DomctlGetdomaininfo =
        ask(&mut control, abi::XEN_DOMCTL_GETDOMAININFO, domain.id, &0_u64).unwrap().get();
    assert_eq!((info.domain, info.flags & abi::XEN_DOMINF_DYING, info.tot_pages), (domain.id, 1, 1));
    let again = DomctlCreatedomain { ..wanted(1) };
    assert_eq!(ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, domain.id, &again), Err(Errno::Exist));
    drop(held);
    let list = SysctlGetdomaininfolist { max_domains: 10, buffer: LIST, ..FromZeros::new_zeroed() };
    let op = Sysctl::new(sysctl::XEN_SYSCTL_GETDOMAININFOLIST, &list);
    hv.machine().write_guest(GuestAddr::new(REQUEST), op.as_bytes()).unwrap();
    control.call(Caller::sysctl, [REQUEST, 0, 0, 0]).unwrap();
    assert!(hv.domains.get(domain.id).is_none());
    assert_eq!(hv.memory.frames.free_frames(), free);
}

#[test]
fn a_domain_gets_no_greater_version_of_grant_tables_than_the_command_line_allows() {
    for max_version in [1, 2] {
        on_cpu(0);
        let policy = grant::Policy { max_version, ..grant::Policy::default() };
        let mut control = Guest::new(boot_with(1024, policy), 0, true, 256);
        control.build_home(16);
        let op = Sysctl::new(sysctl::XEN_SYSCTL_PHYSINFO, &SysctlPhysinfo::new_zeroed());
        control.hv.machine().write_guest(GuestAddr::new(REQUEST), op.as_bytes()).unwrap();
        control.call(Caller::sysctl, [REQUEST, 0, 0, 0]).unwrap();
        let mut answer = Sysctl::new_zeroed();
        control.hv.machine().read_guest(GuestAddr::new(REQUEST), answer.as_mut_bytes()).unwrap();
        let told = answer.get::<SysctlPhysinfo>().capabilities & sysctl::XEN_SYSCTL_PHYSCAP_GNTTAB_V2;
        assert_eq!(told != 0, max_version == 2);
        for (grant_opts, is_good) in [(0, false), (1, true), (2, max_version == 2), (0x12, false)] {
            let request = DomctlCreatedomain { grant_opts, ..wanted(1) };
            let made = ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(0), &request);
            assert_eq!(made.is_ok(), is_good, "{grant_opts:#x} of {max_version}");
            let Ok(made) = made else { continue };
            let domain = control.hv.domains.get(made.domain).unwrap();
            let (wish, _) = (control.hv.set_grant_version(&domain, 2), destroy(&mut control, made.domain));
            let refused = (Err(Errno::NoSys), 1);
            assert_eq!(wish, if grant_opts == 2 { (Ok(()), 2) } else { refused });
        }
    }
}

#[test]
fn a_domain_gets_no_more_frames_for_grants_than_the_command_line_allows() {
    on_cpu(0);
    let policy = grant::Policy { max_frames: 5, max_maptrack_frames: 3, ..grant::Policy::default() };
    let mut control = Guest::new(boot_with(1024, policy), 0, true, 256);
    control.build_home(16);
    for (frames, mappings, want) in
        [(-1, -1, Ok(5)), (5, 3, Ok(5)), (1, 0, Ok(1)), (6, 3, Err(Errno::Inval)), (5, 4, Err(Errno::Inval))]
    {
        let request = DomctlCreatedomain { max_grant_frames: frames, max_maptrack_frames: mappings, ..wanted(1) };
        let made = ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(0), &request);
        let limit = made.map(|made| {
            let limit = control.hv.domains.get(made.domain).unwrap().grants.lock().size().1;
            destroy(&mut control, made.domain).unwrap();
            limit
        });
        assert_eq!(limit, want, "{frames} {mappings}");
    }
}

#[test]
fn what_is_wrong_with_a_new_domain_is_refused_and_leaves_nothing() {
    let mut control = control_domain();
    let free = control.hv.memory.frames.free_frames();
    let emulating = |emulation_flags| abi::ArchDomainconfig { emulation_flags, misc_flags: 0 };
    for (bad, why) in [
        (DomctlCreatedomain { max_vcpus: 0, ..wanted(1) }, Errno::Inval),
        (DomctlCreatedomain { max_vcpus: 129, ..wanted(1) }, Errno::Inval),
        (DomctlCreatedomain { flags: abi::XEN_DOMCTL_CDF_HVM, ..wanted(1) }, Errno::OpNotSupp),
        (DomctlCreatedomain { arch: emulating(1), ..wanted(1) }, Errno::OpNotSupp),
        (DomctlCreatedomain { arch: emulating(0x800), ..wanted(1) }, Errno::Inval),
        (DomctlCreatedomain { grant_opts: 3, ..wanted(1) }, Errno::Inval),
        (DomctlCreatedomain { max_grant_frames: 0, ..wanted(1) }, Errno::Inval),
        (DomctlCreatedomain { max_grant_frames: 65, ..wanted(1) }, Errno::Inval),
        (DomctlCreatedomain { max_maptrack_frames: 1025, ..wanted(1) }, Errno::Inval),
        (DomctlCreatedomain { cpupool_id: 1, ..wanted(1) }, Errno::Srch),
    ] {
        assert_eq!(ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(0), &bad), Err(why), "{bad:?}");
    }
    assert_eq!(ask(&mut control, 999, DomId(0), &0_u64), Err(Errno::NoSys));
    assert_eq!(ask(&mut control, abi::XEN_DOMCTL_PAUSEDOMAIN, DomId(9), &0_u64), Err(Errno::Srch));
    for command in [abi::XEN_DOMCTL_DESTROYDOMAIN, abi::XEN_DOMCTL_PAUSEDOMAIN] {
        assert_eq!(ask(&mut control, command, DomId(0), &0_u64), Err(Errno::Inval), "not to itself");
    }
    // Memory that runs out at any line is -ENOMEM, and nothing stays behind.
    let hv = control.hv;
    for (supply, enough) in [(&hv.machine().heap_left, 3), (&hv.machine().frames_left, 2)] {
        for left in 0..=enough {
            supply.store(left, SeqCst);
            let made = ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(5), &wanted(1));
            let more = abi::DomctlMaxVcpus { max: 1 };
            let made = made.and_then(|_| ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, DomId(5), &more));
            let made = made.and_then(|_| hv.grow_grant_table(&hv.domains.get(DomId(5)).unwrap(), 1));
            assert_eq!(made.err(), (left < enough).then_some(Errno::NoMem), "{left}");
            supply.store(u64::MAX, SeqCst);
            let _ = destroy(&mut control, DomId(5));
            assert_eq!(control.hv.memory.frames.free_frames(), free, "{left}");
        }
    }
}

#[test]
fn only_the_control_domain_controls() {
    let control = control_domain();
    let mut guest = Guest::new(control.hv, 3, false, 64);
    guest.build_home(4);
    for command in [abi::XEN_DOMCTL_GETDOMAININFO, abi::XEN_DOMCTL_CREATEDOMAIN, abi::XEN_DOMCTL_DESTROYDOMAIN] {
        assert_eq!(ask(&mut guest, command, DomId(0), &wanted(1)), Err(Errno::Perm));
    }
    let op = Sysctl::new(sysctl::XEN_SYSCTL_PHYSINFO, &SysctlPhysinfo::new_zeroed());
    guest.hv.machine().write_guest(GuestAddr::new(REQUEST), op.as_bytes()).unwrap();
    assert_eq!(guest.call(Caller::sysctl, [REQUEST, 0, 0, 0]), Err(Errno::Perm));
    let op = PlatformOp::new(XENPF_GET_CPUINFO, &0_u64);
    guest.hv.machine().write_guest(GuestAddr::new(REQUEST), op.as_bytes()).unwrap();
    assert_eq!(guest.call(Caller::platform_op, [REQUEST, 0, 0, 0]), Err(Errno::Perm));
}

#[test]
fn a_context_is_taken_whole_or_not_at_all() {
    let mut control = control_domain();
    let hv = control.hv;
    let domain = make(&mut control);
    STEPS[1](&mut control, &domain);
    let (good, frames) = furnish(hv, &domain);
    let bad: [fn(&mut VcpuGuestContext, &[Mfn]); 8] = [
        |c, _| c.user_regs.rip = 1 << 60,
        |c, _| c.event_callback_eip = 1 << 60,
        |c, _| c.trap_ctxt[200].address = 1 << 60,
        |c, _| c.gdt_ents = 7169,
        |c, _| c.gdt_frames[0] = 3,
        |c, f| c.gdt_frames[0] = f[0].raw(),
        |c, _| c.ctrlreg[3] = 3 << 12,
        |c, _| c.flags = 0,
    ];
    let before: Vec<_> = frames.iter().map(|&mfn| hv.memory.frames.state(mfn).refs()).collect();
    for (which, change) in bad.iter().enumerate() {
        let mut context = good;
        change(&mut context, &frames);
        assert!(set_context(&mut control, domain.id, 0, &context).is_err(), "{which}");
        let after: Vec<_> = frames.iter().map(|&mfn| hv.memory.frames.state(mfn).refs()).collect();
        assert_eq!(after, before, "{which}");
    }
    set_context(&mut control, domain.id, 0, &good).unwrap();
    let mut other = good;
    other.ctrlreg[3] = frames[8].address().as_u64();
    assert_eq!(set_context(&mut control, domain.id, 0, &other), Err(Errno::OpNotSupp));
    // The wall clock comes with the first vcpu's context: version even and not zero, then the seconds.
    let wall = hv.machine().words(domain.shared_info)[3072 / 8].load(SeqCst);
    assert_eq!((wall as u32 % 2, wall >> 32), (0, 1_700_000_000));
    let mut read = VcpuGuestContext::new_zeroed();
    hv.get_context(&domain, domain.vcpu(0).unwrap(), &mut read).unwrap();
    assert_eq!((read.ctrlreg[3], read.gdt_frames[0], read.gdt_ents), (good.ctrlreg[3], good.gdt_frames[0], 16));
    assert_eq!(read.user_regs.cs, 0xe033, "in ring 3");
    assert_eq!(read.flags & u64::from(VGCF_IN_KERNEL), VGCF_IN_KERNEL.into());
    destroy(&mut control, domain.id).unwrap();
}

#[test]
fn a_second_vcpu_starts_with_the_context_that_the_first_gives_it() {
    let mut control = control_domain();
    let hv = control.hv;
    let domain = make(&mut control);
    STEPS[..3].iter().for_each(|step| step(&mut control, &domain));
    let (first, second) = (domain.vcpu(0).unwrap().clone(), domain.vcpu(1).unwrap().clone());
    let root = first.slot.lock().as_ref().unwrap().kernel_root.unwrap();
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = VGCF_IN_KERNEL.into();
    context.ctrlreg[3] = root.mfn().address().as_u64();
    context.user_regs.cs = 0x10;
    context.user_regs.ss = 0x18;
    context.user_regs.rflags = 0x1000;
    hv.machine().load_root(RootAddress::of(root));
    hv.machine().write_guest(GuestAddr::new(0), context.as_bytes()).unwrap();
    let ask_of = |command, vcpu| as_guest(hv, &domain, |c| c.vcpu_op(&mut [command, vcpu, 0, 0, 0, 0]));
    let ask = |command| ask_of(command, 1);
    assert_eq!(ask(99), Err(Stop::Refused(Errno::NoSys)));
    assert_eq!(ask_of(99, 2), Err(Stop::Refused(Errno::NoEnt)), "that there is no such vcpu comes first");
    assert_eq!(ask(oxen_abi::vcpu::VCPUOP_UP.into()), Err(Stop::Refused(Errno::Inval)));
    assert_eq!(ask(VCPUOP_INITIALISE.into()), Ok(0));
    assert_eq!(ask(VCPUOP_INITIALISE.into()), Err(Stop::Refused(Errno::Exist)));
    assert_eq!(ask(oxen_abi::vcpu::VCPUOP_IS_UP.into()), Ok(0));
    assert_eq!(ask(oxen_abi::vcpu::VCPUOP_UP.into()), Ok(0));
    assert_eq!(ask(oxen_abi::vcpu::VCPUOP_IS_UP.into()), Ok(1));
    let state = second.slot.lock();
    let state = state.as_ref().unwrap();
    assert_eq!((state.regs.cs, state.regs.ss), (0x13, 0x1b));
    assert_eq!(state.regs.rflags.bits() & 0x3200, 0x200, "interrupts on, no privilege");
    assert_eq!(hv.close_all_ports(&domain, &mut 0), Ok(()));
}
