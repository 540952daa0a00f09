//! One port of a domain, packed in one word, so that a sender reads at once what it is and where it leads.

use crate::{
    config::{MAX_DOMAINS, MAX_PORTS, MAX_VCPUS},
    mem::frame_type::Owner,
};
use oxen_abi::{domid::DomId, event_channel as abi};

/// What a port is. The order of the kinds is the ABI's (`EVTCHNSTAT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Not in use.
    Closed,
    /// Waits for a domain to bind to it.
    Unbound {
        /// Who may.
        remote: DomId,
    },
    /// Leads to a port of a domain, which leads back here.
    Interdomain {
        /// The other domain.
        remote: DomId,
        /// The other domain's slot in the domain table.
        slot: u16,
        /// The port there.
        port: u32,
    },
    /// Fed by a physical interrupt.
    Pirq(u32),
    /// Fed by a virtual interrupt.
    Virq(u32),
    /// Fed by the domain's own vcpus.
    Ipi,
}

/// A port's word: kind 0..3, vcpu 3..10, remote domain 10..26, its slot 26..34, remote port or interrupt
/// 34..51; of a port by which bits are set in the domain's own `shared_info`, also the vcpu that is
/// notified there 51..58, and a mark 58.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Port(u64);

const KIND: u64 = 7;
const VCPU_SHIFT: u32 = 3;
const VCPU: u64 = 0x7f;
const REMOTE_SHIFT: u32 = 10;
const SLOT_SHIFT: u32 = 26;
const SLOT: u64 = 0xff;
const NUMBER_SHIFT: u32 = 34;
const NUMBER: u64 = 0x1_ffff;
const TARGET_SHIFT: u32 = 51;
const LOCAL: u64 = 1 << 58;

const _: () = assert!(MAX_VCPUS as u64 <= VCPU + 1 && MAX_DOMAINS as u64 <= SLOT + 1 && MAX_PORTS as u64 <= NUMBER + 1);

impl Port {
    /// A port that is not in use.
    pub const CLOSED: Self = Self(0);

    /// A port that notifies `vcpu`.
    #[must_use]
    pub fn new(binding: Binding, vcpu: u32) -> Self {
        let (kind, remote, slot, number) = match binding {
            Binding::Closed => return Self::CLOSED,
            Binding::Unbound { remote } => (abi::EVTCHNSTAT_UNBOUND, remote.0, 0, 0),
            Binding::Interdomain { remote, slot, port } => (abi::EVTCHNSTAT_INTERDOMAIN, remote.0, slot, port),
            Binding::Pirq(pirq) => (abi::EVTCHNSTAT_PIRQ, 0, 0, pirq),
            Binding::Virq(virq) => (abi::EVTCHNSTAT_VIRQ, 0, 0, virq),
            Binding::Ipi => (abi::EVTCHNSTAT_IPI, 0, 0, 0),
        };
        Self(
            u64::from(kind)
                | (u64::from(vcpu) & VCPU) << VCPU_SHIFT
                | u64::from(remote) << REMOTE_SHIFT
                | (u64::from(slot) & SLOT) << SLOT_SHIFT
                | (u64::from(number) & NUMBER) << NUMBER_SHIFT,
        )
    }

    /// The word.
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// A word read from a domain's ports.
    #[inline]
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The kind as the ABI numbers it (`EVTCHNSTAT_*`).
    #[inline]
    #[must_use]
    pub const fn kind(self) -> u32 {
        (self.0 & KIND) as u32
    }

    /// The vcpu that is notified.
    #[inline]
    #[must_use]
    pub const fn vcpu(self) -> u32 {
        ((self.0 >> VCPU_SHIFT) & VCPU) as u32
    }

    /// The same port, notifying another vcpu.
    #[must_use]
    pub const fn notifying(self, vcpu: u32) -> Self {
        Self(self.0 & !(VCPU << VCPU_SHIFT) | (vcpu as u64 & VCPU) << VCPU_SHIFT)
    }

    /// The slot of the domain that an interdomain port leads to.
    #[inline]
    #[must_use]
    pub const fn remote_slot(self) -> u16 {
        ((self.0 >> SLOT_SHIFT) & SLOT) as u16
    }

    /// The same port, whose events become bits of its own domain: of port `to`, which notifies `vcpu`.
    #[must_use]
    pub const fn local(self, to: u32, vcpu: u32) -> Self {
        let word = self.0 & !(NUMBER << NUMBER_SHIFT | VCPU << TARGET_SHIFT);
        Self(word | (to as u64 & NUMBER) << NUMBER_SHIFT | (vcpu as u64 & VCPU) << TARGET_SHIFT | LOCAL)
    }

    /// The same port without [`Self::target`].
    #[must_use]
    pub const fn not_local(self) -> Self {
        Self(self.0 & !(VCPU << TARGET_SHIFT | LOCAL))
    }

    /// The port of its own domain whose bit it sets, if it does, and the vcpu that is notified there.
    #[inline]
    #[must_use]
    pub const fn target(self) -> Option<(u32, u32)> {
        if self.0 & LOCAL == 0 { None } else { Some((self.number(), (self.0 >> TARGET_SHIFT & VCPU) as u32)) }
    }

    /// Whether an interdomain port leads to the domain that the frame table calls `owner`.
    #[inline]
    #[must_use]
    pub fn leads_to(self, owner: Owner) -> bool {
        Owner::domain(self.remote_slot().into()) == Some(owner)
    }

    /// The port that an interdomain port leads to, the number of an interrupt.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u32 {
        ((self.0 >> NUMBER_SHIFT) & NUMBER) as u32
    }

    const fn remote(self) -> DomId {
        DomId((self.0 >> REMOTE_SHIFT) as u16)
    }

    /// What the port is.
    #[must_use]
    pub const fn binding(self) -> Binding {
        match self.kind() {
            abi::EVTCHNSTAT_UNBOUND => Binding::Unbound { remote: self.remote() },
            abi::EVTCHNSTAT_INTERDOMAIN => {
                Binding::Interdomain { remote: self.remote(), slot: self.remote_slot(), port: self.number() }
            }
            abi::EVTCHNSTAT_PIRQ => Binding::Pirq(self.number()),
            abi::EVTCHNSTAT_VIRQ => Binding::Virq(self.number()),
            abi::EVTCHNSTAT_IPI => Binding::Ipi,
            _ => Binding::Closed,
        }
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} on vcpu {}", self.binding(), self.vcpu())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_says_what_it_was_made_of() {
        let remote = DomId(0x7fef);
        for binding in [
            Binding::Closed,
            Binding::Unbound { remote },
            Binding::Interdomain { remote, slot: 255, port: 0x1_ffff },
            Binding::Pirq(255),
            Binding::Virq(23),
            Binding::Ipi,
        ] {
            let port = Port::new(binding, 127);
            assert_eq!(port.binding(), binding);
            if binding != Binding::Closed {
                assert_eq!((port.vcpu(), port.notifying(2).vcpu()), (127, 2));
                assert_eq!(port.notifying(2).binding(), binding);
                assert_eq!(port.notifying(2).target(), None);
            }
        }
        let local = Port::new(Binding::Ipi, 127).local(0x1_ffff, 126);
        assert_eq!((local.target(), local.not_local().target(), local.vcpu()), (Some((0x1_ffff, 126)), None, 127));
    }
}
