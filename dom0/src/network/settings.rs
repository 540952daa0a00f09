//! What dom0's command line says of its address.

use anyhow::{Context, Result, bail, ensure};
use oxen_domu_lib::ip::smoltcp::wire::{Ipv4Address, Ipv4Cidr};

use crate::options::Options;

/// Where dom0's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// From the command line.
    Fixed {
        /// It, and how much of it names the network.
        address: Ipv4Cidr,
        /// Who leads out of the network.
        gateway: Option<Ipv4Address>,
    },
    /// From a server.
    Dhcp,
}

impl Settings {
    /// Reads `ip=` and `gateway=`; none where there is no `ip=`.
    ///
    /// # Errors
    /// One is no address, or one that no machine can have.
    pub fn read(options: &Options) -> Result<Option<Self>> {
        let gateway = options.gateway.as_deref();
        let Some(ip) = options.ip.as_deref() else {
            ensure!(gateway.is_none(), "`gateway=` says nothing without `ip=`");
            return Ok(None);
        };
        if ip == "dhcp" {
            ensure!(gateway.is_none(), "`gateway=` is the server's to say where `ip=dhcp` is");
            return Ok(Some(Self::Dhcp));
        }
        let parsed = ip.parse::<Ipv4Cidr>().ok().filter(|cidr| (1..=30).contains(&cidr.prefix_len()));
        let Some(address) = parsed else { bail!("`ip={ip}` is neither a.b.c.d/LENGTH (1 to 30) nor dhcp") };
        let is_host = |at: Ipv4Address| !at.is_unspecified() && !at.is_multicast() && !at.is_loopback();
        ensure!(
            is_host(address.address())
                && Some(address.address()) != address.broadcast()
                && address.address() != address.network().address(),
            "`ip={ip}` is no machine's address"
        );
        let is_there = |at: &Ipv4Address| address.contains_addr(at) && *at != address.address();
        let gateway = gateway
            .map(|text| {
                let read = text.parse::<Ipv4Address>().ok().filter(is_there);
                read.with_context(|| format_gateway(text, address))
            })
            .transpose()?;
        Ok(Some(Self::Fixed { address, gateway }))
    }
}

fn format_gateway(text: &str, address: Ipv4Cidr) -> alloc::string::String {
    alloc::format!("`gateway={text}` is no other address in {}", address.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Settings>> {
        Settings::read(&Options::parse(line))
    }

    #[test]
    fn an_address_is_fixed_or_a_servers_to_say() {
        assert_eq!(read("debug-exit").unwrap(), None);
        assert_eq!(read("ip=dhcp").unwrap(), Some(Settings::Dhcp));
        let address = Ipv4Cidr::new(Ipv4Address::new(10, 9, 0, 1), 24);
        assert_eq!(read("ip=10.9.0.1/24").unwrap(), Some(Settings::Fixed { address, gateway: None }));
        let gateway = Some(Ipv4Address::new(10, 9, 0, 254));
        assert_eq!(read("ip=10.9.0.1/24 gateway=10.9.0.254").unwrap(), Some(Settings::Fixed { address, gateway }));
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (line, why) in [
            ("ip=10.9.0.1", "neither a.b.c.d/LENGTH"),
            ("ip=10.9.0.1/31", "neither a.b.c.d/LENGTH"),
            ("ip=DHCP", "neither a.b.c.d/LENGTH"),
            ("ip=10.9.0.0/24", "no machine's address"),
            ("ip=10.9.0.255/24", "no machine's address"),
            ("ip=127.0.0.1/8", "no machine's address"),
            ("ip=224.0.0.1/24", "no machine's address"),
            ("gateway=10.9.0.1", "nothing without `ip=`"),
            ("ip=dhcp gateway=10.9.0.1", "the server's to say"),
            ("ip=10.9.0.1/24 gateway=10.8.0.1", "no other address in 10.9.0.0/24"),
            ("ip=10.9.0.1/24 gateway=10.9.0.1", "no other address in 10.9.0.0/24"),
        ] {
            let error = format!("{:#}", read(line).unwrap_err());
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
