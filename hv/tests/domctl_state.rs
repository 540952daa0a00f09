//! What a toolstack saves and restores of a vcpu beside its context, and what it is told of a domain.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::{self as abi, DomctlExtVcpucontext, DomctlVcpuMsr, DomctlVcpuMsrs, DomctlVcpuextstate},
    errno::Errno,
    vcpu::{
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, VCPUOP_SET_SINGLESHOT_TIMER, VcpuRegisterTimeMemoryArea,
        VcpuSetSingleshotTimer,
    },
};
use oxen_hv::{addr::GuestAddr, caller::Caller, domain::vcpu::ExtendedState, mem::editor::Editor};
use std::sync::atomic::Ordering::SeqCst;
use support::{
    control::{LIST, STEPS, ask, control_domain, furnish, make, set_context},
    guest::Guest,
};
use zerocopy::{FromZeros, IntoBytes};

/// A processor with x87, SSE and AVX.
fn with_xsave(control: &Guest) {
    let mut peripherals = control.hv.machine().peripherals.lock().unwrap();
    peripherals.cpuid.insert(1, [0, 0, 1 << 26, 0]);
    // The fake machine does not tell subleaves apart: the parts are the size and offset of one as well.
    peripherals.cpuid.insert(0xd, [7, 576, 0, 0]);
}

#[test]
fn extended_registers_survive_being_saved_and_restored() {
    let mut control = control_domain();
    with_xsave(&control);
    let guest = make(&mut control);
    let max = abi::DomctlMaxVcpus { max: 2 };
    ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, guest.id, &max).unwrap();
    let request = DomctlVcpuextstate { vcpu: 1, ..FromZeros::new_zeroed() };
    let told: DomctlVcpuextstate =
        ask(&mut control, abi::XEN_DOMCTL_GETVCPUEXTSTATE, guest.id, &request).unwrap().get();
    assert_eq!((told.xfeature_mask, told.size), (7, 16 + 583));
    {
        let mut slot = guest.vcpu(1).unwrap().slot.lock();
        let state = slot.as_mut().unwrap();
        state.extended.0[..416].fill(0x5a);
        state.extended.0[512] = 3;
        state.extended.set_xcr0(7);
    }
    let wanted = DomctlVcpuextstate { buffer: LIST, ..told };
    ask(&mut control, abi::XEN_DOMCTL_GETVCPUEXTSTATE, guest.id, &wanted).unwrap();
    let saved =
        core::mem::replace(&mut guest.vcpu(1).unwrap().slot.lock().as_mut().unwrap().extended, ExtendedState::RESET);
    ask(&mut control, abi::XEN_DOMCTL_SETVCPUEXTSTATE, guest.id, &wanted).unwrap();
    let restored = guest.vcpu(1).unwrap().slot.lock().as_ref().unwrap().extended.clone();
    assert_eq!(restored.xcr0(), 7);
    assert_eq!(restored.0[..576], saved.0[..576]);
    for (size, xcr0, ever, why) in [
        (told.size + 1, 7_u64, 7_u64, "more than there is"),
        (told.size, 8, 0xf, "a part that there is not"),
        (told.size, 7, 3, "more than ever was"),
        (told.size, 4, 7, "AVX alone"),
        (100, 7, 7, "no area"),
        (15, 0, 0, "no header"),
    ] {
        control.hv.machine().write_guest(GuestAddr::new(LIST), [xcr0, ever].as_bytes()).unwrap();
        let bad = DomctlVcpuextstate { size, ..wanted };
        let got = ask(&mut control, abi::XEN_DOMCTL_SETVCPUEXTSTATE, guest.id, &bad);
        assert_eq!(got.map(drop), Err(Errno::Inval), "{why}");
    }
    let nobody = DomctlVcpuextstate { vcpu: 2, ..request };
    assert_eq!(ask(&mut control, abi::XEN_DOMCTL_GETVCPUEXTSTATE, guest.id, &nobody).map(drop), Err(Errno::Srch));
}

#[test]
fn a_context_leaves_xcr0_as_it_is() {
    let mut control = control_domain();
    let guest = make(&mut control);
    STEPS[1](&mut control, &guest);
    let (context, frames) = furnish(control.hv, &guest);
    Editor::open(&control.hv.memory, &guest.memory).unwrap().pin(frames[0], 4).unwrap();
    set_context(&mut control, guest.id, 0, &context).unwrap();
    guest.vcpu(0).unwrap().slot.lock().as_mut().unwrap().extended.set_xcr0(7);
    set_context(&mut control, guest.id, 0, &context).unwrap();
    assert_eq!(guest.vcpu(0).unwrap().slot.lock().as_ref().unwrap().extended.xcr0(), 7);
}

#[test]
fn callbacks_of_32_bit_user_mode_and_model_registers_are_kept() {
    let mut control = control_domain();
    let guest = make(&mut control);
    ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, guest.id, &abi::DomctlMaxVcpus { max: 2 }).unwrap();
    let request = DomctlExtVcpucontext {
        size: 64,
        syscall32_callback_eip: 0x1234,
        sysenter_callback_eip: 0x5678,
        syscall32_callback_cs: 0xe008,
        sysenter_callback_cs: 0xe033,
        sysenter_disables_events: 1,
        machine_checks: [2, 0, 0, 0],
        ..FromZeros::new_zeroed()
    };
    ask(&mut control, abi::XEN_DOMCTL_SET_EXT_VCPUCONTEXT, guest.id, &request).unwrap();
    let told: DomctlExtVcpucontext =
        ask(&mut control, abi::XEN_DOMCTL_GET_EXT_VCPUCONTEXT, guest.id, &DomctlExtVcpucontext::new_zeroed())
            .unwrap()
            .get();
    // A selector is of ring 3 at least.
    assert_eq!(told, DomctlExtVcpucontext { syscall32_callback_cs: 0xe00b, ..request });
    for (bad, why) in [
        (DomctlExtVcpucontext { size: 31, ..request }, Errno::Inval),
        (DomctlExtVcpucontext { sysenter_callback_eip: 1 << 60, ..request }, Errno::Inval),
        (DomctlExtVcpucontext { machine_checks: [1 << 40, 0, 0, 0], ..request }, Errno::Inval),
        (DomctlExtVcpucontext { size: 40, machine_checks: [1 << 40, 0, 0, 0], ..request }, Errno::Inval),
        (DomctlExtVcpucontext { vcpu: 2, ..request }, Errno::Srch),
    ] {
        assert_eq!(ask(&mut control, abi::XEN_DOMCTL_SET_EXT_VCPUCONTEXT, guest.id, &bad).map(drop), Err(why));
    }
    let register = DomctlVcpuMsr { index: 0xc000_0103, reserved: 0, value: 77 };
    control.hv.machine().write_guest(GuestAddr::new(LIST), register.as_bytes()).unwrap();
    let list = DomctlVcpuMsrs { vcpu: 0, msr_count: 1, msrs: LIST };
    ask(&mut control, abi::XEN_DOMCTL_SET_VCPU_MSRS, guest.id, &list).unwrap();
    assert_eq!(guest.vcpu(0).unwrap().slot.lock().as_ref().unwrap().tsc_aux, 77);
    let room = DomctlVcpuMsrs { msr_count: 0, ..list };
    assert_eq!(ask(&mut control, abi::XEN_DOMCTL_GET_VCPU_MSRS, guest.id, &room).map(drop), Err(Errno::NoBufs));
    let count: DomctlVcpuMsrs = ask(&mut control, abi::XEN_DOMCTL_GET_VCPU_MSRS, guest.id, &list).unwrap().get();
    assert_eq!(count.msr_count, 1);
    for (index, value, taken) in [(0x1234, 77, Err(Errno::Inval)), (0x140, 0, Ok(())), (0x140, 1, Err(Errno::Inval))] {
        let other = DomctlVcpuMsr { index, value, ..register };
        control.hv.machine().write_guest(GuestAddr::new(LIST), other.as_bytes()).unwrap();
        let done = ask(&mut control, abi::XEN_DOMCTL_SET_VCPU_MSRS, guest.id, &list).map(drop);
        assert_eq!(done, taken, "{index:#x} {value}");
    }
}

#[test]
fn an_area_that_is_not_mapped_yet_and_a_time_before_the_start_are_taken() {
    let mut control = control_domain();
    let area = VcpuRegisterTimeMemoryArea { addr: 0x7000_0000_0000 };
    control.hv.machine().write_guest(GuestAddr::new(0), area.as_bytes()).unwrap();
    let register = [VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA.into(), 0, 0, 0];
    assert_eq!(control.call(Caller::vcpu_op, register), Ok(0));
    assert!(control.vcpu.sched.time_is_due.load(SeqCst), "it waits to be mapped");
    let area = VcpuRegisterTimeMemoryArea { addr: 0x1000 };
    control.hv.machine().write_guest(GuestAddr::new(0), area.as_bytes()).unwrap();
    assert_eq!(control.call(Caller::vcpu_op, register), Ok(0));
    assert!(!control.vcpu.sched.time_is_due.load(SeqCst), "it is written for good");
    let past = VcpuSetSingleshotTimer { timeout_abs_ns: 1 << 63, ..FromZeros::new_zeroed() };
    control.hv.machine().write_guest(GuestAddr::new(0), past.as_bytes()).unwrap();
    assert_eq!(control.call(Caller::vcpu_op, [VCPUOP_SET_SINGLESHOT_TIMER.into(), 0, 0, 0]), Ok(0));
    assert!(control.vcpu.timer.load(SeqCst) <= control.hv.now(), "it fires at once");
}
