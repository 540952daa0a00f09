//! Guests from their configuration to their end.

use alloc::{format, rc::Rc, vec::Vec};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_domu_lib::{control, println, time};
use oxen_image::{Kernel, Refusal, payload};

use super::build::{self, Plan, shell::Shell};
use super::guest::Guest;
use super::system::System;
use super::{nodes, room, share};
use crate::backend::block::device::{BlockDevice, BlockDriver};
use crate::backend::device::Driver;
use crate::backend::net::device::{NetDevice, NetDriver};
use crate::balloon::controller;
use crate::bridge::Mac;
use crate::config::{GuestConfig, cpus::CpuSet, disk::Disk, vif::Interface};
use crate::device::OpenDisk;
use crate::errno::Named;
use crate::purse::{Admission, Purse};

/// A file of the archive, by its own name or as one of the sample guests.
fn file(system: &System, name: &str) -> Result<&'static [u8]> {
    let found = system.archive.get(name).or_else(|| system.archive.get(&format!("guests/{name}")));
    found.with_context(|| {
        let names: Vec<_> = system.archive.files().map(|file| file.name).collect();
        format!("no file `{name}` in the ramdisk, which has: {}", names.join(", "))
    })
}

/// Creates a guest; it is paused.
///
/// # Errors
/// There is a guest of this name; a file or a disk is not there or makes no sense; the machine's memory or dom0's is
/// too little.
pub async fn create(system: &System, config: GuestConfig) -> Result<Rc<Guest>> {
    let guest = named(system, config)?;
    start(system, &guest).await?;
    system.guests.add(guest.clone());
    Ok(guest)
}

/// A guest that has all its names, and no domain.
fn named(system: &System, mut config: GuestConfig) -> Result<Rc<Guest>> {
    if system.guests.find(&config.name).is_some() {
        let name = &config.name;
        bail!("a guest named `{name}` exists; `xl destroy {name}` ends it, or choose another name");
    }
    let uuid = config.uuid.unwrap_or_else(|| random().to_be_bytes());
    // Chosen once, so that a guest that starts again has its addresses again.
    config.vifs.iter_mut().for_each(|vif| vif.mac = Some(vif.mac.unwrap_or_else(random_mac)));
    Ok(Rc::new(Guest::new(config, uuid)))
}

/// Has `fill` make a guest's domain, and connects it to store and backends; it is paused.
///
/// # Errors
/// As [`create`], and what `fill` says.
pub(super) async fn restore(
    system: &System,
    config: GuestConfig,
    fill: impl AsyncFnOnce(&Shell) -> Result<build::Built>,
) -> Result<Rc<Guest>> {
    let guest = named(system, config)?;
    let purses = system.store.purses();
    let network = system.bridge.memory(guest.config.vifs.len());
    let admission = room::admit(purses, network)?;
    let disks = guest.config.disks.iter();
    let devices = disks.map(|disk| open_disk(system, disk, network)).collect::<Result<Vec<_>, _>>()?;
    let built = fill(&shell_of(&guest)).await?;
    adopt(system, &guest, &built, devices, admission).await?;
    system.guests.add(guest.clone());
    Ok(guest)
}

/// Takes a domain that was built or filled as the guest's, and connects it.
async fn adopt(
    system: &System,
    guest: &Guest,
    built: &build::Built,
    devices: Vec<OpenDisk>,
    admission: Admission,
) -> Result<()> {
    guest.domain.set(built.domain);
    let purse = system.store.purses().open_again(built.domain.0, &guest.log);
    drop(admission);
    guest.built.set(built.used);
    guest.started.set(time::now());
    let connected = connect(system, guest, built, &purse, devices);
    if connected.is_err() {
        dissolve(system, guest).await;
    }
    connected
}

/// Why a file is refused, with what helps where that is dom0's to say.
fn refused(why: &Refusal) -> Error {
    match why {
        Refusal::Memory { .. } => {
            anyhow!("dom0 has {why}; give dom0 more (dom0_mem= on the hypervisor's command line)")
        }
        _ => anyhow!("{why}"),
    }
}

/// Builds a guest's domain and connects it to store and backends; it is paused.
///
/// # Errors
/// As [`create`].
pub(super) async fn start(system: &System, guest: &Guest) -> Result<()> {
    let config = &guest.config;
    let purses = system.store.purses();
    let network = system.bridge.memory(config.vifs.len());
    let admission = room::admit(purses, network)?;
    let room = || room::spare(purses, network);
    let devices = config.disks.iter().map(|disk| open_disk(system, disk, network)).collect::<Result<Vec<_>, _>>()?;
    let opened = Kernel::open(file(system, &config.kernel)?, room());
    let (image, mut kernel) =
        opened.map_err(|why| refused(&why)).with_context(|| format!("kernel `{}`", config.kernel))?;
    let ramdisk_file = config.ramdisk.as_ref().map(|name| file(system, name)).transpose()?.unwrap_or_default();
    let unpacked_ramdisk =
        ramdisk_file.starts_with(&[0x1f, 0x8b]).then(|| payload::gunzip(ramdisk_file, room())).transpose();
    let unpacked_ramdisk = unpacked_ramdisk.map_err(|why| refused(&why)).context("ramdisk")?;
    let plan = Plan {
        shell: shell_of(guest),
        image: &image,
        ramdisk: unpacked_ramdisk.as_deref().unwrap_or(ramdisk_file),
        cmdline: &config.cmdline,
    };
    let built = build::build(&plan, &mut kernel).await?;
    adopt(system, guest, &built, devices, admission).await
}

/// The domain that a guest's configuration asks for.
fn shell_of(guest: &Guest) -> Shell {
    let config = &guest.config;
    Shell {
        uuid: guest.uuid,
        pages: config.memory << 8,
        maximum: config.maxmem << 10,
        vcpus: config.maxvcpus,
        max_grant_version: config.max_grant_version,
        tsc_mode: config.tsc_mode,
        is_translated: config.is_translated,
    }
}

fn connect(system: &System, guest: &Guest, built: &build::Built, purse: &Purse, devices: Vec<OpenDisk>) -> Result<()> {
    let domain = built.domain;
    nodes::publish(&system.store, &guest.name(), &guest.config, &guest.uuid, built).context("xenstore")?;
    for (disk, device) in guest.config.disks.iter().zip(devices) {
        let driver = BlockDriver::new(disk, device, &system.store.purses().of(domain.0))?;
        let device = BlockDevice::attach(&system.store, domain, driver)?;
        guest.disks.borrow_mut().push(device);
    }
    for config in &guest.config.vifs {
        attach_vif(system, guest, config)?;
    }
    let console = guest.console.serve(domain, built.console, built.console_port, purse);
    console.map_err(Named).context("cannot serve its console")?;
    let store = system.store.serve(domain.0, built.store, built.store_port);
    store.map_err(Named).context("cannot serve its store")?;
    set_share(domain, &guest.config);
    pin(domain, &guest.config)
}

/// Sets where a guest's vcpus may run, and where they should.
fn pin(domain: DomId, config: &GuestConfig) -> Result<()> {
    for vcpu in 0..config.maxvcpus {
        let [hard, soft] = [&config.cpus, &config.cpus_soft].map(|sets| set_of(sets, vcpu));
        if hard.is_some() || soft.is_some() {
            let words = |set: Option<CpuSet>| set.map(|set| set.words());
            let pinned = control::set_vcpu_affinity(domain, vcpu, words(hard), words(soft), false);
            pinned.map_err(Named).with_context(|| format!("`cpus` or `cpus_soft` of vcpu {vcpu}"))?;
        }
    }
    Ok(())
}

/// The set of a vcpu: the only one is for all, several are each for one.
fn set_of(sets: &[CpuSet], vcpu: u32) -> Option<CpuSet> {
    match sets {
        [for_all] => Some(*for_all),
        each => each.get(vcpu as usize).copied(),
    }
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
pub(super) async fn dissolve(system: &System, guest: &Guest) {
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
        println!("{}: domain {} could not be destroyed: {}", guest.name(), domain.0, errno.name());
    }
    nodes::withdraw(&system.store, domain.0, &guest.uuid);
    system.store.purses().close(domain.0);
    system.balloon.forget(domain);
}

/// Lets a guest run.
///
/// # Errors
/// What the hypervisor refuses: there is no such domain.
pub fn unpause(domain: DomId) -> Result<()> {
    control::unpause_domain(domain).map_err(Named).with_context(|| format!("domain {} cannot run", domain.0))
}

/// Opens a disk. A file of the archive becomes a disk in memory, which takes none of what is promised to guests.
fn open_disk(system: &System, disk: &Disk, network: usize) -> Result<OpenDisk> {
    let name = disk.target.strip_prefix("/dev/").unwrap_or(&disk.target);
    if let Some(file) = system.archive.get(name)
        && !system.disks.list().iter().any(|(known, _)| known == name)
    {
        room::allow(&format!("disk {}", disk.vdev), file.len(), room::spare(system.store.purses(), network))?;
    }
    system.disks.open(&system.archive, disk)
}

/// Gives a guest a disk.
///
/// # Errors
/// It has one of this name, the disk is not there or in use, or the store or the guest's purse has no room for it.
pub fn attach_disk(system: &System, guest: &Guest, config: &Disk) -> Result<()> {
    let mut disks = guest.disks.borrow_mut();
    let is_taken = disks.iter().any(|disk| disk.driver.config.number == config.number);
    ensure!(!is_taken, "`{}` has a disk `{}` already", guest.name(), config.vdev);
    let domain = guest.domain.get();
    let open = open_disk(system, config, system.bridge.memory(0))?;
    let driver = BlockDriver::new(config, open, &system.store.purses().of(domain.0))?;
    disks.push(BlockDevice::attach(&system.store, domain, driver)?);
    Ok(())
}

/// Gives a guest a network interface, of the lowest number that is free.
///
/// # Errors
/// The store has no room for its nodes.
pub fn attach_vif(system: &System, guest: &Guest, config: &Interface) -> Result<()> {
    let domain = guest.domain.get();
    let mut vifs = guest.vifs.borrow_mut();
    let taken = |number: &u32| vifs.iter().any(|vif| vif.driver.number() == *number);
    let number = (0..).find(|number| !taken(number)).unwrap_or_default();
    let driver = NetDriver::new(&system.bridge, domain.0, number, config, config.mac.unwrap_or_else(random_mac));
    vifs.push(NetDevice::attach(&system.store, domain, driver)?);
    Ok(())
}

/// Looks after all memory targets, once a second.
pub async fn watch_targets(system: Rc<System>) {
    loop {
        time::sleep(controller::LOOK).await;
        let guests = system.guests.alive();
        let subjects: Vec<_> = guests.iter().map(|guest| guest.subject()).collect();
        subjects.iter().for_each(|subject| system.balloon.look(subject));
        system.coordinator.look(&system.balloon, &subjects);
    }
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
pub fn random_mac() -> Mac {
    let [a, b, c, ..] = random().to_be_bytes();
    Mac([0x00, 0x16, 0x3e, a & 0x7f, b, c])
}
