//! `cargo xtask run`: boots a machine, leaves a person at dom0's prompt, or runs a script and passes its status on.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::build;
use crate::configs::{self, Config, File};
use crate::demo;
use crate::emulator::Emulator;
use crate::guest::{self, Guest};
use crate::process::step;
use crate::qemu::{Machine, Module, USER_NETWORK, add_to_ramdisk};
use crate::session::{self, Exit};
use crate::setup::{Need, require};
use crate::workspace::Workspace;
use crate::xen;

pub use crate::run_args::Args;

/// Runs the verb.
///
/// # Errors
/// Fails when something cannot be built or started, or the machine's end was not a success.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require(&[Need::Qemu])?;
    if !args.no_build {
        build_for(workspace, args)?;
    }
    let at_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let guest = Guest::of(workspace, args)?;
    let own = configs::gather(&args.config, &args.file)?;
    let is_demo =
        args.script.is_none() && guest.is_none() && args.as_dom0.is_none() && args.disk.is_empty() && own.0.is_empty();
    let mut machine = machine(workspace, args, guest.as_ref(), own, at_terminal, is_demo)?;
    let limit = Duration::from_secs(args.timeout);
    if at_terminal && args.script.is_none() {
        if is_demo {
            demo::furnish(&mut machine)?;
            step(
                "at the prompt, `help` names the commands; `xl create -c hello.cfg` creates a guest \
                 (also mmu, fs, net, hog)",
            );
        }
        let guests = if guest.is_some() || !args.config.is_empty() {
            "; Ctrl-] leaves the guest's console for dom0's prompt"
        } else {
            ""
        };
        step(&format!("boot (Ctrl-T x leaves QEMU{guests})"));
        return judge(session::interact(&machine)?, true, &machine);
    }
    if is_demo {
        return demo::run(machine, limit);
    }
    step("boot");
    let outcome = session::boot(&machine, true, limit)?;
    judge(outcome.exit, args.as_dom0.is_some(), &machine)
}

fn build_for(workspace: &Workspace, args: &Args) -> Result<()> {
    if args.as_dom0.is_none() {
        build::guests(workspace)?;
        build::dom0(workspace)?;
        build::ramdisk(workspace)?;
    }
    match args {
        Args { xen: Some(_), .. } => Ok(()),
        Args { checked: true, .. } => build::checked_hypervisor(workspace),
        _ => build::hypervisor(workspace),
    }
}

/// Describes the machine that the arguments ask for.
fn machine(
    workspace: &Workspace,
    args: &Args,
    guest: Option<&Guest>,
    (configs, mut files): (Vec<Config>, Vec<File>),
    at_terminal: bool,
    is_demo: bool,
) -> Result<Machine> {
    let users = args.script.as_deref();
    let is_typed_at = at_terminal && users.is_none();
    let script = match guest {
        _ if is_typed_at => None,
        Some(guest) => Some(guest.script(users)),
        None if is_demo => Some(demo::SCRIPT.to_owned()),
        None if users.is_none() && !configs.is_empty() => Some(configs::script(&configs)),
        None => Some(users.unwrap_or("xl list; poweroff").to_owned()),
    };
    files.extend(guest.map(Guest::files).transpose()?.unwrap_or_default());
    let dom0_args = match (&script, guest) {
        (Some(script), _) if script.len() > MAX_INLINE || script.contains('"') => {
            files.push((SCRIPT_FILE.to_owned(), script.clone().into_bytes()));
            format!("script=@{SCRIPT_FILE} debug-exit")
        }
        (None, Some(guest)) => format!("type=\"{}\"", guest.attended()),
        (None, None) if !configs.is_empty() => format!("type=\"{}\"", configs::attended(&configs)),
        (script, _) => dom0_args(script.as_deref())?,
    };
    let mut machine = Machine::oxen(workspace, &dom0_args);
    machine.emulator = Emulator::get(workspace, args.machine)?;
    if let Some(folder) = &args.folder {
        machine.folder = std::path::absolute(folder)?;
    }
    machine.smp = args.smp;
    machine.accel.clone_from(&args.accel);
    machine.disks.clone_from(guest.map_or(&args.disk, |guest| &guest.disks));
    machine.network = args.net.as_deref().map(network);
    args.pair.map(|own| pair(workspace, &mut machine, own)).transpose()?;
    if let Some(cpu) = &args.cpu {
        machine.cpu.clone_from(cpu);
    }
    if let Some(kernel) = &args.as_dom0 {
        put_in_dom0s_place(&mut machine, kernel, args);
    }
    if !files.is_empty() {
        add_to_ramdisk(workspace, &mut machine, &files)?;
        let dom0 = guest::dom0_memory(&files);
        machine.append = machine.append.replace("dom0_mem=128M", &format!("dom0_mem={dom0}M"));
        let guests = configs.iter().map(|config| config.memory).chain(guest.map(|guest| guest.memory));
        let wanted = guests.fold(dom0 + 256, u32::saturating_add);
        machine.memory = if guest.is_some() { 1024.max(wanted) } else { machine.memory.max(wanted) };
    }
    if let (None, Some(memory)) = (guest, args.memory) {
        machine.memory = memory;
    }
    if let Some(memory) = args.machine_memory {
        machine.memory = memory;
    }
    if args.checked {
        machine.hypervisor = workspace.out.join(build::CHECKED);
    }
    if let Some(xen) = &args.xen {
        machine.on_xen(&xen::find(workspace, xen)?);
    }
    machine.append = format!("{} {}", machine.append, args.hv_append).trim_end().to_owned();
    Ok(machine)
}

/// Makes a machine one of two that share a line and a key; the first to come makes the key.
fn pair(workspace: &Workspace, machine: &mut Machine, own: u8) -> Result<()> {
    let folder = workspace.out.join("pair");
    let file = folder.join("migration-key");
    if !file.exists() {
        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        build::write(&file, key.as_bytes())?;
    }
    machine.join_line(own, &std::fs::read_to_string(&file)?);
    machine.folder = folder.join(own.to_string());
    Ok(())
}

/// An unknown kernel may be large: it gets half of a larger machine.
fn put_in_dom0s_place(machine: &mut Machine, kernel: &Path, args: &Args) {
    machine.memory = 1024;
    machine.append = machine.append.replace("dom0_mem=128M", "dom0_mem=512M");
    machine.modules = vec![Module { file: kernel.to_owned(), args: args.append.clone() }];
    machine.modules.extend(args.initrd.iter().map(|file| Module { file: file.clone(), args: String::new() }));
}

/// QEMU's network for the value of `--net`: the user network, unless the value begins with another's name.
fn network(value: &str) -> String {
    let (first, _) = value.split_once(',').unwrap_or((value, ""));
    match first {
        "" => USER_NETWORK.to_owned(),
        options if options.contains('=') => format!("{USER_NETWORK},{value}"),
        _ => value.to_owned(),
    }
}

/// The longest script that stands on dom0's command line; a longer one is a file of its ramdisk.
const MAX_INLINE: usize = 800;
const SCRIPT_FILE: &str = "script.xl";

/// dom0's command line: with a script it ends the run by itself.
///
/// # Errors
/// Fails for a script that holds the character which would end it, or is too long.
pub fn dom0_args(script: Option<&str>) -> Result<String> {
    let Some(script) = script else { return Ok(String::new()) };
    ensure!(script.len() <= MAX_INLINE, "a script of {} bytes does not fit the command line", script.len());
    ensure!(!script.contains('"'), "a script cannot hold double quotes; single quotes part words as well");
    let args = format!("script=\"{script}\" debug-exit");
    /// What `start_info` has room for, but for the zero byte at the end (`MAX_GUEST_CMDLINE`, xen.h).
    const MOST: usize = 1023;
    ensure!(args.len() <= MOST, "the script is {} bytes too long for dom0's command line", args.len() - MOST);
    Ok(args)
}

/// Makes a result of the machine's end. A foreign dom0 and a person at the prompt end by powering off.
fn judge(exit: Exit, may_power_off: bool, machine: &Machine) -> Result<()> {
    let log = machine.folder.join("run.log");
    let is_quiet = machine.modules.first().is_some_and(|dom0| !dom0.args.contains("earlyprintk"));
    match exit {
        Exit::Success => Ok(()),
        Exit::PoweredOff if may_power_off => Ok(()),
        Exit::Failure => bail!("a command of the script failed; transcript: {}", log.display()),
        Exit::PoweredOff => bail!("the machine ended before dom0 told its status; transcript: {}", log.display()),
        Exit::Refused => bail!("the hypervisor cannot run this, its last line says why; transcript: {}", log.display()),
        Exit::Crashed if may_power_off && is_quiet => bail!(
            "dom0 crashed; a Linux kernel that fails early says why with `earlyprintk=xen` on its command line \
            (--append); transcript: {}",
            log.display()
        ),
        Exit::Crashed => bail!("dom0 crashed, its last lines say why; transcript: {}", log.display()),
        Exit::Deadline => bail!("not done in time: raise --timeout; transcript: {}", log.display()),
        Exit::Qemu(status) => bail!("QEMU ended with {status:?}; transcript: {}", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn a_network_is_the_users_unless_it_is_named() {
        assert_eq!(network(""), "user");
        assert_eq!(network("hostfwd=tcp::80-:80,restrict=on"), "user,hostfwd=tcp::80-:80,restrict=on");
        assert_eq!(network("tap,ifname=tap0"), "tap,ifname=tap0");
        assert_eq!(network("user"), "user");
    }
}
