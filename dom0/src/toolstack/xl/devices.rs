//! Commands about guests' devices: shown with xl's columns, given and taken away while the guest runs.

use alloc::{format, rc::Rc, string::String};

use anyhow::{Context, Result};
use oxen_domu_lib::println;

use super::{Call, Outcome, guest, memory, usage};
use crate::backend::{block::device::BlockDevice, device::Driver, net::device::NetDevice};
use crate::bridge::Mac;
use crate::config::{
    disk::{Disk, device_number},
    vif::Interface,
};
use crate::guest_text;
use crate::toolstack::guest::Guest;
use crate::toolstack::{lifecycle, room};

/// `block-list`.
pub(super) async fn block_list(call: Call) -> Outcome {
    let (_, guest) = call.guest("block-list")?;
    println!(
        "{:<6} {:<8} {:<6} {:>5} {:>10} {:>12} {:>12} {:>7}  BE-path",
        "Vdev", "Target", "Mode", "State", "Requests", "Read(KiB)", "Written(KiB)", "Errors"
    );
    for disk in guest.disks.borrow().iter() {
        let (config, counts) = (&disk.driver.config, &disk.driver.counts);
        let mode = if config.writable { "w" } else { "r" };
        println!(
            "{:<6} {:<8} {mode:<6} {:>5} {:>10} {:>12} {:>12} {:>7}  {}",
            config.number,
            config.target,
            disk.state().as_text(),
            counts.requests.get(),
            counts.read.get() >> 10,
            counts.written.get() >> 10,
            counts.errors.get(),
            disk.back
        );
    }
    Ok(())
}

/// `network-list`: xl's columns, and what went through behind them.
pub(super) async fn network_list(call: Call) -> Outcome {
    let (system, guest) = call.guest("network-list")?;
    println!(
        "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<11} {:<30} {:>9} {:>9} {:>9} {:>9} {:>7} {:>6}",
        "Idx",
        "BE",
        "Mac Addr.",
        "handle",
        "state",
        "evt-ch",
        "tx-",
        "rx-ring-ref",
        "BE-path",
        "sent",
        "KiB",
        "received",
        "KiB",
        "dropped",
        "errors"
    );
    for vif in guest.vifs.borrow().iter() {
        // These are the guest's own words.
        let node = |name: &str| {
            let value = system.store.read(&format!("{}/{name}", vif.front));
            value.map_or_else(|_| "-1".into(), |value| format!("{}", guest_text::quoted(&value)))
        };
        let (number, counts) = (vif.driver.number(), vif.driver.port.counts());
        println!(
            "{number:<3} {:<2} {:<17} {number:>6} {:>5} {:>6} {:>5}/{:<11} {:<30} {:>9} {:>9} {:>9} {:>9} {:>7} {:>6}",
            0,
            vif.driver.mac,
            vif.state().as_text(),
            node("event-channel"),
            node("tx-ring-ref"),
            node("rx-ring-ref"),
            vif.back,
            counts.sent.get(),
            counts.sent_bytes.get() >> 10,
            counts.received.get(),
            counts.received_bytes.get() >> 10,
            counts.dropped.get(),
            counts.malformed.get(),
        );
    }
    Ok(())
}

/// The guest that the first word names, and the other words as one text with `between` between them.
fn guest_and_rest(call: &Call, verb: &str, between: &str) -> Result<(Rc<Guest>, String)> {
    let (name, rest) = call.args.split_first().ok_or_else(|| usage(verb))?;
    Ok((guest(&call.system, name)?, rest.join(between)))
}

/// `network-attach`.
pub(super) async fn network_attach(call: Call) -> Outcome {
    let (guest, text) = guest_and_rest(&call, "network-attach", ",")?;
    let config = Interface::parse(&text)?;
    let (bridge, purses) = (&call.system.bridge, call.system.store.purses());
    let more = bridge.memory(1) - bridge.memory(0);
    room::allow("another interface", more, room::spare(purses, bridge.memory(0)))?;
    lifecycle::attach_vif(&call.system, &guest, &config)
}

/// `network-detach`: by number or by address.
pub(super) async fn network_detach(call: Call) -> Outcome {
    let (guest, vif) = interface(call, "network-detach")?;
    guest.vifs.borrow_mut().retain(|other| !Rc::ptr_eq(other, &vif));
    vif.unplug().await
}

/// `block-attach`.
pub(super) async fn block_attach(call: Call) -> Outcome {
    let (guest, text) = guest_and_rest(&call, "block-attach", ",")?;
    lifecycle::attach_disk(&call.system, &guest, &Disk::parse(&text)?)
}

/// `block-resize`: a new size for a disk in memory; without one, that of a disk of the machine is looked at again.
pub(super) async fn block_resize(mut call: Call) -> Outcome {
    let size = if call.args.len() == 3 { call.args.pop().map(|text| memory::kib(&text)).transpose()? } else { None };
    let (system, [name, vdev]) = call.exactly("block-resize")?;
    let guest = guest(&system, &name)?;
    let number = device_number(&vdev);
    let disk = guest.disks.borrow().iter().find(|disk| Some(disk.driver.config.number) == number).cloned();
    let disk = disk.with_context(|| format!("`{name}` has no disk `{vdev}`"))?;
    // While the disk moves it is there twice.
    if let Some(bytes) = size.map(|kib| usize::try_from(kib.saturating_mul(1 << 10)).unwrap_or(usize::MAX)) {
        room::allow(&vdev, bytes, room::spare(system.store.purses(), system.bridge.memory(0)))?;
    }
    let sectors = disk.resize(size.map(|kib| kib.saturating_mul(2)))?;
    println!("{vdev} has {sectors} sectors, {} MiB", sectors >> 11);
    Ok(())
}

/// `block-detach`: by number or by name.
pub(super) async fn block_detach(call: Call) -> Outcome {
    let (guest, disk) = disk(call, "block-detach")?;
    guest.disks.borrow_mut().retain(|other| !Rc::ptr_eq(other, &disk));
    disk.unplug().await
}

/// `block-restart`: by number or by name.
pub(super) async fn block_restart(call: Call) -> Outcome {
    disk(call, "block-restart")?.1.restart().await
}

/// `network-restart`: by number or by address.
pub(super) async fn network_restart(call: Call) -> Outcome {
    interface(call, "network-restart")?.1.restart().await
}

/// The guest and its disk, by number or by name.
fn disk(call: Call, verb: &str) -> Result<(Rc<Guest>, Rc<BlockDevice>)> {
    let (guest, wanted) = guest_and_device(call, verb)?;
    let number = device_number(&wanted);
    let disk = guest.disks.borrow().iter().find(|disk| Some(disk.driver.number()) == number).cloned();
    let disk = disk.with_context(|| format!("`{}` has no disk `{wanted}`", guest.name()))?;
    Ok((guest, disk))
}

/// The guest and its interface, by number or by address.
fn interface(call: Call, verb: &str) -> Result<(Rc<Guest>, Rc<NetDevice>)> {
    let (guest, wanted) = guest_and_device(call, verb)?;
    let (number, mac) = (wanted.parse::<u32>().ok(), Mac::parse(&wanted));
    let is_wanted = |vif: &&Rc<NetDevice>| Some(vif.driver.number()) == number || Some(vif.driver.mac) == mac;
    let vif = guest.vifs.borrow().iter().find(is_wanted).cloned();
    let vif = vif.with_context(|| format!("`{}` has no interface `{wanted}`", guest.name()))?;
    Ok((guest, vif))
}

fn guest_and_device(call: Call, verb: &str) -> Result<(Rc<Guest>, String)> {
    let (system, [name, device]) = call.exactly(verb)?;
    Ok((guest(&system, &name)?, device))
}
