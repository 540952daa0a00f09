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
    let argument = if random.one_in(8) { Value::Number(super::WILD) } else { Value::Memory(0) };
    let op = |command: u64| Call::new(Hypercall::PhysdevOp, "", &[Value::Number(command), argument]);
    match random.below(6) {
        0 | 1 => op(6).words32(&[Value::Number(random.of_list(&[0, 1, 2, 3, 4, 0xffff_ffff]))]),
        2 => {
            let ports = random.of_list(&[0, 8, 0x1_0000, 0x1_0001, 0xffff_ffff]);
            let map = if random.one_in(2) { Value::Number(0) } else { Value::Number(super::WILD) };
            op(7).words(&[map, Value::Number(ports)])
        }
        3 => op(random.of_list(&[5, 12])).words32(&[Value::Number(random.of_list(&[5000, 0xffff_ffff]))]),
        4 => op(random.of_list(&[4, 29, 31, 32, 99, 0xffff_ffff])).words(&[super::number(random)]),
        _ if privileged => op(random.of_list(&[13, 14])).at(0, 2, Value::Number(0x1234)),
        _ => op(random.below(32)).words(&[super::number(random), super::number(random), super::number(random)]),
    }
}
