//! The nodes, in one flat ordered map: no walk recurses, however deep the names go. Each is charged to its owner's
//! purse.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    vec::Vec,
};
use core::mem::size_of;

use super::{
    DomId,
    access::{Permissions, Right},
    cost,
    path::{INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN},
    wire::Error,
};
use crate::purse::{Charge, Purses};

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

/// A child's name in the list of the node above.
const fn name_cost(name: &str) -> usize {
    cost::block(name.len()) + cost::entry::<Box<str>, ()>()
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

    /// Bytes of heap that it takes at most, but for the names of children, for which these pay.
    fn own_cost(&self) -> usize {
        let children = if self.children.is_empty() { 0 } else { cost::map::<Box<str>, ()>() };
        let rights = cost::grown::<(DomId, Right)>(self.permissions.list.len());
        cost::shared(size_of::<Self>()) + cost::block(self.value.len()) + rights + children
    }

    /// Bytes of heap that a copy of it takes at most.
    pub(super) fn copy_cost(&self) -> usize {
        self.own_cost() + self.children.iter().map(|name| name_cost(name)).sum::<usize>()
    }

    /// Bytes of heap that it takes at most in the tree, under its name.
    fn tree_cost(&self, path: &Path) -> usize {
        cost::entry::<Path, Slot>() + path.cost() + name_cost(path.name()) + self.own_cost()
    }
}

/// Nodes that are to be stored, or removed where there is none, parents first.
pub type Edits = Vec<(Path, Option<Node>)>;

/// What operations need of the nodes: the tree itself gives it, and so does a transaction.
pub trait View {
    /// The node at `path`.
    ///
    /// # Errors
    /// `ENOSPC` where a transaction touches too many nodes, or its domain cannot pay for one more.
    fn node(&mut self, path: &Path) -> Result<Option<Rc<Node>>, Error>;
    /// Carries out all edits, each of a path of its own, or none. `privileged` ones succeed whatever the owner's purse
    /// holds: dom0 pays then.
    ///
    /// # Errors
    /// `ENOSPC` where somebody cannot pay.
    fn apply(&mut self, edits: Edits, privileged: bool) -> Result<(), Error>;
    /// Nodes that `domain` owns.
    fn owned(&self, domain: DomId) -> usize;
}

/// A node in its place, paid for.
#[derive(Debug)]
struct Slot {
    node: Rc<Node>,
    charge: Charge,
}

/// All nodes as everybody outside transactions sees them.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<Path, Slot>,
    owned: BTreeMap<DomId, usize>,
    generation: u64,
    purses: Purses,
}

impl Tree {
    /// The root and the special names, all dom0's alone.
    pub fn new(purses: Purses) -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), owned: BTreeMap::new(), generation: 0, purses };
        for path in [Path::root(), Path::special(INTRODUCE_DOMAIN), Path::special(RELEASE_DOMAIN)] {
            // dom0's purse has no bottom.
            let _ = tree.apply(Vec::from([(path, Some(Node::new(Permissions::private(0))))]), true);
        }
        tree
    }

    /// The node at `path`.
    pub fn get(&self, path: &Path) -> Option<&Rc<Node>> {
        self.nodes.get(path).map(|slot| &slot.node)
    }

    /// The generation of the node at `path`.
    pub fn generation_of(&self, path: &Path) -> Option<u64> {
        self.get(path).map(|node| node.generation)
    }

    /// Takes from each owner's purse what the edits need beyond what they let go of.
    fn charge(&self, edits: &Edits, privileged: bool) -> Result<BTreeMap<DomId, Charge>, Error> {
        let mut needs: BTreeMap<DomId, usize> = BTreeMap::new();
        for (path, node) in edits {
            if let Some(node) = node {
                *needs.entry(node.permissions.owner).or_default() += node.tree_cost(path);
            }
        }
        let mut charges = BTreeMap::new();
        for (owner, needed) in needs {
            let heap = &self.purses.of(owner).heap;
            let old = edits.iter().filter_map(|(path, _)| self.nodes.get(path));
            let own = old.filter(|slot| slot.node.permissions.owner == owner && slot.charge.is_of(heap));
            let freed: usize = own.map(|slot| slot.charge.amount()).sum();
            let charge = heap.charge(needed.saturating_sub(freed));
            let charge = match charge {
                Err(_) if privileged => self.purses.of(0).heap.charge(needed),
                charge => charge,
            };
            charges.insert(owner, charge.map_err(|_| Error::NoSpace)?);
        }
        Ok(charges)
    }

    /// Stores a node under a fresh generation and keeps the owners' sums.
    fn store(&mut self, path: Path, mut node: Node, charge: Charge) {
        self.generation += 1;
        node.generation = self.generation;
        *self.owned.entry(node.permissions.owner).or_default() += 1;
        self.nodes.insert(path, Slot { node: Rc::new(node), charge });
    }

    /// Takes a node out and keeps the owners' sums.
    fn take(&mut self, path: &Path) -> Option<Slot> {
        let slot = self.nodes.remove(path)?;
        let owner = slot.node.permissions.owner;
        if let Some(count) = self.owned.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.owned.remove(&owner);
            }
        }
        Some(slot)
    }

    /// Takes every right of a domain that has ended, wherever it stands. What it owns still is dom0's then.
    pub fn forget_domain(&mut self, domain: DomId) {
        let concerned: Vec<Path> = self
            .iter()
            .filter(|(_, n)| n.permissions.owner == domain || n.permissions.list.iter().any(|&(d, _)| d == domain))
            .map(|(path, _)| path.clone())
            .collect();
        for path in concerned {
            if let Some(node) = self.get(&path) {
                let mut node = Node::clone(node);
                node.permissions.forget(domain);
                // A privileged edit is not refused.
                let _ = self.apply(Vec::from([(path, Some(node))]), true);
            }
        }
    }

    /// Every node in the order of its name.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(path, slot)| (path, &*slot.node))
    }

    /// What is inconsistent, if anything: children without nodes, nodes without parents, wrong sums and charges.
    ///
    /// # Errors
    /// The node where it shows.
    pub fn audit(&self) -> Result<(), Path> {
        let mut owned: BTreeMap<DomId, usize> = BTreeMap::new();
        for (path, slot) in &self.nodes {
            let node = &slot.node;
            *owned.entry(node.permissions.owner).or_default() += 1;
            let listed = path.split().is_none_or(|(above, name)| {
                self.nodes.get(&above).is_some_and(|parent| parent.node.children.contains(name))
            });
            let whole = node.children.iter().all(|name| self.nodes.contains_key(&path.child(name)));
            if !listed || !whole || slot.charge.amount() != node.tree_cost(path) {
                return Err(path.clone());
            }
        }
        if owned == self.owned { Ok(()) } else { Err(Path::root()) }
    }
}

impl View for Tree {
    fn node(&mut self, path: &Path) -> Result<Option<Rc<Node>>, Error> {
        Ok(self.get(path).cloned())
    }

    fn apply(&mut self, edits: Edits, privileged: bool) -> Result<(), Error> {
        let mut charges = self.charge(&edits, privileged)?;
        for (path, _) in &edits {
            if let Some(old) = self.take(path)
                && let Some(charge) = charges.get_mut(&old.node.permissions.owner)
            {
                charge.absorb(old.charge);
            }
        }
        for (path, node) in edits {
            if let Some(node) = node
                && let Some(charge) = charges.get_mut(&node.permissions.owner)
            {
                let charge = charge.split(node.tree_cost(&path));
                self.store(path, node, charge);
            }
        }
        Ok(())
    }

    fn owned(&self, domain: DomId) -> usize {
        self.owned.get(&domain).copied().unwrap_or(0)
    }
}
