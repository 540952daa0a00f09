//! `brctl`: the bridge as bridge-utils show one. `ifconfig`: dom0's own place at it.

use alloc::format;

use anyhow::{Context, ensure};
use oxen_domu_lib::{println, time};

use super::{Call, Outcome, usage};
use crate::config::vif::BRIDGE;

/// `brctl`.
pub(super) async fn brctl(call: Call) -> Outcome {
    let (system, words) = (&call.system, &call.args);
    let (what, name) = match words.as_slice() {
        [what] => (what, BRIDGE),
        [what, name] => (what, name.as_str()),
        _ => return Err(usage("brctl")),
    };
    ensure!(name == BRIDGE, "no bridge `{name}`; there is {BRIDGE}");
    match what.as_str() {
        "show" => {
            println!(
                "{:<16}{:<16}{:<16}{:>10} {:>10} {:>10} {:>10} {:>8} {:>8}",
                "bridge name", "STP enabled", "interfaces", "sent", "KiB", "received", "KiB", "dropped", "errors"
            );
            let mut first = (BRIDGE, "no");
            for port in system.bridge.ports() {
                let ((sent, sent_bytes), (received, received_bytes)) = (port.sent, port.received);
                println!(
                    "{:<16}{:<16}{:<16}{sent:>10} {:>10} {received:>10} {:>10} {:>8} {:>8}",
                    first.0,
                    first.1,
                    port.name,
                    sent_bytes >> 10,
                    received_bytes >> 10,
                    port.dropped,
                    port.malformed
                );
                first = ("", "");
            }
            Ok(())
        }
        "showmacs" => {
            println!("{:<16}{:<24}ageing timer", "port", "mac addr");
            for seen in system.bridge.addresses() {
                let hundredths = seen.age / (time::SECOND / 100);
                let age = format!("{}.{:02}", hundredths / 100, hundredths % 100);
                println!("{:<16}{:<24}{age:>12}", seen.port, format!("{}", seen.address));
            }
            Ok(())
        }
        _ => Err(usage("brctl")),
    }
}

/// `ifconfig`.
pub(super) async fn ifconfig(call: Call) -> Outcome {
    let (system, []) = call.exactly("ifconfig")?;
    let network = system.network.as_ref().context("dom0 has no address: its command line says none (ip=)")?;
    println!("{}", network.describe());
    Ok(())
}
