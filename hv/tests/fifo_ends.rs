//! The FIFO event channel ABI at its edges: many ports, long searches, resets in steps,
//! no memory, several CPUs at once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domid::DomId,
    errno::Errno,
    event_channel::{
        EVTCHNOP_ALLOC_UNBOUND, EVTCHNOP_BIND_IPI, EVTCHNOP_CLOSE, EVTCHNOP_EXPAND_ARRAY, EVTCHNOP_INIT_CONTROL,
        EVTCHNOP_RESET, EVTCHNOP_RESET_CONT, EVTCHNOP_STATUS, EVTCHNOP_UNMASK, EvtchnInitControl,
    },
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    channel::Reset,
    domain::vcpu::Pauses,
    reply::Stop,
};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use support::{
    Fake,
    audit::{self, Holds},
    dice::Dice,
    guest::Guest,
};

const LINKED: u32 = 1 << 29;

fn control(frame: Mfn, vcpu: u32) -> EvtchnInitControl {
    EvtchnInitControl { control_gfn: frame.raw(), offset: 0, vcpu, link_bits: 0, _pad: [0; 7] }
}

/// A guest with queues, a frame for its control block, and one for all of its event words.
fn with_queues(pages: u32) -> (Guest, [Mfn; 2]) {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(1024), 1, false, 64);
    guest.build_home(4);
    let frames = [0; 2].map(|_| guest.frame());
    guest.caller().init_event_control(&control(frames[0], 0)).unwrap();
    (0..pages).for_each(|_| guest.caller().expand_event_array(frames[1].raw()).unwrap());
    (guest, frames)
}

fn words(guest: &Guest, frame: Mfn) -> &'static [AtomicU32; 1024] {
    guest.hv.machine().halves(frame)
}

fn put(guest: &Guest, values: &[u32]) {
    for (pair, at) in values.chunks(2).zip((0..).step_by(8)) {
        let word = u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32;
        guest.hv.machine().write_guest_word(GuestAddr::new(at), word).unwrap();
    }
}

fn check(guest: &Guest) {
    assert_eq!(guest.hv.audit_events(&guest.domain), Ok(()));
    let mut known = Holds::default();
    known.add(guest.domain.shared_info, true);
    known.add(guest.state.kernel_root.unwrap(), true);
    audit::check(guest.hv, &known, audit::nothing_lent);
}

#[test]
fn a_search_among_ports_that_the_guest_keeps_linked_is_cut_into_steps() {
    let (mut guest, [_, array]) = with_queues(128);
    words(&guest, array).iter().for_each(|word| word.store(LINKED, SeqCst));
    let mut steps = 0;
    let answer = loop {
        steps += 1;
        match guest.caller().bind_ipi(0) {
            Err(Stop::Unfinished) => {}
            answer => break answer,
        }
    };
    assert_eq!((answer, steps), (Err(Errno::NoSpc.into()), 32));
    // The same frame holds the words of ports 1000, 2024, and so on.
    words(&guest, array)[1000].store(0, SeqCst);
    assert_eq!(guest.caller().bind_ipi(0), Ok(1000));
    assert_eq!(guest.caller().bind_ipi(0), Ok(2024));
    put(&guest, &[0, 0]);
    for port in (3048..1 << 17).step_by(1024) {
        assert_eq!(guest.call(Caller::event_channel_op, [EVTCHNOP_BIND_IPI.into(), 0, 0, 0]), Ok(0));
        assert_eq!(
            guest.hv.machine().read_guest_word(GuestAddr::new(0)),
            Ok(port << 32),
            "the hypercall goes on by itself"
        );
    }
    // A port that is closed is found although the search had passed it.
    assert_eq!(guest.caller().bind_ipi(0), Err(Stop::Unfinished));
    guest.hv.close_port(&guest.domain, 1000).unwrap();
    assert_eq!(guest.caller().bind_ipi(0), Ok(1000));
    check(&guest);
}

#[test]
fn a_reset_of_many_ports_goes_on_where_it_was_interrupted() {
    let (mut guest, [_, array]) = with_queues(5);
    for port in 1..=5000 {
        assert_eq!(guest.caller().bind_ipi(0), Ok(port));
    }
    guest.caller().send_event(4999).unwrap();
    put(&guest, &[0x7ff0]);
    let mut args = [EVTCHNOP_RESET.into(), 0, 0, 0, 0, 0];
    let mut steps = 0;
    while let Err(Stop::Unfinished) = guest.caller().event_channel_op(&mut args) {
        assert_eq!(args[0], EVTCHNOP_RESET_CONT.into());
        assert_eq!(guest.caller().reset_events(DomId::SELF, Reset::Begin), Err(Errno::Busy.into()), "one at a time");
        steps += 1;
    }
    assert_eq!(steps, 9);
    assert_eq!(guest.caller().reset_events(DomId::SELF, Reset::GoOn), Err(Errno::Busy.into()), "none is under way");
    assert_eq!(guest.caller().expand_event_array(array.raw()), Err(Errno::OpNotSupp), "two levels again");
    check(&guest);
    // Ports are the two-level ABI's again, but for numbers that have been.
    guest.domain.events.set_limit(u32::MAX);
    assert_eq!((1..4096).find(|&port| guest.caller().bind_ipi(0) != Ok(port)), None);
    assert_eq!(guest.caller().bind_ipi(0), Err(Errno::NoSpc.into()));
    assert!(guest.caller().port_status(DomId::SELF, 5000).is_ok());
    check(&guest);
}

#[test]
fn a_reset_during_which_ports_are_opened_is_to_be_repeated() {
    let (mut guest, _) = with_queues(5);
    (1..=600).for_each(|port| assert_eq!(guest.caller().bind_ipi(0), Ok(port)));
    assert_eq!(guest.caller().reset_events(DomId::SELF, Reset::Begin), Err(Stop::Unfinished));
    assert_eq!(guest.caller().bind_ipi(0), Ok(1));
    assert_eq!(guest.caller().reset_events(DomId::SELF, Reset::GoOn), Err(Errno::Again.into()));
    check(&guest);
    assert_eq!(guest.caller().reset_events(DomId::SELF, Reset::Begin), Ok(()));
    check(&guest);
}

#[test]
fn without_memory_the_abi_does_not_change() {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(256), 1, false, 64);
    guest.build_home(4);
    let frame = guest.frame();
    let port = guest.caller().bind_ipi(0).unwrap();
    let left = &guest.hv.machine().heap_left;
    for supply in 0..4 {
        left.store(supply, SeqCst);
        assert_eq!(guest.caller().init_event_control(&control(frame, 0)), Err(Errno::NoMem), "{supply}");
        left.store(u64::MAX, SeqCst);
        assert_eq!(guest.caller().set_event_priority(port, 1), Err(Errno::NoSys), "{supply}");
        check(&guest);
    }
    guest.caller().init_event_control(&control(frame, 0)).unwrap();
    guest.domain.events.set_limit(u32::MAX);
    (port + 1..2048).for_each(|port| assert_eq!(guest.caller().bind_ipi(0), Ok(port)));
    // The record and the bucket; from port 4096 on a table of buckets as well. What was made is kept.
    for (port, needs) in [(2048, 2), (4096, 3)] {
        while port != 2048 && guest.caller().bind_ipi(0) != Ok(port - 1) {}
        for supply in [0, 1, 1].into_iter().take(needs) {
            left.store(supply, SeqCst);
            assert_eq!(guest.caller().bind_ipi(0), Err(Errno::NoMem.into()), "{port} {supply}");
            left.store(u64::MAX, SeqCst);
        }
        assert_eq!(guest.caller().bind_ipi(0), Ok(port));
        check(&guest);
    }
}

#[test]
fn a_poller_wakes_for_its_port_however_high_masked_or_not() {
    let (mut guest, [_, array]) = with_queues(70);
    let hv = guest.hv;
    hv.add_vcpu(&guest.domain, 1).unwrap();
    (1..=70_000).for_each(|port| assert_eq!(guest.caller().bind_ipi(0), Ok(port)));
    let poller = guest.domain.vcpu(1).unwrap().clone();
    // 70000 and 4464 are the same in 16 bits.
    for (waits_for, port, wakes) in [(70_000, 4464, false), (70_000, 70_000, true), (0, 5, true)] {
        words(&guest, array).iter().for_each(|word| word.store(1 << 30, SeqCst));
        poller.pauses.store(Pauses::POLLING, SeqCst);
        guest.domain.events.begin_poll(&guest.domain.vcpu(1).unwrap().events, waits_for);
        guest.caller().send_event(port).unwrap();
        assert!(hv.is_event_pending(&guest.domain, port));
        assert_eq!(!poller.pauses.load(SeqCst).intersects(Pauses::POLLING), wakes, "port {port} for {waits_for}");
        assert_eq!(guest.domain.events.end_poll(&guest.domain.vcpu(1).unwrap().events), !wakes);
    }
}

#[test]
fn the_form_of_before_xen_3_2_takes_the_commands_of_its_time() {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(256), 1, false, 64);
    guest.build_home(4);
    let word = |guest: &Guest, at| guest.hv.machine().read_guest_word(GuestAddr::new(at)).unwrap();
    put(&guest, &[EVTCHNOP_ALLOC_UNBOUND, 0x7ff0_7ff0, 0, 0]);
    assert_eq!(guest.call(Caller::event_channel_op_compat, [0; 4]), Ok(0));
    assert_eq!(word(&guest, 8), 1);
    put(&guest, &[EVTCHNOP_STATUS, 0x7ff0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(guest.call(Caller::event_channel_op_compat, [0; 4]), Ok(0));
    assert_eq!(word(&guest, 8) >> 32, 1, "unbound");
    for command in [EVTCHNOP_UNMASK, EVTCHNOP_CLOSE] {
        put(&guest, &[command, 1]);
        assert_eq!(guest.call(Caller::event_channel_op_compat, [0; 4]), Ok(0));
    }
    for command in [EVTCHNOP_RESET, EVTCHNOP_INIT_CONTROL, EVTCHNOP_EXPAND_ARRAY, EVTCHNOP_RESET_CONT, u32::MAX] {
        put(&guest, &[command, 0]);
        assert_eq!(guest.call(Caller::event_channel_op_compat, [0; 4]), Err(Errno::NoSys), "{command}");
    }
    assert_eq!(guest.call(Caller::event_channel_op_compat, [1 << 40, 0, 0, 0]), Err(Errno::Fault));
}

/// What one vcpu of a guest does to its queues and to those of the other guest.
fn fight(caller: &Caller<'_, Fake>, frames: [Mfn; 3], dice: &mut Dice) {
    let (port, other, vcpu) = (1 + dice.roll(12), DomId(1 + dice.roll(2) as u16), dice.roll(2));
    let word = |frame: usize, index: u32| &caller.hv.machine().halves(frames[frame])[index as usize];
    let _ = match dice.roll(16) {
        0 => caller.init_event_control(&control(frames[vcpu as usize], vcpu)).is_ok(),
        1 => caller.expand_event_array(frames[2].raw()).is_ok(),
        2 if dice.roll(8) == 0 => caller.reset_events(DomId::SELF, Reset::Begin).is_ok(),
        3 => caller.alloc_unbound(DomId::SELF, other).is_ok(),
        4 => caller.bind_interdomain(other, port).is_ok(),
        5 => caller.bind_ipi(vcpu).is_ok(),
        6 => caller.hv.close_port(caller.domain, port).is_ok(),
        7 => caller.bind_vcpu(port, vcpu).is_ok(),
        8 => caller.set_event_priority(port, dice.roll(3)).is_ok(),
        9 => caller.unmask_port(port).is_ok(),
        10 => word(2, port).fetch_and(dice.roll(1 << 4) << 28, SeqCst) != 0,
        11 => word(vcpu as usize, 0).swap(0, SeqCst) != 0,
        _ => caller.send_event(port).is_ok(),
    };
}

#[test]
fn guests_that_fight_over_queues_on_several_cpus_leave_them_whole() {
    let hv = support::boot(512);
    let guests: Vec<_> = (1..3).map(|id| Guest::new(hv, id, false, 64)).collect();
    let all_frames: Vec<_> = guests.iter().map(|guest| [0; 3].map(|_| guest.frame())).collect();
    for guest in &guests {
        hv.add_vcpu(&guest.domain, 1).unwrap();
        guest.domain.events.set_limit(12);
    }
    std::thread::scope(|scope| {
        for (n, (guest, frames)) in guests.iter().zip(&all_frames).enumerate() {
            for cpu in [n as u16, n as u16 + 2] {
                let (domain, vcpu) = (guest.domain.clone(), guest.vcpu.clone());
                scope.spawn(move || {
                    support::on_cpu(cpu);
                    let mut guest = Guest::new(hv, 100 + cpu, false, 4);
                    (guest.domain, guest.vcpu) = (domain, vcpu);
                    let mut dice = Dice(0x1234_5678 + u64::from(cpu));
                    (0..20_000).for_each(|_| fight(&guest.caller(), *frames, &mut dice));
                });
            }
        }
    });
    let mut known = Holds::default();
    let mut from = DomId(0);
    while let Some(domain) = hv.domains.next_from(from) {
        from = DomId(domain.id.0 + 1);
        known.add(domain.shared_info, true);
    }
    guests.iter().for_each(|guest| assert_eq!(hv.audit_events(&guest.domain), Ok(())));
    audit::check(hv, &known, audit::nothing_lent);
    for guest in &guests {
        while hv.close_all_ports(&guest.domain, &mut 0) != Ok(()) {}
        guest.domain.events.each_frame(|frame| panic!("{frame:?} is still held"));
    }
}
