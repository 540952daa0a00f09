//! The console: `print!` and `println!`, lines of input.
//!
//! A domU writes to the ring that its builder shared with the console backend; dom0 writes to the hypervisor's console
//! by hypercall.

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

/// What a terminal needs to have text go above its last line: before the text, and behind it where that ends with
/// `last`.
fn around(below: &[u8], last: u8) -> (&'static [u8], &'static [u8]) {
    match (below.is_empty(), last) {
        (true, _) => (b"", b""),
        (false, b'\n') => (b"\r\x1b[K", b""),
        (false, _) => (b"\r\x1b[K", b"\r\n"),
    }
}

/// Where `print!` goes: text is gathered, so that a line is one message.
struct Out {
    bytes: [u8; 256],
    used: usize,
    /// The last byte of all.
    last: u8,
}

impl Out {
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
        let text = self.bytes.get(..self.used).unwrap_or_default();
        match RING.lock().as_mut() {
            Some(ring) => ring.write(text),
            None => {
                // A domain that may not use the hypervisor's console has nowhere else to write to.
                let _ = hypercall::console_write(text);
            }
        }
        self.used = 0;
    }
}

impl Write for Out {
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
    let mut out = Out { bytes: [0; 256], used: 0, last: b'\n' };
    // Who is inside of this already prints as if there were nothing below.
    let below = BELOW.try_lock();
    let below = below.as_deref().map_or(&[][..], Vec::as_slice);
    out.add(around(below, b'\n').0);
    // `Out` never fails.
    let _ = out.write_fmt(arguments);
    out.add(around(below, out.last).1);
    out.add(below);
    out.flush();
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
    use super::around;

    #[test]
    fn what_stays_below_is_on_a_line_of_its_own() {
        assert_eq!(around(b"", b'x'), (&b""[..], &b""[..]));
        assert_eq!(around(b"# xl", b'\n'), (&b"\r\x1b[K"[..], &b""[..]));
        assert_eq!(around(b"# xl", b'x'), (&b"\r\x1b[K"[..], &b"\r\n"[..]));
    }
}
