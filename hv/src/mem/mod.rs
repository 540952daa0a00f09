//! Memory: what every frame is, and every change to a page table.
//!
//! Guests write their own page tables, and the hypervisor believes none of them. What makes that cheap is two counts on
//! each frame. A *reference* keeps the frame from going to somebody else: one for being in a domain's reservation, one
//! for every entry that maps it. A *use* keeps it what it is: a table of one level, a descriptor page, or writable;
//! only when the last use is gone can it become something else. A frame that is writable anywhere is no table, so a
//! table is written by the hypervisor alone, entry by entry, and what has been checked once stays true.
//!
//! ```text
//!   guest_ptr            hypercall/{mmu, mmuext, memory}, trap, grant
//!                          │
//!   editor ── the paging lock of a domain, and what one may do who holds it
//!     ├ edit · va_mapping · write_emulation · grant_mapping     one entry
//!     ├ promote · walk · linear · root · descriptor             whole tables, resumable
//!     ├ shadow                                                  what the CPU walks instead, while writes are logged,
//!     │                                                         and where frames are translated
//!     ├ working_set                                             which pages are used
//!     └ relinquish                                              all that a dead domain had
//!   ram · held ── a frame that is RAM; one that is counted for as long as a value lives
//!   frame_table ── one word a frame, changed by compare-and-swap; frame_type says how
//!     ├ frame_alloc                                            frames for a purpose
//!     └ tlb                                                     who may still know a frame from before
//! ```
//!
//! A type is published first, then flushed, then validated (law 3): whoever looks at the frame in between finds it
//! taken. All else is asked of the machine through the small traits below, so a `Vec` is a machine.
//!
//! [`Memory`] is all that there is of it. Of domains it knows owners, by which frames are held, and of each what it has
//! in memory and may have ([`PagingDomain`]); who they are, and what they are asked to do, is for the rooms above.

mod absent;
pub mod descriptor;
pub mod edit;
pub mod editor;
pub mod entry;
pub mod frame_alloc;
pub mod frame_table;
pub mod frame_type;
pub mod grant_mapping;
pub mod guest_ptr;
mod held;
pub mod linear;
pub mod promote;
mod ram;
pub mod relinquish;
pub mod root;
pub mod shadow;
pub mod tlb;
pub mod va_mapping;
pub mod walk;
pub mod working_set;
pub mod write_emulation;

use crate::{
    addr::{GuestAddr, GuestHalf, GuestRange, GuestWords, MachineAddr, Mfn},
    hardware::CpuId,
    heap::Reserve,
    layout::{END_HV_SLOT, FIRST_HV_SLOT},
    lock::{Lock, rank},
    pci::{DeviceMemory, Pci},
    ports::{Ports, Registers},
    rights::Rights,
    speculation::L1tf,
};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use frame_table::FrameTable;
use frame_type::Owner;
pub use held::{Held, Hold};
use oxen_abi::vm_assist::Assists;
pub use ram::{Ram, RamFrame};
use root::RootAddress;
use shadow::Shadows;
use working_set::WorkingSet;

/// What the hypervisor shows of itself in every address space.
pub trait HypervisorSpace {
    /// What stands in slots 256 to 271 of every root.
    fn root_entries(&self) -> &'static [u64; END_HV_SLOT - FIRST_HV_SLOT];
    /// The hypervisor's own root, for a CPU that runs no guest, and for a mode of a guest's that has none.
    fn own_root(&self) -> MachineAddr;
    /// The machine-to-phys table: the pseudo-physical frame of each machine frame.
    fn machine_to_phys(&self) -> &'static [AtomicU64];
    /// The first machine frame of each 2 MiB of that table, while there are any.
    fn machine_to_phys_chunk(&self, index: usize) -> Option<Mfn>;
}

/// A guest address could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestFault(GuestAddr);

impl GuestFault {
    /// The fault of an access to this address.
    #[inline]
    #[must_use]
    pub const fn at(address: GuestAddr) -> Self {
        Self(address)
    }

    /// The first address that could not be accessed.
    #[inline]
    #[must_use]
    pub const fn address(self) -> GuestAddr {
        self.0
    }
}

/// The running guest's memory, through the tables that the CPU has loaded. It is accessed by judged addresses only;
/// whether they are mapped is found out here.
pub trait GuestMemory {
    /// Copies from the guest: as many bytes as both have.
    ///
    /// # Errors
    /// The first address that could not be read; what `to` holds then is unspecified.
    fn read_guest(&self, from: GuestRange, to: &mut [u8]) -> Result<(), GuestFault>;
    /// Copies to the guest: as many bytes as both have.
    ///
    /// # Errors
    /// The first address that could not be written; what comes before it has been.
    fn write_guest(&self, to: GuestRange, from: &[u8]) -> Result<(), GuestFault>;
    /// Reads a few words, each once; an aligned one at once. For frames and batch entries on hot paths.
    ///
    /// # Errors
    /// As [`Self::read_guest`].
    fn read_guest_words<const N: usize>(&self, from: GuestWords<N>) -> Result<[u64; N], GuestFault>;
    /// Reads 32 bits; aligned ones at once.
    ///
    /// # Errors
    /// As [`Self::read_guest`].
    fn read_guest_half(&self, from: GuestHalf) -> Result<u32, GuestFault>;
    /// From now on, on every CPU: what `linear::may_read` does not allow to be read is a fault, whether or not it is
    /// mapped. In force for every read that may meet an entry written after this call.
    fn watch_reads(&self);
    /// Writes a few words; an aligned one at once.
    ///
    /// # Errors
    /// As [`Self::write_guest`].
    fn write_guest_words<const N: usize>(&self, to: GuestWords<N>, words: [u64; N]) -> Result<(), GuestFault>;
}

/// The translation caches of this CPU and of the others.
pub trait Tlb {
    /// The CPU that executes this.
    fn this_cpu(&self) -> CpuId;
    /// Loads a root into this CPU, which flushes every translation of guest addresses: CR4.PGE stays clear while guests
    /// run, so that the global bit in their entries has no effect.
    fn load_root(&self, root: RootAddress);
    /// Forgets every translation of guest addresses on this CPU.
    fn flush(&self);
    /// Forgets the translation of one page on this CPU.
    fn invalidate(&self, va: GuestAddr);
    /// Does the same on every CPU of the mask (bit n: CPU n), this one included, and waits until it is done:
    /// one page if `va` is given, else everything. Called with locks held: it must reach a CPU that spins on
    /// one of them with interrupts off.
    fn flush_cpus(&self, cpus: u64, va: Option<GuestAddr>);
    /// Writes back and forgets all data caches of this CPU.
    fn flush_data_caches(&self);
}

/// What the paging lock of a domain guards, beside the tables themselves.
#[derive(Debug, Default)]
pub struct Paging {
    /// A table that nobody uses any more and whose entries are still being given back. Whoever next takes the lock goes
    /// on with it before anything else.
    unfinished: Option<RamFrame>,
    /// Whether any table of the domain has, or had, a linear entry.
    is_linear: bool,
    /// Whether the domain runs on shadows.
    is_shadowed: bool,
    /// Whether tables are looked at when they are validated: they are shadowed, or what is not present there is judged.
    is_watched: bool,
    /// Whether any of all this is so: the one look that ordinary changes take.
    needs_care: bool,
}

impl Paging {
    fn set_unfinished(&mut self, top: Option<RamFrame>) {
        self.unfinished = top;
        self.judge();
    }

    fn set_linear(&mut self) {
        self.is_linear = true;
        self.judge();
    }

    fn set_shadowed(&mut self, is_shadowed: bool, is_judged: bool) {
        self.is_shadowed = is_shadowed;
        self.is_watched = is_shadowed || is_judged;
        self.judge();
    }

    const fn judge(&mut self) {
        self.needs_care = self.unfinished.is_some() || self.is_linear || self.is_watched;
    }
}

/// What memory keeps of a domain.
#[derive(Debug)]
pub struct PagingDomain {
    /// Its slot in the domain table, as frames name their owners.
    pub owner: Owner,
    /// In whose name the numbers are by which it is told of frames.
    named: AtomicU16,
    /// Whether it is the control domain: it may map what is not RAM, as far as its rights go.
    pub is_privileged: bool,
    /// What of the machine it may touch.
    pub rights: Lock<Rights, { rank::RIGHTS }>,
    /// Frames that it may have in its reservation.
    pub max_pages: AtomicU32,
    /// The [`Assists`] that are on.
    vm_assist: AtomicU64,
    /// Whether it is being torn down: nothing new may be begun in its name.
    pub is_dying: AtomicBool,
    /// Whether its vcpus run on shadows.
    pub is_shadowed: AtomicBool,
    /// What is being done with its shadows, or asked of those that it has not, in steps.
    shadow_task: Lock<Option<shadow::log::Task>, { rank::SHADOW }>,
    /// Which of its pages are watched, if that was ever asked for.
    pub working_set: Lock<Option<Box<WorkingSet>>, { rank::WORKING_SET }>,
    /// Page tables: held for every change of a table or of a table's type.
    paging: Lock<Paging, { rank::PAGING }>,
    /// Whether its CPUs run on copies of its roots, made anew on each way out (XPTI).
    pub is_apart: bool,
    /// Which entries that are not present it may not have, if its are judged.
    judged: Option<L1tf>,
    /// An entry that is not present and that it may not have, once it tried: it is to be ended.
    pub absent_entry: AtomicU64,
    /// The slot, from 1, of a root whose linear entry is being taken away, or 0; written under `paging`.
    pub linear_slot_going: AtomicU32,
}

impl PagingDomain {
    /// What a new domain has: nothing.
    #[must_use]
    pub fn new(owner: Owner, is_privileged: bool, rights: Rights) -> Self {
        Self {
            owner,
            named: AtomicU16::new(owner.raw()),
            is_privileged,
            rights: Lock::new(rights),
            max_pages: AtomicU32::new(0),
            vm_assist: AtomicU64::new(0),
            is_dying: AtomicBool::new(false),
            is_shadowed: AtomicBool::new(false),
            shadow_task: Lock::default(),
            working_set: Lock::default(),
            paging: Lock::default(),
            is_apart: false,
            judged: None,
            absent_entry: AtomicU64::new(0),
            linear_slot_going: AtomicU32::new(0),
        }
    }

    /// From now on its entries that are not present are judged.
    pub fn judge_absent_entries(&mut self, rule: L1tf) {
        self.judged = Some(rule);
        self.paging.lock().set_shadowed(false, true);
    }

    /// In whose name the numbers are by which the domain, and who acts on it, names frames of its own: the domain's, or
    /// [`Owner::translated`].
    #[inline(always)]
    #[must_use]
    pub fn named(&self) -> Owner {
        Owner::from_raw(self.named.load(Ordering::Relaxed))
    }

    fn set_named(&self, named: Owner) {
        self.named.store(named.raw(), Ordering::Relaxed);
    }

    /// Whether its numbers are translated.
    #[inline]
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.named() != self.owner
    }

    /// Whether this assistance is on.
    #[inline]
    #[must_use]
    pub fn assists(&self, assist: Assists) -> bool {
        self.all_assists().intersects(assist)
    }

    /// All that are on.
    #[inline]
    #[must_use]
    pub fn all_assists(&self) -> Assists {
        Assists::from_bits_retain(self.vm_assist.load(Ordering::Relaxed))
    }

    /// Turns these on, and all others off.
    pub fn set_assists(&self, assists: Assists) {
        self.vm_assist.store(assists.bits(), Ordering::Relaxed);
    }

    /// Turns some on or off.
    pub fn change_assists(&self, assists: Assists, on: bool) {
        if on {
            self.vm_assist.fetch_or(assists.bits(), Ordering::Relaxed);
        } else {
            self.vm_assist.fetch_and(!assists.bits(), Ordering::Relaxed);
        }
    }
}

/// What memory asks of the machine.
pub trait Hardware: Ram + GuestMemory + HypervisorSpace + Tlb + Reserve + Ports + Registers + DeviceMemory {}

impl<M: Ram + GuestMemory + HypervisorSpace + Tlb + Reserve + Ports + Registers + DeviceMemory> Hardware for M {}

/// The memory of a machine.
#[derive(Debug)]
pub struct Memory<M> {
    /// The machine.
    pub machine: M,
    /// What every frame is.
    pub frames: FrameTable,
    /// Devices on PCI, and the messages by which they interrupt: what of them may only be read.
    pub pci: Lock<Pci, { rank::PCI }>,
    /// Whether guests may have linear page tables (`pv-linear-pt`).
    pub has_linear_tables: AtomicBool,
    /// The shadows of all domains.
    shadows: Shadows,
}

impl<M> Memory<M> {
    /// The memory of which `frames` tells.
    #[must_use]
    pub fn new(machine: M, frames: FrameTable) -> Self {
        Self {
            machine,
            frames,
            pci: Lock::default(),
            has_linear_tables: AtomicBool::new(true),
            shadows: Shadows::default(),
        }
    }
}
