//! A guest that keeps journals on its first disk, so that the host can tell what has to be there whenever it stops the
//! machine. Each of `writers=N` (8) tasks writes records in turn to places of its own: `places=N` (16) of 16 KiB. After
//! each it flushes and says so, until it has written `records=N` (64), or for good with `records=0`. Then all is read
//! back.
//!
//! Word *i* of record *n* of writer *w* is the number *w* × 2^56 + *n* × 2^16 + *i*, times 0x9e3779b97f4a7c15 modulo
//! 2^64, little-endian. Records count from 1. What the disk refuses is said, and left out.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use oxen_domu_lib::frontend::block::{Block, BlockError, SECTOR};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::{println, start_info, task, time};

/// Bytes of a record.
const RECORD: usize = 16 << 10;
/// What words are multiplied by.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// How long a request may take before the guest says that it hangs, in nanoseconds.
const PATIENCE: u64 = 60 * time::SECOND;

/// What is written where.
#[derive(Clone, Copy)]
struct Plan {
    writers: u64,
    places: u64,
    records: u64,
}

impl Plan {
    fn sector(self, writer: u64, record: u64) -> u64 {
        (writer * self.places + record % self.places) * (RECORD / SECTOR) as u64
    }

    fn contents(writer: u64, record: u64) -> Vec<u8> {
        let word = |index: u64| (writer << 56 | record << 16 | index).wrapping_mul(FACTOR);
        (0..(RECORD / 8) as u64).flat_map(|index| word(index).to_le_bytes()).collect()
    }
}

fn number(name: &str, default: u64) -> u64 {
    start_info::option(name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Writes the journals.
pub(crate) async fn keep(store: &Store) {
    let plan = Plan { writers: number("writers", 8), places: number("places", 16), records: number("records", 64) };
    let disks = store.list("device/vbd").await.unwrap_or_default();
    let Some(first) = disks.first() else {
        println!("probe: no disk");
        return;
    };
    let block = match Block::connect(store, first).await {
        Ok(block) => Rc::new(block),
        Err(error) => {
            println!("probe: no disk: {error}");
            return;
        }
    };
    println!("probe: keeps {} journals", plan.writers);
    let refused = Rc::new(Cell::new(0_u64));
    let writers: Vec<_> =
        (0..plan.writers).map(|writer| task::spawn(write(block.clone(), plan, writer, refused.clone()))).collect();
    let mut kept = Vec::new();
    for (writer, task) in (0..).zip(writers) {
        kept.push((writer, task.await));
    }
    let mut wrong = 0;
    for (writer, places) in kept {
        for record in places.into_iter().flatten() {
            let mut read = vec![0; RECORD];
            let done = block.read(plan.sector(writer, record), &mut read).await;
            if let Err(error) = done {
                println!("probe: record {record} of writer {writer} is not read: {error}");
                refused.set(refused.get() + 1);
            } else if read != Plan::contents(writer, record) {
                wrong += 1;
            }
        }
    }
    println!("probe: journals kept, {wrong} records wrong, {} refused", refused.get());
}

/// Writes one journal; returns the last record of each place, where there is one for sure.
async fn write(block: Rc<Block>, plan: Plan, writer: u64, refused: Rc<Cell<u64>>) -> Vec<Option<u64>> {
    let mut places = vec![None; plan.places as usize];
    let mut record = 0;
    while plan.records == 0 || record < plan.records {
        record += 1;
        let contents = Plan::contents(writer, record);
        let done = async {
            block.write(plan.sector(writer, record), &contents).await?;
            block.flush().await
        };
        let outcome = match task::timeout(PATIENCE, done).await {
            Ok(Ok(())) => {
                println!("probe: durable {writer} {record}");
                Some(record)
            }
            Ok(Err(error)) => {
                println!("probe: record {record} of writer {writer}: {error}");
                refused.set(refused.get() + 1);
                if error == BlockError::Closed {
                    break;
                }
                // A disk that is ill may get well.
                time::sleep(10 * time::MILLISECOND).await;
                None
            }
            Err(_) => {
                println!("probe: FAILED: record {record} of writer {writer} hangs");
                break;
            }
        };
        if let Some(place) = places.get_mut((record % plan.places) as usize) {
            *place = outcome;
        }
    }
    places
}
