//! Xenstore: a small tree of names by which domains and the toolstack find each other.
//!
//! [`Store`] is pure logic: a request of a domain goes in, its answer and everybody's watch events
//! come out. [`server`] moves both over the domains' rings. What a domain keeps here is charged to its
//! [purse](crate::purse): nodes to their owner, all else to who asked for it.
//!
//! ```text
//!   server ─ Message ─▶ request ─▶ Editor ─▶ View ┬ Tree          what everybody sees
//!                          │                      └ Transaction   a private layer over it
//!                          └─▶ Watches ─▶ events
//! ```

pub mod access;
mod cost;
pub mod edit;
pub mod listing;
pub mod outgoing;
pub mod path;
pub mod quota;
pub mod request;
pub mod server;
pub mod transaction;
pub mod tree;
pub mod watch;
pub mod wire;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    vec::Vec,
};

use access::{Permissions, Requester, Right};
use edit::{Change, Editor};
use outgoing::Event;
use path::Path;
use quota::Limits;
use transaction::{Transaction, TransactionView};
use tree::{Node, Tree, View};
use watch::{Watch, Watches};
use wire::Error;

use crate::purse::Purses;

/// A domain by its number, as it stands in names and permissions.
pub type DomId = u16;

/// The longest path that an event can name.
const MAX_PATH: usize = oxen_abi::io::xs_wire::XENSTORE_ABS_PATH_MAX;

/// A domain whose ring the store serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Client {
    target: Option<DomId>,
}

/// The whole store.
#[derive(Debug)]
pub struct Store {
    tree: Tree,
    watches: Watches,
    transactions: BTreeMap<u32, Transaction>,
    last_transaction: u32,
    clients: BTreeMap<DomId, Client>,
    limits: Limits,
    events: Vec<Event>,
    /// Who has missed events.
    behind: BTreeSet<DomId>,
    /// Who has begun to miss events since somebody looked.
    late: Vec<DomId>,
    purses: Purses,
}

impl Store {
    /// An empty store under `limits` for unprivileged domains, who pay out of `purses`.
    pub fn new(limits: Limits, purses: Purses) -> Self {
        Self {
            tree: Tree::new(purses.clone()),
            watches: Watches::default(),
            transactions: BTreeMap::new(),
            last_transaction: 0,
            clients: BTreeMap::new(),
            limits,
            events: Vec::new(),
            behind: BTreeSet::new(),
            late: Vec::new(),
            purses,
        }
    }

    /// The purses that domains pay out of.
    pub fn purses(&self) -> &Purses {
        &self.purses
    }

    /// The limits of unprivileged domains.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The nodes, for looking at.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The events that requests since the last call have caused, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }

    fn requester(&self, domain: DomId) -> Requester {
        Requester { domain, target: self.clients.get(&domain).and_then(|c| c.target) }
    }

    fn limits_of(&self, domain: DomId) -> Limits {
        if domain == 0 { Limits::NONE } else { self.limits }
    }

    /// Resolves what `domain` wrote to a path within its limits.
    ///
    /// # Errors
    /// `EINVAL`: the name is malformed or too long.
    pub fn resolve(&self, name: &str, domain: DomId) -> Result<Path, Error> {
        let path = Path::resolve(name, domain)?;
        if path.as_str().len() > self.limits_of(domain).path { Err(Error::Invalid) } else { Ok(path) }
    }

    /// Runs `action` on the tree (`transaction` 0) or on a transaction of this domain.
    fn edit<R>(
        &mut self,
        domain: DomId,
        transaction: u32,
        action: impl FnOnce(&mut Editor<'_, dyn View + '_>) -> Result<(R, Vec<Change>), Error>,
    ) -> Result<R, Error> {
        let (who, limits) = (self.requester(domain), self.limits_of(domain));
        if transaction == 0 {
            let (answer, changes) = action(&mut Editor { view: &mut self.tree as &mut dyn View, who, limits })?;
            self.fire(changes);
            return Ok(answer);
        }
        let open = self.transactions.get_mut(&transaction).filter(|t| t.domain == domain).ok_or(Error::NotFound)?;
        let mut view = TransactionView { tree: &self.tree, transaction: open };
        let (answer, changes) = action(&mut Editor { view: &mut view as &mut dyn View, who, limits })?;
        view.note(changes)?;
        Ok(answer)
    }

    /// The node at `path`, if `domain` may read it.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`; `ENOENT` for a transaction that is not there.
    pub fn read(&mut self, domain: DomId, transaction: u32, path: &Path) -> Result<Rc<Node>, Error> {
        self.edit(domain, transaction, |editor| Ok((editor.find(path, Right::READ)?, Vec::new())))
    }

    /// Sets a value, creating what is missing.
    ///
    /// # Errors
    /// `EACCES`, `EINVAL` for a special name, `ENOSPC` where a quota is used up; `ENOENT` for a transaction that is not
    /// there.
    pub fn write(&mut self, domain: DomId, transaction: u32, path: &Path, value: &[u8]) -> Result<(), Error> {
        self.edit(domain, transaction, |editor| Ok(((), Vec::from([editor.write(path, value)?]))))
    }

    /// Creates an empty node unless it exists.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn make(&mut self, domain: DomId, transaction: u32, path: &Path) -> Result<(), Error> {
        self.edit(domain, transaction, |editor| Ok(((), editor.make(path)?.into_iter().collect())))
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    /// `EACCES`, `EINVAL` for the root, `ENOENT` where the node above or the transaction is not there.
    pub fn remove(&mut self, domain: DomId, transaction: u32, path: &Path) -> Result<(), Error> {
        self.edit(domain, transaction, |editor| Ok(((), editor.remove(path)?)))
    }

    /// Replaces a node's permissions.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES` for all but owners, `EPERM` for giving the node away, `ENOSPC` for too many entries.
    pub fn set_permissions(
        &mut self,
        domain: DomId,
        transaction: u32,
        path: &Path,
        permissions: Permissions,
    ) -> Result<(), Error> {
        self.edit(domain, transaction, |editor| Ok(((), Vec::from([editor.set_permissions(path, permissions)?]))))
    }

    /// Registers a watch; it fires at once.
    ///
    /// # Errors
    /// `EINVAL` for a malformed name, `EEXIST` for the same watch twice, `E2BIG` for too many or too long a token,
    /// `ENOSPC`.
    pub fn watch(&mut self, domain: DomId, name: &str, token: &[u8]) -> Result<(), Error> {
        let path = self.resolve(name, domain)?;
        if token.len() > wire::PAYLOAD_MAX - MAX_PATH - 2 {
            // Its events would not fit into messages.
            return Err(Error::TooBig);
        }
        let relative = !name.starts_with(['/', '@']);
        let purse = self.purses.of(domain);
        let watch = Watch::new(domain, &path, token, relative, &purse).map_err(|_| Error::NoSpace)?;
        let event = watch.event(&path, &purse);
        self.watches.add(&path, watch, self.limits_of(domain).watches)?;
        match event {
            Some(event) => self.events.push(event),
            None if self.behind.insert(domain) => self.late.push(domain),
            None => {}
        }
        Ok(())
    }

    /// Takes a watch back.
    ///
    /// # Errors
    /// `EINVAL` for a malformed name, `ENOENT` where there is no such watch.
    pub fn unwatch(&mut self, domain: DomId, name: &str, token: &[u8]) -> Result<(), Error> {
        let path = self.resolve(name, domain)?;
        self.watches.remove(&path, domain, token)
    }

    /// Takes all watches and transactions of `domain` back.
    pub fn reset(&mut self, domain: DomId) {
        self.watches.forget_domain(domain);
        self.behind.remove(&domain);
        self.transactions.retain(|_, t| t.domain != domain);
    }

    /// Opens a transaction.
    ///
    /// # Errors
    /// `ENOSPC`: the domain has as many as it may.
    pub fn start_transaction(&mut self, domain: DomId) -> Result<u32, Error> {
        let limits = self.limits_of(domain);
        if self.transactions.values().filter(|t| t.domain == domain).count() >= limits.transactions {
            return Err(Error::NoSpace);
        }
        let mut id = self.last_transaction.wrapping_add(1).max(1);
        while self.transactions.contains_key(&id) {
            id = id.wrapping_add(1).max(1);
        }
        self.last_transaction = id;
        let transaction = Transaction::new(domain, limits.transaction_nodes, &self.purses.of(domain))?;
        self.transactions.insert(id, transaction);
        Ok(id)
    }

    /// Ends a transaction: carries it out whole, or drops it.
    ///
    /// # Errors
    /// `ENOENT` where the domain has no such transaction, `EAGAIN` where others changed what it saw, `ENOSPC`.
    pub fn end_transaction(&mut self, domain: DomId, id: u32, commit: bool) -> Result<(), Error> {
        if self.transactions.get(&id).is_none_or(|t| t.domain != domain) {
            return Err(Error::NotFound);
        }
        let Some(transaction) = self.transactions.remove(&id).filter(|_| commit) else { return Ok(()) };
        let quota = self.limits_of(domain).nodes;
        let changes = transaction.commit(&mut self.tree, quota)?;
        self.fire(changes);
        Ok(())
    }

    /// A domain's ring is served from now on.
    pub fn introduce(&mut self, domain: DomId) {
        self.purses.open(domain);
        self.clients.entry(domain).or_insert(Client { target: None });
        self.fire_special(path::INTRODUCE_DOMAIN);
    }

    /// A domain stopped running (but is still there) or changed its state.
    pub fn announce_end(&mut self) {
        self.fire_special(path::RELEASE_DOMAIN);
    }

    /// A domain is gone: so are its watches, transactions and rights, and the nodes that it owned with all below them.
    ///
    /// # Errors
    /// `ENOENT`: it was not introduced.
    pub fn release(&mut self, domain: DomId) -> Result<(), Error> {
        self.clients.remove(&domain).ok_or(Error::NotFound)?;
        for client in self.clients.values_mut().filter(|c| c.target == Some(domain)) {
            client.target = None;
        }
        self.reset(domain);
        self.remove_owned(domain);
        self.tree.forget_domain(domain);
        self.fire_special(path::RELEASE_DOMAIN);
        Ok(())
    }

    /// Removes what a domain owns, wherever it stands: nobody would pay for it any more.
    fn remove_owned(&mut self, domain: DomId) {
        let owned = self.tree.iter().filter(|(_, node)| node.permissions.owner == domain);
        let owned: Vec<Path> = owned.map(|(path, _)| path.clone()).collect();
        for path in owned {
            // It may have gone with the one above it; the root and the special names stay.
            let _ = self.remove(0, 0, &path);
        }
    }

    /// Whether a domain's ring is served.
    pub fn is_introduced(&self, domain: DomId) -> bool {
        domain == 0 || self.clients.contains_key(&domain)
    }

    /// Lets `domain` act for `target` besides itself.
    ///
    /// # Errors
    /// `ENOENT`: one of the two was not introduced.
    pub fn set_target(&mut self, domain: DomId, target: DomId) -> Result<(), Error> {
        if !self.is_introduced(target) {
            return Err(Error::NotFound);
        }
        self.clients.get_mut(&domain).ok_or(Error::NotFound)?.target = Some(target);
        Ok(())
    }

    /// Gives the events out that `domain` has missed, as far as there is room for them now: one for each watch.
    pub fn catch_up(&mut self, domain: DomId) {
        let (events, all) = self.watches.catch_up(domain, &self.purses.of(domain));
        self.events.extend(events);
        if all {
            self.behind.remove(&domain);
        }
    }

    /// The domains that have begun to miss events since the last call.
    pub fn take_late(&mut self) -> Vec<DomId> {
        core::mem::take(&mut self.late)
    }

    /// Whether `domain` has missed events.
    pub fn is_behind(&self, domain: DomId) -> bool {
        self.behind.contains(&domain)
    }

    fn fire_special(&mut self, name: &str) {
        self.fire(Vec::from([Change { path: Path::special(name), before: None, exact: true }]));
    }

    /// Tells every watch that the changes concern and whose domain may read, or could read before.
    fn fire(&mut self, changes: Vec<Change>) {
        for change in changes {
            let now = self.tree.get(&change.path);
            for watch in self.watches.concerned(&change.path, change.exact) {
                let who = self.requester(watch.domain);
                let may_read = |p: &Permissions| p.right_of(who).read;
                if change.before.as_ref().is_some_and(may_read) || now.is_some_and(|n| may_read(&n.permissions)) {
                    match watch.event(&change.path, &self.purses.of(watch.domain)) {
                        Some(event) => self.events.push(event),
                        None if self.behind.insert(watch.domain) => self.late.push(watch.domain),
                        None => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
