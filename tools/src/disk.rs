//! The demo's disk: an ext4 image that `mke2fs` makes of a folder tree, and the sums that its reader must find.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::process::{find, run};
use crate::setup::{Need, require};

/// Files of a tree by their path from its root, each with its SHA-256 in lower-case hexadecimal digits.
pub type Sums = BTreeMap<String, String>;

/// Makes `folder/disk.img`, an ext4 image of 64 MiB with nested folders and files of up to 20 MiB.
///
/// # Errors
/// Fails when a file cannot be written or `mke2fs` fails.
pub fn make(folder: &Path) -> Result<(PathBuf, Sums)> {
    require(&[Need::FileSystemTools])?;
    let (tree, image) = (folder.join("disk"), folder.join("disk.img"));
    let sums = write_tree(&tree)?;
    format(&tree, &image, 64)?;
    Ok((image, sums))
}

/// Makes an ext4 image of a folder, `size` MiB large.
///
/// # Errors
/// Fails when `mke2fs` does.
pub fn format(tree: &Path, image: &Path, size: u32) -> Result<()> {
    require(&[Need::FileSystemTools])?;
    if image.exists() {
        std::fs::remove_file(image).with_context(|| format!("cannot replace {}", image.display()))?;
    }
    let mut mke2fs = Command::new(find("mke2fs").unwrap_or_else(|| "mke2fs".into()));
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "oxen", "-d"]).arg(tree).arg(image).arg(format!("{size}M"));
    run(&mut mke2fs, "see what mke2fs says")
}

/// The demo's files: empty, tiny, of whole and of broken blocks, deep, many in one folder, large.
fn write_tree(root: &Path) -> Result<Sums> {
    if root.exists() {
        std::fs::remove_dir_all(root).with_context(|| format!("cannot replace {}", root.display()))?;
    }
    let mut files = vec![
        ("empty".to_owned(), 0),
        ("one-byte".to_owned(), 1),
        ("block/4096".to_owned(), 4096),
        ("block/4097".to_owned(), 4097),
        ("a/b/c/d/e/deep".to_owned(), 12_345),
        ("name with spaces".to_owned(), 100),
        ("large/5MiB".to_owned(), 5 << 20),
        ("large/20MiB".to_owned(), 20 << 20),
    ];
    files.extend((0..150).map(|index| (format!("many/file-{index:03}"), index * 7)));
    let mut sums = Sums::new();
    for (seed, (name, size)) in (1_u64..).zip(files) {
        let data = noise(seed, size);
        let path = root.join(&name);
        let fail = || format!("cannot write {}", path.display());
        std::fs::create_dir_all(path.parent().unwrap_or(root)).with_context(fail)?;
        std::fs::write(&path, &data).with_context(fail)?;
        sums.insert(name, sha256(&data));
    }
    Ok(sums)
}

/// The sums of all regular files below a folder.
///
/// # Errors
/// Fails when one cannot be read.
pub fn sums(root: &Path) -> Result<Sums> {
    let mut sums = Sums::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                sums.insert(name, sha256(&std::fs::read(&path)?));
            }
        }
    }
    Ok(sums)
}

/// The files whose sum no line of a transcript shows together with their path.
#[must_use]
pub fn missing(sums: &Sums, transcript: &str) -> Vec<String> {
    let mut shown: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in transcript.lines() {
        for word in line.split_whitespace().filter(|w| w.len() == 64 && w.bytes().all(|b| b.is_ascii_hexdigit())) {
            shown.entry(word).or_default().push(line);
        }
    }
    let is_shown = |(path, sum): &(&String, &String)| {
        let tail = format!("/{path}");
        shown.get(sum.as_str()).is_some_and(|lines| {
            lines.iter().any(|line| line.trim_end().ends_with(&tail) || line.trim_end().ends_with(&format!(" {path}")))
        })
    };
    sums.iter().filter(|entry| !is_shown(entry)).map(|(path, _)| path.clone()).collect()
}

/// SHA-256 in lower-case hexadecimal digits.
#[must_use]
pub fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes that no compression or sharing makes fewer, the same in every run (xorshift).
#[must_use]
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Sums, missing, noise, sha256};

    #[test]
    fn a_sum_is_that_of_the_standard() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_file_counts_as_shown_only_by_its_own_sum_and_path() {
        let (one, two) = (sha256(b"1"), sha256(b"2"));
        let sums = Sums::from([("a/b".to_owned(), one.clone()), ("c d".to_owned(), two.clone())]);
        assert!(missing(&sums, &format!("{one}  /a/b\nfs: {two}  c d\n")).is_empty());
        assert_eq!(missing(&sums, &format!("{two}  /a/b\n{two} /c d\n")), ["a/b"]);
        assert_eq!(missing(&sums, &format!("{one}  /a/bb\n{two} /c d\n")), ["a/b"]);
        assert_eq!(missing(&sums, "").len(), 2);
    }

    #[test]
    fn noise_has_its_size_and_repeats() {
        assert_eq!(noise(3, 1001).len(), 1001);
        assert_eq!(noise(3, 64), noise(3, 64));
        assert_ne!(noise(3, 64), noise(4, 64));
    }
}
