//! Commands about memory.

use alloc::{format, string::String, vec::Vec};

use anyhow::{Context, Result, bail};
use oxen_abi::sysctl::MAX_SAMPLES;
use oxen_domu_lib::{println, time};

use super::{Call, Outcome, guest, usage};
use crate::balloon::{
    controller::{Standing, Subject},
    coordinator::{Coordinator, PERIOD, turn_working_sets},
    estimate::Estimate,
};
use crate::purse::Budget;

/// A size: MiB, or with a unit: k, m, g. In KiB.
pub(super) fn kib(text: &str) -> Result<u64> {
    let unit = text.trim_end_matches(['b', 'B']);
    let digits = unit.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    let scale = match unit.get(digits.len()..).unwrap_or_default() {
        "" | "m" | "M" => 1 << 10,
        "k" | "K" => 1,
        "g" | "G" => 1 << 20,
        _ => 0,
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|n| n.checked_mul(scale))
        .filter(|&n| n != 0)
        .with_context(|| format!("`{text}` is no amount of memory; 64 or 64m are 64 MiB"))
}

/// `mem-set`; with `-w` it waits until the guest is there, and names one that does not react.
pub(super) async fn set(mut call: Call) -> Outcome {
    let wait = call.flag("-w");
    let (system, [name, size]) = call.exactly("mem-set")?;
    let size = kib(&size)?;
    if name == "0" || name == "Domain-0" {
        bail!("dom0's memory is fixed by dom0_mem= on the hypervisor's command line");
    }
    let guest = guest(&system, &name)?;
    system.balloon.set_target(&guest.subject(), size)?;
    if !wait {
        return Ok(());
    }
    loop {
        let (standing, now) = system.balloon.standing(&guest.subject())?;
        match standing {
            Standing::Arrived => return Ok(()),
            Standing::Moving => time::sleep(time::SECOND / 4).await,
            Standing::Dead => {
                let (has, target) = (now.current >> 10, now.target >> 10);
                bail!("the balloon of `{name}` does not react: it has {has} MiB, its target is {target}");
            }
        }
    }
}

/// `mem-max`.
pub(super) async fn max(call: Call) -> Outcome {
    let (system, [name, size]) = call.exactly("mem-max")?;
    let guest = guest(&system, &name)?;
    system.balloon.set_maximum(&guest.subject(), kib(&size)?)
}

/// `balloon`: how guests follow their targets, what one is judged by, or who decides on them.
pub(super) async fn balloon(mut call: Call) -> Outcome {
    if call.flag("explain") {
        let (system, guest) = call.guest("balloon")?;
        println!("{}", system.balloon.explain(&guest.subject())?);
        println!("{}", explain_policy(&system.coordinator, &guest.subject()));
        return Ok(());
    }
    if call.flag("policy") {
        return set_policy(&call);
    }
    if !call.args.is_empty() {
        return Err(usage("balloon"));
    }
    println!("{:<32} {:>5} {:>8} {:>8} {:>8} {:>8}  Balloon", "Name", "ID", "Mem", "Target", "Maximum", "Used(%)");
    for guest in call.system.guests.alive() {
        let (standing, now) = call.system.balloon.standing(&guest.subject())?;
        let [has, target, most] = [now.current, now.target, now.maximum].map(|kib| kib >> 10);
        let (name, id) = (guest.name(), guest.domain.get());
        let used = percent(call.system.coordinator.estimate(id));
        println!("{name:<32} {:>5} {has:>8} {target:>8} {most:>8} {used:>8}  {}", id.0, standing.name());
    }
    Ok(())
}

/// `balloon policy`: who decides on targets, or who is to.
fn set_policy(call: &Call) -> Outcome {
    let coordinator = &call.system.coordinator;
    let (policy, period) = match &call.args[..] {
        [] => {
            let (policy, period) = coordinator.policy();
            println!("{policy}, every {period} s");
            return Ok(());
        }
        [policy] => (policy, PERIOD),
        [policy, seconds] => (policy, number(seconds)?),
        _ => return Err(usage("balloon")),
    };
    coordinator.set_policy(policy.parse()?, period)
}

fn number(text: &str) -> Result<u32> {
    text.parse().ok().filter(|n| *n > 0).with_context(|| format!("`{text}` is no number of seconds"))
}

/// By what the policy decides about a guest.
fn explain_policy(coordinator: &Coordinator, guest: &Subject<'_>) -> String {
    let (policy, period) = coordinator.policy();
    let percent = |share: u32| share / 10;
    let uses = coordinator.estimate(guest.domain).map_or(String::from("not known"), |estimate| {
        let [used, last, fast, slow] = [estimate.used(), estimate.last, estimate.fast, estimate.slow].map(percent);
        format!("{used} % of it: {last} % in the last period, averages {fast} % (fast) and {slow} % (slow)")
    });
    let wants = coordinator.wanted(guest.domain).map_or(String::from("nothing"), |kib| format!("{} MiB", kib >> 10));
    format!(
        "  policy       {policy}, every {period} s, wants {wants}\n  shares       {:>6}\n  uses         {uses}",
        guest.shares
    )
}

/// `mem-stats`: what guests use of their memory.
pub(super) async fn stats(call: Call) -> Outcome {
    let seconds = match &call.args[..] {
        [] => 5,
        [seconds] => number(seconds)?,
        _ => return Err(usage("mem-stats")),
    };
    let system = &call.system;
    let is_watched = system.coordinator.policy().0.watches();
    let mut sets = Vec::new();
    if !is_watched {
        turn_working_sets(MAX_SAMPLES)?;
        time::sleep(u64::from(seconds) * time::SECOND).await;
        sets = turn_working_sets(0)?;
    }
    println!("{:<32} {:>5} {:>8} {:>8} {:>8} {:>8}", "Name", "ID", "Mem", "Sampled", "Touched", "Used(%)");
    for guest in system.guests.alive() {
        let domain = guest.domain.get();
        let (_, now) = system.balloon.standing(&guest.subject())?;
        let set = sets.iter().find(|set| set.domain == domain);
        let counts = set.map(|set| (set.sampled, set.touched));
        let estimate = match counts {
            Some((sampled, touched)) => Estimate::first(sampled, touched),
            None => system.coordinator.estimate(domain),
        };
        let count = |count: Option<u32>| count.map_or(String::from("-"), |count| format!("{count}"));
        println!(
            "{:<32} {:>5} {:>8} {:>8} {:>8} {:>8}",
            guest.name(),
            domain.0,
            now.current >> 10,
            count(counts.map(|(sampled, _)| sampled)),
            count(counts.map(|(_, touched)| touched)),
            percent(estimate),
        );
    }
    Ok(())
}

/// What is used, in percent; nothing where it is not known.
fn percent(estimate: Option<Estimate>) -> String {
    estimate.map_or(String::from("-"), |estimate| format!("{}", estimate.used() / 10))
}

/// `purse`: what each guest has taken of dom0, of how much, and the most it ever had; in KiB, mappings and events.
pub(super) async fn purse(call: Call) -> Outcome {
    if !call.args.is_empty() {
        return Err(usage("purse"));
    }
    let purses = call.system.store.purses();
    println!(
        "{:<32} {:>5} {:>16} {:>14} {:>14} {:>14} {:>16}",
        "Name", "ID", "Heap(KiB)", "Rings", "Kept", "Requests", "Events"
    );
    for guest in call.system.guests.alive() {
        let (name, id) = (guest.name(), guest.domain.get().0);
        let purse = purses.of(id);
        let mappings = &purse.mappings;
        let [rings, kept, requests] = [&mappings.rings, &mappings.kept, &mappings.requests].map(|one| share((one, 0)));
        let [heap, events] = [(&purse.heap, 10), (&purse.events, 0)].map(share);
        println!("{name:<32} {id:>5} {heap:>16} {rings:>14} {kept:>14} {requests:>14} {events:>16}");
    }
    println!("{} KiB of dom0's memory are promised to guests and not taken", purses.promised() >> 10);
    Ok(())
}

/// What is taken, the most that was, and the limit, in units of so many bits.
fn share((budget, unit): (&Budget, u32)) -> String {
    format!("{}/{}/{}", budget.used() >> unit, budget.peak() >> unit, budget.limit() >> unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_mib_unless_they_say() {
        assert_eq!(["64", "64m", "512k", "1G"].map(|size| kib(size).unwrap()), [65536, 65536, 512, 1 << 20]);
        for bad in ["", "x", "0", "-3", "9999999999999999999g", "1t"] {
            assert!(kib(bad).is_err(), "{bad}");
        }
    }
}
