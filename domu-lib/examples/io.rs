//! A guest that measures what its devices cost, in ticks of the time stamp counter.
//!
//! With a disk: per KiB of large reads and writes (it writes what it has read), and for a single read of 4 KiB. With
//! two network devices on one bridge: per frame sent by the one and received by the other, many at a time and one
//! alone, and per KiB of TCP packets that nobody cuts. A tick counts whoever runs: this guest, the backends, the
//! hypervisor.
//!
//! Each line is `bench: NAME MEDIAN`, or `bench: NAME skipped` where there is no such device. Under QEMU's
//! `-icount shift=0` a tick is an instruction.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use oxen_domu_lib::frontend::block::{Block, SECTOR};
use oxen_domu_lib::frontend::net::{Frame, Net};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::{entry, machine, println, task, time};

entry!(run);

/// How often a measurement is repeated.
const SAMPLES: usize = 15;
/// Bytes of a large transfer.
const LARGE: usize = 1 << 20;
/// Bytes of a small one.
const SMALL: usize = 4096;
/// Frames of a measurement, and how many of them are on their way at a time.
const FRAMES: usize = 256;
const UNDER_WAY: usize = 64;
/// How long a frame may take.
const PATIENCE: u64 = time::SECOND;
/// Bytes of an Ethernet header, and of one with those of IPv4 and TCP.
const HEADER: usize = 14;
const HEADERS: usize = 54;
/// Payload of a TCP packet that nobody cuts, and of the segments that somebody could cut it into.
const PAYLOAD: usize = 32 * 1024;
const SEGMENT: u16 = 1448;

fn run() {
    if let Err(error) = task::run(measure()) {
        println!("bench: FAILED: {error}");
    }
    println!("bench: done");
}

async fn measure() -> Result<(), String> {
    let store = Store::connect().map_err(text)?;
    let disks = store.list("device/vbd").await.unwrap_or_default();
    match disks.iter().min() {
        Some(id) => disk(&Block::connect(&store, id).await.map_err(text)?).await?,
        None => skip(&["block_read_kib", "block_read_4k", "block_write_kib"]),
    }
    let mut interfaces = store.list("device/vif").await.unwrap_or_default();
    interfaces.sort();
    match interfaces.as_slice() {
        [first, second, ..] => {
            let from = Net::connect(&store, first).await.map_err(text)?;
            let to = Net::connect(&store, second).await.map_err(text)?;
            network(&from, &to).await
        }
        _ => {
            skip(&["net_frame_1514", "net_frame_60", "net_alone_60", "net_large_kib"]);
            Ok(())
        }
    }
}

fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}

fn skip(names: &[&str]) {
    for name in names {
        println!("bench: {name} skipped");
    }
}

/// Prints the median of what was measured.
fn report(name: &str, mut samples: Vec<u64>) {
    samples.sort_unstable();
    match samples.get(samples.len() / 2) {
        Some(median) => println!("bench: {name} {median}"),
        None => skip(&[name]),
    }
}

async fn disk(block: &Block) -> Result<(), String> {
    let geometry = block.geometry();
    let sectors = |bytes: usize| (bytes / SECTOR) as u64;
    let places = (geometry.sectors / sectors(LARGE)).max(1);
    if geometry.sectors < sectors(LARGE) {
        return Err("the disk is smaller than 1 MiB".into());
    }
    let mut buffer = vec![0; LARGE];
    let (mut reads, mut writes, mut small) = (Vec::new(), Vec::new(), Vec::new());
    // The first round makes the pages that the others use again.
    for round in 0..=SAMPLES as u64 {
        let at = round % places * sectors(LARGE);
        let begun = machine::tsc();
        block.read(at, &mut buffer).await.map_err(text)?;
        let read = machine::tsc();
        if !geometry.read_only {
            block.write(at, &buffer).await.map_err(text)?;
        }
        let written = machine::tsc();
        let part = buffer.get_mut(..SMALL).unwrap_or_default();
        block.read(at, part).await.map_err(text)?;
        if round > 0 {
            reads.push((read - begun) / (LARGE / 1024) as u64);
            writes.push((written - read) / (LARGE / 1024) as u64);
            small.push(machine::tsc() - written);
        }
    }
    if geometry.read_only {
        writes.clear();
    }
    report("block_read_kib", reads);
    report("block_read_4k", small);
    report("block_write_kib", writes);
    Ok(())
}

async fn network(from: &Net, to: &Net) -> Result<(), String> {
    // The bridge learns where `to` is.
    exchange(to, from, &plain(to, from, 60), 1, 1).await?;
    for (name, length) in [("net_frame_1514", 1514), ("net_frame_60", 60)] {
        let frame = plain(from, to, length);
        report(name, samples(from, to, &frame, FRAMES, UNDER_WAY, FRAMES).await?);
    }
    report("net_alone_60", samples(from, to, &plain(from, to, 60), FRAMES, 1, FRAMES).await?);
    if from.features().segmentation_ipv4 {
        let kibibytes = FRAMES / 8 * PAYLOAD / 1024;
        report("net_large_kib", samples(from, to, &large(from, to), FRAMES / 8, 8, kibibytes).await?);
    } else {
        skip(&["net_large_kib"]);
    }
    Ok(())
}

/// Ticks of exchanges of `count` frames, per one of `units`.
async fn samples(
    from: &Net,
    to: &Net,
    frame: &Frame,
    count: usize,
    under_way: usize,
    units: usize,
) -> Result<Vec<u64>, String> {
    let mut samples = Vec::new();
    for round in 0..=SAMPLES {
        let begun = machine::tsc();
        exchange(from, to, frame, count, under_way).await?;
        if round > 0 {
            samples.push((machine::tsc() - begun) / units as u64);
        }
    }
    Ok(samples)
}

/// Sends `count` frames and receives their contents, whole or in segments; no more than `under_way` frames are sent
/// before they have come.
async fn exchange(from: &Net, to: &Net, frame: &Frame, count: usize, under_way: usize) -> Result<(), String> {
    let headers = if frame.segment.is_some() { HEADERS } else { HEADER };
    let contents = frame.bytes.len() - headers;
    let (mut sent, mut received) = (0, 0);
    while received < count * contents {
        while sent < count && sent * contents < received + under_way * contents && from.has_room() {
            from.try_send(frame.clone()).map_err(text)?;
            sent += 1;
        }
        let came = match task::timeout(PATIENCE, to.receive()).await {
            Ok(came) => came.map_err(text)?,
            Err(_) => return Err(alloc::format!("{sent} frames sent, but only {received} bytes came")),
        };
        // What others say on the bridge counts for nothing.
        if came.bytes.get(..HEADER) == frame.bytes.get(..HEADER) {
            received += came.bytes.len().saturating_sub(headers);
        }
    }
    Ok(())
}

/// A frame of a type that nobody else uses.
fn plain(from: &Net, to: &Net, length: usize) -> Frame {
    let mut bytes = [to.mac(), from.mac()].concat();
    // The first of the types for experiments (IEEE 802).
    bytes.extend([0x88, 0xb5]);
    bytes.resize(length, 0x5a);
    Frame::new(bytes)
}

/// A TCP packet that is longer than the network's.
fn large(from: &Net, to: &Net) -> Frame {
    let mut bytes = [to.mac(), from.mac()].concat();
    bytes.extend([0x08, 0x00, 0x45, 0]);
    bytes.extend(((HEADERS - HEADER + PAYLOAD) as u16).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    let sum: u32 = bytes
        .get(HEADER..)
        .unwrap_or_default()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        })
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    if let Some(field) = bytes.get_mut(HEADER + 10..HEADER + 12) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    // Ports of the range for experiments, no options, an acknowledgement.
    bytes.extend([0xc0, 0, 0xc0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.resize(HEADERS + PAYLOAD, 0x5a);
    Frame { segment: Some(SEGMENT), ..Frame::blank(bytes) }
}
