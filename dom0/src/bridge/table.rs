//! Which address was last seen at which port: bounded for each port, forgotten with time.

use alloc::collections::BTreeMap;

use super::packet::Mac;

/// Addresses that are kept for one port; a guest that shows more has the rest flooded.
pub const MOST_ADDRESSES: usize = 256;
/// How long an address is kept that is not seen again, in nanoseconds.
pub const KEPT: u64 = 300_000_000_000;
/// How often old ones are looked for when there is no room, in nanoseconds.
const SWEEP: u64 = 1_000_000_000;

/// Names a port; never used twice.
pub type PortId = u64;

struct Seen {
    port: PortId,
    last: u64,
}

/// The addresses of a bridge.
#[derive(Default)]
pub struct Table {
    addresses: BTreeMap<Mac, Seen>,
    counts: BTreeMap<PortId, usize>,
    swept: u64,
}

impl Table {
    /// Notes that `mac` was seen at `port` at the time `now`.
    pub fn learn(&mut self, mac: Mac, port: PortId, now: u64) {
        if mac.is_group() || mac == Mac([0; 6]) {
            return;
        }
        if let Some(seen) = self.addresses.get_mut(&mac)
            && seen.port == port
        {
            seen.last = now;
            return;
        }
        let full = |table: &Self| table.counts.get(&port).is_some_and(|&count| count >= MOST_ADDRESSES);
        if full(self) && now.saturating_sub(self.swept) >= SWEEP {
            self.swept = now;
            self.retain(|seen| now.saturating_sub(seen.last) < KEPT);
        }
        if full(self) {
            return;
        }
        if let Some(before) = self.addresses.insert(mac, Seen { port, last: now }) {
            self.uncount(before.port);
        }
        *self.counts.entry(port).or_default() += 1;
    }

    /// Where `mac` was seen last, if not too long ago.
    pub fn find(&self, mac: Mac, now: u64) -> Option<PortId> {
        let seen = self.addresses.get(&mac)?;
        (now.saturating_sub(seen.last) < KEPT).then_some(seen.port)
    }

    /// All addresses that [`Table::find`] finds: each with its port, and how long ago it was seen.
    pub fn all(&self, now: u64) -> impl Iterator<Item = (Mac, PortId, u64)> {
        let aged = self.addresses.iter().map(move |(&mac, seen)| (mac, seen.port, now.saturating_sub(seen.last)));
        aged.filter(|&(_, _, age)| age < KEPT)
    }

    /// Forgets a port.
    pub fn forget(&mut self, port: PortId) {
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

    #[test]
    fn an_address_is_found_where_it_was_seen_last() {
        let mut table = Table::default();
        table.learn(mac(1), 7, 0);
        assert_eq!(table.find(mac(1), 0), Some(7));
        table.learn(mac(1), 8, 1);
        assert_eq!(table.find(mac(1), 1), Some(8));
        table.forget(8);
        assert_eq!(table.find(mac(1), 1), None);
        assert!(table.counts.is_empty());
    }

    #[test]
    fn addresses_are_forgotten_with_time() {
        let mut table = Table::default();
        table.learn(mac(1), 7, 0);
        assert_eq!(table.find(mac(1), KEPT - 1), Some(7));
        assert_eq!(table.find(mac(1), KEPT), None);
    }

    #[test]
    fn one_port_cannot_fill_the_table() {
        let mut table = Table::default();
        (0..10_000).for_each(|n| table.learn(mac(n), 7, 5));
        assert_eq!(table.addresses.len(), MOST_ADDRESSES);
        table.learn(mac(20_000), 8, 5);
        assert_eq!(table.find(mac(20_000), 5), Some(8));
        // Old ones make room for new ones, for the others too.
        table.learn(mac(30_000), 7, 5 + KEPT);
        assert_eq!(table.find(mac(30_000), 5 + KEPT), Some(7));
        assert_eq!(table.addresses.len(), 1);
    }

    #[test]
    fn groups_are_nobodys_address() {
        let mut table = Table::default();
        table.learn(Mac([0xff; 6]), 1, 0);
        table.learn(Mac([1, 0, 0x5e, 0, 0, 1]), 1, 0);
        table.learn(Mac([0; 6]), 1, 0);
        assert!(table.addresses.is_empty());
    }
}
