//! A machine for QEMU: what boots on it, and the command line that says so.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::emulator::{Emulator, Kind};
use crate::iso;
use crate::workspace::Workspace;

pub use crate::iso::Module;

/// The hypervisor's command line where a run says nothing else.
pub const HYPERVISOR_ARGS: &str = "console=com1 com1=115200,8n1 dom0_mem=128M";

/// What real Xen needs besides to be compared at its fastest.
pub const XEN_ARGS: &str = "loglvl=warning spec-ctrl=no xpti=no";

/// The CPU model of runs.
pub const CPU: &str = "max";

/// The CPU model of measurements: a real one, so that figures of other hypervisors compare, and the same on every QEMU.
const BENCH_CPU: &str = "EPYC,-monitor,-smap,+cx16";

/// A network that needs no right and no setup: QEMU gives out addresses (10.0.2.15 first) and forwards connections.
pub const USER_NETWORK: &str = "user";

/// The I/O port of the device through which dom0 ends the run with a status.
pub const EXIT_PORT: u16 = 0xf4;

/// Who speaks to the serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// A program: bytes pass as they are.
    Pipe,
    /// A person at a terminal: Ctrl-T x leaves QEMU, Ctrl-C goes to the machine.
    Terminal,
}

/// A machine to boot.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The Multiboot file: `target/oxen/hv`, or real Xen.
    pub hypervisor: PathBuf,
    /// The hypervisor's command line.
    pub append: String,
    /// dom0 first, then its ramdisk.
    pub modules: Vec<Module>,
    /// Boot this ISO image instead of hypervisor and modules.
    pub cdrom: Option<PathBuf>,
    /// Memory in MiB.
    pub memory: u32,
    /// Number of CPUs.
    pub smp: u32,
    /// What runs it.
    pub emulator: Emulator,
    /// `tcg` or `kvm`.
    pub accel: String,
    /// QEMU's CPU model. Under TCG it goes without what the QEMU at hand emulates wrongly,
    /// unless it speaks of that itself.
    pub cpu: String,
    /// Disk images, each a virtio-blk device.
    pub disks: Vec<PathBuf>,
    /// What stands behind the machine's network card, where it has one: QEMU's `-netdev` without an `id`.
    pub network: Option<String>,
    /// More of QEMU's arguments: other devices, another board.
    pub devices: Vec<String>,
    /// Let virtual time advance by one nanosecond per instruction, from the same date on each time:
    /// runs are alike to the last figure.
    pub icount: bool,
    /// Wait for a debugger on port 1234.
    pub debugger: bool,
    /// The folder in which QEMU runs and `run.log` is written.
    pub folder: PathBuf,
}

impl Machine {
    /// Oxen as it stands in `target/oxen/`: one CPU, 512 MiB, dom0 with its ramdisk.
    #[must_use]
    pub fn oxen(workspace: &Workspace, dom0_args: &str) -> Self {
        let module = |name: &str, args: &str| Module { file: workspace.out.join(name), args: args.to_owned() };
        Self {
            hypervisor: workspace.out.join("hv"),
            append: HYPERVISOR_ARGS.to_owned(),
            modules: vec![module("dom0", dom0_args), module("ramdisk.cpio", "")],
            cdrom: None,
            memory: 512,
            smp: 1,
            emulator: Emulator::default(),
            accel: "tcg".to_owned(),
            cpu: CPU.to_owned(),
            disks: Vec::new(),
            network: None,
            devices: Vec::new(),
            icount: false,
            debugger: false,
            folder: workspace.out.join("run"),
        }
    }

    /// Puts real Xen in the hypervisor's place.
    pub fn on_xen(&mut self, xen: &Path) {
        xen.clone_into(&mut self.hypervisor);
        self.append = format!("{} {XEN_ARGS}", self.append);
    }

    /// The CPU of measurements, and no defences against speculation: what those cost is measured by itself.
    pub fn for_measurements(&mut self) {
        BENCH_CPU.clone_into(&mut self.cpu);
        if !self.append.contains("spec-ctrl=") {
            self.append.push_str(" spec-ctrl=no");
        }
    }

    /// Connects the machine with another one whose folder stands beside its own: their cards share a line, with nothing
    /// else on it. `own` is 1 or 2. dom0 gets the address `10.9.0.OWN` and the key by which guests move.
    pub fn join_line(&mut self, own: u8, key: &str) {
        let other = 3_u8.saturating_sub(own);
        // Paths of sockets are short: QEMU runs in the machine's folder.
        let line = format!(
            "dgram,id=line,local.type=unix,local.path=../line{own},remote.type=unix,remote.path=../line{other}"
        );
        let card = format!("virtio-net-pci,netdev=line,mac=52:54:00:00:09:0{own},romfile=");
        self.devices.extend(["-netdev", &line, "-device", &card].map(str::to_owned));
        for dom0 in self.modules.iter_mut().take(1) {
            dom0.args = format!("ip=10.9.0.{own}/24 migration-key={key} {}", dom0.args).trim_end().to_owned();
        }
    }

    /// QEMU's command line. The folder is made; files are named in it by links, since a space or a comma in a path
    /// would end a module's name.
    ///
    /// # Errors
    /// Fails when a file is missing or a link cannot be made.
    pub fn command(&self, serial: Serial) -> Result<Command> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create the folder {}", self.folder.display()))?;
        ensure!(self.emulator.kind != Kind::Bochs, "Bochs has no terminal of ours: it runs scripts");
        let mut qemu = self.emulator.command();
        qemu.current_dir(&self.folder);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.args(["-accel", &self.accel, "-cpu", &self.cpu_model()]);
        qemu.args(["-m", &self.memory.to_string(), "-smp", &self.smp.to_string()]);
        let (mux, escape) = if serial == Serial::Terminal { (",mux=on", true) } else { ("", false) };
        qemu.arg("-chardev").arg(format!("stdio,id=console,signal=off,logfile=run.log,logappend=off{mux}"));
        qemu.args(["-serial", "chardev:console"]);
        if escape {
            qemu.args(["-echr", "20", "-mon", "chardev=console"]);
        }
        qemu.arg("-device").arg(format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=0x04"));
        if self.icount {
            qemu.args(["-icount", "shift=0,align=off,sleep=off", "-rtc", "base=2026-01-01,clock=vm"]);
        }
        if self.debugger {
            qemu.args(["-s", "-S"]);
        }
        match self.image()? {
            Some(image) => {
                qemu.arg("-cdrom").arg(image);
            }
            None => self.boot(&mut qemu)?,
        }
        if let Some((code, variables)) = self.emulator.firmware() {
            let own = self.folder.join("variables.fd");
            let bytes = std::fs::read(&variables).with_context(|| format!("cannot read {}", variables.display()))?;
            build::write(&own, &bytes)?;
            for (file, mode) in [(&code, "on"), (&own, "off")] {
                let file = file.to_string_lossy().replace(',', ",,");
                qemu.arg("-drive").arg(format!("if=pflash,format=raw,readonly={mode},file={file}"));
            }
        }
        if let Some(network) = &self.network {
            qemu.arg("-netdev").arg(format!("{network},id=net"));
            // Nothing boots from the network: the card needs no program of its own in the firmware.
            qemu.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let disk = std::fs::canonicalize(disk).with_context(|| format!("no disk image {}", disk.display()))?;
            let read_only = std::fs::metadata(&disk)?.permissions().readonly();
            let mut drive = OsString::from("file=");
            drive.push(disk.to_string_lossy().replace(',', ",,"));
            let read_only = if read_only { "on" } else { "off" };
            drive.push(format!(",format=raw,if=none,id=disk{index},read-only={read_only}"));
            qemu.arg("-drive").arg(drive).arg("-device").arg(format!("virtio-blk-pci,drive=disk{index}"));
        }
        qemu.args(&self.devices);
        Ok(qemu)
    }

    /// The CPU model as QEMU is told it.
    #[must_use]
    pub fn cpu_model(&self) -> String {
        if self.accel == "tcg" { self.emulator.sound_model(&self.cpu, self.smp) } else { self.cpu.clone() }
    }

    /// The ISO image that the machine boots, where it boots one; made in its folder, unless it was given.
    pub(crate) fn image(&self) -> Result<Option<PathBuf>> {
        let Some(grub) = self.emulator.grub.as_ref().filter(|_| self.cdrom.is_none()) else {
            return Ok(self.cdrom.clone());
        };
        let image = self.folder.join("oxen.iso");
        iso::make(grub, &self.hypervisor, &self.append, &self.modules, &image)?;
        Ok(Some(image))
    }

    fn boot(&self, qemu: &mut Command) -> Result<()> {
        qemu.args(["-kernel", &self.link(&self.hypervisor, "hv")?, "-append", &self.append]);
        let mut modules = Vec::new();
        for (index, module) in self.modules.iter().enumerate() {
            let name = self.link(&module.file, &format!("module{index}"))?;
            modules.push(format!("{name} {}", module.args).trim_end().replace(',', ",,"));
        }
        if !modules.is_empty() {
            qemu.arg("-initrd").arg(modules.join(","));
        }
        Ok(())
    }

    fn link(&self, file: &Path, name: &str) -> Result<String> {
        let target = std::fs::canonicalize(file)
            .with_context(|| format!("{} is missing; `cargo xtask build` makes what is ours", file.display()))?;
        let link = self.folder.join(name);
        // The link of an earlier run may be there.
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&target, &link).with_context(|| format!("cannot create {}", link.display()))?;
        Ok(name.to_owned())
    }
}

/// Writes a ramdisk with more files than the sample guests into the machine's folder, and makes it the second module.
///
/// # Errors
/// Fails when a file cannot be read or written.
pub fn add_to_ramdisk(workspace: &Workspace, machine: &mut Machine, files: &[(String, Vec<u8>)]) -> Result<()> {
    let file = machine.folder.join("ramdisk.cpio");
    build::write(&file, &build::ramdisk_with(workspace, files)?)?;
    machine.modules.truncate(1);
    machine.modules.push(Module { file, args: String::new() });
    Ok(())
}
