//! The hypervisor without its machine: safe code that runs on bare metal and under `cargo test` alike.
//!
//! The binary (`main.rs`, `x86/`) calls in and implements the small traits that this library declares; [`Machine`] is
//! their sum. Arrows run one way: `trap → hypercall → {mem, grant, event, domain, sched} → {addr, layout, config}`.
//!
//! The laws that hold everywhere:
//!
//! 1. A frame has one type at a time while it is in use. No frame is writable by a guest while it is a page table or a
//!    descriptor page.
//! 2. Every present entry of a validated table refers to a frame that the domain owns, was granted, or may map by
//!    privilege, and holds a reference for as long as it is there. What an entry may contain is a whitelist per level.
//! 3. A frame is given out only without references, after every TLB that could know it was flushed, and is scrubbed before
//!    another domain sees it, or the hypervisor. What it was is forgotten by such a flush alone. A new type is published
//!    first, then flushed, then validated.
//! 4. Guest memory is reached only by judged addresses (`GuestPtr`, `GuestRange`): judged on the exact range, copied in
//!    once, judged on the copy.
//! 5. Every hypercall takes bounded time between preemption points, whatever its arguments; no recursion.
//! 6. Nothing a guest passes can panic the hypervisor.
//! 7. A destroyed domain gives everything back.
//! 8. A guest learns nothing of another.
//! 9. A refused operation has changed nothing: checks before gets, what is taken out is put back by the value that holds it,
//!    commit last.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod boot;
pub mod caller;
pub mod config;
pub mod console;
pub mod domain;
pub mod event;
pub mod grant;
pub mod heap;
pub mod hypercall;
pub mod keys;
pub mod layout;
pub mod lock;
pub mod machine;
pub mod mem;
pub mod pci;
pub mod ports;
pub mod reply;
pub mod sched;
pub mod trap;

use machine::Machine;

/// Everything that exists once: what the boot story builds and every entry into the hypervisor refers to.
#[derive(Debug)]
pub struct Hypervisor<M: Machine> {
    /// What only the hardware can do.
    pub machine: M,
    /// What every frame is.
    pub frames: mem::frame_table::FrameTable,
    /// Who exists.
    pub domains: domain::table::DomainTable,
    /// What each physical CPU shares with the others.
    pub cpus: [sched::CpuShared; config::MAX_CPUS],
    /// Whose the global virtual interrupts are, by their numbers: ids of domains.
    pub virq_handlers: [core::sync::atomic::AtomicU16; oxen_abi::virq::NR_VIRQS as usize],
    /// The pools of CPUs.
    pub pools: lock::Lock<sched::pools::Pools, { lock::rank::POOLS }>,
    /// The CPUs that have nothing to do, bit n for CPU n.
    pub idle_cpus: core::sync::atomic::AtomicU64,
    /// The serial line and what went there.
    pub console: console::Console,
    /// Physical interrupts.
    pub pirqs: event::pirq::Pirqs,
    /// What grant tables may be.
    pub grants: grant::Policy,
    /// Devices on PCI, and the messages by which they interrupt.
    pub pci: lock::Lock<pci::Pci, { lock::rank::PCI }>,
    /// The command line it was booted with.
    pub command_line: heapless::String<1024>,
    /// By what this very image is known; empty if the linker was not asked.
    pub build_id: &'static [u8],
    /// What the firmware says lies where.
    pub memory_map: boot::memory_map::MemoryMap,
    /// The firmware, where it is UEFI.
    pub efi: Option<boot::efi::Efi>,
    /// System time.
    pub time: sched::clock::SystemTime,
    /// Whether guests may have linear page tables (`pv-linear-pt`).
    pub has_linear_tables: core::sync::atomic::AtomicBool,
}

impl<M: Machine> Hypervisor<M> {
    /// A hypervisor without domains; its clock starts. No CPU runs guests before [`sched::bring_up`].
    #[must_use]
    pub fn new(machine: M, frames: mem::frame_table::FrameTable, command_line: &str) -> Self {
        let time = sched::clock::SystemTime::start(&machine);
        Self {
            machine,
            frames,
            domains: domain::table::DomainTable::default(),
            cpus: [const { sched::CpuShared::new() }; config::MAX_CPUS],
            virq_handlers: [const { core::sync::atomic::AtomicU16::new(0) }; oxen_abi::virq::NR_VIRQS as usize],
            pools: lock::Lock::new(sched::pools::Pools::default()),
            idle_cpus: core::sync::atomic::AtomicU64::new(0),
            console: console::Console::default(),
            pirqs: event::pirq::Pirqs::default(),
            grants: grant::Policy::default(),
            pci: lock::Lock::default(),
            // What is longer than the ABI can tell is cut.
            command_line: command_line.chars().take(1023).collect(),
            build_id: &[],
            memory_map: boot::memory_map::MemoryMap::default(),
            efi: None,
            time,
            has_linear_tables: core::sync::atomic::AtomicBool::new(true),
        }
    }
}
