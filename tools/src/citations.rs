//! What docs name as proof exists: every test, and every type, that stands in the tables of `docs/security.md`.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::source;
use crate::workspace::Workspace;

/// The document whose words are looked up.
const DOCUMENT: &str = "docs/security.md";

/// Names that `docs/security.md` gives as proof and that no source file defines, as `file:line: what`.
///
/// # Errors
/// Fails when a file cannot be read.
pub fn judge(workspace: &Workspace) -> Result<Vec<String>> {
    let mut defined = BTreeSet::new();
    for file in source::files(&workspace.root, &[".rs"])? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        defined.extend(definitions(&text).map(str::to_owned));
    }
    let document = workspace.root.join(DOCUMENT);
    let text = std::fs::read_to_string(&document).with_context(|| format!("cannot read {}", document.display()))?;
    Ok(missing(&text, &defined))
}

/// Functions, types and traits that a file defines.
fn definitions(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        let (_, rest) = ["fn ", "struct ", "enum ", "trait "].iter().find_map(|word| line.split_once(word))?;
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest.get(..end)
    })
}

/// The heads of the columns that name proofs.
const PROOFS: [&str; 2] = ["shown by", "by test"];

/// What stands in backquotes in a table's last column, where that is one of proofs, and is not defined.
fn missing(text: &str, defined: &BTreeSet<String>) -> Vec<String> {
    let mut missing = Vec::new();
    let mut is_of_proofs = false;
    for (number, line) in (1..).zip(text.lines()) {
        let Some(cell) = line.strip_suffix('|').and_then(|row| row.rsplit('|').next()) else {
            is_of_proofs = false;
            continue;
        };
        is_of_proofs |= PROOFS.contains(&cell.trim());
        if !is_of_proofs {
            continue;
        }
        for name in cell.split('`').skip(1).step_by(2) {
            let name = name.rsplit("::").next().unwrap_or(name);
            if !defined.contains(name) {
                missing.push(format!("{DOCUMENT}:{number}: `{name}` is defined nowhere"));
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::{definitions, missing};

    #[test]
    fn a_proof_that_is_gone_is_named_with_its_line() {
        let source = "#[test]\nfn one_holds() {\n}\npub struct Held<'a> {\n";
        let defined = definitions(source).map(str::to_owned).collect();
        let text = "| a | shown by |\n| why | `one_holds`, `zerocopy::Held` |\n\
            | `so` | `another_holds` |\n\n| b |\n| `free` |\n";
        assert_eq!(missing(text, &defined), ["docs/security.md:3: `another_holds` is defined nowhere"]);
    }
}
