//! Devices of this machine, and how guests' disks are opened on them.

pub mod interrupt;
pub mod pci;
pub mod ramdisk;
pub mod transfer;
pub mod virtio;
pub mod virtio_block;
pub mod virtio_net;
pub mod virtqueue;

use alloc::{collections::BTreeMap, format, rc::Rc, string::String, vec::Vec};
use core::cell::{Cell, RefCell};

use anyhow::{Context, Error, Result, anyhow, bail};
use oxen_abi::domid::DomId;
use oxen_domu_lib::memory::{Pages, map::Words};
use oxen_domu_lib::sync::Waiters;
use oxen_domu_lib::{at_end, task};

use crate::archive::Archive;
use crate::config::disk::Disk;
use crate::mapped::Mapped;
use crate::purse::{Budget, Charge};
use interrupt::Lines;
use ramdisk::RamDisk;
use transfer::Direction;
use virtio_block::VirtioBlock;

/// For whom the tasks of devices work: for all, and for nobody's share of dom0's time.
pub const OWNER: u16 = DomId::IO.0;

/// Pages that data go to or come from.
#[derive(Clone, Debug)]
pub enum Memory {
    /// A guest's, kept mapped.
    Granted(Rc<Mapped>),
    /// dom0's own.
    Own(Rc<Pages>),
}

/// A part of a page that data go to or come from.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The pages.
    pub memory: Memory,
    /// Which of them.
    pub page: usize,
    /// First byte in the page, a multiple of 512.
    pub offset: u16,
    /// Bytes, a multiple of 512.
    pub bytes: u16,
}

impl Piece {
    /// The part as words of 64 bits.
    pub fn words(&self) -> &[core::sync::atomic::AtomicU64] {
        let first = self.page * 512 + usize::from(self.offset) / 8;
        let words = match &self.memory {
            Memory::Granted(mapped) => mapped.words().words64(),
            Memory::Own(pages) => pages.words64(),
        };
        words.get(first..first + usize::from(self.bytes) / 8).unwrap_or_default()
    }

    /// The machine address of its first byte, for devices.
    pub fn machine_address(&self) -> Option<u64> {
        let page = match &self.memory {
            Memory::Granted(mapped) => mapped.machine_address(self.page)?,
            Memory::Own(pages) => pages.mfn(self.page).address(),
        };
        Some(page + u64::from(self.offset))
    }
}

/// The disk could not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure;

/// Counts what disks have in work for somebody, who can wait until it is nothing.
#[derive(Debug, Default)]
pub struct Gate {
    inside: Cell<usize>,
    left: Waiters,
}

impl Gate {
    /// Waits until no disk has anything in work.
    pub async fn empty(&self) {
        self.left.until(|| (self.inside.get() == 0).then_some(())).await;
    }
}

/// One step of work, counted until it is dropped.
#[derive(Debug)]
struct Stay(Rc<Gate>);

impl Stay {
    fn new(gate: &Rc<Gate>) -> Self {
        gate.inside.set(gate.inside.get() + 1);
        Self(gate.clone())
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        self.0.left.wake();
    }
}

/// A place for one step of work at a disk. Who wants one waits behind all who came before, whatever guest they work
/// for; a guest's pages are mapped only when there is one. The disk has it for as long as it works at that step, even
/// if nobody waits for the step any more.
#[derive(Debug)]
pub struct Room {
    _part: Charge,
    _stay: Stay,
}

/// Waits for a part of what a disk can have in work at a time.
async fn room(places: &Budget, amount: usize, gate: &Rc<Gate>) -> Result<Room, Failure> {
    places.wait_for(amount).await.map(|part| Room { _part: part, _stay: Stay::new(gate) }).map_err(|_| Failure)
}

/// What a disk of a guest really is.
#[derive(Clone, Debug)]
pub enum Medium {
    /// A file of the archive, in memory.
    Ram(Rc<RamDisk>),
    /// A disk of this machine.
    Virtio(Rc<VirtioBlock>),
}

impl Medium {
    /// Sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        match self {
            Self::Ram(disk) => disk.sectors(),
            Self::Virtio(disk) => disk.sectors(),
        }
    }

    /// Whether it can be written at all.
    pub fn is_writable(&self) -> bool {
        match self {
            Self::Ram(_) => true,
            Self::Virtio(disk) => disk.is_writable(),
        }
    }

    /// Whether it takes discards.
    pub fn can_discard(&self) -> bool {
        match self {
            Self::Ram(_) => true,
            Self::Virtio(disk) => disk.can_discard(),
        }
    }

    /// How many pieces a transfer has at most; at least one.
    pub fn max_pieces(&self) -> usize {
        match self {
            Self::Ram(_) => ramdisk::MAX_PIECES,
            Self::Virtio(disk) => disk.max_pieces(),
        }
    }

    /// Waits until the disk can take a transfer of so many pieces.
    ///
    /// # Errors
    /// [`Failure`] if there are more than [`Self::max_pieces`].
    pub async fn room(&self, pieces: usize, gate: &Rc<Gate>) -> Result<Room, Failure> {
        match self {
            Self::Ram(disk) => disk.room(gate).await,
            Self::Virtio(disk) => disk.room(pieces, gate).await,
        }
    }

    /// Moves data between the disk, from `sector` on, and the pieces one after the other, in the room that there is for
    /// them. Whoever drops the future before its end leaves pieces and room to the disk until it is done with them.
    ///
    /// # Errors
    /// [`Failure`] if the disk failed.
    pub async fn transfer(
        &self,
        direction: Direction,
        sector: u64,
        pieces: Vec<Piece>,
        room: Room,
    ) -> Result<(), Failure> {
        match self {
            Self::Ram(disk) => {
                let done = disk.transfer(direction, sector, &pieces);
                // The room is kept meanwhile: a disk does one step before others have their turn.
                task::yield_now().await;
                drop(room);
                done
            }
            Self::Virtio(disk) => disk.transfer(direction, sector, pieces, room).await,
        }
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn flush(&self, gate: &Rc<Gate>) -> Result<(), Failure> {
        match self {
            Self::Ram(_) => Ok(()),
            Self::Virtio(disk) => disk.flush(gate).await,
        }
    }

    /// Forgets the contents of sectors.
    ///
    /// # Errors
    /// Where the device fails, or has no such sectors.
    pub async fn discard(&self, sector: u64, count: u64, gate: &Rc<Gate>) -> Result<(), Failure> {
        match self {
            Self::Ram(disk) => disk.discard(sector, count, gate).await,
            Self::Virtio(disk) => disk.discard(sector, count, gate).await,
        }
    }
}

/// How a medium is in use.
#[derive(Debug, Default)]
struct Use {
    readers: Cell<usize>,
    writers: Cell<usize>,
}

/// A medium that a guest's disk uses; free again when dropped.
#[derive(Debug)]
pub struct OpenDisk {
    /// What stands behind it.
    pub medium: Medium,
    /// Whether the guest may write.
    pub writable: bool,
    uses: Rc<Use>,
}

impl Drop for OpenDisk {
    fn drop(&mut self) {
        let count = if self.writable { &self.uses.writers } else { &self.uses.readers };
        count.set(count.get().saturating_sub(1));
    }
}

/// All media by name.
#[derive(Default)]
pub struct Disks {
    known: RefCell<BTreeMap<String, (Medium, Rc<Use>)>>,
}

impl Disks {
    /// The machine's own disks: `vda`, `vdb` and so on.
    pub fn find(lines: &Lines) -> Self {
        let disks = Self::default();
        let found = VirtioBlock::find_all(lines);
        for disk in &found {
            disks.add(&disk.name, Medium::Virtio(disk.clone()));
        }
        at_end::before_end(move || found.iter().for_each(|disk| disk.flush_at_end()));
        disks
    }

    /// Adds a disk.
    pub fn add(&self, name: &str, medium: Medium) {
        self.known.borrow_mut().insert(name.into(), (medium, Rc::default()));
    }

    /// Names and sizes of those that are known.
    pub fn list(&self) -> Vec<(String, u64)> {
        self.known.borrow().iter().map(|(name, (medium, _))| (name.clone(), medium.sectors())).collect()
    }

    /// Opens what a configuration names: `vda` or `/dev/vda`, or a file of the archive. One writer excludes
    /// everybody else.
    ///
    /// # Errors
    /// Where there is no such disk, or it is empty, cannot be written as is wanted, or is in use; without memory for a
    /// file.
    pub fn open(&self, archive: &Archive<'static>, disk: &Disk) -> Result<OpenDisk> {
        self.open_for_guest(archive, disk).with_context(|| format!("disk {}", disk.vdev))
    }

    fn open_for_guest(&self, archive: &Archive<'static>, disk: &Disk) -> Result<OpenDisk> {
        let name = short(&disk.target);
        if !self.known.borrow().contains_key(name) {
            let file = archive.get(name).ok_or_else(|| self.unknown(&disk.target))?;
            let lacking = || anyhow!("dom0 has too little memory for `{}`", disk.target);
            self.add(name, Medium::Ram(Rc::new(RamDisk::new(file).ok_or_else(lacking)?)));
        }
        self.open_known(&disk.target, disk.writable)
    }

    /// Opens a disk that is there, by `vda` or `/dev/vda`, whoever it is for.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_known(&self, target: &str, writable: bool) -> Result<OpenDisk> {
        let known = self.known.borrow();
        let (medium, uses) = known.get(short(target)).ok_or_else(|| self.unknown(target))?;
        if medium.sectors() == 0 {
            bail!("`{target}` is empty: not even one sector of 512 bytes");
        }
        if writable && !medium.is_writable() {
            bail!("`{target}` can only be read; write access = ro");
        }
        if uses.writers.get() != 0 || (writable && uses.readers.get() != 0) {
            bail!("another guest uses `{target}`, and one of both writes");
        }
        let count = if writable { &uses.writers } else { &uses.readers };
        count.set(count.get() + 1);
        Ok(OpenDisk { medium: medium.clone(), writable, uses: uses.clone() })
    }

    fn unknown(&self, target: &str) -> Error {
        let names: Vec<_> = self.known.borrow().keys().map(|name| format!("/dev/{name}")).collect();
        let there = if names.is_empty() { String::from("no disk") } else { names.join(", ") };
        anyhow!("there is no `{target}`; this machine has {there} (cargo xtask run --disk IMG adds one)")
    }
}

/// A disk's name without its folder.
fn short(target: &str) -> &str {
    target.strip_prefix("/dev/").unwrap_or(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_excludes_everybody_else() {
        let disks = Disks::default();
        disks.add("vda", Medium::Ram(Rc::new(RamDisk::new(&[1; 1024]).unwrap())));
        let archive = Archive::new(&[]);
        let open = |text: &str| disks.open(&archive, &Disk::parse(text).unwrap());
        let first = open("/dev/vda,raw,xvda,w").unwrap();
        assert!(format!("{:#}", open("vda,raw,xvda,r").unwrap_err()).contains("another guest"));
        drop(first);
        let readers = (open("vda,raw,xvda,r").unwrap(), open("vda,raw,xvdb,r").unwrap());
        assert!(open("vda,raw,xvda,w").is_err());
        drop(readers);
        assert!(open("vda,raw,xvda,w").is_ok());
        let missing = format!("{:#}", open("vdb,raw,xvda").unwrap_err());
        assert!(missing.contains("no `vdb`") && missing.contains("/dev/vda"), "{missing}");
    }
}
