//! Event channels: owned ports that tasks wait for.
//!
//! Upcalls stay masked except while the guest is blocked; the executor collects what is pending between tasks. An
//! event that nobody waits for yet is kept with its port, several of them are one.
//!
//! A guest begins with the two-level ABI of 4,096 ports, whose bits are in the shared page. With `events=fifo` on its
//! command line it uses the FIFO ABI instead, with up to 131,072 ports and priorities.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::{DomId, Errno, event::Port, println, task};
//!
//! /// Answers each event of domain 2 by one.
//! async fn answer() -> Result<(), Errno> {
//!     let port = Port::alloc_unbound(DomId(2))?;
//!     println!("bind to port {}", port.number());
//!     loop {
//!         port.wait().await;
//!         port.notify();
//!     }
//! }
//!
//! let _ = task::run(answer());
//! ```

mod fifo;
mod port;

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::Ordering;

use oxen_abi::errno::Errno;
use oxen_abi::event_channel as abi;
use oxen_abi::shared_info::{SharedInfo, VcpuInfo};

use crate::raw::hypercall::call::{self as hypercall, event_op};
use crate::raw::local::local;
use crate::raw::memory::event_pages;
use crate::raw::shared;
use crate::{memory::Page, start_info};
use fifo::Fifo;
pub use port::Port;
use port::{CLOSED, Line, Source};

/// Ports of the two-level ABI.
const WORDS: usize = 64;
const PENDING: usize = core::mem::offset_of!(SharedInfo, evtchn_pending);
const MASK: usize = core::mem::offset_of!(SharedInfo, evtchn_mask);
const SELECTOR: usize =
    core::mem::offset_of!(SharedInfo, vcpu_info) + core::mem::offset_of!(VcpuInfo, evtchn_pending_sel);

local!(static PORTS: RefCell<BTreeMap<u32, Rc<Line>>> = RefCell::new(BTreeMap::new()));
// The queues, where the guest has the FIFO ABI.
local!(static FIFO: RefCell<Option<Fifo>> = RefCell::new(None));
// Their pages: the control block's first.
local!(static QUEUE_PAGES: RefCell<Vec<&'static Page>> = RefCell::default());

/// Masks all ports; those that are bound afterwards are unmasked one by one. Chooses the ABI.
///
/// # Errors
/// `EINVAL` for an option `events` that is neither `2l` nor `fifo`, and why there are no queues: two levels serve then.
pub(crate) fn start() -> Result<(), Errno> {
    mask_all();
    match start_info::option("events").as_deref() {
        None | Some("2l") => Ok(()),
        Some("fifo") => start_queues(),
        Some(_) => Err(Errno::Inval),
    }
}

fn mask_all() {
    for word in 0..WORDS {
        shared::word(MASK + word * 8).store(u64::MAX, Ordering::SeqCst);
    }
}

/// Goes on in a new domain, which has no port but those that its builder made: `builders` are the old number and the
/// new one of each. What can be bound again is; the other ports are closed. Who waits looks again.
pub(crate) fn start_anew(builders: &[(u32, u32)]) {
    let lines = PORTS.with(|ports| core::mem::take(&mut *ports.borrow_mut()));
    mask_all();
    start_queues_anew();
    for (old, line) in lines {
        let number = match line.source {
            Source::Builder => builders.iter().find(|(number, _)| *number == old).map(|(_, number)| *number),
            Source::Virq(virq) => bind_virq(virq).ok(),
            Source::Ipi => bind_ipi().ok(),
            Source::Other => None,
        };
        let number = number.filter(|number| *number != CLOSED && make_word(*number).is_ok());
        line.number.set(number.unwrap_or(CLOSED));
        if number.is_some() {
            PORTS.with(|ports| ports.borrow_mut().insert(line.number.get(), line.clone()));
            line.show_mask();
        }
        line.fire();
    }
}

/// Gives the new domain's hypervisor the pages of the queues; two levels serve where it does not take them.
fn start_queues_anew() {
    let pages = QUEUE_PAGES.with(|pages| core::mem::take(&mut *pages.borrow_mut()));
    let Some((control, words)) = pages.split_first() else { return };
    control.words32().iter().for_each(|word| word.store(0, Ordering::Relaxed));
    let taken = event_pages::give_control(control);
    FIFO.with(|fifo| *fifo.borrow_mut() = taken.map(|()| Fifo::new(control.words32())).ok());
    if taken.is_ok() {
        QUEUE_PAGES.with(|pages| pages.borrow_mut().push(control));
        let given = words.iter().try_for_each(|page| give_words(page));
        assert!(given.is_ok(), "events: {given:?}");
    }
}

/// Goes over to the FIFO ABI. Where that fails nothing has changed.
///
/// # Panics
/// When the hypervisor has gone over and takes no event words: then no event would ever come.
fn start_queues() -> Result<(), Errno> {
    let (control, words) = (Page::zeroed().ok_or(Errno::NoMem)?, Page::zeroed().ok_or(Errno::NoMem)?);
    let control = control.leak();
    event_pages::give_control(control)?;
    FIFO.with(|fifo| *fifo.borrow_mut() = Some(Fifo::new(control.words32())));
    QUEUE_PAGES.with(|pages| pages.borrow_mut().push(control));
    let given = give_words(words.leak());
    assert!(given.is_ok(), "events: {given:?}");
    Ok(())
}

/// Gives the hypervisor one more page of event words.
fn give_words(page: &'static Page) -> Result<(), Errno> {
    Fifo::mask_all(page.words32());
    event_pages::give_words(page)?;
    FIFO.with(|fifo| fifo.borrow_mut().iter_mut().for_each(|fifo| fifo.add(page.words32())));
    QUEUE_PAGES.with(|pages| pages.borrow_mut().push(page));
    Ok(())
}

/// Sees to it that a port has an event word, where the guest has the FIFO ABI.
fn make_word(port: u32) -> Result<(), Errno> {
    while with_queues(|fifo| fifo.has_word(port)) == Some(false) {
        give_words(Page::zeroed().ok_or(Errno::NoMem)?.leak())?;
    }
    Ok(())
}

fn bind_virq(virq: u32) -> Result<u32, Errno> {
    let mut request = abi::EvtchnBindVirq { virq, vcpu: 0, port: 0 };
    event_op::bind_virq(&mut request).map(|()| request.port)
}

fn bind_ipi() -> Result<u32, Errno> {
    let mut request = abi::EvtchnBindIpi { vcpu: 0, port: 0 };
    event_op::bind_ipi(&mut request).map(|()| request.port)
}

/// Works on the queues, if there are any.
fn with_queues<R>(work: impl FnOnce(&mut Fifo) -> R) -> Option<R> {
    FIFO.with(|fifo| fifo.borrow_mut().as_mut().map(work))
}

/// Whether the guest has the FIFO ABI.
pub fn has_queues() -> bool {
    with_queues(|_| ()).is_some()
}

/// Takes what is pending on unmasked ports and wakes who waits for it.
pub(crate) fn collect() {
    if shared::upcall_pending().swap(0, Ordering::SeqCst) == 0 {
        return;
    }
    let mut ports = Vec::new();
    if with_queues(|fifo| fifo.take(|port| ports.push(port))).is_some() {
        return ports.into_iter().for_each(fire);
    }
    let mut selector = shared::word(SELECTOR).swap(0, Ordering::SeqCst);
    while selector != 0 {
        let word = selector.trailing_zeros() as usize;
        selector &= selector - 1;
        let mask = shared::word(MASK + word * 8).load(Ordering::SeqCst);
        let pending = shared::word(PENDING + word * 8).fetch_and(mask, Ordering::SeqCst) & !mask;
        let mut left = pending;
        while left != 0 {
            fire((word * 64) as u32 + left.trailing_zeros());
            left &= left - 1;
        }
    }
}

/// Wakes who waits for `port`.
pub(crate) fn fire(port: u32) {
    PORTS.with(|ports| {
        if let Some(line) = ports.borrow().get(&port) {
            line.fire();
        }
    });
}

/// Stops the vcpu until an event is pending, and leaves upcalls masked.
pub(crate) fn wait_for_any() {
    // There is no way for this to fail.
    let _ = hypercall::sched_block();
    shared::upcall_mask().store(1, Ordering::SeqCst);
}

/// The word of `shared_info` that holds a port's bit in the bitmap at `bitmap`, and the bit.
fn bit(bitmap: usize, port: u32) -> (&'static core::sync::atomic::AtomicU64, u64) {
    (shared::word(bitmap + (port as usize / 64 % WORDS) * 8), 1 << (port % 64))
}

/// Whether a port is pending, and whether it is masked.
pub fn bits(port: u32) -> (bool, bool) {
    if let Some(bits) = with_queues(|fifo| fifo.bits(port)) {
        return bits;
    }
    let is_set = |(word, bit): (&core::sync::atomic::AtomicU64, u64)| word.load(Ordering::SeqCst) & bit != 0;
    (is_set(bit(PENDING, port)), is_set(bit(MASK, port)))
}

/// Whether an upcall is pending on this vcpu, and whether upcalls are masked.
pub fn upcall() -> (bool, bool) {
    let is_set = |byte: &core::sync::atomic::AtomicU8| byte.load(Ordering::SeqCst) != 0;
    (is_set(shared::upcall_pending()), is_set(shared::upcall_mask()))
}

/// Brings the bits of a port that is closed back to how it had them before it was bound: not pending, masked. What
/// was pending on other ports is collected.
pub fn settle(port: u32) {
    let forget = |fifo: &mut Fifo| {
        fifo.mask(port);
        fifo.clear(port);
    };
    if with_queues(forget).is_none() {
        let (mask, bit) = bit(MASK, port);
        mask.fetch_or(bit, Ordering::SeqCst);
        self::bit(PENDING, port).0.fetch_and(!bit, Ordering::SeqCst);
    }
    collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets a port pending as the hypervisor does.
    fn ring(port: u32) {
        let (word, bit) = (port as usize / 64, 1 << (port % 64));
        shared::word(PENDING + word * 8).fetch_or(bit, Ordering::SeqCst);
        if shared::word(MASK + word * 8).load(Ordering::SeqCst) & bit == 0 {
            shared::word(SELECTOR).fetch_or(1 << word, Ordering::SeqCst);
            shared::upcall_pending().store(1, Ordering::SeqCst);
        }
    }

    fn fired(port: &Port) -> bool {
        PORTS.with(|ports| ports.borrow().get(&port.number()).is_some_and(|line| line.fired.take()))
    }

    /// In words of their own, where no other port rings.
    #[test]
    fn an_event_from_before_a_port_is_unmasked_is_collected() {
        start().unwrap();
        for number in [3, 64, 2047, 4095] {
            ring(number);
            collect();
            let port = Port::adopt(number);
            collect();
            assert!(fired(&port), "port {number} was pending when it was bound");
            collect();
            assert!(!fired(&port), "port {number} rang once");
            ring(number);
            collect();
            assert!(fired(&port), "port {number} rang again");
            port.mask();
            ring(number);
            collect();
            assert!(!fired(&port), "port {number} is masked");
            port.unmask();
            collect();
            assert!(fired(&port), "port {number} rang while it was masked");
        }
    }

    /// The host's hypervisor binds nothing.
    #[test]
    fn in_a_new_domain_the_builders_ports_have_new_numbers_and_others_are_closed() {
        start().unwrap();
        let line = |number, source| Port::new(number, source, true);
        let (store, console) = (Port::adopt(5), Port::adopt(9));
        let (other, timer) = (line(11, Source::Other), line(12, Source::Virq(0)));
        console.mask();
        let waiting = crate::task::spawn(async move {
            other.wait().await;
            other
        });
        crate::task::run(crate::task::yield_now());
        start_anew(&[(5, 9), (9, 70)]);
        let other = crate::task::run(waiting);
        assert_eq!([&store, &console, &other, &timer].map(Port::number), [9, 70, CLOSED, CLOSED]);
        assert_eq!((bits(9).1, bits(70).1), (false, true), "what was masked stays so");
        assert!(fired(&store) && fired(&console), "who waits looks again");
        for number in [5, 9] {
            ring(number);
        }
        collect();
        assert!(fired(&store) && bits(5) == (true, true));
        // Neither closes a port of the new domain's.
        drop((other, timer));
        store.notify();
    }
}
