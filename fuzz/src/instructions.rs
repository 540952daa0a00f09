//! The decoder of privileged instructions and page table writes, beside a decoder that knows them all.

use iced_x86::{
    Decoder, DecoderOptions, Instruction as Known, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use oxen_hv::domain::regs::Regs;
use oxen_hv::trap::decode::{Change, Instruction, Operation, decode};
use oxen_hv::trap::strings::Segment;

use crate::bytes::take;

/// Any bytes: what is recognised has the length, the name and the operands that the other decoder says.
pub(crate) fn decoder(mut input: &[u8]) {
    let regs = registers(&mut input);
    let Some(found) = decode(input, &regs) else { return };
    let mut oracle = Decoder::with_ip(64, input, regs.rip, DecoderOptions::NONE);
    let known = oracle.decode();
    if known.is_invalid() {
        // The CPU refuses these with #UD, or faults at their end: the decoder is never asked.
        return;
    }
    assert_eq!(usize::from(found.length), known.len(), "{input:x?}: {found:?}, {known:?}");
    same(&found, &known, input);
}

fn registers(input: &mut &[u8]) -> Regs {
    let mut word = || u64::from_le_bytes(take(input));
    Regs {
        rax: word(),
        rbx: word(),
        rcx: word(),
        rdx: word(),
        rsi: word(),
        rbp: word(),
        r8: word(),
        r13: word(),
        rip: word() & 0xffff_ffff,
        ..Regs::default()
    }
}

fn same(found: &Instruction, known: &Known, code: &[u8]) {
    let name = known.mnemonic();
    let context = || format!("{code:x?}: {found:?}, {known:?}");
    let is = |names: &[Mnemonic]| assert!(names.contains(&name), "{}", context());
    match found.operation {
        Operation::PortIn { bytes, .. } => {
            is(&[Mnemonic::In]);
            assert_eq!(usize::from(bytes), known.op0_register().size(), "{}", context());
        }
        Operation::PortOut { bytes, .. } => {
            is(&[Mnemonic::Out]);
            assert_eq!(usize::from(bytes), known.op1_register().size(), "{}", context());
        }
        Operation::Interrupt { vector } => {
            is(&[Mnemonic::Int]);
            assert_eq!(vector, known.immediate8(), "{}", context());
        }
        Operation::Cli => is(&[Mnemonic::Cli]),
        Operation::Sti => is(&[Mnemonic::Sti]),
        Operation::Hlt => is(&[Mnemonic::Hlt]),
        Operation::Clts => is(&[Mnemonic::Clts]),
        Operation::Wbinvd => is(&[Mnemonic::Wbinvd, Mnemonic::Wbnoinvd]),
        Operation::ReadMsr => is(&[Mnemonic::Rdmsr]),
        Operation::WriteMsr => is(&[Mnemonic::Wrmsr]),
        Operation::Xsetbv => is(&[Mnemonic::Xsetbv]),
        Operation::Rdtsc => is(&[Mnemonic::Rdtsc]),
        Operation::Rdtscp => is(&[Mnemonic::Rdtscp]),
        Operation::Cpuid => is(&[Mnemonic::Cpuid]),
        Operation::ReadControl { control, register } => {
            moves(known, known.op1_register(), Register::CR0, control, known.op0_register(), register, &context);
        }
        Operation::WriteControl { control, register } => {
            moves(known, known.op0_register(), Register::CR0, control, known.op1_register(), register, &context);
        }
        Operation::ReadDebug { debug, register } => {
            moves(known, known.op1_register(), Register::DR0, debug, known.op0_register(), register, &context);
        }
        Operation::WriteDebug { debug, register } => {
            moves(known, known.op0_register(), Register::DR0, debug, known.op1_register(), register, &context);
        }
        Operation::String(string) => {
            is(&[Mnemonic::Insb, Mnemonic::Insw, Mnemonic::Insd, Mnemonic::Outsb, Mnemonic::Outsw, Mnemonic::Outsd]);
            let (bytes, is_repeated) = (known.memory_size().size(), known.has_rep_prefix() || known.has_repne_prefix());
            assert_eq!((usize::from(string.bytes), string.is_repeated), (bytes, is_repeated), "{}", context());
            let is_narrow = [known.op0_kind(), known.op1_kind()]
                .iter()
                .any(|kind| matches!(kind, OpKind::MemoryESEDI | OpKind::MemorySegESI));
            assert_eq!(string.is_narrow, is_narrow, "{}", context());
            let segment = match known.segment_prefix() {
                Register::FS if !string.is_input => Some(Segment::Fs),
                Register::GS if !string.is_input => Some(Segment::Gs),
                _ => None,
            };
            assert_eq!(string.segment.filter(|_| !string.is_input), segment, "{}", context());
        }
        Operation::Write { bytes, change } => {
            writes(known, bytes, change, &context);
        }
    }
}

/// A move between a special register and a general one.
fn moves(
    known: &Known,
    special: Register,
    first: Register,
    number: u8,
    general: Register,
    register: u8,
    context: &dyn Fn() -> String,
) {
    assert_eq!(known.mnemonic(), Mnemonic::Mov, "{}", context());
    assert_eq!(special as usize - first as usize, usize::from(number), "{}", context());
    assert_eq!(general.number(), usize::from(register), "{}", context());
}

/// A memory operand that is written, of this many bytes.
fn writes(known: &Known, bytes: u8, change: Change, context: &dyn Fn() -> String) {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(known);
    let written = info.used_memory().iter().find(|memory| {
        matches!(memory.access(), OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite)
    });
    assert_eq!(written.map(|memory| memory.memory_size().size()), Some(usize::from(bytes)), "{}", context());
    let names: &[Mnemonic] = match change {
        Change::Store(_) => &[Mnemonic::Mov, Mnemonic::Movnti],
        Change::Exchange { .. } => &[Mnemonic::Xchg],
        Change::CompareExchange(_) => &[Mnemonic::Cmpxchg],
        Change::Combine(..) => {
            &[Mnemonic::Or, Mnemonic::And, Mnemonic::Xor, Mnemonic::Bts, Mnemonic::Btr, Mnemonic::Btc]
        }
    };
    assert!(names.contains(&known.mnemonic()), "{}", context());
}
