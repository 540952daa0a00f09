//! What only a control domain may ask: `domctl` about a domain that is made for each sequence, `sysctl`, `platform_op`.

mod domctl;
mod platform;
mod sysctl;

use super::{Call, Random, Value};

/// Draws a call.
pub(super) fn draw(random: &mut Random) -> Call {
    match random.below(8) {
        0..5 => domctl::draw(random),
        5 | 6 => sysctl::draw(random),
        _ => platform::draw(random),
    }
}

/// The number of a vcpu: one of two that there are, or none.
fn vcpu(random: &mut Random) -> Value {
    Value::Number(random.of_list(&[0, 0, 0, 1, 1, 2, 31, 128, 8192, 0x7fff_ffff, 0xffff_ffff]))
}

/// The number of a processor: the one that there is, or none.
fn processor(random: &mut Random) -> Value {
    Value::Number(random.of_list(&[0, 0, 0, 1, 2, 31, 32, 255, 256, 4095, 0xffff_ffff]))
}

/// A small number.
fn small(random: &mut Random, below: u64) -> Value {
    Value::Number(random.below(below))
}

/// Where a structure of the argument's is: in the argument memory, in the first window, at nothing, in the wild.
fn buffer(random: &mut Random, at: u64) -> Value {
    match random.below(8) {
        0 => Value::Number(super::WILD),
        1 => Value::Number(0),
        2 => Value::Window(0, 0),
        _ => Value::Memory(at),
    }
}
