//! Names of nodes: which are valid, how relative ones resolve, who lies below whom.

use alloc::{format, rc::Rc, string::String};
use core::fmt;

use oxen_abi::io::xs_wire as xs;

use super::{DomId, cost, wire::Error};

/// An absolute, valid node name, or one of the special names that start with `@`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Rc<str>);

/// The name whose watches fire when a domain is introduced.
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// The name whose watches fire when a domain ends.
pub const RELEASE_DOMAIN: &str = "@releaseDomain";

impl Path {
    /// The root.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// A special name for watches.
    pub(super) fn special(name: &str) -> Self {
        Self(name.into())
    }

    /// The home of `domain`.
    pub fn home(domain: DomId) -> Self {
        Self(format!("/local/domain/{domain}").into())
    }

    /// Resolves what `domain` wrote: absolute names stand, others start at its home.
    ///
    /// # Errors
    /// `EINVAL`: the name is empty, malformed or too long.
    pub fn resolve(name: &str, domain: DomId) -> Result<Self, Error> {
        if name.starts_with('@') {
            return if name == INTRODUCE_DOMAIN || name == RELEASE_DOMAIN {
                Ok(Self(name.into()))
            } else {
                Err(Error::Invalid)
            };
        }
        if name.starts_with('/') {
            return if name.len() <= xs::XENSTORE_ABS_PATH_MAX {
                Self::absolute(name.into())
            } else {
                Err(Error::Invalid)
            };
        }
        if name.is_empty() || name.len() > xs::XENSTORE_REL_PATH_MAX {
            return Err(Error::Invalid);
        }
        Self::absolute(format!("{}/{name}", Self::home(domain)))
    }

    fn absolute(name: String) -> Result<Self, Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/' | b'_' | b'@');
        let well_formed = name == "/" || (!name.ends_with('/') && !name.contains("//"));
        if well_formed && name.bytes().all(allowed) { Ok(Self(name.into())) } else { Err(Error::Invalid) }
    }

    /// Bytes of heap that a name of its own takes at most.
    pub(super) fn cost(&self) -> usize {
        cost::shared(self.0.len().next_multiple_of(8))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part of the name.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Whether this is one of the special names.
    pub fn is_special(&self) -> bool {
        self.0.starts_with('@')
    }

    /// The node above and the last part of the name; nothing is above the root and the special names.
    pub fn split(&self) -> Option<(Self, &str)> {
        if self.0.len() == 1 || self.is_special() {
            return None;
        }
        let (parent, name) = self.0.rsplit_once('/')?;
        Some((if parent.is_empty() { Self::root() } else { Self(parent.into()) }, name))
    }

    /// The node `name` (already valid) below this one.
    pub fn child(&self, name: &str) -> Self {
        if &*self.0 == "/" { Self(format!("/{name}").into()) } else { Self(format!("{}/{name}", self.0).into()) }
    }

    /// Whether this name is `top` or lies anywhere below it.
    pub fn is_within(&self, top: &Self) -> bool {
        match self.0.strip_prefix(&*top.0) {
            Some(rest) => rest.is_empty() || rest.starts_with('/') || (&*top.0 == "/" && !self.is_special()),
            None => false,
        }
    }

    /// The name relative to `domain`'s home, where it lies in it.
    pub fn relative_to(&self, domain: DomId) -> Option<&str> {
        let home = Self::home(domain);
        self.0.strip_prefix(home.as_str())?.strip_prefix('/')
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged() {
        for good in ["/", "/a", "/a/b-c_d@e", "device/vbd", "@releaseDomain"] {
            assert!(Path::resolve(good, 3).is_ok(), "{good}");
        }
        for bad in ["", "/a/", "//", "/a//b", "/a b", "/ä", "@other", "a/", "/a\u{1}"] {
            assert_eq!(Path::resolve(bad, 3), Err(Error::Invalid), "{bad}");
        }
        assert!(Path::resolve(&"a".repeat(2049), 3).is_err());
        assert!(Path::resolve(&format!("/{}", "a".repeat(3072)), 3).is_err());
    }

    #[test]
    fn relative_names_start_at_home() {
        assert_eq!(Path::resolve("data/x", 7).unwrap().as_str(), "/local/domain/7/data/x");
        assert_eq!(Path::resolve("data/x", 7).unwrap().relative_to(7), Some("data/x"));
        assert_eq!(Path::resolve("data/x", 7).unwrap().relative_to(70), None);
    }

    #[test]
    fn being_within_respects_whole_parts() {
        let p = |s| Path::resolve(s, 0).unwrap();
        assert!(p("/a/b").is_within(&p("/a")) && p("/a").is_within(&p("/a")) && p("/a").is_within(&p("/")));
        assert!(!p("/ab").is_within(&p("/a")) && !p("/a").is_within(&p("/a/b")));
        assert!(!p("@releaseDomain").is_within(&p("/")));
    }

    #[test]
    fn split_and_child_are_inverse() {
        let p = Path::resolve("/a/b", 0).unwrap();
        let (parent, name) = p.split().unwrap();
        assert_eq!((parent.as_str(), name), ("/a", "b"));
        assert_eq!(parent.child(name), p);
        assert_eq!(parent.split().unwrap().0, Path::root());
        assert_eq!(Path::root().split(), None);
    }
}
