//! Every model-specific register that anything is known of, read and written, and every leaf of CPUID: one after the other,
//! where what is drawn finds those that guests ask for.

use core::ops::RangeInclusive;

use oxen_domu_lib::println;

use super::call::Step;
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
}
