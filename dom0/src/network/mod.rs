//! dom0's own place in the network of guests and machine: a port of the bridge with an address of IPv4.
//!
//! It is there when the command line says so ([`settings`]). It answers ARP and echoes; connections are by TCP
//! ([`connection`]). Nothing listens by itself.

pub mod connection;
mod device;
pub mod settings;
#[cfg(test)]
mod tests;

use alloc::{format, rc::Rc, string::String, vec, vec::Vec};
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll};

use oxen_abi::domid::DomId;
use oxen_domu_lib::sync::Notify;
use oxen_domu_lib::{println, task, time};
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{AnySocket, dhcpv4};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address, Ipv4Cidr};

use crate::bridge::{Bridge, BridgePort, Mac};
use device::Device;
use settings::Settings;

/// Whom the stack works for: not dom0's prompt, which shall not wait for frames that guests send it.
const OWNER: u16 = DomId::SELF.0;
/// The port's name at the bridge.
const NAME: &str = "dom0";
/// Frames after which other tasks have their turn.
const BURST: usize = 32;

struct Inner {
    device: Device,
    interface: Interface,
    sockets: SocketSet<'static>,
    /// Sockets of connections that are given up, which say so once.
    leaving: Vec<SocketHandle>,
}

struct Shared {
    inner: RefCell<Inner>,
    port: Rc<BridgePort>,
    mac: Mac,
    settings: Settings,
    clock: fn() -> u64,
    /// A socket has something for the stack to do.
    kick: Notify,
}

/// dom0's place in the network; clones are the same one.
#[derive(Clone)]
pub struct Network(Rc<Shared>);

impl Network {
    /// A place at the bridge with the hardware's address `mac`, which has its address at once or asks for one.
    pub fn start(bridge: &Bridge, mac: Mac, settings: Settings) -> Self {
        let network = Self::new(bridge, mac, settings, time::now);
        task::spawn_for(OWNER, network.clone().drive());
        if network.0.settings == Settings::Dhcp {
            task::spawn_for(OWNER, network.clone().ask());
        }
        network
    }

    /// One that does nothing until [`Self::poll`] is called, by `clock` (nanoseconds).
    fn new(bridge: &Bridge, mac: Mac, settings: Settings, clock: fn() -> u64) -> Self {
        let port = Rc::new(bridge.attach_interface(NAME, mac));
        let mut device = Device(port.clone());
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = oxen_domu_lib::machine::tsc();
        let interface = Interface::new(config, &mut device, instant(clock));
        let inner = Inner { device, interface, sockets: SocketSet::new(vec![]), leaving: Vec::new() };
        let network =
            Self(Rc::new(Shared { inner: RefCell::new(inner), port, mac, settings, clock, kick: Notify::new() }));
        if let Settings::Fixed { address, gateway } = network.0.settings {
            network.configure(Some(address), gateway);
        }
        network
    }

    /// Sets the address and the way out of the network.
    fn configure(&self, address: Option<Ipv4Cidr>, gateway: Option<Ipv4Address>) {
        let interface = &mut self.0.inner.borrow_mut().interface;
        interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // There is room for more than one.
            addresses.extend(address.map(IpCidr::Ipv4));
        });
        interface.routes_mut().remove_default_ipv4_route();
        if let Some(gateway) = gateway {
            // There is room for one.
            let _ = interface.routes_mut().add_default_ipv4_route(gateway);
        }
        self.0.kick.notify();
    }

    /// Takes what came and sends what there is; returns how long nothing will be left to do, if nothing comes.
    fn poll(&self) -> Option<Duration> {
        let Inner { device, interface, sockets, leaving } = &mut *self.0.inner.borrow_mut();
        let now = instant(self.0.clock);
        interface.poll_maintenance(now);
        for _ in 0..BURST {
            if interface.poll_ingress_single(now, device, sockets) == PollIngressSingleResult::None {
                break;
            }
        }
        while interface.poll_egress(now, device, sockets) == PollResult::SocketStateChanged {}
        leaving.drain(..).for_each(|handle| drop(sockets.remove(handle)));
        interface.poll_delay(now, sockets)
    }

    async fn drive(self) {
        loop {
            let delay = self.poll();
            task::yield_now().await;
            let wait = task::select(self.0.port.arrived(), self.0.kick.notified());
            let nanoseconds = delay.map_or(time::SECOND, |delay| delay.total_micros().saturating_mul(1000));
            // The time being over is a reason to look as well.
            let _ = task::timeout(nanoseconds, wait).await;
        }
    }

    /// Asks for an address by DHCP, and follows what the server says.
    async fn ask(self) {
        let handle = self.add(dhcpv4::Socket::new());
        let mut leased = false;
        loop {
            let lease = self.until(handle, |socket: &mut dhcpv4::Socket<'_>, context| match socket.poll() {
                Some(dhcpv4::Event::Configured(config)) => Poll::Ready(Some((config.address, config.router))),
                Some(dhcpv4::Event::Deconfigured) => Poll::Ready(None),
                None => {
                    socket.register_waker(context.waker());
                    Poll::Pending
                }
            });
            let lease = lease.await;
            self.configure(lease.map(|(address, _)| address), lease.and_then(|(_, gateway)| gateway));
            match lease {
                Some((address, _)) => println!("dom0 has the address {address}"),
                None if leased => println!("dom0 has no address any more: its lease is over"),
                None => {}
            }
            leased = lease.is_some();
        }
    }

    /// What is known of it, in two lines.
    pub fn describe(&self) -> String {
        let interface = &self.0.inner.borrow().interface;
        let address = interface.ip_addrs().first().map_or_else(|| "no address yet".into(), |a| format!("{a}"));
        let gateway = interface
            .routes()
            .get_default_ipv4_route()
            .map_or_else(String::new, |route| format!(", gateway {}", route.via_router));
        let how = if self.0.settings == Settings::Dhcp { ", by DHCP" } else { "" };
        let (mac, counts) = (self.0.mac, self.0.port.counts());
        let (received, sent) = (counts.received.get(), counts.sent.get());
        format!("{NAME} ({mac}): {address}{gateway}{how}\n    {received} frames received, {sent} sent")
    }

    /// Whether an address is in its network, or somebody leads out of that.
    fn leads_to(&self, to: Ipv4Address) -> bool {
        let interface = &self.0.inner.borrow().interface;
        let is_near = interface.ip_addrs().iter().any(|address| address.contains_addr(&to.into()));
        is_near || interface.routes().get_default_ipv4_route().is_some() && interface.ipv4_addr().is_some()
    }

    fn add(&self, socket: impl AnySocket<'static>) -> SocketHandle {
        let handle = self.0.inner.borrow_mut().sockets.add(socket);
        self.0.kick.notify();
        handle
    }

    /// Looks into a socket, and lets the stack have its turn.
    fn with<T: AnySocket<'static>, R>(
        &self,
        handle: SocketHandle,
        look: impl FnOnce(&mut T, &mut Interface) -> R,
    ) -> R {
        let Inner { interface, sockets, .. } = &mut *self.0.inner.borrow_mut();
        self.0.kick.notify();
        look(sockets.get_mut(handle), interface)
    }

    /// Waits until `look` finds in the socket what it looks for; it registers the waker otherwise.
    async fn until<T: AnySocket<'static>, R>(
        &self,
        handle: SocketHandle,
        mut look: impl FnMut(&mut T, &mut Context<'_>) -> Poll<R>,
    ) -> R {
        poll_fn(|context| {
            let found = look(self.0.inner.borrow_mut().sockets.get_mut(handle), context);
            if found.is_ready() {
                self.0.kick.notify();
            }
            found
        })
        .await
    }
}

fn instant(clock: fn() -> u64) -> Instant {
    Instant::from_micros((clock() / 1000).cast_signed())
}
