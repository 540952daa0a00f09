//! The tree as `xenstore-ls` prints it.

use alloc::{format, string::String, vec::Vec};

use super::{path::Path, tree::Tree, wire::Error};
use crate::guest_text::escaped;

/// How nodes are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whole paths instead of indentation.
    pub full: bool,
    /// With permissions.
    pub permissions: bool,
}

/// A tree's nodes as lines, children under their parents in the order of their names. The tree may change between
/// them: nodes that are gone by then are left out.
#[derive(Debug)]
pub struct Listing {
    style: Style,
    /// Nodes to come, the next one last, and how deep they lie.
    waiting: Vec<(Path, usize)>,
}

impl Listing {
    /// All nodes below `top`.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none.
    pub fn new(tree: &Tree, top: &Path, style: Style) -> Result<Self, Error> {
        tree.get(top).ok_or(Error::NotFound)?;
        let mut listing = Self { style, waiting: Vec::new() };
        listing.descend(tree, top, 0);
        Ok(listing)
    }

    fn descend(&mut self, tree: &Tree, path: &Path, depth: usize) {
        let names = tree.get(path).into_iter().flat_map(|node| node.children.iter().rev());
        self.waiting.extend(names.map(|name| (path.child(name), depth)));
    }

    /// The next node's line, its value escaped.
    pub fn next(&mut self, tree: &Tree) -> Option<String> {
        loop {
            let (path, depth) = self.waiting.pop()?;
            let Some(node) = tree.get(&path) else { continue };
            let value = escaped(&node.value);
            let mut line = if self.style.full {
                format!("{path} = \"{value}\"")
            } else {
                let name = path.name();
                format!("{:depth$}{name} = \"{value}\"", "")
            };
            if self.style.permissions {
                let entries = node.permissions.encode();
                let entries = String::from_utf8_lossy(&entries).trim_end_matches('\0').replace('\0', ",");
                line.push_str(&format!("   ({entries})"));
            }
            self.descend(tree, &path, depth + 1);
            return Some(line);
        }
    }
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
            let tree = store.tree();
            let mut listing = Listing::new(tree, &Path::resolve(top, 0).unwrap(), style)?;
            Ok::<Vec<_>, Error>(core::iter::from_fn(|| listing.next(tree)).collect())
        };
        assert_eq!(list("/", Style::default()).unwrap(), ["a = \"0\\n\"", " c = \"1\"", "a-b = \"2\""]);
        let full = Style { full: true, permissions: true };
        assert_eq!(list("/a", full).unwrap(), ["/a/c = \"1\"   (n0)"]);
        assert_eq!(list("/x", full), Err(Error::NotFound));
    }
}
