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
    /// Ctrl-D on an empty line: nothing more is typed.
    End,
    /// The whole line has to be shown again.
    Redraw,
    /// Ctrl-L: the screen has to be cleared, and the line shown again.
    Clear,
}

/// A search through the history, from the newest line back (Ctrl-R).
#[derive(Debug, Default)]
struct Search {
    text: Vec<u8>,
    /// Place of the line that was found, counted from the newest, which is 0.
    found: Option<usize>,
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
    search: Option<Search>,
    /// What ended a search and has not had its effect yet.
    pending: Option<u8>,
}

/// What stands between words for the keys that go by words.
const fn is_gap(byte: u8) -> bool {
    !byte.is_ascii_alphanumeric() && byte < 0x80
}

impl LineEditor {
    /// The byte that ended a search: it is fed again when the line that was found is shown.
    pub fn take_pending(&mut self) -> Option<u8> {
        self.pending.take()
    }

    /// What was typed so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.line).into()
    }

    /// What was typed in front of the cursor.
    pub fn before_cursor(&self) -> String {
        String::from_utf8_lossy(self.line.get(..self.cursor).unwrap_or_default()).into()
    }

    /// The line as it stands behind its prompt, with the cursor brought back to its place.
    pub fn image(&self) -> Vec<u8> {
        if let Some(search) = &self.search {
            let found = search.found.and_then(|index| self.history.get(index));
            return [&b"(search) "[..], search.text.as_slice(), b": ", found.map_or(&[][..], Vec::as_slice)].concat();
        }
        let mut image = self.line.clone();
        image.extend(core::iter::repeat_n(8, self.line.len() - self.cursor));
        image
    }

    /// Takes one byte; `echo` gets what the terminal must show.
    pub fn feed(&mut self, byte: u8, echo: &mut Vec<u8>) -> Typed {
        if self.search.is_some()
            && let Some(typed) = self.search_on(byte)
        {
            return typed;
        }
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
            0x08 | 0x7f if self.cursor > 0 => self.delete_to(self.cursor - 1, echo),
            0x01 => self.move_to(0, echo),
            0x02 => self.move_to(self.cursor.saturating_sub(1), echo),
            0x04 if self.line.is_empty() => {
                echo.extend_from_slice(b"\r\n");
                return Typed::End;
            }
            0x04 => self.delete_to(self.cursor + 1, echo),
            0x05 => self.move_to(self.line.len(), echo),
            0x06 => self.move_to((self.cursor + 1).min(self.line.len()), echo),
            0x0c => return Typed::Clear,
            0x0e if self.back > 0 => self.recall(self.back - 1, echo),
            0x10 => self.recall(self.back + 1, echo),
            0x12 => {
                self.search = Some(Search::default());
                return Typed::Redraw;
            }
            0x17 => self.delete_to(self.word_before(|byte| byte == b' '), echo),
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
            [_, _, b'3', b'~'] => self.delete_to(self.cursor + 1, echo),
            [_, b'b'] | [_, _, b'1', b';', b'5', b'D'] => self.move_to(self.word_before(is_gap), echo),
            [_, b'f'] | [_, _, b'1', b';', b'5', b'C'] => self.move_to(self.word_behind(), echo),
            [_, b'd'] => self.delete_to(self.word_behind(), echo),
            [_, 0x08 | 0x7f] => self.delete_to(self.word_before(is_gap), echo),
            _ => {}
        }
    }

    /// A byte during a search; `None` where it ends the search and still has its own meaning.
    fn search_on(&mut self, byte: u8) -> Option<Typed> {
        let mut search = self.search.take()?;
        let mut from = search.found.unwrap_or(0);
        match byte {
            0x12 => from = search.found.map_or(0, |found| found + 1),
            0x08 | 0x7f => {
                search.text.pop();
                from = 0;
            }
            0x20..=0x7e | 0x80..=0xff if search.text.len() < LINE => search.text.push(byte),
            // Ctrl-G and Ctrl-C leave the line as it was before.
            0x03 | 0x07 => return Some(Typed::Redraw),
            _ => {
                if let Some(line) = search.found.and_then(|index| self.history.get(index)) {
                    (self.cursor, self.line) = (line.len(), line.clone());
                }
                // What ends the search does what it always does, once the line is shown.
                self.pending = Some(byte);
                return Some(Typed::Redraw);
            }
        }
        let holds = |line: &Vec<u8>| line.windows(search.text.len()).any(|window| window == search.text);
        search.found = match search.text.is_empty() {
            true => None,
            false => {
                (from..self.history.len()).find(|&index| self.history.get(index).is_some_and(holds)).or(search.found)
            }
        };
        self.search = Some(search);
        Some(Typed::Redraw)
    }

    /// Where the word in front of the cursor begins; `is_gap` tells what stands between words.
    fn word_before(&self, is_gap: impl Fn(u8) -> bool) -> usize {
        let mut at = self.cursor;
        for wanted in [true, false] {
            while at > 0 && self.line.get(at - 1).is_some_and(|&byte| is_gap(byte) == wanted) {
                at -= 1;
            }
        }
        at
    }

    /// Where the word behind the cursor ends.
    fn word_behind(&self) -> usize {
        let mut at = self.cursor;
        for wanted in [true, false] {
            while self.line.get(at).is_some_and(|&byte| is_gap(byte) == wanted) {
                at += 1;
            }
        }
        at
    }

    /// Deletes what is between the cursor and a place of the line.
    fn delete_to(&mut self, place: usize, echo: &mut Vec<u8>) {
        let end = self.cursor.max(place).min(self.line.len());
        let start = self.cursor.min(place);
        self.move_to(start, echo);
        if start < end {
            self.line.drain(start..end);
            self.redraw_tail(echo);
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
        let (mut editor, mut echo, mut lines) = (LineEditor::default(), Vec::new(), Vec::new());
        for &byte in bytes {
            let mut next = Some(byte);
            while let Some(byte) = next {
                if let Typed::Line(line) = editor.feed(byte, &mut echo) {
                    lines.push(line);
                }
                next = editor.take_pending();
            }
        }
        lines
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

    #[test]
    fn words_are_deleted_and_passed() {
        assert_eq!(typed(b"xl create a-b.cfg\x17x\r"), ["xl create x"]);
        assert_eq!(typed(b"one two  \x17\x17\x17z\r"), ["z"]);
        assert_eq!(typed(b"xl a-b\x1bb\x1bb!\r"), ["xl !a-b"]);
        assert_eq!(typed(b"xl a-b\x01\x1bf!\x1bd?\r"), ["xl!?-b"]);
        assert_eq!(typed(b"a-b\x1b\x7fc\x1b[1;5Dx\r"), ["a-xc"]);
        assert_eq!(typed(b"ab\x02\x04c\x06d\r"), ["acd"]);
    }

    #[test]
    fn the_history_is_searched_from_the_newest_back() {
        let lines = b"xl list\rxl create a\rpurse\r";
        let typed = |more: &[u8]| typed(&[lines, more].concat()).split_off(3);
        assert_eq!(typed(b"\x12xl\r"), ["xl create a"]);
        assert_eq!(typed(b"\x12xl\x12\r"), ["xl list"]);
        assert_eq!(typed(b"\x12xl\x12\x12\x12\r"), ["xl list"]);
        assert_eq!(typed(b"\x12lisx\x7f\x05 -v\r"), ["xl list -v"]);
        assert_eq!(typed(b"draft\x12purse\x07!\r"), ["draft!"]);
        assert_eq!(typed(b"\x12zzz\r\x10\x10\x0e\r"), ["", "purse"]);
    }

    #[test]
    fn an_empty_line_can_end_all_and_a_screen_is_cleared() {
        let (mut editor, mut echo) = (LineEditor::default(), Vec::new());
        assert_eq!(editor.feed(4, &mut echo), Typed::End);
        assert_eq!(editor.feed(b'a', &mut echo), Typed::Nothing);
        assert_eq!((editor.feed(4, &mut echo), editor.feed(0x0c, &mut echo)), (Typed::Nothing, Typed::Clear));
        assert_eq!(editor.feed(1, &mut echo), Typed::Nothing);
        assert_eq!((editor.image(), editor.before_cursor()), (b"a\x08".to_vec(), String::new()));
        editor.feed(0x12, &mut echo);
        editor.feed(b'q', &mut echo);
        assert_eq!(editor.image(), b"(search) q: ");
    }

    proptest! {
        #[test]
        fn no_key_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (mut editor, mut echo) = (LineEditor::default(), Vec::new());
            for byte in bytes {
                editor.feed(byte, &mut echo);
                editor.take_pending();
                editor.image();
                prop_assert!(editor.cursor <= editor.line.len() && editor.line.len() <= LINE);
            }
        }
    }
}
