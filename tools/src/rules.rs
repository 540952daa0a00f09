//! The house rules that no compiler checks: what each file opens with, where `unsafe` may stand, which way arrows run.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::arrows::{self, Crate, Reference};
use crate::layers::CRATES;
use crate::source::{self, Line, has_word};
use crate::workspace::Workspace;

/// A file longer than this is reported; it breaks no rule.
pub const LONG_FILE: usize = 400;

/// Columns of a line at most, comments and text included.
const MAX_COLUMNS: usize = 120;

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

/// Files whose types only their own functions make, so that having one proves what was asked: no field is public.
const SEALED: [&str; 5] =
    ["hv/src/addr/mod.rs", "hv/src/addr/guest.rs", "hv/src/addr/machine.rs", "hv/src/mem/ram.rs", "hv/src/mem/held.rs"];

/// What may be public and is no field.
const ITEMS: [&str; 8] = ["const", "enum", "fn", "mod", "struct", "trait", "type", "use"];

/// Words that mark unfinished work. (Written in pieces, so that this file passes.)
const UNFINISHED: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!"), concat!("unimplemented", "!")];

/// Paths that exist on one machine only.
const PRIVATE_PATHS: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("../sh", "ared")];

/// How names do not begin, and how they do.
const NAMES: [(&str, &str); 2] = [("MOST_", "MAX_"), ("LEAST_", "MIN_")];

/// What code and comments do not say, and what they do (`docs/glossary.md`). (Written in
/// pieces, so that this file passes.)
const PHRASES: [(&str, &str); 9] = [
    (concat!("S", "ays whether"), "Returns whether"),
    (concat!("; s", "ays whether"), "returns whether"),
    (concat!("nswers ", "how many"), "Returns how many"),
    (concat!("nswers ", "whether"), "Returns whether"),
    (concat!("To be ", "called"), "Call it"),
    (concat!("vendor", "_s("), "vendor_specific"),
    (concat!("bu", "ried"), "freed, or reaped"),
    (concat!("whose", "soever"), "whichever"),
    (concat!("whom", "ever"), "whoever"),
];

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
    let mut modules: BTreeMap<&str, BTreeMap<_, _>> = BTreeMap::new();
    for file in source::files(&workspace.root, &[".rs"])? {
        let name = file.strip_prefix(&workspace.root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        let text = read(&file)?;
        source_file(&name, &text, &mut findings);
        if let Some((owner, module)) = owner(&name) {
            let references = arrows::references(&module, &source::lines(&text));
            modules.entry(owner.sources).or_default().insert(module, references);
        }
    }
    for owner in &CRATES {
        circles(owner, modules.get(owner.sources).unwrap_or(&BTreeMap::new()), &mut findings);
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
        for what in words(line) {
            broken(number, &what);
        }
        if let Some(what) = names_the_machine(name, line) {
            broken(number, what);
        }
        if SEALED.contains(&name) && has_public_field(&line.code) {
            broken(number, "a public field: whoever likes could make or change one of these");
        }
    }
    let long = (1..).zip(text.lines()).filter(|(_, line)| line.chars().count() > MAX_COLUMNS);
    long.for_each(|(number, _)| broken(number, "has more than 120 columns"));
    if let Some((owner, module)) = owner(name) {
        for (number, what) in owner.against_the_layers(&module, &arrows::references(&module, &lines)) {
            broken(number, &what);
        }
    }
    if lines.len() > LONG_FILE {
        findings.notes.push(format!("{name}: {} lines, {LONG_FILE} are usual", lines.len()));
    }
}

/// The path of a file of `hv`'s lib within it.
fn path_in_lib(name: &str) -> Option<&str> {
    name.strip_prefix("hv/src/").filter(|path| *path != "main.rs" && !path.starts_with("x86/"))
}

/// Words of a line for which the field has others.
fn words(line: &Line) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let names = || line.code.split(|c| !is_part(c));
    let wrong = NAMES.iter().filter(|(start, _)| names().any(|name| name.starts_with(start)));
    let mut found: Vec<_> = wrong.map(|(start, good)| format!("`{start}…` is `{good}…` here")).collect();
    let phrases = PHRASES.iter().filter(|(bad, _)| line.comment.contains(bad) || line.code.contains(bad));
    found.extend(phrases.map(|(bad, good)| format!("`{bad}`: the word is `{good}`")));
    found
}

/// Whether a line declares a field, by name or by place, that others than its own module may write.
fn has_public_field(code: &str) -> bool {
    let code = code.replace("pub(crate)", "pub").replace("pub(super)", "pub");
    let mut parts = code.split(['(', '{', ',']).filter_map(|part| part.trim_start().strip_prefix("pub "));
    parts.any(|rest| !ITEMS.iter().any(|item| has_word(rest.split(['(', '<']).next().unwrap_or(rest), item)))
}

fn names_the_machine(name: &str, line: &Line) -> Option<&'static str> {
    path_in_lib(name)?;
    if line.code.contains("crate::x86") {
        return Some("the lib cannot name the machine (`crate::x86`)");
    }
    let (_, path) = line.code.split_once("use x86_64::")?;
    let mut names = path.split([':', '{', '}', ',', ';', ' ']).filter(|name| name.starts_with(char::is_uppercase));
    let is_flags = |name: &str| name.ends_with("Flags") || name.ends_with("ErrorCode");
    (!names.all(is_flags)).then_some("of the crate `x86_64` the lib uses flags only: all else is the machine's")
}

/// The crate that a file belongs to, where its arrows are judged, and the module that it is there.
fn owner(name: &str) -> Option<(&'static Crate, Vec<String>)> {
    CRATES.iter().find_map(|owner| Some((owner, owner.module(name)?)))
}

fn circles(owner: &Crate, modules: &BTreeMap<Vec<String>, Vec<Reference>>, findings: &mut Findings) {
    for circle in owner.circles(modules) {
        findings.broken.push(format!("{}: a circle of files: {}", owner.sources, circle.join(", ")));
    }
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
        assert_eq!(broken("hv/src/x86/cpu.rs", text), 0);
        assert_eq!(broken("hv/src/mem/a.rs", text), 1);
        assert_eq!(broken("dom0/src/store/a.rs", "//! No unsafe here.\nlet a = \"unsafe\";\n"), 0);
    }

    #[test]
    fn arrows_run_one_way() {
        assert_eq!(broken("hv/src/hypercall/mmu.rs", "//! A.\nuse crate::mem::edit;\n"), 0);
        assert_eq!(broken("hv/src/mem/edit.rs", "//! A.\nuse crate::domain::Domain;\n"), 1);
        assert_eq!(broken("hv/src/mem/edit.rs", "//! A.\nuse crate::Hypervisor;\n"), 1);
        assert_eq!(broken("hv/src/event/mod.rs", "//! A.\nuse crate::sched::clock;\n"), 1);
        assert_eq!(broken("hv/src/cpu/mod.rs", "//! A.\nuse crate::{Hypervisor, domain::Domain};\n"), 0);
        assert_eq!(broken("hv/src/lost.rs", "//! A.\n"), 1);
        assert_eq!(broken("hv/src/mem/edit.rs", "//! A.\nuse crate::hypercall::args;\n"), 1);
        assert_eq!(broken("hv/src/layout.rs", "//! A.\nuse crate::{addr::Mfn};\nuse crate::mem::Frame;\n"), 2);
        assert_eq!(broken("hv/src/trap/mod.rs", "//! A.\nuse crate::x86::msr;\n"), 2);
        assert_eq!(broken("hv/src/trap/mod.rs", "//! A.\nuse x86_64::registers::rflags::RFlags;\n"), 0);
        assert_eq!(broken("hv/src/trap/mod.rs", "//! A.\nuse x86_64::registers::control::{Cr0Flags, Cr3};\n"), 1);
        let list = "//! A.\nuse crate::{\n    addr::{Mfn, hypercall},\n    trap, hypercall::args,\n};\nfn trap() {}\n";
        assert_eq!(broken("hv/src/mem/edit.rs", list), 2);
        assert_eq!(broken("hv/src/trap/edit.rs", list), 1, "two rooms of one layer do not know each other");
    }

    #[test]
    fn the_machine_has_layers_too() {
        assert_eq!(broken("hv/src/x86/cpu.rs", "//! A.\nuse super::{msr, percpu};\n"), 0);
        assert_eq!(broken("hv/src/x86/cpu.rs", "//! A.\nuse super::machine::Pc;\n"), 1);
        assert_eq!(broken("hv/src/x86/memory/heap.rs", "//! A.\nuse crate::x86::running::HYPERVISOR;\n"), 1);
        assert_eq!(
            broken("hv/src/x86/entry/boot.rs", "//! A.\nfn a() { crate::start(super::super::smp::start) }\n"),
            0
        );
        assert_eq!(broken("hv/src/x86/lost.rs", "//! A.\n"), 1);
    }

    #[test]
    fn every_room_is_on_a_layer_and_knows_those_below() {
        assert_eq!(broken("dom0/src/backend/a.rs", "//! A.\nuse crate::{device::Medium, store::server};\n"), 0);
        assert_eq!(broken("dom0/src/backend/a.rs", "//! A.\nuse crate::toolstack::guest::Guest;\n"), 1);
        assert_eq!(broken("dom0/src/store/a.rs", "//! A.\nuse crate::{backend, bridge};\n"), 2);
        assert_eq!(broken("dom0/src/lost.rs", "//! A.\n"), 1);
        assert_eq!(broken("domu-lib/src/raw/memory/a.rs", "//! A.\nuse crate::event::Port;\n"), 1);
        assert_eq!(broken("domu-lib/src/raw/boot/a.rs", "//! A.\nuse crate::event::Port;\n"), 0);
        assert_eq!(broken("domu-lib/src/time.rs", "//! A.\nfn a() { crate::println!(); }\n"), 1);
    }

    #[test]
    fn long_lines_are_found_in_comments_too() {
        let text = format!("//! A.\n// {}\n", "x".repeat(118));
        assert_eq!((broken("dom0/src/store/a.rs", &text), broken("ring/src/a.rs", &text)), (1, 1));
        assert_eq!(broken("ring/src/a.rs", &format!("//! A.\n// {}\n", "x".repeat(117))), 0);
    }

    #[test]
    fn the_field_s_words_are_used() {
        assert_eq!(broken("dom0/src/store/a.rs", "//! A.\nconst MOST_PAGES: u32 = 1;\n"), 1);
        assert_eq!(broken("dom0/src/store/a.rs", "//! A.\nconst MAX_ALMOST_FULL: u32 = 1; // at MOST_\n"), 0);
        let says = concat!("//! A.\n/// S", "ays ", "whether it is.\nfn a() {}\n");
        assert_eq!((broken("ring/src/a.rs", says), broken("dom0/src/store/a.rs", says)), (1, 1));
        assert_eq!(broken("dom0/src/store/a.rs", concat!("//! A.\nfn is_bu", "ried() {}\n")), 1);
        assert_eq!(broken("dom0/src/store/a.rs", "//! A.\n/// A bit says whether it is.\nfn a() {}\n"), 0);
    }

    #[test]
    fn an_address_has_no_public_field() {
        let judged = |text: &str| broken("hv/src/addr/mod.rs", &format!("//! A.\n{text}\n"));
        assert_eq!(judged("pub struct GuestAddr(u64);\npub const fn new(raw: u64) -> Self {"), 0);
        assert_eq!(judged("pub struct GuestAddr(pub u64);"), 1);
        assert_eq!(judged("pub struct GuestAddr(pub(crate) u64);"), 1);
        assert_eq!(judged("struct Range { pub start: u64, bytes: u64 }"), 1);
        assert_eq!(judged("struct Range {\n    pub start: u64,\n    bytes: u64,\n}"), 1);
        assert_eq!(broken("hv/src/mem/entry.rs", "//! A.\npub struct Entry(pub u64);\n"), 0);
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(broken("ring/src/a.rs", concat!("//! A.\n// TO", "DO: later\n")), 1);
    }
}
