//! The task that owns a disk's ring: from the handshake to the last answer.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use oxen_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BlkifRequestDiscard, VDISK_READONLY,
};
use oxen_abi::io::protocols::XEN_IO_PROTO_ABI_NATIVE;
use oxen_abi::io::xenbus::XenbusState;
use oxen_ring::FrontRing;
use zerocopy::FromZeros;

use super::request::{self, SECTOR};
use super::requests::Requests;
use super::{BlockError, Done, Geometry, Order, Shared, Work};
use crate::event::Port;
use crate::frontend::{ConnectError, Device, reopen};
use crate::grant::{Access, Grant};
use crate::handshake::Step;
use crate::sync::{Receiver, Sender};
use crate::task::{Either, select};

/// The most sectors that a disk can have: its bytes are counted in 64 bits.
const MAX_SECTORS: u64 = u64::MAX / SECTOR as u64;
/// Bytes of a device's own sectors at most.
const MAX_SECTOR_SIZE: u64 = 64 << 10;

/// How a connection ended.
enum End {
    /// The guest has been restored: there is another backend.
    Restored,
    /// The handles are gone, or the backend is of no more use.
    Over(BlockError),
    /// There was none.
    Never(ConnectError),
}

/// Connects the device, says so, and serves orders until the last handle is gone or the backend closes; where the guest
/// is restored, at the new backend, which is asked first for what had no answer.
pub(super) async fn operate(
    mut device: Device,
    handle: u16,
    shared: Rc<Shared>,
    orders: Receiver<Order>,
    ready: Sender<Result<(), ConnectError>>,
) {
    let mut again = VecDeque::new();
    let why = loop {
        match serve_once(&mut device, handle, &shared, &orders, (&mut again, &ready)).await {
            End::Restored => match reopen(&device).await {
                Ok(new) => device = new,
                Err(_) => break BlockError::Closed,
            },
            End::Over(why) => break why,
            End::Never(error) => {
                ready.send(Err(error));
                break BlockError::Closed;
            }
        }
    };
    shared.end.set(why);
    while let Some((_, done)) = again.pop_front().or_else(|| orders.try_receive()) {
        done.finish(Err(why));
    }
}

/// One connection, from the handshake to its end.
async fn serve_once(
    device: &mut Device,
    handle: u16,
    shared: &Shared,
    orders: &Receiver<Order>,
    (again, ready): (&mut VecDeque<Order>, &Sender<Result<(), ConnectError>>),
) -> End {
    let resources = Grant::zeroed(device.backend(), Access::ReadWrite)
        .map_err(ConnectError::from)
        .and_then(|page| Ok((page, Port::alloc_unbound(device.backend())?)));
    let (page, port) = match resources {
        Ok(resources) => resources,
        Err(error) => return End::Never(error),
    };
    // The ring is made before the backend is told of the page.
    let Ok(ring) = FrontRing::new(core::slice::from_ref(page.page().words32())) else {
        return End::Never(ConnectError::Closed);
    };
    let connected = connect(device, &page, &port).await;
    if device.is_gone() {
        return End::Restored;
    }
    match connected {
        Ok(geometry) => shared.geometry.set(geometry),
        Err(error) => return End::Never(error),
    }
    ready.send(Ok(()));
    let mut server = Server { handle, requests: Requests::new(ring), port: &port, shared, again };
    let ended = server.serve(device, orders).await;
    if device.is_gone() {
        server.take_back();
        return End::Restored;
    }
    let why = ended.err().unwrap_or(BlockError::Closed);
    // Nobody waits for the backend to take note.
    shared.end.set(why);
    server.give_up(why);
    if ended.is_ok() {
        // A store that is gone need not be told.
        let _ = device.publish(&[], XenbusState::Closing).await;
    }
    let _ = device.publish(&[], XenbusState::Closed).await;
    End::Over(why)
}

/// Goes through the handshake.
async fn connect(device: &mut Device, page: &Grant, port: &Port) -> Result<Geometry, ConnectError> {
    let (reference, number) = (page.reference().to_string(), port.number().to_string());
    let values = [
        ("ring-ref", reference.as_str()),
        ("event-channel", number.as_str()),
        ("protocol", XEN_IO_PROTO_ABI_NATIVE),
        ("feature-persistent", "1"),
    ];
    loop {
        match device.step().await? {
            // What is changed while both are connected is no backend's to ask for.
            Step::Wait | Step::Reconfigure(_) => device.answered().await?,
            Step::Offer(state) => device.publish(&values, state).await?,
            Step::Connect => break,
            Step::Close(_) | Step::Gone => {
                device.publish(&[], XenbusState::Closed).await?;
                return Err(ConnectError::Closed);
            }
        }
    }
    let geometry = read_geometry(device).await?;
    device.publish(&[], XenbusState::Connected).await?;
    Ok(geometry)
}

async fn read_geometry(device: &Device) -> Result<Geometry, ConnectError> {
    let sectors = device.read("sectors").await?.trim().parse().ok().filter(|&sectors| sectors <= MAX_SECTORS);
    let sector_size = device.read_number_or("sector-size", SECTOR as u64).await;
    let is_size = sector_size.is_power_of_two() && (SECTOR as u64..=MAX_SECTOR_SIZE).contains(&sector_size);
    let sector_size = u32::try_from(sector_size).ok().filter(|_| is_size);
    let info = device.read_number_or("info", 0).await;
    let indirect = device.read_number_or("feature-max-indirect-segments", 0).await;
    Ok(Geometry {
        sectors: sectors.ok_or(ConnectError::Nonsense("sectors"))?,
        sector_size: sector_size.ok_or(ConnectError::Nonsense("sector-size"))?,
        read_only: info & u64::from(VDISK_READONLY) != 0,
        flush: device.read_number_or("feature-flush-cache", 0).await == 1,
        discard: device.read_number_or("feature-discard", 0).await == 1,
        pages_per_request: request::pages_per_request(indirect),
    })
}

/// A request that the backend has not answered yet.
struct UnderWay {
    order: Order,
    list: Option<Grant>,
}

struct Server<'a> {
    handle: u16,
    requests: Requests<'a, UnderWay>,
    port: &'a Port,
    shared: &'a Shared,
    /// Orders that come before those that nobody has taken yet.
    again: &'a mut VecDeque<Order>,
}

impl Server<'_> {
    /// Serves until the handles are gone (`Ok`) or the backend is of no more use.
    async fn serve(&mut self, device: &Device, orders: &Receiver<Order>) -> Result<(), BlockError> {
        loop {
            while let Some((under_way, outcome)) = self.requests.answered()? {
                self.complete(under_way, outcome);
            }
            while self.requests.has_room()
                && let Some(order) = self.again.pop_front().or_else(|| orders.try_receive())
            {
                self.submit(device, order);
            }
            if self.requests.publish() {
                self.port.notify();
            }
            if self.requests.final_check()? {
                continue;
            }
            let news = select(self.port.wait(), device.changed());
            let order = if self.requests.has_room() {
                match select(orders.receive(), news).await {
                    Either::First(Some(order)) => Some(order),
                    Either::First(None) if self.requests.is_idle() => return Ok(()),
                    // The last handle is gone, but not the last answer; the backend may go before it comes.
                    Either::First(None) => {
                        let news = select(self.port.wait(), device.changed()).await;
                        self.hear(device, news).await?
                    }
                    Either::Second(news) => self.hear(device, news).await?,
                }
            } else {
                let news = news.await;
                self.hear(device, news).await?
            };
            self.again.extend(order);
            if device.is_gone() {
                // What follows would be offered to a stranger of the old backend's number.
                return Err(BlockError::Closed);
            }
        }
    }

    /// Looks at what ended a wait: an event, or a backend that changed its state.
    async fn hear(
        &self,
        device: &Device,
        news: Either<(), Result<(), crate::store::Error>>,
    ) -> Result<Option<Order>, BlockError> {
        match news {
            Either::First(()) => Ok(None),
            Either::Second(Err(_)) => Err(BlockError::Closed),
            Either::Second(Ok(())) if device.is_gone() => Err(BlockError::Closed),
            Either::Second(Ok(())) => match device.step().await {
                Ok(Step::Wait) => Ok(None),
                _ => Err(BlockError::Closed),
            },
        }
    }

    /// Puts an order on the ring, which has room; what is too large for a request comes next.
    fn submit(&mut self, device: &Device, (mut work, done): Order) {
        if let Some(rest) = work.cut(self.shared.geometry.get().pages_per_request) {
            done.expect_another();
            self.again.push_front((rest, done.clone()));
        }
        match self.push(device, work, &done) {
            Ok(()) => {}
            Err(error) => done.finish(Err(error)),
        }
    }

    fn push(&mut self, device: &Device, work: Work, done: &Rc<Done>) -> Result<(), BlockError> {
        let handle = self.handle;
        // There is room: it was looked for.
        let full = |_| BlockError::NoMemory;
        let under_way = |work, list| UnderWay { order: (work, done.clone()), list };
        match work {
            Work::Flush => {
                let make = |id| request::direct(BLKIF_OP_FLUSH_DISKCACHE, handle, id, 0, core::iter::empty());
                self.requests.push(make, under_way(work, None)).map_err(full)
            }
            Work::Discard { sector, sectors } => {
                let make = |id| BlkifRequestDiscard {
                    operation: BLKIF_OP_DISCARD,
                    handle,
                    id,
                    sector_number: sector,
                    nr_sectors: sectors,
                    ..BlkifRequestDiscard::new_zeroed()
                };
                self.requests.push(make, under_way(work, None)).map_err(full)
            }
            Work::Transfer { write, sector, sectors, ref pages } => {
                let operation = if write { BLKIF_OP_WRITE } else { BLKIF_OP_READ };
                let offered = pages.iter().try_for_each(|page| page.offer(device.backend()));
                offered.map_err(|_| BlockError::NoMemory)?;
                let references: Vec<u32> = pages.iter().map(Grant::reference).collect();
                let segments = request::segments(&references, sectors);
                if references.len() <= BLKIF_MAX_SEGMENTS_PER_REQUEST {
                    let make = |id| request::direct(operation, handle, id, sector, segments);
                    return self.requests.push(make, under_way(work, None)).map_err(full);
                }
                let list = self.list_page(device).map_err(|_| BlockError::NoMemory)?;
                for (segment, words) in segments.zip(list.page().words32().chunks(2)) {
                    for (word, value) in words.iter().zip(request::words(&segment)) {
                        word.store(value, Ordering::Relaxed);
                    }
                }
                let (reference, count) = (list.reference(), references.len());
                let make = |id| request::indirect(operation, handle, id, sector, count, reference);
                self.requests.push(make, under_way(work, Some(list))).map_err(full)
            }
        }
    }

    /// A page for indirect segments.
    fn list_page(&self, device: &Device) -> Result<Grant, crate::grant::GrantError> {
        let used = self.shared.pool.borrow_mut().pop();
        let page = used.map_or_else(|| Grant::withheld(Access::ReadWrite), Ok)?;
        page.offer(device.backend()).map(|()| page)
    }

    /// Hands an answer to who waits for it.
    fn complete(&self, under_way: UnderWay, outcome: Result<(), BlockError>) {
        self.shared.pool.borrow_mut().extend(under_way.list);
        let (work, done) = under_way.order;
        done.give_back(work);
        done.finish(outcome);
    }

    /// Takes back all that has no answer, to ask for it again, in the order in which it was asked for.
    fn take_back(&mut self) {
        let left: Vec<Order> = self.requests.abandon().map(|under_way| under_way.order).collect();
        left.into_iter().rev().for_each(|order| self.again.push_front(order));
    }

    /// Tells everybody who waits for an answer why none will come.
    fn give_up(&mut self, why: BlockError) {
        for under_way in self.requests.abandon() {
            under_way.order.1.finish(Err(why));
        }
    }
}
