//! A place for connections by TCP, one after the other.

use alloc::vec;
use core::task::{Context, Poll};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::wire::{IpEndpoint, Ipv4Address};

use super::{Link, Stack};
use crate::raw::machine;
use crate::task;

/// The first of the ports for who connects (RFC 6335, section 6).
const FIRST_PORT: u16 = 49_152;

/// The other end of a connection closed it, or is not there; or what is asked for is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// A place for one connection after the other. Dropping it breaks a connection off.
pub struct Tcp<L: Link> {
    stack: Stack<L>,
    handle: SocketHandle,
}

impl<L: Link> Tcp<L> {
    /// A place with so many bytes of memory for each direction; `set` sets what else is to be otherwise than usual.
    pub fn new(stack: &Stack<L>, bytes: usize, set: impl FnOnce(&mut tcp::Socket<'static>)) -> Self {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // Who has much to say at once, or waits for an answer, gains nothing by holding back.
        socket.set_nagle_enabled(false);
        set(&mut socket);
        Self { stack: stack.clone(), handle: stack.add(socket) }
    }

    /// Begins to connect to a server.
    ///
    /// # Errors
    /// [`Broken`] where there is no way there, or the place is in use.
    pub fn dial(&self, address: Ipv4Address, port: u16) -> Result<(), Broken> {
        // Another one in each run.
        let local = FIRST_PORT | machine::tsc() as u16;
        let begun = self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, interface| {
            socket.connect(interface.context(), (address, port), local)
        });
        begun.map_err(|_| Broken)
    }

    /// Begins to wait for a client.
    ///
    /// # Errors
    /// [`Broken`] for port 0, or a place that is in use.
    pub fn listen(&self, port: u16) -> Result<(), Broken> {
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.listen(port)).map_err(|_| Broken)
    }

    /// Waits until there is a connection, and returns whether there is one.
    pub async fn established(&self) -> bool {
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

    /// Who is at the other end.
    pub fn peer(&self) -> Option<IpEndpoint> {
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.remote_endpoint())
    }

    /// Hands `take` what came and returns how much it took; nothing when the other end has said all.
    ///
    /// # Errors
    /// [`Broken`].
    pub async fn read(&self, mut take: impl FnMut(&[u8]) -> usize) -> Result<usize, Broken> {
        self.until(|socket, context| {
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
            let is_orderly = matches!(socket.state(), tcp::State::CloseWait | tcp::State::LastAck);
            Poll::Ready(if is_orderly { Ok(0) } else { Err(Broken) })
        })
        .await
    }

    /// Reads some of what came, and returns how many bytes; none when the other end has said all.
    ///
    /// # Errors
    /// [`Broken`].
    pub async fn read_some(&self, bytes: &mut [u8]) -> Result<usize, Broken> {
        self.read(|came| {
            let count = came.len().min(bytes.len());
            if let (Some(to), Some(from)) = (bytes.get_mut(..count), came.get(..count)) {
                to.copy_from_slice(from);
            }
            count
        })
        .await
    }

    /// Sends all of `bytes`; they are on their way when this returns, not there.
    ///
    /// # Errors
    /// [`Broken`].
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Broken> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.until(|socket, context| {
                if socket.can_send() {
                    return Poll::Ready(socket.send_slice(rest).map_err(|_| Broken));
                }
                if !socket.may_send() {
                    return Poll::Ready(Err(Broken));
                }
                socket.register_send_waker(context.waker());
                Poll::Pending
            });
            rest = rest.get(taken.await?..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says that all is said, and waits until the other end has heard it, or is gone.
    pub async fn finish(&self) {
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.close());
        self.until_state(&[tcp::State::FinWait2, tcp::State::TimeWait, tcp::State::Closed]).await;
    }

    /// Says that all is said, and waits until the other end has closed too, for so many nanoseconds at most: what it
    /// has not read yet must not be lost. The next connection through this place starts from nothing.
    pub async fn close(&self, nanoseconds: u64) {
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.close());
        let _ = task::timeout(nanoseconds, self.until_state(&[tcp::State::Closed, tcp::State::TimeWait])).await;
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.abort());
    }

    async fn until_state(&self, states: &[tcp::State]) {
        self.until(|socket, context| {
            if states.contains(&socket.state()) {
                return Poll::Ready(());
            }
            socket.register_send_waker(context.waker());
            socket.register_recv_waker(context.waker());
            Poll::Pending
        })
        .await;
    }

    async fn until<R>(&self, look: impl FnMut(&mut tcp::Socket<'static>, &mut Context<'_>) -> Poll<R>) -> R {
        self.stack.until(self.handle, look).await
    }
}

impl<L: Link> Drop for Tcp<L> {
    fn drop(&mut self) {
        self.stack.with(self.handle, |socket: &mut tcp::Socket<'_>, _| socket.abort());
        self.stack.remove(self.handle);
    }
}
