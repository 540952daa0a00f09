//! `hypfs_op`: a small tree of files for reading, by which the control domain asks which hypervisor this is.

use super::{
    args::HypfsOp,
    commands::HypfsCommand,
    number::{self, count, long, size, uint, ushort},
    version,
};
use crate::{
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply},
};
use oxen_abi::{
    errno::Errno,
    hypfs::{
        HypfsDirentry, XEN_HYPFS_MAX_PATHLEN, XEN_HYPFS_TYPE_DIR, XEN_HYPFS_TYPE_STRING, XEN_HYPFS_TYPE_UINT,
        XEN_HYPFS_VERSION,
    },
};
use zerocopy::IntoBytes;

/// A file, or a folder with its entries in the order of their names.
#[derive(Clone, Copy, Debug)]
enum Node {
    Folder(&'static [(&'static str, Node)]),
    Text(&'static str),
    Number(u32),
}

const ROOT: Node = Node::Folder(&[
    (
        "buildinfo",
        Node::Folder(&[
            ("changeset", Node::Text(version::CHANGESET)),
            ("compile_by", Node::Text("")),
            ("compile_date", Node::Text("")),
            ("compile_domain", Node::Text("")),
            ("compiler", Node::Text(version::COMPILER)),
            (
                "version",
                Node::Folder(&[
                    ("extra", Node::Text(version::EXTRA_VERSION)),
                    ("major", Node::Number(uint(version::VERSION >> 16))),
                    ("minor", Node::Number(uint(version::VERSION & 0xffff))),
                ]),
            ),
        ]),
    ),
    ("params", Node::Folder(&[])),
]);

/// Bytes of a path that are looked at: longer ones name nothing.
const MAX_KNOWN: usize = 64;
/// Bytes of an entry in a folder before its name: what it is, and how far the next one is.
const NAME_AT: usize = size_of::<HypfsDirentry>() + 2;
/// The longest contents that there are.
const MAX_CONTENTS: usize = 256;

impl Node {
    /// What stands at a path.
    fn find(self, path: &str) -> Option<Self> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(self, |node, name| match node {
            Self::Folder(entries) => entries.iter().find(|(known, _)| *known == name).map(|&(_, node)| node),
            Self::Text(_) | Self::Number(_) => None,
        })
    }

    fn entry(self) -> HypfsDirentry {
        let kind = match self {
            Self::Folder(_) => XEN_HYPFS_TYPE_DIR,
            Self::Text(_) => XEN_HYPFS_TYPE_STRING,
            Self::Number(_) => XEN_HYPFS_TYPE_UINT,
        };
        let content_len = match self {
            Self::Folder(entries) => entries.iter().map(|(name, _)| entry_bytes(name)).sum(),
            Self::Text(text) => text.len().saturating_add(1),
            Self::Number(_) => size_of::<u32>(),
        };
        HypfsDirentry { r#type: kind, encoding: 0, pad: 0, content_len: count(content_len), max_write_len: 0 }
    }

    /// Its contents as they are read.
    fn contents(self) -> heapless::Vec<u8, MAX_CONTENTS> {
        let mut bytes = heapless::Vec::new();
        let mut put = |part: &[u8]| drop(bytes.extend_from_slice(part));
        match self {
            Self::Text(text) => {
                put(text.as_bytes());
                put(&[0]);
            }
            Self::Number(number) => put(&number.to_le_bytes()),
            Self::Folder(entries) => {
                for (index, (name, node)) in entries.iter().enumerate() {
                    let is_last = index.saturating_add(1) == entries.len();
                    let next = if is_last { 0 } else { ushort(long(entry_bytes(name))) };
                    put(node.entry().as_bytes());
                    put(&next.to_le_bytes());
                    put(name.as_bytes());
                    for _ in NAME_AT.saturating_add(name.len())..entry_bytes(name) {
                        put(&[0]);
                    }
                }
            }
        }
        bytes
    }
}

/// Bytes of an entry in a folder, with a zero behind the name and up to a word.
const fn entry_bytes(name: &str) -> usize {
    NAME_AT.saturating_add(name.len().saturating_add(1).next_multiple_of(align_of::<HypfsDirentry>()))
}

impl<M: Machine> Caller<'_, M> {
    /// `hypfs_op(command, path, bytes of it, buffer, bytes of it)`.
    ///
    /// # Errors
    /// `Perm` for everybody but the control domain, `Inval` for what is no path or a buffer without room for an entry,
    /// `NoEnt` for a path that leads nowhere, `NoBufs` for too small a buffer, `Acces` for writing, `OpNotSupp` for
    /// other commands, `Fault`.
    #[inline(never)]
    pub fn hypfs_op(&mut self, args: &mut Args) -> Reply {
        self.control()?;
        let HypfsOp { command, path, path_bytes, buffer, bytes } = (&*args).into();
        if command == Ok(HypfsCommand::GetVersion) {
            let is_asked_alone = [path, path_bytes, buffer, bytes] == [0; 4];
            return if is_asked_alone { Ok(XEN_HYPFS_VERSION.into()) } else { Err(Errno::Inval.into()) };
        }
        if path_bytes == 0 || path_bytes > XEN_HYPFS_MAX_PATHLEN.into() {
            return Err(Errno::Inval.into());
        }
        let node = self.find_hypfs_node(path, path_bytes)?;
        match command? {
            HypfsCommand::Read => self.read_hypfs_node(node, buffer, bytes),
            HypfsCommand::WriteContents => Err(Errno::Acces.into()),
            HypfsCommand::GetVersion => Ok(XEN_HYPFS_VERSION.into()),
        }
    }

    fn find_hypfs_node(&self, path: u64, bytes: u64) -> Result<Node, Errno> {
        let machine = self.hv.machine();
        let place = GuestPtr::<u8>::new(path, bytes)?;
        if place.read(machine, 0)? != b'/' || place.read(machine, bytes.wrapping_sub(1))? != 0 {
            return Err(Errno::Inval);
        }
        let mut text = [0; MAX_KNOWN];
        let known = text.get_mut(..size(bytes.wrapping_sub(1))).ok_or(Errno::NoEnt)?;
        place.read_many(machine, 0, known)?;
        core::str::from_utf8(known).ok().and_then(|path| ROOT.find(path)).ok_or(Errno::NoEnt)
    }

    fn read_hypfs_node(&self, node: Node, buffer: u64, bytes: u64) -> Reply {
        const ENTRY: u64 = number::bytes::<HypfsDirentry>();
        if bytes < ENTRY {
            return Err(Errno::Inval.into());
        }
        let machine = self.hv.machine();
        let entry = node.entry();
        let place = GuestPtr::<u8>::new(buffer, ENTRY)?;
        place.write_many(machine, 0, entry.as_bytes())?;
        if bytes < ENTRY.saturating_add(entry.content_len.into()) {
            return Err(Errno::NoBufs.into());
        }
        let contents = node.contents();
        GuestPtr::<u8>::new(buffer.wrapping_add(ENTRY), long(contents.len()))?.write_many(machine, 0, &contents)?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_what_they_name() {
        for (path, kind) in [
            ("/", Some(XEN_HYPFS_TYPE_DIR)),
            ("/buildinfo/", Some(XEN_HYPFS_TYPE_DIR)),
            ("/buildinfo/compiler", Some(XEN_HYPFS_TYPE_STRING)),
            ("/buildinfo/version/major", Some(XEN_HYPFS_TYPE_UINT)),
            ("/buildinfo/compiler/x", None),
            ("/nothing", None),
        ] {
            assert_eq!(ROOT.find(path).map(|node| node.entry().r#type), kind, "{path}");
        }
    }

    #[test]
    fn contents_are_as_long_as_is_told() {
        fn check(node: Node) {
            assert_eq!(node.contents().len(), number::index(node.entry().content_len));
            if let Node::Folder(entries) = node {
                entries.iter().for_each(|&(_, node)| check(node));
            }
        }
        check(ROOT);
    }
}
