//! What a bridge shows of itself: its ports with what went through them, and where addresses were seen.

use alloc::{string::String, vec::Vec};

use super::{Bridge, Mac};

/// A port and what has happened there, seen from who is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Its name.
    pub name: String,
    /// Frames that came from it, and their bytes.
    pub sent: (u64, u64),
    /// Frames that it took, and their bytes.
    pub received: (u64, u64),
    /// Frames that it did not take in time.
    pub dropped: u64,
    /// Frames from it that could not be what they said.
    pub malformed: u64,
}

/// Where an address was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressView {
    /// The port's name.
    pub port: String,
    /// The address.
    pub address: Mac,
    /// Nanoseconds since.
    pub age: u64,
}

impl Bridge {
    /// All ports, in the order in which they were attached.
    pub fn ports(&self) -> Vec<PortView> {
        let ports = self.0.ports.borrow();
        let view = |port: &alloc::rc::Rc<super::Queue>| PortView {
            name: port.name.clone(),
            sent: (port.counts.sent.get(), port.counts.sent_bytes.get()),
            received: (port.counts.received.get(), port.counts.received_bytes.get()),
            dropped: port.counts.dropped.get(),
            malformed: port.counts.malformed.get(),
        };
        ports.values().map(view).collect()
    }

    /// All addresses that are still believed, port by port.
    pub fn addresses(&self) -> Vec<AddressView> {
        let (ports, now) = (self.0.ports.borrow(), (self.0.clock)());
        let table = self.0.table.borrow();
        let mut seen: Vec<_> = table.all(now).collect();
        seen.sort_by_key(|&(address, port, _)| (port, address));
        let name = |port| ports.get(&port).map_or_else(String::new, |queue| queue.name.clone());
        seen.into_iter().map(|(address, port, age)| AddressView { port: name(port), address, age }).collect()
    }
}
