//! What is drawn: a hypercall with its memory, a batch of them, an instruction with its registers.

use alloc::vec::Vec;
use core::fmt;

use oxen_abi::hypercall::Hypercall;

use super::value::Value;
use crate::raw::trapped;

/// What later calls may name of an answer, by its place in the argument memory. It is printed as what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// An event channel port.
    Port(usize),
    /// A grant handle, for the window of this number.
    Handle(usize, usize),
}

/// A hypercall.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    /// Its number.
    pub(crate) number: u64,
    /// Its command, where it has one, for the eye.
    pub(crate) what: &'static str,
    /// Its arguments.
    pub(crate) args: Vec<Value>,
    /// What is written into the argument memory first: offset, bytes, value.
    pub(crate) memory: Vec<(usize, usize, Value)>,
    /// Bytes of the argument memory whose contents vary: offset and length.
    pub(crate) hidden: Vec<(usize, usize)>,
    /// What is kept of the answer.
    pub(crate) kept: Option<Kept>,
    /// A result above 0 may vary.
    pub(crate) is_vague: bool,
}

impl Call {
    /// A hypercall of a name.
    pub(crate) fn new(hypercall: Hypercall, what: &'static str, args: &[Value]) -> Self {
        Self { number: hypercall as u64, what, args: args.to_vec(), ..Self::default() }
    }

    /// Lets words stand in the argument memory from its begin.
    pub(crate) fn words(mut self, words: &[Value]) -> Self {
        self.memory.extend(words.iter().enumerate().map(|(index, word)| (index * 8, 8, *word)));
        self
    }

    /// Lets words of 32 bits stand in the argument memory from its begin.
    pub(crate) fn words32(mut self, words: &[Value]) -> Self {
        self.memory.extend(words.iter().enumerate().map(|(index, word)| (index * 4, 4, *word)));
        self
    }

    /// Lets a value of some bytes stand at an offset.
    pub(crate) fn at(mut self, offset: usize, bytes: usize, value: Value) -> Self {
        self.memory.push((offset, bytes, value));
        self
    }

    /// Does not compare these bytes.
    pub(crate) fn hide(mut self, offset: usize, length: usize) -> Self {
        self.hidden.push((offset, length));
        self
    }

    /// Keeps a part of the answer.
    pub(crate) fn keep(mut self, kept: Kept) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Whether it has this argument, or finds it in its memory.
    pub(crate) fn names(&self, value: Value) -> bool {
        self.args.contains(&value) || self.memory.iter().any(|(.., part)| *part == value)
    }

    /// Whether it waits until something happens, or the time that it names.
    pub(crate) fn may_wait(&self) -> bool {
        self.number == Hypercall::SchedOp as u64 && self.what == "poll"
    }

    /// Whether a text is written that is longer than a call's share of a batch's memory.
    pub(crate) fn tells_text(&self) -> bool {
        self.number == Hypercall::XenVersion as u64 && matches!(self.args.first(), Some(Value::Number(3 | 9)))
    }

    /// Whether Xen leaves a batch here: what is done on another processor ends it.
    pub(crate) fn ends_batch(&self) -> bool {
        matches!(self.what, "core_parking" | "microcode_update" | "cpu_hotplug")
    }

    /// Does not compare a result above 0.
    pub(crate) fn vague(mut self) -> Self {
        self.is_vague = true;
        self
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Hypercall::from_number(self.number) {
            Some(known) => write!(f, "{}", known.name())?,
            None => write!(f, "hypercall {}", self.number)?,
        }
        if !self.what.is_empty() {
            write!(f, ".{}", self.what)?;
        }
        let mut between = "(";
        for arg in &self.args {
            write!(f, "{between}{arg}")?;
            between = " ";
        }
        write!(f, ")")?;
        between = "{";
        for (offset, bytes, value) in &self.memory {
            write!(f, "{between}{offset:x}.{bytes}:{value}")?;
            between = " ";
        }
        if self.memory.is_empty() { Ok(()) } else { write!(f, "}}") }
    }
}

/// An entry of the grant table, as this guest writes it: in version 1 a part of a page cannot be said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Which.
    pub(crate) reference: Value,
    /// Its type and flags.
    pub(crate) flags: u16,
    /// To whom.
    pub(crate) domain: Value,
    /// The first byte that is offered, or the domain whose offer is passed on.
    pub(crate) first: Value,
    /// How many bytes are offered.
    pub(crate) bytes: u16,
    /// The frame, or the reference that is passed on.
    pub(crate) frame: Value,
}

/// What is done at once.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A hypercall.
    Call(Call),
    /// Some of them by one `multicall`.
    Batch(Vec<Call>),
    /// An instruction by its index, with RAX, RBX, RCX, RDX, RSI, RDI.
    Instruction(usize, [Value; 6]),
    /// A grant table entry that is written.
    Offer(Entry),
    /// `set_version` of the grant table.
    Version(u32),
}

impl Step {
    /// Whether a call of it has this argument, or finds it in its memory.
    pub(crate) fn names(&self, value: Value) -> bool {
        match self {
            Self::Call(call) => call.names(value),
            Self::Batch(calls) => calls.iter().any(|call| call.names(value)),
            Self::Offer(entry) => [entry.domain, entry.first, entry.frame].contains(&value),
            Self::Instruction(..) | Self::Version(_) => false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(call) => write!(f, "{call}"),
            Self::Batch(calls) => {
                write!(f, "multicall[")?;
                for call in calls {
                    write!(f, " {call}")?;
                }
                write!(f, " ]")
            }
            Self::Offer(entry) => {
                let Entry { reference, flags, domain, first, bytes, frame } = entry;
                write!(f, "offer({reference} {flags:x} {domain} {first}+{bytes:x} {frame})")
            }
            Self::Version(version) => write!(f, "grant_table_op.set_version({version:x})"),
            Self::Instruction(index, registers) => {
                write!(f, "`{}`", trapped::NAMES.get(*index).copied().unwrap_or_default())?;
                for (name, value) in ["a", "b", "c", "d", "s", "D"].iter().zip(registers) {
                    if *value != Value::Number(0) {
                        write!(f, " {name}={value}")?;
                    }
                }
                Ok(())
            }
        }
    }
}
