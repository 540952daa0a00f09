//! dom0's own place in the network, and guests that move from machine to machine by it.

use anyhow::Result;
use oxen_tools::qemu::USER_NETWORK;

use crate::lab::{Lab, Verdict};

/// dom0 and a guest ask QEMU's network for addresses; the guest pings dom0's.
pub(super) fn dom0_has_an_address_of_its_own(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "sleep 1; ifconfig; xl create net.cfg cmdline='ping=10.0.2.15 halt'; xl wait net; ifconfig; poweroff";
    let mut machine = lab.machine(script)?;
    machine.network = Some(USER_NETWORK.to_owned());
    for dom0 in machine.modules.iter_mut().take(1) {
        dom0.args.push_str(" ip=dhcp");
    }
    let report = lab.boot(&machine)?.succeeded()?.lacks("FAILED")?;
    report.says_in_order(&[
        "dom0 has the address 10.0.2.15/24",
        "dom0 (52:54:00:12:34:56): 10.0.2.15/24, gateway 10.0.2.2, by DHCP",
        "net: lease 10.0.2.16/24",
        "net: ping 10.0.2.15 3",
        "net: done",
    ])?;
    Ok(Verdict::Passed)
}
