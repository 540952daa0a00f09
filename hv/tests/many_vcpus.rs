//! Domains with more vcpus than `shared_info` has room for: how those come up, and that events reach them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl as abi,
    domid::DomId,
    errno::Errno,
    event_channel::EvtchnInitControl,
    guest_context::VcpuGuestContext,
    mmu::MMUEXT_TLB_FLUSH_MULTI,
    segments::VGCF_IN_KERNEL,
    vcpu::{VCPUOP_INITIALISE, VCPUOP_IS_UP, VCPUOP_REGISTER_VCPU_INFO, VCPUOP_UP},
    virq::VIRQ_TIMER,
};
use oxen_hv::{
    addr::GuestAddr,
    caller::Caller,
    config::MAX_VCPUS,
    domain::{
        Domain,
        vcpu::{Pauses, Vcpu, VcpuState},
    },
    per_cpu::Work,
};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use support::{
    control::{as_guest, ask, control_domain, destroy, furnish, set_context, wanted},
    guest::{Guest, Home},
};
use zerocopy::{FromZeros, IntoBytes};

const ALL: u32 = MAX_VCPUS as u32;
/// The first word of `evtchn_pending`, right behind the last `vcpu_info`, in `shared_info`.
const PENDING: usize = 2048 / 8;

fn make(control: &mut Guest, vcpus: u32) -> Arc<Domain> {
    let id = ask(control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(0), &wanted(vcpus)).unwrap().domain;
    control.hv.domains.get(id).unwrap()
}

/// A guest that runs, with all vcpus that one can have.
fn crowded() -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(2048), 1, false, 256);
    let home = guest.build_home(8);
    (1..ALL).for_each(|id| guest.hv.add_vcpu(&guest.domain, id).unwrap());
    (guest, home)
}

/// The guest has the `vcpu_info` of a vcpu brought to one of its pages.
fn register(guest: &mut Guest, home: &Home, vcpu: u32, page: usize) -> Result<u64, Errno> {
    let request = [home.data[page].raw(), 64];
    guest.hv.machine().write_guest(GuestAddr::new(0), request.as_bytes()).unwrap();
    guest.call(Caller::vcpu_op, [VCPUOP_REGISTER_VCPU_INFO.into(), vcpu.into(), 0, 0])
}

/// Selector and pending byte of a vcpu; they are cleared.
fn take_news(guest: &Guest, vcpu: u32) -> (u64, u8) {
    let info = guest.domain.vcpu(vcpu).unwrap().info.lock().unwrap();
    (info.word(8).swap(0, SeqCst), info.upcall_pending().swap(0, SeqCst))
}

#[test]
fn a_domain_has_up_to_128_vcpus_one_at_a_time_and_gives_them_back() {
    let mut control = control_domain();
    let hv = control.hv;
    let free = hv.memory.frames.free_frames();
    let domain = make(&mut control, ALL);
    let too_few = ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, domain.id, &abi::DomctlMaxVcpus { max: ALL - 1 });
    assert_eq!(too_few, Err(Errno::Inval));
    // Something more urgent always waits.
    hv.cpus[0].work.insert(Work::RESCHEDULE, SeqCst);
    ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, domain.id, &abi::DomctlMaxVcpus { max: ALL }).unwrap();
    assert_eq!(domain.each_vcpu().map(|vcpu| vcpu.id).collect::<Vec<_>>(), (0..ALL).collect::<Vec<_>>());
    assert!(domain.vcpu(ALL).is_none());
    let info = ask(&mut control, abi::XEN_DOMCTL_GETDOMAININFO, domain.id, &0_u64).unwrap();
    assert_eq!(info.get::<abi::DomctlGetdomaininfo>().max_vcpu_id, ALL - 1);
    destroy(&mut control, domain.id).unwrap();
    assert_eq!(hv.memory.frames.free_frames(), free);
    // Without frames for the places of the far ones it stops there, and goes on when there are some.
    let domain = make(&mut control, ALL);
    hv.machine().frames_left.store(0, SeqCst);
    let more = abi::DomctlMaxVcpus { max: ALL };
    assert_eq!(ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, domain.id, &more), Err(Errno::NoMem));
    assert_eq!(domain.each_vcpu().count(), 32);
    hv.machine().frames_left.store(u64::MAX, SeqCst);
    ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, domain.id, &more).unwrap();
    assert_eq!(domain.each_vcpu().count(), MAX_VCPUS);
    destroy(&mut control, domain.id).unwrap();
    assert_eq!(hv.memory.frames.free_frames(), free);
}

#[test]
fn an_idle_domain_takes_no_more_than_it_did() {
    // The heap gives out whole frames; counted objects have two counts in front.
    let sizes = [size_of::<Domain>() + 16, size_of::<Vcpu>() + 16, size_of::<VcpuState>()];
    let frames: usize = sizes.iter().map(|bytes| bytes.div_ceil(4096)).sum();
    assert!(4 * frames <= 20, "{sizes:?} bytes, beside shared_info");
}

#[test]
fn a_far_vcpu_comes_up_once_its_info_has_a_place() {
    let (mut guest, home) = crowded();
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = VGCF_IN_KERNEL.into();
    context.ctrlreg[3] = guest.state.kernel_root.unwrap().mfn().address().as_u64();
    let initialise =
        |guest: &mut Guest, vcpu: u32, at| guest.call(Caller::vcpu_op, [VCPUOP_INITIALISE.into(), vcpu.into(), at, 0]);
    for (vcpu, page) in [(40, 2), (127, 3)] {
        let at = 0x4000;
        guest.hv.machine().write_guest(GuestAddr::new(at), context.as_bytes()).unwrap();
        assert_eq!(initialise(&mut guest, vcpu, u64::MAX), Err(Errno::Inval), "whatever the argument");
        assert_eq!(initialise(&mut guest, vcpu, at), Err(Errno::Inval));
        guest.hv.machine().words(home.data[page]).iter().for_each(|word| word.store(u64::MAX, SeqCst));
        register(&mut guest, &home, vcpu, page).unwrap();
        let info: Vec<u64> = guest.hv.machine().words(home.data[page])[8..16].iter().map(|w| w.load(SeqCst)).collect();
        assert_eq!(info, [0x101, u64::MAX, 0, 0, 0, 0, 0, 0], "masked, everything pending, nothing else");
        assert_eq!(register(&mut guest, &home, vcpu, page), Err(Errno::Inval), "once");
        assert_eq!(initialise(&mut guest, vcpu, u64::MAX), Err(Errno::Fault));
        assert_eq!(initialise(&mut guest, vcpu, at), Ok(0));
        assert_eq!(guest.call(Caller::vcpu_op, [VCPUOP_UP.into(), vcpu.into(), 0, 0]), Ok(0));
        assert_eq!(guest.call(Caller::vcpu_op, [VCPUOP_IS_UP.into(), vcpu.into(), 0, 0]), Ok(1));
    }
    assert_eq!(initialise(&mut guest, 31, 0x4000), Ok(0), "the last that `shared_info` has room for");
    assert_eq!(initialise(&mut guest, ALL, 0x4000), Err(Errno::NoEnt));
}

#[test]
fn a_far_vcpu_that_a_toolstack_starts_has_a_place_that_no_guest_sees() {
    let mut control = control_domain();
    let hv = control.hv;
    let free = hv.memory.frames.free_frames();
    let domain = make(&mut control, ALL);
    ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, domain.id, &abi::DomctlMaxVcpus { max: ALL }).unwrap();
    ask(&mut control, abi::XEN_DOMCTL_MAX_MEM, domain.id, &abi::DomctlMaxMem { max_memkb: 4 * 64 }).unwrap();
    let (context, _) = furnish(hv, &domain);
    let before: Vec<u64> = hv.machine().words(domain.shared_info).iter().map(|word| word.load(SeqCst)).collect();
    for id in [40, 100] {
        set_context(&mut control, domain.id, id, &context).unwrap();
        let vcpu = domain.vcpu(id).unwrap();
        assert!(!vcpu.pauses.load(SeqCst).contains(Pauses::DOWN), "it may run");
        let info = vcpu.info.lock().unwrap();
        assert!(info.upcall_mask());
        assert_eq!(info.word(32 + 24).load(SeqCst), hv.time.vcpu_time_info()[3], "and knows the time");
    }
    as_guest(hv, &domain, |caller| {
        let port = caller.bind_ipi(40).unwrap();
        caller.send_event(port).unwrap();
        hv.close_port(&domain, port).unwrap();
    });
    let now: Vec<u64> = hv.machine().words(domain.shared_info).iter().map(|word| word.load(SeqCst)).collect();
    assert_eq!(now, before);
    assert_eq!(domain.vcpu(40).unwrap().info.lock().unwrap().upcall_pending().load(SeqCst), 1);
    assert_eq!(domain.vcpu(100).unwrap().info.lock().unwrap().upcall_pending().load(SeqCst), 0, "each has its own");
    destroy(&mut control, domain.id).unwrap();
    assert_eq!(hv.memory.frames.free_frames(), free);
}

#[test]
fn events_and_interrupts_reach_far_vcpus() {
    let (mut guest, home) = crowded();
    for (vcpu, page) in [(40, 2), (127, 3)] {
        register(&mut guest, &home, vcpu, page).unwrap();
        take_news(&guest, vcpu);
        let ipi = guest.caller().bind_ipi(vcpu).unwrap();
        let timer = guest.caller().bind_virq(VIRQ_TIMER, vcpu).unwrap();
        assert_eq!(guest.caller().bind_virq(VIRQ_TIMER, vcpu), Err(Errno::Exist.into()));
        let moved = guest.caller().alloc_unbound(DomId::SELF, DomId::SELF).unwrap();
        let sender = guest.caller().bind_interdomain(DomId::SELF, moved).unwrap();
        guest.caller().bind_vcpu(moved, vcpu).unwrap();
        assert_eq!(guest.caller().port_status(DomId::SELF, moved).unwrap().vcpu, vcpu);
        take_news(&guest, vcpu);
        for (port, send) in [(ipi, Some(ipi)), (moved, Some(sender)), (timer, None)] {
            match send {
                Some(from) => guest.caller().send_event(from).unwrap(),
                None => guest.hv.raise_virq(&guest.domain, guest.domain.vcpu(vcpu).unwrap(), VIRQ_TIMER),
            }
            assert_eq!(take_news(&guest, vcpu), (1 << (port / 64), 1), "port {port} of vcpu {vcpu}");
            let pending = &guest.hv.machine().words(guest.domain.shared_info)[PENDING];
            assert_eq!(pending.fetch_and(!(1 << port), SeqCst) >> port & 1, 1);
        }
        assert_eq!(guest.hv.audit_events(&guest.domain), Ok(()));
        guest.hv.close_port(&guest.domain, timer).unwrap();
        assert!(guest.caller().bind_virq(VIRQ_TIMER, vcpu).is_ok());
    }
    let others = (0..ALL).filter(|id| ![0, 40, 127].contains(id)).map(|id| take_news(&guest, id));
    assert!(others.into_iter().all(|news| news == (0, 0)));
    assert_eq!(guest.caller().bind_ipi(ALL), Err(Errno::NoEnt.into()));
}

#[test]
fn far_vcpus_poll_each_for_itself() {
    let (mut guest, _) = crowded();
    let [first, second] = [0; 2].map(|_| guest.caller().bind_ipi(0).unwrap());
    let domain = guest.domain.clone();
    // Numbers that are the same in five bits.
    let pollers = [8, 40, 104].map(|id| domain.vcpu(id).unwrap());
    for vcpu in pollers {
        vcpu.pauses.store(Pauses::POLLING, SeqCst);
        domain.events.begin_poll(&vcpu.events, if vcpu.id == 104 { second } else { first });
    }
    let polling = || pollers.map(|vcpu| vcpu.pauses.load(SeqCst).intersects(Pauses::POLLING));
    assert!(domain.events.end_poll(&pollers[0].events));
    assert!(!domain.events.end_poll(&pollers[0].events), "it is over");
    guest.caller().send_event(first).unwrap();
    assert_eq!(polling(), [true, false, true], "who has ended it is not woken, and the others are");
    guest.caller().send_event(second).unwrap();
    assert_eq!(polling(), [true, false, false]);
}

#[test]
fn queues_of_far_vcpus_are_their_own() {
    let (mut guest, home) = crowded();
    let control = |vcpu, page: usize| EvtchnInitControl {
        control_gfn: home.data[page].raw(),
        offset: 0,
        vcpu,
        link_bits: 0,
        _pad: [0; 7],
    };
    // The same in five bits again.
    for (vcpu, info, page) in [(40, 1, 2), (72, 3, 4), (127, 5, 6)] {
        register(&mut guest, &home, vcpu, info).unwrap();
        take_news(&guest, vcpu);
        guest.caller().init_event_control(&control(vcpu, page)).unwrap();
        assert_eq!(guest.caller().init_event_control(&control(vcpu, page)), Err(Errno::Inval));
    }
    guest.caller().expand_event_array(home.data[7].raw()).unwrap();
    for (vcpu, page) in [(40, 2), (72, 4), (127, 6)] {
        let ports = [0; 2].map(|_| guest.caller().bind_ipi(vcpu).unwrap());
        guest.caller().set_event_priority(ports[1], 15).unwrap();
        ports.iter().for_each(|&port| guest.caller().send_event(port).unwrap());
        let block = guest.hv.machine().halves(home.data[page]);
        assert_eq!(block[0].load(SeqCst), 1 << 7 | 1 << 15);
        assert_eq!([7, 15].map(|priority: usize| block[2 + priority].load(SeqCst)), ports);
        assert_eq!(take_news(&guest, vcpu), (0, 1));
        let others = [40, 72, 127].into_iter().filter(|&other| other != vcpu).map(|other| take_news(&guest, other));
        assert!(others.into_iter().all(|news| news == (0, 0)));
    }
    assert_eq!(guest.hv.audit_events(&guest.domain), Ok(()));
}

#[test]
fn a_flush_for_far_vcpus_reaches_them() {
    let (mut guest, _) = crowded();
    guest.hv.memory.frames.tlb.enter(guest.domain.owner(), 1 << 1);
    // `struct mmuext_op`: the command, nothing, the address of the bitmap.
    let request = [MMUEXT_TLB_FLUSH_MULTI.into(), 0, 0x100_u64];
    guest.hv.machine().write_guest(GuestAddr::new(0), request.as_bytes()).unwrap();
    for (vcpu, elsewhere) in [(0, 0), (5, 1), (64, 1), (127, 1)] {
        let mut set = [0_u64; 2];
        set[vcpu / 64] = 1 << (vcpu % 64);
        guest.hv.machine().write_guest(GuestAddr::new(0x100), set.as_bytes()).unwrap();
        let before = guest.hv.machine().cpu(1).flushes;
        assert_eq!(guest.call(Caller::mmuext_op, [0, 1, 0, DomId::SELF.0.into()]), Ok(0));
        assert_eq!(guest.hv.machine().cpu(1).flushes - before, elsewhere, "vcpu {vcpu}");
    }
}
