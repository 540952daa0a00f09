//! One virtual disk: what is published about it, and how it is connected.

use alloc::{format, rc::Rc, string::String, string::ToString, vec::Vec};
use core::cell::Cell;

use anyhow::{Context, Result, anyhow, bail, ensure};
use oxen_abi::io::blkif::VDISK_READONLY;

use super::ledger::Ledger;
use super::request::{self, MAX_INDIRECT_SEGMENTS};
use super::session::{self, BlockSession, Counts, Start};
use crate::backend::device::{Device, Driver, Front, Nodes};
use crate::config::disk::Disk;
use crate::device::transfer::SECTOR;
use crate::device::{Medium, OpenDisk};
use crate::guest_text::quoted;
use crate::notes::Notes;
use crate::purse::{Charge, Exhausted, Purse};

/// The most pages of a ring, as a power of two.
const MAX_RING_ORDER: u32 = 4;

/// A guest's disk, with its handshake.
pub type BlockDevice = Device<BlockDriver>;

/// A guest's disk.
pub struct BlockDriver {
    /// As configured.
    pub config: Disk,
    /// What it has done.
    pub counts: Rc<Counts>,
    open: OpenDisk,
    notes: Rc<Notes>,
    /// For the requests of whatever frontend connects.
    _heap: Charge,
}

impl BlockDriver {
    /// The disk that `config` describes, which is open, of the guest whose purse this is. Its requests are noted.
    ///
    /// # Errors
    /// The guest's share of dom0's memory does not suffice for another disk.
    pub fn new(config: &Disk, open: OpenDisk, purse: &Purse, notes: &Rc<Notes>) -> Result<Self> {
        let lacking = |Exhausted| {
            let (kib, vdev) = (purse.heap.limit() >> 10, &config.vdev);
            anyhow!("disk {vdev}: the guest's share of dom0's memory, {kib} KiB, does not suffice for another disk")
        };
        let heap = purse.heap.charge(session::HEAP).map_err(lacking)?;
        Ok(Self { config: config.clone(), counts: Rc::default(), open, notes: notes.clone(), _heap: heap })
    }

    /// Whether the guest may say that it needs sectors no more.
    fn can_discard(&self) -> bool {
        self.open.writable && self.open.medium.can_discard()
    }
}

impl Driver for BlockDriver {
    type Session = BlockSession;
    const CLASS: &'static str = "vbd";

    fn title(&self) -> String {
        format!("disk {}", self.config.vdev)
    }

    fn number(&self) -> u32 {
        self.config.number
    }

    fn back_nodes(&self) -> Nodes {
        let discard = if self.can_discard() { "1" } else { "0" };
        [
            ("params", self.config.target.as_str()),
            ("removable", "0"),
            ("bootable", "1"),
            ("dev", &self.config.vdev),
            ("type", "phy"),
            ("mode", if self.open.writable { "w" } else { "r" }),
            ("device-type", "disk"),
            ("discard-enable", discard),
            ("specification", "xen"),
        ]
        .map(|(name, value)| (name, value.to_string()))
        .into()
    }

    fn front_nodes(&self) -> Nodes {
        let number = self.config.number.to_string();
        [("virtual-device", number.as_str()), ("device-type", "disk"), ("trusted", "1")]
            .map(|(name, value)| (name, value.to_string()))
            .into()
    }

    fn offer(&self) -> Nodes {
        let mut nodes: Nodes = [
            ("feature-max-indirect-segments", MAX_INDIRECT_SEGMENTS.to_string()),
            ("multi-queue-max-queues", "1".into()),
            ("max-ring-page-order", MAX_RING_ORDER.to_string()),
            ("hotplug-status", "connected".into()),
            ("feature-flush-cache", "1".into()),
            ("feature-persistent", "1".into()),
        ]
        .into();
        if self.can_discard() {
            let offered = [
                ("feature-discard", "1"),
                ("discard-granularity", "512"),
                ("discard-alignment", "0"),
                ("discard-secure", "0"),
            ];
            nodes.extend(offered.map(|(name, value)| (name, value.to_string())));
        }
        nodes
    }

    fn connect(&self, front: &Front<'_>, ledger: Rc<Ledger>) -> Result<(Rc<BlockSession>, Nodes)> {
        match front.value("protocol").as_deref() {
            None | Some("x86_64-abi") => {}
            Some(other) => bail!("protocol `{}` is not spoken; x86_64-abi is", quoted(other)),
        }
        if let Some(queues) = front.value("multi-queue-num-queues").filter(|queues| queues != "1") {
            bail!("`{}` queues are asked for; one is offered", quoted(&queues));
        }
        let medium = self.open.medium.clone();
        let disk =
            request::Limits { sectors: medium.sectors(), writable: self.open.writable, discard: self.can_discard() };
        let start = Start {
            domain: front.domain,
            purse: front.purse.clone(),
            ring: ring(front)?,
            port: front.number("event-channel")?,
            persistent: front.has("feature-persistent"),
            disk: Cell::new(disk),
            medium,
            counts: self.counts.clone(),
            number: self.config.number,
            notes: self.notes.clone(),
        };
        let session = BlockSession::open(start, ledger)?;
        let info = if self.open.writable { 0 } else { VDISK_READONLY };
        let size = [
            ("sectors", disk.sectors.to_string()),
            ("info", info.to_string()),
            ("sector-size", SECTOR.to_string()),
            ("physical-sector-size", SECTOR.to_string()),
        ];
        Ok((session, size.into()))
    }
}

impl BlockDevice {
    /// Gives a disk in dom0's memory a new size in sectors, or looks what size a disk of the machine has now; the guest
    /// is told. Returns the size.
    ///
    /// # Errors
    /// The size is said for a disk of the machine or missing for one in memory; dom0's memory is too little; the store
    /// has no room.
    pub fn resize(&self, sectors: Option<u64>) -> Result<u64> {
        let (title, medium) = (self.driver.title(), &self.driver.open.medium);
        match (medium, sectors) {
            (Medium::Ram(disk), Some(sectors)) => {
                disk.resize(sectors).with_context(|| format!("{title}: dom0 has too little memory for that"))?;
            }
            (Medium::Ram(_), None) => bail!("{title} is in dom0's memory: say which size it shall have"),
            (Medium::Virtio(_), Some(_)) => {
                bail!("{title} is a disk of the machine: resize it there, and leave the size out here")
            }
            (Medium::Virtio(_), None) => {}
        }
        let sectors = medium.sectors();
        if let Some(session) = self.session() {
            session.resize(sectors);
        }
        self.announce(&[("sectors", sectors.to_string())])?;
        Ok(sectors)
    }
}

/// The pages of the ring.
fn ring(front: &Front<'_>) -> Result<Vec<u32>> {
    if front.value("ring-page-order").is_none() {
        return Ok(Vec::from([front.number("ring-ref")?]));
    }
    let order = front.number("ring-page-order")?;
    ensure!(order <= MAX_RING_ORDER, "a ring of 2^{order} pages is too large; 2^{MAX_RING_ORDER} are offered");
    // A frontend with one page may use either name.
    if order == 0 && front.value("ring-ref0").is_none() {
        return Ok(Vec::from([front.number("ring-ref")?]));
    }
    (0..1 << order).map(|i| front.number(&format!("ring-ref{i}"))).collect()
}
