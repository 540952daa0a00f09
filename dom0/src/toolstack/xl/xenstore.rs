//! Commands that look into xenstore.

use alloc::{string::String, vec::Vec};
use core::future::Future;
use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;

use anyhow::{Context, Result};
use oxen_domu_lib::{println, task};

use super::{Call, Outcome, usage};
use crate::guest_text::escaped;
use crate::store::{
    access::Permissions,
    listing::{Listing, Style},
    path::Path,
    server::LocalWatch,
    wire,
};

/// `xenstore-ls`.
pub(super) async fn ls(mut call: Call) -> Outcome {
    let style = Style { full: call.flag("-f"), permissions: call.flag("-p") };
    let top = match call.args.as_slice() {
        [] => "/",
        [path] => path,
        _ => return Err(usage("xenstore-ls")),
    };
    let listing = call.system.store.with(|store| Listing::new(store.tree(), &Path::resolve(top, 0)?, style));
    let mut listing = listing.with_context(|| String::from(top))?;
    while let Some(line) = call.system.store.with(|store| listing.next(store.tree())) {
        println!("{line}");
        // Guests' nodes are many, and their requests come in between.
        task::yield_now().await;
    }
    Ok(())
}

/// `xenstore-read`: values escaped, or with `-R` as they are.
pub(super) async fn read(mut call: Call) -> Outcome {
    let raw = call.flag("-R");
    if call.args.is_empty() {
        return Err(usage("xenstore-read"));
    }
    for path in &call.args {
        let value: Result<_, wire::Error> =
            call.system.store.with(|store| Ok(store.read(0, 0, &Path::resolve(path, 0)?)?.value.clone()));
        let value = value.with_context(|| path.clone())?;
        if raw {
            call.system.terminal.show(&value);
            println!();
        } else {
            println!("{}", escaped(&value));
        }
    }
    Ok(())
}

/// `xenstore-write`.
pub(super) async fn write(call: Call) -> Outcome {
    let (pairs, rest) = call.args.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(usage("xenstore-write"));
    }
    pairs.iter().try_for_each(|[path, value]| call.system.store.write(path, value).with_context(|| path.clone()))
}

/// `xenstore-rm`.
pub(super) async fn rm(call: Call) -> Outcome {
    if call.args.is_empty() {
        return Err(usage("xenstore-rm"));
    }
    for path in &call.args {
        call.system.store.read(path).with_context(|| path.clone())?;
        call.system.store.remove(path).with_context(|| path.clone())?;
    }
    Ok(())
}

/// `xenstore-chmod`: the first of the permissions names the owner and what everybody may do.
pub(super) async fn chmod(call: Call) -> Outcome {
    let [path, entries @ ..] = call.args.as_slice() else { return Err(usage("xenstore-chmod")) };
    let permissions = Permissions::parse(entries.iter().map(String::as_str)).map_err(|_| usage("xenstore-chmod"))?;
    let store = &call.system.store;
    store.with(|store| store.set_permissions(0, 0, &Path::resolve(path, 0)?, permissions)).with_context(|| path.clone())
}

/// `xenstore-list`.
pub(super) async fn list(call: Call) -> Outcome {
    let (system, [path]) = call.exactly("xenstore-list")?;
    for name in system.store.list(&path).with_context(|| path.clone())? {
        println!("{name}");
    }
    Ok(())
}

/// `xenstore-watch`: as many changes as are asked for, or until a key is pressed.
pub(super) async fn watch(mut call: Call) -> Outcome {
    let mut left = u64::MAX;
    if call.flag("-n") {
        let count = if call.args.is_empty() { String::new() } else { call.args.remove(0) };
        left = count.parse().map_err(|_| usage("xenstore-watch"))?;
    }
    if call.args.is_empty() {
        return Err(usage("xenstore-watch"));
    }
    let open = |path: &String| call.system.store.watch(path).with_context(|| path.clone());
    let watches: Vec<LocalWatch> = call.args.iter().map(open).collect::<Result<_>>()?;
    while left > 0 {
        match task::select(any(&watches), call.system.terminal.byte()).await {
            task::Either::First(path) => println!("{path}"),
            task::Either::Second(_) => break,
        }
        left -= 1;
    }
    Ok(())
}

/// The next change of any of the watches.
async fn any(watches: &[LocalWatch]) -> String {
    poll_fn(|context| {
        for watch in watches {
            if let Poll::Ready(path) = pin!(watch.next()).poll(context) {
                return Poll::Ready(path);
            }
        }
        Poll::Pending
    })
    .await
}
