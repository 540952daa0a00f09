//! What is drawn: calls of every family and instructions, with arguments that are right, nearly right, or hostile.

mod control;
mod devices;
mod domain;
mod instructions;
mod memory;
mod processor;
mod queues;
mod tables;

use alloc::vec::Vec;

use super::call::{Call, Step};
use super::random::Random;
use super::value::{FRAMES, Value, WINDOWS};

/// Where no guest has memory.
pub(super) const WILD: u64 = crate::raw::WILD;
/// Numbers that are at an edge of something.
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    7,
    0xff,
    0xfff,
    0x1000,
    0x7ff0,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 47,
    0xffff_8000_0000_0000,
    0xffff_82d0_8000_0000,
    0xffff_8800_0000_0000,
    1 << 63,
    u64::MAX,
];

/// Where in a table entries are written.
pub(super) const SLOTS: [u64; 8] = [0, 1, 2, 3, 255, 280, 300, 511];

/// Draws a step.
pub(super) fn step(random: &mut Random, privileged: bool, only_control: bool) -> Step {
    if only_control {
        return Step::Call(control::draw(random));
    }
    if random.one_in(8) {
        return domain::table(random);
    }
    match random.below(10) {
        0 | 1 => instructions::draw(random),
        2 => {
            let count = random.below(4) + 1;
            let mut calls: Vec<_> = (0..count).map(|_| call(random, privileged)).collect();
            // What another call answers can reach into a later one's memory: a poll would lose its deadline, and of a
            // text anything could become a request. Nothing stands behind what ends Xen's batches.
            calls.sort_by_key(|call| match call {
                call if call.may_wait() => 0,
                call if call.ends_batch() => 2,
                call if call.tells_text() => 3,
                _ => 1,
            });
            let end = calls.iter().position(Call::ends_batch);
            calls.truncate(end.map_or(calls.len(), |at| at + 1));
            Step::Batch(calls)
        }
        // The way back closes every port, a guest's console among them.
        3 if privileged && random.one_in(3) => Step::Batch(queues::burst(random)),
        _ => Step::Call(call(random, privileged)),
    }
}

fn call(random: &mut Random, privileged: bool) -> Call {
    match random.below(if privileged { 24 } else { 20 }) {
        20.. => control::draw(random),
        0..7 => tables::draw(random),
        7 | 8 => memory::draw(random),
        10 if privileged && random.one_in(2) => queues::draw(random),
        9 | 10 => domain::event(random),
        11..14 => domain::grant(random),
        14..18 => processor::draw(random),
        _ => devices::draw(random, privileged),
    }
}

/// A number at an edge, or any.
fn number(random: &mut Random) -> Value {
    Value::Number(if random.one_in(4) { random.word() } else { random.of_list(&EDGES) })
}

/// A frame of the experiments.
fn frame(random: &mut Random) -> usize {
    random.below(FRAMES as u64) as usize
}

/// A window for a frame.
pub(super) fn window(random: &mut Random) -> usize {
    random.below(FRAMES as u64) as usize
}

/// A window for grants.
fn grant_window(random: &mut Random) -> usize {
    FRAMES + random.below((WINDOWS - FRAMES) as u64) as usize
}

/// What is given as the number of a frame.
fn any_frame(random: &mut Random) -> Value {
    match random.below(12) {
        0 => Value::Number(1 << 37),
        1 => no_frame(random),
        2 => Value::Table(1 + random.below(4) as usize),
        _ => Value::Frame(frame(random)),
    }
}

/// A number at an edge, or any, but none that some machine has memory of: whose that is, is another question on each.
fn no_frame(random: &mut Random) -> Value {
    match number(random) {
        Value::Number(frame) if (0x100..1 << 20).contains(&frame) => Value::Number(frame | 1 << 36),
        number => number,
    }
}

/// What is given as an address.
fn any_address(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Number(WILD),
        1 => number(random),
        2 => Value::Window(window(random), random.below(4096)),
        3 => Value::Memory(random.below(64) * 8),
        _ => Value::Window(window(random), random.below(512) * 8),
    }
}

/// Bits of a page table entry, mostly such as are allowed.
pub(super) fn flags(random: &mut Random) -> u64 {
    const USUAL: [u64; 8] = [1, 3, 5, 7, 0x61, 0x63, 0x65, 0x67];
    // Not how it is cached: guests' memory is always write-back here, and Xen lets them say otherwise.
    const RARE: [u64; 7] = [1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 52, 1 << 58, 1 << 62];
    let mut flags = random.of_list(&USUAL) | if random.one_in(2) { 1 << 63 } else { 0 };
    if random.one_in(4) {
        flags |= random.of_list(&RARE);
    }
    if random.one_in(12) { flags & !1 } else { flags }
}

/// An entry of a page table.
pub(super) fn entry(random: &mut Random) -> Value {
    match random.below(16) {
        0 => Value::Number(0),
        1 => Value::Number(random.word() | 1 << 51),
        // Device memory, cached in any of the ways that there are.
        2 => Value::Number(1 << 49 | 0x63 | random.of_list(&[0, 0, 8, 0x10, 0x18, 0x80, 0x88, 0x90, 0x98])),
        3 => Value::TableAt(1 + random.below(4) as usize, flags(random)),
        4 => Value::Machine(frame(random), 0x67),
        _ => Value::Machine(frame(random), flags(random)),
    }
}

/// What is given as a domain: mostly this one.
fn domain(random: &mut Random) -> Value {
    match random.below(12) {
        0 => Value::Number(0x1234),
        1 => Value::Me,
        2 => Value::Number(random.of_list(&[0x7ff1, 0x7ff2, 0x7ff3, 0x7ff4, 0x7fff, 0xffff])),
        _ => Value::Number(super::value::SELF),
    }
}
