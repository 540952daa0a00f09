//! `cargo xtask book`: the pictures and the hypercall reference of `docs/book`, its links, files and commands judged,
//! and HTML by mdBook where that is here or can be fetched.

mod links;
mod markdown;
mod mdbook;
pub mod picture;
pub mod reference;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::process::step;
use crate::source;
use crate::workspace::Workspace;

pub use mdbook::title;

/// What `cargo xtask book` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Write nothing: only judge pictures, links, files and commands
    #[arg(long)]
    check: bool,
    /// Write pictures and reference, and make no HTML
    #[arg(long, conflicts_with = "check")]
    no_html: bool,
}

/// The book's folder; its pages stand in `src`.
const BOOK: &str = "docs/book";
/// The page that is generated and not kept.
const REFERENCE: &str = "reference.md";

/// Makes the book, or judges it; `xtask` is the command that its pages tell of.
///
/// # Errors
/// Fails where a picture cannot be drawn, something named does not exist, or mdBook fails.
pub fn run(workspace: &Workspace, xtask: &clap::Command, args: &Args) -> Result<()> {
    if !args.check {
        for (file, svg) in pictures(workspace)? {
            write_changed(&file, &svg)?;
        }
        write_changed(&pages(workspace).join(REFERENCE), &reference::page(workspace)?)?;
    }
    let findings = judge(workspace, xtask)?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings in the book", findings.len());
    }
    if args.check || args.no_html {
        return Ok(());
    }
    let out = workspace.out.join("book");
    if mdbook::build(workspace, &workspace.root.join(BOOK), &out)? {
        step(&format!("the book is in {}", out.join("index.html").display()));
    }
    Ok(())
}

/// What is wrong with the book and the documentation around it: pictures that are not those of their descriptions,
/// links that lead nowhere, files and commands that do not exist, calls that are not documented.
///
/// # Errors
/// Fails where a file cannot be read.
pub fn judge(workspace: &Workspace, xtask: &clap::Command) -> Result<Vec<String>> {
    let mut findings = reference::judge(workspace)?;
    for (file, svg) in pictures(workspace)? {
        if std::fs::read_to_string(&file).ok().as_ref() != Some(&svg) {
            let name = file.strip_prefix(&workspace.root).unwrap_or(&file).display();
            findings.push(format!("{name}: not as its description: `cargo xtask book` draws it"));
        }
    }
    findings.extend(links::judge(workspace, xtask, &pages(workspace))?);
    Ok(findings)
}

fn pages(workspace: &Workspace) -> PathBuf {
    workspace.root.join(BOOK).join("src")
}

/// Every picture's file, and what belongs there.
fn pictures(workspace: &Workspace) -> Result<Vec<(PathBuf, String)>> {
    let folder = workspace.root.join(BOOK).join("pictures");
    let drawn = source::files(&folder, &[".pic"])?.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let picture = picture::parse(&text).with_context(|| format!("cannot draw {}", path.display()))?;
        let name = path.file_stem().context("a picture without a name")?;
        Ok((pages(workspace).join("pictures").join(name).with_extension("svg"), picture.svg()))
    });
    drawn.collect()
}

/// Writes a file where it does not hold that text: what is built of it stays fresh.
fn write_changed(file: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    build::write(file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use crate::workspace::Workspace;

    #[test]
    fn everything_that_the_book_names_exists() {
        let findings =
            super::judge(&Workspace::open().unwrap(), &<crate::cli::Cli as clap::CommandFactory>::command()).unwrap();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }
}
