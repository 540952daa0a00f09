//! The task that owns a disk's ring: from the handshake to the last answer.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use oxen_abi::errno::Errno;
use oxen_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestDiscard, BlkifResponse, VDISK_READONLY,
};
use oxen_abi::io::protocols::XEN_IO_PROTO_ABI_NATIVE;
use oxen_abi::io::xenbus::XenbusState;
use oxen_ring::FrontRing;
use zerocopy::FromZeros;

use super::request::{self, SECTOR};
use super::{BlockError, Done, Geometry, Order, Pool, Work};
use crate::event::Port;
use crate::frontend::{ConnectError, Device};
use crate::grant::{Access, Grant};
use crate::handshake::Step;
use crate::sync::{Receiver, Sender};
use crate::task::{Either, select};

type Ring<'a> = FrontRing<'a, BlkifRequest, BlkifResponse>;

/// Connects the device, says so, and serves orders until the last handle is gone or the backend closes.
pub(super) async fn operate(
    mut device: Device,
    handle: u16,
    pool: Pool,
    orders: Receiver<Order>,
    ready: Sender<Result<Geometry, ConnectError>>,
) {
    let resources = Grant::zeroed(device.backend(), Access::ReadWrite)
        .map_err(ConnectError::from)
        .and_then(|page| Ok((page, Port::alloc_unbound(device.backend())?)));
    let (page, port) = match resources {
        Ok(resources) => resources,
        Err(error) => return ready.send(Err(error)),
    };
    // The ring is made before the backend is told of the page.
    let Ok(ring) = FrontRing::new(core::slice::from_ref(page.page().words32())) else { return };
    match connect(&mut device, &page, &port).await {
        Ok(geometry) => ready.send(Ok(geometry)),
        Err(error) => return ready.send(Err(error)),
    }
    let mut server = Server { handle, ring, port: &port, pool, under_way: BTreeMap::new(), next: 0 };
    let ended = server.serve(&device, &orders).await;
    server.give_up(orders);
    if ended.is_ok() {
        // A store that is gone need not be told.
        let _ = device.publish(&[], XenbusState::Closing).await;
    }
    let _ = device.publish(&[], XenbusState::Closed).await;
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
            Step::Wait | Step::Reconfigure(_) => device.changed().await?,
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
    let sectors = device.read("sectors").await?.trim().parse().map_err(|_| Errno::Inval)?;
    let info = device.read_number_or("info", 0).await;
    let indirect = device.read_number_or("feature-max-indirect-segments", 0).await;
    Ok(Geometry {
        sectors,
        sector_size: device.read_number_or("sector-size", SECTOR as u64).await as u32,
        read_only: info & u64::from(VDISK_READONLY) != 0,
        flush: device.read_number_or("feature-flush-cache", 0).await == 1,
        discard: device.read_number_or("feature-discard", 0).await == 1,
        pages_per_request: request::pages_per_request(indirect),
    })
}

/// A request that the backend has not answered yet.
struct UnderWay {
    done: Rc<Done>,
    pages: Vec<Grant>,
    list: Option<Grant>,
}

struct Server<'a> {
    handle: u16,
    ring: Ring<'a>,
    port: &'a Port,
    pool: Pool,
    under_way: BTreeMap<u64, UnderWay>,
    next: u64,
}

impl Server<'_> {
    /// Serves until the handles are gone (`Ok`) or the backend is of no more use.
    async fn serve(&mut self, device: &Device, orders: &Receiver<Order>) -> Result<(), BlockError> {
        loop {
            while let Some(response) = self.ring.pop().map_err(|_| BlockError::Closed)? {
                self.complete(&response)?;
            }
            while self.ring.free() > 0
                && let Some(order) = orders.try_receive()
            {
                self.submit(device, order)?;
            }
            if self.ring.publish() {
                self.port.notify();
            }
            if self.ring.final_check().map_err(|_| BlockError::Closed)? {
                continue;
            }
            let news = select(self.port.wait(), device.changed());
            let order = if self.ring.free() > 0 {
                match select(orders.receive(), news).await {
                    Either::First(Some(order)) => Some(order),
                    Either::First(None) if self.under_way.is_empty() => return Ok(()),
                    // The last handle is gone, but not the last answer.
                    Either::First(None) => {
                        self.port.wait().await;
                        None
                    }
                    Either::Second(news) => self.hear(device, news).await?,
                }
            } else {
                let news = news.await;
                self.hear(device, news).await?
            };
            if let Some(order) = order {
                self.submit(device, order)?;
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
            Either::Second(Ok(())) => match device.step().await {
                Ok(Step::Wait) => Ok(None),
                _ => Err(BlockError::Closed),
            },
        }
    }

    /// Puts an order on the ring, which has room.
    fn submit(&mut self, device: &Device, (work, done): Order) -> Result<(), BlockError> {
        let id = self.next;
        self.next = id.wrapping_add(1);
        let mut under_way = UnderWay { done, pages: Vec::new(), list: None };
        let pushed = match work {
            Work::Flush => {
                let operation = BLKIF_OP_FLUSH_DISKCACHE;
                self.ring.push(&request::direct(operation, self.handle, id, 0, core::iter::empty()))
            }
            Work::Discard { sector, sectors } => self.ring.push_as(&BlkifRequestDiscard {
                operation: BLKIF_OP_DISCARD,
                handle: self.handle,
                id,
                sector_number: sector,
                nr_sectors: sectors,
                ..BlkifRequestDiscard::new_zeroed()
            }),
            Work::Transfer { write, sector, sectors, pages } => {
                let operation = if write { BLKIF_OP_WRITE } else { BLKIF_OP_READ };
                let references: Vec<u32> = pages.iter().map(Grant::reference).collect();
                let segments = request::segments(&references, sectors);
                under_way.pages = pages;
                if references.len() <= BLKIF_MAX_SEGMENTS_PER_REQUEST {
                    self.ring.push(&request::direct(operation, self.handle, id, sector, segments))
                } else {
                    let Ok(list) = self.list_page(device) else {
                        under_way.done.finish(Err(BlockError::NoMemory));
                        return Ok(());
                    };
                    for (segment, words) in segments.zip(list.page().words32().chunks(2)) {
                        for (word, value) in words.iter().zip(request::words(&segment)) {
                            word.store(value, Ordering::Relaxed);
                        }
                    }
                    let reference = list.reference();
                    under_way.list = Some(list);
                    let count = references.len();
                    self.ring.push_as(&request::indirect(operation, self.handle, id, sector, count, reference))
                }
            }
        };
        self.under_way.insert(id, under_way);
        pushed.map(|_| ()).map_err(|_| BlockError::Closed)
    }

    /// A page for indirect segments.
    fn list_page(&self, device: &Device) -> Result<Grant, crate::grant::GrantError> {
        let used = self.pool.borrow_mut().pop();
        used.map_or_else(|| Grant::zeroed(device.backend(), Access::ReadWrite), Ok)
    }

    /// Hands an answer to who waits for it. An answer to nothing breaks the protocol.
    fn complete(&mut self, response: &BlkifResponse) -> Result<(), BlockError> {
        let under_way = self.under_way.remove(&response.id).ok_or(BlockError::Closed)?;
        self.pool.borrow_mut().extend(under_way.list);
        under_way.done.pages.replace(under_way.pages);
        under_way.done.finish(match response.status {
            BLKIF_RSP_OKAY => Ok(()),
            BLKIF_RSP_EOPNOTSUPP => Err(BlockError::NotSupported),
            _ => Err(BlockError::Failed),
        });
        Ok(())
    }

    /// Tells everybody who waits that nothing will come.
    fn give_up(&mut self, orders: Receiver<Order>) {
        for under_way in core::mem::take(&mut self.under_way).into_values() {
            under_way.done.finish(Err(BlockError::Closed));
        }
        while let Some((_, done)) = orders.try_receive() {
            done.finish(Err(BlockError::Closed));
        }
    }
}
