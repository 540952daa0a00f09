//! Ports: open lines to other domains, to virtual and physical interrupts, and to this domain itself.

use alloc::rc::Rc;
use core::cell::Cell;
use core::sync::atomic::Ordering;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::event_channel as abi;

use super::{MASK, PENDING, PORTS, SELECTOR, bind_ipi, bind_virq, make_word, with_queues};
use crate::raw::hypercall::call::{self as hypercall, event_op};
use crate::raw::shared;
use crate::sync::Waiters;

/// Whom a port connects to: what says how it is bound again in another domain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// Who the builder connected it to.
    Builder,
    /// The virtual interrupt of this number.
    Virq(u32),
    /// This domain itself.
    Ipi,
    /// Another domain, or a physical interrupt: only who opened it can open another.
    Other,
}

/// The port of a closed line: no domain has it.
pub(super) const CLOSED: u32 = 0;

/// An open port, its number the one that it has now.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: Cell<u32>,
    pub(super) source: Source,
    pub(super) masked: Cell<bool>,
    pub(super) fired: Cell<bool>,
    pub(super) waiters: Waiters,
}

impl Line {
    pub(super) fn fire(&self) {
        self.fired.set(true);
        self.waiters.wake();
    }

    /// Brings what the hypervisor sees up to whether the line is masked.
    pub(super) fn show_mask(&self) {
        let number = self.number.get();
        if !self.masked.get() {
            return self.show_unmasked(number);
        }
        if with_queues(|fifo| fifo.mask(number)).is_none() {
            let (mask, bit) = super::bit(MASK, number);
            mask.fetch_or(bit, Ordering::SeqCst);
        }
    }

    fn show_unmasked(&self, number: u32) {
        if let Some(is_pending) = with_queues(|fifo| fifo.unmask(number)) {
            if is_pending {
                // The port is this guest's own: there is no way for this to fail.
                let _ = event_op::unmask(&mut abi::EvtchnUnmask { port: number });
            }
            return;
        }
        let (mask, bit) = super::bit(MASK, number);
        mask.fetch_and(!bit, Ordering::SeqCst);
        let word = number as usize / 64;
        if super::bit(PENDING, number).0.load(Ordering::SeqCst) & bit != 0 {
            // The hypervisor marks the word only for events of ports that are not masked, and `EVTCHNOP_unmask` only
            // for ports that still are. All ports belong to this vcpu, which looks again before it blocks.
            shared::word(SELECTOR).fetch_or(1 << word, Ordering::SeqCst);
            shared::upcall_pending().store(1, Ordering::SeqCst);
        }
    }
}

/// A port of this domain; closed when dropped, unless the builder made it.
///
/// After a restore ([`suspend`](crate::suspend)) the ports of virtual interrupts and of this domain itself are bound
/// again, perhaps by other numbers; those to others are closed: nothing rings them, and their number is 0.
#[derive(Debug)]
pub struct Port {
    line: Rc<Line>,
    owned: bool,
}

impl Port {
    pub(super) fn new(number: u32, source: Source, owned: bool) -> Self {
        let line = Rc::new(Line {
            number: Cell::new(number),
            source,
            masked: Cell::new(false),
            fired: Cell::new(false),
            waiters: Waiters::new(),
        });
        PORTS.with(|ports| ports.borrow_mut().insert(number, line.clone()));
        let port = Self { line, owned };
        port.unmask();
        port
    }

    /// A port that has just been opened; closed again where there is no memory for its event word.
    fn opened(number: u32, source: Source) -> Result<Self, Errno> {
        if let Err(error) = make_word(number) {
            let _ = event_op::close(&mut abi::EvtchnClose { port: number });
            return Err(error);
        }
        Ok(Self::new(number, source, true))
    }

    /// A port that the builder made; it stays open when this value is dropped.
    pub fn adopt(number: u32) -> Self {
        Self::new(number, Source::Builder, false)
    }

    /// A port that `remote` may bind to.
    ///
    /// # Errors
    /// What the hypervisor refuses: no such domain, no port left.
    pub fn alloc_unbound(remote: DomId) -> Result<Self, Errno> {
        let mut request = abi::EvtchnAllocUnbound { dom: DomId::SELF, remote_dom: remote, port: 0 };
        event_op::alloc_unbound(&mut request)?;
        Self::opened(request.port, Source::Other)
    }

    /// A port connected to `remote_port`, which `remote` left open for this domain.
    ///
    /// # Errors
    /// What the hypervisor refuses: no such port, or not meant for us.
    pub fn bind_interdomain(remote: DomId, remote_port: u32) -> Result<Self, Errno> {
        let mut request = abi::EvtchnBindInterdomain { remote_dom: remote, _pad: 0, remote_port, local_port: 0 };
        event_op::bind_interdomain(&mut request)?;
        Self::opened(request.local_port, Source::Other)
    }

    /// A port that the virtual interrupt `virq` of vcpu 0 rings.
    ///
    /// # Errors
    /// What the hypervisor refuses: already bound, not for this domain.
    pub fn bind_virq(virq: u32) -> Result<Self, Errno> {
        Self::opened(bind_virq(virq)?, Source::Virq(virq))
    }

    /// A port that rings vcpu 0 of this domain.
    ///
    /// # Errors
    /// What the hypervisor refuses: no port left.
    pub fn bind_ipi() -> Result<Self, Errno> {
        Self::opened(bind_ipi()?, Source::Ipi)
    }

    /// A port that the physical interrupt `pirq` rings.
    ///
    /// # Errors
    /// What the hypervisor refuses: not ours, or shared by others who do not share.
    pub fn bind_pirq(pirq: u32, will_share: bool) -> Result<Self, Errno> {
        let flags = if will_share { abi::BIND_PIRQ_WILL_SHARE } else { 0 };
        let mut request = abi::EvtchnBindPirq { pirq, flags, port: 0 };
        event_op::bind_pirq(&mut request)?;
        Self::opened(request.port, Source::Other)
    }

    /// The port's number, which the other side is told.
    pub fn number(&self) -> u32 {
        self.line.number.get()
    }

    /// Chooses the queue that events of this port come in: 0 is the most urgent, 15 the least, 7 the usual one.
    ///
    /// # Errors
    /// `EINVAL` for a priority that there is not, `ENOSYS` with the two-level ABI.
    pub fn set_priority(&self, priority: u32) -> Result<(), Errno> {
        event_op::set_priority(&mut abi::EvtchnSetPriority { port: self.number(), priority })
    }

    /// Rings the other end.
    pub fn notify(&self) {
        // A peer that closed its end is noticed through the store, not here.
        let _ = hypercall::event_send(self.number());
    }

    /// Waits for an event; one that came since the last wait ends it at once.
    pub async fn wait(&self) {
        self.line.waiters.until(|| self.line.fired.take().then_some(())).await;
    }

    /// Stops events of this port from being collected.
    pub fn mask(&self) {
        self.line.masked.set(true);
        self.line.show_mask();
    }

    /// Lets events of this port be collected, those that came while it was masked too.
    ///
    /// An interdomain port is pending from the moment it is bound: the other end may have rung before.
    pub fn unmask(&self) {
        self.line.masked.set(false);
        self.line.show_mask();
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if self.number() == CLOSED {
            return;
        }
        self.mask();
        PORTS.with(|ports| ports.borrow_mut().remove(&self.number()));
        if self.owned {
            // It was open, and nobody else could close it.
            let _ = event_op::close(&mut abi::EvtchnClose { port: self.number() });
        }
    }
}
