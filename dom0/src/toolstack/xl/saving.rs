//! Commands that save and restore guests.

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
