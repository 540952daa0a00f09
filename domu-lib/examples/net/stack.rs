//! What this guest does with the protocol stack beside connections: echoes, and saying where it is.

use alloc::vec;
use alloc::vec::Vec;
use core::task::Poll;

use oxen_domu_lib::frontend::net::Frame;
use oxen_domu_lib::ip::link::NetLink;
use oxen_domu_lib::ip::smoltcp::iface::SocketHandle;
use oxen_domu_lib::ip::smoltcp::phy::ChecksumCapabilities;
use oxen_domu_lib::ip::smoltcp::socket::icmp;
use oxen_domu_lib::ip::smoltcp::time::Duration;
use oxen_domu_lib::ip::smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    IpAddress, Ipv4Address,
};
use oxen_domu_lib::{ip, println, time};

/// The stack on this guest's interface.
pub(crate) type Stack = ip::Stack<NetLink>;
/// A place for one connection after the other.
pub(crate) type Tcp = ip::Tcp<NetLink>;

/// Bytes that a connection keeps in each direction.
const WINDOW: usize = 128 * 1024;
/// How long the other end may be silent until it counts as gone.
const SILENCE: Duration = Duration::from_secs(30);

/// A place for connections.
pub(crate) fn place(stack: &Stack) -> Tcp {
    Tcp::new(stack, WINDOW, |socket| socket.set_timeout(Some(SILENCE)))
}

/// Tells everybody where this guest is whenever the device has connected again: bridges may know another way.
pub(crate) async fn announce(stack: Stack, net: NetLink) {
    while net.reconnected(net.connections()).await.is_ok() {
        let mac = EthernetAddress(net.mac());
        let address = stack.interface(|interface| {
            interface.set_hardware_addr(mac.into());
            interface.ipv4_addr()
        });
        if let Some(address) = address {
            // Where there is no room much is sent anyway.
            let _ = net.try_send(Frame::new(here_is(mac, address)));
            println!("net: connected again, as {address}");
        }
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

/// An echo's round trip in nanoseconds.
pub(crate) async fn ping(stack: &Stack, to: Ipv4Address, sequence: u16) -> u64 {
    const IDENT: u16 = 0x4f78;
    const DATA: [u8; 56] = *b"Every echo comes back with the bytes that it was sent by";
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 512]);
    let handle = stack.add(icmp::Socket::new(buffer(), buffer()));
    let _socket = Remove(stack, handle);
    let echo = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: sequence, data: &DATA };
    let checksums = ChecksumCapabilities::default();
    stack.with(handle, |socket: &mut icmp::Socket<'_>, _| {
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
    stack
        .until(handle, |socket: &mut icmp::Socket<'_>, context| {
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

/// Takes a socket away when dropped.
struct Remove<'a>(&'a Stack, SocketHandle);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        self.0.remove(self.1);
    }
}
