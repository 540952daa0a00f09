//! Commands that begin and end guests.

use alloc::{format, rc::Rc, string::String, vec::Vec};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use oxen_abi::domctl::{DomctlGetdomaininfo, InfoFlags};
use oxen_domu_lib::{control, memory, println, task, time};

use super::{Call, Outcome, consoles, guest, usage};
use crate::config::{self, GuestConfig, disk::Disk};
use crate::errno::Named;
use crate::toolstack::guest::Guest;
use crate::toolstack::stage::End;
use crate::toolstack::system::System;
use crate::toolstack::{ends, lifecycle, line, nodes};
use crate::{domain_info, suggest};

/// How long a guest may take from its start to its end in `soak`, in nanoseconds.
const SOAK_PATIENCE: u64 = 300 * time::SECOND;
/// How long guests get to power off when they are asked to, in nanoseconds.
const SHUTDOWN_PATIENCE: u64 = 60 * time::SECOND;

/// Reads a configuration; words of the form KEY=VALUE count instead of its own settings.
fn configuration(name: &str, source: &str, more: &[String]) -> Result<GuestConfig> {
    let (config, warnings) = config::parse_with(source, more).with_context(|| String::from(name))?;
    warnings.iter().for_each(|warning| println!("warning: {name}: {warning}"));
    Ok(config)
}

/// The text of a configuration: a file of the archive, what is typed now, or nothing.
async fn source(call: &Call, name: &str) -> Result<String> {
    match name {
        "-" | "/dev/stdin" if call.interactive => {
            println!("[the configuration, line by line; Ctrl-D ends it, Ctrl-C calls it off]");
            line::read_text(&call.system.terminal).await.context("called off")
        }
        "-" | "/dev/stdin" => bail!("nobody types a configuration for a script; KEY=VALUE words make one, too"),
        "/dev/null" => Ok(String::new()),
        name => file(&call.system, name),
    }
}

fn file(system: &System, name: &str) -> Result<String> {
    let bytes = system.archive.get(name).ok_or_else(|| missing(system, name))?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// `create`. As in xl, words of the form KEY=VALUE alone are a configuration too.
pub(super) async fn create(mut call: Call) -> Outcome {
    let [paused, attach, is_dry, is_quiet] = ["-p", "-c", "-n", "-q"].map(|flag| call.flag(flag));
    let named = call.option("-f")?;
    let mut more = core::mem::take(&mut call.args);
    let name = match named {
        Some(name) => name,
        None if more.is_empty() => return Err(usage("create")),
        None if more.first().is_some_and(|word| word.contains('=')) => "/dev/null".into(),
        None => more.remove(0),
    };
    let source = source(&call, &name).await?;
    if !is_quiet {
        println!("Parsing config from {name}");
    }
    let config = configuration(&name, &source, &more)?;
    if is_dry {
        show_config(&config);
        return Ok(());
    }
    let guest = lifecycle::create(&call.system, config).await.with_context(|| name.clone())?;
    if !paused {
        lifecycle::unpause(guest.domain.get())?;
    }
    if attach { consoles::show(&call.system, &guest, call.interactive).await } else { Ok(()) }
}

/// What a dry run says: the settings that count, with those that nobody wrote.
fn show_config(config: &GuestConfig) {
    let text = |key: &str, value: &str| println!("{key} = {value:?}");
    text("name", &config.name);
    text("kernel", &config.kernel);
    config.ramdisk.iter().for_each(|ramdisk| text("ramdisk", ramdisk));
    text("cmdline", &config.cmdline);
    println!("memory = {}\nmaxmem = {}", config.memory, config.maxmem);
    println!("vcpus = {}\nmaxvcpus = {}", config.vcpus, config.maxvcpus);
    for (key, sets) in [("cpus", &config.cpus), ("cpus_soft", &config.cpus_soft)] {
        let sets: Vec<String> = sets.iter().map(|set| format!("\"{set}\"")).collect();
        if !sets.is_empty() {
            println!("{key} = [ {} ]", sets.join(", "));
        }
    }
    let access = |writable| if writable { "rw" } else { "ro" };
    let disk = |disk: &Disk| format!("\"{},raw,{},{}\"", disk.target, disk.vdev, access(disk.writable));
    let disks: Vec<String> = config.disks.iter().map(disk).collect();
    let vifs: Vec<String> = config.vifs.iter().map(|vif| format!("\"bridge={}\"", vif.bridge)).collect();
    for (key, items) in [("disk", disks), ("vif", vifs)] {
        if !items.is_empty() {
            println!("{key} = [ {} ]", items.join(", "));
        }
    }
}

/// `soak`: what a guest took must all come back. With a text each guest has to print it, and ends by itself.
pub(super) async fn soak(mut call: Call) -> Outcome {
    let text = if call.args.len() == 3 { call.args.pop() } else { None };
    let (system, [count, name]) = call.exactly("soak")?;
    let count: u32 = count.parse().map_err(|_| usage("soak"))?;
    let mut before = None;
    for round in 0..count {
        let begun = time::now();
        let guest = lifecycle::create(&system, configuration(&name, &file(&system, &name)?, &[])?).await?;
        lifecycle::unpause(guest.domain.get())?;
        match &text {
            Some(text) => {
                run_through(&guest, text).await.with_context(|| format!("round {}", round + 1))?;
                let took = time::now().saturating_sub(begun) / time::MILLISECOND;
                let (round, seconds, rest) = (round + 1, took / 1000, took % 1000);
                println!("round {round}: {seconds}.{rest:03} s, {}", Free::now()?);
            }
            // Some rounds end a guest in the middle of its start, others let it run a little.
            None => time::sleep(u64::from(round % 4) * 5 * time::MILLISECOND).await,
        }
        ends::destroy(&system, &guest).await;
        time::sleep(time::MILLISECOND).await;
        // The first rounds fill what is kept for the next guest: tables of windows, the heap.
        if round == count / 4 {
            before = Some(Free::now()?);
        }
    }
    let after = Free::now()?;
    println!("{count} rounds: {after}");
    before.map_or(Ok(()), |before| after.has_lost_nothing_since(&before))
}

/// Waits for a guest's own end, which must be a clean one, and for what it has to print before.
async fn run_through(guest: &Guest, text: &str) -> Outcome {
    let end = task::timeout(SOAK_PATIENCE, guest.wait()).await;
    let printed = String::from_utf8_lossy(&guest.console.history()).contains(text);
    match end {
        Ok(end) if end.is_clean() && printed => Ok(()),
        Ok(end) if end.is_clean() => Err(anyhow!("it has ended without printing `{text}`")),
        Ok(end) => Err(anyhow!("it has ended badly: {}", end.name())),
        Err(_) => Err(anyhow!("it has not ended in {} s", SOAK_PATIENCE / time::SECOND)),
    }
}

/// What is free, or in use where it comes back by itself.
struct Free {
    /// Pages of the machine.
    machine: u64,
    /// Pages of dom0's that are free or its heap's.
    dom0: usize,
    /// Bytes of the heap that somebody holds.
    held: usize,
}

impl Free {
    /// What dom0 may remember of the last guests more than of earlier ones: consoles' texts are not all of one length.
    const MORE_REMEMBERED: usize = 128 << 10;

    fn now() -> Result<Self> {
        let machine = control::physical_info().map_err(Named).context("the machine's memory is unknown")?;
        let (held, claimed) = memory::heap_usage();
        Ok(Self { machine: machine.free_pages, dom0: memory::pool::free_pages() + claimed / 4096, held })
    }

    fn has_lost_nothing_since(&self, before: &Self) -> Outcome {
        let lost = before.machine.saturating_sub(self.machine);
        let lost_in_dom0 = before.dom0.saturating_sub(self.dom0);
        let held = self.held.saturating_sub(before.held);
        if lost > 0 {
            bail!("the machine has lost {lost} pages");
        }
        if lost_in_dom0 > 0 {
            bail!("dom0 has lost {lost_in_dom0} pages");
        }
        if held > Self::MORE_REMEMBERED {
            bail!("dom0's heap holds {} KiB more than after a quarter of the rounds", held >> 10);
        }
        Ok(())
    }
}

impl core::fmt::Display for Free {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} pages free, {} of dom0's, {} KiB in its heap", self.machine, self.dom0, self.held >> 10)
    }
}

fn missing(system: &System, name: &str) -> Error {
    let configs: Vec<_> = system.archive.files().map(|f| f.name).filter(|n| n.ends_with(".cfg")).collect();
    match suggest::nearest(name, configs.iter().copied()) {
        Some(near) => anyhow!("no file `{name}`; did you mean `{near}`?"),
        None => anyhow!("no file `{name}`; configurations are: {}", configs.join(", ")),
    }
}

/// `pause`.
pub(super) async fn pause(call: Call) -> Outcome {
    let (_, guest) = call.guest("pause")?;
    let paused = |info: DomctlGetdomaininfo| domain_info::flags(&info).contains(InfoFlags::PAUSED);
    if domain_info::of(guest.domain.get()).is_some_and(paused) {
        println!("`{}` is paused already", guest.name());
        return Ok(());
    }
    control::pause_domain(guest.domain.get())
        .map_err(Named)
        .with_context(|| format!("`{}` cannot be paused", guest.name()))
}

/// `unpause`.
pub(super) async fn unpause(call: Call) -> Outcome {
    let (_, guest) = call.guest("unpause")?;
    lifecycle::unpause(guest.domain.get())
}

/// `destroy`; a guest that has ended by itself is as good as destroyed.
pub(super) async fn destroy(call: Call) -> Outcome {
    let (system, [name]) = call.exactly("destroy")?;
    if has_ended(&system, &name) {
        return Ok(());
    }
    let guest = guest(&system, &name)?;
    ends::destroy(&system, &guest).await;
    Ok(())
}

/// Whether a guest of this name was there and is no more; says so.
fn has_ended(system: &Rc<System>, name: &str) -> bool {
    let gone = if system.guests.find(name).is_none() { system.guests.find_gone(name) } else { None };
    if let Some(guest) = &gone {
        println!("guest `{name}` has ended before ({})", guest.end().map_or("?", End::name));
    }
    gone.is_some()
}

/// `shutdown`.
pub(super) async fn shutdown(mut call: Call) -> Outcome {
    let (all, wait) = (call.flag("-a"), call.flag("-w"));
    let system = call.system.clone();
    if let [name] = call.args.as_slice()
        && has_ended(&system, name)
    {
        return Ok(());
    }
    let guests =
        if all && call.args.is_empty() { system.guests.alive() } else { Vec::from([call.guest("shutdown")?.1]) };
    let guests: Vec<_> = guests.into_iter().filter(|guest| guest.end().is_none()).collect();
    for guest in &guests {
        ask(&system, guest, "poweroff")?;
    }
    if !wait && !all {
        return Ok(());
    }
    for guest in &guests {
        let name = guest.name();
        if task::timeout(SHUTDOWN_PATIENCE, guest.wait()).await.is_err() {
            bail!("guest `{name}` does not power off; `xl destroy {name}` ends it");
        }
    }
    Ok(())
}

/// `reboot`: a guest, or the machine.
pub(super) async fn reboot(call: Call) -> Outcome {
    if call.args.is_empty() {
        call.system.reboot();
    }
    let (system, guest) = call.guest("reboot")?;
    ask(&system, &guest, "reboot")
}

/// `rename`.
pub(super) async fn rename(call: Call) -> Outcome {
    let (system, [old, new]) = call.exactly("rename")?;
    let guest = guest(&system, &old)?;
    config::judge_name(&new).map_err(|rule| anyhow!("the name {rule}"))?;
    ensure!(system.guests.find(&new).is_none(), "a guest named `{new}` exists");
    nodes::rename(&system.store, guest.domain.get().0, &guest.uuid, &new).context("xenstore")?;
    guest.set_name(&new);
    Ok(())
}

/// `trigger`: a paravirtual guest takes the NMI; the hypervisor says what it thinks of the others.
pub(super) async fn trigger(mut call: Call) -> Outcome {
    let vcpu = if call.args.len() == 3 { call.args.pop() } else { None };
    let vcpu: u32 = vcpu.map_or(Ok(0), |text| text.parse()).map_err(|_| usage("trigger"))?;
    let (system, [name, what]) = call.exactly("trigger")?;
    let guest = guest(&system, &name)?;
    let number = ["nmi", "reset", "init", "power", "sleep"].iter().position(|known| *known == what);
    let number = u32::try_from(number.ok_or_else(|| usage("trigger"))?)?;
    let sent = control::send_trigger(guest.domain.get(), number, vcpu);
    sent.map_err(Named).with_context(|| format!("`{what}` for vcpu {vcpu} of `{name}`"))
}

/// `sysrq`.
pub(super) async fn sysrq(call: Call) -> Outcome {
    let (system, [name, letter]) = call.exactly("sysrq")?;
    if name == "0" || name == "Domain-0" {
        return sysrq_here(&letter);
    }
    let guest = guest(&system, &name)?;
    if !matches!(letter.as_bytes(), [b] if b.is_ascii_alphanumeric()) {
        return Err(usage("sysrq"));
    }
    let path = format!("/local/domain/{}/control/sysrq", guest.domain.get().0);
    system.store.write(&path, &letter).context("xenstore")
}

/// What a magic key does in dom0, as in a Linux one.
#[expect(clippy::panic, reason = "that is what the key is for")]
fn sysrq_here(letter: &str) -> Outcome {
    match letter {
        "c" => panic!("sysrq: dom0 crashes, as it was asked to"),
        _ => bail!("dom0 has no key `{letter}` but `c`, which crashes it"),
    }
}

/// Asks a guest's kernel by its control node.
fn ask(system: &Rc<System>, guest: &Guest, what: &str) -> Outcome {
    let domain = guest.domain.get();
    println!("Shutting down domain {} ({what})", domain.0);
    let path = format!("/local/domain/{}/control/shutdown", domain.0);
    system.store.write(&path, what).context("xenstore")
}
