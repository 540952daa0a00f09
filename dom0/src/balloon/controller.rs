//! Memory targets at work: given to guests through the store, and looked after once a second.

use alloc::{collections::BTreeMap, format, string::String};
use core::cell::RefCell;

use oxen_abi::domid::DomId;
use oxen_domu_lib::{control, time};

use super::policy::{self, Finding, Progress, SLACK, Situation};
use crate::guest_text;
use crate::system::{Shared, System};
use crate::toolstack::ends;
use crate::toolstack::lifecycle::Guest;

/// Between two looks, in nanoseconds.
const LOOK: u64 = time::SECOND;
/// What a domain may have beyond its target before it takes part in ballooning, in KiB.
const OVERHEAD: u64 = 1024;

/// The targets that were given, and how guests follow them.
#[derive(Default)]
pub struct Controller {
    progress: RefCell<BTreeMap<DomId, Progress>>,
}

impl Controller {
    /// Forgets a domain that is gone.
    pub fn forget(&self, domain: DomId) {
        self.progress.borrow_mut().remove(&domain);
    }
}

fn node(domain: DomId, name: &str) -> String {
    format!("/local/domain/{}/memory/{name}", domain.0)
}

/// What is known about a guest now.
pub fn situation(system: &System, guest: &Guest) -> Result<Situation, String> {
    let domain = guest.domain.get();
    let info = ends::info(domain).ok_or("the domain is gone")?;
    let number = |name: &str| system.store.read(&node(domain, name)).ok().and_then(|text| text.parse().ok());
    let current = info.tot_pages * 4;
    let machine =
        control::physical_info().map_err(|errno| format!("the machine's memory is unknown: {}", errno.name()))?;
    Ok(Situation {
        current,
        target: number("target").unwrap_or(current),
        maximum: number("static-max").unwrap_or(guest.config.maxmem << 10),
        built: guest.built.get(),
        machine_free: machine.free_pages * 4,
    })
}

/// Tells a guest to go to `target` KiB, if that is allowed.
pub fn set_target(system: &System, guest: &Guest, target: u64) -> Result<(), String> {
    let domain = guest.domain.get();
    let situation = situation(system, guest)?;
    policy::judge(&situation, target)
        .map_err(|why| format!("`{}` cannot have {} MiB: {why}", guest.config.name, target >> 10))?;
    control::set_max_memory(domain, target + OVERHEAD)
        .map_err(|errno| format!("the hypervisor refuses the limit: {}", errno.name()))?;
    system.store.write(&node(domain, "target"), &format!("{target}")).map_err(|e| format!("xenstore: {e}"))?;
    system.balloon.progress.borrow_mut().insert(domain, Progress::new(situation.current.abs_diff(target)));
    Ok(())
}

/// Sets the most that a guest may ever have, in KiB.
pub fn set_maximum(system: &System, guest: &Guest, maximum: u64) -> Result<(), String> {
    let domain = guest.domain.get();
    let situation = situation(system, guest)?;
    if maximum < situation.target {
        let target = situation.target >> 10;
        return Err(format!("its target is {target} MiB; lower that first with `xl mem-set {}`", guest.config.name));
    }
    control::set_max_memory(domain, maximum + OVERHEAD)
        .map_err(|errno| format!("the hypervisor refuses the limit: {}", errno.name()))?;
    system.store.write(&node(domain, "static-max"), &format!("{maximum}")).map_err(|e| format!("xenstore: {e}"))
}

/// Looks after all targets for good.
pub async fn run(system: Shared) {
    loop {
        time::sleep(LOOK).await;
        for guest in system.guests.alive() {
            look(&system, &guest);
        }
    }
}

/// Where a guest stands on its way to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Arrived,
    /// It moves, or has not stood still for long.
    Moving,
    /// It has not come nearer for [`policy::PATIENCE`] seconds.
    Dead,
}

impl Standing {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arrived => "there",
            Self::Moving => "moving",
            Self::Dead => "does not react",
        }
    }
}

/// How a guest follows its target, and what is known of it.
pub fn standing(system: &System, guest: &Guest) -> Result<(Standing, Situation), String> {
    let now = situation(system, guest)?;
    let progress = system.balloon.progress.borrow().get(&guest.domain.get()).copied();
    let standing = match progress {
        _ if now.current.abs_diff(now.target) <= SLACK => Standing::Arrived,
        Some(progress) if progress.is_stuck() => Standing::Dead,
        _ => Standing::Moving,
    };
    Ok((standing, now))
}

fn look(system: &System, guest: &Guest) {
    let domain = guest.domain.get();
    let mut all = system.balloon.progress.borrow_mut();
    let (Some(progress), Ok(now)) = (all.get_mut(&domain), situation(system, guest)) else { return };
    match progress.look(now.current, now.target) {
        Finding::Arrived => _ = all.remove(&domain),
        Finding::Stuck => guest_text::say(
            &guest.log,
            domain,
            format_args!(
                "balloon: guest `{}` does not react: it was asked for {} MiB and has stayed at {} MiB for {} s",
                guest.config.name,
                now.target >> 10,
                now.current >> 10,
                policy::PATIENCE
            ),
        ),
        Finding::Moving | Finding::Waiting | Finding::StillStuck => {}
    }
}

/// What a target of this guest is judged by, and how the guest follows it.
pub fn explain(system: &System, guest: &Guest) -> Result<String, String> {
    let now = situation(system, guest)?;
    let mib = |kib: u64| kib >> 10;
    let progress = system.balloon.progress.borrow().get(&guest.domain.get()).copied();
    let follows = match progress {
        None => String::from("it is where it should be, or was never asked to go elsewhere"),
        Some(progress) => format!("on its way: {progress}"),
    };
    Ok(format!(
        "guest {}:\n  has now      {:>6} MiB (counted by the hypervisor)\n  target       {:>6} MiB\n  maximum      {:>6} MiB\n  \
         floor        {:>6} MiB = {} MiB that kernel, ramdisk and tables took + {} MiB reserve\n  \
         machine free {:>6} MiB, of which {} MiB stay with the hypervisor\n  {follows}",
        guest.config.name,
        mib(now.current),
        mib(now.target),
        mib(now.maximum),
        now.floor().div_ceil(1024),
        now.built.div_ceil(1024),
        mib(policy::RESERVE),
        mib(now.machine_free),
        mib(policy::MACHINE_RESERVE),
    ))
}
