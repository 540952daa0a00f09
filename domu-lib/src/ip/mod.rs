//! A protocol stack for tasks: an address of IPv4, fixed or leased by DHCP, echoes, connections by TCP. The protocols
//! are [`smoltcp`]'s; here frames come to it, and tasks wait for what comes of them. Feature `ip`.
//!
//! ```no_run
//! use oxen_domu_lib::{frontend::net::Net, ip::{Stack, Tcp, link::NetLink}, store::Store, task, time};
//!
//! async fn greet(store: &Store) -> Option<()> {
//!     let net = NetLink::new(Net::connect(store, "0").await.ok()?);
//!     let stack = Stack::new(net.clone(), net.mac(), time::now);
//!     task::spawn({
//!         let stack = stack.clone();
//!         async move { _ = stack.drive().await }
//!     });
//!     stack.configure(Some("10.0.0.2/24".parse().ok()?), None);
//!     let connection = Tcp::new(&stack, 64 << 10, |_| {});
//!     connection.listen(7).ok()?;
//!     if connection.established().await {
//!         connection.write(b"hello\r\n").await.ok()?;
//!         connection.close(time::SECOND).await;
//!     }
//!     Some(())
//! }
//! ```

pub mod link;
mod tcp;

use link::Device;
pub use link::Link;
pub use smoltcp;
pub use tcp::{Broken, Tcp};

use alloc::{rc::Rc, vec, vec::Vec};
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll};

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{AnySocket, dhcpv4};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address, Ipv4Cidr};

use crate::raw::machine;
use crate::sync::Notify;
use crate::{task, time};

/// Frames after which other tasks have their turn.
const BURST: usize = 32;

/// What a server of addresses has lent: the address, and the way out of its network.
pub type Lease = (Ipv4Cidr, Option<Ipv4Address>);

struct Inner<L> {
    device: Device<L>,
    interface: Interface,
    sockets: SocketSet<'static>,
    /// Sockets that are given up. They are looked at once more: those of connections say so to the other end.
    leaving: Vec<SocketHandle>,
}

struct Shared<L> {
    inner: RefCell<Inner<L>>,
    link: L,
    clock: fn() -> u64,
    /// A socket has something for the stack to do.
    kick: Notify,
}

/// A stack on a link; clones are the same one. It does nothing unless it is driven.
pub struct Stack<L>(Rc<Shared<L>>);

impl<L> Clone for Stack<L> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<L: Link> Stack<L> {
    /// A stack with the hardware's address `mac` and no other yet. Time is told by `clock`, in nanoseconds.
    pub fn new(link: L, mac: [u8; 6], clock: fn() -> u64) -> Self {
        let mut device = Device(link.clone());
        let mut config = Config::new(EthernetAddress(mac).into());
        config.random_seed = machine::tsc();
        let interface = Interface::new(config, &mut device, instant(clock));
        let inner = Inner { device, interface, sockets: SocketSet::new(vec![]), leaving: Vec::new() };
        Self(Rc::new(Shared { inner: RefCell::new(inner), link, clock, kick: Notify::new() }))
    }

    /// Does what there is to do, and waits for more, until the link has come to its end.
    pub async fn drive(self) -> L::End {
        loop {
            let delay = self.poll();
            // Other tasks have their turn even while frames come without a pause.
            task::yield_now().await;
            let wait = task::select(self.0.link.ready(), self.0.kick.notified());
            let nanoseconds = delay.map_or(time::SECOND, |delay| delay.total_micros().saturating_mul(1000));
            // The time being over is a reason to look as well.
            if let Ok(task::Either::First(Err(end))) = task::timeout(nanoseconds, wait).await {
                return end;
            }
        }
    }

    /// Takes what came and sends what there is; returns how long nothing will be left to do, if nothing comes.
    pub fn poll(&self) -> Option<Duration> {
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

    /// Sets the address and the way out of the network.
    pub fn configure(&self, address: Option<Ipv4Cidr>, gateway: Option<Ipv4Address>) {
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

    /// Asks for an address by DHCP and follows what the server says, for good; `told` hears of each lease, and of the
    /// end of one that nothing follows.
    pub async fn follow_leases(self, told: impl Fn(Option<Lease>)) {
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
            // The first word is that there is none.
            if leased || lease.is_some() {
                self.configure(lease.map(|(address, _)| address), lease.and_then(|(_, gateway)| gateway));
                told(lease);
            }
            leased = lease.is_some();
        }
    }

    /// Looks at the interface.
    pub fn interface<R>(&self, look: impl FnOnce(&mut Interface) -> R) -> R {
        look(&mut self.0.inner.borrow_mut().interface)
    }

    /// Adds a socket.
    pub fn add(&self, socket: impl AnySocket<'static>) -> SocketHandle {
        let handle = self.0.inner.borrow_mut().sockets.add(socket);
        self.0.kick.notify();
        handle
    }

    /// Takes a socket away, when it was looked at once more.
    pub fn remove(&self, handle: SocketHandle) {
        self.0.inner.borrow_mut().leaving.push(handle);
        self.0.kick.notify();
    }

    /// How many sockets there are.
    pub fn sockets(&self) -> usize {
        self.0.inner.borrow().sockets.iter().count()
    }

    /// Looks into a socket, and lets the stack have its turn.
    pub fn with<T: AnySocket<'static>, R>(
        &self,
        handle: SocketHandle,
        look: impl FnOnce(&mut T, &mut Interface) -> R,
    ) -> R {
        let Inner { interface, sockets, .. } = &mut *self.0.inner.borrow_mut();
        self.0.kick.notify();
        look(sockets.get_mut(handle), interface)
    }

    /// Waits until `look` finds in the socket what it looks for; it registers the waker otherwise.
    pub async fn until<T: AnySocket<'static>, R>(
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
