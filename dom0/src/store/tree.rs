//! The nodes, in one flat ordered map: no walk recurses, however deep the names go.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    vec::Vec,
};

use super::{
    DomId,
    access::Permissions,
    path::{INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN},
    wire::Error,
};

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Any bytes.
    pub value: Vec<u8>,
    /// Who may do what.
    pub permissions: Permissions,
    /// Last parts of the names directly below.
    pub children: BTreeSet<Box<str>>,
    /// Changes with every change of this node; what transactions compare.
    pub generation: u64,
}

impl Node {
    /// An empty node.
    pub fn new(permissions: Permissions) -> Self {
        Self { value: Vec::new(), permissions, children: BTreeSet::new(), generation: 0 }
    }

    /// Bytes that count against the owner's node size.
    pub fn size(&self) -> usize {
        let names: usize = self.children.iter().map(|c| c.len() + 1).sum();
        self.value.len() + names + 8 * self.permissions.entries()
    }
}

/// What operations need of the nodes: the tree itself gives it, and so does a transaction.
pub trait View {
    /// The node at `path`. Fails only where a transaction touches too many nodes.
    fn node(&mut self, path: &Path) -> Result<Option<Rc<Node>>, Error>;
    /// Stores a node; its parent is the caller's concern.
    fn put(&mut self, path: &Path, node: Node) -> Result<(), Error>;
    /// Removes a node; its parent and children are the caller's concern.
    fn remove(&mut self, path: &Path) -> Result<(), Error>;
    /// Nodes that `domain` owns.
    fn owned(&self, domain: DomId) -> usize;
}

/// All nodes as everybody outside transactions sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<Path, Rc<Node>>,
    owned: BTreeMap<DomId, usize>,
    generation: u64,
}

impl Tree {
    /// The root and the special names, all dom0's alone.
    pub fn new() -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), owned: BTreeMap::new(), generation: 0 };
        for path in [Path::root(), Path::special(INTRODUCE_DOMAIN), Path::special(RELEASE_DOMAIN)] {
            tree.store(&path, Node::new(Permissions::private(0)));
        }
        tree
    }

    /// The node at `path`.
    pub fn get(&self, path: &Path) -> Option<&Rc<Node>> {
        self.nodes.get(path)
    }

    /// The generation of the node at `path`.
    pub fn generation_of(&self, path: &Path) -> Option<u64> {
        self.nodes.get(path).map(|node| node.generation)
    }

    /// Stores a node under a fresh generation and keeps the owners' sums.
    pub fn store(&mut self, path: &Path, mut node: Node) {
        self.generation += 1;
        node.generation = self.generation;
        *self.owned.entry(node.permissions.owner).or_default() += 1;
        if let Some(old) = self.nodes.insert(path.clone(), Rc::new(node)) {
            self.disown(old.permissions.owner);
        }
    }

    /// Removes a node and keeps the owners' sums.
    pub fn delete(&mut self, path: &Path) {
        if let Some(old) = self.nodes.remove(path) {
            self.disown(old.permissions.owner);
        }
    }

    fn disown(&mut self, owner: DomId) {
        if let Some(count) = self.owned.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.owned.remove(&owner);
            }
        }
    }

    /// Takes every right of a domain that has ended, wherever it stands.
    pub fn forget_domain(&mut self, domain: DomId) {
        let concerned: Vec<Path> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.permissions.owner == domain || n.permissions.list.iter().any(|&(d, _)| d == domain))
            .map(|(path, _)| path.clone())
            .collect();
        for path in concerned {
            if let Some(node) = self.nodes.get(&path) {
                let mut node = Node::clone(node);
                node.permissions.forget(domain);
                self.store(&path, node);
            }
        }
    }

    /// Every node in the order of its name.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(path, node)| (path, &**node))
    }

    /// What is inconsistent, if anything: children without nodes, nodes without parents, wrong sums.
    pub fn audit(&self) -> Result<(), Path> {
        let mut owned: BTreeMap<DomId, usize> = BTreeMap::new();
        for (path, node) in &self.nodes {
            *owned.entry(node.permissions.owner).or_default() += 1;
            let listed = path.split().is_none_or(|(above, name)| {
                self.nodes.get(&above).is_some_and(|parent| parent.children.contains(name))
            });
            let whole = node.children.iter().all(|name| self.nodes.contains_key(&path.child(name)));
            if !listed || !whole {
                return Err(path.clone());
            }
        }
        if owned == self.owned { Ok(()) } else { Err(Path::root()) }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl View for Tree {
    fn node(&mut self, path: &Path) -> Result<Option<Rc<Node>>, Error> {
        Ok(self.nodes.get(path).cloned())
    }

    fn put(&mut self, path: &Path, node: Node) -> Result<(), Error> {
        self.store(path, node);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<(), Error> {
        self.delete(path);
        Ok(())
    }

    fn owned(&self, domain: DomId) -> usize {
        self.owned.get(&domain).copied().unwrap_or(0)
    }
}
