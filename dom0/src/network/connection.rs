//! A connection by TCP.

use alloc::vec;
use core::task::Poll;

use anyhow::{Result, anyhow, bail, ensure};
use oxen_domu_lib::{machine, task, time};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::time::Duration;
use smoltcp::wire::{IpEndpoint, Ipv4Address};

use super::Network;
use crate::saved::stream::{Sink, Source};

/// Bytes that a connection keeps in each direction.
const WINDOW: usize = 512 << 10;
/// How long the other end may be silent until it counts as gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether it is there.
const ASK: Duration = Duration::from_secs(2);
/// How long an end that is there may say or take nothing, in nanoseconds: longer than a guest may take to suspend
/// itself.
const PATIENCE: u64 = 90 * time::SECOND;
/// The first of the ports for such use.
const FIRST_PORT: u16 = 49_152;

/// One end of a connection. Dropping it breaks the connection off.
pub struct Connection {
    network: Network,
    handle: SocketHandle,
}

impl Connection {
    fn new(network: &Network) -> Self {
        let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // Both ends have much to say at once, or wait for an answer: nothing is gained by holding back.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_timeout(Some(SILENCE));
        socket.set_keep_alive(Some(ASK));
        Self { network: network.clone(), handle: network.add(socket) }
    }

    /// Connects to who listens at an address.
    ///
    /// # Errors
    /// dom0 has no address, or nobody answers there, or says no.
    pub async fn open(network: &Network, to: Ipv4Address, port: u16) -> Result<Self> {
        ensure!(network.leads_to(to), "there is no way to {to} from here");
        let connection = Self::new(network);
        let local = FIRST_PORT | machine::tsc() as u16;
        let begun = network.with(connection.handle, |socket: &mut tcp::Socket<'_>, interface| {
            socket.connect(interface.context(), (to, port), local)
        });
        begun.map_err(|_| anyhow!("there is no way to {to} from here"))?;
        if connection.established().await {
            return Ok(connection);
        }
        bail!("nobody takes connections at {to}, port {port}")
    }

    /// Waits for somebody to connect to a port.
    ///
    /// # Errors
    /// The port is none.
    pub async fn accept(network: &Network, port: u16) -> Result<Self> {
        let connection = Self::new(network);
        let listens = network.with(connection.handle, |socket: &mut tcp::Socket<'_>, _| socket.listen(port));
        listens.map_err(|_| anyhow!("nobody can listen at port {port}"))?;
        // Who goes away before it is connected leaves the place to others; an end since then is found when it is used.
        connection.established().await;
        Ok(connection)
    }

    /// Waits until it is connected, or will not be.
    async fn established(&self) -> bool {
        self.until(|socket, context| match socket.state() {
            tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived => {
                socket.register_send_waker(context.waker());
                Poll::Pending
            }
            tcp::State::Closed => Poll::Ready(false),
            _ => Poll::Ready(true),
        })
        .await
    }

    async fn until<R>(
        &self,
        look: impl FnMut(&mut tcp::Socket<'static>, &mut core::task::Context<'_>) -> Poll<R>,
    ) -> R {
        self.network.until(self.handle, look).await
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Option<IpEndpoint> {
        self.network.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.remote_endpoint())
    }

    /// Reads some of what came, and returns how many bytes; none when the other end has said all.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read_some(&self, bytes: &mut [u8]) -> Result<usize> {
        self.until(|socket, context| {
            if socket.can_recv() {
                return Poll::Ready(socket.recv_slice(bytes).map_err(|_| broke()));
            }
            if socket.may_recv() {
                socket.register_recv_waker(context.waker());
                return Poll::Pending;
            }
            // An orderly end is one at which the other end closed first.
            let is_orderly = matches!(socket.state(), tcp::State::CloseWait | tcp::State::LastAck);
            Poll::Ready(if is_orderly { Ok(0) } else { Err(broke()) })
        })
        .await
    }

    /// Sends all of `bytes`; they are on their way when this returns, not there.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn write_all(&self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.until(|socket, context| {
                if socket.can_send() {
                    return Poll::Ready(socket.send_slice(rest).map_err(|_| broke()));
                }
                if !socket.may_send() {
                    return Poll::Ready(Err(broke()));
                }
                socket.register_send_waker(context.waker());
                Poll::Pending
            });
            rest = rest.get(taken.await?..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says that all is said, and waits until the other end has heard it or is gone.
    pub async fn finish(&self) {
        self.network.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.close());
        self.until(|socket, context| match socket.state() {
            tcp::State::FinWait2 | tcp::State::TimeWait | tcp::State::Closed => Poll::Ready(()),
            _ => {
                socket.register_send_waker(context.waker());
                socket.register_recv_waker(context.waker());
                Poll::Pending
            }
        })
        .await;
    }
}

impl Source for Connection {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Ok(read) = task::timeout(PATIENCE, self.read_some(rest)).await else {
                bail!("the other end says nothing (in {} s)", PATIENCE / time::SECOND);
            };
            let count = read?;
            ensure!(count != 0, "the other end has hung up");
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Sink for Connection {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Ok(written) = task::timeout(PATIENCE, self.write_all(bytes)).await else {
            bail!("the other end takes nothing (in {} s)", PATIENCE / time::SECOND);
        };
        written
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.network.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.abort());
        self.network.0.inner.borrow_mut().leaving.push(self.handle);
    }
}

fn broke() -> anyhow::Error {
    anyhow!("the connection broke")
}
