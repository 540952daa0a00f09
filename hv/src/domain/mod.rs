//! Domains: who exists, what each has, how it ends.

pub mod regs;
pub mod shared_info;
pub mod table;
pub mod vcpu;

use crate::{
    addr::Mfn,
    config::MAX_VCPUS,
    event::Events,
    grant::Grants,
    lock::Lock,
    mem::{Paging, frame_type::Owner},
};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use oxen_abi::domid::DomId;
use spin::Once;

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
    pub handle: Lock<[u8; 16]>,
    /// The frame of `shared_info`.
    pub shared_info: Mfn,
    /// Its vcpus, as far as they were created. A created vcpu stays until the domain goes.
    pub vcpus: [Once<Arc<vcpu::Vcpu>>; MAX_VCPUS],
    /// How many vcpus it may have.
    pub max_vcpus: AtomicU32,
    /// Frames that it may have in its reservation.
    pub max_pages: AtomicU32,
    /// Page tables: held for every change of a table or of a table's type.
    pub paging: Lock<Paging>,
    /// Event channels.
    pub events: Events,
    /// A line that it has begun to write on the hypervisor's console.
    pub console_line: Lock<crate::console::GuestLine>,
    /// Grants given and taken.
    pub grants: Lock<Grants>,
    /// The `VMASST_TYPE_*` that are on, as bits.
    pub vm_assist: AtomicU64,
    /// How often it is paused by the toolstack or the hypervisor; it runs at zero.
    pub pause_count: AtomicU32,
    /// Whether the toolstack has paused it (`XEN_DOMCTL_pausedomain`).
    pub is_paused_by_controller: AtomicBool,
    /// [`Shutdown`] state: `u32::MAX` while it runs, else the `SHUTDOWN_*` reason.
    pub shutdown: AtomicU32,
    /// Whether it is being torn down: nothing new may be begun in its name.
    pub is_dying: AtomicBool,
    /// CPUs that may hold translations of it, bit n for CPU n.
    pub dirty_cpus: AtomicU64,
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

impl Domain {
    /// The vcpu with this number, if it was created.
    #[inline]
    #[must_use]
    pub fn vcpu(&self, id: u32) -> Option<&Arc<vcpu::Vcpu>> {
        self.vcpus.get(id as usize)?.get()
    }

    /// The vcpus that were created.
    pub fn each_vcpu(&self) -> impl Iterator<Item = &Arc<vcpu::Vcpu>> {
        self.vcpus.iter().filter_map(Once::get)
    }

    /// Whether this `VMASST_TYPE_*` is on.
    #[inline]
    #[must_use]
    pub fn assists(&self, kind: u32) -> bool {
        self.vm_assist.load(Ordering::Relaxed) & 1_u64.checked_shl(kind).unwrap_or(0) != 0
    }
}
