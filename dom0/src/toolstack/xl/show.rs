//! Commands that show domains, with xl's columns.

use alloc::{format, string::String, string::ToString, vec::Vec};

use anyhow::{Context, Result};
use oxen_abi::domctl::{DomctlGetdomaininfo, InfoFlags};
use oxen_abi::domid::DomId;
use oxen_abi::sched::SHUTDOWN_CRASH;
use oxen_domu_lib::{control, println, time};

use super::{Call, Outcome, domain, usage};
use crate::config::cpus::CpuSet;
use crate::config::uuid_text;
use crate::domain_info;
use crate::errno::Named;

/// All domains.
pub(super) fn domains() -> Result<Vec<DomctlGetdomaininfo>> {
    domain_info::all().map_err(Named).context("the hypervisor does not list its domains")
}

/// The letters of xl's State column: running, blocked, paused, shut down, crashed, dying.
pub(super) fn state(info: &DomctlGetdomaininfo) -> String {
    let flags = domain_info::flags(info);
    let crashed = domain_info::shutdown_code(info) == Some(SHUTDOWN_CRASH);
    let marks = [
        ('r', flags.contains(InfoFlags::RUNNING)),
        ('b', flags.contains(InfoFlags::BLOCKED)),
        ('p', flags.contains(InfoFlags::PAUSED)),
        ('s', flags.contains(InfoFlags::SHUTDOWN)),
        ('c', crashed),
        ('d', flags.contains(InfoFlags::DYING)),
    ];
    marks.iter().map(|&(letter, on)| if on { letter } else { '-' }).collect()
}

/// Nanoseconds as seconds with one digit behind the point.
pub(super) fn seconds(nanoseconds: u64) -> String {
    format!("{}.{}", nanoseconds / time::SECOND, nanoseconds % time::SECOND / (100 * time::MILLISECOND))
}

/// `list`.
pub(super) async fn list(mut call: Call) -> Outcome {
    let (long, verbose) = (call.flag("-l"), call.flag("-v"));
    let only = match call.args.as_slice() {
        [] => None,
        [name] => Some(domain(&call.system, name)?),
        _ => return Err(usage("list")),
    };
    let more = if verbose { "  UUID                                 Reason-Code" } else { "" };
    println!("{:<40} {:>5} {:>5} {:>5} {:>9} {:>8}{more}", "Name", "ID", "Mem", "VCPUs", "State", "Time(s)");
    for info in domains()?.iter().filter(|info| only.is_none_or(|id| id == info.domain)) {
        let name = call.system.name_of(info.domain.0);
        let mib = (info.tot_pages + info.outstanding_pages) >> 8;
        let time = seconds(info.cpu_time);
        let (id, vcpus) = (info.domain.0, info.nr_online_vcpus);
        let more = if verbose {
            let reason = domain_info::shutdown_code(info).map_or_else(|| "-".into(), |code| code.to_string());
            format!("  {} {reason:>11}", uuid_text(&info.handle))
        } else {
            String::new()
        };
        println!("{name:<40} {id:>5} {mib:>5} {vcpus:>5} {:>9} {time:>8}{more}", state(info));
        if long {
            let maximum = info.max_pages.checked_mul(4).map_or_else(|| "unlimited".into(), |kib| format!("{kib} KiB"));
            println!("    uuid {}  at most {maximum}", uuid_text(&info.handle));
        }
    }
    Ok(())
}

/// `vcpu-list`.
pub(super) async fn vcpu_list(call: Call) -> Outcome {
    let only = match call.args.as_slice() {
        [] => None,
        [name] => Some(domain(&call.system, name)?),
        _ => return Err(usage("vcpu-list")),
    };
    let processors = control::physical_info().map_err(Named).context("the processors are unknown")?.nr_cpus;
    println!(
        "{:<32} {:>5} {:>5} {:>5} {:>7} {:>8} Affinity (Hard / Soft)",
        "Name", "ID", "VCPU", "CPU", "State", "Time(s)"
    );
    for info in domains()?.iter().filter(|info| only.is_none_or(|id| id == info.domain)) {
        let name = call.system.name_of(info.domain.0);
        for vcpu in 0..=info.max_vcpu_id.min(8191) {
            let Ok(one) = control::vcpu_info(info.domain, vcpu) else { continue };
            let (cpu, letters) = match (one.online, one.running, one.blocked) {
                (0, _, _) => ("-".to_string(), "--p"),
                (_, 0, 0) => (one.cpu.to_string(), "---"),
                (_, 0, _) => (one.cpu.to_string(), "-b-"),
                _ => (one.cpu.to_string(), "r--"),
            };
            let time = seconds(one.cpu_time);
            let places = affinity(info.domain, vcpu, processors)?;
            println!("{name:<32} {:>5} {vcpu:>5} {cpu:>5} {letters:>7} {time:>8} {places}", info.domain.0);
        }
    }
    Ok(())
}

/// Where a vcpu may run and where it should, as `xl vcpu-list` shows it on a machine of so many processors.
fn affinity(id: DomId, vcpu: u32, processors: u32) -> Result<String> {
    let (hard, soft) = control::vcpu_affinity(id, vcpu).map_err(Named).context("its affinity is unknown")?;
    let [hard, soft] = [hard, soft].map(|words| CpuSet::of_words(words).shown(processors));
    Ok(format!("{hard} / {soft}"))
}

/// `domid`.
pub(super) async fn domid(call: Call) -> Outcome {
    let (system, [name]) = call.exactly("domid")?;
    println!("{}", domain(&system, &name)?.0);
    Ok(())
}

/// `domname`.
pub(super) async fn domname(call: Call) -> Outcome {
    let (system, [number]) = call.exactly("domname")?;
    let id = domain(&system, &number)?;
    println!("{}", system.name_of(id.0));
    Ok(())
}

/// `uptime`.
pub(super) async fn uptime(call: Call) -> Outcome {
    let system = call.system;
    println!("{:<32} {:>5} Uptime", "Name", "ID");
    let line = |name: &str, id: u16, ns: u64| {
        let s = ns / time::SECOND;
        println!("{name:<32} {id:>5} {}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
    };
    line(&system.name_of(0), DomId::DOM0.0, time::now());
    for guest in system.guests.alive() {
        line(&guest.name(), guest.domain.get().0, time::now().saturating_sub(guest.started.get()));
    }
    Ok(())
}
