//! Holds pages against what is there: links, items and files that they name, and commands of ours.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;

use super::markdown::{Piece, anchor, pieces, words};
use super::{REFERENCE, reference};
use crate::source;
use crate::workspace::Workspace;

/// The list of the book's pages.
const SUMMARY: &str = "SUMMARY.md";

/// What does not exist of all that the book's pages, the documentation and the README name; `xtask` is our own command.
///
/// # Errors
/// Fails where a file cannot be read.
pub(super) fn judge(workspace: &Workspace, xtask: &Command, book: &Path) -> Result<Vec<String>> {
    let mut files = source::files(book, &[".md"])?;
    files.retain(|file| *file != book.join(REFERENCE));
    let mut shelf = Shelf::new(workspace, xtask, book)?;
    let mut findings = Vec::new();
    let summary = read(&book.join(SUMMARY))?;
    for file in &files {
        let name = file.strip_prefix(book).unwrap_or(file).display().to_string();
        if name != SUMMARY && !summary.contains(&format!("({name})")) {
            findings.push(format!("{}: not in {SUMMARY}", shelf.name(file)));
        }
    }
    let mut others = vec![workspace.root.join("README.md")];
    others.extend(source::files(&workspace.root.join("docs"), &[".md"])?);
    files.extend(others.into_iter().filter(|file| !file.starts_with(book)));
    for file in files {
        let text = read(&file)?;
        for (line, piece) in pieces(&text) {
            if let Some(what) = shelf.missing(&file, &piece)? {
                findings.push(format!("{}:{line}: {what}", shelf.name(&file)));
            }
        }
    }
    Ok(findings)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// What is there.
struct Shelf {
    root: PathBuf,
    /// `cargo xtask`.
    xtask: Command,
    /// The generated page, which need not have been written.
    reference: (PathBuf, String),
    /// Names of all functions.
    functions: BTreeSet<String>,
    /// The texts that dom0's sources quote: its commands are among them.
    dom0: String,
    /// Anchors of pages that were asked for.
    anchors: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl Shelf {
    fn new(workspace: &Workspace, xtask: &Command, book: &Path) -> Result<Self> {
        let mut functions = BTreeSet::new();
        let mut dom0 = String::new();
        for file in source::files(&workspace.root, &[".rs"])? {
            let text = read(&file)?;
            functions.extend(text.lines().filter_map(function).map(str::to_owned));
            if file.starts_with(workspace.root.join("dom0")) {
                dom0.push_str(&text);
            }
        }
        let reference = (book.join(REFERENCE), reference::page(workspace)?);
        let (root, xtask) = (workspace.root.clone(), xtask.clone());
        Ok(Self { root, xtask, reference, functions, dom0, anchors: BTreeMap::new() })
    }

    fn name(&self, file: &Path) -> String {
        file.strip_prefix(&self.root).unwrap_or(file).display().to_string()
    }

    /// What a piece names that is not there.
    fn missing(&mut self, page: &Path, piece: &Piece) -> Result<Option<String>> {
        Ok(match piece {
            Piece::Heading(_) => None,
            Piece::Link { text, target } => self.dead(page, text, target)?,
            Piece::Code(code) => match code.strip_prefix("cargo ") {
                Some(_) => self.refused(code),
                None => self.no_file(code),
            },
            Piece::Shell(line) => self.refused(line),
        })
    }

    /// Why a link leads nowhere.
    fn dead(&mut self, page: &Path, text: &str, target: &str) -> Result<Option<String>> {
        if target.contains("://") || target.starts_with("mailto:") {
            return Ok(None);
        }
        let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
        let file = if path.is_empty() { page.to_owned() } else { resolved(page, path) };
        let is_generated = file == self.reference.0;
        if !is_generated && !file.exists() {
            return Ok(Some(format!("the link to `{target}` leads nowhere")));
        }
        if !fragment.is_empty() && path.rsplit('.').next().is_none_or(|end| end == "md" || path.is_empty()) {
            return Ok((!self.has_anchor(&file, fragment)?).then(|| format!("`{target}`: there is no such heading")));
        }
        if path.ends_with(".rs")
            && let Some(item) = text.strip_prefix('`').and_then(|text| text.strip_suffix('`'))
            && !item.contains('/')
        {
            let text = read(&file)?;
            let mut words = item
                .split("`, `")
                .map(|item| item.rsplit("::").next().unwrap_or(item).trim_end_matches("()").trim_end_matches('!'));
            let missing = words.find(|word| !text.lines().any(|line| source::has_word(line, word)));
            return Ok(missing.map(|word| format!("`{word}` does not stand in `{path}`")));
        }
        Ok(None)
    }

    fn has_anchor(&mut self, file: &Path, fragment: &str) -> Result<bool> {
        let anchors = match self.anchors.entry(file.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let text = if file == self.reference.0 { self.reference.1.clone() } else { included(file)? };
                let headings = pieces(&text).into_iter().filter_map(|(_, piece)| match piece {
                    Piece::Heading(heading) => Some(anchor(&heading)),
                    _ => None,
                });
                place.insert(headings.collect())
            }
        };
        Ok(anchors.contains(fragment))
    }

    /// Whether code names a file or folder of the repository that is not there. Patterns and parts of a path are none.
    fn no_file(&self, code: &str) -> Option<String> {
        let plain = |c: char| c.is_alphanumeric() || "_-./".contains(c);
        let (first, rest) = code.split_once('/')?;
        let is_ours = !first.is_empty() && first != "target" && self.root.join(first).is_dir();
        let is_path = is_ours && !rest.is_empty() && code.chars().all(plain);
        (is_path && !self.root.join(code).exists()).then(|| format!("`{code}` is not there"))
    }

    /// Why a command of ours would be refused. Other programs' commands are not judged.
    fn refused(&self, line: &str) -> Option<String> {
        let words = words(line.strip_prefix("$ ").unwrap_or(line));
        let (cargo, verb) = (words.first()?, words.get(1)?);
        if cargo != "cargo" {
            return None;
        }
        if verb == "test" {
            let target = words.iter().skip_while(|word| *word != "--test").nth(1)?;
            let package = words.iter().skip_while(|word| *word != "-p").nth(1).map_or("", |word| word.as_str());
            let folder = self.root.join(package.strip_prefix("oxen-").unwrap_or(package)).join("tests");
            let is_there = folder.join(target).is_dir() || folder.join(format!("{target}.rs")).is_file();
            if !is_there {
                return Some(format!("`{line}`: there is no test `{target}` of `{package}`"));
            }
            let filter = words.iter().skip_while(|word| *word != target).nth(1).filter(|word| !word.starts_with('-'));
            return self.matches_nothing(filter.map_or("", |word| word.as_str()), line);
        }
        if verb != "xtask" || words.len() < 3 {
            return None;
        }
        let arguments = std::iter::once("cargo xtask").chain(words.iter().skip(2).map(String::as_str));
        if let Err(error) = self.xtask.clone().try_get_matches_from(arguments)
            && error.use_stderr()
        {
            let why = error.to_string();
            return Some(format!("`{line}` is refused: {}", why.lines().next().unwrap_or_default()));
        }
        if words.get(2).is_some_and(|verb| verb == "test") {
            let filter = words.get(3).filter(|word| !word.starts_with('-') && word.chars().any(char::is_lowercase));
            return self.matches_nothing(filter.map_or("", |word| word.as_str()), line);
        }
        let script = words.iter().skip_while(|word| *word != "--script").nth(1)?;
        let commands = script.split(';').map(|command| command.trim().trim_start_matches("xl ").trim());
        let unknown = commands
            .filter_map(|command| command.split(' ').next())
            .find(|verb| verb.chars().any(char::is_lowercase) && !self.dom0.contains(&format!("\"{verb}\"")));
        unknown.map(|verb| format!("`{line}`: dom0 has no command `{verb}`"))
    }

    fn matches_nothing(&self, filter: &str, line: &str) -> Option<String> {
        let word = filter.rsplit("::").next().unwrap_or(filter);
        let is_room = self.root.join("qemu-tests/src/scenarios").join(format!("{word}.rs")).is_file();
        let is_known = word.is_empty()
            || word == crate::test::MODELS
            || is_room
            || self.functions.iter().any(|name| name.contains(word));
        (!is_known).then(|| format!("`{line}`: no test's name holds `{word}`"))
    }
}

/// The name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("fn ")?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    rest.get(..end).filter(|name| !name.is_empty())
}

/// Where a relative link leads.
fn resolved(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().unwrap_or(page).to_owned();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path
}

/// A page with what it includes: `{{#include FILE}}`.
fn included(file: &Path) -> Result<String> {
    let mut text = String::new();
    for line in read(file)?.lines() {
        match line.trim().strip_prefix("{{#include ").and_then(|rest| rest.strip_suffix("}}")) {
            Some(other) => text.push_str(&read(&resolved(file, other.trim()))?),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Piece, Shelf};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn shelf() -> Shelf {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        let reference = (root.join("docs/book/src/reference.md"), "# R\n## mmu_update\n".to_owned());
        let functions = ["a_frame_holds".to_owned()].into();
        let xtask = <crate::cli::Cli as clap::CommandFactory>::command();
        let dom0 = "Verb { name: \"list\" }".into();
        Shelf { root, xtask, reference, functions, dom0, anchors: BTreeMap::new() }
    }

    fn missing(piece: Piece) -> Option<String> {
        let mut shelf = shelf();
        let page = shelf.root.join("docs/book/src/x.md");
        shelf.missing(&page, &piece).unwrap()
    }

    fn link(text: &str, target: &str) -> Option<String> {
        missing(Piece::Link { text: text.into(), target: target.into() })
    }

    #[test]
    fn links_lead_somewhere() {
        assert_eq!(link("x", "https://example.org/"), None);
        assert_eq!(link("x", "../../../abi/src/mmu.rs"), None);
        assert_eq!(link("`MmuUpdate`", "../../../abi/src/mmu.rs"), None);
        assert_eq!(link("x", "reference.md#mmu_update"), None);
        assert_eq!(link("x", "../../glossary.md#glossary"), None);
        assert!(link("x", "../../../abi/src/none.rs").unwrap().contains("leads nowhere"));
        assert!(link("`MmuUndate`", "../../../abi/src/mmu.rs").unwrap().contains("does not stand"));
        assert!(link("x", "reference.md#none").unwrap().contains("no such heading"));
    }

    #[test]
    fn files_that_code_names_are_there() {
        let code = |code: &str| missing(Piece::Code(code.into()));
        assert_eq!(code("abi/src/mmu.rs"), None);
        assert_eq!(code("abi/src/"), None);
        assert_eq!((code("a/b"), code("target/oxen/none"), code("abi/*/x")), (None, None, None));
        assert!(code("abi/src/none.rs").is_some());
    }

    #[test]
    fn commands_are_taken_by_the_programs_that_they_name() {
        let shell = |line: &str| missing(Piece::Shell(line.into()));
        assert_eq!(shell("cargo xtask run --script \"xl list; list\"   # both"), None);
        assert_eq!(shell("cargo xtask test a_frame"), None);
        assert_eq!(shell("cargo test -p oxen-hv --test memory_ops"), None);
        assert_eq!((shell("qemu-system-x86_64 -x"), shell("cargo xtask test FILTER --host")), (None, None));
        assert!(shell("cargo xtask rnu").unwrap().contains("is refused"));
        assert!(shell("cargo xtask run --scirpt x").unwrap().contains("is refused"));
        assert!(shell("cargo xtask run --script 'xl lits'").unwrap().contains("no command `lits`"));
        assert!(shell("cargo xtask test b_frame").unwrap().contains("no test's name"));
        assert!(shell("cargo test -p oxen-hv --test none").unwrap().contains("no test `none`"));
    }
}
