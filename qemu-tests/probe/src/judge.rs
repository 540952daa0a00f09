//! Asking and judging: hypercalls by name, arguments in a page of scratch memory, answers against expectations.

use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_domu_lib::memory::{Page, Pages};
use oxen_domu_lib::{println, start_info};

use crate::raw;

/// The questioner.
pub(crate) struct Probe {
    /// What is being asked about.
    pub(crate) family: &'static str,
    /// Answers as expected.
    pub(crate) ok: u32,
    /// Answers otherwise.
    pub(crate) failed: u32,
    /// Whether this is the initial domain.
    pub(crate) privileged: bool,
    /// Where structures are passed: two neighbouring pages.
    scratch: Pages,
}

impl Probe {
    /// A questioner with its scratch memory.
    pub(crate) fn new() -> Option<Self> {
        let scratch = Pages::zeroed(2)?;
        Some(Self { family: "", ok: 0, failed: 0, privileged: start_info::is_initial_domain(), scratch })
    }

    /// Notes whether something holds, with what was seen.
    pub(crate) fn holds(&mut self, what: &str, holds: bool, seen: i64) {
        if holds {
            self.ok += 1;
            println!("probe: ok {}: {what}", self.family);
        } else {
            self.failed += 1;
            println!("probe: FAILED {}: {what}: {seen} ({seen:#x})", self.family);
        }
    }

    /// Expects a value.
    pub(crate) fn is(&mut self, what: &str, seen: i64, wanted: i64) {
        self.holds(what, seen == wanted, seen);
    }

    /// Expects success.
    pub(crate) fn works(&mut self, what: &str, seen: i64) {
        self.is(what, seen, 0);
    }

    /// Expects a certain error.
    pub(crate) fn refuses(&mut self, what: &str, seen: i64, why: Errno) {
        self.is(what, seen, -i64::from(why as u16));
    }

    /// Puts 64-bit words into the scratch memory and returns its address.
    pub(crate) fn words(&self, words: &[u64]) -> u64 {
        for (place, word) in self.scratch.words64().iter().zip(words) {
            place.store(*word, Ordering::SeqCst);
        }
        self.scratch.address()
    }

    /// Puts 32-bit words into the scratch memory and returns its address.
    pub(crate) fn words32(&self, words: &[u32]) -> u64 {
        for (place, word) in self.scratch.words32().iter().zip(words) {
            place.store(*word, Ordering::SeqCst);
        }
        self.scratch.address()
    }

    /// Word `index` of the scratch memory, of 64 bits.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.scratch.words64().get(index).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    /// Word `index` of the scratch memory, of 32 bits.
    pub(crate) fn word32(&self, index: usize) -> u32 {
        self.scratch.words32().get(index).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    /// The scratch memory by its words of 64 bits.
    pub(crate) fn scratch(&self) -> &[AtomicU64] {
        self.scratch.words64()
    }

    /// The address of the scratch memory.
    pub(crate) fn address(&self) -> u64 {
        self.scratch.address()
    }

    /// A page for an experiment. Without one nothing can be asked, and that is said.
    pub(crate) fn page(&mut self) -> Option<Page> {
        let page = Page::zeroed();
        if page.is_none() {
            self.holds("a page for the experiment", false, 0);
        }
        page
    }
}

/// Issues a hypercall by name.
pub(crate) fn call<const N: usize>(hypercall: Hypercall, args: [u64; N]) -> i64 {
    let mut all = [0; 5];
    for (place, arg) in all.iter_mut().zip(args) {
        *place = arg;
    }
    raw::hypercall(hypercall as u64, all)
}
