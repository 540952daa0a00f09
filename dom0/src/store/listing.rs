//! The tree as `xenstore-ls` prints it.

use alloc::{format, string::String, vec::Vec};

use super::{path::Path, tree::Tree, wire::Error};

/// How nodes are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whole paths instead of indentation.
    pub full: bool,
    /// With permissions.
    pub permissions: bool,
}

/// Shows all nodes below `top`, each on a line, children under their parents in the order of their names. The lines are
/// given out one by one: together they may be more than dom0 has memory for.
///
/// # Errors
/// `ENOENT` where `top` is not there.
pub fn list(tree: &Tree, top: &Path, style: Style, mut show: impl FnMut(&str)) -> Result<(), Error> {
    let below = |path: &Path, depth: usize| {
        let names = tree.get(path).map(|node| node.children.iter().rev().map(|n| (path.child(n), depth)));
        names.into_iter().flatten().collect::<Vec<_>>()
    };
    tree.get(top).ok_or(Error::NotFound)?;
    let mut waiting = below(top, 0);
    while let Some((path, depth)) = waiting.pop() {
        let Some(node) = tree.get(&path) else { continue };
        let value = String::from_utf8_lossy(&node.value);
        let mut out = String::new();
        let value = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
        if style.full {
            out.push_str(&format!("{path} = \"{value}\""));
        } else {
            let name = path.name();
            out.push_str(&format!("{:depth$}{name} = \"{value}\"", ""));
        }
        if style.permissions {
            let entries = String::from_utf8_lossy(&node.permissions.encode()).trim_end_matches('\0').replace('\0', ",");
            out.push_str(&format!("   ({entries})"));
        }
        out.push('\n');
        show(&out);
        waiting.extend(below(&path, depth + 1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, quota::Limits};

    #[test]
    fn children_stand_under_their_parents() {
        let mut store = Store::new(Limits::default(), crate::purse::Purses::new());
        for (name, value) in [("/a/c", "1"), ("/a-b", "2"), ("/a", "0\n")] {
            store.write(0, 0, &Path::resolve(name, 0).unwrap(), value.as_bytes()).unwrap();
        }
        let list = |top: &str, style| {
            let mut all = String::new();
            super::list(store.tree(), &Path::resolve(top, 0)?, style, |line| all.push_str(line)).map(|()| all)
        };
        assert_eq!(list("/", Style::default()).unwrap(), "a = \"0?\"\n c = \"1\"\na-b = \"2\"\n");
        let full = Style { full: true, permissions: true };
        assert_eq!(list("/a", full).unwrap(), "/a/c = \"1\"   (n0)\n");
        assert_eq!(list("/x", full), Err(Error::NotFound));
    }
}
