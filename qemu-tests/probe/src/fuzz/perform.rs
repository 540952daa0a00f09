//! Doing a step, and telling what came of it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use oxen_abi::hypercall::Hypercall;
use oxen_domu_lib::memory::Pages;

use super::call::{Call, Kept, Step};
use super::effects::{Parts, number};
use super::value::Value;
use super::world::{NO_HANDLE, World};
use crate::raw::{self, trapped};

/// Where the memory of a batch's calls begins, and how much each has.
const BATCH: u64 = 0x200;
/// The exception of an access that its page does not permit.
const PAGE_FAULT: u64 = 14;
/// DR7 when nothing was written to it: its fixed bit.
const DR7_AT_RESET: u64 = 1 << 10;

impl World {
    /// Does a step, and says what came of it.
    pub(crate) fn perform(&mut self, step: &Step) -> String {
        let mut text = String::new();
        self.memory.words64().iter().take(512).for_each(|word| word.store(0, Ordering::SeqCst));
        let mut refused = false;
        match step {
            Step::Call(call) => {
                self.write(call, 0);
                self.see();
                let result = raw::hypercall(call.number, self.args(call, 0));
                refused = result < 0;
                self.answer(&mut text, call, result, 0);
            }
            Step::Batch(calls) => {
                for (index, call) in (0..).zip(calls) {
                    let base = BATCH * (index + 1);
                    self.write(call, base);
                    let args = call.args.iter().map(|arg| self.value(*arg, base));
                    let entry: Vec<u64> = [call.number, 0x5555].into_iter().chain(args).collect();
                    let at = index as usize * 8;
                    let words = self.memory.words64().iter().skip(at);
                    words.zip(entry).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
                }
                self.see();
                let result =
                    raw::hypercall(Hypercall::Multicall as u64, [self.memory.address(), calls.len() as u64, 0, 0, 0]);
                let _ = write!(text, " {result}:");
                for (index, call) in (0..).zip(calls) {
                    let at = index as usize * 8;
                    let words = self.memory.words64();
                    let result = words.get(at + 1).map_or(0, |word| word.load(Ordering::SeqCst));
                    self.answer(&mut text, call, result as i64, BATCH * (index + 1));
                    // The answer has been told; a debug build of Xen overwrites the rest.
                    self.memory.words64().iter().skip(at).take(8).for_each(|word| word.store(0, Ordering::SeqCst));
                }
                self.effects.forget_memory(BATCH as usize / 8);
            }
            Step::Offer(entry) => {
                self.see();
                self.offer(entry);
            }
            Step::Version(version) => self.tell_version(&mut text, *version),
            Step::Instruction(index, registers) => {
                self.try_instruction(&mut text, *index, *registers);
            }
        }
        self.tell_changes(written_parts(step), &mut text);
        let is = |wanted: Hypercall| matches!(step, Step::Call(call) if call.number == wanted as u64);
        // What a stale translation does is the processor's, and not every way to change tables flushes it: a mapping
        // whose flush is refused stands.
        if is(Hypercall::MmuUpdate)
            || is(Hypercall::UpdateVaMapping) && refused
            || matches!(step, Step::Batch(_) | Step::Instruction(..))
        {
            self.forget_translations();
        }
        if is(Hypercall::SetTrapTable) || matches!(step, Step::Batch(_)) {
            self.catch();
        }
        text
    }

    /// Executes an instruction, and tells the fault and the registers that are other afterwards.
    fn try_instruction(&mut self, text: &mut String, index: usize, registers: [Value; 6]) {
        self.see();
        let registers = registers.map(|register| self.value(register, 0));
        let trial = trapped::attempt(index, registers);
        if trial.vector != trapped::NONE {
            let _ = write!(text, " #{} error {:x} at {:x}", trial.vector, trial.error, trial.offset);
        }
        // QEMU's accumulator has the word already when the write faults, and a part of a table's entry has no name.
        let is_told =
            |name| name != "a" || trial.vector != PAGE_FAULT || trapped::NAMES.get(index) != Some(&"compare and write");
        // What DR7 holds at reset is no frame, though there may be one of that number.
        let is_reset = |value| value == DR7_AT_RESET && trapped::NAMES.get(index) == Some(&"read dr7");
        for ((name, before), after) in ["a", "b", "c", "d", "s", "D"].into_iter().zip(registers).zip(trial.registers) {
            if before != after && is_told(name) {
                let named = if is_reset(after) { number(after) } else { self.name(after) };
                let _ = write!(text, " {name}={named}");
            }
        }
    }

    /// Changes the grant table's version, and tells what is left of the entries, not what has changed.
    fn tell_version(&mut self, text: &mut String, version: u32) {
        let (result, now) = self.change_version(version);
        let _ = write!(text, " {result} now {now}");
        self.memory.words64().iter().take(512).for_each(|word| word.store(0, Ordering::SeqCst));
        for reference in self.entries() {
            let (prefix, upper, frame, status) = self.table.entry(reference);
            let _ = write!(text, " {prefix:x}/{upper:x}/{}/{status:x}", self.name(frame));
        }
        self.see();
    }

    /// Puts what a call finds in memory into its part of the argument memory.
    pub(super) fn write(&self, call: &Call, base: u64) {
        self.write_into(&self.memory, base as usize, call);
    }

    /// The same for a call whose part of some memory begins at a place in it. Returns that place as [`Self::value`]
    /// takes it.
    pub(super) fn write_into(&self, memory: &Pages, start: usize, call: &Call) -> u64 {
        let base = (memory.address() + start as u64).wrapping_sub(self.memory.address());
        for (offset, width, value) in &call.memory {
            let value = self.value(*value, base).to_le_bytes();
            let places = memory.bytes().iter().skip(start + offset).take(*width);
            places.zip(value).for_each(|(place, byte)| place.store(byte, Ordering::SeqCst));
        }
        base
    }

    /// A call's arguments, where its part of the argument memory begins at `base`.
    pub(super) fn args(&self, call: &Call, base: u64) -> [u64; 5] {
        let mut args = [0; 5];
        args.iter_mut().zip(&call.args).for_each(|(place, arg)| *place = self.value(*arg, base));
        args
    }

    /// Tells a result, and keeps what is to be kept.
    fn answer(&mut self, text: &mut String, call: &Call, result: i64, base: u64) {
        let _ = match result {
            1.. if call.is_vague => write!(text, " >0"),
            _ if result > 0xfff => write!(text, " {}", self.name(result as u64)),
            _ => write!(text, " {result}"),
        };
        let word = |at: usize| {
            self.memory.words32().get((base as usize + at) / 4).map_or(0, |word| word.load(Ordering::SeqCst))
        };
        match call.kept {
            Some(Kept::Port(at)) => {
                let _ = write!(text, " port{}", i64::from(word(at)) - i64::from(self.port));
                self.effects.hide(base as usize + at, 4);
            }
            Some(Kept::Handle(at, window)) => {
                // The status stands before the handle.
                let (status, handle) = (word(at - 4) >> 16, word(at));
                if result == 0 && status == 0 && call.args.get(2) == Some(&Value::Number(1)) {
                    // A number that is given out again is no longer what it was. Which is given first varies.
                    for (known, _) in self.handles.iter_mut().filter(|(known, _)| *known == handle) {
                        *known = NO_HANDLE;
                    }
                    self.handles.push((handle, window));
                }
                self.effects.hide(base as usize + at, 4);
            }
            None => {}
        }
        for (at, length) in &call.hidden {
            self.effects.hide(base as usize + at, *length);
        }
    }
}

/// How much of a word is written: parts by an instruction that writes few bytes, or beside a word's
/// place, and bits of event words.
fn written_parts(step: &Step) -> Parts {
    match step {
        Step::Batch(calls) if calls.iter().any(|call| call.what == "expand_array") => Parts::Bits,
        Step::Instruction(_, [.., Value::Window(_, at)]) if at % 8 != 0 => Parts::Bytes,
        Step::Instruction(index, _) => match trapped::NAMES.get(*index) {
            Some(name) if name.contains("ins") => Parts::Bytes,
            Some(&("write 1" | "write 4")) => Parts::First,
            _ => Parts::Whole,
        },
        _ => Parts::Whole,
    }
}
