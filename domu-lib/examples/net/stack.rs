//! The protocol stack as tasks use it: an address, echoes, connections.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll};

use oxen_domu_lib::frontend::net::{Frame, Net, NetError};
use oxen_domu_lib::sync::Notify;
use oxen_domu_lib::{println, task, time};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{dhcpv4, icmp, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    IpAddress, IpCidr, Ipv4Address, Ipv4Cidr,
};

use crate::device::Device;

/// Bytes that a connection keeps in each direction.
const WINDOW: usize = 128 * 1024;

struct Inner {
    device: Device,
    interface: Interface,
    sockets: SocketSet<'static>,
}

struct Shared {
    inner: RefCell<Inner>,
    net: Rc<Net>,
    /// A socket has something for the stack to do.
    kick: Notify,
}

/// A handle to the stack; clones share it.
#[derive(Clone)]
pub(crate) struct Stack(Rc<Shared>);

fn instant() -> Instant {
    Instant::from_micros((time::now() / 1000).cast_signed())
}

impl Stack {
    /// A stack on `net`, without an address.
    pub(crate) fn new(net: Rc<Net>) -> Self {
        let mut config = Config::new(EthernetAddress(net.mac()).into());
        config.random_seed = time::wall();
        let mut device = Device(net.clone());
        let interface = Interface::new(config, &mut device, instant());
        let inner = RefCell::new(Inner { device, interface, sockets: SocketSet::new(vec![]) });
        Self(Rc::new(Shared { inner, net, kick: Notify::new() }))
    }

    /// Does what the stack is there for, until the device closes.
    pub(crate) async fn drive(self) -> NetError {
        let shared = &self.0;
        loop {
            let delay = {
                let Inner { device, interface, sockets } = &mut *shared.inner.borrow_mut();
                interface.poll(instant(), device, sockets);
                interface.poll_delay(instant(), sockets)
            };
            // Other tasks have their turn even while frames come without a pause.
            task::yield_now().await;
            let wait = async {
                if !shared.net.has_room() {
                    return shared.net.writable().await;
                }
                match task::select(shared.net.readable(), shared.kick.notified()).await {
                    task::Either::First(result) => result,
                    task::Either::Second(()) => Ok(()),
                }
            };
            let nanoseconds = delay.map_or(time::SECOND, |delay| delay.total_micros().saturating_mul(1000));
            if let Ok(Err(error)) = task::timeout(nanoseconds, wait).await {
                return error;
            }
        }
    }

    /// Looks into a socket, and lets the stack have its turn.
    fn with<T: smoltcp::socket::AnySocket<'static>, R>(
        &self,
        handle: SocketHandle,
        look: impl FnOnce(&mut T, &mut Interface) -> R,
    ) -> R {
        let Inner { interface, sockets, .. } = &mut *self.0.inner.borrow_mut();
        self.0.kick.notify();
        look(sockets.get_mut(handle), interface)
    }

    /// Waits until `look` finds in the socket what it looks for; it registers the waker otherwise.
    async fn until<T: smoltcp::socket::AnySocket<'static>, R>(
        &self,
        handle: SocketHandle,
        mut look: impl FnMut(&mut T, &mut Context<'_>) -> Poll<R>,
    ) -> R {
        poll_fn(|context| {
            let Inner { sockets, .. } = &mut *self.0.inner.borrow_mut();
            let found = look(sockets.get_mut(handle), context);
            if found.is_ready() {
                self.0.kick.notify();
            }
            found
        })
        .await
    }

    fn add<T: smoltcp::socket::AnySocket<'static>>(&self, socket: T) -> SocketHandle {
        self.0.inner.borrow_mut().sockets.add(socket)
    }

    /// Sets the address and the way out of the network.
    pub(crate) fn configure(&self, address: Option<Ipv4Cidr>, gateway: Option<Ipv4Address>) {
        let interface = &mut self.0.inner.borrow_mut().interface;
        interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.extend(address.map(IpCidr::Ipv4));
        });
        match gateway {
            // There is room for one.
            Some(gateway) => drop(interface.routes_mut().add_default_ipv4_route(gateway)),
            None => drop(interface.routes_mut().remove_default_ipv4_route()),
        }
        self.0.kick.notify();
    }

    /// Asks for an address by DHCP and follows what the server says; `configured` hears of each lease.
    pub(crate) async fn dhcp(self, configured: impl Fn(Ipv4Cidr, Option<Ipv4Address>)) {
        let handle = self.add(dhcpv4::Socket::new());
        self.0.kick.notify();
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
            match lease.await {
                Some((address, router)) => {
                    self.configure(Some(address), router);
                    configured(address, router);
                    leased = true;
                }
                // The server says nothing any more; the first time, it has said nothing yet.
                None if leased => {
                    println!("net: the lease is over");
                    self.configure(None, None);
                }
                None => {}
            }
        }
    }

    /// Tells everybody where this guest is whenever the device has connected again: bridges may know another way.
    pub(crate) async fn announce(self) {
        let net = &self.0.net;
        loop {
            if net.reconnected(net.connections()).await.is_err() {
                return;
            }
            let mac = EthernetAddress(net.mac());
            let address = {
                let interface = &mut self.0.inner.borrow_mut().interface;
                interface.set_hardware_addr(mac.into());
                interface.ipv4_addr()
            };
            if let Some(address) = address {
                // Where there is no room much is sent anyway.
                let _ = net.try_send(Frame::new(here_is(mac, address)));
                println!("net: connected again, as {address}");
            }
        }
    }

    /// An echo's round trip in nanoseconds.
    pub(crate) async fn ping(&self, to: Ipv4Address, sequence: u16) -> u64 {
        const IDENT: u16 = 0x4f78;
        const DATA: [u8; 56] = *b"Every echo comes back with the bytes that it was sent by";
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 512]);
        let handle = self.add(icmp::Socket::new(buffer(), buffer()));
        let _socket = Remove(self, handle);
        let echo = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: sequence, data: &DATA };
        let checksums = ChecksumCapabilities::default();
        self.with(handle, |socket: &mut icmp::Socket<'_>, _| {
            let _ = socket.bind(icmp::Endpoint::Ident(IDENT));
            if let Ok(bytes) = socket.send(echo.buffer_len(), to.into()) {
                echo.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checksums);
            }
        });
        let begun = time::now();
        let is_answer = |bytes: &[u8]| {
            let packet = Icmpv4Packet::new_checked(bytes).ok();
            let parsed = packet.as_ref().and_then(|packet| Icmpv4Repr::parse(packet, &checksums).ok());
            parsed == Some(Icmpv4Repr::EchoReply { ident: IDENT, seq_no: sequence, data: &DATA })
        };
        self.until(handle, |socket: &mut icmp::Socket<'_>, context| {
            while let Ok((bytes, from)) = socket.recv() {
                if from == IpAddress::Ipv4(to) && is_answer(bytes) {
                    return Poll::Ready(());
                }
            }
            socket.register_recv_waker(context.waker());
            Poll::Pending
        })
        .await;
        time::now() - begun
    }
}

/// An announcement by ARP (RFC 5227, section 3): the sender's address is asked for, by itself.
fn here_is(mac: EthernetAddress, address: Ipv4Address) -> Vec<u8> {
    let announcement = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    let mut bytes = vec![0; EthernetFrame::<&[u8]>::header_len() + announcement.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_dst_addr(EthernetAddress::BROADCAST);
    frame.set_src_addr(mac);
    frame.set_ethertype(EthernetProtocol::Arp);
    announcement.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// Takes a socket away when dropped.
struct Remove<'a>(&'a Stack, SocketHandle);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        self.0.0.inner.borrow_mut().sockets.remove(self.1);
    }
}

/// The other end of a connection closed it, or is not there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken;

/// A place for one connection after the other.
pub(crate) struct Tcp {
    stack: Stack,
    handle: SocketHandle,
}

impl Tcp {
    pub(crate) fn new(stack: &Stack) -> Self {
        let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // Both ends have much to say at once, or wait for an answer: nothing is gained by holding back.
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(smoltcp::time::Duration::from_secs(30)));
        Self { stack: stack.clone(), handle: stack.add(socket) }
    }

    /// Connects to a server.
    pub(crate) async fn connect(&self, address: Ipv4Address, port: u16) -> Result<(), Broken> {
        // Among the ports for such use, another one in each run.
        let local = 49_152 + (time::wall() / time::MILLISECOND % 16_384) as u16;
        self.stack
            .with(self.handle, |socket: &mut tcp::Socket<'_>, interface| {
                socket.connect(interface.context(), (address, port), local)
            })
            .map_err(|_| Broken)?;
        self.connected().await
    }

    /// Waits for a client on `port`.
    pub(crate) async fn accept(&self, port: u16) -> Result<(), Broken> {
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.listen(port)).map_err(|_| Broken)?;
        self.connected().await
    }

    async fn connected(&self) -> Result<(), Broken> {
        self.stack
            .until(self.handle, |socket: &mut tcp::Socket<'_>, context| match socket.state() {
                tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                tcp::State::Closed => Poll::Ready(Err(Broken)),
                _ => Poll::Ready(Ok(())),
            })
            .await
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> Option<IpAddress> {
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.remote_endpoint().map(|end| end.addr))
    }

    /// Hands `take` what came and returns how much it took; nothing when the other end has said all.
    pub(crate) async fn read(&self, mut take: impl FnMut(&[u8]) -> usize) -> Result<usize, Broken> {
        self.stack
            .until(self.handle, |socket: &mut tcp::Socket<'_>, context| {
                if socket.can_recv() {
                    let taken = socket.recv(|bytes| {
                        let count = take(bytes);
                        (count, count)
                    });
                    return Poll::Ready(taken.map_err(|_| Broken));
                }
                if socket.may_recv() {
                    socket.register_recv_waker(context.waker());
                    return Poll::Pending;
                }
                // An orderly end is one at which the other end closed first.
                let orderly = matches!(socket.state(), tcp::State::CloseWait | tcp::State::LastAck);
                Poll::Ready(if orderly { Ok(0) } else { Err(Broken) })
            })
            .await
    }

    /// Sends all of `data`.
    pub(crate) async fn write(&self, data: &[u8]) -> Result<(), Broken> {
        let mut rest = data;
        while !rest.is_empty() {
            let count = self
                .stack
                .until(self.handle, |socket: &mut tcp::Socket<'_>, context| {
                    if socket.can_send() {
                        return Poll::Ready(socket.send_slice(rest).map_err(|_| Broken));
                    }
                    if !socket.may_send() {
                        return Poll::Ready(Err(Broken));
                    }
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                })
                .await?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says that all is said, and waits until the other end has closed too: what it has not read yet must not be lost.
    pub(crate) async fn close(&self) {
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.close());
        let ended = self.stack.until(self.handle, |socket: &mut tcp::Socket<'_>, context| match socket.state() {
            tcp::State::Closed | tcp::State::TimeWait => Poll::Ready(()),
            _ => {
                socket.register_send_waker(context.waker());
                socket.register_recv_waker(context.waker());
                Poll::Pending
            }
        });
        let _ = task::timeout(5 * time::SECOND, ended).await;
        // The next connection through this place starts from nothing.
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.abort());
    }
}
