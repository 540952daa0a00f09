//! Watches: who wants to hear of which path, indexed by path.

use alloc::{
    collections::BTreeMap,
    rc::Rc,
    string::{String, ToString},
    vec::Vec,
};

use super::{DomId, path::Path, wire::Error};

/// One registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Who is told.
    pub domain: DomId,
    /// What it is told besides the path.
    pub token: Rc<[u8]>,
    /// Registered by a relative name: events name nodes relative to the domain's home.
    pub relative: bool,
}

/// Something to tell a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Who is told.
    pub domain: DomId,
    /// The name as this watch wants it.
    pub path: String,
    /// The watch's token.
    pub token: Rc<[u8]>,
}

impl Watch {
    /// The event of this watch for `path`.
    pub fn event(&self, path: &Path) -> Event {
        let relative = if self.relative { path.relative_to(self.domain) } else { None };
        Event { domain: self.domain, path: relative.unwrap_or(path.as_str()).to_string(), token: self.token.clone() }
    }
}

/// All registrations.
#[derive(Clone, Debug, Default)]
pub struct Watches {
    by_path: BTreeMap<Path, Vec<Watch>>,
    counts: BTreeMap<DomId, usize>,
}

impl Watches {
    /// Registers; the same path and token twice is an error.
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
