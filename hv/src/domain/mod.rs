//! Domains: who exists, what each has, how it ends.
//!
//! A domain is made ([`create`], [`Domain::add_vcpu`]), paused and let go, shut down by itself or by a fault
//! ([`shut_down`], [`crash`]), and torn down by the toolstack ([`teardown`]).

pub mod context;
pub mod control_registers;
pub mod counters;
pub mod cpuid;
pub mod debug;
pub mod flags;
pub mod info;
mod life;
pub mod machine_check;
pub mod regs;
pub mod rights;
pub mod shared_info;
pub mod table;
pub mod teardown;
pub mod traps;
pub mod tsc;
pub mod vcpu;
mod vcpu_table;

use crate::{
    Hypervisor,
    addr::Mfn,
    config::{MAX_GRANT_FRAMES, MAX_MAPTRACK_FRAMES, MAX_PORTS, MAX_VCPUS},
    console,
    event::{Events, pirq},
    grant::{self, Grants},
    heap,
    lock::{Lock, rank},
    machine::Machine,
    mem::{Paging, frame_alloc, frame_type::Owner},
    sched::{self, clock, pools::FIRST_POOL, run_queue::Share},
};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use counters::Counters;
pub use life::{crash, crash_by_exception, end_without_vcpus, resume, show_counters, shut_down, shut_down_by_itself};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    memory::E820Entry,
    segments::XEN_LEGACY_MAX_VCPUS,
    vm_assist::{
        VMASST_TYPE_4GB_SEGMENTS, VMASST_TYPE_4GB_SEGMENTS_NOTIFY, VMASST_TYPE_ARCHITECTURAL_IOPL,
        VMASST_TYPE_M2P_STRICT, VMASST_TYPE_PAE_EXTENDED_CR3, VMASST_TYPE_RUNSTATE_UPDATE_FLAG,
        VMASST_TYPE_WRITABLE_PAGETABLES,
    },
};
use rights::Rights;
use shared_info::{VCPU_INFO_BYTES, VcpuInfoPlace};
use vcpu::{Vcpu, VcpuState, pause};
use vcpu_table::VcpuTable;

/// A domain. What several CPUs touch is atomic or under the lock of its subject.
#[derive(Debug)]
pub struct Domain {
    /// Its name in the ABI.
    pub id: DomId,
    /// Its slot in the domain table, as the frame table names owners.
    pub owner: Owner,
    /// Whether it may control the machine and other domains.
    pub is_privileged: bool,
    /// The toolstack's 16 bytes (`XEN_DOMCTL_setdomainhandle`).
    pub handle: Lock<[u8; 16], { rank::HANDLE }>,
    /// The frame of `shared_info`.
    pub shared_info: Mfn,
    vcpus: VcpuTable,
    /// How many vcpus it may have.
    pub max_vcpus: AtomicU32,
    /// Frames that it may have in its reservation.
    pub max_pages: AtomicU32,
    /// What it is told of its memory (`XENMEM_memory_map`), as the toolstack set it.
    pub memory_map: Lock<heapless::Vec<E820Entry, { Self::MAX_MEMORY_MAP }>, { rank::MEMORY_MAP }>,
    /// Page tables: held for every change of a table or of a table's type.
    pub paging: Lock<Paging, { rank::PAGING }>,
    /// The slot, from 1, of a root whose linear entry is being taken away, or 0; written under `paging`.
    pub linear_slot_going: AtomicU32,
    /// Event channels.
    pub events: Events,
    /// A line that it has begun to write on the hypervisor's console.
    pub console_line: Lock<console::GuestLine, { rank::GUEST_LINE }>,
    /// Grants given and taken.
    pub grants: Lock<Grants, { rank::GRANTS }>,
    /// The `VMASST_TYPE_*` that are on, as bits.
    pub vm_assist: AtomicU64,
    /// How often it is paused by the toolstack or the hypervisor; it runs at zero. Changed under `life`.
    pub pause_count: AtomicU32,
    /// How often the toolstack has paused it (`XEN_DOMCTL_pausedomain`). Changed under `life`.
    pub controller_pauses: AtomicU32,
    /// Held for every step in the domain's life: pausing, shutting down, contexts from outside, teardown.
    pub life: Lock<teardown::Stage, { rank::LIFE }>,
    /// [`NOT_SHUT_DOWN`] while it runs, else the `SHUTDOWN_*` reason.
    pub shutdown: AtomicU32,
    /// The reason that it would have shut down for ([`NOT_SHUT_DOWN`] if it did not say), whatever happens
    /// (`SCHEDOP_shutdown_code`).
    pub shutdown_code: AtomicU32,
    /// Whether it is being torn down: nothing new may be begun in its name.
    pub is_dying: AtomicBool,
    /// CPUs that may hold translations of it, bit n for CPU n.
    pub dirty_cpus: AtomicU64,
    /// Its pool of CPUs. Changed under the lock of the pools.
    pub pool: AtomicU32,
    /// Its weight and cap.
    pub share: Lock<Share, { rank::SHARE }>,
    /// What of the machine it may touch.
    pub rights: Lock<Rights, { rank::RIGHTS }>,
    /// What it has of physical interrupts for itself.
    pub pirqs: Lock<pirq::Own, { rank::PIRQS }>,
    /// Whether the toolstack has ever let it go.
    has_begun: AtomicBool,
    /// Whether a debugger is attached to it (`XEN_DOMCTL_setdebugging`).
    pub is_debugged: AtomicBool,
    /// Its port on which it is told to be suspended, and that is rung when it is; 0: none (`XEN_DOMCTL_subscribe`).
    pub suspend_port: AtomicU32,
    /// How it has its time stamp counter.
    pub tsc: tsc::Tsc,
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

/// How far work in bounded steps has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It is finished.
    Done,
    /// Something is left: the same is to be called again.
    Stopped,
}

/// The value of [`Domain::shutdown`] while the domain runs.
pub const NOT_SHUT_DOWN: u32 = u32::MAX;

/// The `VMASST_TYPE_*` that there are, as bits.
pub const KNOWN_ASSISTS: u64 = 1 << VMASST_TYPE_4GB_SEGMENTS
    | 1 << VMASST_TYPE_4GB_SEGMENTS_NOTIFY
    | 1 << VMASST_TYPE_WRITABLE_PAGETABLES
    | 1 << VMASST_TYPE_PAE_EXTENDED_CR3
    | 1 << VMASST_TYPE_ARCHITECTURAL_IOPL
    | 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG
    | 1 << VMASST_TYPE_M2P_STRICT;

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

/// Makes a domain without vcpus and without memory but its `shared_info`, paused once by the controller.
///
/// # Errors
/// `Exist` if the id is taken, `Inval` for an id or number of vcpus that no domain can have, `NoMem` without memory,
/// `NFile` when there are as many domains as can be.
pub fn create<M: Machine>(hv: &Hypervisor<M>, config: &Config) -> Result<Arc<Domain>, Errno> {
    if config.max_vcpus == 0 || config.max_vcpus as usize > MAX_VCPUS {
        return Err(Errno::Inval);
    }
    hv.domains.create(config.id, |id, owner| {
        hv.frames.welcome(owner);
        let shared_info = frame_alloc::take_shared(hv, owner)?;
        let made = VcpuTable::new(&hv.machine, config.max_vcpus as usize);
        let vcpus = made.inspect_err(|_| frame_alloc::give_back_shared(hv, shared_info))?;
        let domain = Domain::new(id, owner, shared_info, vcpus, config);
        sched::placement::join_pool(hv, &domain, config.pool)
            .inspect_err(|_| frame_alloc::give_back_shared(hv, shared_info))?;
        mask_all_upcalls(hv, shared_info);
        hv.time.publish_wall_clock(&hv.machine, shared_info, 0);
        domain.events.set_limit(config.max_port);
        heap::share(&hv.machine, domain).inspect_err(|_| frame_alloc::give_back_shared(hv, shared_info))
    })
}

/// A vcpu begins with its events masked.
fn mask_all_upcalls<M: Machine>(hv: &Hypervisor<M>, shared_info: Mfn) {
    for place in
        (0..XEN_LEGACY_MAX_VCPUS).filter_map(|id| VcpuInfoPlace::new(&hv.machine, shared_info, id * VCPU_INFO_BYTES))
    {
        place.set_upcall_mask(true);
    }
}

impl Domain {
    /// Regions that its memory map can have.
    pub const MAX_MEMORY_MAP: usize = 32;

    fn new(id: DomId, owner: Owner, shared_info: Mfn, vcpus: VcpuTable, config: &Config) -> Self {
        Self {
            id,
            owner,
            is_privileged: config.is_privileged,
            handle: Lock::new(config.handle),
            shared_info,
            vcpus,
            max_vcpus: AtomicU32::new(config.max_vcpus),
            max_pages: AtomicU32::new(0),
            memory_map: Lock::new(heapless::Vec::new()),
            paging: Lock::default(),
            linear_slot_going: AtomicU32::new(0),
            events: Events::default(),
            console_line: Lock::default(),
            grants: Lock::new(Grants::new(
                config.max_grant_frames,
                config.max_maptrack_frames,
                config.max_grant_version,
            )),
            vm_assist: AtomicU64::new(0),
            pause_count: AtomicU32::new(1),
            controller_pauses: AtomicU32::new(1),
            life: Lock::new(teardown::Stage::Alive),
            shutdown: AtomicU32::new(NOT_SHUT_DOWN),
            shutdown_code: AtomicU32::new(NOT_SHUT_DOWN),
            is_dying: AtomicBool::new(false),
            dirty_cpus: AtomicU64::new(0),
            pool: AtomicU32::new(FIRST_POOL),
            share: Lock::new(Share::default()),
            rights: Lock::new(if config.is_privileged { Rights::everything() } else { Rights::default() }),
            pirqs: Lock::default(),
            has_begun: AtomicBool::new(false),
            is_debugged: AtomicBool::new(false),
            suspend_port: AtomicU32::new(0),
            tsc: tsc::Tsc::default(),
            node_affinity: AtomicU64::new(1),
            counters: Counters::new(),
            time_offset: AtomicI64::new(0),
            is_store: config.is_store,
            is_msr_relaxed: config.is_msr_relaxed,
        }
    }

    /// Creates the vcpu with this number, without a context and down. Made already: nothing happens.
    ///
    /// # Errors
    /// `Inval` beyond the domain's limit, `NoMem` without memory or a seat at a CPU.
    pub fn add_vcpu<M: Machine>(self: &Arc<Self>, hv: &Hypervisor<M>, id: u32) -> Result<(), Errno> {
        if id >= self.max_vcpus.load(Ordering::Relaxed) {
            return Err(Errno::Inval);
        }
        let cell = self.vcpus.cell(id).ok_or(Errno::Inval)?;
        let stage = self.life.lock();
        if cell.is_completed() {
            return Ok(());
        }
        if !stage.is_alive() {
            return Err(Errno::Inval);
        }
        let info = self.vcpus.make_info(hv, self.shared_info, id)?;
        let state = heap::own(&hv.machine, VcpuState::new(info))?;
        let when = |condition, bit| if condition { bit } else { 0 };
        let bits = pause::DOWN
            | when(self.pause_count.load(Ordering::Relaxed) != 0, pause::DOMAIN)
            | when(self.is_shut_down(), pause::SHUT_DOWN);
        let vcpu = heap::share(&hv.machine, Vcpu::new(self.id, id, info, state, bits, hv.now()))?;
        sched::placement::admit_within_pool(hv, self, &vcpu)?;
        clock::publish(&info, self.time_info(hv));
        cell.call_once(|| vcpu);
        drop(stage);
        let share = *self.share.lock();
        sched::set_share(hv, self, share);
        Ok(())
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

    /// Whether this `VMASST_TYPE_*` is on.
    #[inline]
    #[must_use]
    pub fn assists(&self, kind: u32) -> bool {
        self.vm_assist.load(Ordering::Relaxed) & 1_u64.checked_shl(kind).unwrap_or(0) != 0
    }

    /// Whether it has shut down, by itself or by a fault.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.shutdown.load(Ordering::Acquire) != NOT_SHUT_DOWN
    }
}
