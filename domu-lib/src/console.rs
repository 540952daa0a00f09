//! The console: `print!` and `println!`, lines of input.
//!
//! A domU writes to the ring that its builder shared with the console backend; dom0 writes to the hypervisor's console
//! by hypercall.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::raw::view;
use crate::{hypercall, start_info};

/// Words of the ring page: where input and output stand, and the four indices.
const INPUT: usize = 0;
const INPUT_BYTES: u32 = 1024;
const OUTPUT: usize = 256;
const OUTPUT_BYTES: u32 = 2048;
const IN_CONS: usize = 768;
const IN_PROD: usize = 769;
const OUT_CONS: usize = 770;
const OUT_PROD: usize = 771;

/// The guest's half of the console ring.
struct Ring {
    words: &'static [AtomicU32; 1024],
    port: u32,
}

static RING: spin::Mutex<Option<Ring>> = spin::Mutex::new(None);

impl Ring {
    fn word(&self, index: usize) -> &AtomicU32 {
        &self.words[index]
    }

    fn put(&self, base: usize, at: u32, byte: u8) {
        let word = self.word(base + at as usize / 4);
        let shift = at % 4 * 8;
        let old = word.load(Ordering::Relaxed);
        word.store(old & !(0xff << shift) | u32::from(byte) << shift, Ordering::Relaxed);
    }

    fn get(&self, base: usize, at: u32) -> u8 {
        (self.word(base + at as usize / 4).load(Ordering::Relaxed) >> (at % 4 * 8)) as u8
    }

    /// Writes all of `text`, waiting for the backend where the ring is full.
    fn write(&self, text: &[u8]) {
        let mut produced = self.word(OUT_PROD).load(Ordering::Relaxed);
        for &byte in text {
            while produced.wrapping_sub(self.word(OUT_CONS).load(Ordering::Acquire)) >= OUTPUT_BYTES {
                self.word(OUT_PROD).store(produced, Ordering::Release);
                let _ = hypercall::event_send(self.port);
                crate::sched::yield_now();
            }
            self.put(OUTPUT, produced % OUTPUT_BYTES, byte);
            produced = produced.wrapping_add(1);
        }
        self.word(OUT_PROD).store(produced, Ordering::Release);
        let _ = hypercall::event_send(self.port);
    }

    fn read(&self) -> Option<u8> {
        let consumed = self.word(IN_CONS).load(Ordering::Relaxed);
        if self.word(IN_PROD).load(Ordering::Acquire) == consumed {
            return None;
        }
        let byte = self.get(INPUT, consumed % INPUT_BYTES);
        self.word(IN_CONS).store(consumed.wrapping_add(1), Ordering::Release);
        Some(byte)
    }

    fn is_drained(&self) -> bool {
        self.word(OUT_CONS).load(Ordering::Acquire) == self.word(OUT_PROD).load(Ordering::Relaxed)
    }
}

/// Finds the ring; from here on the guest can speak.
pub(crate) fn start() {
    let Some(channel) = start_info::console() else { return };
    if let Some(words) = view::builders_page(channel.frame) {
        *RING.lock() = Some(Ring { words, port: channel.port });
    }
}

/// Where `print!` goes.
struct Out;

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match RING.lock().as_ref() {
            Some(ring) => write_lines(text, |part| ring.write(part)),
            None => write_lines(text, |part| {
                // A domain that may not use the hypervisor's console has nowhere else to write to.
                let _ = hypercall::console_write(part);
            }),
        }
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
    // `Out` never fails.
    let _ = Out.write_fmt(arguments);
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
        crate::sched::yield_now();
    }
}

/// The next typed byte, if there is one.
pub fn read_byte() -> Option<u8> {
    if let Some(ring) = RING.lock().as_ref() {
        return ring.read();
    }
    let mut byte = [0];
    (hypercall::console_read(&mut byte) == Ok(1)).then_some(byte[0])
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
