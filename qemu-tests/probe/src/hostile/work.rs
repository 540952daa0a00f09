//! A guest that behaves: round after round it writes to its disk and reads that back, sends frames from its first
//! interface to its second, and writes nodes into the store and reads them. It says how many rounds it has done, and
//! that all was right.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use oxen_domu_lib::frontend::block::{Block, SECTOR};
use oxen_domu_lib::frontend::net::{Frame, Net};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::{println, task, time};

/// Bytes that a round writes, and how many places on the disk they go to in turn.
const PIECE: usize = 256 << 10;
const PLACES: u64 = 8;
/// Frames of a round, and the bytes of each.
const FRAMES: usize = 16;
const LENGTH: usize = 1514;
/// How long a frame may take, in nanoseconds.
const PATIENCE: u64 = 10 * time::SECOND;
/// Nodes of a round.
const NODES: u64 = 2;

/// Works until the time is over.
pub(crate) async fn work(store: &Store, until: u64) {
    match rounds(store, until).await {
        Ok(rounds) => println!("probe: worked {rounds} rounds, all of them right"),
        Err(error) => println!("probe: FAILED to work: {error}"),
    }
}

fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}

/// Works with the store alone until the time is over.
pub(crate) async fn work_with_nodes(store: &Store, until: u64) {
    let mut round = 0;
    while time::now() < until {
        if let Err(error) = nodes(store, round).await {
            println!("probe: FAILED to work: {error}");
            return;
        }
        round += 1;
    }
    println!("probe: worked {round} rounds, all of them right");
}

async fn rounds(store: &Store, until: u64) -> Result<u64, String> {
    let disks = store.list("device/vbd").await.map_err(text)?;
    let block = Block::connect(store, disks.first().ok_or("no disk")?).await.map_err(text)?;
    let from = Net::connect(store, "0").await.map_err(text)?;
    let to = Net::connect(store, "1").await.map_err(text)?;
    let mut round = 0;
    while time::now() < until {
        disk(&block, round).await?;
        network(&from, &to, round).await?;
        nodes(store, round).await?;
        round += 1;
    }
    Ok(round)
}

/// Writes a piece and reads it back.
async fn disk(block: &Block, round: u64) -> Result<(), String> {
    let at = round % PLACES * (PIECE / SECTOR) as u64;
    let piece: Vec<u8> = (0..PIECE as u64 / 8).flat_map(|word| (word ^ round << 32).to_le_bytes()).collect();
    block.write(at, &piece).await.map_err(text)?;
    let mut read = vec![0; PIECE];
    block.read(at, &mut read).await.map_err(text)?;
    if read == piece { Ok(()) } else { Err(format!("round {round}: the disk reads otherwise")) }
}

/// Sends frames from one interface to the other, which come in their order.
async fn network(from: &Net, to: &Net, round: u64) -> Result<(), String> {
    // The first of the types for experiments (IEEE 802), and what tells the rounds apart.
    let mut bytes = [to.mac(), from.mac()].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.extend(round.to_le_bytes());
    bytes.resize(LENGTH, 0x5a);
    let frame = Frame::new(bytes);
    for _ in 0..FRAMES {
        from.send(frame.clone()).await.map_err(text)?;
    }
    let mut came = 0;
    while came < FRAMES {
        let Ok(next) = task::timeout(PATIENCE, to.receive()).await else {
            return Err(format!("round {round}: {came} of {FRAMES} frames came"));
        };
        // What others say on the bridge counts for nothing.
        let next = next.map_err(text)?;
        if next.bytes.get(..14) == frame.bytes.get(..14) {
            came += 1;
            if next.bytes != frame.bytes {
                return Err(format!("round {round}: a frame came damaged"));
            }
        }
    }
    Ok(())
}

/// Writes nodes and reads them back.
async fn nodes(store: &Store, round: u64) -> Result<(), String> {
    for node in 0..NODES {
        let (path, value) = (format!("data/work-{node}"), format!("{round}"));
        store.write(&path, &value).await.map_err(text)?;
        let read = store.read(&path).await.map_err(text)?;
        if read != value {
            return Err(format!("{path} is {read}, not {value}"));
        }
    }
    Ok(())
}
