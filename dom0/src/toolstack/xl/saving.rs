//! Commands that save and restore guests.

use super::{Call, Outcome, guest};
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
