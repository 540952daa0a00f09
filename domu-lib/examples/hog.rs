//! A guest that wants memory: it takes pages, fills them, checks that they keep what it wrote, and follows its memory
//! target in both directions.
//!
//! Options: `step=MiB` that it takes each quarter of a second (4), `limit=MiB` that it wants in the end (all there is),
//! `use=PERCENT` of them that it looks at each second (100), `stop=SECONDS` after which it lets go of all that it holds
//! and takes no more (never), `seconds=N` after which it powers off (never).
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use oxen_domu_lib::frontend::{balloon, control};
use oxen_domu_lib::memory::{Page, pool};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::time::{self, SECOND};
use oxen_domu_lib::{entry, println, start_info, task};

entry!(run);

/// Pages of a MiB.
const MIB: u64 = 256;

fn run() {
    task::run(async {
        let store = match Store::connect() {
            Ok(store) => Some(store),
            Err(error) => {
                println!("hog: {error}; there is no target to follow");
                None
            }
        };
        if let Some(store) = &store {
            task::spawn(control::obey(store.clone()));
            task::spawn(balloon::follow(store.clone()));
        }
        eat(store).await;
    });
}

fn option(name: &str, default: u64) -> u64 {
    start_info::option(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Takes memory while there is some, gives it back while the target is lower than what the domain has.
async fn eat(store: Option<Store>) {
    let step = option("step", 4) * MIB;
    let limit = option("limit", u64::MAX / MIB) * MIB;
    let after = |name| time::now().saturating_add(option(name, u64::MAX / SECOND).saturating_mul(SECOND));
    let (stop, end) = (after("stop"), after("seconds"));
    let mut held = Held { used: option("use", 100), ..Held::default() };
    let mut round = 0u64;
    while time::now() < end {
        let (has, target) = (balloon::pages(), target(store.as_ref()).await);
        if time::now() >= stop {
            held.release(u64::MAX);
        } else if let Some(excess) = target.and_then(|target| has.checked_sub(target)).filter(|&excess| excess > 0) {
            // The balloon gives what is free; the rest has to come from what is held.
            let spare = pool::free_pages().saturating_sub(balloon::RESERVE);
            held.release(excess.saturating_sub(spare as u64));
        } else {
            held.grow(step.min(limit.saturating_sub(held.pages.len() as u64)));
        }
        if round.is_multiple_of(4) {
            held.report(has, target);
        }
        round += 1;
        time::sleep(SECOND / 4).await;
    }
    held.report(balloon::pages(), target(store.as_ref()).await);
}

/// The target in pages, where there is one.
async fn target(store: Option<&Store>) -> Option<u64> {
    store?.read_number("memory/target").await.ok().map(|kib| kib / 4)
}

/// The pages that are held, each stamped with its own number.
#[derive(Default)]
struct Held {
    pages: Vec<Page>,
    /// Percent of them that are looked at.
    used: u64,
    spoilt: u64,
}

impl Held {
    fn grow(&mut self, count: u64) {
        for _ in 0..count {
            // What the balloon may need for page tables stays.
            if pool::free_pages() <= balloon::RESERVE * 2 {
                return;
            }
            let Some(page) = Page::zeroed() else { return };
            for word in page.words64() {
                word.store(page.pfn().raw(), Ordering::Relaxed);
            }
            self.pages.push(page);
        }
    }

    fn release(&mut self, count: u64) {
        for _ in 0..count {
            let Some(page) = self.pages.pop() else { return };
            self.check(&page);
        }
    }

    fn check(&mut self, page: &Page) {
        let kept = page.words64().iter().all(|word| word.load(Ordering::Relaxed) == page.pfn().raw());
        self.spoilt += u64::from(!kept);
    }

    fn report(&mut self, has: u64, target: Option<u64>) {
        let pages = core::mem::take(&mut self.pages);
        let used = pages.len() as u64 * self.used.min(100) / 100;
        pages.iter().take(used as usize).for_each(|page| self.check(page));
        self.pages = pages;
        let target = target.unwrap_or(has);
        println!(
            "hog: holds {} MiB, {} MiB free, domain has {} MiB, target {} MiB, {} pages spoilt",
            self.pages.len() as u64 / MIB,
            pool::free_pages() as u64 / MIB,
            has / MIB,
            target / MIB,
            self.spoilt
        );
    }
}
