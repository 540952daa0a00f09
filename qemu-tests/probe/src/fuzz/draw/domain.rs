//! `event_channel_op` and `grant_table_op` of a domain with itself.

use oxen_abi::hypercall::Hypercall;

use super::{Call, Random, Value};
use crate::fuzz::call::{Entry, Kept, Step};
use crate::fuzz::grants::RESERVED;
use crate::fuzz::value::FRAMES;
use crate::fuzz::value::SELF;

/// A port: one of the first few, or none.
pub(super) fn port(random: &mut Random) -> Value {
    match random.below(10) {
        0 => Value::Number(random.of_list(&[0, 4000, 4096, 0x2_0000, 0xffff_ffff])),
        _ => Value::Port(random.below(4) as u32),
    }
}

/// Draws a call of `event_channel_op`.
pub(super) fn event(random: &mut Random) -> Call {
    let op =
        |command: u64, what| Call::new(Hypercall::EventChannelOp, what, &[Value::Number(command), Value::Memory(0)]);
    let own = Value::Number(SELF);
    let domain = |random: &mut Random| if random.one_in(3) { super::domain(random) } else { own };
    match random.below(15) {
        0 => {
            let call = op(0, "bind_interdomain").at(0, 2, domain(random)).at(4, 4, port(random));
            call.keep(Kept::Port(8))
        }
        1 => {
            // Not 3: of an end of a domain Xen tells when it comes to it.
            let virq = random.of_list(&[1, 1, 4, 7, 15, 16, 23, 24, 0xffff_ffff]);
            let vcpu = random.of_list(&[0, 0, 0, 1, 32, 0xffff_ffff]);
            op(1, "bind_virq").words32(&[Value::Number(virq), Value::Number(vcpu)]).keep(Kept::Port(8))
        }
        2 => {
            let pirq = random.of_list(&[0xffff_ffff, 5000, 100_000, 100]);
            op(2, "bind_pirq").words32(&[Value::Number(pirq), Value::Number(random.below(3))]).keep(Kept::Port(8))
        }
        3 => op(3, "close").words32(&[port(random)]),
        4 | 5 => op(4, "send").words32(&[port(random)]),
        6 | 7 => op(5, "status").at(0, 2, domain(random)).at(4, 4, port(random)).hide(20, 4),
        8 | 9 => op(6, "alloc_unbound").at(0, 2, domain(random)).at(2, 2, domain(random)).keep(Kept::Port(4)),
        10 => {
            let vcpu = random.of_list(&[0, 0, 1, 0xffff_ffff]);
            op(7, "bind_ipi").words32(&[Value::Number(vcpu)]).keep(Kept::Port(4))
        }
        11 => op(8, "bind_vcpu").words32(&[port(random), Value::Number(random.of_list(&[0, 0, 1, 0xffff_ffff]))]),
        12 | 13 => op(9, "unmask").words32(&[port(random)]),
        _ => {
            // Reset of others only.
            let command = random.of_list(&[10, 14, 99, 0xffff_ffff]);
            op(command, "other").words(&[Value::Number(0x1234), super::number(random)])
        }
    }
}

/// A reference: one of those that are played with, or another. The reserved ones outlive a change of the version.
fn reference(random: &mut Random) -> Value {
    match random.below(10) {
        0 => Value::Number(random.of_list(&[7, 255, 256, 511, 512, 0xffff_ffff])),
        1..5 => Value::Number(RESERVED.start + random.below(RESERVED.end - RESERVED.start)),
        _ => Value::Reference(FRAMES - 1 - random.below(2) as usize),
    }
}

/// Draws what is done with the grant table itself: entries written, and its version changed.
pub(super) fn table(random: &mut Random) -> Step {
    if random.one_in(4) {
        return Step::Version(random.of_list(&[1, 1, 2, 2, 2, 0, 3]) as u32);
    }
    let kind = random.of_list(&[0, 1, 1, 1, 1, 2, 3]);
    let flags = random.of_list(&[0, 0, 0, 4, 8, 0x10, 0x20, 0x100, 0x100, 0xfffc]);
    let domain = if random.one_in(6) { super::domain(random) } else { Value::Me };
    let first =
        if kind == 3 { super::domain(random) } else { Value::Number(random.of_list(&[0, 8, 64, 4095, 4096, 0xffff])) };
    // Not the tables of this guest, which can be read then and hold what has no name; the
    // status words not to be written.
    let (frame, flags) = match random.below(8) {
        0 => (Value::Number(random.of_list(&[0, 1 << 32, 1 << 50, u64::MAX, 3, 4])), flags),
        1 => (Value::Status, flags | 4),
        _ => (Value::Frame(super::frame(random)), flags),
    };
    let reference = match reference(random) {
        Value::Number(number) if !RESERVED.contains(&number) => Value::Number(RESERVED.start),
        other => other,
    };
    let bytes = random.of_list(&[0, 8, 64, 4032, 4096, 0xffff]) as u16;
    Step::Offer(Entry { reference, flags: (kind | flags) as u16, domain, first, bytes, frame })
}

/// Draws a call of `grant_table_op`.
pub(super) fn grant(random: &mut Random) -> Call {
    let count = random.of_list(&[1, 1, 1, 1, 1, 1, 0, 0xffff_ffff]);
    let argument = if count > 1 { Value::Number(super::WILD) } else { Value::Memory(0) };
    let op = |command: u64, what| {
        Call::new(Hypercall::GrantTableOp, what, &[Value::Number(command), argument, Value::Number(count)])
    };
    let domain = match random.below(6) {
        0 => super::domain(random),
        1 => Value::Number(SELF),
        _ => Value::Me,
    };
    let reference = reference(random);
    let window = super::grant_window(random);
    let handle = match random.below(6) {
        0 => Value::Number(random.of_list(&[0xffff, 0xffff_ffff, 4000])),
        _ => Value::Handle(random.below(2) as usize),
    };
    match random.below(16) {
        0..3 => {
            let flags = random.of_list(&[2, 2, 2, 6, 6, 6, 0, 1, 10, 2 | 1 << 16, 4]);
            // The machine's address of what is mapped is printed by its own name.
            let call = op(0, "map").words(&[Value::Window(window, 0)]).at(8, 4, Value::Number(flags));
            call.at(12, 4, reference).at(16, 2, domain).keep(Kept::Handle(20, window))
        }
        3 | 4 => {
            let address = if random.one_in(5) { super::any_address(random) } else { Value::Window(window, 0) };
            op(1, "unmap").words(&[address, Value::Number(0)]).at(16, 4, handle).hide(16, 4)
        }
        5 => {
            let frames = random.of_list(&[0, 1, 1, 2, 100, 0xffff_ffff]);
            let call = op(2, "setup_table").at(0, 2, domain).at(4, 4, Value::Number(frames));
            call.at(16, 8, Value::Memory(0x100)).hide(0x100, 0x60)
        }
        6 | 7 => copy(random, op(5, "copy"), domain),
        8 => op(6, "query_size").at(0, 2, domain).hide(4, 8),
        9 => {
            let call = op(7, "unmap_and_replace").words(&[Value::Window(window, 0)]);
            let new = if random.one_in(2) { Value::Number(0) } else { super::any_address(random) };
            call.at(8, 8, new).at(16, 4, handle).hide(16, 4)
        }
        10 => op(10, "get_version").at(0, 2, domain),
        11 => {
            let other = self::reference(random);
            op(11, "swap").at(0, 4, reference).at(4, 4, other)
        }
        12 => {
            let frames = random.of_list(&[0, 1, 1, 1, 2, 100, 0xffff_ffff]);
            let list = if random.one_in(4) { super::number(random) } else { Value::Memory(0x100) };
            let call = op(9, "get_status_frames").at(0, 4, Value::Number(frames)).at(4, 2, domain);
            call.at(8, 8, list).hide(0x100, 8)
        }
        13 | 14 => {
            let first = random.of_list(&[0, 0, 0, 1 << 12, 0xffff_f000]);
            flush(random, op(12 | first, "cache_flush"))
        }
        _ => {
            let command = random.of_list(&[3, 4, 13, 0xff, 1 << 12, 0xffff_ffff]);
            let call = op(command, "other").words(&[domain, super::number(random), super::number(random)]);
            call.at(0x18, 8, Value::Number(super::WILD))
        }
    }
}

/// Fills in a flush of caches.
fn flush(random: &mut Random, call: Call) -> Call {
    let page = match random.below(4) {
        0 => super::number(random),
        _ => Value::Machine(super::frame(random), random.below(4096)),
    };
    let offset = random.of_list(&[0, 0, 8, 4095, 4096, 0xffff]);
    let length = random.of_list(&[0, 8, 8, 64, 4096, 4097, 0xffff]);
    let what = random.of_list(&[1, 1, 2, 3, 0, 4, 1 << 31, 1 | 1 << 31]);
    let call = call.words(&[page]).at(8, 2, Value::Number(offset));
    call.at(10, 2, Value::Number(length)).at(12, 4, Value::Number(what))
}

/// Fills in a copy between frames of ours, by reference or by number.
fn copy(random: &mut Random, call: Call, domain: Value) -> Call {
    let flags = random.below(4);
    let side = |random: &mut Random, by_reference: bool| {
        if by_reference { reference(random) } else { Value::Frame(super::frame(random)) }
    };
    let offset = random.of_list(&[0, 8, 2048, 4088, 4095, 4096, 0xffff]);
    let length = random.of_list(&[0, 8, 64, 2048, 4096, 4097, 0xffff]);
    let call = call.at(0, 8, side(random, flags & 1 != 0)).at(8, 2, domain);
    let call = call.at(10, 2, Value::Number(offset)).at(16, 8, side(random, flags & 2 != 0));
    let call = call.at(24, 2, Value::Number(SELF)).at(26, 2, Value::Number(random.of_list(&[0, 8, 4088])));
    call.at(32, 2, Value::Number(length)).at(34, 2, Value::Number(flags | random.of_list(&[0, 0, 0, 4])))
}
