//! The prompt, and scripts in its place.

pub mod complete;

use alloc::{rc::Rc, string::String, vec::Vec};

use oxen_domu_lib::println;

use super::line::{Entered, LineReader};
use super::system::System;
use super::xl;
use crate::options::{self, Script};

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
    let mut reader = LineReader::default();
    loop {
        match reader.read(&system.terminal, PROMPT, |text| complete::choices(text, &*system)).await {
            Entered::Line(line) => {
                for command in options::commands(&line) {
                    execute(&system, &command, true).await;
                }
            }
            Entered::End => println!("`poweroff` ends the machine"),
            Entered::Interrupt => {}
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
