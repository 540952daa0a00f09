//! Commands about processors: how many a guest has online, and its share of the machine's.

use alloc::{format, string::String};

use oxen_abi::domid::DomId;
use oxen_domu_lib::{control, println};

use super::{Call, Outcome, domain, guest, usage};
use crate::toolstack::share;

/// `vcpu-set`: the guest's kernel takes processors on and off line when it is told.
pub async fn set(call: Call) -> Outcome {
    let (system, [name, count]) = call.exactly("vcpu-set")?;
    let guest = guest(&system, &name)?;
    let most = guest.config.maxvcpus;
    let count = count.parse().ok().filter(|count| (1..=most).contains(count));
    let count: u32 = count.ok_or_else(|| format!("`{name}` can have 1 to {most} vcpus (maxvcpus)"))?;
    for vcpu in 0..most {
        let state = if vcpu < count { "online" } else { "offline" };
        let path = format!("/local/domain/{}/cpu/{vcpu}/availability", guest.domain.get().0);
        if system.store.read(&path).as_deref() != Ok(state) {
            system.store.write(&path, state).map_err(|why| format!("xenstore: {why}"))?;
        }
    }
    Ok(())
}

/// `sched-credit`.
pub async fn sched_credit(mut call: Call) -> Outcome {
    let number = |text: Option<String>| {
        text.map(|text| text.parse::<u16>().map_err(|_| format!("`{text}` is no number up to 65535"))).transpose()
    };
    let name = call.option("-d")?;
    let (weight, cap) = (number(call.option("-w")?)?, number(call.option("-c")?)?);
    if !call.args.is_empty() || (name.is_none() && (weight.is_some() || cap.is_some())) {
        return Err(usage("sched-credit"));
    }
    let only = name.map(|name| domain(&call.system, &name)).transpose()?;
    if let (Some(id), true) = (only, weight.is_some() || cap.is_some()) {
        return share::set(id, weight, cap).map_err(|errno| format!("the scheduler refuses: {}", errno.name()));
    }
    println!("{:<32} {:>5} {:>6} {:>5}", "Name", "ID", "Weight", "Cap");
    let line = |id: DomId| {
        let shown = share::get(id).map_err(|errno| format!("the scheduler tells no shares: {}", errno.name()))?;
        println!("{:<32} {:>5} {:>6} {:>5}", call.system.name_of(id.0), id.0, shown.weight, shown.cap);
        Ok(())
    };
    match only {
        Some(id) => line(id),
        None => {
            let all = control::domains(super::show::MOST_DOMAINS);
            let all = all.map_err(|errno| format!("the hypervisor does not list its domains: {}", errno.name()))?;
            all.iter().try_for_each(|info| line(info.domain))
        }
    }
}
