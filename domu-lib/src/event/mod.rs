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

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::sync::atomic::Ordering;
use core::task::{Poll, Waker};

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::event_channel as abi;
use oxen_abi::shared_info::{SharedInfo, VcpuInfo};

use crate::raw::hypercall::call::{self as hypercall, event_op};
use crate::raw::local::local;
use crate::raw::memory::event_pages;
use crate::raw::shared;
use crate::{memory::Page, start_info};
use fifo::Fifo;

/// Ports of the two-level ABI.
const WORDS: usize = 64;
const PENDING: usize = core::mem::offset_of!(SharedInfo, evtchn_pending);
const MASK: usize = core::mem::offset_of!(SharedInfo, evtchn_mask);
const SELECTOR: usize =
    core::mem::offset_of!(SharedInfo, vcpu_info) + core::mem::offset_of!(VcpuInfo, evtchn_pending_sel);

#[derive(Default)]
struct State {
    fired: bool,
    waiters: Vec<Waker>,
}

local!(static PORTS: RefCell<BTreeMap<u32, State>> = RefCell::new(BTreeMap::new()));
// The queues, where the guest has the FIFO ABI.
local!(static FIFO: RefCell<Option<Fifo>> = RefCell::new(None));

/// Masks all ports; those that are bound afterwards are unmasked one by one. Chooses the ABI.
///
/// # Errors
/// `EINVAL` for an option `events` that is neither `2l` nor `fifo`, and why there are no queues: two levels serve then.
pub(crate) fn start() -> Result<(), Errno> {
    for word in 0..WORDS {
        shared::word(MASK + word * 8).store(u64::MAX, Ordering::SeqCst);
    }
    match start_info::option("events").as_deref() {
        None | Some("2l") => Ok(()),
        Some("fifo") => start_queues(),
        Some(_) => Err(Errno::Inval),
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
    let given = give_words(words);
    assert!(given.is_ok(), "events: {given:?}");
    Ok(())
}

/// Gives the hypervisor one more page of event words.
fn give_words(page: Page) -> Result<(), Errno> {
    let page = page.leak();
    Fifo::mask_all(page.words32());
    event_pages::give_words(page)?;
    FIFO.with(|fifo| fifo.borrow_mut().iter_mut().for_each(|fifo| fifo.add(page.words32())));
    Ok(())
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
        if let Some(state) = ports.borrow_mut().get_mut(&port) {
            state.fired = true;
            state.waiters.drain(..).for_each(Waker::wake);
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

/// A port of this domain; closed when dropped, unless the builder made it.
#[derive(Debug)]
pub struct Port {
    number: u32,
    owned: bool,
}

impl Port {
    fn new(number: u32, owned: bool) -> Self {
        PORTS.with(|ports| ports.borrow_mut().insert(number, State::default()));
        let port = Self { number, owned };
        port.unmask();
        port
    }

    /// A port that has just been opened; closed again where there is no memory for its event word.
    fn opened(number: u32) -> Result<Self, Errno> {
        while with_queues(|fifo| fifo.has_word(number)) == Some(false) {
            if let Err(error) = Page::zeroed().ok_or(Errno::NoMem).and_then(give_words) {
                let _ = event_op::close(&mut abi::EvtchnClose { port: number });
                return Err(error);
            }
        }
        Ok(Self::new(number, true))
    }

    /// A port that the builder made; it stays open when this value is dropped.
    pub fn adopt(number: u32) -> Self {
        Self::new(number, false)
    }

    /// A port that `remote` may bind to.
    ///
    /// # Errors
    /// What the hypervisor refuses: no such domain, no port left.
    pub fn alloc_unbound(remote: DomId) -> Result<Self, Errno> {
        let mut request = abi::EvtchnAllocUnbound { dom: DomId::SELF, remote_dom: remote, port: 0 };
        event_op::alloc_unbound(&mut request)?;
        Self::opened(request.port)
    }

    /// A port connected to `remote_port`, which `remote` left open for this domain.
    ///
    /// # Errors
    /// What the hypervisor refuses: no such port, or not meant for us.
    pub fn bind_interdomain(remote: DomId, remote_port: u32) -> Result<Self, Errno> {
        let mut request = abi::EvtchnBindInterdomain { remote_dom: remote, _pad: 0, remote_port, local_port: 0 };
        event_op::bind_interdomain(&mut request)?;
        Self::opened(request.local_port)
    }

    /// A port that the virtual interrupt `virq` of vcpu 0 rings.
    ///
    /// # Errors
    /// What the hypervisor refuses: already bound, not for this domain.
    pub fn bind_virq(virq: u32) -> Result<Self, Errno> {
        let mut request = abi::EvtchnBindVirq { virq, vcpu: 0, port: 0 };
        event_op::bind_virq(&mut request)?;
        Self::opened(request.port)
    }

    /// A port that rings vcpu 0 of this domain.
    ///
    /// # Errors
    /// What the hypervisor refuses: no port left.
    pub fn bind_ipi() -> Result<Self, Errno> {
        let mut request = abi::EvtchnBindIpi { vcpu: 0, port: 0 };
        event_op::bind_ipi(&mut request)?;
        Self::opened(request.port)
    }

    /// A port that the physical interrupt `pirq` rings.
    ///
    /// # Errors
    /// What the hypervisor refuses: not ours, or shared by others who do not share.
    pub fn bind_pirq(pirq: u32, will_share: bool) -> Result<Self, Errno> {
        let flags = if will_share { abi::BIND_PIRQ_WILL_SHARE } else { 0 };
        let mut request = abi::EvtchnBindPirq { pirq, flags, port: 0 };
        event_op::bind_pirq(&mut request)?;
        Self::opened(request.port)
    }

    /// The port's number, which the other side is told.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Chooses the queue that events of this port come in: 0 is the most urgent, 15 the least, 7 the usual one.
    ///
    /// # Errors
    /// `EINVAL` for a priority that there is not, `ENOSYS` with the two-level ABI.
    pub fn set_priority(&self, priority: u32) -> Result<(), Errno> {
        event_op::set_priority(&mut abi::EvtchnSetPriority { port: self.number, priority })
    }

    /// Rings the other end.
    pub fn notify(&self) {
        // A peer that closed its end is noticed through the store, not here.
        let _ = hypercall::event_send(self.number);
    }

    /// Waits for an event; one that came since the last wait ends it at once.
    pub async fn wait(&self) {
        poll_fn(|context| {
            PORTS.with(|ports| {
                let mut ports = ports.borrow_mut();
                let state = ports.entry(self.number).or_default();
                if core::mem::take(&mut state.fired) {
                    return Poll::Ready(());
                }
                if !state.waiters.iter().any(|waiter| waiter.will_wake(context.waker())) {
                    state.waiters.push(context.waker().clone());
                }
                Poll::Pending
            })
        })
        .await;
    }

    /// Stops events of this port from being collected.
    pub fn mask(&self) {
        if with_queues(|fifo| fifo.mask(self.number)).is_some() {
            return;
        }
        self.mask_word().fetch_or(self.bit(), Ordering::SeqCst);
    }

    /// Lets events of this port be collected, those that came while it was masked too.
    ///
    /// An interdomain port is pending from the moment it is bound: the other end may have rung before.
    pub fn unmask(&self) {
        if let Some(is_pending) = with_queues(|fifo| fifo.unmask(self.number)) {
            if is_pending {
                // The port is this guest's own: there is no way for this to fail.
                let _ = event_op::unmask(&mut abi::EvtchnUnmask { port: self.number });
            }
            return;
        }
        self.mask_word().fetch_and(!self.bit(), Ordering::SeqCst);
        let word = self.number as usize / 64;
        if shared::word(PENDING + word * 8).load(Ordering::SeqCst) & self.bit() != 0 {
            // The hypervisor marks the word only for events of ports that are not masked, and `EVTCHNOP_unmask` only
            // for ports that still are. All ports belong to this vcpu, which looks again before it blocks.
            shared::word(SELECTOR).fetch_or(1 << word, Ordering::SeqCst);
            shared::upcall_pending().store(1, Ordering::SeqCst);
        }
    }

    fn mask_word(&self) -> &'static core::sync::atomic::AtomicU64 {
        shared::word(MASK + self.number as usize / 64 * 8)
    }

    const fn bit(&self) -> u64 {
        1 << (self.number % 64)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.mask();
        PORTS.with(|ports| ports.borrow_mut().remove(&self.number));
        if self.owned {
            // It was open, and nobody else could close it.
            let _ = event_op::close(&mut abi::EvtchnClose { port: self.number });
        }
    }
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
        PORTS.with(|ports| {
            ports.borrow_mut().get_mut(&port.number).is_some_and(|state| core::mem::take(&mut state.fired))
        })
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
}
