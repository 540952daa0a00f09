//! Versions, the console, physical devices, and numbers behind which there is nothing.

use oxen_abi::hypercall::Hypercall;

use super::{Call, Random, Value};

/// Draws a call.
pub(super) fn draw(random: &mut Random, privileged: bool) -> Call {
    match random.below(6) {
        0 | 1 => version(random),
        2 => console(random, privileged),
        3 | 4 => devices(random, privileged),
        _ => {
            let number = random.of_list(&[11, 6, 16, 19, 37, 38, 43, 44, 47, 49, 55, 56, 63, 1, 12, 20, 32, 33]);
            // By the slots of the page; a command that no family has. What kexec is asked is dom0's.
            let number = if privileged && number == 37 { 38 } else { number };
            let args = [Value::Number(0x7f), Value::Number(super::WILD), Value::Number(1), Value::Number(0x1234)];
            Call { number, args: args.to_vec(), ..Call::default() }
        }
    }
}

/// Shapes, not strings.
fn version(random: &mut Random) -> Call {
    let command = random.of_list(&[0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 8, 9, 10, 11, 99, 1 << 32]);
    let argument = if random.one_in(6) { Value::Number(super::WILD) } else { Value::Memory(0) };
    let call = Call::new(Hypercall::XenVersion, "", &[Value::Number(command), argument]);
    match command {
        6 => call.words32(&[Value::Number(random.of_list(&[0, 0, 0, 1, 2, 0xffff_ffff]))]),
        10 => call.words32(&[Value::Number(random.of_list(&[0, 1, 20]))]).hide(0, 64),
        _ => call.hide(0, 0x800),
    }
}

fn console(random: &mut Random, privileged: bool) -> Call {
    // What is typed and what is written is the world's; only what is refused.
    let command = random.of_list(&[0, 1, 2, 99]);
    let count = random.of_list(&[0, 1, 64, 1 << 31, 0xffff_ffff]);
    let address = if privileged && command < 2 { Value::Number(super::WILD) } else { Value::Memory(0) };
    Call::new(Hypercall::ConsoleIo, "", &[Value::Number(command), Value::Number(count), address])
}

fn devices(random: &mut Random, privileged: bool) -> Call {
    match random.below(8) {
        0 => op(random, 6).words32(&[Value::Number(random.of_list(&[0, 1, 2, 3, 4, 0xffff_ffff]))]),
        1 => {
            let ports = random.of_list(&[0, 8, 0x1_0000, 0x1_0001, 0xffff_ffff]);
            let map = if random.one_in(2) { Value::Number(0) } else { Value::Number(super::WILD) };
            op(random, 7).words(&[map, Value::Number(ports)])
        }
        2 => {
            // The two 8259s' cascade, which Xen keeps for every domain, is not asked about.
            let command = random.of_list(&[5, 10, 12]);
            let irq = random.of_list(&[5, 16, 23, 24, 55, 56, 207, 208, 5000, 0xffff_ffff]);
            let known = command != 12 || irq > 207;
            op(random, command).words32(&[Value::Number(if known { irq } else { 0xffff_ffff })])
        }
        3 => interrupt(random),
        4 => device(random),
        5 => map(random),
        6 => compat(random),
        _ if privileged => {
            let command = random.of_list(&[4, 11, 18, 22, 29, 32, 99, 0xffff_ffff]);
            op(random, command).words(&[super::number(random)])
        }
        _ => {
            let command = random.below(32);
            let first = if [17, 28].contains(&command) { super::no_frame(random) } else { super::number(random) };
            op(random, command).words(&[first, super::number(random), super::number(random)])
        }
    }
}

fn op(random: &mut Random, command: u64) -> Call {
    let argument = if random.one_in(8) { Value::Number(super::WILD) } else { Value::Memory(0) };
    Call::new(Hypercall::PhysdevOp, "", &[Value::Number(command), argument])
}

/// What belongs to lines, pages and numbers.
fn interrupt(random: &mut Random) -> Call {
    match random.below(5) {
        0 => {
            let frame = super::any_frame(random);
            let command = random.of_list(&[17, 28]);
            op(random, command).words(&[frame])
        }
        1 => op(random, 23).words32(&[Value::Number(random.below(3))]),
        2 => {
            let gsi = random.of_list(&[20, 21, 24, 208, 5000, 0xffff_ffff]);
            op(random, 21).words32(&[Value::Number(gsi), Value::Number(0x0101)])
        }
        3 => {
            let (command, registers) = (random.of_list(&[8, 9]), [0, 1, 0x11]);
            let place = random.of_list(&[0xfec0_0000, 0, 0x1000]);
            let register = random.of_list(&registers);
            let call = op(random, command).words(&[Value::Number(place), Value::Number(register)]);
            // Where a line is routed is the hypervisor's own.
            if register == 0x11 { call.hide(12, 4) } else { call }
        }
        _ => {
            let flags = random.of_list(&[0, 1, 2]);
            let window = [super::number(random), Value::Number(flags << 32 | 0xff00_0000)];
            op(random, 24).words(&window)
        }
    }
}

/// A function that there is not, or the host bridge.
fn function(random: &mut Random) -> u64 {
    random.of_list(&[0x0000, 0x4000, 0x4001, 0x0108])
}

/// What is told and asked of devices.
fn device(random: &mut Random) -> Call {
    // Bus in the low byte, device and function in the high one; the later commands have the segment before.
    let place = function(random).swap_bytes() >> 48;
    match random.below(3) {
        0 => {
            let command = random.of_list(&[15, 16, 19]);
            op(random, command).at(0, 2, Value::Number(place))
        }
        1 => {
            let is = random.of_list(&[0, 0, 1, 2]);
            op(random, 20).words32(&[Value::Number(place), Value::Number(0), Value::Number(is)])
        }
        _ => {
            let command = random.of_list(&[25, 26, 27, 30, 31]);
            // Xen dies of a table that is asked for of a function which is announced and has none.
            let segment = if command < 30 { random.of_list(&[0, 0, 1]) } else { 2 };
            op(random, command).words32(&[Value::Number(place << 16 | segment), Value::Number(0)])
        }
    }
}

/// Interrupts that are mapped, or not. A line's pirq is its own number.
fn map(random: &mut Random) -> Call {
    let domain = super::domain(random);
    if random.one_in(3) {
        let pirq = random.of_list(&[0xffff_ffff, 20, 21, 100, 5000]);
        return op(random, 14).at(0, 2, domain).at(4, 4, Value::Number(pirq));
    }
    let kind = random.of_list(&[0, 0, 1, 1, 2, 3, 3, 4, 0xffff_ffff]);
    let (index, pirq) = match kind {
        1 => {
            let line = random.of_list(&[20, 21, 24, 0xffff_ffff]);
            (line, line)
        }
        _ => (random.of_list(&[0xffff_ffff, 0xffff_ffff, 5, 5000]), random.of_list(&[0xffff_ffff, 100, 5000])),
    };
    let bus = function(random) >> 8;
    let segment = random.of_list(&[0, 0, 1]);
    let entry = random.of_list(&[0, 1, 2, 32, 33, 0xffff_ffff]);
    let table = random.of_list(&[0, 0, 0xfebd_0000]);
    op(random, 13)
        .at(0, 2, domain)
        .at(4, 4, Value::Number(kind))
        .at(8, 4, Value::Number(index))
        .at(12, 4, Value::Number(pirq))
        .at(16, 4, Value::Number(segment << 16 | bus))
        .at(20, 4, Value::Number(function(random) & 0xff))
        .at(24, 4, Value::Number(entry))
        .at(32, 8, Value::Number(table))
}

/// The interface of before Xen 3.2: the command, and its argument behind.
fn compat(random: &mut Random) -> Call {
    let argument = if random.one_in(8) { Value::Number(super::WILD) } else { Value::Memory(0) };
    let command = random.of_list(&[4, 5, 6, 7, 8, 10, 11, 12, 13, 99]);
    let words = [command, 0, random.of_list(&[0, 1, 4, 5000]), 0, 0x20, 0];
    Call::new(Hypercall::PhysdevOpCompat, "", &[argument]).words32(&words.map(Value::Number))
}
