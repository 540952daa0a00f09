//! Two machines that talk, over a line that is cut, or whose bytes are changed, anywhere.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use anyhow::bail;
use oxen_domu_lib::task;
use proptest::prelude::*;

use super::super::sealed::{Key, Sealed};
use super::*;

/// One direction.
#[derive(Default)]
struct Way {
    bytes: RefCell<VecDeque<u8>>,
    /// Bytes that have gone.
    gone: Cell<usize>,
    /// At which of them the line is cut, or a bit changed.
    cut: Cell<Option<usize>>,
    changed: Cell<Option<usize>>,
}

#[derive(Default)]
struct Cable {
    ways: [Way; 2],
    is_cut: Cell<bool>,
}

/// An end of a cable: what it writes goes the way of its number.
struct End(Rc<Cable>, usize);

impl Sink for End {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.0.is_cut.get() {
            bail!("the line is cut");
        }
        let way = &self.0.ways[self.1];
        for byte in bytes {
            let at = way.gone.replace(way.gone.get() + 1);
            // Who writes does not learn at once that nothing arrives.
            if self.0.is_cut.get() || way.cut.get() == Some(at) {
                self.0.is_cut.set(true);
                break;
            }
            let flip = u8::from(way.changed.get() == Some(at)) << (at % 8);
            way.bytes.borrow_mut().push_back(byte ^ flip);
        }
        Ok(())
    }
}

impl Source for End {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        for byte in bytes {
            let next = poll_fn(|_| match self.0.ways[1 - self.1].bytes.borrow_mut().pop_front() {
                Some(byte) => Poll::Ready(Some(byte)),
                None if self.0.is_cut.get() => Poll::Ready(None),
                None => Poll::Pending,
            });
            let Some(next) = next.await else { bail!("the line is cut") };
            *byte = next;
        }
        Ok(())
    }
}

/// Numbers that are the same in no two calls.
fn fill(bytes: &mut [u8]) -> bool {
    static STATE: AtomicU64 = AtomicU64::new(1);
    for byte in bytes {
        *byte = (STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) >> 56) as u8;
    }
    true
}

fn key(digit: char) -> Key {
    Key::parse(&String::from(digit).repeat(64)).unwrap()
}

/// Runs to the end, or until nothing goes on: who waits then is cut off.
fn run<T>(cable: &Cable, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for turn in 0..1_000_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        if turn % 1000 == 999 {
            cable.is_cut.set(true);
        }
    }
    panic!("it does not end")
}

/// Bytes of a word that has nothing behind it, as the line has it.
const LAST: usize = 2 + 1 + 16;
/// A guest of some bytes.
const GUEST: [u8; 40] = [0x5a; 40];

async fn give(end: End, key: &Key) -> (Fate, String) {
    let until_it_is_there = async {
        let mut giver = Giver::begin(Sealed::call(end, key, fill).await?).await?;
        giver.write(&GUEST[..10]).await?;
        giver.ready().await?;
        giver.write(&GUEST[10..]).await?;
        giver.whole().await?;
        Ok::<_, anyhow::Error>(giver)
    };
    match until_it_is_there.await {
        Ok(giver) => {
            let (fate, why) = giver.give().await;
            (fate, why.map_or_else(String::new, |why| format!("{why:#}")))
        }
        Err(why) => (Fate::Here, format!("{why:#}")),
    }
}

/// Whether the guest is taken.
async fn take(end: End, key: &Key, refuses: bool) -> (bool, String) {
    let until_it_is_mine = async {
        let mut taker = Taker::begin(Sealed::answer(end, key, fill).await?).await?;
        let mut came = [0; GUEST.len()];
        taker.read(&mut came[..10]).await?;
        taker.ready().await?;
        if refuses {
            let why = anyhow!("the machine has \x1b[2J1 MiB free");
            taker.refuse(&why).await;
            return Err(why);
        }
        taker.read(&mut came[10..]).await?;
        assert_eq!(came, GUEST, "what was damaged is not read");
        if let Err(why) = taker.hold().await {
            taker.refuse(&why).await;
            return Err(why);
        }
        Ok(taker)
    };
    match until_it_is_mine.await {
        Ok(mut taker) => {
            // That nobody hears it changes nothing.
            let _ = taker.runs().await;
            (true, String::new())
        }
        Err(why) => (false, format!("{why:#}")),
    }
}

/// What becomes of a guest; how the line is, `prepare` says.
fn moved(prepare: impl FnOnce(&Cable)) -> ((Fate, String), (bool, String), Rc<Cable>) {
    let cable = Rc::new(Cable::default());
    prepare(&cable);
    let both = async {
        let (near, far) = (key('1'), key('1'));
        task::join(give(End(cable.clone(), 0), &near), take(End(cable.clone(), 1), &far, false)).await
    };
    let (given, taken) = run(&cable, both);
    (given, taken, cable)
}

/// The law of each run: the guest runs in one place at most, and who says that he knows where it is, is right.
fn judge(given: &(Fate, String), taken: &(bool, String)) {
    match given.0 {
        Fate::Here => assert!(!taken.0, "it runs in two places: {given:?}"),
        Fate::There => assert!(taken.0, "it runs nowhere: {taken:?}"),
        Fate::Unknown => {}
    }
}

#[test]
fn a_guest_moves() {
    let (given, taken, cable) = moved(|_| {});
    assert_eq!((given.0, taken.0), (Fate::There, true), "{given:?} {taken:?}");
    assert!(cable.ways.iter().all(|way| way.bytes.borrow().is_empty()));
}

#[test]
fn wherever_the_line_is_cut_the_guest_runs_in_one_place_at_most() {
    let (_, _, whole) = moved(|_| {});
    let mut unknown = 0;
    for way in 0..2 {
        let all = whole.ways[way].gone.get();
        // Each handshake is work: not every byte of those messages that say nothing of the guest yet.
        for at in (0..all).filter(|at| at % 7 == 0 || at + 2 * LAST > all) {
            let (given, taken, _) = moved(|cable| cable.ways[way].cut.set(Some(at)));
            judge(&given, &taken);
            // Only where Go was said can nobody tell: the last message each way.
            assert!(given.0 != Fate::Unknown || at + LAST >= all, "way {way}, byte {at} of {all}: {given:?}");
            assert!(!given.1.is_empty(), "there is a reason");
            unknown += usize::from(given.0 == Fate::Unknown);
        }
    }
    assert!(unknown > 0);
}

#[test]
fn whatever_bit_is_changed_the_line_is_of_no_use_from_then_on() {
    let (_, _, whole) = moved(|_| {});
    for way in 0..2 {
        for at in (0..whole.ways[way].gone.get()).step_by(3) {
            let (given, taken, _) = moved(|cable| cable.ways[way].changed.set(Some(at)));
            judge(&given, &taken);
            assert_ne!(given.0, Fate::There, "way {way}, byte {at}");
        }
    }
}

#[test]
fn who_has_another_key_is_told_apart() {
    let cable = Rc::new(Cable::default());
    let both = async {
        let (near, far) = (key('1'), key('2'));
        task::join(give(End(cable.clone(), 0), &near), take(End(cable.clone(), 1), &far, false)).await
    };
    let (given, taken) = run(&cable, both);
    assert_eq!(given.0, Fate::Here);
    assert!(given.1.contains("does not answer as one with the same key"), "{given:?}");
    assert!(taken.1.contains("its key is another one"), "{taken:?}");
}

#[test]
fn a_refusal_arrives_with_its_reason_even_where_the_line_is_cut_behind_it() {
    for is_cut in [false, true] {
        let cable = Rc::new(Cable::default());
        let both = async {
            let (near, far) = (key('1'), key('1'));
            let take = async {
                let taken = take(End(cable.clone(), 1), &far, true).await;
                cable.is_cut.set(is_cut);
                taken
            };
            task::join(take, give(End(cable.clone(), 0), &near)).await
        };
        let (taken, given) = run(&cable, both);
        assert!(!taken.0);
        assert_eq!(given.0, Fate::Here);
        // What another machine says does not steer this one's terminal.
        assert_eq!(given.1, "the other machine refuses: the machine has [2J1 MiB free");
    }
}

#[test]
fn a_key_is_64_digits() {
    assert!(Key::parse(&"0aF9".repeat(16)).is_ok());
    for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
        assert!(Key::parse(text).is_err(), "{text}");
    }
}

#[test]
fn without_random_numbers_nothing_is_said() {
    let cable = Rc::new(Cable::default());
    let error = run(&cable, Sealed::call(End(cable.clone(), 0), &key('1'), |_| false)).err().unwrap();
    assert!(format!("{error:#}").contains("no random numbers (RDRAND)"), "{error:#}");
    assert_eq!(cable.ways[0].gone.get(), 0);
}

proptest! {
    /// Who connects and has no key: whatever it sends is an error.
    #[test]
    fn a_stranger_gets_nowhere(bytes in proptest::collection::vec(any::<u8>(), 0..200), is_long in any::<bool>()) {
        let cable = Rc::new(Cable::default());
        let head: &[u8] = if is_long { &[] } else { &[48, 0] };
        cable.ways[0].bytes.borrow_mut().extend(head.iter().chain(&bytes));
        cable.is_cut.set(true);
        prop_assert!(run(&cable, Sealed::answer(End(cable.clone(), 1), &key('1'), fill)).is_err());
    }
}
