//! `mmu_update`, `mmuext_op`, `update_va_mapping` on the frames and windows of the experiments.

use oxen_abi::hypercall::Hypercall;
use oxen_abi::mmu;

use super::{Call, Random, Value};
use crate::fuzz::value::SELF;
use crate::fuzz::world::SLOT;

/// Draws a call.
pub(super) fn draw(random: &mut Random) -> Call {
    match random.below(9) {
        0..3 => update(random),
        3..6 => extended(random),
        6 | 7 => mapping(random),
        _ => foreign(random),
    }
}

/// Where an update goes.
fn place(random: &mut Random) -> Value {
    let kind = random.of_list(&[0, 0, 0, 0, 0, mmu::MMU_PT_UPDATE_PRESERVE_AD, mmu::MMU_PT_UPDATE_NO_TRANSLATE]);
    let at = random.of_list(&super::SLOTS) * 8;
    match random.below(12) {
        0 => super::number(random),
        1 => Value::Machine(super::frame(random), random.below(4096)),
        2 => Value::Number(1 << 49 | at),
        3 => Value::Slot(SLOT),
        // Slots that belong to the hypervisor.
        4 => Value::Slot(256 + random.below(16)),
        5 | 6 => Value::Entry(super::window(random), kind),
        _ => Value::Machine(super::frame(random), at | kind),
    }
}

fn update(random: &mut Random) -> Call {
    let count = 1 + random.below(3);
    let mut call = Call::default();
    for index in 0..count as usize {
        let (pointer, value) = if random.one_in(10) {
            let page =
                if random.one_in(4) { Value::Number(random.below(64)) } else { Value::Page(super::frame(random)) };
            let of = if random.one_in(4) { super::number(random) } else { Value::Machine(super::frame(random), 0) };
            let of = match of {
                Value::Machine(frame, bits) => Value::Machine(frame, bits | mmu::MMU_MACHPHYS_UPDATE),
                Value::Number(number) => Value::Number(number & !3 | mmu::MMU_MACHPHYS_UPDATE),
                other => other,
            };
            (of, page)
        } else {
            let at = place(random);
            linear(random, at)
        };
        call = call.at(index * 16, 8, pointer).at(index * 16 + 8, 8, value);
    }
    let domain = if random.one_in(12) { super::domain(random) } else { Value::Number(SELF) };
    let (list, count) = match random.below(16) {
        0 => (Value::Number(super::WILD), count),
        1 => (Value::Memory(0), 0),
        _ => (Value::Memory(0), count),
    };
    let done = if random.one_in(4) { Value::Number(0) } else { Value::Memory(0x100) };
    // Something stands where the count goes, if it goes there.
    let call = call.at(0x100, 4, Value::Number(0x77));
    let args = [list, Value::Number(count), done, domain];
    Call { args: args.to_vec(), number: Hypercall::MmuUpdate as u64, ..call }
}

/// What goes there: often an entry for the very table.
fn linear(random: &mut Random, place: Value) -> (Value, Value) {
    let flags = if random.one_in(4) { super::flags(random) } else { random.of_list(&[1, 5, 0x25, 0x65, 7]) };
    let entry = match place {
        Value::Machine(table, _) if random.one_in(4) => Value::Machine(table, flags),
        Value::Slot(_) if random.one_in(2) => Value::TableAt(4, flags),
        _ => super::entry(random),
    };
    (place, entry)
}

fn extended(random: &mut Random) -> Call {
    let count = 1 + random.below(2);
    let mut call = Call::default();
    for index in 0..count as usize {
        // Pins and their ends more often than others.
        let command = match random.below(3) {
            0 => random.below(22),
            1 => random.below(4),
            _ => random.of_list(&[4, 4, 5, 13, 15, 16, 17]),
        };
        let (first, second) = match command {
            // Flushes of a set of vcpus take a bitmap.
            8 | 9 => (super::any_address(random), Value::Memory(0x180)),
            6 | 7 | 10 | 11 => (super::any_address(random), super::number(random)),
            13 => (
                Value::Window(super::window(random), random.of_list(&[0, 0, 0, 8, 1])),
                Value::Number(random.of_list(&[0, 1, 8, 512, 513, 8192, 8193])),
            ),
            15 if random.one_in(4) => (Value::Number(0), Value::Number(0)),
            // A root of ours would have to hold this guest's memory; the present one does.
            5 => (if random.one_in(4) { Value::Table(4) } else { Value::Number(1 << 37) }, Value::Number(0)),
            // The contents of tables are machine addresses of all kinds.
            17 => (super::any_frame(random), Value::Frame(super::frame(random))),
            _ => (super::any_frame(random), super::any_frame(random)),
        };
        let at = index * 24;
        call = call.at(at, 4, Value::Number(command)).at(at + 8, 8, first).at(at + 16, 8, second);
    }
    call = call.at(0x180, 8, Value::Number(random.of_list(&[0, 1, 3, u64::MAX])));
    let domain = if random.one_in(12) { super::domain(random) } else { Value::Number(SELF) };
    let done = if random.one_in(4) { Value::Number(0) } else { Value::Memory(0x100) };
    let call = call.at(0x100, 4, Value::Number(0x77));
    let args = [Value::Memory(0), Value::Number(count), done, domain];
    Call { args: args.to_vec(), number: Hypercall::MmuextOp as u64, ..call }
}

/// The address of a mapping: a window's, or where nothing may be mapped.
fn place_of_mapping(random: &mut Random) -> Value {
    match random.below(12) {
        0 => Value::Number(super::WILD),
        1 => Value::Number(random.of_list(&[0xffff_8000_0000_0000, 0xffff_83ff_ffff_f000, 0x1234_5678_9abc_d000])),
        2 => Value::Window(super::window(random), random.below(4096)),
        _ => Value::Window(super::window(random), 0),
    }
}

fn mapping(random: &mut Random) -> Call {
    // Always with a flush that is good: what a stale translation does is the processor's.
    let flush = random.of_list(&[1, 2, 2, 2, 5, 6, 9]);
    let args = [place_of_mapping(random), super::entry(random), Value::Number(flush)];
    Call::new(Hypercall::UpdateVaMapping, "", &args)
}

fn foreign(random: &mut Random) -> Call {
    let args = [place_of_mapping(random), super::entry(random), Value::Number(2), super::domain(random)];
    Call::new(Hypercall::UpdateVaMappingOtherdomain, "", &args)
}
