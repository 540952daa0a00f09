//! The prompt, and scripts in its place.

pub mod editor;

use alloc::{rc::Rc, string::String, vec::Vec};

use oxen_domu_lib::println;

use super::system::System;
use super::xl::{self, VERBS};
use crate::options::{self, Script};
use crate::terminal;
use editor::{LineEditor, Typed};

const PROMPT: &str = "dom0# ";

/// Runs the script if there is one, then asks for commands for good.
pub async fn run(system: Rc<System>) {
    for command in script(&system) {
        println!("{PROMPT}{command}");
        execute(&system, &command, false).await;
    }
    for command in &system.options.type_ahead {
        println!("{PROMPT}{command}");
        execute(&system, command, true).await;
    }
    let mut editor = LineEditor::default();
    terminal::print(PROMPT);
    loop {
        let byte = system.terminal.byte().await;
        let mut echo = Vec::new();
        let typed = editor.feed(byte, &mut echo);
        if typed == Typed::Complete {
            complete(&system, &mut editor, &mut echo);
        }
        system.terminal.show(&echo);
        match typed {
            Typed::Line(line) => {
                for command in options::commands(&line) {
                    execute(&system, &command, true).await;
                }
                terminal::print(PROMPT);
            }
            Typed::Interrupt => terminal::print(PROMPT),
            Typed::Nothing | Typed::Complete => {}
        }
    }
}

/// The commands of the script, where there is one.
fn script(system: &Rc<System>) -> Vec<String> {
    match &system.options.script {
        None => Vec::new(),
        Some(Script::Here(script)) => options::commands(script),
        Some(Script::File(name)) => match system.archive.get(name) {
            Some(bytes) => options::commands(&String::from_utf8_lossy(bytes)),
            None => {
                println!("error: no file `{name}` for a script");
                system.failed.set(true);
                Vec::new()
            }
        },
    }
}

async fn execute(system: &Rc<System>, command: &str, interactive: bool) {
    if let Err(why) = xl::run(system, command, interactive).await {
        println!("error: {why:#}");
        if !interactive {
            system.failed.set(true);
        }
    }
}

/// Completes the last word: a command at the start, else a file or a guest.
fn complete(system: &Rc<System>, editor: &mut LineEditor, echo: &mut Vec<u8>) {
    let text = editor.text();
    let (before, word) = text.rsplit_once(' ').unwrap_or(("", &text));
    let mut choices: Vec<String> = if matches!(before.trim(), "" | "xl" | "help") {
        VERBS.iter().map(|verb| verb.name.into()).collect()
    } else {
        let guests = system.guests.alive().into_iter().map(|guest| guest.config.name.clone());
        system.archive.files().map(|file| file.name.into()).chain(guests).collect()
    };
    choices.retain(|choice| choice.starts_with(word));
    let Some(first) = choices.first() else { return };
    let common = choices.iter().skip(1).fold(first.len(), |length, other| {
        first.bytes().zip(other.bytes()).take(length).take_while(|(a, b)| a == b).count()
    });
    let more = first.get(word.len()..common).unwrap_or_default();
    editor.insert(more, echo);
    if choices.len() == 1 {
        editor.insert(" ", echo);
    } else if more.is_empty() {
        system.terminal.show(b"\r\n");
        println!("{}", choices.join("  "));
        terminal::print(PROMPT);
        system.terminal.show(text.as_bytes());
    }
}
