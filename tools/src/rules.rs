//! The house rules that no compiler checks: what each file opens with, where `unsafe` may stand, which way arrows run.

use std::path::Path;

use anyhow::{Context, Result};

use crate::source::{self, Line, has_word};
use crate::workspace::Workspace;

/// A file longer than this is reported; it breaks no rule.
pub const LONG_FILE: usize = 400;

/// The only places where `unsafe` may stand.
const UNSAFE_PLACES: [&str; 5] = [
    "hv/src/x86/",
    "hv/tests/support/",
    "domu-lib/src/raw/",
    "qemu-tests/probe/src/raw.rs",
    "qemu-tests/probe/src/raw/",
];

/// Crate roots that must forbid `unsafe`.
const SAFE_ROOTS: [&str; 6] =
    ["abi/src/lib.rs", "ring/src/lib.rs", "image/src/lib.rs", "hv/src/lib.rs", "dom0/src/lib.rs", "tools/src/lib.rs"];

/// The layers of `hv`'s lib, lowest first: a module names its own layer and those below.
const LAYERS: [&[&str]; 4] =
    [&["addr", "layout", "config"], &["mem", "grant", "event", "domain", "sched"], &["hypercall"], &["trap"]];

/// Words that mark unfinished work. (Written in pieces, so that this file passes.)
const UNFINISHED: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!"), concat!("unimplemented", "!")];

/// Paths that exist on one machine only.
const PRIVATE_PATHS: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("../sh", "ared")];

/// What the rules have to say.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Rules broken, as `file:line: what`.
    pub broken: Vec<String>,
    /// Worth knowing.
    pub notes: Vec<String>,
}

/// Judges the whole workspace.
///
/// # Errors
/// Fails when a file cannot be read.
pub fn judge(workspace: &Workspace) -> Result<Findings> {
    let mut findings = Findings::default();
    for name in workspace.crates().iter().chain(&["qemu-tests/probe"]) {
        let manifest = read(&workspace.root.join(name).join("Cargo.toml"))?;
        if !manifest.replace(' ', "").contains("[lints]\nworkspace=true") {
            findings.broken.push(format!("{name}/Cargo.toml: takes no lints from the workspace"));
        }
    }
    for file in source::files(&workspace.root, &[".rs"])? {
        let name = file.strip_prefix(&workspace.root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        source_file(&name, &read(&file)?, &mut findings);
    }
    for file in source::files(&workspace.root, &[".rs", ".toml", ".md", ".ld", ".cfg", ".lock", "run", ".S", ".yml"])? {
        let name = file.strip_prefix(&workspace.root).unwrap_or(&file).display().to_string();
        private_paths(&name, &read(&file)?, &mut findings);
    }
    Ok(findings)
}

fn source_file(name: &str, text: &str, findings: &mut Findings) {
    let mut broken = |line: usize, what: &str| findings.broken.push(format!("{name}:{line}: {what}"));
    if !text.starts_with("//!") {
        broken(1, "opens without a `//!` line that says what the file holds");
    }
    if SAFE_ROOTS.contains(&name) && !text.contains("#![forbid(unsafe_code)]") {
        broken(1, "this crate forbids unsafe code, and says so here");
    }
    let may_be_unsafe = UNSAFE_PLACES.iter().any(|place| name.starts_with(place));
    let lines = source::lines(text);
    for (number, line) in (1..).zip(&lines) {
        // An unsafe attribute, such as that of an exported name, is one word; what it stands on is judged by itself.
        if !may_be_unsafe && has_word(&line.code.replace("#[unsafe(", ""), "unsafe") {
            broken(number, "`unsafe` outside the places that are for it");
        }
        if UNFINISHED.iter().any(|word| line.code.contains(word) || line.comment.contains(word)) {
            broken(number, "marks unfinished work");
        }
        if let Some(what) = names_the_machine(name, line) {
            broken(number, what);
        }
    }
    for (number, what) in against_the_arrows(name, &lines) {
        broken(number, &what);
    }
    if lines.len() > LONG_FILE {
        findings.notes.push(format!("{name}: {} lines", lines.len()));
    }
}

/// The path of a file of `hv`'s lib within it.
fn path_in_lib(name: &str) -> Option<&str> {
    name.strip_prefix("hv/src/").filter(|path| *path != "main.rs" && !path.starts_with("x86/"))
}

fn names_the_machine(name: &str, line: &Line) -> Option<&'static str> {
    let names = path_in_lib(name).is_some() && line.code.contains("crate::x86");
    names.then_some("the lib cannot name the machine (`crate::x86`)")
}

/// The lines of a file of `hv`'s lib that name a module above its own.
fn against_the_arrows(name: &str, lines: &[Line]) -> Vec<(usize, String)> {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let module = path_in_lib(name).and_then(|path| path.split(['/', '.']).next()).unwrap_or_default();
    let Some(own) = layer(module) else { return Vec::new() };
    let is_above = |other: &str| layer(other).is_some_and(|other| other > own);
    let said = |other: &str| format!("`{module}` lies below `{other}` and cannot name it");
    let mut found = Vec::new();
    // How many braces of a `use crate::{…}` are open.
    let mut depth = 0_usize;
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_test) {
        let mut code = line.code.as_str();
        if depth == 0 {
            for rest in code.split("crate::").skip(1) {
                found.extend(Some(first_name(rest)).filter(|other| is_above(other)).map(|o| (number, said(o))));
            }
            let Some((_, list)) = code.split_once("use crate::{") else { continue };
            (code, depth) = (list, 1);
        }
        // Names at the first level of the list are modules of the crate.
        let mut is_start = true;
        for (at, c) in code.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                ',' => is_start = true,
                c if is_start && depth == 1 && c.is_alphabetic() => {
                    is_start = false;
                    let other = first_name(code.get(at..).unwrap_or_default());
                    found.extend(Some(other).filter(|other| is_above(other)).map(|o| (number, said(o))));
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// The name that a piece of code begins with.
fn first_name(code: &str) -> &str {
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    code.get(..end).unwrap_or_default()
}

fn private_paths(name: &str, text: &str, findings: &mut Findings) {
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(path) = PRIVATE_PATHS.iter().find(|path| line.contains(*path)) {
            findings.broken.push(format!("{name}:{number}: names a path of one machine (`{path}`)"));
        }
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Findings, source_file};

    fn broken(name: &str, text: &str) -> usize {
        let mut findings = Findings::default();
        source_file(name, text, &mut findings);
        findings.broken.len()
    }

    #[test]
    fn a_file_says_first_what_it_holds() {
        assert_eq!(broken("ring/src/a.rs", "//! A.\nfn a() {}\n"), 0);
        assert_eq!(broken("ring/src/a.rs", "fn a() {}\n"), 1);
        assert_eq!(broken("ring/src/lib.rs", "//! A.\n"), 1);
    }

    #[test]
    fn unsafe_stands_behind_its_fence() {
        let text = "//! A.\nunsafe fn a() {}\n";
        assert_eq!(broken("hv/src/x86/a.rs", text), 0);
        assert_eq!(broken("hv/src/mem/a.rs", text), 1);
        assert_eq!(broken("dom0/src/a.rs", "//! No unsafe here.\nlet a = \"unsafe\";\n"), 0);
    }

    #[test]
    fn arrows_run_one_way() {
        assert_eq!(broken("hv/src/hypercall/mmu.rs", "//! A.\nuse crate::mem::edit;\n"), 0);
        assert_eq!(broken("hv/src/mem/edit.rs", "//! A.\nuse crate::hypercall::args;\n"), 1);
        assert_eq!(broken("hv/src/layout.rs", "//! A.\nuse crate::{addr::Mfn};\nuse crate::mem::Frame;\n"), 1);
        assert_eq!(broken("hv/src/trap/mod.rs", "//! A.\nuse crate::x86::msr;\n"), 1);
        let list = "//! A.\nuse crate::{\n    addr::{Mfn, hypercall},\n    trap, hypercall::args,\n};\nfn trap() {}\n";
        assert_eq!(broken("hv/src/mem/edit.rs", list), 2);
        assert_eq!(broken("hv/src/trap/edit.rs", list), 0);
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(broken("ring/src/a.rs", concat!("//! A.\n// TO", "DO: later\n")), 1);
    }
}
