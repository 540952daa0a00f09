//! The task that owns the device's rings: from the handshake to the last frame.

use alloc::boxed::Box;
use alloc::rc::Rc;

use oxen_abi::domid::DomId;
use oxen_abi::io::xenbus::XenbusState;
use oxen_ring::FrontRing;

use super::connect::{Ports, connect};
use super::queue::Queues;
use super::receive::Receiver;
use super::transmit::{Kept, Sent, Transmitter};
use super::{Maker, NetError};
use crate::frontend::{ConnectError, Device, reopen};
use crate::grant::{Access, Grant};
use crate::handshake::Step;
use crate::sync::Sender;
use crate::task::{self, Either, select};
use crate::time;

/// How long a backend is given to let go of the rings.
const PATIENCE: u64 = 5 * time::SECOND;

/// Pages granted to the backend.
fn maker(backend: DomId, access: Access) -> Maker<Grant> {
    Box::new(move || Grant::zeroed(backend, access).ok())
}

/// How a connection ended.
enum End {
    /// The guest has been restored: there is another backend, which is sent what had no answer.
    Restored(Kept<Grant>),
    /// The handle is gone, or the backend is of no more use.
    Over(NetError),
    /// There was none.
    Never(ConnectError),
}

/// Connects the device, says so, and serves the queues until the handle is gone or the backend closes; where the guest
/// is restored, at the new backend.
pub(super) async fn operate(mut device: Device, queues: Rc<Queues>, ready: Sender<Result<(), ConnectError>>) {
    let mut kept = Kept::default();
    let why = loop {
        match serve_once(&mut device, &queues, kept, &ready).await {
            End::Restored(unanswered) => kept = unanswered,
            End::Over(why) => break why,
            End::Never(error) => {
                ready.send(Err(error));
                break NetError::Closed;
            }
        }
        match reopen(&device).await {
            Ok(new) => device = new,
            Err(_) => break NetError::Closed,
        }
    };
    queues.end(why);
    queues.release();
}

/// One connection, from the handshake to its end.
async fn serve_once(
    device: &mut Device,
    queues: &Rc<Queues>,
    kept: Kept<Grant>,
    ready: &Sender<Result<(), ConnectError>>,
) -> End {
    let backend = device.backend();
    let page = || Grant::zeroed(backend, Access::ReadWrite);
    let (transmit, receive) = match page().and_then(|transmit| Ok((transmit, page()?))) {
        Ok(pages) => pages,
        Err(error) => return End::Never(error.into()),
    };
    // The rings are made before the backend is told of their pages.
    let (Ok(transmit_ring), Ok(receive_ring)) = (
        FrontRing::new(core::slice::from_ref(transmit.page().words32())),
        FrontRing::new(core::slice::from_ref(receive.page().words32())),
    ) else {
        return End::Never(ConnectError::Closed);
    };
    // So is the first set of pages to receive into: what a backend has at once must find room.
    let receiver = Receiver::new(receive_ring, maker(backend, Access::ReadWrite));
    let mut receiver = receiver.after(queues.counters().lost);
    let _ = receiver.post();
    let offer = |page: &Grant| {
        // The old backend's domain is gone, and with it whatever it had of the page.
        let _ = page.offer(backend);
    };
    let transmitter = Transmitter::resend(transmit_ring, maker(backend, Access::ReadOnly), kept, offer);
    let connected = connect(device, &transmit, &receive).await;
    if device.is_gone() {
        return End::Restored(transmitter.take_back());
    }
    let ports = match connected {
        Ok((settings, ports)) => {
            queues.connected(settings);
            ready.send(Ok(()));
            ports
        }
        Err(error) => return End::Never(error),
    };
    let mut server = Server { queues: queues.clone(), ports, receiver, transmitter };
    let why = server.serve(device).await.err().unwrap_or(NetError::Closed);
    if device.is_gone() {
        return End::Restored(server.transmitter.take_back());
    }
    if !matches!(why, NetError::Store(_)) {
        close(device, &server.queues, why).await;
    }
    End::Over(why)
}

/// Goes through the states of an orderly end. The pages are given back after it.
async fn close(device: &mut Device, queues: &Queues, why: NetError) {
    if device.publish(&[], XenbusState::Closing).await.is_err() {
        return;
    }
    let released = async {
        while let Ok(XenbusState::Connected) = device.peer().await {
            // The users need not wait for a backend that has to let go first.
            queues.end(why);
            if device.changed().await.is_err() {
                break;
            }
        }
    };
    let _ = task::timeout(PATIENCE, released).await;
    let _ = device.publish(&[], XenbusState::Closed).await;
}

struct Server<'a> {
    queues: Rc<Queues>,
    ports: Ports,
    receiver: Receiver<'a, Grant>,
    transmitter: Transmitter<'a, Grant>,
}

impl Server<'_> {
    /// Serves until the handle is gone (`Ok`) or the backend is of no more use.
    async fn serve(&mut self, device: &Device) -> Result<(), NetError> {
        loop {
            if device.is_gone() {
                // What follows would be offered to a stranger of the old backend's number.
                return Err(NetError::Closed);
            }
            self.receive()?;
            let blocked = self.transmit()?;
            let leaving = self.queues.is_abandoned();
            if leaving && !blocked && self.transmitter.is_idle() {
                return Ok(());
            }
            // Answers to what was sent are of interest only where somebody waits for them.
            let again = self.queues.takes() && self.receiver.final_check()?;
            if again | ((blocked || leaving) && self.transmitter.final_check()?) {
                task::yield_now().await;
                continue;
            }
            let events = select(self.ports.receive().wait(), self.ports.transmit.wait());
            let news = select(select(events, self.queues.work()), device.changed()).await;
            if let Either::Second(changed) = news {
                changed?;
                if device.is_gone() {
                    continue;
                }
                // The backend may say again that it is connected.
                if device.step().await? != Step::Wait {
                    return Err(NetError::Closed);
                }
            }
        }
    }

    /// Hands on what came, as far as there is room for it.
    fn receive(&mut self) -> Result<(), NetError> {
        while self.queues.takes()
            && let Some(frame) = self.receiver.receive()?
        {
            self.queues.deliver(frame);
        }
        let lost = self.receiver.lost();
        self.queues.count(|counters| counters.lost = lost);
        if self.receiver.post() {
            self.ports.receive().notify();
        }
        Ok(())
    }

    /// Sends what waits, as far as there is room for it; returns whether something waits still.
    fn transmit(&mut self) -> Result<bool, NetError> {
        self.transmitter.reap()?;
        let (mut sent, mut dropped) = (0, 0);
        let empty = self.queues.drain(|frame| match self.transmitter.send(frame) {
            Sent::Later => false,
            Sent::Queued => {
                sent += 1;
                true
            }
            Sent::NoMemory => {
                dropped += 1;
                true
            }
        });
        let refused = self.transmitter.refused();
        self.queues.count(|counters| {
            counters.sent += sent;
            counters.refused = refused;
            counters.memory += dropped;
        });
        if self.transmitter.publish() {
            self.ports.transmit.notify();
        }
        Ok(!empty)
    }
}
