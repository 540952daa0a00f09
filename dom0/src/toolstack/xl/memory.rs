//! Commands about memory.

use alloc::{format, string::String};

use anyhow::{Context, Result, bail};
use oxen_domu_lib::{println, time};

use super::{Call, Outcome, guest, usage};
use crate::balloon::controller::Standing;
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

/// `balloon`: how guests follow their targets, or what one is judged by.
pub(super) async fn balloon(mut call: Call) -> Outcome {
    if call.flag("explain") {
        let (system, guest) = call.guest("balloon")?;
        println!("{}", system.balloon.explain(&guest.subject())?);
        return Ok(());
    }
    if !call.args.is_empty() {
        return Err(usage("balloon"));
    }
    println!("{:<32} {:>5} {:>8} {:>8} {:>8}  Balloon", "Name", "ID", "Mem", "Target", "Maximum");
    for guest in call.system.guests.alive() {
        let (standing, now) = call.system.balloon.standing(&guest.subject())?;
        let [has, target, most] = [now.current, now.target, now.maximum].map(|kib| kib >> 10);
        let (name, id) = (guest.name(), guest.domain.get().0);
        println!("{name:<32} {id:>5} {has:>8} {target:>8} {most:>8}  {}", standing.name());
    }
    Ok(())
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
