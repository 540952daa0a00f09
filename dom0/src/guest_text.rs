//! Text that a guest chose, as an operator gets to see it.
//!
//! A terminal obeys what it is sent: a guest's bytes shown as they are could move the cursor, forge a prompt or set the
//! window's title. So they are shown escaped, in the form of Xen's `xenstore-read`: printable ASCII stands for itself,
//! a backslash is `\\`, tab, newline and carriage return are `\t`, `\n` and `\r`, and every other byte is `\xNN`, or
//! three octal digits where it is below 8. What is escaped holds no byte outside of ASCII's printable ones. Only
//! `xl console` passes a guest's bytes on as they are: that is what a terminal at a guest is.
//!
//! A line of a log holds a beginning of such a text ([`quoted`]), and what a guest can cause over and over goes through
//! [`say`], which keeps to the guest's rate.

use alloc::{format, rc::Rc};
use core::fmt;

use oxen_abi::domid::DomId;
use oxen_domu_lib::{println, task, time};

use crate::purse::{Log, Suppressed};

/// How long after the first line that was left out it is said how many were, in nanoseconds.
const PAUSE: u64 = 5 * time::SECOND;

/// Bytes of a guest's value that a message quotes.
pub const MAX_QUOTED: usize = 64;

/// Bytes in their escaped form; see the module's documentation.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    /// Bytes that the limit left out.
    cut: usize,
    /// Tabs and backslashes stand for themselves.
    is_line: bool,
}

/// All of `text`, escaped.
pub const fn escaped(text: &[u8]) -> Escaped<'_> {
    Escaped { bytes: text, cut: 0, is_line: false }
}

/// A line of a guest's console. Tabs and backslashes stand for themselves, so that ordinary lines look as they do at
/// the guest.
pub const fn line(line: &[u8]) -> Escaped<'_> {
    Escaped { is_line: true, ..escaped(line.trim_ascii_end()) }
}

/// The beginning of `text`, escaped: [`MAX_QUOTED`] bytes, and a mark that says how many more there are.
pub fn quoted(text: &str) -> Escaped<'_> {
    escaped(text.as_bytes()).limited(MAX_QUOTED)
}

impl Escaped<'_> {
    /// The first `limit` bytes; where there are more, a mark at the end says how many.
    #[must_use]
    pub fn limited(self, limit: usize) -> Self {
        let (bytes, rest) = self.bytes.split_at_checked(limit).unwrap_or((self.bytes, &[]));
        Self { bytes, cut: self.cut + rest.len(), ..self }
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: u8| match byte {
            b'\t' | b'\\' => self.is_line,
            _ => matches!(byte, b' '..=b'~'),
        };
        for chunk in self.bytes.chunk_by(|&a, &b| is_plain(a) && is_plain(b)) {
            match *chunk {
                [byte] if !is_plain(byte) => special(f, byte)?,
                _ => f.write_str(core::str::from_utf8(chunk).unwrap_or_default())?,
            }
        }
        if self.cut == 0 { Ok(()) } else { write!(f, "[{} bytes more]", self.cut) }
    }
}

fn special(f: &mut fmt::Formatter<'_>, byte: u8) -> fmt::Result {
    match byte {
        b'\t' => f.write_str("\\t"),
        b'\n' => f.write_str("\\n"),
        b'\r' => f.write_str("\\r"),
        b'\\' => f.write_str("\\\\"),
        0..=7 => write!(f, "\\{byte:03o}"),
        _ => write!(f, "\\x{byte:02x}"),
    }
}

/// Says a line on dom0's console that `domain` caused, unless it has caused too many lately; `log` is that guest's.
/// Some time after the first that is left out, a line says how many were.
pub fn say(log: &Rc<Log>, domain: DomId, text: fmt::Arguments<'_>) {
    let line = format!("{text}");
    let is_first = log.suppressed() == 0;
    match log.line(time::now(), line.len() + 2) {
        Ok(()) => println!("{line}"),
        Err(Suppressed) if is_first => {
            let log = log.clone();
            task::spawn(async move {
                time::sleep(PAUSE).await;
                println!("domain {}: {} lines about it were left out", domain.0, log.take_suppressed());
            });
        }
        Err(Suppressed) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    #[test]
    fn what_steers_a_terminal_is_shown_and_not_obeyed() {
        assert_eq!(format!("{}", escaped(b"\x1b]0;owned\x07\r\ndom0# ")), r"\x1b]0;owned\007\r\ndom0# ");
        assert_eq!(format!("{}", escaped("a\\b\tü\u{9b}".as_bytes())), r"a\\b\t\xc3\xbc\xc2\x9b");
        assert_eq!(format!("{}", escaped(&[0xff, 0x7f, 0, b'x'])), r"\xff\x7f\000x");
    }

    #[test]
    fn an_ordinary_line_looks_as_it_does_at_the_guest() {
        assert_eq!(format!("{}", line(b"a\tb \\n 100 %\r\n")), "a\tb \\n 100 %");
        assert_eq!(format!("{}", line(b"over\rwritten\x1b[1A")), r"over\rwritten\x1b[1A");
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(format!("{}", escaped(b"abcdef").limited(4)), "abcd[2 bytes more]");
        assert_eq!(format!("{}", escaped(b"abcd").limited(4)), "abcd");
        assert_eq!(format!("{}", escaped(b"abcdef").limited(4).limited(2)), "ab[4 bytes more]");
        assert_eq!(format!("{}", quoted(&"A".repeat(2000))), format!("{}[1936 bytes more]", "A".repeat(64)));
    }

    proptest! {
        #[test]
        fn only_printable_ascii_comes_out_and_two_texts_never_look_the_same(
            a in proptest::collection::vec(any::<u8>(), 0..40), b in proptest::collection::vec(any::<u8>(), 0..40)
        ) {
            let [shown_a, shown_b] = [&a, &b].map(|text| format!("{}", escaped(text)));
            prop_assert!(shown_a.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            prop_assert_eq!(shown_a == shown_b, a == b);
        }
    }
}
