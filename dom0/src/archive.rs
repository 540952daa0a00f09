//! The archive that comes with dom0: guest kernels and configurations in a newc cpio file.

/// A newc archive; entries are found by walking it.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    bytes: &'a [u8],
}

/// One file of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Name without a leading `./` or `/`.
    pub name: &'a str,
    /// Contents.
    pub data: &'a [u8],
}

const HEADER: usize = 110;
const MODE_TYPE: usize = 0o170_000;
const MODE_REGULAR: usize = 0o100_000;

impl<'a> Archive<'a> {
    /// An archive over `bytes`; damage ends it early.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// All regular files in order.
    pub fn files(&self) -> impl Iterator<Item = File<'a>> + use<'a> {
        let mut rest = self.bytes;
        core::iter::from_fn(move || {
            loop {
                let (file, mode, next) = entry(rest)?;
                rest = next;
                if file.name == "TRAILER!!!" {
                    return None;
                }
                if mode & MODE_TYPE == MODE_REGULAR {
                    return Some(file);
                }
            }
        })
    }

    /// The file of this name; a leading `/` or `./` does not count.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        let wanted = plain(name);
        self.files().find(|file| file.name == wanted).map(|file| file.data)
    }
}

/// The name without any `./` and `/` that lead to the archive's own root.
fn plain(name: &str) -> &str {
    let mut plain = name;
    while let Some(rest) = plain.strip_prefix("./").or_else(|| plain.strip_prefix('/')) {
        plain = rest;
    }
    plain
}

/// The entry at the start of `rest`, its mode, and what follows it.
fn entry(rest: &[u8]) -> Option<(File<'_>, usize, &[u8])> {
    let header = rest.get(..HEADER).filter(|h| h.starts_with(b"070701") || h.starts_with(b"070702"))?;
    let field = |index: usize| {
        let digits = header.get(6 + index * 8..14 + index * 8)?;
        usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mode, size, name_size) = (field(1)?, field(6)?, field(11)?);
    let name = rest.get(HEADER..HEADER.checked_add(name_size)?)?;
    let start = (HEADER + name_size).next_multiple_of(4);
    let end = start.checked_add(size)?;
    let file = File {
        name: plain(core::str::from_utf8(name.strip_suffix(b"\0").unwrap_or(name)).ok()?),
        data: rest.get(start..end)?,
    };
    Some((file, mode, rest.get(end.checked_next_multiple_of(4)?..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, vec::Vec};
    use proptest::prelude::*;

    fn add(out: &mut Vec<u8>, name: &str, mode: usize, data: &[u8]) {
        let fields = [0, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        out.extend_from_slice(b"070701");
        fields.iter().for_each(|f| out.extend_from_slice(format!("{f:08x}").as_bytes()));
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
    }

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        add(&mut out, ".", 0o40755, b"");
        add(&mut out, "./hello.cfg", 0o100_644, b"name='hello'");
        add(&mut out, "guests/fs", 0o100_755, b"ELF");
        add(&mut out, "TRAILER!!!", 0, b"");
        out
    }

    #[test]
    fn files_are_found_by_name() {
        let bytes = sample();
        let archive = Archive::new(&bytes);
        assert_eq!(archive.get("/hello.cfg"), Some(b"name='hello'".as_slice()));
        assert_eq!(archive.get("guests/fs"), Some(b"ELF".as_slice()));
        assert_eq!(archive.get("."), None);
        assert_eq!(archive.files().count(), 2);
    }

    proptest! {
        #[test]
        fn damage_ends_the_walk(at in 0usize..400, value: u8, cut in 0usize..500) {
            let mut bytes = sample();
            let length = bytes.len();
            bytes[at % length] = value;
            bytes.truncate(cut);
            prop_assert!(Archive::new(&bytes).files().count() <= 4);
        }
    }
}
