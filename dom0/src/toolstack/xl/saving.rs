//! Commands that save, restore and move guests.

use alloc::format;
use core::future::{self, Future};

use anyhow::Context;
use oxen_domu_lib::ip::smoltcp::wire::Ipv4Address;

use super::{Call, Outcome, guest, usage};
use crate::toolstack::lifecycle;
use crate::toolstack::save::{self, Afterwards};

/// `save`.
pub(super) async fn save(mut call: Call) -> Outcome {
    let afterwards = match (call.flag("-p"), call.flag("-c")) {
        (true, _) => Afterwards::Pause,
        (false, true) => Afterwards::Run,
        (false, false) => Afterwards::End,
    };
    let (system, [name, disk]) = call.exactly("save")?;
    let guest = guest(&system, &name)?;
    save::save(&system, &guest, &disk, afterwards).await
}

/// `restore`; nobody waits for the guest's end here, which is what `-e` asks for.
pub(super) async fn restore(mut call: Call) -> Outcome {
    let [paused, _] = ["-p", "-e"].map(|flag| call.flag(flag));
    let (system, [disk]) = call.exactly("restore")?;
    let guest = save::restore(&system, &disk).await?;
    if paused { Ok(()) } else { lifecycle::unpause(guest.domain.get()) }
}

/// `clone`.
pub(super) async fn clone(mut call: Call) -> Outcome {
    let paused = call.flag("-p");
    let count = if call.args.len() == 2 { call.args.pop() } else { None };
    let count: usize = count.map_or(Ok(1), |text| text.parse()).map_err(|_| usage("clone"))?;
    let (system, guest) = call.guest("clone")?;
    for clone in save::clone(&system, &guest, count).await? {
        if !paused {
            lifecycle::unpause(clone.domain.get())?;
        }
    }
    Ok(())
}

/// What a person types to end a command.
const CTRL_C: u8 = 3;

/// Waits until somebody at the terminal interrupts the command.
fn interruption(call: &Call) -> impl Future<Output = ()> + use<> {
    let (system, is_interactive) = (call.system.clone(), call.interactive);
    async move {
        if !is_interactive {
            return future::pending().await;
        }
        while system.terminal.byte().await != CTRL_C {}
    }
}

/// `migrate`.
pub(super) async fn migrate(call: Call) -> Outcome {
    let interrupted = interruption(&call);
    let (system, [name, host]) = call.exactly("migrate")?;
    let guest = guest(&system, &name)?;
    let to: Ipv4Address = host.parse().ok().with_context(|| format!("`{host}` is no address (a.b.c.d)"))?;
    save::migrate::migrate(&system, &guest, to, interrupted).await
}

/// `receive`; guests come one at a time.
pub(super) async fn receive(mut call: Call) -> Outcome {
    let paused = call.flag("-p");
    let interrupted = interruption(&call);
    let (system, []) = call.exactly("receive")?;
    save::migrate::receive(&system, paused, interrupted).await
}

/// `resume`.
pub(super) async fn resume(call: Call) -> Outcome {
    let (system, guest) = call.guest("resume")?;
    save::resume(&system, &guest).await
}
