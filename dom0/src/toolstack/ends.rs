//! Guests' ends: noticed, explained, and what follows from them.

use alloc::rc::Rc;

use anyhow::{Result, bail};
use oxen_abi::domctl::InfoFlags;
use oxen_abi::domid::DomId;
use oxen_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_WATCHDOG};
use oxen_abi::virq::VIRQ_DOM_EXC;
use oxen_domu_lib::{event::Port, println, task, time};

use super::autopsy;
use super::guest::Guest;
use super::lifecycle::{dissolve, start, unpause};
use super::stage::{Duty, End, Stage};
use super::system::System;
use crate::config::Action;
use crate::{domain_info, guest_text};

/// Restarts nearer to a guest's start than this (nanoseconds) count as a loop.
const RESTART_PAUSE: u64 = 2 * time::SECOND;

/// The task that notices guests' ends.
pub async fn watch(system: Rc<System>) {
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
        system.ends.wake();
        look(&system).await;
    }
}

/// Looks whether guests have ended, and does what follows.
pub(super) async fn look(system: &Rc<System>) {
    for guest in system.guests.alive() {
        if guest.stage() == Stage::Running
            && let Some(end) = end_of(guest.domain.get())
        {
            handle_end(system, &guest, end).await;
        }
    }
}

fn end_of(domain: DomId) -> Option<End> {
    match domain_info::of(domain) {
        None => Some(End::Destroyed),
        Some(info) if domain_info::flags(&info).contains(InfoFlags::DYING) => Some(End::Destroyed),
        Some(info) => domain_info::shutdown_code(&info).map(End::Shutdown),
    }
}

async fn handle_end(system: &Rc<System>, guest: &Rc<Guest>, end: End) {
    let (name, domain) = (guest.name(), guest.domain.get());
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
    let duty = guest.notice_end(end, action);
    carry_out(system, guest, duty).await;
}

/// Does what a change of a guest's stage asks for.
async fn carry_out(system: &Rc<System>, guest: &Rc<Guest>, duty: Duty) {
    match duty {
        Duty::Nothing => {}
        Duty::Wait => _ = guest.wait().await,
        Duty::TakeApart => {
            dissolve(system, guest).await;
            system.guests.retire(guest);
        }
        Duty::Restart => _ = task::spawn(restart(system.clone(), guest.clone())),
        Duty::Preserve => {
            let name = guest.name();
            println!("guest `{name}` is preserved; `xl destroy {name}` ends it");
        }
    }
}

async fn restart(system: Rc<System>, guest: Rc<Guest>) {
    dissolve(&system, &guest).await;
    let ran = time::now().saturating_sub(guest.started.get());
    time::sleep(RESTART_PAUSE.saturating_sub(ran)).await;
    let started = start_again(&system, &guest).await;
    let name = guest.name();
    match started.and_then(|()| unpause(guest.domain.get())) {
        Ok(()) => {
            guest.runs_again();
            let domain = guest.domain.get();
            guest_text::say(&guest.end_log, domain, format_args!("guest `{name}` starts again as domain {}", domain.0));
        }
        Err(why) => {
            println!("guest `{name}` does not start again: {why:#}");
            system.guests.retire(&guest);
        }
    }
}

/// Builds a guest's next domain, unless it is destroyed before that or meanwhile.
async fn start_again(system: &Rc<System>, guest: &Rc<Guest>) -> Result<()> {
    let is_called_off = || matches!(guest.stage(), Stage::CalledOff(_));
    if !is_called_off() {
        start(system, guest).await?;
        if !is_called_off() {
            return Ok(());
        }
        dissolve(system, guest).await;
    }
    bail!("it was destroyed meanwhile")
}

/// Ends a guest at once; who comes second waits for who came first.
pub async fn destroy(system: &Rc<System>, guest: &Rc<Guest>) {
    let duty = guest.destroy();
    carry_out(system, guest, duty).await;
}

/// Takes a guest apart that was saved.
pub(super) async fn end_saved(system: &Rc<System>, guest: &Rc<Guest>, end: End) {
    let duty = guest.was_saved(end);
    carry_out(system, guest, duty).await;
}
