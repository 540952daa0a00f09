//! A line that somebody types at the terminal, which stays whole whatever is printed meanwhile.

pub mod editor;

use alloc::{format, string::String, vec::Vec};

use oxen_domu_lib::{console, println};

use crate::terminal::{self, Terminal};
use editor::{LineEditor, Typed};

/// How somebody was done with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// Return was pressed.
    Line(String),
    /// Ctrl-C: the line was dropped.
    Interrupt,
    /// Ctrl-D on an empty line: nothing more is typed.
    End,
}

/// Reads lines, with a history of its own.
#[derive(Debug, Default)]
pub struct LineReader {
    editor: LineEditor,
}

impl LineReader {
    /// Reads a line behind a prompt. `complete` says what the last word of a text could become.
    pub async fn read(&mut self, terminal: &Terminal, prompt: &str, complete: impl Fn(&str) -> Vec<String>) -> Entered {
        terminal::print(prompt);
        loop {
            let byte = match self.editor.take_pending() {
                Some(byte) => byte,
                None => {
                    // What others print while nobody types goes above the line.
                    console::keep_below([prompt.as_bytes(), &self.editor.image()].concat());
                    let byte = terminal.byte().await;
                    console::keep_below(Vec::new());
                    byte
                }
            };
            let mut echo = Vec::new();
            let typed = self.editor.feed(byte, &mut echo);
            terminal.show(&echo);
            match typed {
                Typed::Nothing => {}
                Typed::Line(line) => return Entered::Line(line),
                Typed::Interrupt => return Entered::Interrupt,
                Typed::End => return Entered::End,
                Typed::Redraw => self.show_again(terminal, prompt, "\r\x1b[K"),
                Typed::Clear => self.show_again(terminal, prompt, "\x1b[H\x1b[2J"),
                Typed::Complete => {
                    let choices = complete(&self.editor.before_cursor());
                    self.complete(terminal, prompt, &choices);
                }
            }
        }
    }

    fn show_again(&self, terminal: &Terminal, prompt: &str, before: &str) {
        terminal.show(&[before.as_bytes(), prompt.as_bytes(), &self.editor.image()].concat());
    }

    /// Types what all choices have in common; where that is nothing new, shows them.
    fn complete(&mut self, terminal: &Terminal, prompt: &str, choices: &[String]) {
        let text = self.editor.before_cursor();
        let word = text.rsplit(' ').next().unwrap_or_default();
        let Some(first) = choices.first() else { return };
        let common = choices.iter().skip(1).fold(first.len(), |length, other| {
            first.bytes().zip(other.bytes()).take(length).take_while(|(a, b)| a == b).count()
        });
        let mut more: String = first.get(word.len()..common).unwrap_or_default().into();
        let is_whole = choices.len() == 1 && !first.ends_with(['=', '/']);
        if is_whole {
            more.push(' ');
        }
        if more.is_empty() && choices.len() > 1 {
            terminal.show(b"\r\n");
            println!("{}", choices.join("  "));
            return self.show_again(terminal, prompt, "");
        }
        let mut echo = Vec::new();
        self.editor.insert(&more, &mut echo);
        terminal.show(&echo);
    }
}

/// Reads lines until nothing more is typed; `None` where that was called off.
pub async fn read_text(terminal: &Terminal) -> Option<String> {
    let mut reader = LineReader::default();
    let mut text = String::new();
    loop {
        match reader.read(terminal, "> ", |_| Vec::new()).await {
            Entered::Line(line) => text.push_str(&format!("{line}\n")),
            Entered::Interrupt => return None,
            Entered::End => return Some(text),
        }
    }
}
