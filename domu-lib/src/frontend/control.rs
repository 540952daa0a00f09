//! What the toolstack asks a guest to do: power off, start again, suspend itself to be saved.
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
use crate::suspend::{Outcome, Unable, suspend_now};
use crate::task::{self, Elapsed};
use crate::time::SECOND;

const PATH: &str = "control/shutdown";

/// Says which requests this guest follows, and waits for one that ends it, acknowledged before this returns. A request
/// to suspend is followed meanwhile ([`suspend`](crate::suspend)).
///
/// # Errors
/// The store's.
pub async fn shutdown_request(store: &Store) -> Result<Reason, Error> {
    say_features(store).await?;
    let watch = store.watch(PATH).await?;
    loop {
        match take(store).await? {
            Some(Request::End(reason)) => return Ok(reason),
            Some(Request::Suspend) => match suspend(store).await {
                Ok(Outcome::CalledOff) => {}
                Ok(Outcome::Restored) => say_features(store).await?,
                Err(why) => crate::println!("this guest cannot be saved now: {why}"),
            },
            None => watch.changed().await.ok_or(Error::Protocol).map(|_| ())?,
        }
    }
}

async fn say_features(store: &Store) -> Result<(), Error> {
    // Who follows one request and says nothing of another is taken not to follow that: the one that may come at once
    // comes first.
    for feature in ["control/feature-suspend", "control/feature-poweroff", "control/feature-reboot"] {
        match store.write(feature, "1").await {
            // A toolstack that does not let its guests say so.
            Ok(()) | Err(Error::Refused(Errno::Acces)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    End(Reason),
    Suspend,
}

/// Takes a request that this runtime follows, if there is one, and acknowledges it: an empty value tells the toolstack
/// that it was seen. Both are one step, so that a toolstack that takes its request back knows whether it came too late.
async fn take(store: &Store) -> Result<Option<Request>, Error> {
    loop {
        let transaction = store.begin().await?;
        let request = match transaction.read(PATH).await {
            Ok(text) => request(&text),
            Err(Error::Refused(_)) => None,
            Err(error) => return Err(error),
        };
        if request.is_none() {
            return Ok(None);
        }
        // A toolstack that does not let its guests acknowledge is not told.
        let _ = transaction.write(PATH, "").await;
        match transaction.commit().await {
            Err(Error::Refused(Errno::Again)) => {}
            Err(Error::Protocol) => return Err(Error::Protocol),
            Ok(()) | Err(Error::Refused(_)) => return Ok(request),
        }
    }
}

/// What a request's text means, where it is one that this runtime follows.
fn request(text: &str) -> Option<Request> {
    match text {
        "poweroff" | "halt" => Some(Request::End(Reason::Poweroff)),
        "reboot" => Some(Request::End(Reason::Reboot)),
        "suspend" => Some(Request::Suspend),
        _ => None,
    }
}

/// How long the store may take to answer what it was asked, in nanoseconds: less than toolstacks wait for a guest,
/// which nobody would save who suspended itself later.
const PATIENCE: u64 = 20 * SECOND;

/// Suspends the guest between two requests to the store.
async fn suspend(store: &Store) -> Result<Outcome, Unable> {
    let quiet = task::timeout(PATIENCE, store.quiet()).await.map_err(|Elapsed| Unable::Store)?;
    let outcome = suspend_now()?;
    if outcome == Outcome::Restored {
        quiet.start_anew().await;
    }
    Ok(outcome)
}

/// Follows the toolstack's requests for as long as the guest lives: to be spawned.
pub async fn obey(store: Store) {
    if let Ok(reason) = shutdown_request(&store).await {
        crate::sched::shutdown(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_that_toolstacks_write() {
        let end = |reason| Some(Request::End(reason));
        assert_eq!(["poweroff", "halt"].map(request), [end(Reason::Poweroff); 2]);
        assert_eq!(request("reboot"), end(Reason::Reboot));
        assert_eq!(request("suspend"), Some(Request::Suspend));
        assert_eq!(["", "crash", "Suspend"].map(request), [None; 3]);
    }
}
