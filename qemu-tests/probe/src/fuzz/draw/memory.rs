//! `memory_op`: what changes nothing that cannot be taken back.

use oxen_abi::hypercall::Hypercall;

use super::{Call, Random, Value};
use crate::fuzz::value::SELF;

/// Draws a call.
pub(super) fn draw(random: &mut Random) -> Call {
    let command = random.below(34);
    let call = |what, argument| Call::new(Hypercall::MemoryOp, what, &[Value::Number(command), argument]);
    let argument = match random.below(10) {
        0 => Value::Number(super::WILD),
        1 => Value::Number(0),
        _ => Value::Memory(0),
    };
    let domain = super::domain(random);
    match command {
        // Reservations: none, or with what no domain has. Frames of ours are not given away.
        0 | 1 | 6 => reservation(random, call("reservation", argument), domain),
        2 => call("maximum_ram_page", argument).vague(),
        3 | 4 | 14 => call("size", argument).at(0, 2, domain).vague(),
        5 => {
            let words = [Value::Number(random.of_list(&[0, 1, 2, 1 << 31])), Value::Memory(0x100)];
            call("machphys_mfn_list", argument).words(&words).hide(0x100, 64)
        }
        9 | 10 => {
            let words = [Value::Number(random.of_list(&[0, 1, 2])), Value::Memory(0x100)];
            call("memory_map", argument).words(&words).hide(0, 4).hide(0x100, 60)
        }
        11 => {
            let words = [
                Value::Memory(0x100),
                Value::Number(random.of_list(&[0, 1, 2])),
                Value::Number(random.of_list(&[0, 9, 64]) | 1 << 50),
                Value::Number(SELF),
                Value::Memory(0x110),
                Value::Number(random.of_list(&[0, 1, 2])),
                Value::Number(random.of_list(&[0, 9, 64]) | 1 << 50),
                domain,
                Value::Number(random.of_list(&[0, 1, 7])),
            ];
            // The orders say 1 << 18 above: no exchange is possible.
            call("exchange", argument).words(&words)
        }
        12 => call("machphys_mapping", argument).hide(0, 24),
        // A claim would stand in the way of other domains; a map is kept.
        13 | 24 => {
            let argument = if command == 24 { Value::Number(super::WILD) } else { argument };
            call("map or claim", argument).words(&[Value::Number(0x1234), Value::Number(0), Value::Number(0)])
        }
        28 => {
            let kind = random.of_list(&[0, 1, 1, 1, 2, 3]);
            let words = [
                Value::Number(random.of_list(&[SELF, 0x1234]) | kind << 32),
                Value::Number(random.below(3) | random.of_list(&[0, 1, 2, 64]) << 32),
                Value::Number(random.of_list(&[0, 1, 1 << 32])),
                Value::Memory(0x100),
            ];
            call("acquire_resource", argument).words(&words).hide(0, 32).hide(0x100, 0x80)
        }
        _ => {
            let words = [domain, super::number(random), super::number(random), super::any_frame(random)];
            call("other", argument).words(&words)
        }
    }
}

/// Fills in a reservation of nothing, or of what no list says.
fn reservation(random: &mut Random, call: Call, domain: Value) -> Call {
    let count = random.of_list(&[0, 0, 1, 1 << 32, u64::MAX]);
    let order = random.of_list(&[0, 0, 9, 10, 18, 21, 52, 64, 0xffff_ffff]);
    let list = match (count, random.below(2)) {
        (0, _) => Value::Memory(0x80),
        (_, 0) => Value::Number(super::WILD),
        _ => Value::Number(0xffff_8000_0000_0000),
    };
    let flags = random.of_list(&[0, 0, 1, 32, 1 << 16, 1 << 17]);
    let words = [list, Value::Number(count), Value::Number(order | flags << 32), domain];
    call.words(&words)
}
