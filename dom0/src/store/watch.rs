//! Watches: who wants to hear of which path, indexed by path.

use alloc::{collections::BTreeMap, rc::Rc, vec::Vec};
use core::cell::Cell;

use super::{
    DomId, cost,
    outgoing::{Event, token_cost},
    path::Path,
    wire::Error,
};
use crate::purse::{Charge, Exhausted, Purse};

/// One registration.
#[derive(Debug)]
pub struct Watch {
    /// Who is told.
    pub domain: DomId,
    /// What it is told besides the path.
    pub token: Rc<[u8]>,
    /// Registered by a relative name: events name nodes relative to the domain's home.
    pub relative: bool,
    /// Something happened that could not be told: there was no room for it.
    missed: Cell<bool>,
    _charge: Charge,
}

impl Watch {
    /// A watch of `path`, paid for.
    ///
    /// # Errors
    /// [`Exhausted`] if the purse cannot pay.
    pub fn new(domain: DomId, path: &Path, token: &[u8], relative: bool, purse: &Purse) -> Result<Self, Exhausted> {
        let here = cost::entry::<Path, Vec<Self>>() + cost::grown::<Self>(1) + path.cost();
        let charge = purse.heap.charge(here + token_cost(token))?;
        Ok(Self { domain, token: token.into(), relative, missed: Cell::new(false), _charge: charge })
    }

    /// The event of this watch for `path`, if there is room for it. If not, it will be told of its own path when there
    /// is: [`Watches::catch_up`].
    ///
    /// A quarter of the purse stays for what the domain itself asks for: events come of what others do.
    pub fn event(&self, path: &Path, purse: &Purse) -> Option<Event> {
        let scarce = purse.heap.left() < purse.heap.limit() / 4;
        let event = if scarce { None } else { self.paid_event(path, purse).ok() };
        self.missed.set(self.missed.get() || event.is_none());
        event
    }

    fn paid_event(&self, path: &Path, purse: &Purse) -> Result<Event, Exhausted> {
        let relative = if self.relative { path.relative_to(self.domain) } else { None };
        Event::new(self.domain, relative.unwrap_or(path.as_str()), self.token.clone(), purse)
    }
}

/// All registrations.
#[derive(Debug, Default)]
pub struct Watches {
    by_path: BTreeMap<Path, Vec<Watch>>,
    counts: BTreeMap<DomId, usize>,
}

impl Watches {
    /// Registers; the same path and token twice is an error.
    ///
    /// # Errors
    /// `EEXIST`; `E2BIG` where the domain has as many as it may.
    pub fn add(&mut self, path: &Path, watch: Watch, limit: usize) -> Result<(), Error> {
        let count = self.counts.entry(watch.domain).or_default();
        let here = self.by_path.entry(path.clone()).or_default();
        let same = |w: &&Watch| w.domain == watch.domain && w.token == watch.token;
        let refusal = if here.iter().any(|w| same(&w)) {
            Some(Error::Exists)
        } else if *count >= limit {
            Some(Error::TooBig)
        } else {
            None
        };
        if let Some(error) = refusal {
            if here.is_empty() {
                self.by_path.remove(path);
            }
            return Err(error);
        }
        *count += 1;
        here.push(watch);
        Ok(())
    }

    /// Removes one registration.
    ///
    /// # Errors
    /// `ENOENT` where there is none.
    pub fn remove(&mut self, path: &Path, domain: DomId, token: &[u8]) -> Result<(), Error> {
        let here = self.by_path.get_mut(path).ok_or(Error::NotFound)?;
        let at = here.iter().position(|w| w.domain == domain && *w.token == *token).ok_or(Error::NotFound)?;
        here.remove(at);
        if here.is_empty() {
            self.by_path.remove(path);
        }
        if let Some(count) = self.counts.get_mut(&domain) {
            *count = count.saturating_sub(1);
        }
        Ok(())
    }

    /// Removes all registrations of a domain.
    pub fn forget_domain(&mut self, domain: DomId) {
        self.by_path.retain(|_, here| {
            here.retain(|w| w.domain != domain);
            !here.is_empty()
        });
        self.counts.remove(&domain);
    }

    /// The events that `domain` is still to be told of, as far as there is room now: for each watch that missed any,
    /// one of its own path. Returns besides whether these are all.
    pub fn catch_up(&self, domain: DomId, purse: &Purse) -> (Vec<Event>, bool) {
        let missed = |watch: &&Watch| watch.domain == domain && watch.missed.get();
        let behind = self.by_path.iter().flat_map(|(path, here)| here.iter().filter(missed).map(move |w| (path, w)));
        let mut told = Vec::new();
        for (path, watch) in behind {
            let Ok(event) = watch.paid_event(path, purse) else { return (told, false) };
            watch.missed.set(false);
            told.push(event);
        }
        (told, true)
    }

    /// The watches that a change of `path` concerns: on it, and unless `exact` on every node above.
    pub fn concerned<'a>(&'a self, path: &Path, exact: bool) -> impl Iterator<Item = &'a Watch> + use<'a> {
        let mut at = Some(path.clone());
        core::iter::from_fn(move || {
            let here = at.take()?;
            at = if exact { None } else { here.split().map(|(above, _)| above) };
            Some(self.by_path.get(&here).map(Vec::as_slice).unwrap_or_default())
        })
        .flatten()
    }
}
