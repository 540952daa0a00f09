//! The same guests on real Xen: Debian's Xen 4.17, Debian's Linux as dom0 and Debian's own `xl` create the samples
//! from the same kernels and the same configurations.

use std::time::Duration;

use anyhow::{Result, ensure};
use oxen_tools::fuzz::{self, Place, Seeds, Sides};
use oxen_tools::linux::{self, Ramdisk};
use oxen_tools::qemu::CPU;
use oxen_tools::session::Exit;
use oxen_tools::{debian, disk, linux_dom0, xen};

use super::disks::with_pattern;
use super::{guests, hypercalls};
use crate::lab::{Lab, Report, Verdict};

const MIB: usize = 1 << 20;

/// How long a machine may take: two systems boot one after the other. It is met only by what hangs.
const LIMIT: Duration = Duration::from_secs(400);

/// Boots real Xen, or Oxen's hypervisor, with a Linux dom0 that runs the script; `Err`
/// where the packages cannot be had.
pub(super) fn boot(
    lab: &Lab<'_>,
    on_xen: bool,
    script: &str,
    files: &[(&str, &[u8])],
) -> Result<Result<Report, Verdict>> {
    let files: Vec<_> = files.iter().map(|(name, data)| ((*name).to_owned(), data.to_vec())).collect();
    let find = || if on_xen { xen::find(lab.workspace, "xen".as_ref()).map(Some) } else { Ok(None) };
    let folder = lab.folder.join("boot");
    let machine = find().and_then(|xen| linux_dom0::machine(lab.workspace, xen.as_deref(), folder, script, &files));
    let machine = match machine {
        Ok(machine) => machine,
        Err(error) => return Ok(Err(Verdict::Skipped(format!("no Xen or Linux of Debian's: {error:#}")))),
    };
    let report = lab.boot_within(&machine, LIMIT)?.ended(Exit::PoweredOff)?;
    report.says_in_order(&["dom0: ready", "dom0: done"])?.lacks("dom0: no ")?.lacks("did not end in").map(Ok)
}

/// Boots it, or leaves the scenario with the reason why that is not possible.
macro_rules! boot {
    ($($argument:expr),*) => {
        match boot($($argument),*)? {
            Ok(report) => report,
            Err(skipped) => return Ok(skipped),
        }
    };
}

/// `hello` greets and ends; `mmu` is refused as on Oxen; `bench` measures to its end.
pub(super) fn hello_mmu_and_bench_run_on_real_xen(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "create hello.cfg; finish hello 120; create mmu.cfg; finish mmu 120\n\
        create bench.cfg; finish bench 120; xl list";
    let report = boot!(lab, true, script, &[]);
    let report = report.says("(hello) hello from a guest")?.says("(hello) the store calls this domain hello")?;
    let report = report.says("(bench) bench: null_hypercall ")?.says("(bench) bench: done")?;
    guests::shows_two_address_spaces(&report)?;
    let listed = report.transcript().rsplit("Name ").next().unwrap_or_default();
    ensure!(listed.contains("Domain-0") && !listed.contains("hello"), "a guest that ended is listed:\n{listed}");
    Ok(Verdict::Passed)
}

/// The probe's questions have the same answers there, asked from an unprivileged guest.
pub(super) fn the_probe_has_the_same_answers_on_real_xen(lab: &Lab<'_>) -> Result<Verdict> {
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let config = b"name = \"probe\"\nkernel = \"guests/probe\"\nmemory = 32\n";
    let files: [(&str, &[u8]); 2] = [("probe.cfg", config), ("guests/probe", &probe)];
    hypercalls::judge(&boot!(lab, true, "create probe.cfg; finish probe 120", &files))
}

/// A guest for each way to have a time stamp counter: the name, what `tsc_mode` says, and the number of that mode.
const COUNTERS: [(&str, &str, u32); 3] =
    [("plain", "default", 0), ("counted", "always_emulate", 1), ("own", "native", 2)];

/// The probe's questions of the counter have the same answers on both, whatever the mode.
pub(super) fn a_guests_counter_is_as_its_mode_says_on_both(lab: &Lab<'_>) -> Result<Verdict> {
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let configs = COUNTERS.map(|(name, mode, number)| {
        let config = format!(
            "name = \"{name}\"\nkernel = \"guests/probe\"\nmemory = 32\ntsc_mode = \"{mode}\"\n\
             cmdline = \"family=tsc tsc={number}\"\n"
        );
        (format!("{name}.cfg"), config)
    });
    let mut files: Vec<(&str, &[u8])> = configs.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    files.push(("guests/probe", &probe));
    let script = COUNTERS.map(|(name, ..)| format!("xl create {name}.cfg; xl wait {name}; ")).concat();
    let mut machine = lab.machine(&format!("{script}poweroff"))?;
    lab.add(&mut machine, &files)?;
    let ours = lab.boot(&machine)?.succeeded()?;
    let script = COUNTERS.map(|(name, ..)| format!("create {name}.cfg; finish {name} 120\n")).concat();
    let theirs = boot!(lab, true, &script, &files);
    for report in [ours, theirs] {
        let wrong = report.lines_with("probe: FAILED");
        if !wrong.is_empty() || report.lines_with("probe: done, ").len() != COUNTERS.len() {
            return report.fail(&format!("wrong answers:\n    {}", wrong.join("\n    ")));
        }
    }
    Ok(Verdict::Passed)
}

/// Leaves of CPUID that every processor has more of.
const MIN_LEAVES: usize = 100;

/// A guest for whom Debian's tools leave something of the processor out sees the same leaves on both.
pub(super) fn a_guest_sees_of_the_processor_what_debians_tools_leave_on_both(lab: &Lab<'_>) -> Result<Verdict> {
    let probe = std::fs::read(lab.workspace.out.join("probe"))?;
    let config = b"name = \"probe\"\nkernel = \"guests/probe\"\nmemory = 32\ncmdline = \"fuzz=0 sweep=1\"\n\
        cpuid = \"host,avx=0,aes=0,stepping=1\"\n";
    let files: [(&str, &[u8]); 2] = [("probe.cfg", config), ("guests/probe", &probe)];
    let script = "create probe.cfg; finish probe 120";
    let leaves = |report: &Report| -> Vec<String> {
        let said = report.lines_with("forced cpuid");
        // The hypervisor's own tell the version and how fast the machine is.
        said.into_iter().filter(|line| !line.contains(" a=4000")).map(str::to_owned).collect()
    };
    // On a busy host Xen's dom0 may take its tools' patience: that is tried again, for it says nothing of either.
    let mut reference = boot!(lab, true, script, &files);
    for _ in 0..2 {
        if leaves(&reference).len() <= MIN_LEAVES {
            reference = boot!(lab, true, script, &files);
        }
    }
    let theirs = leaves(&reference);
    if theirs.len() <= MIN_LEAVES {
        return reference.fail(&format!("real Xen told only {} leaves", theirs.len()));
    }
    let ours = leaves(&boot!(lab, false, script, &files));
    for (xen, oxen) in theirs.iter().zip(&ours) {
        ensure!(xen == oxen, "real Xen: {xen}\n    Oxen: {oxen}");
    }
    ensure!(theirs.len() == ours.len(), "Oxen told {} leaves of {}", ours.len(), theirs.len());
    Ok(Verdict::Passed)
}

/// What is drawn from some seeds, asked in dom0's place, has the same answers and effects on both.
pub(super) fn what_is_drawn_from_seeds_does_the_same_on_real_xen(lab: &Lab<'_>) -> Result<Verdict> {
    let xen = match xen::find(lab.workspace, "xen".as_ref()) {
        Ok(xen) => xen,
        Err(error) => return Ok(Verdict::Skipped(format!("no Xen of Debian's: {error:#}"))),
    };
    let sides = Sides {
        workspace: lab.workspace,
        xen,
        folder: lab.folder.join("boot"),
        cpu: CPU.to_owned(),
        place: Place::Dom0,
        limit: LIMIT,
    };
    let seeds = Seeds { first: 1, count: 1_667, calls: 12, control: false };
    let (steps, differences) = fuzz::compare(&sides, seeds, false)?;
    let told: Vec<String> = differences.iter().map(ToString::to_string).collect();
    ensure!(told.is_empty(), "{} of {steps} answers differ:\n{}", told.len(), told.join("\n"));
    ensure!(steps as u64 == seeds.count * seeds.calls, "only {steps} answers could be compared");
    Ok(Verdict::Passed)
}

/// `fs` reads an ext4 image and writes a pattern through Linux's block backend.
pub(super) fn fs_reads_and_writes_through_linuxs_backend(lab: &Lab<'_>) -> Result<Verdict> {
    let (image, sums) = disk::make(&lab.folder)?;
    let image = std::fs::read(image)?;
    let before = disk::noise(11, 16 * MIB);
    let script = "losetup -r /dev/loop0 /disk.img; ln -s loop0 /dev/vda; create fs.cfg; xl list; finish fs 120\n\
        rm /dev/vda; losetup /dev/loop1 /noise.img; ln -s loop1 /dev/vda; create fs-write.cfg; finish fs 120\n\
        sync; echo \"dom0: written $(sha256sum < /noise.img)\"";
    let report = boot!(lab, true, script, &[("disk.img", &image), ("noise.img", &before)]);
    let missing = disk::missing(&sums, report.transcript());
    if !missing.is_empty() {
        return report.fail(&format!("these files did not show the host's sum: {}", missing.join(", ")));
    }
    report.says(&format!("dom0: written {}", disk::sha256(&with_pattern(before))))?;
    Ok(Verdict::Passed)
}

/// `hog` follows `xl mem-set`; what it has is what `xl list` shows.
pub(super) fn hog_follows_its_target_on_real_xen(lab: &Lab<'_>) -> Result<Verdict> {
    let script = "step() { until_said hog \"domain has $1 MiB, target $1 MiB\" 120; sleep 1; xl list hog; }\n\
        create hog.cfg memory=64 maxmem=64; step 64; xl mem-set hog 32m; step 32; xl mem-set hog 64m\n\
        : > /var/log/xen/console/guest-hog.log; step 64; xl shutdown hog; finish hog 120";
    let report = boot!(lab, true, script, &[]);
    let listed: Vec<u64> = report.lines_with("hog  ").iter().filter_map(|line| guests::memory_of(line).ok()).collect();
    ensure!(listed == [64, 32, 64], "xl list shows {listed:?}");
    if !report.lines_with("pages spoilt").iter().all(|line| line.contains(" 0 pages spoilt")) {
        return report.fail("what hog held did not stay as it was");
    }
    report.lacks("did not say")?;
    Ok(Verdict::Passed)
}

/// `net` gets a lease of busybox's DHCP server, pings, fetches and serves through Linux's network backend.
pub(super) fn net_talks_through_linuxs_backend(lab: &Lab<'_>) -> Result<Verdict> {
    let file = disk::noise(13, 2 * MIB);
    let script = "brctl addbr xenbr0; ip addr add 10.9.0.1/24 dev xenbr0; ip link set xenbr0 up\n\
        printf 'start 10.9.0.10\\nend 10.9.0.10\\ninterface xenbr0\\noption subnet 255.255.255.0\\n' > /udhcpd.conf\n\
        printf 'option router 10.9.0.1\\nlease_file /leases\\n' >> /udhcpd.conf; : > /leases; udhcpd /udhcpd.conf\n\
        httpd -h / -p 8000; create net.cfg 'cmdline=\"fetch=http://10.9.0.1:8000/file\"'\n\
        until_said net 'net: fetched' 120 && ping -c 3 10.9.0.10\n\
        echo \"dom0: served $(wget -q -O - http://10.9.0.10/bytes/3000000 | sha256sum)\"\n\
        xl shutdown net; finish net 120";
    let report = boot!(lab, true, script, &[("file", &file)]);
    let report = report.says("net: lease 10.9.0.10/24")?.says(&disk::sha256(&file))?.says("3 packets received")?;
    let report = report.lacks("FAILED")?.lacks("did not say")?;
    let served = report.transcript().lines().find_map(|line| line.strip_prefix("dom0: served ")?.split(' ').next());
    let Some(sum) = served else { return report.fail("dom0 fetched nothing") };
    if report.lines_with("(net) net: http:").iter().all(|line| !line.contains(sum)) {
        return report.fail("what dom0 fetched is not what the guest served");
    }
    Ok(Verdict::Passed)
}

/// The other half of the exchange: Debian's own tools in a Linux dom0 create the same guests on Oxen's hypervisor.
pub(super) fn debians_tools_create_guests_on_oxen(lab: &Lab<'_>) -> Result<Verdict> {
    let tree = lab.folder.join("tree");
    std::fs::create_dir_all(&tree)?;
    std::fs::write(tree.join("one"), disk::noise(17, 3 * MIB))?;
    let image = lab.folder.join("small.img");
    disk::format(&tree, &image, 8)?;
    let script = "create hello.cfg; finish hello 120; create -p hello.cfg; xl list hello; \
        xl unpause hello; finish hello 120\n\
        losetup -r /dev/loop0 /disk.img; ln -s loop0 /dev/vda; create fs.cfg; finish fs 120; xl info; xl list";
    let report = boot!(lab, false, script, &[("disk.img", &std::fs::read(image)?)]);
    let report = report.says("(hello) the store calls this domain hello")?.says("--p---")?.says("free_memory")?;
    let missing = disk::missing(&disk::sums(&tree)?, report.transcript());
    if !missing.is_empty() {
        return report.fail("the file's sum is not shown");
    }
    Ok(Verdict::Passed)
}

/// What Debian's kernel says of its memory, again and again.
const MEMORY: &str = "cd /sys/devices/system/xen_memory/xen_memory0/info\n\
    while true; do echo \"linux: $(grep MemTotal /proc/meminfo) current $(cat current_kb)\"; sleep 1; done";

/// Debian's kernel gives memory back and takes it again by `xl mem-set`: `xl list` and the kernel's own totals are, to
/// the KiB, what they are on real Xen.
pub(super) fn linux_follows_its_target_as_on_real_xen(lab: &Lab<'_>) -> Result<Verdict> {
    let made = debian::vmlinuz(lab.workspace)
        .and_then(|kernel| Ok((std::fs::read(kernel)?, Ramdisk::new(lab.workspace, "linux").script(MEMORY).build()?)));
    let (kernel, ramdisk) = match made {
        Ok(made) => made,
        Err(error) => return Ok(Verdict::Skipped(format!("no stock kernel: {error:#}"))),
    };
    let config = format!(
        "name = \"linux\"\nkernel = \"guests/linux\"\nramdisk = \"guests/initrd\"\nmemory = 256\ncmdline = \"{}\"\n",
        linux::CMDLINE
    );
    let files: [(&str, &[u8]); 3] =
        [("linux.cfg", config.as_bytes()), ("guests/linux", &kernel), ("guests/initrd", &ramdisk)];
    let script = "step() { until_said linux \"current $1\" 120; sleep 2; xl list linux; }\n\
        create linux.cfg; step 262144; xl mem-set linux 128m; step 131072\n\
        show linux; : > /var/log/xen/console/guest-linux.log; xl mem-set linux 256m; \
        step 262144; show linux; xl destroy linux";
    let xens = boot!(lab, true, script, &files).lacks("did not say")?;
    let script = "xl create linux.cfg; expect linux 'current 262144' 60; sleep 2; xl list linux; xl mem-set linux 128; \
        expect linux 'current 131072' 60; sleep 2; xl list linux; xl mem-set linux 256; \
        expect linux 'current 262144' 60; sleep 2; xl list linux; xl destroy linux; xl console linux; poweroff";
    let mut machine = lab.machine(script)?;
    machine.memory = 1024;
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=384M");
    lab.add(&mut machine, &files)?;
    let ours = lab.boot(&machine)?.succeeded()?;
    let (xens, ours) = (Memory::of(&xens), Memory::of(&ours));
    ensure!(xens.listed == [256, 128, 256], "real Xen lists {:?}", xens.listed);
    ensure!(xens == ours, "real Xen: {xens:?}; Oxen: {ours:?}");
    Ok(Verdict::Passed)
}

/// What was seen of a guest's memory.
#[derive(Debug, PartialEq, Eq)]
struct Memory {
    /// By `xl list`, in MiB.
    listed: Vec<u64>,
    /// By the guest: what it has, without what its kernel keeps, where the target is 256 and 128 MiB; in KiB.
    totals: [Option<u64>; 2],
}

impl Memory {
    fn of(report: &Report) -> Self {
        let listed = report.transcript().lines().filter(|line| line.starts_with("linux  "));
        // The last of its lines: those before may stand for the way there.
        let total = |current: &str| {
            let said = report.lines_with(current);
            let line = said.iter().rev().find(|line| line.contains("linux: MemTotal"))?;
            line.split_once("MemTotal:")?.1.split_whitespace().next()?.parse().ok()
        };
        Self {
            listed: listed.filter_map(|line| guests::memory_of(line).ok()).collect(),
            totals: [total("current 262144"), total("current 131072")],
        }
    }
}
