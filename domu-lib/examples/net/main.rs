//! A guest with a network: it gets an address, pings, fetches and serves.
//!
//! It asks for an address by DHCP, or takes `ip=10.0.0.2/24 gateway=10.0.0.1`. It pings the gateway, or who `ping=`
//! names, and prints the round trips. `fetch=http://10.0.2.2:8000/file` fetches a file and prints its length and its
//! SHA-256. On port 80 it serves a page that says who it is, and at `/bytes/N` so many bytes of a pattern, whose
//! SHA-256 it prints. With `halt` it powers off when it has pinged and fetched; without, when the toolstack asks. With
//! `again` it begins by closing the device and connecting it once more. `clients=N` says how many it serves at a time
//! (8): each takes 256 KiB. With `disk` it first reads all of its first disk, and prints its length and its SHA-256.
//!
//! A run in which something failed prints a line with `FAILED`; the others end with `net: done`.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod disk;
mod http;
mod stack;

use alloc::format;
use alloc::string::{String, ToString};

use oxen_domu_lib::frontend::net::Net;
use oxen_domu_lib::frontend::{balloon, control};
use oxen_domu_lib::ip::link::NetLink;
use oxen_domu_lib::ip::smoltcp::wire::{Ipv4Address, Ipv4Cidr};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::sync::Channel;
use oxen_domu_lib::{entry, println, start_info, task, time};

use crate::stack::Stack;

entry!(run);

/// Echoes that are sent.
const PINGS: u16 = 3;
/// How long an answer, or a lease, may take.
const PATIENCE: u64 = 20 * time::SECOND;
/// Clients that are served at a time, unless the command line says otherwise.
const CLIENTS: usize = 8;

fn run() {
    match task::run(story()) {
        Ok(()) => println!("net: done"),
        Err(error) => println!("net: FAILED: {error}"),
    }
}

async fn story() -> Result<(), String> {
    let store = Store::connect().map_err(|error| error.to_string())?;
    task::spawn(control::obey(store.clone()));
    task::spawn(balloon::follow(store.clone()));
    let name = store.read("name").await.unwrap_or_default();
    if start_info::option("disk").is_some() {
        println!("net: disk of {}", disk::read(&store).await?);
    }
    let mut net = Net::connect(&store, "0").await.map_err(|error| error.to_string())?;
    if start_info::option("again").is_some() {
        net.close().await;
        println!("net: closed, and connecting again");
        net = Net::connect(&store, "0").await.map_err(|error| error.to_string())?;
    }
    let net = NetLink::new(net);
    println!("net: {} mtu {} {:?}", mac(net.mac()), net.mtu(), net.features());
    let stack = Stack::new(net.clone(), net.mac(), time::now);
    let driver = task::spawn(stack.clone().drive());
    task::spawn(stack::announce(stack.clone(), net.clone()));
    let work = async {
        let gateway = address(&stack).await?;
        let clients = start_info::option("clients").and_then(|count| count.parse().ok());
        for _ in 0..clients.unwrap_or(CLIENTS) {
            task::spawn(http::serve(stack.clone(), name.clone()));
        }
        println!("net: serving http on port 80");
        ping(&stack, gateway).await?;
        if let Some(url) = start_info::option("fetch") {
            let what = http::fetch(&stack, &url).await.map_err(|error| format!("fetch {url}: {error}"))?;
            println!("net: fetched {url}: {what}");
        }
        if start_info::option("halt").is_none() {
            core::future::pending::<()>().await;
        }
        println!("net: {:?}", net.counters());
        Ok(())
    };
    match task::select(work, driver).await {
        task::Either::First(result) => result,
        task::Either::Second(error) => Err(error.to_string()),
    }
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Takes an address, the command line's or a lease; answers the gateway's.
async fn address(stack: &Stack) -> Result<Option<Ipv4Address>, String> {
    if let Some(text) = start_info::option("ip") {
        let address: Ipv4Cidr = text.parse().map_err(|()| format!("ip={text} is not a.b.c.d/n"))?;
        let gateway = match start_info::option("gateway") {
            Some(text) => Some(text.parse().map_err(|_| format!("gateway={text} is not a.b.c.d"))?),
            None => None,
        };
        stack.configure(Some(address), gateway);
        println!("net: address {address}, gateway {}", shown(gateway));
        return Ok(gateway);
    }
    let (sender, leases) = Channel::pair();
    task::spawn(stack.clone().follow_leases(move |lease| match lease {
        Some((address, gateway)) => {
            println!("net: lease {address}, gateway {}", shown(gateway));
            sender.send(gateway);
        }
        None => println!("net: the lease is over"),
    }));
    match task::timeout(PATIENCE, leases.receive()).await {
        Ok(Some(gateway)) => Ok(gateway),
        _ => Err("no lease".into()),
    }
}

fn shown(address: Option<Ipv4Address>) -> String {
    address.map_or_else(|| "none".into(), |address| address.to_string())
}

/// Pings the gateway, or who the command line names.
async fn ping(stack: &Stack, gateway: Option<Ipv4Address>) -> Result<(), String> {
    let target = match start_info::option("ping") {
        Some(text) => Some(text.parse().map_err(|_| format!("ping={text} is not a.b.c.d"))?),
        None => gateway,
    };
    let Some(target) = target else { return Ok(()) };
    for count in 1..=PINGS {
        match task::timeout(PATIENCE, stack::ping(stack, target, count)).await {
            Ok(trip) => println!("net: ping {target} {count}: {}.{:03} ms", trip / 1_000_000, trip / 1000 % 1000),
            Err(_) => return Err(format!("ping {target}: no answer to echo {count}")),
        }
    }
    Ok(())
}
