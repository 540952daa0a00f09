//! What is done where this guest meets a bug, before its domain ends.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;
#[cfg(target_os = "none")]
use core::sync::atomic::{AtomicBool, Ordering};

use crate::console::print_last_words;
use crate::raw::local::local;

local!(static DEEDS: RefCell<Vec<Box<dyn Fn()>>> = RefCell::default());

/// Whether the end has begun.
#[cfg(target_os = "none")]
static ENDING: AtomicBool = AtomicBool::new(false);

/// Has something done where this guest meets a bug, after it was told and before the domain ends. It must not rely on
/// what the bug may have hurt: tasks do not run any more, nothing is woken, what was borrowed stays so, and the heap
/// may be full or locked. If it meets a bug itself, that is told, and the domain ends.
pub fn before_end(deed: impl Fn() + 'static) {
    DEEDS.with(|deeds| deeds.borrow_mut().push(Box::new(deed)));
}

/// Prints on every console, without the heap.
pub fn say(words: core::fmt::Arguments<'_>) {
    print_last_words(words);
}

/// Does what is to be done, once.
#[cfg(target_os = "none")]
pub(crate) fn do_all() {
    if !ENDING.swap(true, Ordering::Relaxed) {
        DEEDS.with(|deeds| deeds.try_borrow().iter().for_each(|deeds| deeds.iter().for_each(|deed| deed())));
    }
}
