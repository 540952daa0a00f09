//! Commands about processors: how many a guest has online, and its share of the machine's.

use alloc::{format, string::String};

use anyhow::Context;
use oxen_abi::domid::DomId;
use oxen_domu_lib::println;

use super::{Call, Outcome, domain, guest, usage};
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
