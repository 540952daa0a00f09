//! Requests that nobody in his right mind would make: whatever the control domain or a guest asks, nothing breaks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::{self as abi, Domctl},
    domid::DomId,
    sysctl,
};
use oxen_hv::{
    addr::GuestAddr,
    caller::Caller,
    mem::{Tlb, root::RootAddress},
    reply::{Args, Reply, Stop},
};
use support::{
    Fake,
    control::{CONTEXT, REQUEST, STEPS, as_guest, ask, control_domain, destroy, make, wanted},
    dice::Dice,
};
use zerocopy::FromBytes;

/// Numbers as a hostile caller would choose them.
fn hostile_word(dice: &mut Dice) -> u64 {
    match dice.wide(8) {
        0 => u64::MAX - dice.wide(3),
        1 => 1 << dice.wide(64),
        2 => 0xffff_8000_0000_0000 + dice.wide(1 << 40),
        3 => CONTEXT + dice.wide(0x4000),
        4 => dice.wide(1100),
        _ => dice.wide(5),
    }
}

fn hostile_request(dice: &mut Dice, command: u32, version: u32) -> [u8; 144] {
    let mut bytes = [0; 144];
    for word in bytes.chunks_exact_mut(4) {
        word.copy_from_slice(&(hostile_word(dice) as u32).to_le_bytes());
    }
    if dice.wide(2) == 0 {
        // As eight-byte fields would have it.
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&hostile_word(dice).to_le_bytes());
        }
    }
    bytes[..4].copy_from_slice(&command.to_le_bytes());
    bytes[4..8].copy_from_slice(&version.to_le_bytes());
    bytes[8..10].copy_from_slice(&(dice.wide(6) as u16).to_le_bytes());
    bytes
}

type Handler = fn(&mut Caller<'_, Fake>, &mut Args) -> Reply;

#[test]
fn no_request_of_the_control_domain_breaks_anything() {
    for seed in 1..=12_u64 {
        let mut control = control_domain();
        let hv = control.hv;
        // Trace buffers stay once they are made.
        hv.make_trace_buffers(1).unwrap();
        let free = hv.memory.frames.free_frames();
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let versions = [abi::XEN_DOMCTL_INTERFACE_VERSION, sysctl::XEN_SYSCTL_INTERFACE_VERSION, 0x0300_0001];
        for _ in 0..2500 {
            if dice.wide(20) == 0 {
                let domain = DomId(dice.wide(5) as u16 + 1);
                if ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, domain, &wanted(2)).is_ok() {
                    let domain = hv.domains.get(domain).unwrap();
                    let steps = dice.wide(5) as usize;
                    STEPS[..steps].iter().for_each(|step| step(&mut control, &domain));
                }
            }
            let which = dice.wide(5);
            let (handler, command): (Handler, u64) = match which {
                0..=2 => (|caller, args| caller.domctl(args), dice.wide(90)),
                3 => (|caller, args| caller.sysctl(args), dice.wide(32)),
                _ => (|caller, args| caller.platform_op(args), dice.wide(66)),
            };
            let version = versions[(which as usize).saturating_sub(2)];
            let request = hostile_request(&mut dice, command as u32, version);
            hv.machine().write_guest(GuestAddr::new(REQUEST), &request).unwrap();
            let _ = control.call(handler, [REQUEST, 0, 0, 0]);
            if dice.wide(3) == 0 {
                let argument = hostile_word(&mut dice);
                let _ = control.call(Caller::physdev_op, [dice.wide(34), argument, 0, 0]);
            }
        }
        for id in 1..600 {
            let _ = destroy(&mut control, DomId(id));
        }
        assert_eq!(hv.domains.count(), 1);
        assert_eq!(hv.memory.frames.free_frames(), free, "seed {seed}");
    }
}

#[test]
fn no_vcpu_op_of_a_guest_breaks_anything() {
    for seed in 1..=20_u64 {
        let mut control = control_domain();
        let hv = control.hv;
        let free = hv.memory.frames.free_frames();
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let domain = make(&mut control);
        STEPS[..4].iter().for_each(|step| step(&mut control, &domain));
        let root = domain.vcpu(0).unwrap().slot.lock().as_ref().unwrap().kernel_root.unwrap();
        hv.machine().load_root(RootAddress::of(root));
        as_guest(hv, &domain, |caller| {
            for _ in 0..1500 {
                for word in 0..128 {
                    let value = hostile_word(&mut dice);
                    hv.machine().write_guest(GuestAddr::new(8 * word), &value.to_le_bytes()).unwrap();
                }
                let argument = if dice.wide(4) == 0 { hostile_word(&mut dice) } else { 8 * dice.wide(64) };
                let mut args = [dice.wide(16), dice.wide(4), argument, 0, 0, 0];
                let answer = if dice.wide(3) == 0 {
                    caller.sched_op(&mut [args[0] % 8, argument, 0, 0, 0, 0])
                } else {
                    caller.vcpu_op(&mut args)
                };
                assert!(!matches!(answer, Err(Stop::Fatal(_))), "{args:?}");
            }
        });
        control.run();
        destroy(&mut control, domain.id).unwrap();
        assert_eq!(hv.memory.frames.free_frames(), free, "seed {seed}");
    }
}

#[test]
fn a_request_survives_every_bit() {
    // `hostile_request` relies on it: any bits are a request.
    assert!(Domctl::read_from_bytes(&[0xff; 144]).is_ok());
}
