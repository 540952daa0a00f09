//! Commands about the machine.

use alloc::{format, string::String};

use anyhow::{Context, ensure};
use oxen_abi::version::{XENVER_CAPABILITIES, XENVER_CHANGESET, XENVER_COMMANDLINE, XENVER_EXTRAVERSION};
use oxen_domu_lib::{control, hypercall, memory, println, time};

use super::{Call, Outcome, VERBS, find, usage};
use crate::errno::Named;
use crate::guest_text;
use crate::toolstack::trace;

/// Names of the schedulers by their numbers (`XEN_SCHEDULER_*`).
const SCHEDULERS: [(u32, &str); 5] = [(4, "sedf"), (5, "credit"), (6, "credit2"), (7, "arinc653"), (8, "rtds")];

/// `info`.
pub(super) async fn info(call: Call) -> Outcome {
    if !call.args.is_empty() {
        return Err(usage("info"));
    }
    let machine = control::physical_info().map_err(Named).context("the hypervisor says nothing")?;
    let (major, minor) = hypercall::xen_version();
    let text = |command| control::version_text(command).unwrap_or_default();
    let line = |name: &str, value: String| println!("{name:<23}: {value}");
    line("host", "oxen".into());
    line("nr_cpus", format!("{}", machine.nr_cpus));
    line("max_cpu_id", format!("{}", machine.max_cpu_id));
    line("nr_nodes", format!("{}", machine.nr_nodes));
    line("cores_per_socket", format!("{}", machine.cores_per_socket));
    line("threads_per_core", format!("{}", machine.threads_per_core));
    line("cpu_mhz", format!("{}.{:03}", machine.cpu_khz / 1000, machine.cpu_khz % 1000));
    line("total_memory", format!("{}", machine.total_pages >> 8));
    line("free_memory", format!("{}", machine.free_pages >> 8));
    line("xen_major", format!("{major}"));
    line("xen_minor", format!("{minor}"));
    line("xen_extra", text(XENVER_EXTRAVERSION));
    line("xen_version", format!("{major}.{minor}{}", text(XENVER_EXTRAVERSION)));
    line("xen_caps", text(XENVER_CAPABILITIES).trim().into());
    let scheduler = control::scheduler().ok();
    let name = SCHEDULERS.iter().find(|(id, _)| Some(*id) == scheduler).map_or("unknown", |(_, name)| name);
    line("xen_scheduler", name.into());
    line("xen_pagesize", "4096".into());
    line("xen_changeset", text(XENVER_CHANGESET));
    line("xen_commandline", text(XENVER_COMMANDLINE));
    line("dom0_free_memory", format!("{}", memory::pool::free_pages() >> 8));
    Ok(())
}

/// `dmesg`.
pub(super) async fn dmesg(mut call: Call) -> Outcome {
    let clear = call.flag("-c");
    let text = control::read_messages(clear).map_err(Named).context("the messages cannot be read")?;
    // What dom0 printed is in there as well, and with it what guests' consoles showed.
    for line in text.trim_ascii_end().split(|&byte| byte == b'\n') {
        println!("{}", guest_text::line(line));
    }
    Ok(())
}

/// `debug-keys`.
pub(super) async fn debug_keys(call: Call) -> Outcome {
    let (_, [keys]) = call.exactly("debug-keys")?;
    control::debug_keys(keys.as_bytes()).map_err(Named).context("the hypervisor refuses")
}

/// `cat`.
pub(super) async fn cat(call: Call) -> Outcome {
    if call.args.is_empty() {
        return Err(usage("cat"));
    }
    for name in &call.args {
        let bytes = call.system.archive.get(name).with_context(|| format!("no file `{name}`; `ls` lists them"))?;
        ensure!(!bytes.contains(&0), "`{name}` is no text: {} bytes", bytes.len());
        for line in bytes.trim_ascii_end().split(|&byte| byte == b'\n') {
            println!("{}", guest_text::line(line));
        }
    }
    Ok(())
}

/// `ls`.
pub(super) async fn files(call: Call) -> Outcome {
    for file in call.system.archive.files() {
        println!("{:>10} {}", file.data.len(), file.name);
    }
    for (name, sectors) in call.system.disks.list() {
        println!("{:>10} /dev/{name}", sectors * 512);
    }
    Ok(())
}

/// `sleep`.
pub(super) async fn sleep(call: Call) -> Outcome {
    let (_, [seconds]) = call.exactly("sleep")?;
    let seconds: u64 = seconds.parse().map_err(|_| usage("sleep"))?;
    time::sleep(seconds.saturating_mul(time::SECOND)).await;
    Ok(())
}

/// `poweroff`.
pub(super) async fn poweroff(call: Call) -> Outcome {
    if call.system.tracer.borrow().is_some() {
        trace::end(&call.system).await?;
    }
    call.system.power_off()
}

/// Columns of a command's form in `help`; a longer one has a line of its own.
const FORM: usize = 34;

/// `help`.
pub(super) async fn help(call: Call) -> Outcome {
    if let [name] = call.args.as_slice() {
        let verb = find(name).with_context(|| format!("no command `{name}`; `help` lists all"))?;
        println!("{} {}\n    {}", verb.name, verb.usage, verb.help);
        return Ok(());
    }
    for verb in VERBS {
        let form = format!("{} {}", verb.name, verb.usage);
        if form.len() > FORM {
            println!("  {form}");
            println!("  {:<FORM$} {}", "", verb.help);
        } else {
            println!("  {form:<FORM$} {}", verb.help);
        }
    }
    println!("`xl` may stand before a command. Commands are separated by `;`.");
    Ok(())
}
