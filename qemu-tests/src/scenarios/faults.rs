//! Hardware that fails while guests use it: sectors that cannot be read or written, a disk that is full or shrinks, a
//! network whose cable is pulled. Who asked gets an error, nobody else notices, dom0 lives.

use std::time::Duration;

use anyhow::{Result, ensure};
use oxen_tools::disk::{noise, sha256};
use oxen_tools::http::{HOST, Server};
use oxen_tools::linux::Ramdisk;
use oxen_tools::qemu::{Machine, USER_NETWORK};
use oxen_tools::session::Exit;

use super::complaints::content;
use super::hostile::machine;
use super::linux::{linux, with_guests};
use crate::lab::{Lab, Prompt, Verdict};
use crate::qmp::{self, Control};

const MIB: usize = 1 << 20;

/// Guests that keep journals on the first and the second disk.
const GUESTS: [(&str, &str, &str); 2] = [
    ("ill", "do=journal", "disk = [\"phy:/dev/vda,xvda,w\"]"),
    ("well", "do=journal", "disk = [\"phy:/dev/vdb,xvda,w\"]"),
];

/// Both at once, and a third when they have ended: dom0 goes on.
const SCRIPT: &str = "xl create ill.cfg; xl create well.cfg; xl wait ill; xl wait well
    xl create hello.cfg; xl wait hello; poweroff";

/// A disk, called `ill.img`, of which QEMU refuses what the rules say, by its blkdebug driver; the guest is told.
fn ill_disk(machine: &mut Machine, rules: &[&str]) {
    let rules: String = (0..)
        .zip(rules)
        .flat_map(|(number, rule)| rule.split(',').map(move |part| format!(",inject-error.{number}.{part}")))
        .collect();
    let blocks = [
        "driver=file,node-name=image,filename=ill.img".to_owned(),
        format!("driver=blkdebug,node-name=ill,image=image{rules}"),
    ];
    machine.devices.extend(blocks.into_iter().flat_map(|block| ["-blockdev".to_owned(), block]));
    machine.devices.extend(["-device", "virtio-blk-pci,drive=ill,werror=report,rerror=report"].map(str::to_owned));
    machine.devices.extend(
        ["-drive", "file=well.img,format=raw,if=none,id=well", "-device", "virtio-blk-pci,drive=well"]
            .map(str::to_owned),
    );
}

fn with_ill_disk(lab: &Lab<'_>, script: &str, rules: &[&str]) -> Result<Machine> {
    let mut machine = machine(lab, script, &GUESTS)?;
    ill_disk(&mut machine, rules);
    for name in ["ill.img", "well.img"] {
        oxen_tools::build::write(&machine.folder.join(name), &noise(8, 4 * MIB))?;
    }
    Ok(machine)
}

/// The sector of a record in place `place` of writer `writer` (the probe's journal), and one inside it.
const fn sector(writer: u64, place: u64) -> u64 {
    (writer * 16 + place) * 32 + 3
}

pub(super) fn sectors_that_fail_are_their_users_error_alone(lab: &Lab<'_>) -> Result<Verdict> {
    let (write, read) = (sector(2, 5), sector(3, 6));
    let rules = [
        format!("event=none,iotype=write,errno=5,sector={write},once=off"),
        format!("event=none,iotype=read,errno=5,sector={read},once=off"),
        "event=none,iotype=flush,errno=5,once=on".to_owned(),
    ];
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let report = lab.boot(&with_ill_disk(lab, SCRIPT, &rules)?)?.succeeded()?;
    for record in [5, 21, 37, 53] {
        let line = format!("(ill) probe: record {record} of writer 2: input/output error");
        ensure!(report.transcript().contains(&line), "nobody said `{line}`");
    }
    // The records that lie there cannot be read back; the fourth is the one whose flush failed.
    let report = report.says("of writer 3 is not read: input/output error")?;
    report
        .says("(ill) probe: journals kept, 0 records wrong, 6 refused")?
        .says("(well) probe: journals kept, 0 records wrong, 0 refused")?
        .says("(hello) hello from a guest")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_disk_that_is_full_is_its_users_error_alone(lab: &Lab<'_>) -> Result<Verdict> {
    // ENOSPC, as of a host's file system without room.
    let rules = ["event=none,iotype=write,errno=28,once=off"];
    let report = lab.boot(&with_ill_disk(lab, SCRIPT, &rules)?)?.succeeded()?;
    report
        .says("(ill) probe: record 64 of writer 7: input/output error")?
        .says("(ill) probe: journals kept, 0 records wrong, 512 refused")?
        .says("(well) probe: journals kept, 0 records wrong, 0 refused")?
        .says("(hello) hello from a guest")?;
    Ok(Verdict::Passed)
}

/// Breaks in what QEMU does for the ill disk, or goes on from there: its `qemu-io` tool on the disk's blkdebug driver.
fn on_ill_disk(control: &mut Control, what: &str) -> Result<()> {
    control.command("human-monitor-command", &format!("\"command-line\":\"qemu-io ill \\\"{what}\\\"\""))
}

/// A request is held up: the disk is named, its guest waits, and both go on when it is answered.
pub(super) fn a_disk_that_does_not_answer_is_named_and_its_guest_waits(lab: &Lab<'_>) -> Result<Verdict> {
    let mut guests = GUESTS;
    guests[0].1 = "do=journal records=0";
    let mut machine = machine(lab, "", &guests)?;
    ill_disk(&mut machine, &[]);
    for name in ["ill.img", "well.img"] {
        oxen_tools::build::write(&machine.folder.join(name), &noise(8, 4 * MIB))?;
    }
    qmp::add(&mut machine);
    let mut prompt = Prompt::open(&machine)?;
    let mut control = Control::open(&machine.folder)?;
    prompt.command("xl create ill.cfg; expect ill 'durable 7 20'")?;
    on_ill_disk(&mut control, "break pwritev held")?;
    let said = prompt.command("sleep 15")?;
    ensure!(said.contains("disk vda: no answer for 10 s, "), "what dom0 says of a disk that does not answer:\n{said}");
    let said = prompt.command("xl create well.cfg; xl wait well")?;
    ensure!(said.contains("0 records wrong, 0 refused"), "what another guest says meanwhile:\n{said}");
    on_ill_disk(&mut control, "resume held")?;
    let said = prompt.command("expect ill 'durable 7 '; xl destroy ill; sleep 1")?;
    ensure!(said.contains("disk vda: it answers again"), "what dom0 says of a disk that answers again:\n{said}");
    prompt.power_off()?.lacks("panicked")?;
    Ok(Verdict::Passed)
}

/// dom0 meets a bug. It says where, and what guests have written is made durable where the disk lets it.
pub(super) fn a_panic_of_dom0_is_told_and_the_disks_are_flushed(lab: &Lab<'_>) -> Result<Verdict> {
    const CRASH: [&str; 2] = [
        "xl create ill.cfg; expect ill 'durable 7 20'; xl sysrq Domain-0 c",
        "xl create ill.cfg; expect ill 'input/output error'; xl sysrq 0 c",
    ];
    const REFUSED: &str = "event=none,iotype=flush,errno=5,once=off";
    for (script, rules, outcome) in [(CRASH[0], &[][..], "flushed"), (CRASH[1], &[REFUSED], "not flushed, it refuses")]
    {
        let report = lab.boot(&with_ill_disk(lab, script, rules)?)?;
        let report = report.ended(Exit::Crashed)?.says("sysrq: dom0 crashes, as it was asked to")?;
        report
            .says(&format!("disk vda: {outcome}\n"))?
            .says("disk vdb: flushed\n")?
            .says("The control domain has shut down (reason 3: crash)")?;
    }
    Ok(Verdict::Passed)
}

/// A CPU hangs in the hypervisor with a lock: the watchdog says which, where and with what.
pub(super) fn a_cpu_that_hangs_in_the_hypervisor_is_named(lab: &Lab<'_>) -> Result<Verdict> {
    oxen_tools::build::checked_hypervisor(lab.workspace)?;
    // Who is well is not disturbed, idle or at work.
    let mut machine = lab.machine("xl create hello.cfg; xl wait hello; sleep 4; xl debug-keys !")?;
    machine.hypervisor = lab.workspace.out.join(oxen_tools::build::CHECKED);
    machine.smp = 2;
    machine.append.push_str(" watchdog watchdog_timeout=2");
    let report = lab.boot(&machine)?.ended(Exit::Failure)?;
    report
        .says("NMI watchdog: a CPU may be in the hypervisor for 2 s")?
        .says("(hello) hello from a guest")?
        .says("Watchdog timer detects that CPU")?
        .says(" is stuck!")?
        .says(" holds these locks, outermost first: POOLS")?
        .says("hang+0x")?;
    Ok(Verdict::Passed)
}

/// The disk is cut below what the guest uses, and made whole again.
pub(super) fn a_disk_that_shrinks_in_use_gives_errors_until_it_is_whole_again(lab: &Lab<'_>) -> Result<Verdict> {
    let mut guests = GUESTS;
    guests[0].1 = "do=journal records=0";
    let mut machine = machine(lab, "", &guests)?;
    for name in ["ill.img", "well.img"] {
        let image = lab.file(name, &noise(8, 4 * MIB))?;
        machine.disks.push(image);
    }
    qmp::add(&mut machine);
    let mut prompt = Prompt::open(&machine)?;
    let mut control = Control::open(&machine.folder)?;
    prompt.command("xl create ill.cfg")?;
    prompt.command("expect ill 'durable 7 20'")?;
    control.command("block_resize", "\"device\":\"disk0\",\"size\":1048576")?;
    let said = prompt.command("expect ill 'input/output error'")?;
    ensure!(said.contains("of writer"), "what the guest says of a disk that is cut:\n{said}");
    let said = prompt.command("xl create well.cfg; xl wait well")?;
    ensure!(said.contains("0 records wrong, 0 refused"), "what the other guest says:\n{said}");
    control.command("block_resize", "\"device\":\"disk0\",\"size\":4194304")?;
    let said = prompt.command("expect ill 'durable 7 '; xl destroy ill")?;
    ensure!(said.contains("durable 7 ") && !said.contains("error: "), "the disk does not come back:\n{said}");
    prompt.power_off()?.lacks("panicked")?;
    Ok(Verdict::Passed)
}

/// What Debian's kernel does with the same sectors.
const WORK: &str = r#"dd if=/dev/urandom of=/tmp/a bs=64k count=16 2>/dev/null
dd if=/tmp/a of=/dev/xvda bs=64k conv=fsync 2>/dev/null || echo "linux: not written"
dd if=/dev/xvda of=/dev/null bs=4k skip=300 count=1 2>/dev/null || echo "linux: not read"
echo 3 > /proc/sys/vm/drop_caches
dd if=/tmp/a of=/dev/xvdb bs=64k conv=fsync 2>/dev/null &&
    cmp -n 1048576 /tmp/a /dev/xvdb && echo "linux: the other is well"
"#;

pub(super) fn debians_kernel_is_told_of_sectors_that_fail(lab: &Lab<'_>) -> Result<Verdict> {
    let linux = match linux(lab, &Ramdisk::new(lab.workspace, "linux").disks().script(WORK)) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let lines = "memory = 192\ndisk = [\"phy:/dev/vda,xvda,w\", \"phy:/dev/vdb,xvdb,w\"]";
    let script = "xl create linux.cfg; xl wait linux; xl create hello.cfg; xl wait hello; poweroff";
    let mut machine = with_guests(lab, &linux, script, &[("linux", lines)])?;
    ill_disk(
        &mut machine,
        &["event=none,iotype=write,errno=5,sector=800,once=off", "event=none,iotype=read,errno=5,sector=2404,once=off"],
    );
    for name in ["ill.img", "well.img"] {
        oxen_tools::build::write(&machine.folder.join(name), &noise(8, 4 * MIB))?;
    }
    let report = content(lab.boot(&machine)?.succeeded()?)?;
    report.says_in_order(&[
        "linux: not written",
        "linux: not read",
        "linux: the other is well",
        "(hello) hello from a guest",
    ])?;
    Ok(Verdict::Passed)
}

/// A file that is fetched; the guest says when some of it has come.
const FETCH: &str = r#"tries=0
until ip addr show eth0 | grep -q 'inet ' || [ $tries -gt 600 ]; do usleep 100000; tries=$((tries+1)); done
wget -q -O - http://HOST:PORT/file |
    (dd of=/tmp/first bs=4k count=256 2>/dev/null; echo "linux: on the way"; cat > /tmp/rest)
echo "linux: has $(cat /tmp/first /tmp/rest | sha256sum)"
"#;

/// How long the cable is out.
const PULLED: Duration = Duration::from_secs(3);

/// A guest fetches a file while the machine's cable is pulled and put back: it waits, and the file comes whole. Whoever
/// needs no network goes on meanwhile.
pub(super) fn a_cable_that_is_pulled_and_put_back_costs_time_and_nothing_else(lab: &Lab<'_>) -> Result<Verdict> {
    let file = noise(34, 16 * MIB);
    let sum = sha256(&file);
    let server = Server::start(file)?;
    let work = FETCH.replace("HOST", HOST).replace("PORT", &server.port.to_string());
    let linux = match linux(lab, &Ramdisk::new(lab.workspace, "linux").network().script(&work)) {
        Ok(linux) => linux,
        Err(verdict) => return Ok(verdict),
    };
    let mut machine = with_guests(lab, &linux, "", &[("linux", "memory = 192\nvif = [\"\"]")])?;
    machine.network = Some(USER_NETWORK.to_owned());
    qmp::add(&mut machine);
    let mut prompt = Prompt::open(&machine)?;
    let mut control = Control::open(&machine.folder)?;
    prompt.command("xl create linux.cfg")?;
    prompt.command("expect linux 'linux: on the way'")?;
    control.command("set_link", "\"name\":\"net\",\"up\":false")?;
    let said = prompt.command("xl create hello.cfg; xl wait hello")?;
    ensure!(said.contains("hello from a guest"), "what another guest says:\n{said}");
    std::thread::sleep(PULLED);
    control.command("set_link", "\"name\":\"net\",\"up\":true")?;
    let said = prompt.command("xl wait linux")?;
    ensure!(said.contains(&format!("linux: has {sum}")), "what the guest fetched is not {sum}:\n{said}");
    content(prompt.power_off()?.lacks("panicked")?)?;
    Ok(Verdict::Passed)
}
