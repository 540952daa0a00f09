//! The hypercall reference: what the crate `abi` documents, and what `docs/hypercalls.md` says Oxen does of it.

mod read;
mod write;

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

pub use read::Interface;

/// Where the page says what Oxen does.
const STATE: &str = "docs/hypercalls.md";

/// The page, as Markdown.
///
/// # Errors
/// Fails where a source cannot be read.
pub fn page(workspace: &Workspace) -> Result<String> {
    let interface = read::read(&workspace.root.join("abi/src"))?;
    let state = workspace.root.join(STATE);
    let state = std::fs::read_to_string(&state).with_context(|| format!("cannot read {}", state.display()))?;
    Ok(write::page(&interface, &states(&state)))
}

/// What the documentation of the crate `abi` leaves unsaid: a hypercall without its errors, a command without a word of
/// its own, an error that does not exist.
///
/// # Errors
/// Fails where a source cannot be read.
pub fn judge(workspace: &Workspace) -> Result<Vec<String>> {
    Ok(gaps(&read::read(&workspace.root.join("abi/src"))?))
}

fn gaps(interface: &Interface) -> Vec<String> {
    let mut found = Vec::new();
    let known: BTreeSet<&str> = interface.errors.iter().map(|error| error.name.as_str()).collect();
    let mut judge = |what: &str, docs: &str| {
        for word in docs.split('`').skip(1).step_by(2).map(|word| word.trim_start_matches('-')) {
            let is_error = word.len() > 2 && word.starts_with('E') && word.chars().all(|c| c.is_ascii_uppercase());
            if is_error && !known.contains(word) {
                found.push(format!("abi: the docs of {what} name an error `{word}` that does not exist"));
            }
        }
    };
    for call in &interface.hypercalls {
        judge(&call.name, &call.docs);
    }
    for command in &interface.commands {
        judge(&command.name, &command.docs);
    }
    for call in interface.hypercalls.iter().filter(|call| !call.docs.contains("# Errors")) {
        found.push(format!("abi: the docs of hypercall {} have no section `# Errors`", call.name));
    }
    for command in interface.commands.iter().filter(|command| command.docs.trim().is_empty()) {
        found.push(format!("abi: the command {} of {} has no docs of its own", command.name, command.of));
    }
    for command in &interface.commands {
        if !interface.hypercalls.iter().any(|call| call.name == command.of) {
            found.push(format!("abi: {} is said to be of `{}`, which is no hypercall", command.name, command.of));
        }
    }
    found
}

/// The rows of the table of states: hypercall numbers, sub-operations, state.
fn states(text: &str) -> Vec<(Vec<u64>, String, String)> {
    let mut rows = Vec::new();
    let mut numbers: Vec<u64> = Vec::new();
    let table = text.lines().skip_while(|line| !line.starts_with("| nr |")).skip(2);
    for line in table.take_while(|line| line.starts_with('|')) {
        let inside = line.strip_prefix('|').and_then(|line| line.trim_end().strip_suffix('|')).unwrap_or(line);
        let cells: Vec<&str> = inside.split('|').map(str::trim).collect();
        let [number, _, commands, state] = cells.as_slice() else { continue };
        if !number.is_empty() {
            numbers = number.split(", ").filter_map(|number| number.parse().ok()).collect();
        }
        rows.push((numbers.clone(), (*commands).to_owned(), (*state).to_owned()));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::{Interface, gaps, states, write};

    const SOURCE: &str = "hypercalls! {\n/// Poke.\n///\n/// # Errors\n\
        /// `EPERM` for others. See [`Poke`](crate::a::Poke).\nPoke = 3, \"poke\";\n/// Old.\nOld = 4, \"old\";\n}\n\
        errno! {\n/// Not permitted.\nPerm = 1, \"EPERM\";\n}\n\
        abi_consts! {\n/// A command of `poke`.\nu32:\n/// Softly: [`Poke`]. `EWHAT` where not.\n\
        POKE_SOFT = 0,\nPOKE_HARD = 1,\n}\n\
        abi_consts! {\n/// A flag.\nu32:\nPOKE_FLAG = 1 << 2,\n}\n\
        abi_struct! {\n/// Where to.\npub struct Poke [8] {\n/// The address.\npub at: u64,\n\
        /// Padding.\npub _pad: [u8; 4],\n}\n}\n";

    fn interface() -> Interface {
        let mut interface = Interface::default();
        interface.take(SOURCE).unwrap();
        interface
    }

    #[test]
    fn what_the_docs_leave_unsaid_is_told() {
        assert_eq!(
            gaps(&interface()),
            [
                "abi: the docs of POKE_SOFT name an error `EWHAT` that does not exist",
                "abi: the docs of hypercall old have no section `# Errors`",
                "abi: the command POKE_HARD of poke has no docs of its own",
            ]
        );
    }

    #[test]
    fn the_page_has_numbers_commands_structures_and_states() {
        let state = "x\n| nr | hypercall | sub-operation | state |\n|---|---|---|---|\n\
            | 3 | poke | soft | done |\n| | | hard | refused |\n\n| 3 |\n";
        let page = write::page(&interface(), &states(state));
        for expected in [
            "| 3 | [poke](#poke) | Poke. |",
            "## poke\n",
            "**Errors**",
            "`EPERM` for others. See [`Poke`](#poke-structure).",
            "| 0 | `POKE_SOFT` | Softly: [`Poke`](#poke-structure).",
            "### Poke, structure\n",
            "| `at` | `u64` | The address. |",
            "| hard | refused |",
            "| 1 | `EPERM` | Not permitted. |",
        ] {
            assert!(page.contains(expected), "{expected}\n---\n{page}");
        }
        assert!(!page.contains("_pad") && !page.contains("POKE_FLAG"));
    }
}
