//! Commands about processors: how many a guest has online, and its share of the machine's.

use alloc::{format, string::String};

use anyhow::Context;
use oxen_abi::domid::DomId;
use oxen_domu_lib::{control, println};

use super::{Call, Outcome, domain, guest, usage};
use crate::config::cpus::CpuSet;
use crate::errno::Named;
use crate::toolstack::share;

/// `vcpu-set`: the guest's kernel takes processors on and off line when it is told.
pub(super) async fn set(call: Call) -> Outcome {
    let (system, [name, count]) = call.exactly("vcpu-set")?;
    let guest = guest(&system, &name)?;
    let most = guest.config.maxvcpus;
    let count = count.parse().ok().filter(|count| (1..=most).contains(count));
    let count: u32 = count.with_context(|| format!("`{name}` can have 1 to {most} vcpus (maxvcpus)"))?;
    for vcpu in 0..most {
        let state = if vcpu < count { "online" } else { "offline" };
        let path = format!("/local/domain/{}/cpu/{vcpu}/availability", guest.domain.get().0);
        if system.store.read(&path).as_deref() != Ok(state) {
            system.store.write(&path, state).context("xenstore")?;
        }
    }
    Ok(())
}

/// `vcpu-pin`.
pub(super) async fn pin(mut call: Call) -> Outcome {
    let is_forced = call.flag("-f");
    let soft = if call.args.len() == 4 { call.args.pop() } else { None };
    let (system, [name, which, hard]) = call.exactly("vcpu-pin")?;
    let id = domain(&system, &name)?;
    let set = |text: &str| if text == "-" { Ok(None) } else { CpuSet::parse(text).map(Some) };
    let (hard, soft) = (set(&hard)?, soft.as_deref().map_or(Ok(None), set)?);
    if hard.is_none() && soft.is_none() {
        return Err(usage("vcpu-pin"));
    }
    let last = super::show::domains()?.iter().find(|info| info.domain == id).map_or(0, |info| info.max_vcpu_id);
    let vcpus = match which.as_str() {
        "all" => 0..=last,
        text => text.parse().map(|vcpu: u32| vcpu..=vcpu).map_err(|_| usage("vcpu-pin"))?,
    };
    for vcpu in vcpus {
        let [hard, soft] = [hard, soft].map(|set| set.map(|set| set.words()));
        let pinned = control::set_vcpu_affinity(id, vcpu, hard, soft, is_forced);
        pinned.map_err(Named).with_context(|| format!("vcpu {vcpu} of `{name}` cannot be pinned so"))?;
    }
    Ok(())
}

/// `sched-credit`.
pub(super) async fn sched_credit(mut call: Call) -> Outcome {
    let number = |text: Option<String>| {
        let read =
            |text: String| text.parse::<u16>().ok().with_context(|| format!("`{text}` is no number up to 65535"));
        text.map(read).transpose()
    };
    let name = call.option("-d")?;
    let (weight, cap) = (number(call.option("-w")?)?, number(call.option("-c")?)?);
    if !call.args.is_empty() || (name.is_none() && (weight.is_some() || cap.is_some())) {
        return Err(usage("sched-credit"));
    }
    let only = name.map(|name| domain(&call.system, &name)).transpose()?;
    if let (Some(id), true) = (only, weight.is_some() || cap.is_some()) {
        return share::set(id, weight, cap).map_err(Named).context("the scheduler refuses");
    }
    println!("{:<32} {:>5} {:>6} {:>5}", "Name", "ID", "Weight", "Cap");
    let line = |id: DomId| {
        let shown = share::get(id).map_err(Named).context("the scheduler tells no shares")?;
        println!("{:<32} {:>5} {:>6} {:>5}", call.system.name_of(id.0), id.0, shown.weight, shown.cap);
        Ok(())
    };
    match only {
        Some(id) => line(id),
        None => super::show::domains()?.iter().try_for_each(|info| line(info.domain)),
    }
}
