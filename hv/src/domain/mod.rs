//! Domains: who exists, and what each has. How one is made, paused, shut down and ended is [`crate::lifecycle`].

pub mod control_registers;
pub mod counters;
pub mod cpu_policy;
pub mod debug;
pub mod flags;
pub mod regs;
pub mod table;
pub mod traps;
pub mod tsc;
pub mod vcpu;
mod vcpu_table;
pub mod vnuma;

use crate::{
    config::{MAX_GRANT_FRAMES, MAX_MAPTRACK_FRAMES, MAX_PORTS, MAX_VCPUS},
    console,
    event::Events,
    event::pirq,
    grant::{self, Grants, Party},
    lock::{Lock, rank},
    mem::{PagingDomain, RamFrame, frame_type::Owner},
    rights::Rights,
    sched::{pools::FIRST_POOL, run_queue::Share},
};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use counters::Counters;
use oxen_abi::{domid::DomId, memory::E820Entry, vm_assist::Assists};
use vcpu::Vcpu;
pub(crate) use vcpu_table::VcpuTable;

/// A domain. What several CPUs touch is atomic or under the lock of its subject.
#[derive(Debug)]
pub struct Domain {
    /// Its name in the ABI.
    pub id: DomId,
    /// The toolstack's 16 bytes (`XEN_DOMCTL_setdomainhandle`).
    pub handle: Lock<[u8; 16], { rank::HANDLE }>,
    /// The frame of `shared_info`.
    pub shared_info: RamFrame,
    pub(crate) vcpus: VcpuTable,
    /// How many vcpus it may have.
    pub max_vcpus: AtomicU32,
    /// What it is told of its memory (`XENMEM_memory_map`), as the toolstack set it.
    pub memory_map: Lock<heapless::Vec<E820Entry, { Self::MAX_MEMORY_MAP }>, { rank::MEMORY_MAP }>,
    /// What it has in memory, and may have.
    pub memory: PagingDomain,
    /// Event channels.
    pub events: Events,
    /// A line that it has begun to write on the hypervisor's console.
    pub console_line: Lock<console::GuestLine, { rank::GUEST_LINE }>,
    /// Grants given and taken.
    pub grants: Lock<Grants, { rank::GRANTS }>,
    /// How often it is paused by the toolstack or the hypervisor; it runs at zero. Changed under `life`.
    pub pause_count: AtomicU32,
    /// How often the toolstack has paused it (`XEN_DOMCTL_pausedomain`). Changed under `life`.
    pub controller_pauses: AtomicU32,
    /// Held for every step in the domain's life: pausing, shutting down, contexts from outside, teardown.
    pub life: Lock<Stage, { rank::LIFE }>,
    /// [`NOT_SHUT_DOWN`] while it runs, else the `SHUTDOWN_*` reason.
    pub shutdown: AtomicU32,
    /// The reason that it would have shut down for ([`NOT_SHUT_DOWN`] if it did not say), whatever happens
    /// (`SCHEDOP_shutdown_code`).
    pub shutdown_code: AtomicU32,
    /// Its pool of CPUs. Changed under the lock of the pools.
    pub pool: AtomicU32,
    /// Its weight and cap.
    pub share: Lock<Share, { rank::SHARE }>,
    /// What it has of physical interrupts for itself.
    pub pirqs: Lock<pirq::DomainPirqs, { rank::PIRQS }>,
    /// Whether the toolstack has ever let it go.
    pub(crate) has_begun: AtomicBool,
    /// Whether a debugger is attached to it (`XEN_DOMCTL_setdebugging`).
    pub is_debugged: AtomicBool,
    /// Its port on which it is told to be suspended, and that is rung when it is; 0: none (`XEN_DOMCTL_subscribe`).
    pub suspend_port: AtomicU32,
    /// How it has its time stamp counter.
    pub tsc: tsc::Tsc,
    /// The NUMA nodes that it sees.
    pub vnuma: Lock<Option<Arc<vnuma::Vnuma>>, { rank::VNUMA }>,
    /// What it sees of the processor, where its toolstack has said something of it.
    pub cpu_policy: Lock<Option<Arc<cpu_policy::CpuPolicy>>, { rank::CPU_POLICY }>,
    /// NUMA nodes it would like to live on; kept for the toolstack.
    pub node_affinity: AtomicU64,
    /// What it has asked for, in a build that counts.
    pub counters: Counters,
    /// Seconds that its wall clock is ahead of the machine's (`XEN_DOMCTL_settimeoffset`).
    pub time_offset: AtomicI64,
    /// Whether it keeps the store (`XEN_DOMCTL_CDF_xs_domain`).
    pub is_store: bool,
    /// Whether registers that the CPU has and guests do not read as zero (`XEN_X86_MSR_RELAXED`).
    pub is_msr_relaxed: bool,
}

/// The value of [`Domain::shutdown`] while the domain runs.
pub const NOT_SHUT_DOWN: u32 = u32::MAX;

/// What a domain is made of.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Its id; `None` chooses one that was not used lately.
    pub id: Option<DomId>,
    /// Whether it is the control domain.
    pub is_privileged: bool,
    /// Whether it keeps the store.
    pub is_store: bool,
    /// Whether unknown model-specific registers read as zero.
    pub is_msr_relaxed: bool,
    /// The toolstack's name for it.
    pub handle: [u8; 16],
    /// Its pool of CPUs.
    pub pool: u32,
    /// How many vcpus it may have, 1 to [`MAX_VCPUS`].
    pub max_vcpus: u32,
    /// The greatest port number it may have.
    pub max_port: u32,
    /// Frames of its grant table at most.
    pub max_grant_frames: u32,
    /// The greatest version that its grant table may have.
    pub max_grant_version: u32,
    /// Mappings of others' grants at most, in frames of [`MAPPINGS_PER_FRAME`](crate::config::MAPPINGS_PER_FRAME).
    pub max_maptrack_frames: u32,
}

impl Config {
    /// The control domain: everything this build can give.
    pub const CONTROL: Self = Self {
        id: Some(DomId::DOM0),
        is_privileged: true,
        is_store: false,
        is_msr_relaxed: false,
        handle: [0; 16],
        pool: FIRST_POOL,
        max_vcpus: MAX_VCPUS as u32,
        max_port: MAX_PORTS as u32 - 1,
        max_grant_frames: MAX_GRANT_FRAMES as u32,
        max_grant_version: grant::MAX_VERSION,
        max_maptrack_frames: MAX_MAPTRACK_FRAMES as u32,
    };
}

impl Domain {
    /// Regions that its memory map can have.
    pub const MAX_MEMORY_MAP: usize = 32;

    pub(crate) fn new(
        id: DomId,
        owner: Owner,
        shared_info: RamFrame,
        vcpus: VcpuTable,
        rights: Rights,
        config: &Config,
    ) -> Self {
        Self {
            id,
            handle: Lock::new(config.handle),
            shared_info,
            vcpus,
            max_vcpus: AtomicU32::new(config.max_vcpus),
            memory_map: Lock::new(heapless::Vec::new()),
            memory: PagingDomain::new(owner, config.is_privileged, rights),
            events: Events::default(),
            console_line: Lock::default(),
            grants: Lock::new(Grants::new(
                config.max_grant_frames,
                config.max_maptrack_frames,
                config.max_grant_version,
            )),
            pause_count: AtomicU32::new(1),
            controller_pauses: AtomicU32::new(1),
            life: Lock::new(Stage::Alive),
            shutdown: AtomicU32::new(NOT_SHUT_DOWN),
            shutdown_code: AtomicU32::new(NOT_SHUT_DOWN),
            pool: AtomicU32::new(FIRST_POOL),
            share: Lock::new(Share::default()),
            pirqs: Lock::default(),
            has_begun: AtomicBool::new(false),
            is_debugged: AtomicBool::new(false),
            suspend_port: AtomicU32::new(0),
            tsc: tsc::Tsc::default(),
            vnuma: Lock::default(),
            cpu_policy: Lock::default(),
            node_affinity: AtomicU64::new(1),
            counters: Counters::new(),
            time_offset: AtomicI64::new(0),
            is_store: config.is_store,
            is_msr_relaxed: config.is_msr_relaxed,
        }
    }

    /// Its slot in the domain table, as the frame table names owners.
    #[inline]
    #[must_use]
    pub const fn owner(&self) -> Owner {
        self.memory.owner
    }

    /// Whether it may control the machine and other domains.
    #[inline]
    #[must_use]
    pub const fn is_privileged(&self) -> bool {
        self.memory.is_privileged
    }

    /// The vcpu with this number, if it was created.
    #[inline]
    #[must_use]
    pub fn vcpu(&self, id: u32) -> Option<&Arc<Vcpu>> {
        self.vcpus.cell(id)?.get()
    }

    /// The vcpus that were created.
    pub fn each_vcpu(&self) -> impl Iterator<Item = &Arc<Vcpu>> {
        self.vcpus.each()
    }

    /// Whether this assistance is on.
    #[inline]
    #[must_use]
    pub fn assists(&self, assist: Assists) -> bool {
        self.memory.assists(assist)
    }

    /// Whether it has shut down, by itself or by a fault.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.shutdown.load(Ordering::Acquire) != NOT_SHUT_DOWN
    }

    /// Whether it was ever let go: from then on it is what it was made.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Whether the toolstack has paused it.
    #[must_use]
    pub fn is_paused_by_controller(&self) -> bool {
        self.controller_pauses.load(Ordering::Relaxed) != 0
    }

    /// Whether it has nothing left but what others hold of it.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        *self.life.lock() == Stage::Dead
    }

    /// What its grants name it by.
    #[inline]
    pub(crate) fn party(&self) -> Party {
        Party { id: self.id, owner: self.owner() }
    }
}

/// How far a domain's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It may run.
    Alive,
    /// What its vcpus hold is being given back.
    Vcpus,
    /// What it maps of others is, and its grant table.
    Grants,
    /// Its ports are being closed; all below this one are.
    Events(u32),
    /// Its memory is being given back; all below this frame has been.
    Memory(usize),
    /// It has nothing left but what others hold.
    Dead,
}

impl Stage {
    /// Whether the domain may run.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Alive)
    }
}
