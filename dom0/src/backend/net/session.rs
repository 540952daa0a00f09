//! A connected interface: the task that moves frames between a guest's two rings and the bridge.

use alloc::{format, rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};
use core::future::{pending, poll_fn};
use core::pin::pin;
use core::task::Poll;

use anyhow::{Context, Result};
use oxen_abi::domid::DomId;
use oxen_domu_lib::event::Port;
use oxen_domu_lib::memory::map::Words;
use oxen_domu_lib::task::{self, JoinHandle};
use oxen_domu_lib::time;
use oxen_ring::AttachError;

use super::rate::RateLimiter;
use super::receive::{ReceiveRing, Receiver};
use super::slots::{ProtocolError, TransmitRing};
use super::transmit::Transmitter;
use crate::backend::session::{Life, Session, SessionEnd};
use crate::bridge::{BridgePort, Packet};
use crate::config::vif::Rate;
use crate::errno::Named;
use crate::mapped::Mapped;
use crate::purse::Purse;

/// How long a frame waits for pages of a guest that gives none, in nanoseconds.
const PATIENCE: u64 = 10 * time::SECOND;

/// What a session starts with.
pub struct Start {
    /// The guest.
    pub domain: DomId,
    /// Its share of dom0.
    pub purse: Rc<Purse>,
    /// The page of the transmit ring.
    pub transmit: u32,
    /// The page of the receive ring.
    pub receive: u32,
    /// The frontend's ports: one for both rings, or one for each.
    pub ports: Vec<u32>,
    /// Whether a frame may have more than one page on its way in.
    pub scatter: bool,
    /// How fast the guest may send.
    pub rate: Option<Rate>,
    /// Bytes that are left free before each frame on its way in.
    pub headroom: u16,
    /// Where frames come from and go to.
    pub bridge: Rc<BridgePort>,
    /// A frame that an earlier instance took from the bridge, and had no pages for.
    pub waiting: Option<Packet>,
}

/// One instance of the backend at work for a frontend. Each turn leaves no request without its answer, so the rings
/// tell the next instance where to go on.
pub struct NetSession {
    transmit: Mapped,
    receive: Mapped,
    ports: Vec<Port>,
    headroom: Cell<u16>,
    bridge: Rc<BridgePort>,
    receiver: RefCell<Receiver>,
    server: RefCell<Option<JoinHandle<()>>>,
    life: Life,
}

impl Session for NetSession {
    /// A frame that waits for pages.
    type Legacy = Option<Packet>;

    fn life(&self) -> &Life {
        &self.life
    }

    async fn cut(&self) -> Option<Packet> {
        if let Some(server) = self.server.take() {
            server.cancel();
        }
        self.receiver.borrow_mut().give_up()
    }
}

impl NetSession {
    /// Maps the rings, binds the ports and starts serving.
    ///
    /// # Errors
    /// A ring cannot be mapped or a port cannot be bound.
    pub fn open(start: Start) -> Result<Rc<Self>> {
        let map = |what: &'static str, page: u32| Mapped::ring(&start.purse, start.domain, &[page]).context(what);
        let bind = |&port: &u32| {
            Port::bind_interdomain(start.domain, port)
                .map_err(Named)
                .with_context(|| format!("event channel {port} cannot be bound"))
        };
        let budget = start.rate.map(|rate| RateLimiter::new(rate, time::now()));
        let transmitter = Transmitter::new(start.domain, budget);
        let receiver = Receiver::new(start.domain, start.scatter, start.waiting);
        let session = Rc::new(Self {
            transmit: map("transmit", start.transmit)?,
            receive: map("receive", start.receive)?,
            ports: start.ports.iter().map(bind).collect::<Result<_>>()?,
            headroom: Cell::new(start.headroom),
            bridge: start.bridge,
            receiver: RefCell::new(receiver),
            server: RefCell::default(),
            life: Life::default(),
        });
        let server = task::spawn(session.clone().run(transmitter));
        *session.server.borrow_mut() = Some(server);
        Ok(session)
    }

    /// Leaves so many bytes free before each frame from now on.
    pub fn set_headroom(&self, bytes: u16) {
        self.headroom.set(bytes);
    }

    async fn run(self: Rc<Self>, transmitter: Transmitter) {
        self.bridge.set_open(true);
        let end = if self.serve(transmitter).await.is_err() { SessionEnd::ProtocolError } else { SessionEnd::Asked };
        self.bridge.set_open(false);
        self.life.finish(end);
    }

    async fn serve(&self, mut transmitter: Transmitter) -> Result<(), ProtocolError> {
        let mut transmit = TransmitRing::attach(self.transmit.words().words32().as_chunks().0).map_err(overrun)?;
        let mut receive = ReceiveRing::attach(self.receive.words().words32().as_chunks().0).map_err(overrun)?;
        while !self.life.is_ending() {
            let now = time::now();
            let moved = transmitter.turn(&mut transmit, &self.bridge, now);
            let received = {
                let mut receiver = self.receiver.borrow_mut();
                receiver.set_headroom(self.headroom.get());
                receiver.turn(&mut receive, &self.bridge)
            };
            // What was answered before the ring broke is answered.
            self.publish(&mut transmit, &mut receive);
            if moved? + received? != 0 {
                // The others' turn, and perhaps more comes meanwhile.
                task::yield_now().await;
                continue;
            }
            let pause = transmitter.pause(now);
            if pause.is_none() && transmit.final_check()? {
                continue;
            }
            let wanted = self.receiver.borrow().wanted();
            if let Some(wanted) = wanted
                && receive.final_check_for(wanted)?
            {
                continue;
            }
            if self.wait(pause, wanted.is_some()).await == Wait::Over {
                self.receiver.borrow_mut().give_up();
                self.bridge.count_dropped();
            }
        }
        Ok(())
    }

    /// Shows the frontend its answers; one event for both rings where one port is for both.
    fn publish(&self, transmit: &mut TransmitRing<'_>, receive: &mut ReceiveRing<'_>) {
        let (sent, received) = (transmit.publish(), receive.publish());
        match self.ports.as_slice() {
            [both] if sent || received => both.notify(),
            [first, second] => {
                if sent {
                    first.notify();
                }
                if received {
                    second.notify();
                }
            }
            _ => {}
        }
    }

    /// Waits for something to do: an event, a frame from the bridge unless one waits for pages already, the end of a
    /// pause in sending.
    async fn wait(&self, pause: Option<u64>, starved: bool) -> Wait {
        let frame = async {
            if starved {
                time::sleep(PATIENCE).await;
                return Wait::Over;
            }
            self.bridge.arrived().await;
            Wait::Work
        };
        let paused = async {
            match pause {
                Some(nanoseconds) => time::sleep(nanoseconds).await,
                None => pending().await,
            }
        };
        let others = task::select(any_of(&self.ports), task::select(self.life.told(), paused));
        match task::select(others, frame).await {
            task::Either::First(_) => Wait::Work,
            task::Either::Second(end) => end,
        }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// There may be something to do.
    Work,
    /// A frame has waited too long for pages.
    Over,
}

/// Waits for an event on any of the ports.
async fn any_of(ports: &[Port]) {
    poll_fn(|context| {
        // All are looked at, so that none keeps an old event.
        let fired = ports.iter().filter(|port| pin!(port.wait()).as_mut().poll(context).is_ready()).count();
        if fired == 0 { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

/// A ring that is broken from the beginning.
const fn overrun(_: AttachError) -> ProtocolError {
    ProtocolError::Overrun
}
