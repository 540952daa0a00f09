//! The console: `print!` and `println!`, lines of input.
//!
//! A domU writes to the ring that its builder shared with the console backend; dom0 writes to the hypervisor's console
//! by hypercall.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::{console::Input, println, task};
//!
//! task::run(async {
//!     let input = Input::open();
//!     let mut typed = [0; 80];
//!     loop {
//!         let count = input.read(&mut typed).await;
//!         println!("{:?}", typed.get(..count));
//!     }
//! });
//! ```

use alloc::vec::Vec;
use core::fmt::{self, Write};

use oxen_abi::io::console::XENCONS_OUT_SIZE;
use oxen_abi::virq::VIRQ_CONSOLE;
use oxen_ring::{ByteReader, ByteWriter, Ends};

use crate::event::Port;
use crate::raw::hypercall::call as hypercall;
use crate::raw::memory::view;
use crate::start_info;

/// The guest's half of the console ring.
struct Ring {
    reader: ByteReader<'static>,
    writer: ByteWriter<'static>,
    port: u32,
}

static RING: spin::Mutex<Option<Ring>> = spin::Mutex::new(None);

impl Ring {
    /// Writes all of `text`, waiting for the backend where the ring is full. Where the backend claims what cannot be,
    /// nobody can be told: the text is dropped.
    fn write(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Ok(count) = self.writer.write(rest) {
            let _ = hypercall::event_send(self.port);
            rest = rest.get(count..).unwrap_or_default();
            if rest.is_empty() {
                return;
            }
            let _ = hypercall::sched_yield();
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.reader.read(buffer).unwrap_or(0);
        if count > 0 {
            let _ = hypercall::event_send(self.port);
        }
        count
    }

    fn is_drained(&self) -> bool {
        self.writer.free().is_ok_and(|free| free == XENCONS_OUT_SIZE)
    }
}

/// Finds the ring; from here on the guest can speak.
pub(crate) fn start() {
    let Some(channel) = start_info::console() else { return };
    if let Some(page) = view::builders_page(channel.frame) {
        let Ends { reader, writer } = oxen_ring::console::guest(page);
        *RING.lock() = Some(Ring { reader, writer, port: channel.port });
    }
}

/// What stays behind all that is printed: a prompt, and what was typed behind it.
static BELOW: spin::Mutex<Vec<u8>> = spin::Mutex::new(Vec::new());

/// Keeps `text` as the last line of the console, whoever prints: what is printed goes above it. Nothing ends that. The
/// text stands there already.
pub fn keep_below(text: Vec<u8>) {
    *BELOW.lock() = text;
}

/// Writes `text` as a terminal wants it: above `below`, where there is something, which stands whole behind it again.
fn write_above(out: &mut Out<impl FnMut(&[u8])>, below: &[u8], text: fmt::Arguments<'_>) {
    if !below.is_empty() {
        out.add(b"\r\x1b[K");
    }
    out.last = b'\n';
    // `Out` never fails.
    let _ = out.write_fmt(text);
    if !below.is_empty() {
        // The sequence tells who reads along that this is an old line, not a new prompt.
        out.add(if out.last == b'\n' { b"\x1b[K" } else { b"\r\n\x1b[K" });
        out.add(below);
    }
    out.flush();
}

/// Gathers text, so that a line is one message, and hands it to `write`.
struct Out<W> {
    bytes: [u8; 256],
    used: usize,
    /// The last byte of all.
    last: u8,
    write: W,
}

impl<W: FnMut(&[u8])> Out<W> {
    const fn new(write: W) -> Self {
        Self { bytes: [0; 256], used: 0, last: b'\n', write }
    }

    fn add(&mut self, mut part: &[u8]) {
        self.last = part.last().copied().unwrap_or(self.last);
        while !part.is_empty() {
            if self.used == self.bytes.len() {
                self.flush();
            }
            let room = self.bytes.get_mut(self.used..).unwrap_or_default();
            let count = room.len().min(part.len());
            let (now, later) = part.split_at(count);
            if let Some(room) = room.get_mut(..count) {
                room.copy_from_slice(now);
            }
            self.used += count;
            part = later;
        }
    }

    fn flush(&mut self) {
        if self.used > 0 {
            (self.write)(self.bytes.get(..self.used).unwrap_or_default());
            self.used = 0;
        }
    }
}

/// Where `print!` goes.
fn to_console(text: &[u8]) {
    match RING.lock().as_mut() {
        Some(ring) => ring.write(text),
        None => {
            // A domain that may not use the hypervisor's console has nowhere else to write to.
            let _ = hypercall::console_write(text);
        }
    }
}

impl<W: FnMut(&[u8])> Write for Out<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_lines(text, |part| self.add(part));
        Ok(())
    }
}

/// Writes `text` with each line's end as a terminal wants it.
fn write_lines(text: &str, mut write: impl FnMut(&[u8])) {
    for line in text.split_inclusive('\n') {
        match line.strip_suffix('\n') {
            Some(line) => {
                write(line.as_bytes());
                write(b"\r\n");
            }
            None => write(line.as_bytes()),
        }
    }
}

/// Writes formatted text to the console.
pub fn print(arguments: fmt::Arguments<'_>) {
    // Who is inside of this already prints as if there were nothing below.
    let below = BELOW.try_lock();
    write_above(&mut Out::new(to_console), below.as_deref().map_or(&[], Vec::as_slice), arguments);
}

/// Writes to every console there is, whoever holds their locks: for the last words of a guest.
pub(crate) fn print_last_words(arguments: fmt::Arguments<'_>) {
    struct Early;
    impl Write for Early {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            write_lines(text, |part| {
                let _ = hypercall::console_write(part);
            });
            Ok(())
        }
    }
    let _ = Early.write_fmt(arguments);
    if let Some(ring) = RING.try_lock()
        && ring.is_some()
    {
        drop(ring);
        print(arguments);
    }
}

/// Gives the backend time to take what was written, but not for ever.
pub(crate) fn drain() {
    for _ in 0..10_000 {
        if RING.try_lock().is_none_or(|ring| ring.as_ref().is_none_or(Ring::is_drained)) {
            return;
        }
        let _ = hypercall::sched_yield();
    }
}

/// What is typed at the console.
#[derive(Debug)]
pub struct Input {
    /// Rings when something was typed; without it, input is looked for now and then.
    port: Option<Port>,
}

impl Input {
    /// The console's input. One is enough: two would take each other's bytes.
    pub fn open() -> Self {
        let port = match RING.lock().as_ref() {
            Some(ring) => Some(Port::adopt(ring.port)),
            None => Port::bind_virq(VIRQ_CONSOLE).ok(),
        };
        Self { port }
    }

    /// Waits for bytes and returns how many came.
    pub async fn read(&self, buffer: &mut [u8]) -> usize {
        loop {
            let count = match RING.lock().as_mut() {
                Some(ring) => ring.read(buffer),
                None => hypercall::console_read(buffer).unwrap_or(0),
            };
            if count > 0 || buffer.is_empty() {
                return count;
            }
            match &self.port {
                Some(port) => port.wait().await,
                None => crate::time::sleep(50 * crate::time::MILLISECOND).await,
            }
        }
    }
}

/// Writes to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(::core::format_args!($($argument)*)) };
}

/// Writes a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*))) };
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::{Out, write_above};

    fn written(below: &str, text: &str) -> (String, usize) {
        let (mut all, mut messages) = (Vec::new(), 0);
        let mut out = Out::new(|part: &[u8]| {
            all.extend_from_slice(part);
            messages += 1;
        });
        write_above(&mut out, below.as_bytes(), format_args!("{text}"));
        (String::from_utf8(all).unwrap(), messages)
    }

    #[test]
    fn a_line_is_one_message_and_ends_as_a_terminal_wants_it() {
        assert_eq!(written("", "a\nb\n"), ("a\r\nb\r\n".into(), 1));
        assert_eq!(written("", ""), (String::new(), 0));
        let long = "x".repeat(300);
        assert_eq!(written("", &long), (long, 2));
    }

    #[test]
    fn what_stays_below_stands_whole_behind_what_is_printed() {
        assert_eq!(written("# xl\x08", "a\n").0, "\r\x1b[Ka\r\n\x1b[K# xl\x08");
        assert_eq!(written("# xl", "a").0, "\r\x1b[Ka\r\n\x1b[K# xl");
        assert_eq!(written("# xl", "").0, "\r\x1b[K\x1b[K# xl");
    }
}
