//! Backends that are cut off while guests use them, and begun anew: the guests lose nothing and notice nothing.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use oxen_tools::disk::{noise, sha256};
use oxen_tools::http::{HOST, Server};
use oxen_tools::linux::Ramdisk;
use oxen_tools::qemu::USER_NETWORK;

use super::complaints::content;
use super::hostile::machine;
use super::linux::{linux, with_guests};
use crate::journal::{self, Plan};
use crate::lab::{Lab, Verdict};

const MIB: usize = 1 << 20;

/// How the guest's journals lie, and how many records each has in the end.
const JOURNALS: Plan = Plan { writers: 8, places: 16 };

/// Eight tasks write through our own frontend at once; after each record of the first one the backend is cut off.
pub(super) fn journals(lab: &Lab<'_>, records: u64) -> Result<Verdict> {
    let mut script = "xl create journal.cfg; expect journal 'keeps 8 journals'".to_owned();
    for record in 1..=records {
        write!(script, "\nexpect journal 'durable 0 {record}'; xl block-restart journal xvda")?;
    }
    script += "\nxl block-list journal; xl wait journal; poweroff\n";
    let cmdline = format!("do=journal records={}", records + 8);
    let guests = [("journal", cmdline.as_str(), "disk = [\"phy:/dev/vda,xvda,w\"]")];
    let mut machine = machine(lab, &script, &guests)?;
    let image = lab.file("disk.img", &noise(3, 4 * MIB))?;
    machine.disks.push(image.clone());
    let report = lab.boot_within(&machine, super::LONG_LIMIT)?.succeeded()?;
    let report = report.says("journals kept, 0 records wrong, 0 refused")?;
    let said = journal::durable(report.transcript());
    ensure!(said.len() == 8 && said.values().all(|&last| last == records + 8), "the guest said {said:?}");
    JOURNALS.check(&std::fs::read(image)?, &said)?;
    Ok(Verdict::Passed)
}

pub(super) fn a_disks_backend_is_begun_anew_under_load_and_nothing_is_lost(lab: &Lab<'_>) -> Result<Verdict> {
    journals(lab, 40)
}

/// A guest exchanges frames between two interfaces of its own, and uses its disk and the store, while the backends of
/// all three are cut off again and again: no frame is lost, none comes twice or damaged.
pub(super) fn interfaces_backends_are_begun_anew_under_load_and_no_frame_is_lost(lab: &Lab<'_>) -> Result<Verdict> {
    let each = "xl network-restart worker 0; xl network-restart worker 1; xl block-restart worker xvda\n";
    let script = format!(
        "xl create worker.cfg\n{}xl network-list worker; brctl show; xl wait worker; poweroff\n",
        format!("sleep 1\n{}", each.repeat(20)).repeat(6)
    );
    let lines = "disk = [\"phy:/dev/vda,xvda,w\"]\nvif = [\"\", \"\"]";
    let mut machine = machine(lab, &script, &[("worker", "do=work seconds=10", lines)])?;
    machine.disks.push(lab.file("disk.img", &noise(4, 4 * MIB))?);
    let report = lab.boot(&machine)?.succeeded()?.lacks("FAILED")?;
    report.says("all of them right")?;
    Ok(Verdict::Passed)
}

/// What Debian's kernel does: in each round four writers fill 4 MiB each and all is read back, while it fetches a file
/// over the network.
const WORK: &str = r#"tries=0
until ip addr show eth0 | grep -q 'inet ' || [ $tries -gt 600 ]; do usleep 100000; tries=$((tries+1)); done
dd if=/dev/urandom of=/tmp/a bs=64k count=64 2>/dev/null
sum=$(md5sum < /tmp/a)
round=1 bad=0
while [ $round -le ROUNDS ]; do
    echo "linux: round $round"
    wget -q -O - http://HOST:PORT/file | sha256sum > /tmp/fetched & fetching=$!
    writers=
    for part in 0 1 2 3; do
        dd if=/tmp/a of=/dev/xvda bs=64k seek=$((part*64 + round)) conv=fsync 2>/dev/null & writers="$writers $!"
    done
    for writer in $writers; do wait $writer || bad=$((bad+1)); done
    wait $fetching || bad=$((bad+1))
    echo 3 > /proc/sys/vm/drop_caches
    for part in 0 1 2 3; do
        read=$(dd if=/dev/xvda bs=64k skip=$((part*64 + round)) count=64 2>/dev/null | md5sum)
        [ "$read" = "$sum" ] || bad=$((bad+1))
    done
    echo "linux: round $round fetched $(cat /tmp/fetched)"
    round=$((round+1))
done
echo "linux: $bad bad"
echo "linux: disk $(sha256sum < /dev/xvda)"
"#;

/// Debian's frontends, which no one told that their backend can do this.
pub(super) fn debian(lab: &Lab<'_>, rounds: u32) -> Result<Verdict> {
    let file = noise(33, 4 * MIB);
    let sum = sha256(&file);
    let server = Server::start(file)?;
    let work = WORK.replace("HOST", HOST).replace("PORT", &server.port.to_string());
    let work = work.replace("ROUNDS", &rounds.to_string());
    let ramdisk = Ramdisk::new(lab.workspace, "linux").disks().network().script(&work);
    let linux = match linux(lab, &ramdisk) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let mut script = "xl create linux.cfg".to_owned();
    for round in 1..=rounds {
        write!(script, "\nexpect linux 'linux: round {round}'")?;
        script += &"\nxl block-restart linux xvda; xl network-restart linux 0".repeat(8);
    }
    script += "\nxl block-list linux; xl network-list linux; xl wait linux; poweroff\n";
    let lines = "memory = 192\nvif = [\"\"]\ndisk = [\"phy:/dev/vda,xvda,w\"]";
    let mut machine = with_guests(lab, &linux, &script, &[("linux", lines)])?;
    let image = lab.file("disk.img", &noise(5, 24 * MIB))?;
    machine.disks.push(image.clone());
    machine.network = Some(USER_NETWORK.to_owned());
    let report = content(lab.boot_within(&machine, super::LONG_LIMIT)?.succeeded()?)?;
    let report = report.says("linux: 0 bad")?.lacks("error, dev")?;
    for round in 1..=rounds {
        ensure!(!report.lines_with(&format!("round {round} fetched {sum}")).is_empty(), "what came in round {round}");
    }
    report.says(&format!("linux: disk {}", sha256(&std::fs::read(image)?)))?;
    Ok(Verdict::Passed)
}

pub(super) fn debians_kernel_loses_nothing_while_its_backends_are_begun_anew(lab: &Lab<'_>) -> Result<Verdict> {
    debian(lab, 4)
}
