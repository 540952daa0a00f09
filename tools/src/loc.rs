//! `cargo xtask loc`: the size of each crate, its unsafe lines, its largest files.

use std::path::Path;

use anyhow::Result;

use crate::source::{self, Kind};
use crate::workspace::Workspace;

/// The lines of some source files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Files.
    pub files: usize,
    /// Lines of code outside tests.
    pub code: usize,
    /// Lines of nothing but comment.
    pub comment: usize,
    /// Empty lines.
    pub blank: usize,
    /// Lines of code in tests.
    pub test: usize,
    /// Lines of code outside tests in unsafe blocks, signatures of unsafe items, and assembly.
    pub unsafe_: usize,
}

impl Count {
    /// Counts one file; a file that is all test counts its code as test.
    #[must_use]
    pub fn of(text: &str, is_test_file: bool) -> Self {
        let mut count = Self { files: 1, ..Self::default() };
        for line in source::lines(text) {
            match line.kind {
                Kind::Blank => count.blank += 1,
                Kind::Comment => count.comment += 1,
                Kind::Code if line.is_test || is_test_file => count.test += 1,
                Kind::Code => {
                    count.code += 1;
                    count.unsafe_ += usize::from(line.is_unsafe);
                }
            }
        }
        count
    }

    /// Counts a file of assembly: all of it is unsafe.
    #[must_use]
    pub fn of_assembly(text: &str) -> Self {
        let mut count = Self { files: 1, ..Self::default() };
        for line in text.lines().map(str::trim) {
            match line {
                "" => count.blank += 1,
                line if line.starts_with(['#', '/', '*']) => count.comment += 1,
                _ => count.code += 1,
            }
        }
        count.unsafe_ = count.code;
        count
    }

    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.code += other.code;
        self.comment += other.comment;
        self.blank += other.blank;
        self.test += other.test;
        self.unsafe_ += other.unsafe_;
    }
}

/// Prints the table.
///
/// # Errors
/// Fails when a source file cannot be read.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut largest = Vec::new();
    let mut total = Count::default();
    println!(
        "{:<13} {:>5} {:>7} {:>8} {:>6} {:>6} {:>7} {:>6}  unsafe code",
        "crate", "files", "code", "comment", "blank", "test", "unsafe", "%"
    );
    for name in workspace.crates() {
        let folder = workspace.root.join(name);
        let (mut count, mut machine) = (Count::default(), Count::default());
        for file in source::files(&folder, &[".rs", ".S", ".s"])? {
            let text = std::fs::read_to_string(&file)?;
            let path = file.strip_prefix(&folder).unwrap_or(&file);
            let is_rust = path.extension().is_some_and(|ending| ending == "rs");
            let of_file = if is_rust { Count::of(&text, is_test_file(path)) } else { Count::of_assembly(&text) };
            largest.push((text.lines().count(), file.strip_prefix(&workspace.root).unwrap_or(&file).to_path_buf()));
            let is_machine = path.starts_with("src/x86") || path.starts_with("src/raw");
            if is_machine { machine.add(of_file) } else { count.add(of_file) }
        }
        print(name, count, forbids_unsafe(&folder));
        if machine.files > 0 {
            print("  its machine", machine, "allowed");
        }
        total.add(count);
        total.add(machine);
    }
    print("all", total, "");
    largest.sort_by(|a, b| b.cmp(a));
    println!("\nlargest files (all lines):");
    for (lines, file) in largest.iter().take(10) {
        println!("{lines:>6}  {}", file.display());
    }
    if let Ok(image) = std::fs::metadata(workspace.out.join("hv")) {
        println!("\nhv's image: {} KiB", image.len().div_ceil(1024));
    }
    Ok(())
}

fn print(name: &str, count: Count, forbids: &str) {
    let share = 100.0 * count.unsafe_ as f64 / count.code.max(1) as f64;
    println!(
        "{name:<13} {:>5} {:>7} {:>8} {:>6} {:>6} {:>7} {share:>6.2}  {forbids}",
        count.files, count.code, count.comment, count.blank, count.test, count.unsafe_
    );
}

/// A file under `tests/`, or one that a `#[cfg(test)]` item of its parent names.
fn is_test_file(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str() == "tests") || path.file_name().is_some_and(|name| name == "tests.rs")
}

fn forbids_unsafe(folder: &Path) -> &'static str {
    let root = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap_or_default();
    if root.contains("#![forbid(unsafe_code)]") { "forbidden in the lib" } else { "forbidden outside its machine" }
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn assembly_is_unsafe_all_of_it() {
        let expected = Count { files: 1, code: 2, comment: 1, blank: 1, test: 0, unsafe_: 2 };
        assert_eq!(Count::of_assembly("# entry\n\nstart:\n    ret\n"), expected);
    }

    #[test]
    fn lines_are_counted_by_what_they_hold() {
        let text = "//! x\n\nfn a() {\n    unsafe { b() };\n}\n#[cfg(test)]\nmod tests {\n}\n";
        let expected = Count { files: 1, code: 3, comment: 1, blank: 1, test: 3, unsafe_: 1 };
        assert_eq!(Count::of(text, false), expected);
        assert_eq!(Count::of(text, true).test, 6);
    }
}
