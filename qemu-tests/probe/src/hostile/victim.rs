//! A guest whose disk is served by another guest, which may lie. It connects again and again, uses the disk as far as
//! that goes, and counts what it is told.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;

use oxen_domu_lib::frontend::block::{Block, BlockError, SECTOR};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::{memory, println, task, time};

/// How long an answer may take: this backend does not always give one. In nanoseconds.
const PATIENCE: u64 = time::SECOND;
/// Transfers of a connection at most.
const TRANSFERS: u64 = 100;
/// Bytes of a transfer.
const PIECE: usize = 48 << 10;

/// Uses the first disk until the time is over.
pub(crate) async fn use_disk(store: &Store, until: u64) {
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    let mut rounds = 0;
    let mut free = None;
    while time::now() < until {
        let Some(id) = store.list("device/vbd").await.unwrap_or_default().into_iter().next() else {
            time::sleep(10 * time::MILLISECOND).await;
            continue;
        };
        rounds += 1;
        match Block::connect(store, &id).await {
            Ok(block) => transfers(&block, &mut told).await,
            Err(error) => count(&mut told, &error.to_string()),
        }
        // What the backend keeps mapped cannot be free; what it has let go must be.
        if rounds == 20 {
            free = Some(memory::pool::free_pages());
        }
        time::sleep(5 * time::MILLISECOND).await;
    }
    for (what, times) in &told {
        println!("probe: told {times} times: {what}");
    }
    let now = memory::pool::free_pages();
    println!("probe: lived through {rounds} connections, {} pages fewer", free.unwrap_or(now).saturating_sub(now));
}

fn count(told: &mut BTreeMap<String, u64>, what: &str) {
    // Numbers that were drawn make no other kind of message.
    let kind: String = what.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
    *told.entry(kind.replace("##", "#").replace("##", "#").replace("##", "#")).or_default() += 1;
}

async fn transfers(block: &Block, told: &mut BTreeMap<String, u64>) {
    let mut bytes = vec![0x5a; PIECE];
    for number in 0..TRANSFERS {
        let at = number % 16 * (PIECE / SECTOR) as u64;
        let work = async {
            match number % 4 {
                0 => block.write(at, &bytes).await,
                1 => block.flush().await,
                2 => block.discard(at, 8).await,
                _ => block.read(at, &mut bytes).await,
            }
        };
        match task::timeout(PATIENCE, work).await {
            Ok(Ok(())) => count(told, "done"),
            Ok(Err(error)) => {
                count(told, &error.to_string());
                if matches!(error, BlockError::Closed | BlockError::Protocol(_)) {
                    return;
                }
            }
            Err(_) => count(told, "no answer yet"),
        }
    }
}
