//! dom0's own place in the network, and guests that move from machine to machine by it.

use anyhow::{Context, Result, ensure};
use oxen_tools::qemu::{Machine, USER_NETWORK};

use super::own_guests_saved::{runs, steps};
use crate::lab::{Lab, Prompt, Report, Verdict};

/// A key, and another one.
const KEYS: [&str; 2] = [
    "3f1c8a5e9b0d7264c1e8f3a95d20b7461e8c3f7a0b5d9264f1a8c37e5b0d9246",
    "3f1c8a5e9b0d7264c1e8f3a95d20b7461e8c3f7a0b5d9264f1a8c37e5b0d9247",
];
/// The machines' addresses.
const ADDRESSES: [&str; 2] = ["10.9.0.1", "10.9.0.2"];

/// A machine of two that are on one network: they have nothing else, and a line of text that each prints goes nowhere.
fn machine(lab: &Lab<'_>, number: usize, key: &str) -> Result<Machine> {
    let mut machine = lab.machine("")?;
    let (own, other) = (number, 1 - number);
    // Paths of sockets are short: QEMU runs in the machine's folder.
    let line =
        format!("dgram,id=line,local.type=unix,local.path=../line{own},remote.type=unix,remote.path=../line{other}");
    let card = format!("virtio-net-pci,netdev=line,mac=52:54:00:00:09:0{own},romfile=");
    machine.devices = ["-netdev", &line, "-device", &card].map(str::to_owned).to_vec();
    for dom0 in machine.modules.iter_mut().take(1) {
        dom0.args = format!("ip={}/24 migration-key={key}", ADDRESSES[own]);
    }
    Ok(machine)
}

/// Two machines at their prompts.
fn two(lab: &Lab<'_>) -> Result<[Prompt; 2]> {
    Ok([Prompt::open(&machine(lab, 0, KEYS[0])?)?, Prompt::open(&machine(lab, 1, KEYS[0])?)?])
}

/// One machine's guest moves to the other.
fn moves(from: &mut Prompt, to: &mut Prompt, name: &str, address: &str) -> Result<String> {
    to.type_until("xl receive\r", "waiting for a guest at port")?;
    let said = from.command(&format!("xl migrate {name} {address}"))?;
    ensure!(said.contains(&format!("moved: `{name}` runs at {address}")), "it does not move: {said}");
    let taken = to.keys("")?;
    ensure!(taken.contains(&format!("received: `{name}`")), "it is not taken: {taken}");
    Ok(said)
}

/// The transcripts of both, of which a guest's steps go on from one to the other.
fn judge(reports: &[Report; 2], name: &str, last: i64) -> Result<()> {
    let mut all = steps(&reports[0], name)?;
    all.extend(steps(&reports[1], name)?);
    all.sort_by_key(|step| step.number);
    ensure!(runs(&all).len() == 1, "a step is said twice: {all:?}");
    for (step, next) in all.iter().zip(all.iter().skip(1)) {
        ensure!(next.now >= step.now, "its clock goes back from {step:?} to {next:?}");
    }
    ensure!(all.last().is_some_and(|step| step.number >= last), "it came to {:?}", all.last());
    Ok(())
}

/// There and back, while it counts; each machine has nothing left of it when it is gone.
pub(super) fn a_guest_of_ours_moves_to_another_machine_and_back(lab: &Lab<'_>) -> Result<Verdict> {
    let [mut first, mut second] = two(lab)?;
    first.command("xl create steady.cfg")?;
    first.command("xl expect steady 'step 4 is whole'")?;
    moves(&mut first, &mut second, "steady", ADDRESSES[1])?;
    ensure!(!first.command("xl list")?.contains("steady"), "it is in both places");
    second.command("xl expect steady 'restored 1 times'")?;
    second.command("xl expect steady 'is whole'")?;
    moves(&mut second, &mut first, "steady", ADDRESSES[0])?;
    ensure!(!second.command("xl list")?.contains("steady"), "it is in both places");
    first.command("xl expect steady 'restored 2 times'")?;
    first.command("xl expect steady 'is whole'")?;
    first.command("xl shutdown -w steady")?;
    let reports = [first.power_off()?.lacks("error:")?, second.power_off()?.lacks("error:")?];
    judge(&reports, "steady", 16)?;
    Ok(Verdict::Passed)
}

/// A guest that writes to a disk is not moved. Who is not there, has another key, has no room or has a guest of this name is told apart; the guest goes on each
/// time, and nothing of it stays elsewhere.
pub(super) fn a_guest_that_cannot_move_goes_on(lab: &Lab<'_>) -> Result<Verdict> {
    let mut with_disk = machine(lab, 0, KEYS[0])?;
    with_disk.disks = vec![lab.file("data.img", &vec![0; 4 << 20])?];
    let mut first = Prompt::open(&with_disk)?;
    let mut second = Prompt::open(&machine(lab, 1, KEYS[1])?)?;
    first.command("xl create steady.cfg name=writer disk=['phy:vda,xvda,w']")?;
    let said = first.command(&format!("xl migrate writer {}", ADDRESSES[1]))?;
    ensure!(said.contains("error: `writer` writes to its disk xvda, which stays here"), "{said}");
    first.command("xl destroy writer")?;
    first.command("xl create steady.cfg")?;
    first.command("xl expect steady 'step 2 is whole'")?;
    let refused = |first: &mut Prompt, why: &str| -> Result<()> {
        let said = first.command(&format!("xl migrate steady {}", ADDRESSES[1]))?;
        ensure!(said.contains("error: ") && said.contains(why), "instead of `{why}`: {said}");
        Ok(())
    };
    refused(&mut first, "nobody takes connections at 10.9.0.2, port 8002")?;
    second.type_until("xl receive\r", "waiting for a guest")?;
    refused(&mut first, "the other end does not answer as one with the same key")?;
    second.type_until(
        "",
        "10.9.0.1 called, and is not listened to: who called does not speak as one with the same key",
    )?;
    let said = second.keys("\x03")?;
    ensure!(said.contains("error: interrupted"), "Ctrl-C does not end it: {said}");
    second.power_off()?;
    let mut second = Prompt::open(&machine(lab, 1, KEYS[0])?)?;
    // Another one with less memory than is free leaves too little.
    let info = second.command("xl info")?;
    let free = info.lines().find_map(|line| line.strip_prefix("free_memory")?.split_once(": ")?.1.trim().parse().ok());
    let free: u32 = free.context("no free memory is told")?;
    let large = format!("name=large memory={}", free - 12);
    for (other, why) in [("name=steady", "a guest named `steady` exists"), (&large, "the machine has ")] {
        second.command(&format!("xl create -p steady.cfg {other}"))?;
        second.type_until("xl receive\r", "waiting for a guest")?;
        refused(&mut first, &format!("the other machine refuses: {why}"))?;
        let said = second.keys("")?;
        ensure!(said.contains(&format!("error: 10.9.0.1: {why}")), "instead of `{why}`: {said}");
        second.command("xl destroy steady")?;
    }
    let list = second.command("xl list")?;
    ensure!(list.contains("large") && !list.contains("steady"), "something stays at who refused: {list}");
    second.power_off()?;
    first.command("xl expect steady 'is whole'")?;
    let report = first.power_off()?;
    let all = steps(&report, "steady")?;
    ensure!(runs(&all).len() == 1, "it did not go on: {all:?}");
    Ok(Verdict::Passed)
}

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
