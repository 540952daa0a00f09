//! A stock kernel's boots: as a guest of Oxen's dom0, in dom0's place, and the same on real Xen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::disk::{noise, sha256};
use crate::http::{HOST, Server};
use crate::linux::{self, Ramdisk};
use crate::qemu::{HYPERVISOR_ARGS, Machine, Module, USER_NETWORK, add_to_ramdisk};
use crate::run::dom0_args;
use crate::session::{self, Exit, Outcome};
use crate::stock::Kernel;
use crate::workspace::Workspace;
use crate::{build, guest, linux_dom0};

const CHECK: &str = include_str!("check.sh");
const WORK: &str = include_str!("work.sh");

/// The disk's size, of which a guest reads the first 4 MiB and writes the next 2.
const DISK: usize = 16 << 20;
const READ: usize = 4 << 20;
const WRITTEN: usize = 2 << 20;

/// What the host serves.
const SERVED: usize = 1 << 20;

/// How long dom0 waits for a guest's shell and for the end of its check, in seconds.
const PATIENCE: u32 = 300;

/// A kernel to boot, and where its machines run.
#[derive(Debug)]
pub struct Boots<'a> {
    /// Where the images stand built.
    pub workspace: &'a Workspace,
    /// A name that a guest can have.
    pub name: &'a str,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// A folder of its own.
    pub folder: PathBuf,
    /// How long a boot may take.
    pub limit: Duration,
}

impl Boots<'_> {
    /// As a guest of Oxen's dom0, with a disk and an interface on the machine's network: boots to its shell, checks
    /// both there, and shuts down when the toolstack asks. What its log says.
    ///
    /// # Errors
    /// Fails, with what was not as it should be, and where the transcript is.
    pub fn as_guest(&self) -> Result<String> {
        let (image, served) = (noise(21, DISK), noise(22, SERVED));
        let server = Server::start(served.clone())?;
        let name = self.name;
        let script = format!(
            "xl create {name}.cfg; expect {name} '{prompt}' {PATIENCE}; \
             send {name} 'sh /etc/check {HOST} {port}'; expect {name} 'gallery: done' {PATIENCE}; \
             xl list; xl block-list {name}; xl network-list {name}; xl shutdown -w {name}; poweroff",
            prompt = linux::prompt(name),
            port = server.port
        );
        let files = self.files(self.ramdisk().program("etc/check", CHECK.as_bytes()))?;
        let mut machine = Machine::oxen(self.workspace, &dom0_args(Some(&script))?);
        machine.folder = self.folder.join("guest");
        machine.memory = 1024;
        let dom0 = guest::dom0_memory(&files);
        machine.append = machine.append.replace("dom0_mem=128M", &format!("dom0_mem={dom0}M"));
        machine.network = Some(USER_NETWORK.to_owned());
        let disk = machine.folder.join("disk.img");
        build::write(&disk, &image)?;
        machine.disks.push(disk.clone());
        add_to_ramdisk(self.workspace, &mut machine, &files)?;
        let boot = self.boot(&machine, Some(name))?;
        boot.ended(Exit::Success)?;
        boot.says("gallery: 2 cpus")?;
        boot.says(&format!("gallery: read {}", sha256(image.get(..READ).unwrap_or_default())))?;
        let after = std::fs::read(&disk).context("the disk is gone")?;
        boot.says(&format!("gallery: wrote {}", sha256(after.get(READ..READ + WRITTEN).unwrap_or_default())))?;
        boot.says("3 packets received")?;
        boot.says(&format!("gallery: fetched {}", sha256(&served)))?;
        boot.log()
    }

    /// In dom0's place, to its first process, which works and powers the machine off. What its log says.
    ///
    /// # Errors
    /// As [`Boots::as_guest`].
    pub fn as_dom0(&self) -> Result<String> {
        self.in_dom0s_place(None)
    }

    /// The same on real Xen.
    ///
    /// # Errors
    /// As [`Boots::as_guest`].
    pub fn as_dom0_on(&self, xen: &Path) -> Result<String> {
        self.in_dom0s_place(Some(xen))
    }

    fn in_dom0s_place(&self, xen: Option<&Path>) -> Result<String> {
        let mut machine = Machine::oxen(self.workspace, "");
        machine.folder = self.folder.join(if xen.is_some() { "dom0-on-xen" } else { "dom0" });
        machine.memory = 1024;
        machine.append = HYPERVISOR_ARGS.replace("dom0_mem=128M", "dom0_mem=512M");
        if let Some(xen) = xen {
            machine.on_xen(xen);
            linux_dom0::spare_the_fpu(&mut machine);
        }
        let ramdisk = machine.folder.join("ramdisk.cpio");
        build::write(&ramdisk, &self.ramdisk().script(WORK).build()?)?;
        machine.modules = vec![
            Module { file: self.kernel.image.clone(), args: linux::CMDLINE.to_owned() },
            Module { file: ramdisk, args: String::new() },
        ];
        let boot = self.boot(&machine, None)?;
        boot.ended(Exit::PoweredOff)?;
        for said in ["gallery: 1 cpus", "gallery: 40 processes", "gallery: the sums agree", "gallery: slept"] {
            boot.says(said)?;
        }
        boot.log()
    }

    /// As a guest on real Xen, created from the same configuration by Debian's `xl` in a Linux dom0. What its log says.
    ///
    /// # Errors
    /// As [`Boots::as_guest`]; fails where Debian's packages cannot be had.
    pub fn as_guest_on(&self, xen: &Path) -> Result<String> {
        let name = self.name;
        let mut files = self.files(self.ramdisk().script(CHECK))?;
        files.push(("disk.img".to_owned(), noise(21, DISK)));
        let script = format!(
            "brctl addbr xenbr0; ip link set xenbr0 up; losetup /dev/loop0 /disk.img; ln -s loop0 /dev/vda\n\
             create {name}.cfg; finish {name} {PATIENCE}"
        );
        let folder = self.folder.join("guest-on-xen");
        let mut machine = linux_dom0::machine(self.workspace, Some(xen), folder, &script, &files)?;
        machine.append = machine.append.replace("dom0_mem=512M,max:512M", "dom0_mem=768M,max:768M");
        machine.memory = 1536;
        let boot = self.boot(&machine, Some(name))?;
        boot.ended(Exit::PoweredOff)?;
        boot.log()
    }

    fn ramdisk(&self) -> Ramdisk<'_> {
        Ramdisk::new(self.workspace, self.name).kernel(self.kernel).disks().network()
    }

    /// Kernel, ramdisk and configuration of the guest.
    fn files(&self, ramdisk: Ramdisk<'_>) -> Result<Vec<(String, Vec<u8>)>> {
        let kernel = std::fs::read(&self.kernel.image)
            .with_context(|| format!("cannot read {}", self.kernel.image.display()))?;
        let config = format!(
            "name = \"{name}\"\nkernel = \"guests/kernel\"\nramdisk = \"guests/initrd\"\ncmdline = \"{cmdline}\"\n\
             memory = 256\nvcpus = 2\ndisk = [\"phy:/dev/vda,xvda,w\"]\nvif = [\"mac=00:16:3e:0a:0b:0c\"]\n",
            name = self.name,
            cmdline = linux::CMDLINE
        );
        Ok(vec![
            ("guests/kernel".to_owned(), kernel),
            ("guests/initrd".to_owned(), ramdisk.build()?),
            (format!("{}.cfg", self.name), config.into_bytes()),
        ])
    }

    fn boot<'b>(&self, machine: &Machine, guest: Option<&'b str>) -> Result<Boot<'b>> {
        Ok(Boot { outcome: session::boot(machine, false, self.limit)?, guest, folder: machine.folder.clone() })
    }
}

/// A boot that has ended.
struct Boot<'a> {
    outcome: Outcome,
    /// Whose words count; the machine's own where there is none.
    guest: Option<&'a str>,
    folder: PathBuf,
}

impl Boot<'_> {
    fn fail<T>(&self, why: &str) -> Result<T> {
        bail!("{why}; transcript: {}", self.folder.join("run.log").display())
    }

    /// Demands an end, and that Linux did not complain of itself.
    fn ended(&self, exit: Exit) -> Result<()> {
        if let Some(line) = linux::complaint(&self.outcome.transcript) {
            return self.fail(&format!("it says `{}`", line.trim()));
        }
        if self.outcome.exit != exit {
            return self.fail(&format!("the run ended with {:?} instead of {exit:?}", self.outcome.exit));
        }
        Ok(())
    }

    fn says(&self, text: &str) -> Result<()> {
        if self.outcome.transcript.contains(text) { Ok(()) } else { self.fail(&format!("it does not say `{text}`")) }
    }

    /// What the kernel's log holds, as `dmesg` shows it, whole.
    fn log(&self) -> Result<String> {
        match log_in(&self.outcome.transcript, self.guest) {
            Ok(log) => Ok(log),
            Err(error) => self.fail(&format!("{error:#}")),
        }
    }
}

/// The log that stands in a transcript between a guest's marks, behind the guest's name where it has one.
fn log_in(transcript: &str, guest: Option<&str>) -> Result<String> {
    let name = guest.map(|guest| format!("({guest}) "));
    let said = transcript.lines().filter_map(|line| match &name {
        Some(name) => line.strip_prefix(name.as_str()),
        None => Some(line),
    });
    let mut log = said.skip_while(|line| !line.starts_with("gallery: log of "));
    let count = log.next().and_then(|line| line.split(' ').nth(3)).and_then(|count| count.parse::<usize>().ok());
    let count = count.context("it does not show its log")?;
    // What else the kernel says meanwhile stands between the log's lines, and behind them.
    let lines: Vec<&str> = log.take_while(|line| *line != "gallery: done").collect();
    ensure!(lines.len() >= count, "only {} of {count} lines of its log are shown", lines.len());
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::log_in;

    #[test]
    fn a_log_is_taken_whole_or_not_at_all() {
        let text = "(a) x\n(a) gallery: log of 2 lines\n(b) no\n(a) one\n(a) two\n(a) gallery: done\n(a) more\n";
        assert_eq!(log_in(text, Some("a")).unwrap(), "one\ntwo");
        assert!(log_in(&text.replace("(a) two\n", ""), Some("a")).unwrap_err().to_string().contains("only 1 of 2"));
        assert!(log_in(text, Some("c")).is_err());
        assert_eq!(log_in("gallery: log of 1 lines\n[ 0.1] x\ngallery: done", None).unwrap(), "[ 0.1] x");
    }
}
