//! A guest that takes of the store what it can get, and keeps it.

use alloc::format;
use alloc::vec::Vec;

use oxen_domu_lib::store::{Store, Transaction, Watch};
use oxen_domu_lib::{println, task, time};

/// Nodes that are tried: as many as Xen's quota leaves to a guest.
const NODES: usize = 950;
/// Writes that are tried in each transaction.
const WRITES: usize = 260;
/// Watches that are tried.
const WATCHES: usize = 128;

/// Takes nodes, watches and transactions until each is refused, says how many they are, and waits for ever.
pub(crate) fn take_the_store() {
    task::run(async {
        let Ok(store) = Store::connect() else {
            println!("probe: there is no store");
            return;
        };
        let value = "v".repeat(1980);
        let nodes = fill(&store, &value).await;
        let (open, writes) = copies(&store, &value).await;
        let watches = watches(&store).await;
        println!(
            "probe: holds {nodes} nodes, {} transactions with {writes} writes, {} watches",
            open.len(),
            watches.len()
        );
        loop {
            time::sleep(time::SECOND).await;
        }
    });
}

/// The name of the node of this number, few of them below each.
fn name(number: usize) -> alloc::string::String {
    format!("data/{}/{}", number / 10, number % 10)
}

async fn fill(store: &Store, value: &str) -> usize {
    let mut nodes = 0;
    for number in 0..NODES {
        nodes += usize::from(store.write(&name(number), value).await.is_ok());
    }
    nodes
}

/// Transactions that are never ended, with private copies of as many nodes as they may touch.
async fn copies(store: &Store, value: &str) -> (Vec<Transaction>, usize) {
    let (mut open, mut writes) = (Vec::new(), 0);
    while let Ok(transaction) = store.begin().await {
        for number in 0..WRITES {
            if transaction.write(&name(number), value).await.is_err() {
                break;
            }
            writes += 1;
        }
        open.push(transaction);
    }
    (open, writes)
}

async fn watches(store: &Store) -> Vec<Watch> {
    let mut watches = Vec::new();
    for number in 0..WATCHES {
        watches.extend(store.watch(&format!("data/{number}/{}", "w".repeat(900))).await);
    }
    watches
}
