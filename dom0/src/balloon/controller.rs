//! Memory targets at work: given to guests through the store, and looked after once a second.

use alloc::{collections::BTreeMap, format, rc::Rc, string::String};
use core::cell::RefCell;

use anyhow::{Context, Result, bail};
use oxen_abi::domid::DomId;
use oxen_domu_lib::{control, time};

use super::policy::limits::{self, Situation};
use super::progress::{self, Finding, Progress, SLACK};
use crate::errno::Named;
use crate::purse::Log;
use crate::store::server::StoreHandle;
use crate::{domain_info, guest_text};

/// Between two looks, in nanoseconds.
pub const LOOK: u64 = time::SECOND;
/// What a domain may have beyond its target before it takes part in ballooning, in KiB.
const OVERHEAD: u64 = 1024;

/// The targets that were given, and how guests follow them.
pub struct Controller {
    store: StoreHandle,
    progress: RefCell<BTreeMap<DomId, Progress>>,
}

/// A guest as far as its memory goes.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Its domain.
    pub domain: DomId,
    /// What people call it.
    pub name: Rc<str>,
    /// KiB that its configuration lets it grow to.
    pub maximum: u64,
    /// KiB that it was built with at least.
    pub built: u64,
    /// Its shares of memory.
    pub shares: u32,
    /// Where lines about it count.
    pub log: &'a Rc<Log>,
}

fn node(domain: DomId, name: &str) -> String {
    format!("/local/domain/{}/memory/{name}", domain.0)
}

/// Where a guest stands on its way to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Arrived,
    /// It moves, or has not stood still for long.
    Moving,
    /// It has not come nearer for [`progress::PATIENCE`] seconds.
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

impl Controller {
    /// A controller that gives no target yet.
    pub const fn new(store: StoreHandle) -> Self {
        Self { store, progress: RefCell::new(BTreeMap::new()) }
    }

    /// Forgets a domain that is gone.
    pub fn forget(&self, domain: DomId) {
        self.progress.borrow_mut().remove(&domain);
    }

    /// What is known about a guest now.
    ///
    /// # Errors
    /// The domain is gone.
    pub(super) fn situation(&self, guest: &Subject<'_>) -> Result<Situation> {
        let info = domain_info::of(guest.domain).context("the domain is gone")?;
        let number = |name: &str| self.store.read(&node(guest.domain, name)).ok().and_then(|text| text.parse().ok());
        let current = info.tot_pages * 4;
        let machine = control::physical_info().map_err(Named).context("the machine's memory is unknown")?;
        Ok(Situation {
            current,
            target: number("target").unwrap_or(current),
            maximum: number("static-max").unwrap_or(guest.maximum),
            built: guest.built,
            machine_free: machine.free_pages * 4,
        })
    }

    /// Tells a guest to go to `target` KiB, if that is allowed.
    ///
    /// # Errors
    /// The policy refuses the target, the hypervisor the limit that goes with it, or the store the guest's node; the
    /// domain is gone.
    pub fn set_target(&self, guest: &Subject<'_>, target: u64) -> Result<()> {
        let situation = self.situation(guest)?;
        limits::judge(&situation, target)
            .with_context(|| format!("`{}` cannot have {} MiB", guest.name, target >> 10))?;
        limit(guest.domain, target)?;
        self.store.write(&node(guest.domain, "target"), &format!("{target}")).context("xenstore")?;
        let distance = situation.current.abs_diff(target);
        self.progress.borrow_mut().insert(guest.domain, Progress::new(distance));
        Ok(())
    }

    /// Sets the most that a guest may ever have, in KiB.
    ///
    /// # Errors
    /// It is less than the guest's target; or as [`Self::set_target`].
    pub fn set_maximum(&self, guest: &Subject<'_>, maximum: u64) -> Result<()> {
        let situation = self.situation(guest)?;
        if maximum < situation.target {
            let target = situation.target >> 10;
            bail!("its target is {target} MiB; lower that first with `xl mem-set {}`", guest.name);
        }
        limit(guest.domain, maximum)?;
        self.store.write(&node(guest.domain, "static-max"), &format!("{maximum}")).context("xenstore")
    }

    /// How a guest follows its target, and what is known of it.
    ///
    /// # Errors
    /// The domain is gone.
    pub fn standing(&self, guest: &Subject<'_>) -> Result<(Standing, Situation)> {
        let now = self.situation(guest)?;
        let progress = self.progress.borrow().get(&guest.domain).copied();
        let standing = match progress {
            _ if now.current.abs_diff(now.target) <= SLACK => Standing::Arrived,
            Some(progress) if progress.is_stuck() => Standing::Dead,
            _ => Standing::Moving,
        };
        Ok((standing, now))
    }

    /// Looks after a guest's target: a guest that does not move is named.
    pub fn look(&self, guest: &Subject<'_>) {
        let mut all = self.progress.borrow_mut();
        let (Some(progress), Ok(now)) = (all.get_mut(&guest.domain), self.situation(guest)) else { return };
        match progress.look(now.current, now.target) {
            Finding::Arrived => _ = all.remove(&guest.domain),
            Finding::Stuck => guest_text::say(
                guest.log,
                guest.domain,
                format_args!(
                    "balloon: guest `{}` does not react: it was asked for {} MiB and has stayed at {} MiB for {} s",
                    guest.name,
                    now.target >> 10,
                    now.current >> 10,
                    progress::PATIENCE
                ),
            ),
            Finding::Moving | Finding::Waiting | Finding::StillStuck => {}
        }
    }

    /// What a target of this guest is judged by, and how the guest follows it.
    ///
    /// # Errors
    /// The domain is gone.
    pub fn explain(&self, guest: &Subject<'_>) -> Result<String> {
        let now = self.situation(guest)?;
        let mib = |kib: u64| kib >> 10;
        let progress = self.progress.borrow().get(&guest.domain).copied();
        let follows = match progress {
            None => String::from("it is where it should be, or was never asked to go elsewhere"),
            Some(progress) => format!("on its way: {progress}"),
        };
        Ok(format!(
            "guest {}:\n  has now      {:>6} MiB (counted by the hypervisor)\n  target       {:>6} MiB\n  \
             maximum      {:>6} MiB\n  \
             floor        {:>6} MiB = {} MiB that kernel, ramdisk and tables took + {} MiB reserve\n  \
             machine free {:>6} MiB, of which {} MiB stay with the hypervisor\n  {follows}",
            guest.name,
            mib(now.current),
            mib(now.target),
            mib(now.maximum),
            now.floor().div_ceil(1024),
            now.built.div_ceil(1024),
            mib(limits::RESERVE),
            mib(now.machine_free),
            mib(limits::MACHINE_RESERVE),
        ))
    }
}

/// Limits what a domain may have to `kib`, and what goes beyond before it takes part in ballooning.
fn limit(domain: DomId, kib: u64) -> Result<()> {
    control::set_max_memory(domain, kib + OVERHEAD).map_err(Named).context("the hypervisor refuses the limit")
}
