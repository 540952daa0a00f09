//! What a word at the prompt could become: by the command, and by what its usage says stands there.

use alloc::{format, string::String, string::ToString, vec::Vec};

use crate::config::KEYS;
use crate::toolstack::system::System;
use crate::toolstack::xl::{VERBS, find};

/// Commands that take dom0 as well as guests.
const DOM0_TOO: [&str; 5] = ["list", "vcpu-list", "vcpu-pin", "sched-credit", "domid"];

/// What there is to be named.
pub trait Named {
    /// Guests that are there.
    fn guests(&self) -> Vec<String>;
    /// The archive's files.
    fn files(&self) -> Vec<String>;
    /// The virtual disks of a guest.
    fn disks(&self, guest: &str) -> Vec<String>;
    /// The names below a node of the store.
    fn nodes(&self, path: &str) -> Vec<String>;
}

impl Named for System {
    fn guests(&self) -> Vec<String> {
        self.guests.alive().iter().map(|guest| guest.name().to_string()).collect()
    }

    fn files(&self) -> Vec<String> {
        self.archive.files().map(|file| file.name.into()).collect()
    }

    fn disks(&self, guest: &str) -> Vec<String> {
        let Some(guest) = self.guests.find(guest) else { return Vec::new() };
        guest.disks.borrow().iter().map(|disk| disk.driver.config.vdev.clone()).collect()
    }

    fn nodes(&self, path: &str) -> Vec<String> {
        self.store.list(path).unwrap_or_default()
    }
}

/// What the last word of a text could become, whole.
pub fn choices(text: &str, there: &impl Named) -> Vec<String> {
    let command = text.rsplit(';').next().unwrap_or_default();
    let mut words: Vec<&str> = command.split_whitespace().collect();
    let word = if command.ends_with(char::is_whitespace) { "" } else { words.pop().unwrap_or_default() };
    if words.first() == Some(&"xl") {
        words.remove(0);
    }
    let mut choices = match words.split_first() {
        None => VERBS.iter().map(|verb| verb.name.into()).collect(),
        Some((verb, before)) => arguments(verb, before, word, there),
    };
    choices.retain(|choice: &String| choice.starts_with(word));
    choices.sort_unstable();
    choices.dedup();
    choices
}

/// What could stand behind a command and the words that follow it.
fn arguments(verb: &str, before: &[&str], word: &str, there: &impl Named) -> Vec<String> {
    let Some(verb) = find(verb) else { return Vec::new() };
    let tokens: Vec<&str> = verb.usage.split([' ', '[', ']']).filter(|token| !matches!(*token, "" | "|")).collect();
    if word.starts_with('-') {
        return tokens.iter().filter(|token| token.starts_with('-')).map(ToString::to_string).collect();
    }
    let value_of = |flag: &str| {
        let at = tokens.iter().position(|token| *token == flag)?;
        tokens.get(at + 1).filter(|next| has_value(verb.usage, flag, next)).copied()
    };
    if let Some(token) = before.last().and_then(|last| value_of(last)) {
        return named(token, verb.name, before, word, there);
    }
    // Places are counted without flags and what belongs to them, in the usage and in what was typed.
    let plain = |words: &[&str]| {
        let mut kept: Vec<usize> = Vec::new();
        let mut is_value = false;
        for (index, word) in words.iter().enumerate() {
            let is_flag = word.starts_with('-');
            if !is_flag && !is_value {
                kept.push(index);
            }
            is_value = is_flag && value_of(word).is_some();
        }
        kept
    };
    let places: Vec<&str> = plain(&tokens).into_iter().filter_map(|index| tokens.get(index).copied()).collect();
    let place = plain(before).len();
    let last = places.last().filter(|last| last.ends_with("..."));
    let token = places.get(place).or(last).copied().unwrap_or_default();
    named(token.trim_end_matches("..."), verb.name, before, word, there)
}

/// Whether a usage has a value behind a flag, in one bracket with it: `[-d SECONDS]`, unlike `[-p] FILE`.
fn has_value(usage: &str, flag: &str, next: &str) -> bool {
    usage.contains(&format!("{flag} {next}")) && !next.starts_with('-')
}

/// The words that a token of a usage stands for.
fn named(token: &str, verb: &str, before: &[&str], word: &str, there: &impl Named) -> Vec<String> {
    match token {
        "NAME" if DOM0_TOO.contains(&verb) => there.guests().into_iter().chain(["Domain-0".into()]).collect(),
        "NAME" => there.guests(),
        "CONFIG" => there.files().into_iter().filter(|name| name.ends_with(".cfg")).collect(),
        "FILE" => there.files(),
        "COMMAND" => VERBS.iter().map(|verb| verb.name.into()).collect(),
        "VDEV" => before.first().map(|guest| there.disks(guest)).unwrap_or_default(),
        "KEY=VALUE" if verb == "create" => KEYS.iter().map(|key| format!("{key}=")).collect(),
        "PATH" => {
            let (folder, _) = word.rsplit_once('/').unwrap_or_default();
            let root = if folder.is_empty() { "/" } else { folder };
            there.nodes(root).into_iter().map(|name| format!("{folder}/{name}")).collect()
        }
        token if token.starts_with(|c: char| c.is_ascii_lowercase()) => token.split('|').map(Into::into).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct There;

    impl Named for There {
        fn guests(&self) -> Vec<String> {
            ["hog", "hello"].map(String::from).into()
        }

        fn files(&self) -> Vec<String> {
            ["hello.cfg", "guests/hello", "hog.cfg", "data.img"].map(String::from).into()
        }

        fn disks(&self, guest: &str) -> Vec<String> {
            if guest == "hog" { ["xvda", "xvdb"].map(String::from).into() } else { Vec::new() }
        }

        fn nodes(&self, path: &str) -> Vec<String> {
            if path == "/local" { ["domain".into()].into() } else { ["local", "vm"].map(String::from).into() }
        }
    }

    #[test]
    fn words_are_completed_by_their_kind() {
        for (text, wanted) in [
            ("xl cre", "create"),
            ("unp", "unpause"),
            ("xl destroy h", "hello hog"),
            ("xl list D", "Domain-0"),
            ("xl create h", "hello.cfg hog.cfg"),
            ("xl create -c ho", "hog.cfg"),
            ("xl create hog.cfg mem", "memory="),
            ("xl create hog.cfg memory=8 na", "name="),
            ("xl create -", "-c -f -n -p -q"),
            ("xl create -f ho", "hog.cfg"),
            ("cat da", "data.img"),
            ("xl list; xl pause ho", "hog"),
            ("block-detach hog xv", "xvda xvdb"),
            ("block-detach hello xv", ""),
            ("mem-set -w ho", "hog"),
            ("mem-set hog h", ""),
            ("sched-credit -d he", "hello"),
            ("xenstore-ls /", "/local /vm"),
            ("xenstore-read /local/", "/local/domain"),
            ("xenstore-read /vm /lo", "/local"),
            ("balloon ex", "explain"),
            ("balloon explain ho", "hog"),
            ("brctl showm", "showmacs"),
            ("trigger hog n", "nmi"),
            ("help tri", "trigger"),
            ("nothing h", ""),
        ] {
            assert_eq!(choices(text, &There).join(" "), wanted, "{text}");
        }
    }
}
