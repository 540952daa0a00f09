//! Event channels (`event_channel.h`): ports of domains, what they lead to, and how an event reaches a vcpu.
//!
//! Each port is one word ([`port::Port`]). Ports change under the lock of the domain, and both ends of a channel under
//! both locks; they are *read* without. There are two ABIs by which a guest learns of an event. Every domain begins
//! with *two levels*: up to 4,096 ports, bits in `shared_info`, which lives as long as the domain runs. With its first
//! control block it goes over to *FIFO*: up to 131,072 ports, queues in frames of its own, until a reset closes every
//! port and gives the frames back.
//!
//! What a sender may do without a lock is bounded by what its own domain may do to itself: setting a bit in its own
//! `shared_info`. A port that can be reached so says it in its word ([`port::Port::target`]), and with FIFO none does:
//! frames that may be given back are written under the lock alone. An event for another domain is raised under that
//! domain's lock only, after a look at the port there: a port that is bound proves that the domain was not torn down
//! yet, because teardown closes the ports first ([`crate::channel`]).
//!
//! Here is what each domain has; [`crate::channel`] is what happens between them.
//!
//! ```text
//!   abi                    the sum of the two, and the ways between them
//!     two_level            bits
//!     fifo                 queues: word (atomics), record (what the hypervisor keeps of a port)
//!   table · port · vcpu    a domain's ports, and what each vcpu has
//!   virq · pirq            where events come from if not from a guest
//! ```

pub(crate) mod abi;
pub(crate) mod fifo;
pub mod pirq;
pub mod port;
mod table;
pub(crate) mod two_level;
mod vcpu;
pub mod virq;

pub use vcpu::VcpuEvents;

use crate::{
    config::MAX_PORTS,
    heap::Reserve,
    lock::{Lock, rank},
    reply::Stop,
};
use abi::Abi;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use fifo::record::Records;
use oxen_abi::errno::Errno;
use port::{Binding, Port};
use table::Ports;

/// Ports that are looked at in one search for one that is free: as many as two levels have.
const SEARCHED_AT_ONCE: u32 = 4096;

/// A domain's event channels.
#[derive(Debug)]
pub struct Events {
    pub(crate) ports: Ports,
    /// Ports above this one are never given out (`max_evtchn_port`).
    pub(crate) limit: AtomicU32,
    /// Whether the lock guards queues. Changed under it.
    pub(crate) is_fifo: AtomicBool,
    /// How many vcpus wait in `SCHEDOP_poll`.
    pub(crate) pollers: AtomicU32,
    pub(crate) bindings: Lock<Bindings, { rank::EVENTS }>,
}

/// What the lock of a domain's events guards beside the right to change ports.
#[derive(Debug)]
pub(crate) struct Bindings {
    /// How events are noted.
    pub(crate) abi: Abi,
    /// What the FIFO ABI keeps of each port.
    pub(crate) records: Records,
    /// Ports in use.
    pub(crate) active: u32,
    /// All ports below are in use.
    pub(crate) first_free: u32,
    /// Where the search for a free port goes on that was interrupted; 0: at the first.
    pub(crate) search: u32,
    /// Where the reset that is under way goes on; 0: none is.
    pub(crate) next_reset: u32,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            ports: Ports::default(),
            limit: AtomicU32::new(MAX_PORTS as u32 - 1),
            is_fifo: AtomicBool::new(false),
            pollers: AtomicU32::new(0),
            bindings: Lock::new(Bindings {
                abi: Abi::TwoLevel,
                records: Records::default(),
                active: 0,
                first_free: 1,
                search: 0,
                next_reset: 0,
            }),
        }
    }
}

impl Events {
    /// What a port is at this moment; `None` for a number that no port has.
    #[inline]
    #[must_use]
    pub fn port(&self, port: u32) -> Option<Port> {
        self.ports.get(port)
    }

    /// Limits the ports to those up to `port` (`xen_domctl_createdomain.max_evtchn_port`).
    pub fn set_limit(&self, port: u32) {
        self.limit.store(port, Ordering::Relaxed);
    }

    /// The greatest port number that is not refused as such, plus one.
    #[must_use]
    pub fn valid(&self) -> u32 {
        self.ports.valid()
    }

    /// The lowest port that is not in use and in no queue. The caller holds the lock.
    ///
    /// # Errors
    /// `NoSpc` if there is none, `Unfinished` if the search goes on when it is called again: a
    /// guest can have many in its queues.
    pub(crate) fn free_port(&self, bindings: &mut Bindings) -> Result<u32, Stop> {
        let end = self.limit.load(Ordering::Relaxed).min(bindings.abi.ports() - 1);
        let start = bindings.search.max(bindings.first_free);
        let stop = end.min(start.saturating_add(SEARCHED_AT_ONCE));
        bindings.search = 0;
        for port in start..=stop {
            if self.port(port).is_some_and(|state| state != Port::CLOSED) {
                bindings.first_free += u32::from(port == bindings.first_free);
            } else if !bindings.abi.is_busy(port) {
                return Ok(port);
            }
        }
        if stop == end {
            return Err(Errno::NoSpc.into());
        }
        bindings.search = stop;
        Err(Stop::Unfinished)
    }

    /// Puts a port that [`Self::free_port`] found to use. The caller holds the lock.
    pub(crate) fn open(
        &self,
        machine: &impl Reserve,
        bindings: &mut Bindings,
        port: u32,
        binding: Binding,
        vcpu: u32,
    ) -> Result<(), Errno> {
        let state = Port::new(binding, vcpu);
        let state = match bindings.abi {
            Abi::TwoLevel if binding == Binding::Ipi => state.local(port, vcpu),
            Abi::TwoLevel => state,
            Abi::Fifo(_) => {
                bindings.records.make_room(machine, port)?;
                bindings.records.renew(port);
                state
            }
        };
        self.ports.open(machine, port, state)?;
        bindings.active += 1;
        Ok(())
    }
}
