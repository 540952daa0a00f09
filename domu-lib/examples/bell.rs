//! Two guests that ring each other in turns, through an event channel of their own and with nothing else to wake them.
//!
//! `peer=DOMID` names the other one. It says by xenstore which port it left open; the one that has `bind` as well binds
//! to the other's, and begins. With `events=fifo` its events come in queues, this port's before the usual ones.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_domu_lib::event::{self, Port};
use oxen_domu_lib::store::{Error, Store};
use oxen_domu_lib::{entry, println, start_info, task, time};

entry!(run);

/// How often each rings.
const ROUNDS: u32 = 1000;
/// Where a guest says which port it left open.
const PATH: &str = "data/bell";

fn run() {
    match task::run(rounds()) {
        Ok(()) => println!("bell: rang {ROUNDS} times"),
        Err(error) => println!("bell: FAILED: {error}"),
    }
}

async fn rounds() -> Result<(), String> {
    let store = Store::connect().map_err(text)?;
    let peer = start_info::option("peer").and_then(|number| number.parse().ok()).ok_or("peer=DOMID is missing")?;
    let refused = |errno: Errno| format!("the event channel: {errno}");
    let port = if start_info::option("bind").is_some() {
        let remote = opened(&store, peer).await?;
        Port::bind_interdomain(DomId(peer), remote).map_err(refused)?
    } else {
        let port = Port::alloc_unbound(DomId(peer)).map_err(refused)?;
        let own = store.read("domid").await.map_err(text)?;
        store.write(PATH, &port.number().to_string()).await.map_err(text)?;
        store.set_permissions(PATH, &[&format!("n{own}"), &format!("r{peer}")]).await.map_err(text)?;
        port
    };
    println!("bell: has port {}", port.number());
    if event::has_queues() {
        port.set_priority(3).map_err(refused)?;
        println!("bell: its events come in queues");
    }
    for _ in 0..ROUNDS {
        // The first event of who binds is that of being bound: Xen's promise that none was lost before.
        port.wait().await;
        port.notify();
    }
    Ok(())
}

/// Waits until the other has left a port open.
async fn opened(store: &Store, peer: u16) -> Result<u32, String> {
    let path = format!("/local/domain/{peer}/{PATH}");
    loop {
        match store.read(&path).await {
            Ok(port) => return port.parse().map_err(|_| format!("`{port}` is no port")),
            Err(Error::Refused(_)) => time::sleep(50 * time::MILLISECOND).await,
            Err(error) => return Err(text(error)),
        }
    }
}

fn text(error: Error) -> String {
    error.to_string()
}
