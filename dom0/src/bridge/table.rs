//! Where addresses are: those that interfaces were given stay with them, others are where they were seen last, bounded
//! for each port and forgotten with time.

use alloc::collections::{BTreeMap, BTreeSet};

use super::packet::Mac;

/// Addresses that are kept for one guest's port; a guest that shows more has the rest flooded.
pub const MAX_ADDRESSES: usize = 256;
/// Addresses that are kept for a network's port.
pub const MAX_NETWORK_ADDRESSES: usize = 4096;
/// How long an address is kept that is not seen again, in nanoseconds.
pub const KEPT: u64 = 300_000_000_000;
/// How often old ones are looked for when there is no room, in nanoseconds.
const SWEEP: u64 = 1_000_000_000;

/// Names a port; never used twice.
pub type PortId = u64;

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A guest, which may say anything.
    Guest,
    /// The network that the machine is on: what is there, no guest can take.
    Network,
}

/// An address that is another port's, and was not learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken;

struct Seen {
    port: PortId,
    side: Side,
    last: u64,
}

impl Seen {
    const fn is_fresh(&self, now: u64) -> bool {
        now.saturating_sub(self.last) < KEPT
    }
}

/// The addresses of a bridge.
#[derive(Default)]
pub struct Table {
    /// Where an address was seen last; never at a port that may not have it.
    addresses: BTreeMap<Mac, Seen>,
    /// The addresses that interfaces were given, with their ports. An address can be several interfaces'.
    given: BTreeSet<(Mac, PortId)>,
    counts: BTreeMap<PortId, usize>,
    swept: u64,
}

impl Table {
    /// Gives `mac` to a port: from now on, only ports to which it was given have it.
    pub fn give(&mut self, mac: Mac, port: PortId) {
        self.given.insert((mac, port));
        if let Some(seen) = self.addresses.get(&mac)
            && !self.given.contains(&(mac, seen.port))
        {
            let port = seen.port;
            self.addresses.remove(&mac);
            self.uncount(port);
        }
    }

    /// Notes that `mac` was seen at `port` at the time `now`.
    ///
    /// # Errors
    /// [`Taken`]: it was given to another port, or is on the network while `port` is a guest's.
    pub fn learn(&mut self, mac: Mac, port: PortId, side: Side, now: u64) -> Result<(), Taken> {
        if mac.is_group() || mac == Mac([0; 6]) {
            return Ok(());
        }
        match self.addresses.get_mut(&mac) {
            Some(seen) if seen.port == port => {
                seen.last = now;
                return Ok(());
            }
            Some(seen) if seen.side == Side::Network && side == Side::Guest && seen.is_fresh(now) => return Err(Taken),
            _ => {}
        }
        let given = self.holders(mac).next().is_some();
        if given && !self.given.contains(&(mac, port)) {
            return Err(Taken);
        }
        let most = match side {
            Side::Guest => MAX_ADDRESSES,
            Side::Network => MAX_NETWORK_ADDRESSES,
        };
        let full = |table: &Self| !given && table.counts.get(&port).is_some_and(|&count| count >= most);
        if full(self) && now.saturating_sub(self.swept) >= SWEEP {
            self.swept = now;
            self.retain(|seen| seen.is_fresh(now));
        }
        if full(self) {
            return Ok(());
        }
        if let Some(before) = self.addresses.insert(mac, Seen { port, side, last: now }) {
            self.uncount(before.port);
        }
        *self.counts.entry(port).or_default() += 1;
        Ok(())
    }

    /// Where `mac` was seen last, if not too long ago; otherwise the port that it was given to last.
    pub fn find(&self, mac: Mac, now: u64) -> Option<PortId> {
        let seen = self.addresses.get(&mac).filter(|seen| seen.is_fresh(now));
        seen.map(|seen| seen.port).or_else(|| self.holders(mac).next_back())
    }

    /// The ports that `mac` was given to, in the order in which they were attached.
    fn holders(&self, mac: Mac) -> impl DoubleEndedIterator<Item = PortId> {
        self.given.range((mac, PortId::MIN)..=(mac, PortId::MAX)).map(|&(_, port)| port)
    }

    /// All addresses that were seen not too long ago: each with its port, and how long ago that was.
    pub fn all(&self, now: u64) -> impl Iterator<Item = (Mac, PortId, u64)> {
        let fresh = self.addresses.iter().filter(move |(_, seen)| seen.is_fresh(now));
        fresh.map(move |(&mac, seen)| (mac, seen.port, now.saturating_sub(seen.last)))
    }

    /// Forgets a port.
    pub fn forget(&mut self, port: PortId) {
        self.given.retain(|&(_, holder)| holder != port);
        self.retain(|seen| seen.port != port);
    }

    fn retain(&mut self, keep: impl Fn(&Seen) -> bool) {
        self.addresses.retain(|_, seen| keep(seen));
        self.counts.clear();
        for seen in self.addresses.values() {
            *self.counts.entry(seen.port).or_default() += 1;
        }
    }

    fn uncount(&mut self, port: PortId) {
        if let Some(count) = self.counts.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    impl Table {
        /// Learns from a guest.
        fn hear(&mut self, mac: Mac, port: PortId, now: u64) -> Result<(), Taken> {
            self.learn(mac, port, Side::Guest, now)
        }
    }

    #[test]
    fn an_address_is_found_where_it_was_seen_last() {
        let mut table = Table::default();
        table.hear(mac(1), 7, 0).unwrap();
        assert_eq!(table.find(mac(1), 0), Some(7));
        table.hear(mac(1), 8, 1).unwrap();
        assert_eq!(table.find(mac(1), 1), Some(8));
        table.forget(8);
        assert_eq!(table.find(mac(1), 1), None);
        assert!(table.counts.is_empty());
    }

    #[test]
    fn addresses_are_forgotten_with_time() {
        let mut table = Table::default();
        table.hear(mac(1), 7, 0).unwrap();
        assert_eq!(table.find(mac(1), KEPT - 1), Some(7));
        assert_eq!(table.find(mac(1), KEPT), None);
    }

    #[test]
    fn one_port_cannot_fill_the_table() {
        let mut table = Table::default();
        (0..10_000).for_each(|n| table.hear(mac(n), 7, 5).unwrap());
        assert_eq!(table.addresses.len(), MAX_ADDRESSES);
        table.hear(mac(20_000), 8, 5).unwrap();
        assert_eq!(table.find(mac(20_000), 5), Some(8));
        // Old ones make room for new ones, for the others too.
        table.hear(mac(30_000), 7, 5 + KEPT).unwrap();
        assert_eq!(table.find(mac(30_000), 5 + KEPT), Some(7));
        assert_eq!(table.addresses.len(), 1);
    }

    #[test]
    fn groups_are_nobodys_address() {
        let mut table = Table::default();
        table.hear(Mac([0xff; 6]), 1, 0).unwrap();
        table.hear(Mac([1, 0, 0x5e, 0, 0, 1]), 1, 0).unwrap();
        table.hear(Mac([0; 6]), 1, 0).unwrap();
        assert!(table.addresses.is_empty());
    }
    #[test]
    fn what_an_interface_was_given_is_nowhere_else() {
        let mut table = Table::default();
        table.hear(mac(1), 8, 0).unwrap();
        table.give(mac(1), 7);
        // Found before it speaks, whoever spoke before, and long after.
        assert_eq!(table.find(mac(1), 0), Some(7));
        assert!(table.counts.is_empty());
        assert_eq!(table.hear(mac(1), 8, 0), Err(Taken));
        assert_eq!(table.learn(mac(1), 9, Side::Network, 0), Err(Taken));
        assert_eq!(table.hear(mac(1), 7, 0), Ok(()));
        assert_eq!(table.hear(mac(1), 8, 2 * KEPT), Err(Taken));
        assert_eq!(table.find(mac(1), 2 * KEPT), Some(7));
        // Its other addresses do not crowd it out.
        (2..10_000).for_each(|n| table.hear(mac(n), 7, 2 * KEPT).unwrap());
        table.retain(|seen| seen.port != 7 || seen.last != 0);
        assert_eq!(table.hear(mac(1), 7, 2 * KEPT), Ok(()));
        assert_eq!(table.find(mac(1), 2 * KEPT), Some(7));
        table.forget(7);
        assert_eq!(table.find(mac(1), 2 * KEPT), None);
        assert_eq!(table.hear(mac(1), 8, 2 * KEPT), Ok(()));
    }

    #[test]
    fn an_address_that_two_interfaces_were_given_is_where_one_of_them_spoke_last() {
        let mut table = Table::default();
        table.give(mac(1), 7);
        table.give(mac(1), 8);
        assert_eq!(table.find(mac(1), 0), Some(8));
        assert_eq!(table.hear(mac(1), 7, 0), Ok(()));
        assert_eq!(table.find(mac(1), 0), Some(7));
        assert_eq!(table.hear(mac(1), 8, 0), Ok(()));
        assert_eq!(table.hear(mac(1), 9, 0), Err(Taken));
        table.forget(8);
        assert_eq!(table.find(mac(1), 0), Some(7));
    }

    #[test]
    fn a_guest_cannot_take_what_is_on_the_network() {
        let mut table = Table::default();
        table.hear(mac(1), 7, 0).unwrap();
        table.learn(mac(1), 1, Side::Network, 1).unwrap();
        assert_eq!(table.find(mac(1), 1), Some(1));
        assert_eq!(table.hear(mac(1), 7, KEPT), Err(Taken));
        // It went away, perhaps into a guest.
        assert_eq!(table.hear(mac(1), 7, KEPT + 1), Ok(()));
        assert_eq!(table.find(mac(1), KEPT + 1), Some(7));
        (0..10_000).for_each(|n| table.learn(mac(100 + n), 1, Side::Network, KEPT).unwrap());
        assert_eq!(table.counts[&1], MAX_NETWORK_ADDRESSES);
    }
}
