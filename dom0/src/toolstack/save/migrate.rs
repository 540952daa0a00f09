//! A guest that moves to another machine, at both its ends. Who has it when is [`crate::saved::talk`]'s to say.

use alloc::{format, rc::Rc, string::String};
use core::future::Future;
use core::pin::{Pin, pin};

use anyhow::{Context, Error, Result, anyhow, bail};
use oxen_abi::sched::SHUTDOWN_SUSPEND;
use oxen_domu_lib::ip::smoltcp::wire::Ipv4Address;
use oxen_domu_lib::{println, task, time};
use x86_64::instructions::random::RdRand;

use super::live::Live;
use super::receiver::Receiver;
use super::{INTERRUPTED, judge, leave_saving, seconds, suspend};
use crate::network::{Network, connection::Connection};
use crate::saved::sealed::{Key, Sealed};
use crate::saved::talk::{Fate, Giver, Taker};
use crate::saved::{config, envelope};
use crate::toolstack::build::shell::Shell;
use crate::toolstack::guest::Guest;
use crate::toolstack::stage::End;
use crate::toolstack::system::System;
use crate::toolstack::{ends, lifecycle};

/// Where guests are waited for.
const PORT: u16 = 8002;
/// How long who connects may take to show that it has the key, in nanoseconds.
const GREETING: u64 = 10 * time::SECOND;
/// How long the last word may take that gives a guest away, or the answer, in nanoseconds.
const LAST_WORD: u64 = 30 * time::SECOND;
/// How long a last word may take on its way, in nanoseconds.
const FAREWELL: u64 = 5 * time::SECOND;
/// Who connects without the key is told of so often.
const STRANGERS: usize = 8;

/// What two machines need to have to move guests.
fn means(system: &System) -> Result<(&Network, Key)> {
    let network = system.network.as_ref().context("dom0 has no address: its command line says none (ip=)")?;
    let key = system.options.migration_key.as_deref();
    let key = key.context("dom0 has no key that other machines share (migration-key=), and nothing goes plain")?;
    Ok((network, Key::parse(key)?))
}

/// Fills bytes from the processor's own source.
fn random(bytes: &mut [u8]) -> bool {
    let Some(source) = RdRand::new() else { return false };
    bytes.chunks_mut(8).all(|part| {
        // It may have nothing for a moment.
        let Some(word) = (0..16).find_map(|_| source.get_u64()) else { return false };
        part.iter_mut().zip(word.to_le_bytes()).for_each(|(to, from)| *to = from);
        true
    })
}

/// Waits for something, unless that is interrupted before.
async fn unless<T>(
    interrupted: Pin<&mut impl Future<Output = ()>>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match task::select(work, interrupted).await {
        task::Either::First(outcome) => outcome,
        task::Either::Second(()) => bail!(INTERRUPTED),
    }
}

/// Moves a guest to the machine that waits for one at an address. Until it is given away, whatever fails or
/// interrupts this, the guest goes on here.
///
/// # Errors
/// The guest cannot be moved, the other machine is not there or refuses, the line breaks. If that is so at the very
/// last word, the guest stays as it is, suspended, for nobody can tell here whether it runs there.
pub async fn migrate(
    system: &Rc<System>,
    guest: &Rc<Guest>,
    to: Ipv4Address,
    interrupted: impl Future<Output = ()>,
) -> Result<()> {
    let (network, key) = means(system)?;
    let (name, domain) = (guest.name(), guest.domain.get());
    judge(system, guest)?;
    if let Some(disk) = guest.config.disks.iter().find(|disk| disk.writable) {
        bail!("`{name}` writes to its disk {}, which stays here", disk.vdev);
    }
    let begun = time::now();
    let mut interrupted = pin!(interrupted);
    let greet = async {
        let connection = Connection::open(network, to, PORT).await?;
        let mut giver = Giver::begin(Sealed::call(connection, &key, random).await?).await?;
        envelope::begin(&mut giver, &config::to_json(&guest.config, &name, &guest.uuid)?).await?;
        giver.ready().await.map(|()| giver)
    };
    let mut giver = unless(interrupted.as_mut(), greet).await.with_context(|| format!("{to}"))?;
    if !guest.begins_to_be_saved() {
        let why = anyhow!("`{name}` does not run, or is being saved already");
        say_no(&mut giver, &why).await;
        return Err(why);
    }
    let (stopped, (rounds, pages)) = match send(system, guest, &mut giver, interrupted).await {
        Ok(sent) => sent,
        Err(why) => {
            let gone_on = leave_saving(system, guest, domain).await;
            say_no(&mut giver, &why).await;
            return Err(gone_on.err().unwrap_or_else(|| why.context(format!("`{name}` goes on here"))));
        }
    };
    let (fate, why) = task::timeout(LAST_WORD, giver.give())
        .await
        .unwrap_or_else(|_| (Fate::Unknown, Some(anyhow!("no answer came in {} s", LAST_WORD / time::SECOND))));
    let (stood, took) = (time::now().saturating_sub(stopped), time::now().saturating_sub(begun));
    match fate {
        Fate::There => {
            ends::end_saved(system, guest, End::Shutdown(SHUTDOWN_SUSPEND)).await;
            println!(
                "moved: `{name}` runs at {to}, after {} in {rounds} rounds ({pages} pages); it stood still for {}",
                seconds(took),
                seconds(stood)
            );
            Ok(())
        }
        Fate::Here => {
            leave_saving(system, guest, domain).await?;
            Err(why.unwrap_or_else(|| anyhow!("it was not taken")).context(format!("`{name}` goes on here")))
        }
        Fate::Unknown => {
            let why = why.unwrap_or_else(|| anyhow!("no answer came"));
            Err(why.context(format!(
                "whether `{name}` runs at {to} is not known; look there: if it does, `xl destroy {name}` ends what is \
                 left here; if it does not, `xl resume {name}` lets it go on"
            )))
        }
    }
}

/// Sends all of a guest; when it is there, it has suspended itself here. Returns since when, and what it took.
async fn send(
    system: &System,
    guest: &Guest,
    giver: &mut Giver<Sealed<Connection>>,
    mut interrupted: Pin<&mut impl Future<Output = ()>>,
) -> Result<(u64, (u32, usize))> {
    let domain = guest.domain.get();
    let mut live = Live::begin(domain)?;
    unless(interrupted.as_mut(), live.send_rounds(giver)).await?;
    suspend(system, guest, domain, interrupted.as_mut()).await?;
    let stopped = time::now();
    let rest = async {
        live.send_rest(giver).await?;
        envelope::end(giver).await?;
        giver.whole().await
    };
    unless(interrupted, rest).await?;
    Ok((stopped, live.sent()))
}

/// Says that nothing comes of it, as far as the other end still listens.
async fn say_no(giver: &mut Giver<Sealed<Connection>>, why: &Error) {
    let farewell = async {
        giver.refuse(why).await;
        giver.line().line().finish().await;
    };
    let _ = task::timeout(FAREWELL, farewell).await;
}

/// Waits for a guest from another machine, and takes it; it stays paused if `paused`.
///
/// # Errors
/// The guest cannot be had here, what came of it is no guest, the line broke, or the other machine kept it. Nothing of
/// it stays here then.
pub async fn receive(system: &Rc<System>, paused: bool, interrupted: impl Future<Output = ()>) -> Result<()> {
    let (network, key) = means(system)?;
    let mut interrupted = pin!(interrupted);
    println!("waiting for a guest at port {PORT}");
    let mut strangers = 0;
    loop {
        let connection = unless(interrupted.as_mut(), Connection::accept(network, PORT)).await?;
        let from = connection.peer().map_or_else(String::new, |peer| format!("{}", peer.addr));
        let greeting = async {
            let sealed = task::timeout(GREETING, Sealed::answer(connection, &key, random)).await;
            Ok(sealed.unwrap_or_else(|_| bail!("who called says nothing")))
        };
        match unless(interrupted.as_mut(), greeting).await? {
            Ok(sealed) => return take(system, sealed, paused, interrupted).await.with_context(|| from),
            Err(why) if strangers < STRANGERS => {
                strangers += 1;
                println!("{from} called, and is not listened to: {why:#}");
            }
            Err(_) => {}
        }
    }
}

/// Takes a guest from who has the key.
async fn take(
    system: &Rc<System>,
    sealed: Sealed<Connection>,
    paused: bool,
    mut interrupted: Pin<&mut impl Future<Output = ()>>,
) -> Result<()> {
    let begun = time::now();
    let mut taker = unless(interrupted.as_mut(), Taker::begin(sealed)).await?;
    let guest = match unless(interrupted.as_mut(), fill(system, &mut taker)).await {
        Ok(guest) => guest,
        Err(why) => return Err(turn_away(&mut taker, why).await),
    };
    let domain = guest.domain.get();
    let hold =
        async { task::timeout(LAST_WORD, taker.hold()).await.unwrap_or_else(|_| bail!("it was not given in time")) };
    if let Err(why) = unless(interrupted, hold).await {
        ends::destroy(system, &guest).await;
        return Err(turn_away(&mut taker, why).await);
    }
    // It is this machine's from here on, whatever becomes of the line.
    let runs = if paused { Ok(()) } else { lifecycle::unpause(domain) };
    for vif in guest.vifs.borrow().iter() {
        vif.driver.port.announce(vif.driver.mac);
    }
    let answer = async {
        let _ = taker.runs().await;
        taker.line().line().finish().await;
    };
    let _ = task::timeout(FAREWELL, answer).await;
    runs?;
    let took = seconds(time::now().saturating_sub(begun));
    println!("received: `{}` as domain {} in {took}", guest.name(), domain.0);
    Ok(())
}

/// Says why a guest is not taken, and waits until that has been heard; returns it.
async fn turn_away(taker: &mut Taker<Sealed<Connection>>, why: Error) -> Error {
    let farewell = async {
        taker.refuse(&why).await;
        taker.line().line().finish().await;
    };
    let _ = task::timeout(FAREWELL, farewell).await;
    why
}

/// A new guest, filled with what comes; it is paused.
async fn fill(system: &System, taker: &mut Taker<Sealed<Connection>>) -> Result<Rc<Guest>> {
    let text = envelope::open(taker).await?;
    let config = config::from_json(&text).context("its configuration")?;
    println!("`{}` comes, with {} MiB", config.name, config.memory);
    let fill = async |shell: &Shell| {
        let mut receiver = Receiver::new(shell, "receiving")?;
        taker.ready().await?;
        let built = receiver.receive(taker).await?;
        envelope::close(taker).await?;
        receiver.keep();
        Ok(built)
    };
    lifecycle::restore(system, config, fill).await
}
