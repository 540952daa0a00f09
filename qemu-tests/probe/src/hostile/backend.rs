//! A guest that plays a disk's backend and lies. For each frontend that dom0 lets it serve (`backend/vbd/GUEST/ID` in
//! its own home) it goes through the handshake, with numbers that may be senseless (with `sizes`, those of sectors are
//! not), serves the ring for a while, answers what was not asked, writes anything into the ring, and
//! ends the connection in any state.

use alloc::format;
use alloc::string::{String, ToString};
use core::sync::atomic::{AtomicU32, Ordering};

use oxen_abi::domid::DomId;
use oxen_domu_lib::event::Port;
use oxen_domu_lib::grant::{Access, GrantMapping, Words};
use oxen_domu_lib::store::Store;
use oxen_domu_lib::{println, start_info, task, time};

use crate::fuzz::random::Random;

/// Words of the ring: requests made, answers given, the first slot; words of a slot; slots.
const REQUESTS: usize = 0;
const ANSWERS: usize = 2;
const FIRST_SLOT: usize = 16;
const SLOT_WORDS: usize = 28;
const SLOTS: u32 = 32;

/// How long it waits for a frontend's next state, in looks of a hundredth of a second.
const LOOKS: u32 = 100;
const LOOK: u64 = 10 * time::MILLISECOND;

/// Numbers that a backend may say.
const NUMBERS: [&str; 10] =
    ["0", "1", "511", "512", "8192", "4294967296", "36028797018963968", "18446744073709551615", "-1", "\u{fe}no"];

/// Serves whoever there is to serve until the time is over.
pub(crate) async fn serve(store: &Store, until: u64) {
    let mut random = Random::of(time::now(), 0);
    let mut rounds = 0_u64;
    while time::now() < until {
        for guest in store.list("backend/vbd").await.unwrap_or_default() {
            for id in store.list(&format!("backend/vbd/{guest}")).await.unwrap_or_default() {
                let back = format!("backend/vbd/{guest}/{id}");
                rounds += u64::from(connection(store, &back, &guest, &mut random).await.is_some());
            }
        }
        time::sleep(LOOK).await;
    }
    println!("probe: served {rounds} connections");
}

/// One connection, from the offer to its end; `None` where the frontend does not come.
async fn connection(store: &Store, back: &str, guest: &str, random: &mut Random) -> Option<()> {
    let front = store.read(&format!("{back}/frontend")).await.ok()?;
    let says = |name: &'static str, value: String| async move {
        let _ = store.write(&format!("{back}/{name}"), &value).await;
    };
    let state = |wanted: &'static [&'static str]| {
        let path = format!("{front}/state");
        async move {
            for _ in 0..LOOKS {
                let is = store.read(&path).await.unwrap_or_default();
                if wanted.contains(&is.as_str()) {
                    return Some(());
                }
                time::sleep(LOOK).await;
            }
            None
        }
    };
    for name in ["feature-max-indirect-segments", "feature-flush-cache", "feature-discard", "feature-persistent"] {
        says(name, random.of_list(&NUMBERS).to_string()).await;
    }
    says("state", "2".into()).await;
    state(&["3", "4"]).await?;
    let domain = DomId(guest.parse().ok()?);
    let number = |name: &'static str| {
        let path = format!("{front}/{name}");
        async move { store.read(&path).await.ok()?.parse::<u32>().ok() }
    };
    let reference = match number("ring-ref").await {
        Some(reference) => reference,
        None => number("ring-ref0").await?,
    };
    let ring = GrantMapping::map(domain, &[reference], Access::ReadWrite).ok()?;
    let port = Port::bind_interdomain(domain, number("event-channel").await?).ok()?;
    // Linux 6.1 does not look at a sector's size, and its kernel dies of one that is larger than a page.
    let lies = random.one_in(4) && start_info::option("sizes").is_none();
    let sense = |random: &mut Random, sense: &str| {
        if lies { random.of_list(&NUMBERS).to_string() } else { sense.to_string() }
    };
    says("sectors", sense(random, "8192")).await;
    says("sector-size", sense(random, "512")).await;
    says("info", sense(random, "0")).await;
    says("state", "4".into()).await;
    for _ in 0..random.below(60) {
        lie(ring.words32(), random);
        port.notify();
        time::sleep(2 * time::MILLISECOND).await;
        task::yield_now().await;
    }
    says("state", random.of_list(&["5", "6", "1", "4", "7", "none", ""]).to_string()).await;
    time::sleep(LOOK).await;
    // In the end it lets go, so that there is another connection.
    says("state", "5".into()).await;
    says("state", "6".into()).await;
    state(&["6", "1"]).await
}

/// Does something to the ring: most often what a backend does, so that there is something to lie about.
fn lie(ring: &[AtomicU32], random: &mut Random) {
    let word = |at: usize| ring.get(at);
    let put = |at: usize, value: u32| {
        if let Some(word) = word(at) {
            word.store(value, Ordering::SeqCst);
        }
    };
    let get = |at: usize| word(at).map_or(0, |word| word.load(Ordering::SeqCst));
    match random.below(24) {
        0 => put(random.below(4) as usize, random.word() as u32),
        1 => put(ANSWERS, get(REQUESTS).wrapping_add(random.below(40) as u32)),
        2 => put(random.below(1024) as usize, random.word() as u32),
        3 => {
            // An answer to anything.
            let slot = FIRST_SLOT + (get(ANSWERS) % SLOTS) as usize * SLOT_WORDS;
            (0..4).for_each(|at| put(slot + at, random.word() as u32));
            put(ANSWERS, get(ANSWERS).wrapping_add(1));
        }
        4 => {}
        _ => {
            // Answers in their order what is there: the number stands at the third word of a request, and at the first
            // of an answer.
            while get(ANSWERS) != get(REQUESTS) && get(REQUESTS).wrapping_sub(get(ANSWERS)) <= SLOTS {
                let slot = FIRST_SLOT + (get(ANSWERS) % SLOTS) as usize * SLOT_WORDS;
                let id = [get(slot + 2), get(slot + 3)];
                put(slot, id[0]);
                put(slot + 1, id[1]);
                let status = pick_status(random);
                put(slot + 2, u32::from(status) << 16);
                put(ANSWERS, get(ANSWERS).wrapping_add(1));
            }
        }
    }
}

/// Success most often, else a failure, a refusal, or what means nothing.
fn pick_status(random: &mut Random) -> u16 {
    match random.below(8) {
        0 => u16::MAX,
        1 => u16::MAX - 1,
        2 => random.word() as u16,
        _ => 0,
    }
}
