//! Guests' ends: noticed, explained, and what follows from them.

use alloc::{rc::Rc, string::String};

use oxen_abi::domctl::{
    DomctlGetdomaininfo, XEN_DOMINF_DYING, XEN_DOMINF_SHUTDOWN, XEN_DOMINF_SHUTDOWNMASK, XEN_DOMINF_SHUTDOWNSHIFT,
};
use oxen_abi::domid::DomId;
use oxen_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SUSPEND, SHUTDOWN_WATCHDOG};
use oxen_abi::virq::VIRQ_DOM_EXC;
use oxen_domu_lib::{control, event::Port, println, task, time};

use super::autopsy;
use super::config::Action;
use super::lifecycle::{Guest, dissolve, start, unpause};
use crate::guest_text;
use crate::system::Shared;

/// Restarts nearer to a guest's start than this (nanoseconds) count as a loop.
const RESTART_PAUSE: u64 = 2 * time::SECOND;

/// Why a guest is not running any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It asked for it: one of `SHUTDOWN_*`.
    Shutdown(u32),
    /// Somebody else destroyed it.
    Destroyed,
}

impl End {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shutdown(SHUTDOWN_POWEROFF) => "poweroff",
            Self::Shutdown(SHUTDOWN_REBOOT) => "reboot",
            Self::Shutdown(SHUTDOWN_SUSPEND) => "suspend",
            Self::Shutdown(SHUTDOWN_CRASH) => "crash",
            Self::Shutdown(SHUTDOWN_WATCHDOG) => "watchdog",
            Self::Shutdown(_) => "unknown reason",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether this is how guests end when all is well.
    pub fn is_clean(self) -> bool {
        !matches!(self, Self::Shutdown(SHUTDOWN_CRASH | SHUTDOWN_WATCHDOG))
    }
}

/// What the hypervisor says about a domain, if it is there.
pub fn info(domain: DomId) -> Option<DomctlGetdomaininfo> {
    control::domain_info(domain).ok().filter(|info| info.domain == domain)
}

/// The reason in a domain's flags, if it has stopped.
pub fn shutdown_code(info: &DomctlGetdomaininfo) -> Option<u32> {
    let stopped = info.flags & XEN_DOMINF_SHUTDOWN != 0;
    stopped.then_some(info.flags >> XEN_DOMINF_SHUTDOWNSHIFT & XEN_DOMINF_SHUTDOWNMASK)
}

/// The task that notices guests' ends.
pub async fn watch(system: Shared) {
    let port = match Port::bind_virq(VIRQ_DOM_EXC) {
        Ok(port) => Some(port),
        Err(errno) => {
            println!("guests' ends are looked for once a second: {}", errno.name());
            None
        }
    };
    loop {
        match &port {
            Some(port) => port.wait().await,
            None => time::sleep(time::SECOND).await,
        }
        for guest in system.guests.alive() {
            if guest.end.get().is_none()
                && !guest.leaving.get()
                && !guest.restarting.get()
                && let Some(end) = end_of(guest.domain.get())
            {
                handle_end(&system, &guest, end).await;
            }
        }
    }
}

fn end_of(domain: DomId) -> Option<End> {
    match info(domain) {
        None => Some(End::Destroyed),
        Some(info) if info.flags & XEN_DOMINF_DYING != 0 => Some(End::Destroyed),
        Some(info) => shutdown_code(&info).map(End::Shutdown),
    }
}

async fn handle_end(system: &Shared, guest: &Rc<Guest>, end: End) {
    let (name, domain) = (&guest.config.name, guest.domain.get());
    system.store.with(crate::store::Store::announce_end);
    // The console's last bytes may still be on the ring, and whoever waits for them has to show them.
    for _ in 0..4 {
        task::yield_now().await;
    }
    guest_text::say(
        &guest.end_log,
        domain,
        format_args!("guest `{name}` (domain {}) has ended: {}", domain.0, end.name()),
    );
    if !end.is_clean() {
        autopsy::report(guest, domain);
    }
    let action = match end {
        End::Shutdown(SHUTDOWN_POWEROFF) => guest.config.on_poweroff,
        End::Shutdown(SHUTDOWN_REBOOT) => guest.config.on_reboot,
        End::Shutdown(SHUTDOWN_CRASH | SHUTDOWN_WATCHDOG) => guest.config.on_crash,
        _ => Action::Destroy,
    };
    match action {
        Action::Preserve => {
            guest.preserved.set(true);
            guest.end.set(Some(end));
            guest.ended.notify();
            println!("guest `{name}` is preserved; `xl destroy {name}` ends it");
        }
        Action::Destroy => finish(system, guest, end).await,
        Action::Restart => {
            guest.restarting.set(true);
            task::spawn(restart(system.clone(), guest.clone(), end));
        }
    }
}

async fn restart(system: Shared, guest: Rc<Guest>, end: End) {
    dissolve(&system, &guest).await;
    let ran = time::now().saturating_sub(guest.started.get());
    time::sleep(RESTART_PAUSE.saturating_sub(ran)).await;
    let mut started = Err(String::from("it was destroyed meanwhile"));
    if !guest.called_off.get() {
        started = start(&system, &guest).await;
    }
    if started.is_ok() && guest.called_off.get() {
        dissolve(&system, &guest).await;
        started = Err(String::from("it was destroyed meanwhile"));
    }
    guest.restarting.set(false);
    let name = &guest.config.name;
    match started.and_then(|()| unpause(guest.domain.get())) {
        Ok(()) => {
            let domain = guest.domain.get();
            guest_text::say(&guest.end_log, domain, format_args!("guest `{name}` starts again as domain {}", domain.0));
        }
        Err(why) => {
            println!("guest `{name}` does not start again: {why}");
            bury(&system, &guest, end);
        }
    }
}

/// Ends a guest at once.
pub async fn destroy(system: &Shared, guest: &Rc<Guest>) {
    if guest.end.get().is_none() || guest.preserved.get() {
        finish(system, guest, End::Destroyed).await;
    }
}

/// Takes a guest apart for good; who comes second waits for who came first.
async fn finish(system: &Shared, guest: &Rc<Guest>, end: End) {
    guest.called_off.set(true);
    if guest.restarting.get() || guest.leaving.replace(true) {
        guest.wait().await;
        return;
    }
    dissolve(system, guest).await;
    bury(system, guest, end);
}

/// The guest has ended for good.
fn bury(system: &Shared, guest: &Rc<Guest>, end: End) {
    system.guests.remember(guest);
    guest.preserved.set(false);
    // A guest that ended by itself and was preserved keeps its own reason.
    guest.end.set(Some(guest.end.get().unwrap_or(end)));
    guest.console.hang_up();
    guest.ended.notify();
}
