//! Transactions: a private layer over the tree that commits only if nothing it saw has changed.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    vec::Vec,
};

use super::{
    DomId,
    edit::Change,
    path::Path,
    tree::{Node, Tree, View},
    wire::Error,
};

/// What a transaction knows of one node.
#[derive(Clone, Debug)]
struct Seen {
    /// The generation at first sight, `None` if there was no node.
    base: Option<u64>,
    /// As the transaction sees it now.
    now: Option<Rc<Node>>,
    changed: bool,
}

/// One open transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Whose it is.
    pub domain: DomId,
    seen: BTreeMap<Path, Seen>,
    owned: BTreeMap<DomId, isize>,
    changes: Vec<Change>,
    noted: BTreeSet<(Path, bool)>,
    node_limit: usize,
}

impl Transaction {
    /// Nothing seen yet; at most `node_limit` nodes will be.
    pub fn new(domain: DomId, node_limit: usize) -> Self {
        Self {
            domain,
            seen: BTreeMap::new(),
            owned: BTreeMap::new(),
            changes: Vec::new(),
            noted: BTreeSet::new(),
            node_limit,
        }
    }

    /// Remembers what watches must hear of after the commit, each thing once.
    pub fn note(&mut self, change: Change) {
        if self.noted.insert((change.path.clone(), change.exact)) {
            self.changes.push(change);
        }
    }

    /// Carries everything into the tree, or nothing.
    pub fn commit(self, tree: &mut Tree, node_quota: usize) -> Result<Vec<Change>, Error> {
        if self.seen.iter().any(|(path, seen)| tree.generation_of(path) != seen.base) {
            return Err(Error::Again);
        }
        let beyond = |(domain, more): (&DomId, &isize)| {
            *more > 0 && tree.owned(*domain).saturating_add_signed(*more) > node_quota
        };
        if self.owned.iter().any(beyond) {
            return Err(Error::NoSpace);
        }
        for (path, seen) in self.seen {
            match seen.now {
                _ if !seen.changed => {}
                Some(node) => tree.store(&path, Rc::unwrap_or_clone(node)),
                None => tree.delete(&path),
            }
        }
        Ok(self.changes)
    }
}

/// A transaction's sight of the tree.
pub struct TransactionView<'a> {
    /// What everybody else sees.
    pub tree: &'a Tree,
    /// The private layer.
    pub transaction: &'a mut Transaction,
}

impl TransactionView<'_> {
    fn seen(&mut self, path: &Path) -> Result<&mut Seen, Error> {
        let layer = &mut *self.transaction;
        if !layer.seen.contains_key(path) && layer.seen.len() >= layer.node_limit {
            return Err(Error::NoSpace);
        }
        Ok(layer.seen.entry(path.clone()).or_insert_with(|| {
            let now = self.tree.get(path).cloned();
            Seen { base: now.as_ref().map(|node| node.generation), now, changed: false }
        }))
    }

    fn replace(&mut self, path: &Path, node: Option<Rc<Node>>) -> Result<(), Error> {
        let gains = node.as_ref().map(|n| n.permissions.owner);
        let seen = self.seen(path)?;
        let loses = core::mem::replace(&mut seen.now, node).map(|n| n.permissions.owner);
        seen.changed = true;
        for (owner, by) in [(gains, 1), (loses, -1)] {
            if let Some(owner) = owner {
                *self.transaction.owned.entry(owner).or_default() += by;
            }
        }
        Ok(())
    }
}

impl View for TransactionView<'_> {
    fn node(&mut self, path: &Path) -> Result<Option<Rc<Node>>, Error> {
        Ok(self.seen(path)?.now.clone())
    }

    fn put(&mut self, path: &Path, node: Node) -> Result<(), Error> {
        self.replace(path, Some(Rc::new(node)))
    }

    fn remove(&mut self, path: &Path) -> Result<(), Error> {
        self.replace(path, None)
    }

    fn owned(&self, domain: DomId) -> usize {
        let more = self.transaction.owned.get(&domain).copied().unwrap_or(0);
        self.tree.owned(domain).saturating_add_signed(more)
    }
}
