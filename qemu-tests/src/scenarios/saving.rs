//! Domains saved and restored, and moved live: by Debian's own `xl` in a Linux dom0 and by our dom0's,
//! from real Xen to Oxen and back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oxen_tools::linux::{self, Ramdisk};
use oxen_tools::session::Exit;
use oxen_tools::{debian, linux_dom0, xen};

use super::linux as guests;
use crate::lab::{Lab, Report, Verdict};

/// How long a machine may take. It is met only by what hangs.
const LIMIT: Duration = Duration::from_secs(500);

/// Bytes of the disk on which a saved domain goes from machine to machine.
pub(super) const DISK: u64 = 160 << 20;

/// What the guest does: at each step it looks whether it remembers all. It never ends by itself.
const WORK: &str = "dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null; sum=$(md5sum </tmp/a); i=0\n\
    while cp /tmp/a /tmp/b && mv /tmp/b /tmp/a; do i=$((i + 1))\n\
    [ \"$(md5sum </tmp/a)\" = \"$sum\" ] && is=whole || is=damaged\n\
    echo \"step $i is $is at $(cut -d' ' -f1 /proc/uptime)\"; usleep 200000; done";

/// The same with its disk, on which a second process writes all the time.
const DISK_WORK: &str = "dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null; sum=$(md5sum </tmp/a); i=0\n\
    (while dd if=/tmp/a of=/dev/xvda bs=64k seek=32 conv=fsync 2>/dev/null; do :; done) &\n\
    while dd if=/tmp/a of=/dev/xvda bs=64k conv=fsync 2>/dev/null; do i=$((i + 1)); echo 3 >/proc/sys/vm/drop_caches\n\
    [ \"$(dd if=/dev/xvda bs=64k count=32 2>/dev/null | md5sum)\" = \"$sum\" ] && is=whole || is=damaged\n\
    echo \"step $i is $is at $(cut -d' ' -f1 /proc/uptime)\"; usleep 200000; done";

/// What that guest has.
const WITH_DISK: &str = "memory = 128\nvcpus = 2\ndisk = [\"phy:vdb,xvda,w\"]";

/// A disk on which a guest can be saved.
fn empty_disk(lab: &Lab<'_>) -> Result<PathBuf> {
    let disk = lab.folder.join("saved.img");
    std::fs::File::create(&disk)?.set_len(DISK)?;
    Ok(disk)
}

/// Saves the guest on a disk's blocks, whatever it is called.
pub(super) const SAVE: &str = "xl save saved /tmp/saved && dd if=/tmp/saved of=/dev/vdb bs=1M conv=fsync 2>/dev/null";

/// Real Xen and Oxen with a Linux dom0, and a guest's files for it.
pub(super) struct Machines {
    pub(super) xen: PathBuf,
    pub(super) files: Vec<(String, Vec<u8>)>,
}

impl Machines {
    fn find(lab: &Lab<'_>) -> Result<Self> {
        let config = format!(
            "name = \"saved\"\nkernel = \"guests/kernel\"\nramdisk = \"guests/initrd\"\ncmdline = \"{}\"\n\
             memory = 128\nvcpus = 2\n",
            linux::CMDLINE
        );
        let files = vec![
            ("guests/kernel".to_owned(), std::fs::read(debian::vmlinuz(lab.workspace)?)?),
            ("guests/initrd".to_owned(), Ramdisk::new(lab.workspace, "saved").script(WORK).build()?),
            ("saved.cfg".to_owned(), config.into_bytes()),
        ];
        Ok(Self { xen: xen::find(lab.workspace, "xen".as_ref())?, files })
    }

    /// Boots one of them with two disks, from which and to which a domain can be moved.
    pub(super) fn boot(&self, lab: &Lab<'_>, name: &str, script: &str, disks: [&Path; 2]) -> Result<Report> {
        let xen = name.starts_with("xen").then_some(self.xen.as_path());
        let mut machine = linux_dom0::machine(lab.workspace, xen, lab.folder.join(name), script, &self.files)?;
        machine.append = machine.append.replace("dom0_mem=512M,max:512M", "dom0_mem=768M,max:768M");
        machine.memory = 1536;
        machine.disks = disks.map(Path::to_owned).to_vec();
        lab.boot_within(&machine, LIMIT)?.ended(Exit::PoweredOff)?.says_in_order(&["dom0: ready", "dom0: done"])
    }
}

/// What the guest says of its steps: it has all its memory at each, none is lost and none is done twice, and its time
/// goes on. Returns the last one.
fn steps_after(report: &Report, mut last: (u32, f64)) -> Result<(u32, f64)> {
    for line in report.transcript().lines().filter_map(|line| line.strip_prefix("(saved) step ")) {
        let (step, rest) = line.split_once(" is whole").with_context(|| format!("step {line}"))?;
        // The last line may be cut where somebody saw what he waited for.
        let time = rest.strip_prefix(" at ").map_or(Ok(last.1), |time| time.trim().parse())?;
        let step: u32 = step.parse()?;
        ensure!(step == last.0 + 1 && time >= last.1, "step {step} at {time} s comes after {} at {} s", last.0, last.1);
        last = (step, time);
    }
    Ok(last)
}

/// The first step that the guest says.
fn first_step(report: &Report) -> Result<u32> {
    let line =
        report.transcript().lines().find_map(|line| line.strip_prefix("(saved) step ")).context("it is silent")?;
    Ok(line.split(' ').next().unwrap_or_default().parse()?)
}

/// A stock Debian is saved on Xen, restored on Oxen, saved there and restored there, by Debian's `xl`; then by our own
/// dom0's, and at last restored on Xen again.
pub(super) fn a_debian_goes_from_xen_to_oxen_and_back(lab: &Lab<'_>) -> Result<Verdict> {
    let machines = match Machines::find(lab) {
        Ok(machines) => machines,
        Err(error) => return Ok(Verdict::Skipped(format!("no Xen or Linux of Debian's: {error:#}"))),
    };
    let disks = ["none", "from-xen", "from-oxen", "from-dom0"].map(|name| lab.folder.join(format!("{name}.img")));
    for disk in &disks {
        std::fs::create_dir_all(&lab.folder)?;
        std::fs::File::create(disk)?.set_len(DISK)?;
    }
    let [none, from_xen, from_oxen, from_dom0] = &disks;
    let script = format!("create saved.cfg; until_said saved 'step 4 ' 300; {SAVE}; show saved");
    let on_xen = machines.boot(lab, "xen-first", &script, [none, from_xen])?;
    let saved = steps_after(&on_xen, (0, 0.0))?;
    ensure!(saved.0 >= 4, "the guest came to step {} before it was saved", saved.0);

    let (first, second) = (saved.0 + 4, saved.0 + 8);
    let script = format!(
        "xl restore /dev/vda; until_said saved 'step {first} ' 300; {SAVE}\n\
         show saved; rm /var/log/xen/console/guest-saved.log\n\
         xl restore /tmp/saved; until_said saved 'step {second} ' 300; xl list; xl destroy saved; show saved"
    );
    let on_oxen = machines.boot(lab, "oxen", &script, [from_xen, from_oxen])?;
    let restored = steps_after(&on_oxen, saved)?;
    ensure!(restored.0 >= second, "the guest came to step {} on Oxen", restored.0);

    // What it was saved with on Oxen is the step before those that it did once more there.
    let third = first + 4;
    let script =
        format!("xl restore vda; xl expect saved 'step {third} is whole' 300; xl save saved vdb; xl list; poweroff");
    let mut machine = lab.machine(&script)?;
    machine.disks = vec![from_oxen.clone(), from_dom0.clone()];
    let by_dom0 = lab.boot_within(&machine, LIMIT)?.succeeded()?.says_in_order(&["restored: `saved`", "saved: "])?;
    let begun = first_step(&by_dom0)?;
    ensure!(begun > first && begun <= third, "it goes on at step {begun} in dom0's hands, saved after step {first}");
    let moved = steps_after(&by_dom0, (begun - 1, saved.1))?;

    let fourth = moved.0 + 4;
    let script = format!("xl restore /dev/vda; until_said saved 'step {fourth} ' 300; xl destroy saved; show saved");
    let back = machines.boot(lab, "xen-again", &script, [from_dom0, none])?;
    ensure!(steps_after(&back, moved)?.0 >= fourth, "the guest did not go on on Xen");
    Ok(Verdict::Passed)
}

/// dom0's own toolstack saves a stock Debian that works on its disk, and restores it: ended, and gone on with.
pub(super) fn the_toolstack_saves_and_restores_a_debian(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create linux.cfg; xl expect linux 'step 4 is whole' 300\n\
                  xl save linux vda; xl list\n\
                  xl restore vda; xl expect linux 'step 8 is whole' 300\n\
                  xl save -c linux /dev/vda; xl expect linux 'step 12 is whole' 300; xl destroy linux\n\
                  xl restore -p vda; xl list; xl unpause linux; xl expect linux 'step 14 is whole' 300\n\
                  xl destroy linux; xl list; poweroff";
    let ramdisk = Ramdisk::new(lab.workspace, "saved").disks().script(DISK_WORK);
    let mut machine = match guests::guest(lab, debian::kernel, &ramdisk, WITH_DISK, &[], script) {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    machine.disks = vec![empty_disk(lab)?, lab.file("disk.img", &vec![0; 8 << 20])?];
    let report = lab.boot_within(&machine, LIMIT)?.succeeded()?;
    let report = report.says_in_order(&["saved: ", "restored: `linux`", "saved: ", "restored: `linux`"])?;
    // The second restored guest goes on where the checkpoint was, as the guest did that went on behind it.
    let steps: Vec<u32> = steps_of(&report, "linux")?;
    let runs: Vec<(u32, u32)> =
        steps.chunk_by(|step, next| step + 1 == *next).filter_map(|run| Some((*run.first()?, *run.last()?))).collect();
    ensure!(matches!(runs[..], [(1, 12..), (9, 14..)]), "the steps are {steps:?}");
    Ok(Verdict::Passed)
}

/// The numbers of the steps that a guest says, all of which are whole.
fn steps_of(report: &Report, guest: &str) -> Result<Vec<u32>> {
    let before = format!("({guest}) step ");
    let lines = report.transcript().lines().filter_map(|line| line.strip_prefix(before.as_str()));
    lines
        .map(|line| {
            let (step, _) = line.split_once(" is whole").with_context(|| format!("step {line}"))?;
            Ok(step.parse()?)
        })
        .collect()
}

/// The same Debian is saved and restored again and again: no step is lost, and no memory.
pub(super) fn rounds(lab: &Lab<'_>, count: usize) -> Result<Verdict> {
    let mut script = String::from("xl create linux.cfg; xl expect linux 'step 2 is whole' 300\n");
    for round in 1..=count {
        script += "xl save linux vda; xl restore vda; xl expect linux 'is whole' 300\n";
        // The first rounds fill what is kept for the next guest.
        if round == count / 4 || round == count {
            script += "xl info\n";
        }
    }
    script += "poweroff\n";
    let ramdisk = Ramdisk::new(lab.workspace, "saved").disks().script(DISK_WORK);
    let mut machine = match guests::guest(lab, debian::kernel, &ramdisk, WITH_DISK, &[], &script) {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    machine.disks = vec![empty_disk(lab)?, lab.file("disk.img", &vec![0; 8 << 20])?];
    let report = lab.boot_within(&machine, super::LONG_LIMIT)?.succeeded()?;
    let restored = report.lines_with("restored: `linux`").len();
    ensure!(restored == count, "restored {restored} times of {count}");
    let steps = steps_of(&report, "linux")?;
    ensure!(steps.iter().zip(1..).all(|(step, expected)| *step == expected), "the steps are {steps:?}");
    for what in ["free_memory", "dom0_free_memory"] {
        let told: Vec<&str> = report.lines_with(what).into_iter().filter(|line| line.starts_with(what)).collect();
        ensure!(told.len() == 2 && told.first() == told.last(), "memory is lost: {told:?}");
    }
    Ok(Verdict::Passed)
}

/// Streams that are damaged at random, most of them where their records are not pages: each is refused with a reason or
/// is another guest's, whose domain can be destroyed; no memory is lost, and the undamaged one comes back.
pub(super) fn damaged_streams(lab: &Lab<'_>, count: u8) -> Result<Verdict> {
    let script = "xl create linux.cfg; xl expect linux 'step 2 is whole' 300; xl save linux vda; poweroff";
    let ramdisk = Ramdisk::new(lab.workspace, "saved").script(WORK);
    let mut machine = match guests::guest(lab, debian::kernel, &ramdisk, "memory = 96\nvcpus = 2", &[], script) {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    let good = empty_disk(lab)?;
    machine.disks = vec![good.clone()];
    lab.boot_within(&machine, LIMIT)?.succeeded()?;
    let stream = std::fs::read(&good)?;
    let end = stream.iter().rposition(|byte| *byte != 0).context("nothing was saved")?;
    let mut disks = vec![good];
    let mut script = String::from("xl info\n");
    for number in 0..count {
        let mut damaged = stream.clone();
        for word in oxen_tools::disk::noise(number.into(), 4 * 8).chunks_exact(8) {
            let [a, b, c, d, bytes @ ..] = *<&[u8; 8]>::try_from(word)?;
            let place = u32::from_le_bytes([a, b, c, d]) as usize;
            let at = match number % 3 {
                0 => place % 4096,
                1 => end - place % (16 << 10),
                _ => place % end,
            };
            damaged.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
        }
        disks.push(lab.file(&format!("damaged-{number}.img"), &damaged)?);
        script += &format!("xl restore -p vd{}; xl destroy linux\n", char::from(b'b' + number));
    }
    script += "xl info; xl restore vda; xl expect linux 'step 4 is whole' 300; xl list; poweroff\n";
    let mut machine = lab.machine(&script)?;
    machine.disks = disks;
    let report = lab.boot_within(&machine, LIMIT)?.ended(Exit::Failure)?.lacks("panicked")?;
    let report = report.says("restored: `linux`")?.says("step 4 is whole")?;
    let free: Vec<&str> =
        report.lines_with("free_memory").into_iter().filter(|line| line.starts_with("free_memory")).collect();
    ensure!(free.len() == 2 && free.first() == free.last(), "memory is lost: {free:?}");
    let answers = ["restored: `linux`", "error: `vd", "error: the guest on", "error: the configuration on"];
    let answered: usize = answers.iter().map(|answer| report.lines_with(answer).len()).sum();
    ensure!(answered == usize::from(count) + 1, "{answered} answers for {count} damaged streams and one that is not");
    Ok(Verdict::Passed)
}

/// dom0's own toolstack makes two guests of a running Debian: all three go on from the same step.
pub(super) fn the_toolstack_clones_a_debian(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "xl create linux.cfg; xl expect linux 'step 4 is whole' 300\n\
                  xl clone linux 2; xl list; xl expect linux-1 'step 7 is whole' 300\n\
                  xl expect linux-2 'step 7 is whole' 300; xl expect linux 'step 7 is whole' 300; poweroff";
    let ramdisk = Ramdisk::new(lab.workspace, "saved").script(WORK);
    let machine = match guests::guest(lab, debian::kernel, &ramdisk, "memory = 96\nvcpus = 2", &[], script) {
        Ok(machine) => machine,
        Err(verdict) => return Ok(verdict),
    };
    let report = lab.boot_within(&machine, LIMIT)?.succeeded()?;
    let report = report.says_in_order(&["cloned: `linux-1` as domain 2", "cloned: `linux-2` as domain 3"])?;
    for (name, from) in [("linux", 1), ("linux-1", 5), ("linux-2", 5)] {
        let steps = steps_of(&report, name)?;
        let is_one_run = steps.iter().zip(from..).all(|(step, expected)| *step == expected);
        ensure!(is_one_run && steps.last() >= Some(&7), "the steps of `{name}` are {steps:?}");
    }
    Ok(Verdict::Passed)
}

/// A stock Debian at work moves live into another domain, by rounds of what it has written to meanwhile.
pub(super) fn a_debian_at_work_migrates_live(lab: &Lab<'_>) -> Result<Verdict> {
    let machines = match Machines::find(lab) {
        Ok(machines) => machines,
        Err(error) => return Ok(Verdict::Skipped(format!("no Xen or Linux of Debian's: {error:#}"))),
    };
    let disks = ["one", "other"].map(|name| lab.folder.join(format!("{name}.img")));
    for disk in &disks {
        std::fs::create_dir_all(&lab.folder)?;
        std::fs::File::create(disk)?.set_len(DISK)?;
    }
    let [one, other] = &disks;
    let report = machines.boot(lab, "oxen", MIGRATE, [one, other])?;
    judge_migration(report)
}

/// Migrates the guest to the machine on which it is. What it says stands in another file then, by the name that a
/// domain has until all of it has come.
const MIGRATE: &str = "free() { xl info free_memory; }; steps() { grep -c ^step guest-saved.log; }\n\
    before=$(free); create saved.cfg; cd /var/log/xen/console; until_said saved 'step 4 ' 300; old=$(xl domid saved)\n\
    first=$(steps); xl -v migrate -s '' saved 'xl migrate-receive' && echo \"migrated from $first to $(steps)\"\n\
    [ $old = $(xl domid saved) ] || echo it is in another domain\n\
    until_said saved--incoming \"step $(($(steps) + 6)) \" 200; xl list; xl destroy saved\n\
    cat guest-saved.log guest-saved--incoming.log >guest-both.log; show both | sed 's/^(both)/(saved)/'\n\
    [ $before = $(free) ] && echo nothing is left behind";

/// The guest worked on while its memory was on the way, and no step of it is lost or done twice.
fn judge_migration(report: Report) -> Result<Verdict> {
    let report = report.says_in_order(&["migrated from ", "it is in another domain", "nothing is left behind"])?;
    let migrated = report.transcript().lines().find_map(|line| line.strip_prefix("migrated from ")).unwrap_or_default();
    let (first, last) = migrated.split_once(" to ").context("it is not told when it migrated")?;
    let (first, last): (u32, u32) = (first.parse()?, last.trim().parse()?);
    ensure!(last >= first + 2, "the guest did nothing between step {first}, when it was to go, and {last}");
    let end = steps_after(&report, (0, 0.0))?.0;
    ensure!(end >= last + 6, "it came to step {end} after step {last}, when it went");
    Ok(Verdict::Passed)
}
