//! What an instruction that was recognised does.

use crate::trap::strings::StringPort;

/// An instruction that was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its bytes, prefixes included.
    pub length: u8,
    /// What it does.
    pub operation: Operation,
}

/// Where an I/O instruction takes its port from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// An immediate byte.
    Immediate(u8),
    /// DX.
    Dx,
}

/// What an instruction does. `register` is a general register by number: 0 RAX … 15 R15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's own names")]
pub enum Operation {
    PortIn {
        port: Port,
        bytes: u8,
    },
    PortOut {
        port: Port,
        bytes: u8,
    },
    /// `ins` and `outs`, by DX, with the memory at RDI or RSI.
    String(StringPort),
    Interrupt {
        vector: u8,
    },
    Cli,
    Sti,
    Hlt,
    Clts,
    Wbinvd,
    ReadMsr,
    WriteMsr,
    ReadControl {
        control: u8,
        register: u8,
    },
    WriteControl {
        control: u8,
        register: u8,
    },
    ReadDebug {
        debug: u8,
        register: u8,
    },
    WriteDebug {
        debug: u8,
        register: u8,
    },
    Xsetbv,
    Rdtsc,
    Rdtscp,
    Cpuid,
    /// A read-modify-write or plain write of a memory operand of `bytes` bytes.
    Write {
        bytes: u8,
        change: Change,
    },
}

/// What is done to a memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It becomes the value.
    Store(u64),
    /// It becomes the value; the old one goes to the register.
    Exchange {
        /// The new value.
        value: u64,
        /// Where the old one goes.
        register: u8,
    },
    /// It is combined with the value; flags follow the result.
    Combine(Logic, u64),
    /// If it equals RAX it becomes the value, else RAX becomes it.
    CompareExchange(u64),
}

/// How two values are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the instructions' own names")]
pub enum Logic {
    Or,
    And,
    Xor,
    /// `btr`, `bts`, `btc`: CF becomes the bit as it was.
    BitReset,
    BitSet,
    BitComplement,
}
