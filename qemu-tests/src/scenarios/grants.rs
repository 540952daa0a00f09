//! Grant tables of version 2 in the hands of a stock Linux guest: who serves its disk and
//! its network sees no difference.

use anyhow::Result;
use oxen_tools::debian;
use oxen_tools::disk::{noise, sha256};
use oxen_tools::linux::{CMDLINE, Ramdisk};
use oxen_tools::qemu::USER_NETWORK;

use super::complaints::content;
use super::interop;
use crate::lab::{Lab, Report, Verdict};
use oxen_tools::http::{HOST, Server};

const MIB: usize = 1 << 20;

/// What the guest does: writes its disk and reads it again past its cache, pings who gave it
/// an address, and fetches a file.
const WORK: &str = r#"dmesg | grep 'Grant tables'
dd if=/dev/urandom of=/tmp/a bs=64k count=48 2>/dev/null
dd if=/tmp/a of=/dev/xvda bs=64k conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches
[ "$(dd if=/dev/xvda bs=64k count=48 2>/dev/null | md5sum)" = "$(md5sum < /tmp/a)" ] && echo "init: the disk agrees"
tries=0
until ip addr show eth0 | grep -q 'inet ' || [ $tries -gt 600 ]; do usleep 100000; tries=$((tries+1)); done
ping -c 3 HOST
wget -q -O /tmp/file http://HOST:PORT/file && echo "fetched $(sha256sum < /tmp/file)"
"#;

/// The kernel, the ramdisk and the configuration of the guest; `Err` where they cannot be had.
fn guest(lab: &Lab<'_>, disk: &str, host: &str, port: u16) -> Result<[(&'static str, Vec<u8>); 3], Verdict> {
    let script = WORK.replace("HOST", host).replace("PORT", &port.to_string());
    let make = || {
        let kernel = std::fs::read(debian::vmlinuz(lab.workspace)?)?;
        let ramdisk = Ramdisk::new(lab.workspace, "linux").disks().network().script(&script).build()?;
        let config = format!(
            "name = \"linux\"\nkernel = \"guests/linux\"\nramdisk = \"guests/initrd\"\nmemory = 256\nvcpus = 2\n\
            cmdline = \"{CMDLINE} grant_table.version=2\"\ndisk = [\"phy:{disk},xvda,w\"]\nvif = [\"\"]\n"
        );
        anyhow::Ok([("guests/linux", kernel), ("guests/initrd", ramdisk), ("linux.cfg", config.into_bytes())])
    };
    make().map_err(|error| Verdict::Skipped(format!("no stock kernel: {error:#}")))
}

fn judge(report: Report, sum: &str) -> Result<Verdict> {
    let fetched = format!("fetched {sum}");
    let turns = ["Grant tables using version 2 layout", "init: the disk agrees", "3 packets received", &fetched];
    content(report)?.says_in_order(&turns)?;
    Ok(Verdict::Passed)
}

/// Our dom0's backends.
pub(super) fn a_linux_guest_of_version_2_has_its_disk_and_network_of_our_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    let file = noise(61, 8 * MIB);
    let sum = sha256(&file);
    let server = Server::start(file)?;
    let files = match guest(lab, "vda", HOST, server.port) {
        Ok(files) => files,
        Err(verdict) => return Ok(verdict),
    };
    let mut machine = lab.machine("xl create linux.cfg; xl wait linux; poweroff")?;
    machine.memory = 768;
    machine.network = Some(USER_NETWORK.to_owned());
    machine.disks.push(lab.file("disk.img", &noise(5, 4 * MIB))?);
    lab.add(&mut machine, &files.each_ref().map(|(name, data)| (*name, data.as_slice())))?;
    judge(lab.boot(&machine)?.succeeded()?, &sum)
}

/// A Linux dom0's backends, on Oxen's hypervisor.
pub(super) fn a_linux_guest_of_version_2_has_its_disk_and_network_of_a_linux_dom0(lab: &Lab<'_>) -> Result<Verdict> {
    let file = noise(61, 8 * MIB);
    let files = match guest(lab, "/dev/loop0", "10.9.0.1", 8000) {
        Ok(files) => files,
        Err(verdict) => return Ok(verdict),
    };
    let script = "losetup /dev/loop0 /disk.img\n\
        brctl addbr xenbr0; ip addr add 10.9.0.1/24 dev xenbr0; ip link set xenbr0 up\n\
        printf 'start 10.9.0.10\\nend 10.9.0.10\\ninterface xenbr0\\noption subnet 255.255.255.0\\n' > /udhcpd.conf\n\
        printf 'lease_file /leases\\n' >> /udhcpd.conf; : > /leases; udhcpd /udhcpd.conf\n\
        httpd -h / -p 8000; create linux.cfg; finish linux 240";
    let disk = noise(5, 4 * MIB);
    let given: [(&str, &[u8]); 2] = [("file", &file), ("disk.img", &disk)];
    let files = files.each_ref().map(|(name, data)| (*name, data.as_slice()));
    match interop::boot(lab, false, script, &[&files[..], &given].concat())? {
        Ok(report) => judge(report, &sha256(&file)),
        Err(verdict) => Ok(verdict),
    }
}
