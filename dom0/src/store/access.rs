//! Who may read and write a node: an owner, everybody's right, and a list of exceptions.

use alloc::{format, string::String, vec::Vec};

use super::{DomId, wire::Error};

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Right {
    /// May read value, children and permissions.
    pub read: bool,
    /// May write, create below and remove.
    pub write: bool,
}

impl Right {
    /// Nothing at all.
    pub const NONE: Self = Self { read: false, write: false };
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false };
    /// Writing only.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Both.
    pub const BOTH: Self = Self { read: true, write: true };

    fn letter(self) -> char {
        match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        }
    }

    fn from_letter(letter: char) -> Result<Self, Error> {
        match letter {
            'n' => Ok(Self::NONE),
            'r' => Ok(Self::READ),
            'w' => Ok(Self::WRITE),
            'b' => Ok(Self::BOTH),
            _ => Err(Error::Invalid),
        }
    }

    /// Whether everything in `wanted` is allowed.
    pub fn includes(self, wanted: Self) -> bool {
        (self.read || !wanted.read) && (self.write || !wanted.write)
    }
}

/// A node's permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// May do everything, and is who pays for the node.
    pub owner: DomId,
    /// What a domain may do that is neither owner nor in the list.
    pub others: Right,
    /// Exceptions, first match counts.
    pub list: Vec<(DomId, Right)>,
}

impl Permissions {
    /// The owner's alone.
    pub fn private(owner: DomId) -> Self {
        Self { owner, others: Right::NONE, list: Vec::new() }
    }

    /// The owner, and one domain that may read.
    pub fn readable_by(owner: DomId, reader: DomId) -> Self {
        Self { owner, others: Right::NONE, list: [(reader, Right::READ)].into() }
    }

    /// Whether `who` may do everything: dom0, the owner, and the domain that was given the owner as its target.
    pub fn is_owned_by(&self, who: Requester) -> bool {
        who.is_privileged() || self.owner == who.domain || who.target == Some(self.owner)
    }

    /// What `who` may do.
    pub fn right_of(&self, who: Requester) -> Right {
        if self.is_owned_by(who) {
            return Right::BOTH;
        }
        let entry = self.list.iter().find(|(domain, _)| *domain == who.domain || who.target == Some(*domain));
        entry.map_or(self.others, |&(_, right)| right)
    }

    /// Parses `n0`, `r1`…: the first entry names the owner and everybody's right.
    ///
    /// # Errors
    /// `EINVAL`: there is no entry, or one is malformed.
    pub fn parse<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Self, Error> {
        let mut parsed = entries.map(parse_entry);
        let (owner, others) = parsed.next().ok_or(Error::Invalid)??;
        Ok(Self { owner, others, list: parsed.collect::<Result<_, _>>()? })
    }

    /// The entries as the wire has them, each with its closing NUL.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        for (domain, right) in core::iter::once((self.owner, self.others)).chain(self.list.iter().copied()) {
            text.push_str(&format!("{}{domain}\0", right.letter()));
        }
        text.into_bytes()
    }

    /// Entries including the owner's.
    pub fn entries(&self) -> usize {
        self.list.len() + 1
    }

    /// Takes every right of a domain that has ended: its number may come back as somebody else.
    /// What it owned becomes dom0's. True if something changed.
    pub fn forget(&mut self, domain: DomId) -> bool {
        let before = self.list.len();
        self.list.retain(|&(d, _)| d != domain);
        let owned = self.owner == domain;
        if owned {
            *self = Self { owner: 0, others: Right::NONE, list: core::mem::take(&mut self.list) };
        }
        owned || self.list.len() != before
    }
}

fn parse_entry(entry: &str) -> Result<(DomId, Right), Error> {
    let mut letters = entry.chars();
    let right = Right::from_letter(letters.next().ok_or(Error::Invalid)?)?;
    Ok((letters.as_str().parse().map_err(|_| Error::Invalid)?, right))
}

/// In whose name a request is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The domain at the other end.
    pub domain: DomId,
    /// The domain it acts for besides itself (`XS_SET_TARGET`).
    pub target: Option<DomId>,
}

impl Requester {
    /// dom0 itself.
    pub const DOM0: Self = Self { domain: 0, target: None };

    /// Whether permissions and quotas do not bind it.
    pub fn is_privileged(self) -> bool {
        self.domain == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn guest(domain: DomId) -> Requester {
        Requester { domain, target: None }
    }

    #[test]
    fn owner_list_and_others_in_that_order() {
        let p = Permissions::parse(["r1", "w2", "n3"].into_iter()).unwrap();
        assert_eq!(p.right_of(Requester::DOM0), Right::BOTH);
        assert_eq!(p.right_of(guest(1)), Right::BOTH);
        assert_eq!(p.right_of(guest(2)), Right::WRITE);
        assert_eq!(p.right_of(guest(3)), Right::NONE);
        assert_eq!(p.right_of(guest(4)), Right::READ);
        assert_eq!(p.right_of(Requester { domain: 9, target: Some(1) }), Right::BOTH);
        assert_eq!(p.encode(), b"r1\0w2\0n3\0");
    }

    #[test]
    fn malformed_entries_are_refused() {
        for bad in ["", "x1", "r", "r-1", "r65536", "1"] {
            assert_eq!(Permissions::parse([bad].into_iter()), Err(Error::Invalid), "{bad}");
        }
        assert_eq!(Permissions::parse(core::iter::empty()), Err(Error::Invalid));
    }

    #[test]
    fn a_dead_domain_keeps_no_right() {
        let mut p = Permissions::parse(["b4", "r5"].into_iter()).unwrap();
        assert!(p.forget(4));
        assert_eq!(p.right_of(guest(4)), Right::NONE);
        assert_eq!(p.owner, 0);
        assert!(p.forget(5) && !p.forget(5));
        assert_eq!(p.right_of(guest(5)), Right::NONE);
    }
}
