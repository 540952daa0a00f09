//! As many requests to the store as it takes: great values, transactions, listings, and watches on a node below which
//! all of it happens, from several tasks at once.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use oxen_domu_lib::store::{Error, Store};
use oxen_domu_lib::{println, task, time};

/// Tasks that ask.
const TASKS: usize = 8;
/// Nodes that each of them writes, one after the other.
const NODES: usize = 64;

/// Watches of each task at a time: all that a domain may have, together.
const WATCHES: usize = 14;

/// Asks until the time is over.
pub(crate) async fn flood(store: &Store, until: u64) {
    let done = Rc::new(Cell::new(0_u64));
    let askers: Vec<_> = (0..TASKS).map(|task| task::spawn(ask(store.clone(), task, until, done.clone()))).collect();
    for asker in askers {
        asker.await;
    }
    println!("probe: {} rounds with the store", done.get());
}

async fn ask(store: Store, task: usize, until: u64, done: Rc<Cell<u64>>) {
    let value = "x".repeat(1500);
    for round in 0.. {
        if time::now() >= until {
            return;
        }
        let mut watches = Vec::with_capacity(WATCHES);
        for _ in 0..WATCHES {
            watches.extend(store.watch("data").await.ok());
        }
        // What is refused is as good: it was work.
        let _ = store.write(&format!("data/{task}-{}", round % NODES), &value).await;
        let _ = store.list("data").await;
        let _ = transaction(&store, task, &value).await;
        done.set(done.get() + 1);
        task::yield_now().await;
    }
}

async fn transaction(store: &Store, task: usize, value: &str) -> Result<(), Error> {
    let transaction = store.begin().await?;
    for node in 0..8 {
        transaction.write(&format!("data/{task}-{node}"), value).await?;
    }
    transaction.commit().await
}
