//! The guest's disk, if it is asked for: read from its first byte to its last.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;

use oxen_domu_lib::frontend::block::{Block, SECTOR};
use oxen_domu_lib::store::Store;
use sha2::{Digest, Sha256};

use crate::http::hex;

/// Sectors that are read at a time.
const STEP: u64 = 128;

/// Reads the first disk; says how long it is and what its sum is.
pub(crate) async fn read(store: &Store) -> Result<String, String> {
    let disks = store.list("device/vbd").await.unwrap_or_default();
    let id = disks.iter().min().ok_or("there is no disk")?;
    let block = Block::connect(store, id).await.map_err(|error| error.to_string())?;
    let sectors = block.geometry().sectors;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; STEP as usize * SECTOR];
    let mut at = 0;
    while at < sectors {
        let count = STEP.min(sectors - at);
        let part = buffer.get_mut(..count as usize * SECTOR).unwrap_or_default();
        block.read(at, part).await.map_err(|error| format!("sector {at}: {error}"))?;
        digest.update(&*part);
        at += count;
    }
    Ok(format!("{} bytes, sha256 {}", sectors * SECTOR as u64, hex(digest)))
}
