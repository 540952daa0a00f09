//! A guest with a disk.
//!
//! Without an option it mounts the ext4 file system on its first disk, read-only, and prints the SHA-256 of each file
//! as `sha256sum` does, folders in alphabetical order.
//!
//! With the option `write` it overwrites the raw disk instead: from byte 1 MiB on, 4 MiB (less on a smaller disk) in
//! which the 8 bytes at offset *o* of the disk are the number *o* × 0x9e3779b97f4a7c15 modulo 2^64, little-endian. It
//! flushes, reads everything back, compares, and returns whether it is equal.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::error::Error;
use core::fmt::Write;

use ext4_view::{Ext4, Ext4Read};
use oxen_domu_lib::frontend::block::{Block, SECTOR};
use oxen_domu_lib::frontend::{balloon, control};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::{entry, println, start_info, task, time};
use sha2::{Digest, Sha256};

entry!(run);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn run() {
    let done = connect().and_then(|block| match start_info::option("write") {
        Some(_) => write_pattern(&block),
        None => print_sums(block),
    });
    if let Err(error) = done {
        println!("fs: {error}");
    }
}

/// Connects the first disk, and lets the toolstack have its say meanwhile.
fn connect() -> Outcome<Block> {
    task::run(async {
        let store = Store::connect().map_err(text)?;
        task::spawn(control::obey(store.clone()));
        task::spawn(balloon::follow(store.clone()));
        let disks = store.list("device/vbd").await.map_err(text)?;
        let first = disks.iter().min().ok_or("no disk")?;
        let block = Block::connect(&store, first).await.map_err(text)?;
        println!("fs: disk {first}: {:?}", block.geometry());
        Ok(block)
    })
}

/// An error as its text, for those that are no `Error`.
fn text(error: impl core::fmt::Display) -> Box<dyn Error> {
    alloc::format!("{error}").into()
}

/// Bytes that are read at a time.
const LINE: usize = 256 * 1024;
/// Lines that are kept.
const LINES: usize = 16;

/// The disk as the file system's reader sees it: bytes, the lines around the last ones kept.
struct Disk {
    block: Block,
    lines: VecDeque<(u64, Vec<u8>)>,
}

impl Disk {
    fn bytes(&self) -> u64 {
        self.block.geometry().sectors * SECTOR as u64
    }

    /// The line with number `index`, moved to the front.
    fn line(&mut self, index: u64) -> Outcome<&[u8]> {
        match self.lines.iter().position(|(kept, _)| *kept == index) {
            Some(place) => self.lines.rotate_left(place),
            None => {
                let start = index * LINE as u64;
                let length = self.bytes().saturating_sub(start).min(LINE as u64) as usize;
                let mut line = vec![0; length];
                task::run(self.block.read(start / SECTOR as u64, &mut line))?;
                self.lines.truncate(LINES - 1);
                self.lines.push_front((index, line));
            }
        }
        self.lines.front().map(|(_, line)| line.as_slice()).ok_or_else(|| "no line".into())
    }
}

impl Ext4Read for Disk {
    fn read(&mut self, start_byte: u64, dst: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut at = start_byte;
        let mut rest = dst;
        while !rest.is_empty() {
            let (index, offset) = (at / LINE as u64, (at % LINE as u64) as usize);
            let line = self.line(index).map_err(|error| alloc::format!("{error}"))?;
            let part = line.get(offset..).filter(|part| !part.is_empty()).ok_or("beyond the disk's end")?;
            let count = part.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(part.get(..count).unwrap_or_default());
            at += count as u64;
            rest = later;
        }
        Ok(())
    }
}

/// Prints the sum of each file below the root.
fn print_sums(block: Block) -> Outcome<()> {
    let before = time::now();
    let files = Ext4::load(Box::new(Disk { block, lines: VecDeque::new() }))?;
    let mut folders: Vec<String> = vec![String::new()];
    let (mut count, mut bytes) = (0u64, 0u64);
    while let Some(folder) = folders.pop() {
        let mut names = Vec::new();
        for entry in files.read_dir(alloc::format!("{folder}/").as_str())? {
            let entry = entry?;
            let name = String::from_utf8_lossy(entry.file_name().as_ref()).into_owned();
            if name != "." && name != ".." {
                names.push((name, entry.file_type()?));
            }
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, kind) in names.iter().filter(|(_, kind)| kind.is_regular_file()) {
            let _ = kind;
            let path = alloc::format!("{folder}/{name}");
            let (sum, length) = sum(&files, &path)?;
            println!("{sum}  {}", path.trim_start_matches('/'));
            count += 1;
            bytes += length;
        }
        folders.extend(
            names.iter().rev().filter(|(_, kind)| kind.is_dir()).map(|(name, _)| alloc::format!("{folder}/{name}")),
        );
    }
    println!("fs: {count} files, {bytes} bytes in {} ms", (time::now() - before) / time::MILLISECOND);
    Ok(())
}

/// The SHA-256 of a file in hexadecimal digits, and its length.
fn sum(files: &Ext4, path: &str) -> Outcome<(String, u64)> {
    let mut file = files.open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut length = 0;
    loop {
        let count = file.read_bytes(&mut buffer)?;
        if count == 0 {
            break;
        }
        length += count as u64;
        digest.update(buffer.get(..count).unwrap_or_default());
    }
    let mut hex = String::with_capacity(64);
    for byte in digest.finalize() {
        write!(hex, "{byte:02x}")?;
    }
    Ok((hex, length))
}

/// Where the pattern starts.
const PATTERN_OFFSET: u64 = 1 << 20;
/// How long it is at most.
const PATTERN_BYTES: u64 = 4 << 20;
/// Bytes that are written at a time.
const STEP: u64 = 1 << 20;

/// The pattern from byte `offset` of the disk on.
fn pattern(offset: u64, length: u64) -> Vec<u8> {
    (offset..offset + length).step_by(8).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

/// Writes the pattern, flushes, reads back and compares.
fn write_pattern(block: &Block) -> Outcome<()> {
    let size = block.geometry().sectors * SECTOR as u64;
    let length = PATTERN_BYTES.min(size.saturating_sub(PATTERN_OFFSET));
    let steps = || (PATTERN_OFFSET..PATTERN_OFFSET + length).step_by(STEP as usize);
    let bytes = |at: u64| STEP.min(PATTERN_OFFSET + length - at);
    let equal = task::run(async {
        for at in steps() {
            block.write(at / SECTOR as u64, &pattern(at, bytes(at))).await?;
        }
        block.flush().await?;
        for at in steps() {
            let mut read = vec![0; bytes(at) as usize];
            block.read(at / SECTOR as u64, &mut read).await?;
            if read != pattern(at, bytes(at)) {
                return Ok(false);
            }
        }
        Ok::<_, Box<dyn Error>>(true)
    })?;
    let verdict = if equal { "equal" } else { "DIFFERENT" };
    println!("fs: wrote {length} bytes at offset {PATTERN_OFFSET}, flushed, read back: {verdict}");
    Ok(())
}
