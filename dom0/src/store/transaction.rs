//! Transactions: a private layer over the tree that commits only if nothing it saw has changed.
//!
//! The layer holds what the transaction has touched and nothing else, and the domain that opened it pays for that.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    vec::Vec,
};
use core::mem::size_of;

use super::{
    DomId,
    access::Right,
    cost,
    edit::Change,
    path::Path,
    tree::{Edits, Node, Tree, View},
    wire::Error,
};
use crate::purse::{Charge, Purse};

/// What a transaction knows of one node.
#[derive(Clone, Debug)]
struct Seen {
    /// The generation at first sight, `None` if there was no node.
    base: Option<u64>,
    /// As the transaction sees it now. It may be the last holder of what it saw, and pays for it as for a copy.
    now: Option<Rc<Node>>,
    changed: bool,
}

/// Bytes of a transaction that has seen nothing, with its place among others and its maps' first vertices.
const EMPTY: usize = cost::entry::<u32, Transaction>()
    + cost::map::<Path, Seen>()
    + cost::map::<DomId, isize>()
    + cost::map::<(Path, bool), ()>();

/// Bytes that a transaction takes for a path that it sees.
fn seen_cost(path: &Path, node: Option<&Rc<Node>>) -> usize {
    cost::entry::<Path, Seen>() + cost::entry::<DomId, isize>() + path.cost() + copy_cost(node)
}

fn copy_cost(node: Option<&Rc<Node>>) -> usize {
    node.map_or(0, |node| node.copy_cost())
}

/// Bytes that it takes to remember a change.
fn note_cost(change: &Change) -> usize {
    let rights = change.before.as_ref().map_or(0, |before| cost::grown::<(DomId, Right)>(before.list.len()));
    // The list of changes doubles, from four on.
    cost::entry::<(Path, bool), ()>() + 4 * size_of::<Change>() + change.path.cost() + rights
}

/// One open transaction.
#[derive(Debug)]
pub struct Transaction {
    /// Whose it is.
    pub domain: DomId,
    seen: BTreeMap<Path, Seen>,
    owned: BTreeMap<DomId, isize>,
    changes: Vec<Change>,
    noted: BTreeSet<(Path, bool)>,
    node_limit: usize,
    /// Watches would not hear of all that it does: it cannot be carried out.
    failed: bool,
    charge: Charge,
}

impl Transaction {
    /// Nothing seen yet; at most `node_limit` nodes will be.
    ///
    /// # Errors
    /// `ENOSPC` if the purse cannot pay for it.
    pub fn new(domain: DomId, node_limit: usize, purse: &Purse) -> Result<Self, Error> {
        let charge = purse.heap.charge(EMPTY).map_err(|_| Error::NoSpace)?;
        Ok(Self {
            domain,
            seen: BTreeMap::new(),
            owned: BTreeMap::new(),
            changes: Vec::new(),
            noted: BTreeSet::new(),
            node_limit,
            failed: false,
            charge,
        })
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        self.charge.grow(bytes).map_err(|_| Error::NoSpace)
    }

    /// Remembers what watches must hear of after the commit, each thing once.
    fn note(&mut self, change: Change) {
        if self.noted.insert((change.path.clone(), change.exact)) {
            self.changes.push(change);
        }
    }

    /// Carries everything into the tree, or nothing.
    ///
    /// # Errors
    /// `EAGAIN` where something seen has changed, `ENOSPC` where an owner's quota or purse is used up.
    pub fn commit(self, tree: &mut Tree, node_quota: usize) -> Result<Vec<Change>, Error> {
        if self.seen.iter().any(|(path, seen)| tree.generation_of(path) != seen.base) {
            return Err(Error::Again);
        }
        let beyond = |(domain, more): (&DomId, &isize)| {
            *more > 0 && tree.owned(*domain).saturating_add_signed(*more) > node_quota
        };
        if self.failed || self.owned.iter().any(beyond) {
            return Err(Error::NoSpace);
        }
        let changed = self.seen.into_iter().filter(|(_, seen)| seen.changed);
        let edits = changed.map(|(path, seen)| (path, seen.now.map(Rc::unwrap_or_clone))).collect();
        // What the private layer took is the tree's from here on.
        drop(self.charge);
        tree.apply(edits, self.domain == 0)?;
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
    /// Makes sure that a path has been seen.
    fn see(&mut self, path: &Path) -> Result<&mut Seen, Error> {
        let layer = &mut *self.transaction;
        if !layer.seen.contains_key(path) {
            let now = self.tree.get(path).cloned();
            if layer.seen.len() >= layer.node_limit {
                return Err(Error::NoSpace);
            }
            layer.charge(seen_cost(path, now.as_ref()))?;
            let base = now.as_ref().map(|node| node.generation);
            layer.seen.insert(path.clone(), Seen { base, now, changed: false });
        }
        layer.seen.get_mut(path).ok_or(Error::NotFound)
    }

    /// Remembers changes that have been made.
    ///
    /// # Errors
    /// `ENOSPC` where the domain cannot pay for that; the transaction will not commit then.
    pub fn note(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        let fresh = |change: &&Change| !self.transaction.noted.contains(&(change.path.clone(), change.exact));
        let bytes = changes.iter().filter(fresh).map(note_cost).sum();
        self.transaction.charge(bytes).inspect_err(|_| self.transaction.failed = true)?;
        changes.into_iter().for_each(|change| self.transaction.note(change));
        Ok(())
    }
}

impl View for TransactionView<'_> {
    fn node(&mut self, path: &Path) -> Result<Option<Rc<Node>>, Error> {
        Ok(self.see(path)?.now.clone())
    }

    fn apply(&mut self, edits: Edits, _privileged: bool) -> Result<(), Error> {
        let (mut more, mut less) = (0, 0);
        let mut made = Vec::with_capacity(edits.len());
        for (path, node) in edits {
            let node = node.map(Rc::new);
            less += copy_cost(self.see(&path)?.now.as_ref());
            more += copy_cost(node.as_ref());
            made.push((path, node));
        }
        let layer = &mut *self.transaction;
        layer.charge(usize::saturating_sub(more, less))?;
        for (path, node) in made {
            let gains = node.as_ref().map(|n| n.permissions.owner);
            let Some(seen) = layer.seen.get_mut(&path) else { continue };
            let loses = core::mem::replace(&mut seen.now, node).map(|n| n.permissions.owner);
            seen.changed = true;
            for (owner, by) in [(gains, 1), (loses, -1)] {
                if let Some(owner) = owner {
                    *layer.owned.entry(owner).or_default() += by;
                }
            }
        }
        layer.charge.shrink(usize::saturating_sub(less, more));
        Ok(())
    }

    fn owned(&self, domain: DomId) -> usize {
        let more = self.transaction.owned.get(&domain).copied().unwrap_or(0);
        self.tree.owned(domain).saturating_add_signed(more)
    }
}
