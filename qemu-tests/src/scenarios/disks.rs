//! Disks: what a guest reads and writes through dom0, images that are cut short, disks that guests may not write.

use anyhow::{Result, ensure};
use oxen_tools::disk;
use oxen_tools::session::Exit;

use crate::lab::{Lab, Verdict};

const MIB: usize = 1 << 20;

/// What the guest fs writes (its documentation tells): from 1 MiB on, 4 MiB, each word its offset times a constant.
pub(super) fn with_pattern(mut image: Vec<u8>) -> Vec<u8> {
    for (index, word) in image.chunks_exact_mut(8).enumerate().skip(MIB / 8).take(4 * MIB / 8) {
        word.copy_from_slice(&(index as u64 * 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    image
}

pub(super) fn what_a_guest_writes_stands_in_the_image_and_nothing_else(lab: &Lab<'_>) -> Result<Verdict> {
    let before = disk::noise(7, 16 * MIB);
    let image = lab.file("disk.img", &before)?;
    let mut machine = lab.machine("xl create fs-write.cfg; xl block-list fs; xl wait fs; poweroff")?;
    machine.disks.push(image.clone());
    let report = lab.boot(&machine)?.succeeded()?;
    let after = std::fs::read(&image)?;
    let expected = with_pattern(before);
    if after != expected {
        let first = after.iter().zip(&expected).position(|(a, b)| a != b);
        return report.fail(&format!("the image differs from what was to be written, first at byte {first:?}"));
    }
    Ok(Verdict::Passed)
}

pub(super) fn a_guest_that_may_only_read_cannot_write(lab: &Lab<'_>) -> Result<Verdict> {
    let before = disk::noise(8, 16 * MIB);
    let image = lab.file("disk.img", &before)?;
    let config =
        b"name = \"fs\"\nkernel = \"guests/fs\"\ncmdline = \"write\"\nmemory = 64\ndisk = [\"phy:vda,xvda,r\"]\n";
    let mut machine = lab.machine("xl create reader.cfg; xl wait fs; poweroff")?;
    machine.disks.push(image.clone());
    lab.add(&mut machine, &[("reader.cfg", config)])?;
    lab.boot(&machine)?.succeeded()?.says("fs: ")?;
    ensure!(std::fs::read(&image)? == before, "a guest wrote to a disk that it may only read");
    Ok(Verdict::Passed)
}

/// Half a file system: what lies in it is read, what does not is an error of the guest's, and everything goes on.
pub(super) fn an_image_cut_short_is_the_guests_error_alone(lab: &Lab<'_>) -> Result<Verdict> {
    let (image, _) = disk::make(&lab.folder)?;
    let whole = std::fs::read(&image)?;
    let image = lab.file("short.img", whole.get(..9 * MIB).unwrap_or_default())?;
    let mut machine =
        lab.machine("xl create fs.cfg; xl wait fs; xl create hello.cfg; xl wait hello; xl list; poweroff")?;
    machine.disks.push(image);
    let report = lab.boot(&machine)?;
    let report = report.says("fs: ")?.says("(hello) hello from a guest")?.lacks("Panic")?.lacks("158 files")?;
    ensure!(matches!(report.0.exit, Exit::Success | Exit::Failure), "the run ended with {:?}", report.0.exit);
    Ok(Verdict::Passed)
}

pub(super) fn an_image_without_a_file_system_is_the_guests_error_alone(lab: &Lab<'_>) -> Result<Verdict> {
    let image = lab.file("noise.img", &disk::noise(9, 4 * MIB))?;
    let mut machine = lab.machine("xl create fs.cfg; xl wait fs; xl create hello.cfg; xl wait hello; poweroff")?;
    machine.disks.push(image);
    lab.boot(&machine)?.says("fs: ")?.says("(hello) hello from a guest")?.lacks("Panic")?;
    Ok(Verdict::Passed)
}

/// The line of which the project's own documentation speaks, on a disk that a user brings.
pub(super) fn a_guest_that_reads_is_listed_shown_and_destroyed(lab: &Lab<'_>) -> Result<Verdict> {
    let (image, sums) = disk::make(&lab.folder)?;
    let mut machine = lab.machine("xl create fs.cfg; xl list; xl console fs; xl destroy fs; xl info; poweroff")?;
    machine.disks.push(image);
    let report = lab.boot(&machine)?.succeeded()?;
    let missing = disk::missing(&sums, report.transcript());
    if !missing.is_empty() {
        return report.fail(&format!("these files did not show the host's sum: {}", missing.join(", ")));
    }
    report.says("free_memory")?;
    Ok(Verdict::Passed)
}

/// Three guests read the same disk at once, and each reads it right.
pub(super) fn three_guests_share_a_disk(lab: &Lab<'_>) -> Result<Verdict> {
    let (image, sums) = disk::make(&lab.folder)?;
    let script = "xl create fs.cfg name=a; xl create fs.cfg name=b; xl create fs.cfg name=c; xl list; \
        xl wait a; xl wait b; xl wait c; poweroff";
    let mut machine = lab.machine(script)?;
    machine.disks.push(image);
    let report = lab.boot(&machine)?.succeeded()?;
    for name in ["(a) ", "(b) ", "(c) "] {
        let said = report.lines_with(name).join("\n");
        let missing = disk::missing(&sums, &said);
        if !missing.is_empty() {
            return report.fail(&format!("{name} lacks the sums of {}", missing.join(", ")));
        }
    }
    Ok(Verdict::Passed)
}

pub(super) fn a_disk_can_be_a_file_of_the_ramdisk(lab: &Lab<'_>) -> Result<Verdict> {
    let tree = lab.folder.join("tree");
    std::fs::create_dir_all(&tree)?;
    std::fs::write(tree.join("one"), "a file on a disk in a ramdisk\n")?;
    let image = lab.folder.join("small.img");
    disk::format(&tree, &image, 2)?;
    let config = b"name = \"fs\"\nkernel = \"guests/fs\"\nmemory = 64\ndisk = [\"file:small.img,xvda,r\"]\n";
    let mut machine = lab.machine("xl create small.cfg; xl wait fs; poweroff")?;
    lab.add(&mut machine, &[("small.cfg", config), ("small.img", &std::fs::read(&image)?)])?;
    let report = lab.boot(&machine)?.succeeded()?;
    let missing = disk::missing(&disk::sums(&tree)?, report.transcript());
    if !missing.is_empty() {
        return report.fail("the file's sum is not shown");
    }
    Ok(Verdict::Passed)
}
