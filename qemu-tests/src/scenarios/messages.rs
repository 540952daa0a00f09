//! Interrupts by message: Debian's kernel in dom0's place, with devices that raise them in each of their ways.

use anyhow::{Context, Result, ensure};
use oxen_tools::debian;
use oxen_tools::disk::{noise, sha256};
use oxen_tools::linux::Ramdisk;
use oxen_tools::qemu::{Module, USER_NETWORK};
use oxen_tools::session::Exit;

use super::complaints::content;
use crate::lab::{Lab, Report, Verdict};

/// What it does: reads each disk as a whole, gets an address for each card, writes one disk, and shows who interrupted.
const WORK: &str = r#"for disk in nvme0n1 vda sda; do echo "sum of $disk $(sha256sum < /dev/$disk)"; done
dd if=/dev/vda of=/dev/nvme0n1 bs=64k conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches
echo "sum after $(sha256sum < /dev/nvme0n1)"
for card in eth0 eth1; do
    ip link set $card up
    udhcpc -i $card -n -q -t 30 -T 1 -s /bin/true 2>&1 | grep -q 'lease of 10' && echo "lease for $card"
done
while read line; do echo "count $line"; done < /proc/interrupts
for device in /sys/bus/pci/devices/*; do
    [ -d $device/msi_irqs ] && echo "device $(cat $device/vendor) uses $(ls $device/msi_irqs | wc -l)"
done
"#;

/// The drivers.
const MODULES: [&str; 7] = ["virtio_pci", "virtio_blk", "virtio_net", "nvme", "ahci", "sd_mod", "e1000e"];

/// Who must have interrupted, by which kind of message, as on real Xen.
const COUNTED: [(&str, &str); 8] = [
    ("-msi-x", "nvme0q0"),
    ("-msi-x", "nvme0q1"),
    ("-msi-x", "virtio0-input.0"),
    ("-msi-x", "virtio0-output.0"),
    ("-msi-x", "virtio1-req.0"),
    ("-msi-x", "eth1-rx-0"),
    ("-msi-x", "eth1-tx-0"),
    ("-msi", "ahci[0000:00:1f.2]"),
];

pub(super) fn a_linux_dom0_drives_nvme_virtio_ahci_and_e1000e_by_message(lab: &Lab<'_>) -> Result<Verdict> {
    let work = Ramdisk::new(lab.workspace, "dom0").modules(&MODULES).script(WORK);
    let make = || anyhow::Ok((debian::vmlinuz(lab.workspace)?, work.build()?));
    let (kernel, ramdisk) = match make() {
        Ok(files) => files,
        Err(error) => return Ok(Verdict::Skipped(format!("no stock kernel: {error:#}"))),
    };
    let images = [1, 2, 3].map(|seed| noise(seed, 1 << 20));
    let [nvme, virtio, sata] = ["nvme", "virtio", "sata"].map(|name| format!("{name}.img"));
    for (name, image) in [&nvme, &virtio, &sata].into_iter().zip(&images) {
        lab.file(name, image)?;
    }
    let drive = |name: &str| -> Result<String> {
        let file = lab.folder.join(name).canonicalize()?;
        let id = name.trim_end_matches(".img");
        Ok(format!("file={},format=raw,if=none,id={id}", file.to_string_lossy().replace(',', ",,")))
    };
    let mut machine = lab.machine("")?;
    machine.memory = 1024;
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=384M");
    machine.modules = vec![
        Module { file: kernel, args: "console=hvc0 rdinit=/init".to_owned() },
        Module { file: lab.file("ramdisk.cpio", &ramdisk)?, args: String::new() },
    ];
    machine.disks = vec![lab.folder.join(&virtio)];
    machine.network = Some(USER_NETWORK.to_owned());
    let card = format!("{USER_NETWORK},id=second");
    let [nvme, sata] = [drive(&nvme)?, drive(&sata)?];
    for (what, which) in [
        ("-M", "q35"),
        ("-drive", nvme.as_str()),
        ("-device", "nvme,drive=nvme,serial=1"),
        ("-drive", sata.as_str()),
        ("-device", "ide-hd,drive=sata,bus=ide.0"),
        ("-netdev", card.as_str()),
        ("-device", "e1000e,netdev=second,romfile="),
    ] {
        machine.devices.extend([what.to_owned(), which.to_owned()]);
    }
    let report = content(lab.boot(&machine)?.ended(Exit::PoweredOff)?)?;
    let mut demands: Vec<String> =
        ["nvme0n1", "vda", "sda"].iter().zip(&images).map(|(disk, image)| sum(&format!("of {disk}"), image)).collect();
    let [_, virtio_image, _] = &images;
    demands.push(sum("after", virtio_image));
    demands.extend(["eth0", "eth1"].map(|card| format!("lease for {card}")));
    let report = demands.into_iter().try_fold(report, |report, demand| report.says(&demand))?;
    let written = std::fs::read(lab.folder.join("nvme.img"))?;
    ensure!(&written == virtio_image, "what dom0 wrote does not stand in nvme.img");
    COUNTED.iter().try_for_each(|(kind, who)| counted(&report, kind, who))?;
    // Of each device as many as its driver asked for: nvme, virtio-blk, virtio-net, ahci, e1000e.
    let uses = [("0x1b36", 2), ("0x1af4", 2), ("0x1af4", 3), ("0x8086", 1), ("0x8086", 3)];
    let demands = uses.map(|(vendor, count)| format!("device {vendor} uses {count}"));
    demands.iter().try_fold(report, |report, demand| report.says(demand))?;
    Ok(Verdict::Passed)
}

fn sum(what: &str, image: &[u8]) -> String {
    format!("sum {what} {}", sha256(image))
}

/// Demands that a message of a kind has interrupted for somebody.
fn counted(report: &Report, kind: &str, who: &str) -> Result<()> {
    let lines = report.lines_with(who);
    let count = lines.iter().find_map(|line| {
        let mut words = line.split_once("count ")?.1.split_whitespace().skip(1);
        let count: u64 = words.next()?.parse().ok()?;
        (words.next()? == "xen-pirq" && words.next()? == kind && words.next()? == who).then_some(count)
    });
    ensure!(count.context(format!("no {kind} for {who} among {lines:?}"))? > 0, "{who} never interrupted");
    Ok(())
}
