//! Every model-specific register that anything is known of, read and written, and every leaf of CPUID: one after the
//! other, where what is drawn finds those that guests ask for.

use core::ops::RangeInclusive;

use oxen_abi::hypercall::Hypercall;
use oxen_domu_lib::println;

use super::call::{Call, Step};
use super::value::SELF;
use super::value::Value;
use super::world::World;
use crate::raw::trapped::NAMES;

const REGISTERS: [RangeInclusive<u64>; 5] = [
    0..=0x2000,
    0x4000_0000..=0x4000_01ff,
    0xc000_0000..=0xc000_0200,
    0xc001_0000..=0xc001_0400,
    0xc001_1000..=0xc001_1100,
];
/// The time, and how fast the CPU ran: whatever is read is old.
const MOVING: [u64; 3] = [0x10, 0xe7, 0xe8];
const LEAVES: [RangeInclusive<u64>; 5] = [
    0..=0x24,
    0x4000_0000..=0x4000_0006,
    0x4000_0100..=0x4000_0101,
    0x8000_0000..=0x8000_0028,
    0xc000_0000..=0xc000_0001,
];
const SUBLEAVES: u64 = 5;
/// Where the words of writes and of CPUID begin among the labels.
const WRITES: u64 = 1 << 32;
const CPUID: u64 = 2 << 32;
const MEMORY: u64 = 8 << 32;
/// Operations on memory that no guest of this kind can have done, and such as only tell something.
const OPERATIONS: [u64; 20] = [7, 8, 13, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25, 26, 27, 29, 30, 31, 32, 33];
const DOMAINS: [u64; 6] = [SELF, 0, 1, 0x1234, 0x7ff1, 0x7ff2];

fn instruction(name: &str, registers: [u64; 6]) -> Option<Step> {
    let index = NAMES.iter().position(|known| *known == name)?;
    Some(Step::Instruction(index, registers.map(Value::Number)))
}

fn tell(world: &mut World, label: u64, step: Option<Step>) {
    if let Some(step) = step {
        println!("fuzz: {label}.0 {step} ={}", world.perform(&step));
    }
}

/// Asks for all of them.
pub(super) fn run(world: &mut World) {
    for register in REGISTERS.into_iter().flatten().filter(|register| !MOVING.contains(register)) {
        tell(world, register, instruction("rdmsr", [0, 0, register, 0, 0, 0]));
        // What is there is written where that can be: nothing is to be other afterwards.
        tell(world, WRITES + register, instruction("rewrite msr", [0, 0, register, 0, 0, 0]));
        tell(world, WRITES * 4 + register, instruction("wrmsr", [0x5a5a_5a5a, 0, register, 0xffff_ffff, 0, 0]));
    }
    for leaf in LEAVES.into_iter().flatten() {
        for subleaf in 0..SUBLEAVES {
            let step = instruction("forced cpuid", [leaf, 0, subleaf, 0, 0, 0]);
            tell(world, CPUID + leaf * SUBLEAVES + subleaf, step);
        }
    }
    memory(world);
}

/// Each operation on each domain, named at each of the places where the structures have
/// it, with small numbers behind it.
fn memory(world: &mut World) {
    let mut label = MEMORY;
    for operation in OPERATIONS {
        let argument = |at| Call::new(Hypercall::MemoryOp, "other", &[Value::Number(operation), at]);
        for call in [argument(Value::Number(0)), argument(Value::Number(super::draw::WILD))] {
            label += 1;
            tell(world, label, Some(Step::Call(call)));
        }
        for domain in DOMAINS {
            for kind in 0..6 {
                label += 1;
                let named = Value::Number(domain);
                let call = argument(Value::Memory(0)).at(0, 2, named).at(4, 4, Value::Number(kind));
                tell(world, label, Some(Step::Call(call)));
                label += 1;
                let call = argument(Value::Memory(0)).at(0, 1, Value::Number(kind)).at(2, 2, named).at(32, 2, named);
                tell(world, label, Some(Step::Call(call)));
            }
        }
    }
    exchange(world, label);
}

/// Exchanges of what there is not: what is looked at first.
fn exchange(world: &mut World, mut label: u64) {
    for (given, wanted) in [
        ((1, 0), (1, 0)),
        ((1, 9), (512, 0)),
        ((1, 10), (1, 10)),
        ((1, 12), (1, 12)),
        ((1, 13), (1, 13)),
        ((2, 0), (1, 0)),
        ((512, 0), (1, 9)),
        ((0, 0), (0, 0)),
        ((1 << 60, 0), (1 << 60, 0)),
        ((1, 64), (1, 64)),
        ((1 << 63, 1), (0, 0)),
        ((0, 50), (0, 0)),
        ((3, 1), (6, 0)),
        ((4, 0), (2, 1)),
    ] {
        for (done, lists) in [
            (0, Value::Memory(0x100)),
            (1, Value::Memory(0x100)),
            (2, Value::Memory(0x100)),
            (0, Value::Number(super::draw::WILD)),
            (0, Value::Number(0xffff_8000_0000_0000)),
            (7, Value::Number(1 << 47)),
        ] {
            for (giver, getter) in
                [(SELF, SELF), (0, 0), (SELF, 0), (0x1234, 0x1234), (0x7ff1, 0x7ff1), (0x7ff2, 0x7ff2)]
            {
                let side = |(count, order): (u64, u64), domain: u64| {
                    [lists, Value::Number(count), Value::Number(order), Value::Number(domain)]
                };
                let mut words = [side(given, giver), side(wanted, getter)].concat();
                words.push(Value::Number(done));
                let call = Call::new(Hypercall::MemoryOp, "exchange", &[Value::Number(11), Value::Memory(0)]);
                label += 1;
                // What is given is nobody's.
                let call = call.words(&words).at(0x100, 8, Value::Number(1 << 37)).at(0x108, 8, Value::Number(1 << 37));
                tell(world, label, Some(Step::Call(call)));
            }
        }
    }
}
