//! Guests from their configuration to their end.

use alloc::{collections::VecDeque, format, rc::Rc, string::String, vec::Vec};
use core::cell::{Cell, RefCell};

use oxen_abi::domctl::DomctlGetdomaininfo;
use oxen_abi::domctl::{XEN_DOMINF_DYING, XEN_DOMINF_SHUTDOWN, XEN_DOMINF_SHUTDOWNMASK, XEN_DOMINF_SHUTDOWNSHIFT};
use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SUSPEND, SHUTDOWN_WATCHDOG};
use oxen_abi::virq::VIRQ_DOM_EXC;
use oxen_domu_lib::{control, event::Port, memory, println, sync::Notify, task, time};

use super::build::{self, Plan};
use super::config::{Action, GuestConfig};
use super::image::Image;
use super::{autopsy, nodes, payload};
use crate::backend::block::device::BlockDevice;
use crate::backend::console::GuestConsole;
use crate::system::Shared;

/// Pages of dom0 that stay free for everything else.
const DOM0_RESERVE: usize = 2048;
/// Ended guests whose console output is still shown.
const REMEMBERED: usize = 16;
/// Restarts nearer to a guest's start than this (nanoseconds) count as a loop.
const RESTART_PAUSE: u64 = 2 * time::SECOND;

/// Why a guest is not running any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It asked for it: one of `SHUTDOWN_*`.
    Shutdown(u32),
    /// Somebody else destroyed it.
    Destroyed,
}

impl End {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shutdown(SHUTDOWN_POWEROFF) => "poweroff",
            Self::Shutdown(SHUTDOWN_REBOOT) => "reboot",
            Self::Shutdown(SHUTDOWN_SUSPEND) => "suspend",
            Self::Shutdown(SHUTDOWN_CRASH) => "crash",
            Self::Shutdown(SHUTDOWN_WATCHDOG) => "watchdog",
            Self::Shutdown(_) => "unknown reason",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether this is how guests end when all is well.
    pub fn is_clean(self) -> bool {
        !matches!(self, Self::Shutdown(SHUTDOWN_CRASH | SHUTDOWN_WATCHDOG))
    }
}

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
    /// KiB that it was built with at least.
    pub built: Cell<u64>,
    /// When it started.
    pub started: Cell<u64>,
    /// How it ended, when it has and does not start again.
    pub end: Cell<Option<End>>,
    /// It has ended but is kept to be looked at.
    pub preserved: Cell<bool>,
    /// Somebody is taking it apart.
    leaving: Cell<bool>,
    ended: Notify,
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

    fn remember(&self, guest: &Rc<Guest>) {
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
pub async fn create(system: &Shared, config: GuestConfig) -> Result<Rc<Guest>, String> {
    if system.guests.find(&config.name).is_some() {
        let name = &config.name;
        return Err(format!("a guest named `{name}` exists; `xl destroy {name}` ends it, or choose another name"));
    }
    let uuid = config.uuid.unwrap_or_else(random_uuid);
    let guest = Rc::new(Guest {
        config,
        domain: Cell::new(DomId(0)),
        uuid,
        console: Rc::default(),
        disks: RefCell::default(),
        built: Cell::new(0),
        started: Cell::new(0),
        end: Cell::new(None),
        preserved: Cell::new(false),
        leaving: Cell::new(false),
        ended: Notify::new(),
    });
    start(system, &guest).await?;
    system.guests.alive.borrow_mut().push(guest.clone());
    Ok(guest)
}

/// Bytes of dom0's memory that unpacking may take.
fn room() -> usize {
    memory::pool::free_pages().saturating_sub(DOM0_RESERVE) * memory::PAGE_SIZE
}

/// Builds a guest's domain and connects it to store and backends; it is paused.
async fn start(system: &Shared, guest: &Rc<Guest>) -> Result<(), String> {
    let config = &guest.config;
    let devices =
        config.disks.iter().map(|disk| system.disks.open(&system.archive, disk)).collect::<Result<Vec<_>, _>>()?;
    let packed = file(system, &config.kernel)?;
    let unpacked;
    let kernel = if payload::is_plain_elf(packed) {
        packed
    } else {
        unpacked = payload::decompress(packed, room()).map_err(|why| format!("kernel `{}`: {why}", config.kernel))?;
        &unpacked
    };
    let image = Image::parse(kernel).map_err(|why| format!("kernel `{}`: {why}", config.kernel))?;
    let ramdisk_file = config.ramdisk.as_ref().map(|name| file(system, name)).transpose()?.unwrap_or_default();
    let unpacked_ramdisk =
        ramdisk_file.starts_with(&[0x1f, 0x8b]).then(|| payload::gunzip(ramdisk_file, room())).transpose()?;
    let plan = Plan {
        uuid: guest.uuid,
        kernel,
        image: &image,
        ramdisk: unpacked_ramdisk.as_deref().unwrap_or(ramdisk_file),
        cmdline: &config.cmdline,
        pages: config.memory << 8,
        maximum: config.maxmem << 10,
        vcpus: config.maxvcpus,
    };
    let built = build::build(&plan).await?;
    guest.domain.set(built.domain);
    guest.built.set(built.used);
    guest.started.set(time::now());
    let connected = connect(system, guest, &built, devices);
    if connected.is_err() {
        dissolve(system, guest).await;
    }
    connected
}

fn connect(
    system: &Shared,
    guest: &Rc<Guest>,
    built: &build::Built,
    devices: Vec<crate::device::OpenDisk>,
) -> Result<(), String> {
    let domain = built.domain;
    nodes::publish(&system.store, &guest.config, &guest.uuid, built).map_err(|e| format!("xenstore: {e}"))?;
    for (disk, device) in guest.config.disks.iter().zip(devices) {
        let device = BlockDevice::attach(&system.store, domain, disk, device)?;
        guest.disks.borrow_mut().push(device);
    }
    let refused = |what: &str, errno: Errno| format!("cannot serve its {what}: {}", errno.name());
    guest.console.serve(domain, built.console, built.console_port).map_err(|e| refused("console", e))?;
    system.store.serve(domain.0, built.store, built.store_port).map_err(|e| refused("store", e))?;
    set_share(domain, &guest.config);
    Ok(())
}

/// Passes the scheduler's parameters on; a scheduler that knows none is no reason to fail.
fn set_share(domain: DomId, config: &GuestConfig) {
    use oxen_abi::domctl::{
        DomctlSchedCredit, DomctlSchedulerOp, XEN_DOMCTL_SCHEDOP_GETINFO, XEN_DOMCTL_SCHEDOP_PUTINFO,
    };
    if config.cpu_weight.is_none() && config.cap.is_none() {
        return;
    }
    let result = control::scheduler().and_then(|sched_id| {
        let credit = DomctlSchedCredit { weight: 0, cap: 0 };
        let get = DomctlSchedulerOp { sched_id, cmd: XEN_DOMCTL_SCHEDOP_GETINFO, credit, _pad0: [0; 3] };
        let now = control::scheduler_op(domain, &get)?.credit;
        let credit =
            DomctlSchedCredit { weight: config.cpu_weight.unwrap_or(now.weight), cap: config.cap.unwrap_or(now.cap) };
        control::scheduler_op(domain, &DomctlSchedulerOp { cmd: XEN_DOMCTL_SCHEDOP_PUTINFO, credit, ..get })
    });
    if let Err(errno) = result {
        println!("warning: {}: cpu_weight and cap are not set: {}", config.name, errno.name());
    }
}

/// Takes a guest's domain apart: backends, then the domain, then its nodes.
async fn dissolve(system: &Shared, guest: &Rc<Guest>) {
    let domain = guest.domain.get();
    let disks = core::mem::take(&mut *guest.disks.borrow_mut());
    for disk in disks {
        disk.detach().await;
    }
    system.store.forget(domain.0);
    guest.console.close().await;
    if let Err(errno) = control::destroy_domain(domain)
        && errno != Errno::Srch
    {
        println!("{}: domain {} could not be destroyed: {}", guest.config.name, domain.0, errno.name());
    }
    nodes::withdraw(&system.store, domain.0, &guest.uuid);
    system.balloon.forget(domain);
}

/// Lets a guest run.
pub fn unpause(domain: DomId) -> Result<(), String> {
    control::unpause_domain(domain).map_err(|errno| format!("domain {} cannot run: {}", domain.0, errno.name()))
}

/// Ends a guest at once.
pub async fn destroy(system: &Shared, guest: &Rc<Guest>) {
    if guest.end.get().is_none() || guest.preserved.get() {
        finish(system, guest, End::Destroyed).await;
    }
}

/// Takes a guest apart for good; who comes second waits for who came first.
async fn finish(system: &Shared, guest: &Rc<Guest>, end: End) {
    if guest.leaving.replace(true) {
        guest.wait().await;
        return;
    }
    dissolve(system, guest).await;
    system.guests.remember(guest);
    guest.preserved.set(false);
    // A guest that ended by itself and was preserved keeps its own reason.
    guest.end.set(Some(guest.end.get().unwrap_or(end)));
    guest.ended.notify();
}

/// What the hypervisor says about a domain, if it is there.
pub fn info(domain: DomId) -> Option<DomctlGetdomaininfo> {
    control::domain_info(domain).ok().filter(|info| info.domain == domain)
}

/// The reason in a domain's flags, if it has stopped.
pub fn shutdown_code(info: &DomctlGetdomaininfo) -> Option<u32> {
    let stopped = info.flags & XEN_DOMINF_SHUTDOWN != 0;
    stopped.then_some(info.flags >> XEN_DOMINF_SHUTDOWNSHIFT & XEN_DOMINF_SHUTDOWNMASK)
}

/// The task that notices guests' ends.
pub async fn watch(system: Shared) {
    let port = match Port::bind_virq(VIRQ_DOM_EXC) {
        Ok(port) => Some(port),
        Err(errno) => {
            println!("guests' ends are looked for once a second: {}", errno.name());
            None
        }
    };
    loop {
        match &port {
            Some(port) => port.wait().await,
            None => time::sleep(time::SECOND).await,
        }
        for guest in system.guests.alive() {
            if guest.end.get().is_none()
                && !guest.leaving.get()
                && let Some(end) = end_of(guest.domain.get())
            {
                handle_end(&system, &guest, end).await;
            }
        }
    }
}

fn end_of(domain: DomId) -> Option<End> {
    match info(domain) {
        None => Some(End::Destroyed),
        Some(info) if info.flags & XEN_DOMINF_DYING != 0 => Some(End::Destroyed),
        Some(info) => shutdown_code(&info).map(End::Shutdown),
    }
}

async fn handle_end(system: &Shared, guest: &Rc<Guest>, end: End) {
    let (name, domain) = (&guest.config.name, guest.domain.get());
    system.store.with(crate::store::Store::announce_end);
    // The console's last bytes may still be on the ring, and whoever waits for them has to show them.
    for _ in 0..4 {
        task::yield_now().await;
    }
    println!("guest `{name}` (domain {}) has ended: {}", domain.0, end.name());
    if !end.is_clean() {
        autopsy::report(guest, domain);
    }
    let action = match end {
        End::Shutdown(SHUTDOWN_POWEROFF) => guest.config.on_poweroff,
        End::Shutdown(SHUTDOWN_REBOOT) => guest.config.on_reboot,
        End::Shutdown(SHUTDOWN_CRASH | SHUTDOWN_WATCHDOG) => guest.config.on_crash,
        _ => Action::Destroy,
    };
    match action {
        Action::Preserve => {
            guest.preserved.set(true);
            guest.end.set(Some(end));
            guest.ended.notify();
            println!("guest `{name}` is preserved; `xl destroy {name}` ends it");
        }
        Action::Destroy => finish(system, guest, end).await,
        Action::Restart => restart(system, guest, end).await,
    }
}

async fn restart(system: &Shared, guest: &Rc<Guest>, end: End) {
    dissolve(system, guest).await;
    let ran = time::now().saturating_sub(guest.started.get());
    time::sleep(RESTART_PAUSE.saturating_sub(ran)).await;
    let started = match start(system, guest).await {
        Ok(()) => unpause(guest.domain.get()),
        Err(why) => Err(why),
    };
    let name = &guest.config.name;
    match started {
        Ok(()) => println!("guest `{name}` starts again as domain {}", guest.domain.get().0),
        Err(why) => {
            println!("guest `{name}` cannot start again: {why}");
            system.guests.remember(guest);
            guest.end.set(Some(end));
            guest.ended.notify();
        }
    }
}

/// A UUID of version 4 from what the clock gives; it has to be unique, not secret.
fn random_uuid() -> [u8; 16] {
    let mut state = u128::from(oxen_domu_lib::machine::tsc()) << 64 | u128::from(time::wall());
    for _ in 0..4 {
        state = state.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).rotate_left(61) ^ state >> 71;
    }
    (state & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62).to_be_bytes()
}
