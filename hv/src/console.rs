//! The console: the serial line, the ring that keeps what went there, and the two readers of what comes in.

use crate::{
    hardware::Clock,
    lock::{Lock, rank},
};
use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};
use heapless::{Deque, Vec};
use oxen_abi::domid::DomId;

/// The serial line, asked of the machine.
pub trait Serial {
    /// Sends bytes, waiting for the line where it must.
    fn send(&self, bytes: &[u8]);
    /// Takes a byte that came in.
    fn receive(&self) -> Option<u8>;
}

/// How much a message matters, the most first (`loglvl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something is wrong.
    Warning = 2,
    /// Something happened.
    Info = 3,
    /// For whoever looks for a fault.
    Debug = 4,
}

/// Two thresholds: up to the first every message appears, up to the second not too many at a time.
#[derive(Debug)]
pub struct Threshold {
    always: AtomicU8,
    limited: AtomicU8,
}

impl Threshold {
    const fn new(always: u8, limited: u8) -> Self {
        Self { always: AtomicU8::new(always), limited: AtomicU8::new(limited) }
    }

    /// Sets it from `LEVEL` or `LEVEL/LIMITED`, as on Xen's command line (`none`, `error`, `warning`, `info`, `debug`,
    /// `all`). Returns whether it was understood.
    pub fn set(&self, text: &str) -> bool {
        let level = |name: &str| match name {
            "none" => Some(0),
            "error" => Some(1),
            "warning" => Some(2),
            "info" => Some(3),
            "debug" | "all" => Some(4),
            _ => None,
        };
        let (always, limited) = text.split_once('/').unwrap_or((text, text));
        let (Some(always), Some(limited)) = (level(always), level(limited)) else { return false };
        self.always.store(always, Ordering::Relaxed);
        self.limited.store(limited.max(always), Ordering::Relaxed);
        true
    }
}

/// Bytes kept of what was written.
const RING_BYTES: usize = 16 * 1024;
/// Bytes of input that wait for the control domain.
const INPUT_BYTES: usize = 128;
/// Ctrl-A: so often in a row it switches who reads.
const SWITCH_KEY: u8 = 1;
const SWITCH_COUNT: u8 = 3;
/// A guest's lines in one go, and how long until there may be another (Xen's figure is ten in five seconds).
const BURST: u32 = 100;
const NANOSECONDS_PER_LINE: u64 = 50_000_000;

/// The console.
#[derive(Debug)]
pub struct Console {
    /// What the hypervisor says of itself (`loglvl`).
    pub level: Threshold,
    /// What it says of guests (`guest_loglvl`).
    pub guest_level: Threshold,
    /// Whether guests other than the control domain may write (`guest_console`); Xen as released refuses them.
    pub guests_may_write: AtomicBool,
    state: Lock<State, { rank::CONSOLE }>,
}

#[derive(Debug)]
struct State {
    ring: [u8; RING_BYTES],
    /// Bytes ever written; the ring holds the last of them.
    end: u64,
    /// The first byte that a reader is still shown.
    start: u64,
    input: Deque<u8, INPUT_BYTES>,
    switch_keys: u8,
    hypervisor_reads: bool,
    /// The rate limit: lines that may still be written, and when it was last refilled, in nanoseconds.
    tokens: u32,
    refilled: u64,
    suppressed: u32,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            level: Threshold::new(Level::Info as u8, Level::Info as u8),
            guest_level: Threshold::new(0, Level::Warning as u8),
            guests_may_write: AtomicBool::new(false),
            state: Lock::new(State {
                ring: [0; RING_BYTES],
                end: 0,
                start: 0,
                input: Deque::new(),
                switch_keys: 0,
                hypervisor_reads: false,
                tokens: BURST,
                refilled: 0,
                suppressed: 0,
            }),
        }
    }
}

impl State {
    fn put(&mut self, machine: &impl Serial, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.ring.get_mut((self.end % RING_BYTES as u64) as usize) {
                *place = byte;
            }
            self.end += 1;
        }
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            match line.split_last() {
                Some((b'\n', text)) => {
                    machine.send(text);
                    machine.send(b"\r\n");
                }
                _ => machine.send(line),
            }
        }
    }

    /// Takes a line's worth of the rate limit; tells first of the lines that were left out.
    fn may_write_line(&mut self, machine: &(impl Serial + Clock)) -> bool {
        let now = nanoseconds(machine);
        let refill = now.saturating_sub(self.refilled) / NANOSECONDS_PER_LINE;
        if refill > 0 {
            self.tokens = self.tokens.saturating_add(u32::try_from(refill).unwrap_or(BURST)).min(BURST);
            self.refilled = now;
        }
        let Some(left) = self.tokens.checked_sub(1) else {
            self.suppressed = self.suppressed.saturating_add(1);
            return false;
        };
        self.tokens = left;
        let suppressed = core::mem::take(&mut self.suppressed);
        if suppressed != 0 {
            Output { state: self, machine }.line(format_args!("{suppressed} lines were left out"));
        }
        true
    }
}

fn nanoseconds(clock: &impl Clock) -> u64 {
    let frequency = u128::from(clock.frequency().max(1));
    u64::try_from(u128::from(clock.ticks()) * 1_000_000_000 / frequency).unwrap_or(u64::MAX)
}

/// Text on its way to the ring and the line.
struct Output<'a, M: Serial> {
    state: &'a mut State,
    machine: &'a M,
}

impl<M: Serial> Output<'_, M> {
    fn line(&mut self, text: fmt::Arguments<'_>) {
        // A message is text of the hypervisor's own: its formatting cannot fail.
        let _ = writeln!(self, "(XEN) {text}");
    }
}

impl<M: Serial> Write for Output<'_, M> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.state.put(self.machine, text.as_bytes());
        Ok(())
    }
}

/// A line that a guest has begun to write.
pub type GuestLine = Vec<u8, 160>;

/// What a byte that came in turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Kept for the control domain.
    Input,
    /// A key for the hypervisor.
    Key(u8),
    /// The last of three that switch the reader.
    Switched {
        /// Who reads now.
        hypervisor_reads: bool,
    },
    /// One of those three, or there was no room.
    Nothing,
}

impl Console {
    /// Says something, one line, if `loglvl` lets it.
    pub fn log(&self, machine: &(impl Serial + Clock), level: Level, text: fmt::Arguments<'_>) {
        self.say(machine, &self.level, level, text);
    }

    /// Says something whatever the levels, one line.
    pub fn print(&self, machine: &impl Serial, text: fmt::Arguments<'_>) {
        Output { state: &mut self.state.lock(), machine }.line(text);
    }

    fn say(&self, machine: &(impl Serial + Clock), threshold: &Threshold, level: Level, text: fmt::Arguments<'_>) {
        let level = level as u8;
        if level > threshold.limited.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        if level <= threshold.always.load(Ordering::Relaxed) || state.may_write_line(machine) {
            Output { state: &mut state, machine }.line(text);
        }
    }

    /// The control domain's own output, as it is.
    pub fn write_raw(&self, machine: &impl Serial, bytes: &[u8]) {
        self.state.lock().put(machine, bytes);
    }

    /// A guest's output, line by line, each with the guest's name before it, if `guest_loglvl` lets it; control
    /// characters are dropped. `begun` keeps the line that is not finished.
    pub fn write_guest(
        &self,
        machine: &(impl Serial + Clock),
        name: DomId,
        begun: &Lock<GuestLine, { rank::GUEST_LINE }>,
        bytes: &[u8],
    ) {
        let mut line = begun.lock();
        for &byte in bytes {
            let is_text = matches!(byte, b'\t' | b' '..=b'~');
            if byte == b'\n' || (is_text && line.push(byte).is_err()) {
                let text = core::str::from_utf8(&line).unwrap_or_default();
                self.say(machine, &self.guest_level, Level::Warning, format_args!("({name}) {text}"));
                line.clear();
                if is_text {
                    let _ = line.push(byte);
                }
            }
        }
    }

    /// Takes a byte that came in on the serial line.
    pub fn accept(&self, byte: u8) -> Accepted {
        let mut state = self.state.lock();
        if byte == SWITCH_KEY {
            state.switch_keys += 1;
            if state.switch_keys < SWITCH_COUNT {
                return Accepted::Nothing;
            }
            state.switch_keys = 0;
            state.hypervisor_reads ^= true;
            return Accepted::Switched { hypervisor_reads: state.hypervisor_reads };
        }
        let held_back = core::mem::take(&mut state.switch_keys);
        if state.hypervisor_reads {
            return Accepted::Key(byte);
        }
        let mut kept = false;
        for byte in core::iter::repeat_n(SWITCH_KEY, held_back.into()).chain([byte]) {
            kept |= state.input.push_back(byte).is_ok();
        }
        if kept { Accepted::Input } else { Accepted::Nothing }
    }

    /// Takes input for the control domain; says how many bytes.
    pub fn take_input(&self, to: &mut [u8]) -> usize {
        let mut state = self.state.lock();
        to.iter_mut().map_while(|place| state.input.pop_front().map(|byte| *place = byte)).count()
    }

    /// Copies what was written from byte `from` on, counted since boot, as far as the ring still has it
    /// (`XEN_SYSCTL_readconsole`). Returns how many bytes, and the number of the byte after them.
    pub fn read_log(&self, from: u64, to: &mut [u8]) -> (usize, u64) {
        let state = self.state.lock();
        let first = from.max(state.start).max(state.end.saturating_sub(RING_BYTES as u64));
        let count = to.len().min(usize::try_from(state.end.saturating_sub(first)).unwrap_or(0));
        for (place, index) in to.iter_mut().take(count).zip(first..) {
            *place = state.ring.get((index % RING_BYTES as u64) as usize).copied().unwrap_or(0);
        }
        (count, first + count as u64)
    }

    /// Forgets what was written so far.
    pub fn clear_log(&self) {
        let mut state = self.state.lock();
        state.start = state.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_switch_keys_change_the_reader_and_fewer_are_input() {
        let console = Console::default();
        for byte in [1, 1, b'x'] {
            console.accept(byte);
        }
        let mut input = [0; 8];
        assert_eq!((console.take_input(&mut input), &input[..3]), (3, &[1, 1, b'x'][..]));
        assert_eq!((console.accept(1), console.accept(1)), (Accepted::Nothing, Accepted::Nothing));
        assert_eq!(console.accept(1), Accepted::Switched { hypervisor_reads: true });
        assert_eq!(console.accept(b'q'), Accepted::Key(b'q'));
        assert_eq!(console.take_input(&mut input), 0);
    }

    #[test]
    fn input_that_nobody_takes_is_dropped_and_breaks_nothing() {
        let console = Console::default();
        let kept = (0..1000).filter(|_| console.accept(b'x') == Accepted::Input).count();
        assert_eq!(kept, INPUT_BYTES);
    }

    #[test]
    fn levels_are_named_as_on_xen_s_command_line() {
        let threshold = Threshold::new(0, 0);
        assert!(threshold.set("error/all"));
        assert_eq!((threshold.always.load(Ordering::Relaxed), threshold.limited.load(Ordering::Relaxed)), (1, 4));
        assert!(threshold.set("info"));
        assert_eq!(threshold.limited.load(Ordering::Relaxed), 3);
        assert!(!threshold.set("loud"));
    }
}
