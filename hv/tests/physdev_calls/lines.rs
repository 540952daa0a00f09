//! Lines of interrupt controllers, and the page that says which must be ended.

use super::*;

#[test]
fn the_page_says_what_must_be_ended_and_old_kernels_unmask_by_ending() {
    let (mut dom0, home) = dom0();
    let page = |frame: Mfn| PhysdevPirqEoiGmfn { gmfn: frame.raw() };
    for (frame, why) in [(home.tables[3].raw(), "a table"), (2000, "no RAM"), (3, "the hypervisor's")] {
        let request = PhysdevPirqEoiGmfn { gmfn: frame };
        assert_eq!(ask(&mut dom0, PHYSDEVOP_PIRQ_EOI_GMFN_V2, request), Err(Errno::Inval), "{why}");
    }
    ask(&mut dom0, PHYSDEVOP_PIRQ_EOI_GMFN_V1, page(home.data[4])).unwrap();
    let free = dom0.hv.memory.frames.state(home.data[5]);
    assert_eq!(ask(&mut dom0, PHYSDEVOP_PIRQ_EOI_GMFN_V2, page(home.data[5])), Err(Errno::Busy));
    assert_eq!(dom0.hv.memory.frames.state(home.data[5]), free);
    announce(&mut dom0);
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, message(0)).unwrap();
    let line = PhysdevMapPirq { r#type: MAP_PIRQ_TYPE_GSI, index: 20, pirq: 20, ..message(-1) };
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    let signal = PhysdevSetupGsi { gsi: 20, triggering: 1, polarity: 1, _pad0: 0 };
    ask(&mut dom0, PHYSDEVOP_SETUP_GSI, signal).unwrap();
    assert_eq!(ask(&mut dom0, PHYSDEVOP_SETUP_GSI, signal), Err(Errno::Exist));
    let words = dom0.hv.machine().words(home.data[4]);
    words[3].store(u64::MAX, SeqCst);
    let [level, _] = [20, 207].map(|pirq| dom0.caller().bind_pirq(pirq).unwrap());
    assert_eq!((words[0].load(SeqCst), words[3].load(SeqCst)), (1 << 20, !(1 << 15)));
    dom0.hv.raise_pirq(20);
    let is_masked = |dom0: &Guest| dom0.hv.machine().peripherals.lock().unwrap().lines[&20].1;
    let mask = &dom0.hv.machine().words(dom0.domain.shared_info)[320];
    mask.store(1 << level, SeqCst);
    assert!(is_masked(&dom0));
    ask(&mut dom0, PHYSDEVOP_EOI, PhysdevEoi { irq: 20 }).unwrap();
    assert_eq!((is_masked(&dom0), mask.load(SeqCst)), (false, 0));
    assert_eq!(ask(&mut dom0, PHYSDEVOP_EOI, PhysdevEoi { irq: 21 }), Err(Errno::Inval), "nobody has it");
    unmap(&mut dom0, 20).unwrap();
    assert!(is_masked(&dom0));
    assert!(!dom0.hv.is_event_pending(&dom0.domain, 0));
}

#[test]
fn a_line_is_set_up_once_unless_it_is_at_work() {
    let (mut dom0, _) = dom0();
    let map = |dom0: &mut Guest, gsi| {
        let line = PhysdevMapPirq { r#type: MAP_PIRQ_TYPE_GSI, index: gsi, pirq: gsi, ..message(-1) };
        ask(dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    };
    let set_up = |dom0: &mut Guest, gsi| {
        ask(dom0, PHYSDEVOP_SETUP_GSI, PhysdevSetupGsi { gsi, triggering: 1, polarity: 1, _pad0: 0 })
    };
    let state = |dom0: &Guest, gsi| dom0.hv.machine().peripherals.lock().unwrap().lines[&gsi];
    let edge = Signal { is_level: false, is_active_low: false };
    let level = Signal { is_level: true, is_active_low: true };
    // A classic line is an edge once it is mapped, and then what is said of it.
    map(&mut dom0, 5);
    assert_eq!(state(&dom0, 5), (edge, true));
    set_up(&mut dom0, 5).unwrap();
    assert_eq!(state(&dom0, 5), (level, true));
    assert_eq!(set_up(&mut dom0, 5), Err(Errno::Exist));
    dom0.caller().bind_pirq(5).unwrap();
    dom0.hv.raise_pirq(5);
    assert!(state(&dom0, 5).1, "a level stays masked until it is served");
    // One that is bound stays as it is.
    map(&mut dom0, 7);
    let port = dom0.caller().bind_pirq(7).unwrap();
    assert_eq!((set_up(&mut dom0, 7), state(&dom0, 7)), (Err(Errno::Exist), (edge, false)));
    dom0.hv.close_port(&dom0.domain, port).unwrap();
    set_up(&mut dom0, 7).unwrap();
    assert_eq!((set_up(&mut dom0, 7), state(&dom0, 7)), (Err(Errno::Exist), (level, true)));
    assert_eq!(set_up(&mut dom0, 0), Err(Errno::Exist), "the interval timer's");
    // Others are nothing before that.
    map(&mut dom0, 21);
    dom0.caller().bind_pirq(21).unwrap();
    set_up(&mut dom0, 21).unwrap();
    assert_eq!((set_up(&mut dom0, 21), state(&dom0, 21)), (Err(Errno::Exist), (level, false)));
}

#[test]
fn the_hypervisors_own_line_is_named_and_not_touched() {
    let (mut dom0, _) = dom0();
    let own = OWN_LINE as i32;
    let signal = Signal { is_level: false, is_active_low: false };
    dom0.hv.machine().route(OWN_LINE, signal).unwrap();
    dom0.hv.machine().set_masked(OWN_LINE, false);
    let line = PhysdevMapPirq { r#type: MAP_PIRQ_TYPE_GSI, index: own, pirq: own, ..message(-1) };
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    let level = PhysdevSetupGsi { gsi: own, triggering: 1, polarity: 1, _pad0: 0 };
    assert_eq!(ask(&mut dom0, PHYSDEVOP_SETUP_GSI, level), Err(Errno::Exist));
    assert_eq!(dom0.caller().bind_pirq(OWN_LINE), Err(Errno::Busy.into()));
    unmap(&mut dom0, own).unwrap();
    assert_eq!(dom0.hv.machine().peripherals.lock().unwrap().lines[&OWN_LINE], (signal, false));
}

#[test]
fn the_right_to_a_line_goes_with_its_mapping() {
    let (mut dom0, _) = dom0();
    let line = PhysdevMapPirq { r#type: MAP_PIRQ_TYPE_GSI, index: 21, pirq: 21, ..message(-1) };
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line).unwrap();
    unmap(&mut dom0, 21).unwrap();
    assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, line), Err(Errno::Perm), "as in Xen");
    assert_eq!(unmap(&mut dom0, 21), Err(Errno::Inval));
    ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, PhysdevMapPirq { index: 20, pirq: 20, ..line }).unwrap();
    let timer = PhysdevMapPirq { index: 0, pirq: 0, ..line };
    assert_eq!(ask(&mut dom0, PHYSDEVOP_MAP_PIRQ, timer), Err(Errno::Perm), "nobody has the interval timer's");
    assert!(!dom0.hv.machine().peripherals.lock().unwrap().lines.contains_key(&0), "nor routes it");
}
