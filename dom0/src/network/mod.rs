//! dom0's own place in the network of guests and machine: a port of the bridge with an address of IPv4.
//!
//! It is there when the command line says so ([`settings`]). It answers ARP and echoes; connections are by TCP
//! ([`connection`]). Nothing listens by itself.

pub mod connection;
mod device;
pub mod settings;
#[cfg(test)]
mod tests;

use alloc::{format, rc::Rc, string::String};

use oxen_abi::domid::DomId;
use oxen_domu_lib::ip::{Lease, Stack, smoltcp::wire::Ipv4Address};
use oxen_domu_lib::{println, task, time};

use crate::bridge::{Bridge, BridgePort, Mac};
use device::Device;
use settings::Settings;

/// Whom the stack works for: not dom0's prompt, which shall not wait for frames that guests send it.
const OWNER: u16 = DomId::SELF.0;
/// The port's name at the bridge.
const NAME: &str = "dom0";

/// dom0's place in the network; clones are the same one.
#[derive(Clone)]
pub struct Network {
    stack: Stack<Device>,
    port: Rc<BridgePort>,
    mac: Mac,
    settings: Settings,
}

impl Network {
    /// A place at the bridge with the hardware's address `mac`, which has its address at once or asks for one.
    pub fn start(bridge: &Bridge, mac: Mac, settings: Settings) -> Self {
        let network = Self::new(bridge, mac, settings, time::now);
        let stack = network.stack.clone();
        task::spawn_for(OWNER, async move { match stack.drive().await {} });
        if network.settings == Settings::Dhcp {
            task::spawn_for(OWNER, network.stack.clone().follow_leases(say));
        }
        network
    }

    /// One that does nothing until its stack is driven, by `clock` (nanoseconds).
    fn new(bridge: &Bridge, mac: Mac, settings: Settings, clock: fn() -> u64) -> Self {
        let port = Rc::new(bridge.attach_interface(NAME, mac));
        let stack = Stack::new(Device(port.clone()), mac.0, clock);
        if let Settings::Fixed { address, gateway } = settings {
            stack.configure(Some(address), gateway);
        }
        Self { stack, port, mac, settings }
    }

    /// What is known of it, in two lines.
    pub fn describe(&self) -> String {
        let (address, gateway) = self.stack.interface(|interface| {
            let address = interface.ip_addrs().first().map_or_else(|| "no address yet".into(), |a| format!("{a}"));
            let route = interface.routes().get_default_ipv4_route();
            (address, route.map_or_else(String::new, |route| format!(", gateway {}", route.via_router)))
        });
        let how = if self.settings == Settings::Dhcp { ", by DHCP" } else { "" };
        let (mac, counts) = (self.mac, self.port.counts());
        let (received, sent) = (counts.received.get(), counts.sent.get());
        format!("{NAME} ({mac}): {address}{gateway}{how}\n    {received} frames received, {sent} sent")
    }

    /// Whether an address is in its network, or somebody leads out of that.
    fn leads_to(&self, to: Ipv4Address) -> bool {
        self.stack.interface(|interface| {
            let is_near = interface.ip_addrs().iter().any(|address| address.contains_addr(&to.into()));
            is_near || interface.routes().get_default_ipv4_route().is_some() && interface.ipv4_addr().is_some()
        })
    }
}

fn say(lease: Option<Lease>) {
    match lease {
        Some((address, _)) => println!("dom0 has the address {address}"),
        None => println!("dom0 has no address any more: its lease is over"),
    }
}
