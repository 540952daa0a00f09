//! Everything that exists once.

use crate::{
    config::MAX_CPUS,
    console::{Console, Level},
    domain::table::DomainTable,
    event::pirq::Pirqs,
    firmware::{efi::Efi, memory_map::MemoryMap},
    grant,
    hardware::CpuId,
    lock::{Lock, rank},
    machine::Machine,
    mem::{Memory, frame_table::FrameTable},
    per_cpu::{CpuShared, Work},
    sched::{clock::SystemTime, pools::Pools},
    speculation::Plan,
    trace::Trace,
};
use core::{
    fmt,
    sync::atomic::{AtomicU16, AtomicU64, Ordering},
};
use oxen_abi::virq::NR_VIRQS;

/// Everything that exists once: what the boot story builds and every entry into the hypervisor refers to.
///
/// In the order in which it is written: memory comes first, so that what every handler needs is where this is.
#[derive(Debug)]
#[repr(C)]
pub struct Hypervisor<M: Machine> {
    /// Memory, and the machine whose memory it is.
    pub memory: Memory<M>,
    /// Who exists.
    pub domains: DomainTable,
    /// What each physical CPU shares with the others.
    pub cpus: [CpuShared; MAX_CPUS],
    /// Whose the global virtual interrupts are, by their numbers: ids of domains.
    pub virq_handlers: [AtomicU16; NR_VIRQS as usize],
    /// The pools of CPUs.
    pub pools: Lock<Pools, { rank::POOLS }>,
    /// The CPUs that have nothing to do, bit n for CPU n.
    pub idle_cpus: AtomicU64,
    /// The serial line and what went there.
    pub console: Console,
    /// Physical interrupts.
    pub pirqs: Pirqs,
    /// What grant tables may be.
    pub grants: grant::Policy,
    /// The command line it was booted with.
    pub command_line: heapless::String<1024>,
    /// By what this very image is known; empty if the linker was not asked.
    pub build_id: &'static [u8],
    /// What the firmware says lies where.
    pub memory_map: MemoryMap,
    /// The firmware, where it is UEFI.
    pub efi: Option<Efi>,
    /// What is done about speculative execution.
    pub speculation: Plan,
    /// System time.
    pub time: SystemTime,
    /// What is noted of all that happens.
    pub trace: Trace,
}

impl<M: Machine> Hypervisor<M> {
    /// A hypervisor without domains; its clock starts. No CPU runs guests before [`Self::bring_up_cpu`].
    #[must_use]
    pub fn new(machine: M, frames: FrameTable, command_line: &str) -> Self {
        let time = SystemTime::start(&machine);
        Self {
            memory: Memory::new(machine, frames),
            domains: DomainTable::default(),
            cpus: [const { CpuShared::new() }; MAX_CPUS],
            virq_handlers: [const { AtomicU16::new(0) }; NR_VIRQS as usize],
            pools: Lock::new(Pools::default()),
            idle_cpus: AtomicU64::new(0),
            console: Console::default(),
            pirqs: Pirqs::default(),
            grants: grant::Policy::default(),
            // What is longer than the ABI can tell is cut.
            command_line: command_line.chars().take(1023).collect(),
            build_id: &[],
            memory_map: MemoryMap::default(),
            efi: None,
            speculation: Plan::NOTHING,
            time,
            trace: Trace::new(),
        }
    }

    /// What only the hardware can do.
    #[inline(always)]
    #[must_use]
    pub const fn machine(&self) -> &M {
        &self.memory.machine
    }

    /// What this CPU shares with the others.
    #[inline]
    #[must_use]
    pub fn cpu(&self, cpu: CpuId) -> Option<&CpuShared> {
        self.cpus.get(usize::from(cpu.0))
    }

    /// The CPUs that run guests.
    pub fn online_cpus(&self) -> impl Iterator<Item = CpuId> {
        let numbered = (0_u16..).zip(&self.cpus);
        numbered.filter(|(_, shared)| shared.is_online()).map(|(n, _)| CpuId(n))
    }

    /// Nanoseconds since the hypervisor started.
    #[inline]
    #[must_use]
    pub fn now(&self) -> u64 {
        self.time.now(self.machine())
    }

    /// Whether anything is noted. On hot ways this is asked last, and answered by the call of a cold function: what
    /// else is done costs the registers that it keeps over the call.
    #[inline(always)]
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.trace.is_on()
    }

    /// Notes an event (`TRC_*`), with what it says of itself, if somebody wants it.
    #[inline(always)]
    pub fn note<const N: usize>(&self, event: u32, extra: impl FnOnce() -> [u32; N]) {
        if self.is_traced() {
            self.note_words(event, &extra());
        }
    }

    /// The same, apart.
    #[cold]
    #[inline(never)]
    pub fn note_words(&self, event: u32, extra: &[u32]) {
        if !self.trace.wants(event) {
            return;
        }
        let cpu = self.machine().this_cpu();
        if self.trace.note(cpu, event, self.machine().ticks(), extra)
            && let Some(shared) = self.cpu(cpu)
        {
            shared.work.insert(Work::TRACED, Ordering::Relaxed);
        }
    }

    /// Says something, one line, if `loglvl` lets it.
    pub fn log(&self, level: Level, text: fmt::Arguments<'_>) {
        self.console.log(self.machine(), level, text);
    }

    /// Says something whatever the levels, one line: what was asked for by a key.
    pub fn print(&self, text: fmt::Arguments<'_>) {
        self.console.print(self.machine(), text);
        // The line is slow, and some have much to say: who speaks is not stuck.
        if let Some(shared) = self.cpu(self.machine().this_cpu()) {
            shared.work.remove(Work::WATCHED, Ordering::Relaxed);
        }
    }
}
