//! The machine stopped dead while guests write: what they were told is durable is there.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use oxen_tools::disk::noise;
use oxen_tools::qemu::Machine;
use oxen_tools::session::Session;

use super::hostile::machine;
use crate::journal::{self, Plan};
use crate::lab::{LIMIT, Lab, Verdict};

const MIB: usize = 1 << 20;
const JOURNALS: Plan = Plan { writers: 8, places: 16 };

/// How long the guest writes at most before it is stopped, in milliseconds.
const LONGEST: u64 = 1500;

/// A disk of which QEMU logs every write and flush in their order, in the format of the kernel's dm-log-writes.
fn logged_disk(machine: &mut Machine) {
    let blocks = [
        "driver=file,node-name=image,filename=disk.img",
        "driver=file,node-name=log,filename=log.img",
        "driver=blklogwrites,node-name=disk,file=image,log=log,log-sector-size=512",
    ];
    machine.devices.extend(blocks.into_iter().flat_map(|block| ["-blockdev".to_owned(), block.to_owned()]));
    machine.devices.extend(["-device".to_owned(), "virtio-blk-pci,drive=disk".to_owned()]);
}

/// Stops the machine so many times, each time at another moment, and looks at its disk: at the image as QEMU left it,
/// and at what it would be if the host's power had failed.
pub(super) fn stop(lab: &Lab<'_>, times: u64) -> Result<Verdict> {
    let guests = [("journal", "do=journal records=0", "disk = [\"phy:/dev/vda,xvda,w\"]")];
    let mut machine = machine(lab, "xl create journal.cfg; xl wait journal; poweroff", &guests)?;
    logged_disk(&mut machine);
    let before = noise(6, 4 * MIB);
    // No two runs stop at the same moments.
    let mut random = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos().into();
    let (mut records, mut fewest) = (0, u64::MAX);
    for round in 1..=times {
        std::fs::create_dir_all(&machine.folder)?;
        std::fs::write(machine.folder.join("disk.img"), &before)?;
        std::fs::write(machine.folder.join("log.img"), [])?;
        let transcript = run_and_stop(&machine, next(&mut random) % LONGEST)?;
        let said = journal::durable(&transcript);
        let image = std::fs::read(machine.folder.join("disk.img"))?;
        let stopped = |what: &str| format!("stopped for the {round}. time, {what}, the guest had said {said:?}");
        JOURNALS.check(&image, &said).with_context(|| stopped("the image as QEMU left it"))?;
        let log = std::fs::read(machine.folder.join("log.img"))?;
        let left = journal::after_power_failure(&log, before.clone())?;
        JOURNALS.check(&left, &said).with_context(|| stopped("without what was not flushed"))?;
        let written: u64 = said.values().sum();
        (records, fewest) = (records + written, fewest.min(written));
    }
    println!("stopped {times} times: {records} records were durable, {fewest} at least each time");
    ensure!(fewest > 0, "a guest was stopped before it had written anything");
    Ok(Verdict::Passed)
}

/// The next number of a sequence that looks random (xorshift).
const fn next(state: &mut u64) -> u64 {
    *state ^= 0x9e37_79b9_7f4a_7c15;
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Runs the machine until the guest writes, and some milliseconds more; returns what was said by then.
fn run_and_stop(machine: &Machine, milliseconds: u64) -> Result<String> {
    let mut session = Session::start(machine, false)?;
    session.wait_for("durable", Instant::now() + LIMIT)?;
    let end = Instant::now() + Duration::from_millis(milliseconds);
    // What is said meanwhile is taken in; nobody says this.
    let _ = session.wait_for("\0", end);
    Ok(session.stop())
}

pub(super) fn what_is_flushed_is_there_whenever_the_machine_is_stopped(lab: &Lab<'_>) -> Result<Verdict> {
    stop(lab, 3)
}
