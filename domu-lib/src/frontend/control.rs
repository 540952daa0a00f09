//! What the toolstack asks a guest to do: power off, start again.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::{frontend::control, println, store::Store, task};
//!
//! task::run(async {
//!     let Ok(store) = Store::connect() else { return };
//!     // Until `xl shutdown` or `xl reboot`.
//!     println!("{:?}", control::shutdown_request(&store).await);
//! });
//! ```

use oxen_abi::errno::Errno;

use crate::sched::Reason;
use crate::store::{Error, Store};

const PATH: &str = "control/shutdown";

/// Says which requests this guest follows, and waits for one; it is acknowledged before this returns.
///
/// # Errors
/// The store's.
pub async fn shutdown_request(store: &Store) -> Result<Reason, Error> {
    for feature in ["control/feature-poweroff", "control/feature-reboot"] {
        match store.write(feature, "1").await {
            // A toolstack that does not let its guests say so.
            Ok(()) | Err(Error::Refused(Errno::Acces)) => {}
            Err(error) => return Err(error),
        }
    }
    let watch = store.watch(PATH).await?;
    loop {
        let request = match store.read(PATH).await {
            Ok(request) => request,
            Err(Error::Refused(_)) => "".into(),
            Err(error) => return Err(error),
        };
        if let Some(reason) = reason(&request) {
            // An empty value tells the toolstack that the request was seen.
            let _ = store.write(PATH, "").await;
            return Ok(reason);
        }
        watch.changed().await.ok_or(Error::Protocol)?;
    }
}

/// What a request's text means, where it is one that this runtime follows.
fn reason(request: &str) -> Option<Reason> {
    match request {
        "poweroff" | "halt" => Some(Reason::Poweroff),
        "reboot" => Some(Reason::Reboot),
        _ => None,
    }
}

/// Follows the toolstack's requests for as long as the guest lives: to be spawned.
pub async fn obey(store: Store) {
    if let Ok(reason) = shutdown_request(&store).await {
        crate::sched::shutdown(reason);
    }
}
