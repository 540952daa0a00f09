//! The line editor of the prompt: bytes of a terminal in, lines and echo out.

use alloc::{collections::VecDeque, string::String, vec::Vec};

/// Lines that the history keeps.
const HISTORY: usize = 100;
/// Bytes that a line may have.
const LINE: usize = 1024;

/// What a byte led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// The line goes on.
    Nothing,
    /// Return was pressed.
    Line(String),
    /// Ctrl-C: the line was dropped.
    Interrupt,
    /// Tab: complete the word before the cursor.
    Complete,
}

/// The line being typed.
#[derive(Debug, Default)]
pub struct LineEditor {
    line: Vec<u8>,
    cursor: usize,
    history: VecDeque<Vec<u8>>,
    /// Place in the history, counted from the newest; 0 is the line itself.
    back: usize,
    draft: Vec<u8>,
    escape: Vec<u8>,
    last_was_return: bool,
}

impl LineEditor {
    /// What was typed so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.line).into()
    }

    /// Takes one byte; `echo` gets what the terminal must show.
    pub fn feed(&mut self, byte: u8, echo: &mut Vec<u8>) -> Typed {
        if !self.escape.is_empty() {
            self.continue_escape(byte, echo);
            return Typed::Nothing;
        }
        let after_return = core::mem::replace(&mut self.last_was_return, byte == b'\r');
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => {
                echo.extend_from_slice(b"\r\n");
                return Typed::Line(self.finish());
            }
            0x03 => {
                echo.extend_from_slice(b"^C\r\n");
                self.clear();
                return Typed::Interrupt;
            }
            b'\t' => return Typed::Complete,
            0x08 | 0x7f if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
                echo.push(8);
                self.redraw_tail(echo);
            }
            0x01 => self.move_to(0, echo),
            0x05 => self.move_to(self.line.len(), echo),
            0x0b => {
                self.line.truncate(self.cursor);
                echo.extend_from_slice(b"\x1b[K");
            }
            0x15 => self.replace(Vec::new(), echo),
            0x1b => self.escape.push(byte),
            0x20..=0x7e | 0x80..=0xff if self.line.len() < LINE => {
                self.line.insert(self.cursor, byte);
                self.cursor += 1;
                echo.push(byte);
                if self.cursor < self.line.len() {
                    self.redraw_tail(echo);
                }
            }
            _ => {}
        }
        Typed::Nothing
    }

    /// Types `text` at the cursor on the user's behalf.
    pub fn insert(&mut self, text: &str, echo: &mut Vec<u8>) {
        for byte in text.bytes() {
            self.feed(byte, echo);
        }
    }

    fn finish(&mut self) -> String {
        let text = self.text();
        if !self.line.is_empty() && self.history.front() != Some(&self.line) {
            self.history.push_front(core::mem::take(&mut self.line));
            self.history.truncate(HISTORY);
        }
        self.clear();
        text
    }

    fn clear(&mut self) {
        self.line.clear();
        self.draft.clear();
        (self.cursor, self.back) = (0, 0);
    }

    fn continue_escape(&mut self, byte: u8, echo: &mut Vec<u8>) {
        self.escape.push(byte);
        let done = match self.escape.as_slice() {
            [_, b'[' | b'O'] => false,
            [_, b'[' | b'O', .., last] => !(last.is_ascii_digit() || *last == b';') || self.escape.len() > 8,
            _ => true,
        };
        if !done {
            return;
        }
        match core::mem::take(&mut self.escape).as_slice() {
            [_, _, b'A'] => self.recall(self.back + 1, echo),
            [_, _, b'B'] if self.back > 0 => self.recall(self.back - 1, echo),
            [_, _, b'C'] => self.move_to((self.cursor + 1).min(self.line.len()), echo),
            [_, _, b'D'] => self.move_to(self.cursor.saturating_sub(1), echo),
            [_, _, b'H'] | [_, _, b'1' | b'7', b'~'] => self.move_to(0, echo),
            [_, _, b'F'] | [_, _, b'4' | b'8', b'~'] => self.move_to(self.line.len(), echo),
            [_, _, b'3', b'~'] if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
                self.redraw_tail(echo);
            }
            _ => {}
        }
    }

    fn recall(&mut self, back: usize, echo: &mut Vec<u8>) {
        if self.back == 0 {
            self.draft = self.line.clone();
        }
        let line = match back.checked_sub(1) {
            None => Some(self.draft.clone()),
            Some(index) => self.history.get(index).cloned(),
        };
        if let Some(line) = line {
            self.back = back;
            self.replace(line, echo);
        }
    }

    fn replace(&mut self, line: Vec<u8>, echo: &mut Vec<u8>) {
        self.move_to(0, echo);
        echo.extend_from_slice(b"\x1b[K");
        echo.extend_from_slice(&line);
        self.cursor = line.len();
        self.line = line;
    }

    fn move_to(&mut self, cursor: usize, echo: &mut Vec<u8>) {
        while self.cursor > cursor {
            echo.push(8);
            self.cursor -= 1;
        }
        while self.cursor < cursor {
            echo.extend(self.line.get(self.cursor));
            self.cursor += 1;
        }
    }

    /// Shows what stands right of the cursor again and comes back.
    fn redraw_tail(&self, echo: &mut Vec<u8>) {
        let tail = self.line.get(self.cursor..).unwrap_or_default();
        echo.extend_from_slice(tail);
        echo.extend_from_slice(b"\x1b[K");
        echo.extend(core::iter::repeat_n(8, tail.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(bytes: &[u8]) -> Vec<String> {
        let (mut editor, mut echo) = (LineEditor::default(), Vec::new());
        let lines = bytes.iter().filter_map(|&b| match editor.feed(b, &mut echo) {
            Typed::Line(line) => Some(line),
            _ => None,
        });
        lines.collect()
    }

    #[test]
    fn lines_are_edited() {
        assert_eq!(typed(b"ab\x7fc\r\nx\n"), ["ac", "x"]);
        assert_eq!(typed(b"bc\x1b[D\x1b[Da\x1b[Fd\r"), ["abcd"]);
        assert_eq!(typed(b"abc\x01\x1b[3~\x05d\x1b[D\x0b\r"), ["bc"]);
        assert_eq!(typed(b"lost\x03kept\r"), ["kept"]);
        assert_eq!(typed(b"lost\x15kept\r"), ["kept"]);
    }

    #[test]
    fn history_comes_back() {
        assert_eq!(typed(b"one\rtwo\r\x1b[A\x1b[A\r"), ["one", "two", "one"]);
        assert_eq!(typed(b"one\rdraft\x1b[A\x1b[B!\r"), ["one", "draft!"]);
        assert_eq!(typed(b"\x1b[A\x1b[Bx\r"), ["x"]);
    }

    proptest! {
        #[test]
        fn no_key_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (mut editor, mut echo) = (LineEditor::default(), Vec::new());
            for byte in bytes {
                editor.feed(byte, &mut echo);
                prop_assert!(editor.cursor <= editor.line.len() && editor.line.len() <= LINE);
            }
        }
    }
}
