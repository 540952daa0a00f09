//! Instructions with registers that suit them.

use super::{Random, SLOTS, Step, Value};
use crate::raw::trapped::NAMES;

/// Registers that guests ask for, on both vendors' CPUs. The time is left out.
const REGISTERS: [u64; 56] = [
    0x0,
    0x1,
    0x17,
    0x1b,
    0x2a,
    0x34,
    0x3a,
    0x48,
    0x49,
    0x8b,
    0xc1,
    0xce,
    0xe7,
    0xe8,
    0xfe,
    0x10a,
    0x10b,
    0x122,
    0x140,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17a,
    0x186,
    0x198,
    0x199,
    0x19a,
    0x1a0,
    0x1d9,
    0x200,
    0x277,
    0x2ff,
    0x345,
    0x38f,
    0x400,
    0x480,
    0x606,
    0x6e0,
    0x802,
    0xd90,
    0xda0,
    0x4000_0000,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
    0xc001_0010,
    0xc001_0015,
    0xc001_001f,
    0xc001_1020,
    0xc001_1027,
];

const LEAVES: [u64; 36] = [
    0x0,
    0x1,
    0x2,
    0x4,
    0x5,
    0x6,
    0x7,
    0x9,
    0xa,
    0xb,
    0xd,
    0xf,
    0x10,
    0x12,
    0x14,
    0x15,
    0x16,
    0x40,
    0x4000_0000,
    0x4000_0001,
    0x4000_0002,
    0x4000_0004,
    0x4000_0005,
    0x4000_0100,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
    0x8000_000a,
    0x8000_001d,
    0x8000_001e,
    0x8000_0021,
    0xc000_0000,
];

/// Ports that no domain is given: interrupt controllers, the serial line of the hypervisor. (Of the timer Xen emulates
/// the channel of the loudspeaker for every guest.)
const PORTS: [u64; 6] = [0x20, 0x21, 0xa0, 0xa1, 0x3f8, 0x3fd];

const SELECTORS: [u64; 14] = [0, 1, 3, 4, 7, 0x0b, 0x10, 0xe02b, 0xe033, 0xe023, 0xe02a, 0xe008, 0xe040, 0xfff8];

/// What an instruction stores at `to`, or compares with what is there.
fn stored(random: &mut Random, name: &str, to: Value) -> Value {
    // The parts of an entry that are not at their place could not be told by their meaning.
    let is_whole = matches!(to, Value::Window(_, at) if at % 8 == 0) && !matches!(name, "write 1" | "write 4");
    match name {
        // Not how the page is cached: Xen chooses that for devices' memory.
        "or" => Value::Number(random.word() & 0xfff0_0000_0000_0f67),
        _ if is_whole => super::entry(random),
        _ => Value::Number(random.word() & 0xffff_ffff_ffff_ff67),
    }
}

/// Draws an instruction.
pub(super) fn draw(random: &mut Random) -> Step {
    let index = random.below(NAMES.len() as u64) as usize;
    let name = NAMES.get(index).copied().unwrap_or_default();
    let mut registers = [Value::Number(0); 6];
    let [a, b, c, d, _, destination] = &mut registers;
    match name {
        "rdmsr" | "rewrite msr" => *c = Value::Number(random.of_list(&REGISTERS)),
        "wrmsr" => {
            *c = Value::Number(random.of_list(&REGISTERS));
            *a = Value::Number(random.of_list(&[0, 1, 0xd01, 0xffff_ffff]));
            *d = Value::Number(random.of_list(&[0, 0, 0, 1, 0x8000_0000, 0xffff_ffff]));
        }
        "forced cpuid" => {
            *a = Value::Number(random.of_list(&LEAVES));
            *c = Value::Number(random.below(4));
        }
        "cpuid" => *a = Value::Number(random.of_list(&[0x4000_0000, 0x4000_0001])),
        "flip cr0" => *b = Value::Number(random.of_list(&[0, 8, 8, 1, 2, 4, 1 << 16, 1 << 31, 1 << 30, 1 << 32])),
        // Those whose bits guests have, and one that no processor has.
        "flip cr4" => {
            *b = Value::Number(random.of_list(&[0, 4, 8, 1 << 7, 1 << 9, 1 << 16, 1 << 18, 1 << 13, 1 << 20, 1 << 32]))
        }
        "write cr2" | "write cr8" | "write dr6" => *a = super::number(random),
        "write dr1" => {
            *a = if random.one_in(2) { super::number(random) } else { Value::Window(super::window(random), 0) }
        }
        "write cr3" => *a = Value::Number(random.of_list(&[0, 1 << 49, 0xffff_ffff_ffff_f000])),
        "invlpg" => *destination = super::any_address(random),
        "in al" | "in ax" | "in eax" | "insb" | "out al" | "out eax" => {
            *d = Value::Number(random.of_list(&PORTS));
            *b = Value::Memory(0);
        }
        "rep ins" | "rep insb backwards" | "outsb" | "rep outs" => {
            [*b, *c, *d] = string(random);
        }
        // With interrupts on and off; no trap flag, no alignment check.
        "popf" => *a = Value::Number(random.of_list(&[0x2, 0x202, 0x3202, 0x3002, 0x4202, 0x20_0202, 0x1_0202])),
        "lldt" | "ltr" | "load ds" | "load fs" | "load gs" | "load ss" | "lar" | "lsl" => {
            let selector = random.of_list(&SELECTORS);
            // Whether a null selector keeps its privilege depends on when the next interrupt comes.
            let is_kept = selector > 3 || !matches!(name, "load ds" | "load fs" | "load gs");
            *a = Value::Number(if is_kept { selector } else { 0 });
        }
        "lmsw" => *a = Value::Number(random.of_list(&[1, 0xb, 0])),
        "xgetbv" => *c = Value::Number(random.below(2)),
        "xsetbv" => {
            *c = Value::Number(random.below(2));
            *a = Value::Number(random.of_list(&[0, 1, 2, 5, 1 << 31]));
        }
        "wrgsbase" => *a = Value::Number(random.of_list(&[0, 1 << 46, 1 << 47, u64::MAX])),
        "misaligned" => *destination = Value::Window(super::window(random), random.below(16)),
        "lgdt" | "lidt" | "monitor" | "run" => *destination = Value::Memory(0),
        "read" | "write" | "write 4" | "write 1" | "exchange" | "compare and write" | "or" => {
            *destination = beside_entries(operand(random));
            *a = stored(random, name, *destination);
        }
        _ => {}
    }
    *destination = within_its_page(*destination);
    Step::Instruction(index, registers)
}

/// Memory, count and port of a string: no accesses, some, more than are done at once.
fn string(random: &mut Random) -> [Value; 3] {
    let memory = if random.one_in(4) { super::any_address(random) } else { Value::Memory(0x200) };
    let count = random.of_list(&[0, 1, 3, 16, 100]);
    [within_its_page(memory), Value::Number(count), Value::Number(random.of_list(&PORTS))]
}

/// What is at the edge of a page would reach into the next, which can be anything's.
fn within_its_page(place: Value) -> Value {
    match place {
        Value::Window(window, offset) => Value::Window(window, offset.min(4088)),
        Value::Memory(at) => Value::Memory(at.min(4088)),
        other => other,
    }
}

/// A part of an entry could not be told by its meaning: what is not at the place of a word is not where entries are.
fn beside_entries(place: Value) -> Value {
    match place {
        Value::Window(window, at) if at % 8 != 0 => {
            let is_free = |word: u64| SLOTS.iter().all(|slot| *slot != word && *slot != word + 1);
            let word = (at / 8..512).chain(4..).find(|word| is_free(*word)).unwrap_or(4);
            Value::Window(window, word * 8 + at % 8)
        }
        other => other,
    }
}

/// What an instruction reads or writes.
fn operand(random: &mut Random) -> Value {
    match random.below(8) {
        0 => super::any_address(random),
        1 => Value::Window(super::window(random), random.below(512) * 8 + random.below(8)),
        _ => Value::Window(super::window(random), random.of_list(&[0, 1, 2, 3, 255, 280, 511]) * 8),
    }
}
