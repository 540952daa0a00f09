//! Reading and changing nodes, the same inside and outside transactions.

use alloc::{rc::Rc, vec::Vec};

use super::{
    access::{Permissions, Requester, Right},
    path::Path,
    quota::Limits,
    tree::{Edits, Node, View},
    wire::Error,
};

/// A change that watches are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The node that changed.
    pub path: Path,
    /// Its permissions before, where it existed: those who could read it then may learn of the change.
    pub before: Option<Permissions>,
    /// Only watches of exactly this path: a node went together with the one above it.
    pub exact: bool,
}

/// Reads and changes the nodes of a view in one requester's name.
pub struct Editor<'a, V: ?Sized> {
    /// The nodes.
    pub view: &'a mut V,
    /// Who asks.
    pub who: Requester,
    /// What binds it.
    pub limits: Limits,
}

impl<V: View + ?Sized> Editor<'_, V> {
    /// The node at `path` if `wanted` is allowed. Where there is none, the nearest node above decides
    /// whether the requester may learn so.
    ///
    /// # Errors
    /// `EACCES` where it is not allowed, `ENOENT` where there is none and the requester may know.
    pub fn find(&mut self, path: &Path, wanted: Right) -> Result<Rc<Node>, Error> {
        match self.view.node(path)? {
            Some(node) if node.permissions.right_of(self.who).includes(wanted) => Ok(node),
            Some(_) => Err(Error::Access),
            None => {
                let (_, above, _) = self.nearest(path)?;
                let may_know = above.permissions.right_of(self.who).includes(wanted);
                Err(if may_know { Error::NotFound } else { Error::Access })
            }
        }
    }

    /// The nearest existing node above `path`, and the missing names from `path` upwards.
    fn nearest(&mut self, path: &Path) -> Result<(Path, Rc<Node>, Vec<Path>), Error> {
        let mut missing = Vec::from([path.clone()]);
        let mut at = path.clone();
        while let Some((above, _)) = at.split() {
            if let Some(node) = self.view.node(&above)? {
                return Ok((above, node, missing));
            }
            missing.push(above.clone());
            at = above;
        }
        Err(Error::NotFound)
    }

    /// Sets a value, creating what is missing.
    ///
    /// # Errors
    /// `EACCES`, `EINVAL` for a special name, `ENOSPC` where a quota is used up.
    pub fn write(&mut self, path: &Path, value: &[u8]) -> Result<Change, Error> {
        if path.is_special() {
            return Err(Error::Invalid);
        }
        match self.find(path, Right::WRITE) {
            Ok(node) => {
                let mut changed = Node::clone(&node);
                changed.value = value.to_vec();
                self.check_size(&changed)?;
                self.put(path, changed)?;
                Ok(Change { path: path.clone(), before: Some(node.permissions.clone()), exact: false })
            }
            Err(Error::NotFound) => self.create(path, value),
            Err(error) => Err(error),
        }
    }

    /// Creates an empty node; `None` where it exists already.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn make(&mut self, path: &Path) -> Result<Option<Change>, Error> {
        if path.is_special() {
            return Err(Error::Invalid);
        }
        match self.find(path, Right::WRITE) {
            Ok(_) => Ok(None),
            Err(Error::NotFound) => self.create(path, &[]).map(Some),
            Err(error) => Err(error),
        }
    }

    /// Creates `path` and what is missing above it; the nearest node above was found writable.
    fn create(&mut self, path: &Path, value: &[u8]) -> Result<Change, Error> {
        let (above, ancestor, missing) = self.nearest(path)?;
        let mut permissions = ancestor.permissions.clone();
        if !self.who.is_privileged() {
            permissions.owner = self.who.domain;
        }
        if self.view.owned(permissions.owner).saturating_add(missing.len()) > self.limits.nodes {
            return Err(Error::NoSpace);
        }
        let mut edits: Edits = Vec::with_capacity(missing.len() + 1);
        let mut below: Option<&Path> = None;
        for path in &missing {
            let mut node = Node::new(permissions.clone());
            match below.and_then(Path::split) {
                Some((_, name)) => _ = node.children.insert(name.into()),
                None => node.value = value.to_vec(),
            }
            edits.push((path.clone(), Some(node)));
            below = Some(path);
        }
        let mut grown = Node::clone(&ancestor);
        if let Some((_, name)) = below.and_then(Path::split) {
            grown.children.insert(name.into());
        }
        edits.push((above, Some(grown)));
        edits.iter().filter_map(|(_, node)| node.as_ref()).try_for_each(|node| self.check_size(node))?;
        edits.reverse();
        self.view.apply(edits, self.who.is_privileged())?;
        Ok(Change { path: path.clone(), before: None, exact: false })
    }

    /// Removes a node and all below it. Removing what is not there succeeds where the node above is.
    ///
    /// # Errors
    /// `EACCES`, `EINVAL` for the root, `ENOENT` where the node above is not there.
    pub fn remove(&mut self, path: &Path) -> Result<Vec<Change>, Error> {
        let (above, name) = path.split().ok_or(Error::Invalid)?;
        let node = match self.find(path, Right::WRITE) {
            Ok(node) => node,
            Err(Error::NotFound) if self.view.node(&above)?.is_some() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut gone = Vec::from([(path.clone(), node)]);
        let mut next = 0;
        while let Some((path, node)) = gone.get(next).cloned() {
            for name in &node.children {
                let child = path.child(name);
                if let Some(node) = self.view.node(&child)? {
                    gone.push((child, node));
                }
            }
            next += 1;
        }
        let parent = self.view.node(&above)?.ok_or(Error::NotFound)?;
        let mut shrunk = Node::clone(&parent);
        shrunk.children.remove(name);
        let removed = gone.iter().map(|(path, _)| (path.clone(), None));
        let edits = core::iter::once((above, Some(shrunk))).chain(removed).collect();
        self.view.apply(edits, self.who.is_privileged())?;
        let changes = gone.into_iter().enumerate().map(|(i, (path, node))| Change {
            path,
            before: Some(node.permissions.clone()),
            exact: i != 0,
        });
        Ok(changes.collect())
    }

    /// Replaces a node's permissions; only owners may, and only dom0 may give a node away.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES` for all but owners, `EPERM` for giving the node away, `ENOSPC` for too many entries.
    pub fn set_permissions(&mut self, path: &Path, permissions: Permissions) -> Result<Change, Error> {
        if permissions.entries() > self.limits.permissions {
            return Err(Error::NoSpace);
        }
        let node = self.find(path, Right::WRITE)?;
        if !node.permissions.is_owned_by(self.who) {
            return Err(Error::Access);
        }
        if permissions.owner != node.permissions.owner && !self.who.is_privileged() {
            return Err(Error::NotPermitted);
        }
        let mut changed = Node::clone(&node);
        changed.permissions = permissions;
        self.check_size(&changed)?;
        self.put(path, changed)?;
        Ok(Change { path: path.clone(), before: Some(node.permissions.clone()), exact: false })
    }

    fn put(&mut self, path: &Path, node: Node) -> Result<(), Error> {
        self.view.apply(Vec::from([(path.clone(), Some(node))]), self.who.is_privileged())
    }

    fn check_size(&self, node: &Node) -> Result<(), Error> {
        if node.size() > self.limits.node_size { Err(Error::NoSpace) } else { Ok(()) }
    }
}
