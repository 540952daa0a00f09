//! Guests that are saved on a disk, and restored from one.
//!
//! A guest is asked by its node `control/shutdown` to suspend itself: its frontends stop, and it ends with the code for
//! that. What it has is read then ([`sender`]) and put down in Xen's formats ([`crate::saved`]). A restored guest finds
//! itself behind the same call, in a domain with other frames and ports ([`receiver`]), and connects its devices anew.
//! A clone is a guest that is restored while the one that was read goes on: the stream does not leave dom0 ([`pipe`]).
//! A guest that moves goes to another machine's dom0 ([`migrate`]), most of it while it runs ([`live`]).

pub(super) mod disk;
mod live;
pub mod migrate;
mod pipe;
mod receiver;
mod sender;
mod vcpu;

use alloc::{format, rc::Rc, string::String, vec::Vec};
use core::future::{self, Future};

use anyhow::{Context, Result, anyhow, bail, ensure};
use oxen_abi::domid::DomId;
use oxen_abi::sched::SHUTDOWN_SUSPEND;
use oxen_domu_lib::{control, println, task, time};

use super::build::Built;
use super::build::shell::{Shell, asked};
use super::ends;
use super::guest::Guest;
use super::lifecycle;
use super::stage::{End, Stage};
use super::system::System;
use crate::config::GuestConfig;
use crate::domain_info;
use crate::saved::stream::Source;
use crate::saved::{config, envelope};
use pipe::Pipe;
use receiver::Receiver;
use sender::Sender;

/// How long a guest may take to suspend itself, in nanoseconds.
const PATIENCE: u64 = 60 * time::SECOND;

/// What becomes of a guest that was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// Its domain is gone.
    End,
    /// It goes on.
    Run,
    /// It stays, paused.
    Pause,
}

/// Shows how far it is, at each quarter.
pub(super) struct Progress {
    what: &'static str,
    all: usize,
    told: usize,
}

impl Progress {
    const fn new(what: &'static str) -> Self {
        Self { what, all: 0, told: 0 }
    }

    /// Shows nothing.
    const fn quiet() -> Self {
        Self { what: "", all: 0, told: 4 }
    }

    fn begin(&mut self, all: usize) {
        self.all = all;
    }

    fn reach(&mut self, now: usize) {
        let quarter = (4 * now).checked_div(self.all).unwrap_or(0).min(4);
        if quarter > self.told {
            self.told = quarter;
            println!("{}: {} of {} pages ({} %)", self.what, now.min(self.all), self.all, 25 * quarter);
        }
    }
}

/// Saves a guest on a disk of the machine, from the disk's beginning on.
///
/// # Errors
/// The disk is not there, in use or too small; the guest does not suspend itself; what the hypervisor refuses. The
/// guest goes on then.
pub async fn save(system: &Rc<System>, guest: &Rc<Guest>, target: &str, afterwards: Afterwards) -> Result<()> {
    let open = system.disks.open_known(target, true)?;
    let (has, needs) = (open.medium.sectors() / 2048, guest.config.maxmem + 2);
    ensure!(has >= needs, "`{target}` has {has} MiB, and the guest takes up to {needs}");
    let domain = guest.domain.get();
    judge(system, guest)?;
    let mut sink = disk::Writer::new(open)?;
    if !guest.begins_to_be_saved() {
        bail!("`{}` does not run, or is being saved already", guest.name());
    }
    let begun = time::now();
    let written = put_down(system, guest, domain, &mut sink).await;
    let finished = match written {
        Ok(stopped) => sink.finish().await.map(|bytes| (bytes, stopped, time::now())),
        Err(why) => Err(why),
    };
    match (&finished, afterwards) {
        (Ok(_), Afterwards::End) => ends::end_saved(system, guest, End::Shutdown(SHUTDOWN_SUSPEND)).await,
        (saved, _) => {
            if saved.is_ok() && afterwards == Afterwards::Pause {
                asked("pause it", control::pause_domain(domain))?;
            }
            leave_saving(system, guest, domain).await?;
        }
    }
    let (bytes, stopped, written) = finished?;
    println!(
        "saved: {} MiB on `{target}` in {}: {} until it stopped, {} to write it down",
        bytes >> 20,
        seconds(written.saturating_sub(begun)),
        seconds(stopped.saturating_sub(begun)),
        seconds(written.saturating_sub(stopped))
    );
    Ok(())
}

/// Nanoseconds as seconds with milliseconds.
fn seconds(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / time::MILLISECOND;
    format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
}

/// Whether a guest can be asked to suspend itself.
fn judge(system: &System, guest: &Guest) -> Result<()> {
    if guest.config.is_translated {
        bail!("`{}` cannot be saved: its frames are translated", guest.name());
    }
    if !knows_suspend(system, guest.domain.get()) {
        bail!(
            "the kernel of `{}` does not know how to suspend itself (its node control/feature-suspend)",
            guest.name()
        );
    }
    Ok(())
}

/// Lets a guest go on that is no longer to be saved, if it has suspended itself.
async fn leave_saving(system: &Rc<System>, guest: &Guest, domain: DomId) -> Result<()> {
    let code = domain_info::of(domain).and_then(|info| domain_info::shutdown_code(&info));
    let gone_on = if code == Some(SHUTDOWN_SUSPEND) { go_on(domain) } else { Ok(()) };
    guest.is_no_longer_saved();
    // It may have ended in another way meanwhile.
    ends::look(system).await;
    gone_on
}

/// Whether a guest's kernel can be asked. One that says nothing of what it follows, as old ones do, may.
fn knows_suspend(system: &System, domain: DomId) -> bool {
    let says = |feature: &str| {
        let node = format!("/local/domain/{}/control/feature-{feature}", domain.0);
        system.store.read(&node).is_ok_and(|value| value == "1")
    };
    says("suspend") || !says("poweroff")
}

/// Puts the whole guest down. Returns when it stopped.
async fn put_down(system: &System, guest: &Guest, domain: DomId, sink: &mut disk::Writer) -> Result<u64> {
    suspend(system, guest, domain, future::pending()).await?;
    let stopped = time::now();
    let config = config::to_json(&guest.config, &guest.name(), &guest.uuid)?;
    envelope::begin(sink, &config).await?;
    Sender::new(domain)?.send(sink, &mut Progress::new("saving")).await?;
    envelope::end(sink).await.map(|()| stopped)
}

/// Asks a guest to suspend itself, and waits until it has, or until `interrupted` is ready.
async fn suspend(system: &System, guest: &Guest, domain: DomId, interrupted: impl Future<Output = ()>) -> Result<()> {
    let node = format!("/local/domain/{}/control/shutdown", domain.0);
    system.store.write(&node, "suspend").context("xenstore")?;
    let look = || match domain_info::of(domain).map(|info| domain_info::shutdown_code(&info)) {
        None => Some(Err(anyhow!("it was destroyed meanwhile"))),
        Some(None) => None,
        Some(Some(SHUTDOWN_SUSPEND)) => Some(Ok(())),
        Some(Some(other)) => Some(Err(anyhow!("it has ended instead ({})", End::Shutdown(other).name()))),
    };
    let is_read = || system.store.read(&node).is_ok_and(|asked| asked != "suspend");
    let stopped = task::timeout(PATIENCE, system.ends.until(look));
    let is_interrupted = match task::select(stopped, interrupted).await {
        task::Either::First(Ok(stopped)) => return stopped,
        task::Either::First(Err(_)) => false,
        // One that is about to suspend itself cannot be called back: it goes on when it has.
        task::Either::Second(()) if is_read() => task::timeout(PATIENCE, system.ends.until(look)).await.is_ok(),
        task::Either::Second(()) => true,
    };
    let is_read = is_read();
    if !is_read {
        // Nobody shall find it later.
        system.store.write(&node, "").context("xenstore")?;
    }
    ensure!(!is_interrupted, INTERRUPTED);
    let name = guest.name();
    let seconds = PATIENCE / time::SECOND;
    if is_read {
        bail!("`{name}` has read that it should suspend itself, and has not in {seconds} s");
    }
    bail!("`{name}` does not look whether it should suspend itself (in {seconds} s)")
}

/// Why something ends that a person ended.
const INTERRUPTED: &str = "interrupted";

/// Lets a guest that has suspended itself go on where it is.
fn go_on(domain: DomId) -> Result<()> {
    // What the guest's call answers: that the suspend was called off.
    let mut context = asked("show its registers", control::vcpu_context(domain, 0))?;
    context.user_regs.rax = 1;
    asked("set its registers", control::set_vcpu_context(domain, 0, &context))?;
    asked("let it go on", control::resume_domain(domain))
}

/// Restores a guest from a disk of the machine; it is paused.
///
/// # Errors
/// There is no saved guest on the disk, or it is damaged; a guest of its name exists; the machine's memory is too
/// little, or one of the guest's disks is not there.
pub async fn restore(system: &System, target: &str) -> Result<Rc<Guest>> {
    let begun = time::now();
    let mut source = disk::Reader::new(system.disks.open_known(target, false)?)?;
    let text = envelope::open(&mut source).await.with_context(|| format!("`{target}`"))?;
    let config = config::from_json(&text).with_context(|| format!("the configuration on `{target}`"))?;
    let fill = async |shell: &Shell| {
        let mut receiver = Receiver::new(shell, "restoring")?;
        let built = receiver.receive(&mut source).await?;
        envelope::close(&mut source).await?;
        receiver.keep();
        Ok(built)
    };
    let restored = lifecycle::restore(system, config, fill).await;
    let guest = restored.with_context(|| format!("the guest on `{target}`"))?;
    let took = seconds(time::now().saturating_sub(begun));
    println!("restored: `{}` as domain {} in {took}", guest.name(), guest.domain.get().0);
    Ok(guest)
}

/// A new domain, filled from a stream; whatever fails, nothing of it stays.
async fn receive(shell: &Shell, source: &mut impl Source) -> Result<Built> {
    let mut receiver = Receiver::new(shell, "restoring")?;
    let built = receiver.receive(source).await?;
    receiver.keep();
    Ok(built)
}

/// Makes guests that are as a running one is at this moment, with names, UUIDs and addresses of their own. They are
/// paused; the one that they are made from goes on.
///
/// # Errors
/// As [`save`] and [`restore`]; a disk that the guest writes cannot be another guest's as well. Those that were made
/// before stay.
pub async fn clone(system: &Rc<System>, guest: &Rc<Guest>, count: usize) -> Result<Vec<Rc<Guest>>> {
    let domain = guest.domain.get();
    judge(system, guest)?;
    if let Some(disk) = guest.config.disks.iter().find(|disk| disk.writable) {
        bail!("`{}` writes to its disk {}, which no other guest can have then", guest.name(), disk.vdev);
    }
    if !guest.begins_to_be_saved() {
        bail!("`{}` does not run, or is being saved already", guest.name());
    }
    let mut clones = Vec::new();
    let made = match suspend(system, guest, domain, future::pending()).await {
        Ok(()) => make_clones(system, guest, count, &mut clones).await,
        Err(why) => Err(why),
    };
    let gone_on = leave_saving(system, guest, domain).await;
    made.and(gone_on).map(|()| clones)
}

async fn make_clones(system: &Rc<System>, guest: &Rc<Guest>, count: usize, clones: &mut Vec<Rc<Guest>>) -> Result<()> {
    let sender = Sender::new(guest.domain.get())?;
    while clones.len() < count {
        let is_free = |name: &String| system.guests.find(name).is_none();
        let name = (1..).map(|number| format!("{}-{number}", guest.name())).find(is_free).unwrap_or_default();
        let mut config = GuestConfig { name, uuid: None, ..guest.config.clone() };
        config.vifs.iter_mut().for_each(|vif| vif.mac = None);
        let pipe = Pipe::default();
        let send = async {
            let sent = sender.send(&mut &pipe, &mut Progress::quiet()).await;
            pipe.close();
            sent
        };
        let receive = async {
            let received = lifecycle::restore(system, config, async |shell| receive(shell, &mut &pipe).await).await;
            pipe.close();
            received
        };
        let (sent, received) = task::join(send, receive).await;
        // Who receives knows better what was wrong, but for what the sender could not read.
        let clone = received.map_err(|why| sent.err().unwrap_or(why))?;
        println!("cloned: `{}` as domain {}", clone.name(), clone.domain.get().0);
        clones.push(clone);
    }
    Ok(())
}

/// Lets a guest go on that suspended itself to be moved, and of which nobody could tell whether it was.
///
/// # Errors
/// It does not wait for that; what the hypervisor refuses.
pub async fn resume(system: &Rc<System>, guest: &Guest) -> Result<()> {
    ensure!(guest.stage() == Stage::Saving, "`{}` does not stand still behind a move", guest.name());
    leave_saving(system, guest, guest.domain.get()).await
}
