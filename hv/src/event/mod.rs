//! Event channels: the two-level ABI (`event_channel.h`).
//!
//! A domain has up to 4096 ports, each one word ([`port::Port`]) in pages that are made as they are needed and go with the
//! domain. Ports change under the lock of the domain, and both ends of a channel under both locks; they are *read*
//! without. What a sender may do without a lock is bounded by what its own domain may do to itself: setting a bit in
//! its own `shared_info`, which lives as long as the domain runs. A bit in another domain's is set under that domain's
//! lock only, after a look at the port there: a port that is bound proves that the domain was not torn down yet, because
//! teardown closes the ports first ([`close_all`]).
//!
//! [`bind`] holds what makes and ends channels, [`deliver`] how an event reaches a vcpu, [`virq`] and [`pirq`] where
//! events come from if not from a guest.

mod audit;
mod bind;
pub mod deliver;
pub mod pirq;
pub mod port;
pub mod virq;

pub use audit::audit;
pub use bind::{
    Status, alloc_unbound, bind_interdomain, bind_ipi, bind_pirq, bind_vcpu, bind_virq, close, close_all, reset, status,
};

use crate::{
    addr::TABLE_ENTRIES,
    config::{MAX_PORTS, MAX_VCPUS},
    heap::{self, Reserve},
    lock::Lock,
};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use oxen_abi::{errno::Errno, virq::NR_VIRQS};
use port::{Binding, Port};
use spin::Once;

/// Ports of a bucket: one page.
const BUCKET_PORTS: usize = TABLE_ENTRIES;
/// By how many ports the numbers that are not refused as such grow, as in Xen: tools look for the first refusal.
const VALID_STEP: u32 = 64;

type Bucket = Box<[AtomicU64; BUCKET_PORTS]>;

/// A domain's event channels.
#[derive(Debug)]
pub struct Events {
    buckets: [Once<Bucket>; MAX_PORTS / BUCKET_PORTS],
    /// Port numbers below this one exist, in use or not.
    valid: AtomicU32,
    /// Ports above this one are never given out (`max_evtchn_port`).
    limit: AtomicU32,
    /// The vcpus that wait in `SCHEDOP_poll`, a bit each, and for which port: 0 for any.
    pollers: AtomicU32,
    poll_ports: [AtomicU16; MAX_VCPUS],
    bindings: Lock<Bindings>,
}

/// What the lock of a domain's events guards beside the right to change ports.
#[derive(Debug)]
pub(crate) struct Bindings {
    /// All ports below are in use.
    first_free: u32,
    /// The port of each virtual interrupt by vcpu, 0 for none; the global ones are vcpu 0's.
    virqs: [[u16; NR_VIRQS as usize]; MAX_VCPUS],
}

impl Default for Events {
    fn default() -> Self {
        Self {
            buckets: [const { Once::new() }; MAX_PORTS / BUCKET_PORTS],
            valid: AtomicU32::new(VALID_STEP),
            limit: AtomicU32::new(MAX_PORTS as u32 - 1),
            pollers: AtomicU32::new(0),
            poll_ports: [const { AtomicU16::new(0) }; MAX_VCPUS],
            bindings: Lock::new(Bindings { first_free: 1, virqs: [[0; NR_VIRQS as usize]; MAX_VCPUS] }),
        }
    }
}

impl Events {
    /// What a port is at this moment; `None` for a number that no port has.
    #[inline]
    #[must_use]
    pub fn port(&self, port: u32) -> Option<Port> {
        let state = self.word(port).map_or(Port::CLOSED, |word| Port::from_raw(word.load(Ordering::Acquire)));
        (state != Port::CLOSED || port < self.valid.load(Ordering::Relaxed)).then_some(state)
    }

    /// Limits the ports to those up to `port` (`xen_domctl_createdomain.max_evtchn_port`).
    pub fn set_limit(&self, port: u32) {
        self.limit.store(port, Ordering::Relaxed);
    }

    /// The greatest port number that is not refused as such, plus one.
    #[must_use]
    pub fn valid(&self) -> u32 {
        self.valid.load(Ordering::Relaxed)
    }

    /// A vcpu is about to wait for `port`, or for any with 0. It looks at the pending bits only after this, so that no
    /// event falls between.
    pub fn begin_poll(&self, vcpu: u32, port: u32) {
        if let Some(slot) = self.poll_ports.get(vcpu as usize) {
            slot.store(port as u16, Ordering::Relaxed);
            self.pollers.fetch_or(1 << (vcpu & 31), Ordering::SeqCst);
        }
    }

    /// A vcpu waits no longer. Says whether it still did.
    pub fn end_poll(&self, vcpu: u32) -> bool {
        let bit = 1 << (vcpu & 31);
        self.pollers.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    #[inline]
    fn word(&self, port: u32) -> Option<&AtomicU64> {
        self.buckets.get(port as usize / BUCKET_PORTS)?.get()?.get(port as usize % BUCKET_PORTS)
    }

    /// Changes a port; the caller holds the lock, and the port's bucket exists.
    fn set(&self, port: u32, value: Port) {
        if let Some(word) = self.word(port) {
            word.store(value.raw(), Ordering::Release);
        }
    }

    /// The lowest port that is not in use. The caller holds the lock.
    fn free_port(&self, bindings: &mut Bindings) -> Result<u32, Errno> {
        let limit = self.limit.load(Ordering::Relaxed).min(MAX_PORTS as u32 - 1);
        let is_free = |&port: &u32| self.word(port).is_none_or(|w| w.load(Ordering::Relaxed) == Port::CLOSED.raw());
        let port = (bindings.first_free..=limit).find(is_free).ok_or(Errno::NoSpc)?;
        bindings.first_free = port;
        Ok(port)
    }

    /// Puts a port that [`Self::free_port`] found to use. The caller holds the lock.
    fn open(&self, machine: &impl Reserve, port: u32, binding: Binding, vcpu: u32) -> Result<(), Errno> {
        debug_assert_eq!(self.port(port).unwrap_or_default(), Port::CLOSED);
        let bucket = self.buckets.get(port as usize / BUCKET_PORTS).ok_or(Errno::NoSpc)?;
        bucket.try_call_once(|| heap::own(machine, [const { AtomicU64::new(0) }; BUCKET_PORTS]))?;
        let state = Port::new(binding, vcpu);
        self.set(port, if binding == Binding::Ipi { state.local(port, vcpu) } else { state });
        self.valid.fetch_max((port + 1).next_multiple_of(VALID_STEP), Ordering::Relaxed);
        Ok(())
    }
}

const _: () = assert!(MAX_VCPUS == 32, "a vcpu is a bit of a word of pollers");
