//! Timers, and the time that guests are told.

use super::{Cpu, domain};
use crate::support::{boot, guest::Guest};
use oxen_abi::{
    domctl::{DomctlTscInfo, TSC_MODE_ALWAYS_EMULATE},
    sched::{SCHEDOP_BLOCK, SCHEDOP_SHUTDOWN},
    vcpu::{VCPUOP_DOWN, VCPUOP_SET_PERIODIC_TIMER, VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_UP},
    virq::VIRQ_TIMER,
};
use oxen_hv::{caller::Caller, hardware::Clock, sched::clock::Scale};
use std::sync::atomic::Ordering::SeqCst;
use x86_64::registers::control::Cr4Flags;

/// Binds the timer of a vcpu of `domain`.
fn bind_timer(cpu: &mut Cpu) -> u32 {
    let caller = cpu.caller();
    caller.bind_virq(VIRQ_TIMER, caller.vcpu.id).unwrap()
}

#[test]
fn a_timer_wakes_who_blocked_at_its_time_and_not_before() {
    let hv = boot(256);
    let mut cpu = Cpu::new(hv);
    let domain = domain(hv, 1, 1);
    cpu.leave();
    let port = bind_timer(&mut cpu);
    let start = hv.now();
    cpu.call(Caller::set_timer_op, [start + 1_000_000, 0, 0]).unwrap();
    cpu.call(Caller::sched_op, [SCHEDOP_BLOCK.into(), 0, 0]).unwrap();
    cpu.leave();
    assert!(hv.now() >= start + 1_000_000, "not early");
    assert!(hv.now() < start + 1_000_100, "and not late");
    assert!(hv.is_event_pending(&domain, port));
    assert!(cpu.current.as_ref().unwrap().state.info.wants_upcall());
    let calls = hv.machine().peripherals.lock().unwrap().processor_calls.clone();
    assert_eq!(calls.get("load"), Some(&1), "an idle CPU keeps what it will need again");
    assert_eq!(calls.get("save"), None);
    // With an event there, blocking does not block.
    let now = hv.now();
    cpu.call(Caller::sched_op, [SCHEDOP_BLOCK.into(), 0, 0]).unwrap();
    cpu.leave();
    assert_eq!(hv.now(), now);
}

#[test]
fn a_time_in_the_past_fires_at_once() {
    let hv = boot(256);
    let mut cpu = Cpu::new(hv);
    let domain = domain(hv, 1, 1);
    cpu.leave();
    let port = bind_timer(&mut cpu);
    hv.machine().time.fetch_add(1_000_000, SeqCst);
    cpu.call(Caller::set_timer_op, [10, 0, 0]).unwrap();
    cpu.leave();
    assert!(hv.is_event_pending(&domain, port));
}

#[test]
fn a_period_ticks_at_its_rate_and_the_last_vcpu_down_ends_the_domain() {
    let hv = boot(512);
    let mut guest = Guest::new(hv, 1, false, 64);
    let home = guest.build_home(1);
    hv.machine().words(home.data[0])[0].store(2_000_000, SeqCst);
    assert_eq!(guest.call(Caller::vcpu_op, [VCPUOP_SET_PERIODIC_TIMER.into(), 0, 0, 0]), Ok(0));
    assert!(guest.call(Caller::vcpu_op, [VCPUOP_SET_SINGLESHOT_TIMER.into(), 7, 0, 0]).is_err());
    assert!(guest.call(Caller::vcpu_op, [VCPUOP_UP.into(), 0, 0, 0]).is_ok());
    assert_eq!(guest.call(Caller::vcpu_op, [VCPUOP_DOWN.into(), 0, 0, 0]), Ok(0));
    assert!(guest.domain.is_shut_down());
    assert!(guest.call(Caller::sched_op, [SCHEDOP_SHUTDOWN.into(), 0, 0, 0]).is_ok());
}

#[test]
fn an_emulated_counter_goes_with_the_time_that_its_guest_is_told() {
    let hv = boot(256);
    let domain = domain(hv, 1, 1);
    let mut cpu = Cpu::new(hv);
    let wanted = DomctlTscInfo {
        tsc_mode: TSC_MODE_ALWAYS_EMULATE,
        gtsc_khz: 2_000_000,
        incarnation: 0,
        pad: 0,
        elapsed_nsec: 500,
    };
    domain.tsc.set(&wanted, hv.now(), 1_000_000).unwrap();
    let began = hv.now();
    cpu.run(77);
    cpu.leave();
    let state = &cpu.current.as_ref().unwrap().state;
    let has = |cr4: Cr4Flags| cr4.contains(Cr4Flags::TIMESTAMP_DISABLE);
    assert_eq!((has(state.cr4), has(state.loaded_cr4(state.cr4))), (false, true), "it traps, unseen");
    let told = || [5, 6, 7].map(|word: usize| hv.machine().words(domain.shared_info)[word].load(SeqCst));
    let [stamp, time, scale] = told();
    assert_eq!((stamp, time), (2 * (hv.now() - began + 500), hv.now()));
    let scaled = Scale { mul: scale as u32, shift: (scale >> 32) as i8 };
    hv.machine().time.fetch_add(1_000_000, SeqCst);
    assert_eq!(time + scaled.apply(hv.read_tsc(&domain) - stamp), hv.now(), "as guests compute it");
    // When it next begins to run it is told anew.
    let other = self::domain(hv, 2, 1);
    while cpu.who().0 != other.id {
        cpu.run(10_000_000);
    }
    while cpu.who().0 != domain.id {
        cpu.run(10_000_000);
    }
    assert!(told()[1] > time && told()[0] == 2 * (told()[1] - began + 500));
}

#[test]
fn time_is_there_although_a_toolstack_cleared_the_page() {
    let hv = boot(256);
    let domain = domain(hv, 1, 2);
    let words = hv.machine().words(domain.shared_info);
    words.iter().for_each(|word| word.store(0, SeqCst));
    let mut cpu = Cpu::new(hv);
    cpu.leave();
    let id = cpu.who().1 as usize;
    let [version, stamp, time, scale] = [4, 5, 6, 7].map(|word| words[8 * id + word].load(SeqCst));
    assert!(version != 0 && version % 2 == 0, "complete");
    let [_, own_stamp, own_time, own_scale] = hv.time.vcpu_time_info();
    assert_eq!((stamp, time, scale), (own_stamp, own_time, own_scale));
    // As guests compute it (`vcpu_time_info`, `xen.h`).
    let scaled = Scale { mul: scale as u32, shift: (scale >> 32) as i8 };
    hv.machine().time.fetch_add(123_456_789, SeqCst);
    assert_eq!(time + scaled.apply(hv.machine().ticks() - stamp), hv.now());
}
