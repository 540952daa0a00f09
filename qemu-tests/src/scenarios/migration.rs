//! dom0's own place in the network, and guests that move from machine to machine by it.

use anyhow::{Context, Result, ensure};
use oxen_tools::debian;
use oxen_tools::disk::sha256;
use oxen_tools::linux::Ramdisk;
use oxen_tools::qemu::{Machine, USER_NETWORK};
use oxen_tools::xen;

use super::own_guests_saved::{runs, steps};
use super::{linux, net};
use crate::lab::{Lab, Prompt, Report, Verdict};

const KEY: &str = "3f1c8a5e9b0d7264c1e8f3a95d20b7461e8c3f7a0b5d9264f1a8c37e5b0d9246";
const OTHER_KEY: &str = "3f1c8a5e9b0d7264c1e8f3a95d20b7461e8c3f7a0b5d9264f1a8c37e5b0d9247";

/// A machine's place in the network: a number and an address.
type Place = (u8, &'static str);

const FIRST: Place = (1, "10.9.0.1");
const SECOND: Place = (2, "10.9.0.2");

/// A machine of two that are on one network, with nothing else there.
fn machine(lab: &Lab<'_>, place: Place, key: &str) -> Result<Machine> {
    let mut machine = lab.machine("")?;
    machine.join_line(place.0, key);
    Ok(machine)
}

/// Two machines at their prompts.
fn two(lab: &Lab<'_>) -> Result<[Prompt; 2]> {
    Ok([Prompt::open(&machine(lab, FIRST, KEY)?)?, Prompt::open(&machine(lab, SECOND, KEY)?)?])
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
fn judge(reports: &[Report], name: &str, last: i64) -> Result<()> {
    let all: Result<Vec<_>> = reports.iter().map(|report| steps(report, name)).collect();
    let mut all = all?.concat();
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
    there_and_back(two(lab)?)
}

/// The same from real Xen, with our dom0 on it, to Oxen and back.
pub(super) fn a_guest_of_ours_moves_from_xen_to_oxen_and_back(lab: &Lab<'_>) -> Result<Verdict> {
    let xen = match xen::find(lab.workspace, "xen".as_ref()) {
        Ok(xen) => xen,
        Err(error) => return Ok(Verdict::Skipped(format!("no Xen of Debian's: {error:#}"))),
    };
    let mut on_xen = machine(lab, FIRST, KEY)?;
    on_xen.on_xen(&xen);
    there_and_back([Prompt::open(&on_xen)?, Prompt::open(&machine(lab, SECOND, KEY)?)?])
}

fn there_and_back([mut first, mut second]: [Prompt; 2]) -> Result<Verdict> {
    first.command("xl create steady.cfg")?;
    first.command("xl expect steady 'step 4 is whole'")?;
    moves(&mut first, &mut second, "steady", SECOND.1)?;
    ensure!(!first.command("xl list")?.contains("steady"), "it is in both places");
    second.command("xl expect steady 'restored 1 times'")?;
    second.command("xl expect steady 'is whole'")?;
    moves(&mut second, &mut first, "steady", FIRST.1)?;
    ensure!(!second.command("xl list")?.contains("steady"), "it is in both places");
    first.command("xl expect steady 'restored 2 times'")?;
    first.command("xl expect steady 'is whole'")?;
    first.command("xl shutdown -w steady")?;
    let reports = [first.power_off()?.lacks("error:")?, second.power_off()?.lacks("error:")?];
    judge(&reports, "steady", 16)?;
    Ok(Verdict::Passed)
}

/// A guest that writes to a disk is not moved. Who is not there, has another key, has no room or has a guest of this
/// name is told apart; the guest goes on each time, and nothing of it stays elsewhere.
pub(super) fn a_guest_that_cannot_move_goes_on(lab: &Lab<'_>) -> Result<Verdict> {
    let mut with_disk = machine(lab, FIRST, KEY)?;
    with_disk.disks = vec![lab.file("data.img", &vec![0; 4 << 20])?];
    let mut first = Prompt::open(&with_disk)?;
    let mut second = Prompt::open(&machine(lab, SECOND, OTHER_KEY)?)?;
    first.command("xl create steady.cfg name=writer disk=['phy:vda,xvda,w']")?;
    let said = first.command(&format!("xl migrate writer {}", SECOND.1))?;
    ensure!(said.contains("error: `writer` writes to its disk xvda, which stays here"), "{said}");
    first.command("xl destroy writer")?;
    first.command("xl create steady.cfg")?;
    first.command("xl expect steady 'step 2 is whole'")?;
    let said = first.command("xl resume steady")?;
    ensure!(said.contains("error: `steady` does not stand still behind a move"), "{said}");
    let refused = |first: &mut Prompt, why: &str| -> Result<()> {
        let said = first.command(&format!("xl migrate steady {}", SECOND.1))?;
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
    let mut second = Prompt::open(&machine(lab, SECOND, KEY)?)?;
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

/// Begins to move a guest, and returns in the middle of that.
fn begin(from: &mut Prompt, to: &mut Prompt) -> Result<()> {
    to.type_until("xl receive\r", "waiting for a guest")?;
    from.type_until(&format!("xl migrate steady {}\r", SECOND.1), "xl migrate")?;
    to.type_until("", "receiving: ")
}

/// The guest has not moved, for this reason, and goes on.
fn goes_on(from: &mut Prompt, said: &str, why: &str) -> Result<()> {
    ensure!(said.contains("error: `steady` goes on here") && said.contains(why), "instead of `{why}`: {said}");
    from.command("xl expect steady 'is whole'").map(|_| ())
}

/// Nothing stays at who did not get it, for this reason.
fn has_none(to: &mut Prompt, said: &str, why: &str) -> Result<()> {
    ensure!(said.contains("error: ") && said.contains(why), "instead of `{why}`: {said}");
    let list = to.command("xl list")?;
    ensure!(!list.contains("steady"), "something stays: {list}");
    Ok(())
}

/// In the middle of a move: Ctrl-C at either end, then either machine is killed. The guest goes on where it was as long
/// as that machine stands, and nothing of it is elsewhere.
pub(super) fn a_move_that_is_cut_off_leaves_the_guest_where_it_was(lab: &Lab<'_>) -> Result<Verdict> {
    let [mut first, mut second] = two(lab)?;
    first.command("xl create steady.cfg memory=32")?;
    first.command("xl expect steady 'step 2 is whole'")?;
    begin(&mut first, &mut second)?;
    let said = first.keys("\x03")?;
    goes_on(&mut first, &said, "interrupted")?;
    let said = second.keys("")?;
    has_none(&mut second, &said, "the other ")?;
    begin(&mut first, &mut second)?;
    let said = second.keys("\x03")?;
    has_none(&mut second, &said, "interrupted")?;
    let said = first.keys("")?;
    goes_on(&mut first, &said, "the other machine refuses: interrupted")?;
    begin(&mut first, &mut second)?;
    second.kill();
    let said = first.keys("")?;
    goes_on(&mut first, &said, "the connection broke")?;
    let mut second = Prompt::open(&machine(lab, SECOND, KEY)?)?;
    begin(&mut first, &mut second)?;
    first.kill();
    let said = second.keys("")?;
    has_none(&mut second, &said, "the connection broke")?;
    second.power_off()?;
    Ok(Verdict::Passed)
}

/// What a stock guest does: it looks again and again whether a file that it copies is whole, and whether what it
/// fetches from a third party is.
const WORK: &str = "killall udhcpc; ip link set eth0 up; ip addr add 10.9.0.11/24 dev eth0\n\
    (while got=$(wget -q -O - http://10.9.0.20/bytes/BYTES | sha256sum); do\n\
    [ \"${got%% *}\" = SUM ] && echo 'fetched, and it is whole' || echo \"fetched, and it is DAMAGED: $got\"; done) &\n\
    dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null; sum=$(md5sum </tmp/a); i=0\n\
    while cp /tmp/a /tmp/b && mv /tmp/b /tmp/a; do i=$((i + 1))\n\
    [ \"$(md5sum </tmp/a)\" = \"$sum\" ] && is=whole || is=DAMAGED; echo \"step $i is $is\"; usleep 200000; done";

/// A stock Debian moves there and back while it computes and fetches: no byte is lost, and no memory.
pub(super) fn a_debian_moves(lab: &Lab<'_>, times: usize) -> Result<Verdict> {
    const BYTES: usize = 8 << 20;
    let work = WORK.replace("BYTES", &BYTES.to_string()).replace("SUM", &sha256(&net::pattern(BYTES)));
    let ramdisk = Ramdisk::new(lab.workspace, "moved").network().script(&work);
    let mut machine = match linux::guest(lab, debian::kernel, &ramdisk, "memory = 128\nvif = [\"\"]", &[], "") {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    machine.modules.first_mut().context("no dom0")?.args.clear();
    machine.join_line(FIRST.0, KEY);
    let mut first = Prompt::open(&machine)?;
    let mut second = Prompt::open(&self::machine(lab, SECOND, KEY)?)?;
    second.command("xl create net.cfg cmdline='ip=10.9.0.20/24' name=server")?;
    first.command("xl create linux.cfg")?;
    first.command("xl expect linux 'fetched, and it is whole' 300")?;
    let memory = |prompt: &mut Prompt| -> Result<Vec<String>> {
        let info = prompt.command("xl info")?;
        Ok(info.lines().filter(|line| line.contains("free_memory")).map(str::to_owned).collect())
    };
    let mut free = Vec::new();
    for time in 1..=times {
        let said = moves(&mut first, &mut second, "linux", SECOND.1)?;
        println!("    there {time}: {}", said.lines().find(|line| line.starts_with("moved: ")).unwrap_or_default());
        second.command("xl expect linux 'is whole'; xl expect linux 'fetched, and it is whole' 300")?;
        let said = moves(&mut second, &mut first, "linux", FIRST.1)?;
        println!("    back {time}: {}", said.lines().find(|line| line.starts_with("moved: ")).unwrap_or_default());
        first.command("xl expect linux 'is whole'; xl expect linux 'fetched, and it is whole' 300")?;
        free.push([memory(&mut first)?, memory(&mut second)?]);
    }
    // The first rounds fill what is kept for the next guest.
    ensure!(free.get(times / 2) == free.last(), "memory is lost: {free:?}");
    for report in [first.power_off()?, second.power_off()?] {
        report.lacks("DAMAGED")?.lacks("error:")?;
    }
    Ok(Verdict::Passed)
}
