//! Guests from their configuration to their end.

use alloc::{collections::VecDeque, format, rc::Rc, string::String, vec::Vec};
use core::cell::{Cell, RefCell};

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_domu_lib::{control, println, sync::Notify, time};
use oxen_image::{Kernel, Refusal, payload};

use super::build::{self, Plan};
use super::config::{GuestConfig, disk::Disk, vif::Interface};
use super::ends::End;
use super::{nodes, room, share};
use crate::backend::block::device::{BlockDevice, BlockDriver};
use crate::backend::console::GuestConsole;
use crate::backend::device::Driver;
use crate::backend::net::device::{NetDevice, NetDriver};
use crate::bridge::Mac;
use crate::device::OpenDisk;
use crate::purse::{Log, Purse};
use crate::system::Shared;

/// Ended guests whose console output is still shown.
const REMEMBERED: usize = 16;

/// A guest that was created here.
pub struct Guest {
    /// Its configuration.
    pub config: GuestConfig,
    /// Its domain; changes when it restarts.
    pub domain: Cell<DomId>,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its console.
    pub console: Rc<GuestConsole>,
    /// Its disks.
    pub disks: RefCell<Vec<Rc<BlockDevice>>>,
    /// Its network interfaces.
    pub vifs: RefCell<Vec<Rc<NetDevice>>>,
    /// What is said about it on dom0's console, whatever domain it is.
    pub log: Rc<Log>,
    /// The same about its ends, which what it caused before does not silence.
    pub end_log: Rc<Log>,
    /// KiB that it was built with at least.
    pub built: Cell<u64>,
    /// When it started.
    pub started: Cell<u64>,
    /// How it ended, when it has and does not start again.
    pub end: Cell<Option<End>>,
    /// It has ended but is kept to be looked at.
    pub preserved: Cell<bool>,
    /// Somebody is taking it apart.
    pub(super) leaving: Cell<bool>,
    /// It is between two of its domains.
    pub(super) restarting: Cell<bool>,
    /// It is not to start again after all.
    pub(super) called_off: Cell<bool>,
    pub(super) ended: Notify,
}

impl Guest {
    /// Waits until the guest has ended for good.
    pub async fn wait(&self) -> End {
        loop {
            if let Some(end) = self.end.get() {
                self.ended.notify();
                return end;
            }
            self.ended.notified().await;
        }
    }
}

/// All guests that were created here.
#[derive(Default)]
pub struct Guests {
    alive: RefCell<Vec<Rc<Guest>>>,
    gone: RefCell<VecDeque<Rc<Guest>>>,
}

impl Guests {
    /// Those that have a domain.
    pub fn alive(&self) -> Vec<Rc<Guest>> {
        self.alive.borrow().clone()
    }

    /// The one of this name or domain number.
    pub fn find(&self, name: &str) -> Option<Rc<Guest>> {
        let number = name.parse().ok();
        let same = |guest: &&Rc<Guest>| guest.config.name == name || Some(guest.domain.get().0) == number;
        self.alive.borrow().iter().find(same).cloned()
    }

    /// The last one of this name that has ended.
    pub fn find_gone(&self, name: &str) -> Option<Rc<Guest>> {
        self.gone.borrow().iter().find(|guest| guest.config.name == name).cloned()
    }

    pub(super) fn remember(&self, guest: &Rc<Guest>) {
        self.alive.borrow_mut().retain(|other| !Rc::ptr_eq(other, guest));
        let mut gone = self.gone.borrow_mut();
        gone.push_front(guest.clone());
        gone.truncate(REMEMBERED);
    }
}

/// A file of the archive, by its own name or as one of the sample guests.
fn file(system: &Shared, name: &str) -> Result<&'static [u8], String> {
    let found = system.archive.get(name).or_else(|| system.archive.get(&format!("guests/{name}")));
    found.ok_or_else(|| {
        let names: Vec<_> = system.archive.files().map(|file| file.name).collect();
        format!("no file `{name}` in the ramdisk, which has: {}", names.join(", "))
    })
}

/// Creates a guest; it is paused until `run` says otherwise.
pub async fn create(system: &Shared, mut config: GuestConfig) -> Result<Rc<Guest>, String> {
    if system.guests.find(&config.name).is_some() {
        let name = &config.name;
        return Err(format!("a guest named `{name}` exists; `xl destroy {name}` ends it, or choose another name"));
    }
    let uuid = config.uuid.unwrap_or_else(|| random().to_be_bytes());
    // Chosen once, so that a guest that starts again has its addresses again.
    config.vifs.iter_mut().for_each(|vif| vif.mac = Some(vif.mac.unwrap_or_else(random_mac)));
    let guest = Rc::new(Guest {
        config,
        domain: Cell::new(DomId(0)),
        uuid,
        console: Rc::default(),
        disks: RefCell::default(),
        vifs: RefCell::default(),
        log: Log::of_guest(),
        end_log: Log::of_guest(),
        built: Cell::new(0),
        started: Cell::new(0),
        end: Cell::new(None),
        preserved: Cell::new(false),
        leaving: Cell::new(false),
        restarting: Cell::new(false),
        called_off: Cell::new(false),
        ended: Notify::new(),
    });
    start(system, &guest).await?;
    system.guests.alive.borrow_mut().push(guest.clone());
    Ok(guest)
}

/// Why a file is refused, with what helps where that is dom0's to say.
fn refused(why: &Refusal) -> String {
    match why {
        Refusal::Memory { .. } => {
            format!("dom0 has {why}; give dom0 more (dom0_mem= on the hypervisor's command line)")
        }
        _ => format!("{why}"),
    }
}

/// Builds a guest's domain and connects it to store and backends; it is paused.
pub(super) async fn start(system: &Shared, guest: &Rc<Guest>) -> Result<(), String> {
    let config = &guest.config;
    let purses = system.store.purses();
    let network = system.bridge.memory(config.vifs.len());
    let admission = room::admit(purses, network)?;
    let room = || room::spare(purses, network);
    let devices = config.disks.iter().map(|disk| open_disk(system, disk, network)).collect::<Result<Vec<_>, _>>()?;
    let opened = Kernel::open(file(system, &config.kernel)?, room());
    let (image, mut kernel) = opened.map_err(|why| format!("kernel `{}`: {}", config.kernel, refused(&why)))?;
    let ramdisk_file = config.ramdisk.as_ref().map(|name| file(system, name)).transpose()?.unwrap_or_default();
    let unpacked_ramdisk =
        ramdisk_file.starts_with(&[0x1f, 0x8b]).then(|| payload::gunzip(ramdisk_file, room())).transpose();
    let unpacked_ramdisk = unpacked_ramdisk.map_err(|why| format!("ramdisk: {}", refused(&why)))?;
    let plan = Plan {
        uuid: guest.uuid,
        image: &image,
        ramdisk: unpacked_ramdisk.as_deref().unwrap_or(ramdisk_file),
        cmdline: &config.cmdline,
        pages: config.memory << 8,
        maximum: config.maxmem << 10,
        vcpus: config.maxvcpus,
        max_grant_version: config.max_grant_version,
    };
    let built = build::build(&plan, &mut kernel).await?;
    guest.domain.set(built.domain);
    let purse = purses.open_again(built.domain.0, &guest.log);
    drop(admission);
    guest.built.set(built.used);
    guest.started.set(time::now());
    let connected = connect(system, guest, &built, &purse, devices);
    if connected.is_err() {
        dissolve(system, guest).await;
    }
    connected
}

fn connect(
    system: &Shared,
    guest: &Rc<Guest>,
    built: &build::Built,
    purse: &Purse,
    devices: Vec<OpenDisk>,
) -> Result<(), String> {
    let domain = built.domain;
    nodes::publish(&system.store, &guest.config, &guest.uuid, built).map_err(|e| format!("xenstore: {e}"))?;
    for (disk, device) in guest.config.disks.iter().zip(devices) {
        let driver = BlockDriver::new(disk, device, &system.store.purses().of(domain.0))?;
        let device = BlockDevice::attach(&system.store, domain, driver)?;
        guest.disks.borrow_mut().push(device);
    }
    for config in &guest.config.vifs {
        attach_vif(system, guest, config)?;
    }
    let refused = |what: &str, errno: Errno| format!("cannot serve its {what}: {}", errno.name());
    guest.console.serve(domain, built.console, built.console_port, purse).map_err(|e| refused("console", e))?;
    system.store.serve(domain.0, built.store, built.store_port).map_err(|e| refused("store", e))?;
    set_share(domain, &guest.config);
    Ok(())
}

/// Passes the scheduler's parameters on; a scheduler that knows none is no reason to fail.
fn set_share(domain: DomId, config: &GuestConfig) {
    if config.cpu_weight.is_none() && config.cap.is_none() {
        return;
    }
    if let Err(errno) = share::set(domain, config.cpu_weight, config.cap) {
        println!("warning: {}: cpu_weight and cap are not set: {}", config.name, errno.name());
    }
}

/// Takes a guest's domain apart: backends, then the domain, then its nodes.
pub(super) async fn dissolve(system: &Shared, guest: &Rc<Guest>) {
    let domain = guest.domain.get();
    let disks = core::mem::take(&mut *guest.disks.borrow_mut());
    for disk in disks {
        disk.detach().await;
    }
    let vifs = core::mem::take(&mut *guest.vifs.borrow_mut());
    for vif in vifs {
        vif.detach().await;
    }
    system.store.forget(domain.0);
    share::forget(domain);
    guest.console.close().await;
    if let Err(errno) = control::destroy_domain(domain)
        && errno != Errno::Srch
    {
        println!("{}: domain {} could not be destroyed: {}", guest.config.name, domain.0, errno.name());
    }
    nodes::withdraw(&system.store, domain.0, &guest.uuid);
    system.store.purses().close(domain.0);
    system.balloon.forget(domain);
}

/// Lets a guest run.
pub fn unpause(domain: DomId) -> Result<(), String> {
    control::unpause_domain(domain).map_err(|errno| format!("domain {} cannot run: {}", domain.0, errno.name()))
}

/// Opens a disk. A file of the archive becomes a disk in memory, which takes none of what is promised to guests.
fn open_disk(system: &Shared, disk: &Disk, network: usize) -> Result<OpenDisk, String> {
    let name = disk.target.strip_prefix("/dev/").unwrap_or(&disk.target);
    if let Some(file) = system.archive.get(name)
        && !system.disks.list().iter().any(|(known, _)| known == name)
    {
        room::allow(&format!("disk {}", disk.vdev), file.len(), room::spare(system.store.purses(), network))?;
    }
    system.disks.open(&system.archive, disk)
}

/// Gives a guest a disk.
pub fn attach_disk(system: &Shared, guest: &Guest, config: &Disk) -> Result<(), String> {
    let mut disks = guest.disks.borrow_mut();
    if disks.iter().any(|disk| disk.driver.config.number == config.number) {
        return Err(format!("`{}` has a disk `{}` already", guest.config.name, config.vdev));
    }
    let domain = guest.domain.get();
    let open = open_disk(system, config, system.bridge.memory(0))?;
    let driver = BlockDriver::new(config, open, &system.store.purses().of(domain.0))?;
    disks.push(BlockDevice::attach(&system.store, domain, driver)?);
    Ok(())
}

/// Gives a guest a network interface, of the lowest number that is free.
pub fn attach_vif(system: &Shared, guest: &Guest, config: &Interface) -> Result<(), String> {
    let domain = guest.domain.get();
    let mut vifs = guest.vifs.borrow_mut();
    let taken = |number: &u32| vifs.iter().any(|vif| vif.driver.number() == *number);
    let number = (0..).find(|number| !taken(number)).unwrap_or_default();
    let driver = NetDriver::new(&system.bridge, domain.0, number, config, config.mac.unwrap_or_else(random_mac));
    vifs.push(NetDevice::attach(&system.store, domain, driver)?);
    Ok(())
}

/// A UUID of version 4 from what the clock gives; it has to be unique, not secret.
fn random() -> u128 {
    let mut state = u128::from(oxen_domu_lib::machine::tsc()) << 64 | u128::from(time::wall());
    for _ in 0..4 {
        state = state.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).rotate_left(61) ^ state >> 71;
    }
    state & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62
}

/// An address of the range that is kept for guests.
fn random_mac() -> Mac {
    let [a, b, c, ..] = random().to_be_bytes();
    Mac([0x00, 0x16, 0x3e, a & 0x7f, b, c])
}
