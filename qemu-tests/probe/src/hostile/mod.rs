//! A guest that means harm, or one that works meanwhile: `do=NAME` on the command line, for `seconds=N` (for good
//! without). It is there to find out whether others notice.

mod backend;
mod disks;
mod journal;
mod linear;
mod residue;
mod store;
mod strings;
mod victim;
mod work;

use oxen_domu_lib::store::Store;
use oxen_domu_lib::{println, start_info, task, time};

/// When to end.
fn deadline() -> u64 {
    let seconds = start_info::option("seconds").and_then(|text| text.parse().ok());
    seconds.map_or(u64::MAX, |seconds: u64| time::now().saturating_add(seconds.saturating_mul(time::SECOND)))
}

/// Takes all of the processor that it gets, without the pauses that some emulators take long for.
fn count(until: u64) {
    while time::now() < until {
        for number in 0..100_000 {
            core::hint::black_box(number);
        }
    }
}

/// Does what the command line names.
pub(crate) fn run(what: &str) {
    if what == "residue" {
        return residue::look();
    }
    if what == "linear" {
        return linear::look();
    }
    let until = deadline();
    task::run(async {
        let Ok(store) = Store::connect() else {
            println!("probe: there is no store");
            return;
        };
        match what {
            "strings" => strings::flood(&store, until).await,
            "disks" => disks::flood(&store, until).await,
            "store" => store::flood(&store, until).await,
            "all" => {
                let others = task::join(disks::flood(&store, until), store::flood(&store, until));
                task::join(others, strings::flood(&store, until)).await;
            }
            "backend" => backend::serve(&store, until).await,
            "victim" => victim::use_disk(&store, until).await,
            "journal" => journal::keep(&store).await,
            "work" => work::work(&store, until).await,
            "nodes" => work::work_with_nodes(&store, until).await,
            "count" => count(until),
            _ => println!("probe: `{what}` is nothing it can do"),
        }
    });
}
