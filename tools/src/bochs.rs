//! A machine for Bochs: the file that describes it, and what its log tells of how a run ends.

use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::qemu::{EXIT_PORT, Machine};

/// The CPU that is shown: SMAP, SMEP, PCID, XSAVE, and a TLB that keeps what nobody flushed.
const CPU: &str = "corei7_skylake_x";
/// What the virtual clock takes for a second: few, since firmware and GRUB wait by that clock.
const INSTRUCTIONS_PER_SECOND: u32 = 20_000_000;

/// Bochs's command line for a machine, whose serial line it connects to the listener.
///
/// # Errors
/// Fails for a machine with devices that Bochs has not, or where its files cannot be made.
pub(crate) fn command(machine: &Machine, serial: &TcpListener) -> Result<Command> {
    let has_virtio = !machine.disks.is_empty() || machine.network.is_some();
    ensure!(!has_virtio, "Bochs has no virtio devices: a machine runs there without disks and network");
    ensure!(!machine.debugger, "gdb works with QEMU only");
    let image = machine.image()?.context("Bochs boots an ISO image only")?;
    let firmware = |name: &str| Ok::<_, anyhow::Error>(machine.emulator.file(name)?.display().to_string());
    let description = format!(
        "config_interface: textconfig\n\
         display_library: rfb, options=\"timeout=0\"\n\
         cpu: model={CPU}, count={}, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0\n\
         memory: guest={memory}, host={memory}\n\
         romimage: file=\"{}\"\n\
         vgaromimage: file=\"{}\"\n\
         ata0-master: type=cdrom, path=\"{}\", status=inserted\n\
         boot: cdrom\n\
         clock: sync=none, time0=utc\n\
         com1: enabled=1, mode=socket-client, dev=\"{}\"\n\
         sound: driver=dummy\n\
         speaker: enabled=0\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=report\n\
         debug: action=ignore, unmapped=report\n",
        machine.smp,
        firmware("usr/share/bochs/BIOS-bochs-latest")?,
        firmware("usr/share/bochs/VGABIOS-lgpl-latest")?,
        image.display(),
        serial.local_addr().context("the serial line has no address")?,
        memory = machine.memory,
    );
    build::write(&machine.folder.join("bochsrc"), description.as_bytes())?;
    // Debian's build has Bochs's debugger, which waits for a word.
    build::write(&machine.folder.join("begin"), b"continue\n")?;
    let mut bochs = machine.emulator.command();
    bochs.current_dir(&machine.folder).args(["-q", "-f", "bochsrc", "-rc", "begin"]);
    Ok(bochs)
}

/// What a line of the log means for the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Somebody wrote to the port of QEMU's exit device, which is not there: the status that it would have ended with.
    Status(u32),
    /// The machine was switched off, or begins anew.
    Off,
    /// Bochs itself gives up.
    Panic(String),
}

/// Reads a line of Bochs's log.
pub(crate) fn sign(line: &str) -> Option<Sign> {
    const SWITCHED_OFF: &str = "ACPI control: soft power off";
    if let Some((_, panic)) = line.split_once(">>PANIC<< ") {
        return Some(if panic == SWITCHED_OFF { Sign::Off } else { Sign::Panic(panic.to_owned()) });
    }
    // It begins by a reset of its hardware; a second one would be another boot.
    if line.contains("Reset(SOFTWARE) called") {
        return Some(Sign::Off);
    }
    let (_, write) = line.split_once("unmapped: 32-bit write to ")?;
    let (port, value) = write.split_once(" = ")?;
    let is_exit = u16::from_str_radix(port, 16).ok()? == EXIT_PORT;
    is_exit.then(|| u32::from_str_radix(value.trim(), 16).ok().map(Sign::Status)).flatten()
}

#[cfg(test)]
mod tests {
    use super::{Sign, sign};

    #[test]
    fn the_log_tells_how_a_run_ends() {
        let status = "00469494775d[UNMAP ] unmapped: 32-bit write to 00f4 = 00000010";
        assert_eq!(sign(status), Some(Sign::Status(0x10)));
        assert_eq!(sign("00005296627d[UNMAP ] unmapped: 8-bit write to 016a = 55"), None);
        assert_eq!(sign("00470017339p[ACPI  ] >>PANIC<< ACPI control: soft power off"), Some(Sign::Off));
        assert_eq!(sign("00973887104i[SYS   ] bx_pc_system_c::Reset(SOFTWARE) called"), Some(Sign::Off));
        assert_eq!(sign("00000000000i[SYS   ] bx_pc_system_c::Reset(HARDWARE) called"), None);
        let panic = "1p[CPU0  ] >>PANIC<< exception(): 3rd (14) exception with no resolution";
        assert_eq!(sign(panic), Some(Sign::Panic("exception(): 3rd (14) exception with no resolution".to_owned())));
        assert_eq!(sign("00470017339i[CPU0  ] CS.mode = 64 bit"), None);
    }
}
