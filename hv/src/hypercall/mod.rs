//! Hypercalls: one match, one line per call, and the table that it becomes.

#![warn(clippy::as_conversions, clippy::arithmetic_side_effects)]

pub mod absent;
mod args;
pub mod batch;
mod commands;
pub mod console;
pub mod domctl;
pub mod event;
pub mod grant;
pub mod guest_setup;
pub mod hypfs;
pub mod iret;
pub mod machine_checks;
pub mod memory;
mod memory_map;
mod memory_refused;
pub mod mmu;
pub mod mmuext;
mod number;
pub mod physdev;
mod physmap;
pub mod platform;
pub mod sched;
pub mod sysctl;
mod traced;
mod translated;
pub mod vcpu;
pub mod version;
mod vnuma;

use crate::{
    caller::Caller,
    domain::counters::Counted,
    machine::Machine,
    reply::{Args, Fault, Reply, Stop},
};
use core::marker::PhantomData;
use oxen_abi::{errno::Errno, hypercall::Hypercall};

/// The way into a handler: a function that the machine's entry code can call, with the handler inside.
macro_rules! entry {
    ($number:expr, $handler:path) => {{
        extern "sysv64" fn enter<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Outcome {
            caller.domain.counters.hypercall($number);
            let reply = $handler(caller, args);
            outcome(reply)
        }
        enter::<M>
    }};
}

/// One line per call: the match of [`Table::entry_of`], without a rest.
macro_rules! entries {
    ($hypercall:ident { $($name:ident => $handler:path,)* }) => {
        match $hypercall {
            $(Hypercall::$name => entry!(number::uint(Hypercall::$name.number()), $handler),)*
        }
    };
}

/// Bytes of the `syscall` instruction: how far back a preempted caller is set to execute it again.
const SYSCALL_BYTES: u64 = 2;

const MULTICALL: u64 = Hypercall::Multicall.number();
const IRET: u64 = Hypercall::Iret.number();

/// How a hypercall ended, in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Outcome {
    /// For RAX, if it was answered.
    pub value: u64,
    /// What is left to do.
    pub next: Next,
}

impl Outcome {
    /// Refused, for this reason.
    const fn refused(error: Errno) -> Self {
        Self { value: error.to_return_value(), next: Next::Answer }
    }
}

/// What is left to do after a hypercall. The machine's entry code looks at the first word alone, for [`Next::Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Next {
    /// Nothing: the value is the answer.
    Answer,
    /// Nothing, and the value is RAX where the guest goes on: nobody waits for it in a batch.
    Leave,
    /// The same hypercall is to be executed again, with the arguments as they were left.
    Again,
    /// The domain broke a promise, and is ended.
    Crash(Fault),
}

/// The way into one hypercall, as the machine's entry code calls it.
pub type Entry<M> = for<'a, 'b, 'c> extern "sysv64" fn(&'a mut Caller<'b, M>, &'c mut Args) -> Outcome;

/// Numbers that the table of hypercalls covers: a power of two beyond all that there are.
pub const NUMBERS: usize = 64;

/// The table of hypercalls.
#[derive(Debug)]
pub struct Table<M>(PhantomData<M>);

impl<M: Machine> Table<M> {
    /// Every way in, by number.
    #[expect(clippy::indexing_slicing, reason = "evaluated when the hypervisor is built")]
    pub const ENTRIES: [Entry<M>; NUMBERS] = {
        let mut entries: [Entry<M>; NUMBERS] = [entry!(u32::MAX, Caller::absent_hypercall); NUMBERS];
        let mut rest = Hypercall::ALL;
        while let [hypercall, others @ ..] = rest {
            entries[number::size(hypercall.number())] = Self::entry_of(*hypercall);
            rest = others;
        }
        entries
    };

    /// Those of a batch, where two calls are something else.
    #[expect(clippy::indexing_slicing, reason = "evaluated when the hypervisor is built")]
    pub const IN_BATCH: [Entry<M>; NUMBERS] = {
        let mut entries = Self::ENTRIES;
        entries[number::size(MULTICALL)] = entry!(number::uint(MULTICALL), Caller::multicall_in_batch);
        entries[number::size(IRET)] = iret_in_batch::<M>;
        entries
    };

    /// Every way in while hypercalls are traced. The number stands in RAX of the guest's registers.
    pub const TRACED: [Entry<M>; NUMBERS] = [traced::hypercall::<M>; NUMBERS];

    /// Every call's way in.
    const fn entry_of(hypercall: Hypercall) -> Entry<M> {
        entries!(hypercall {
            SetTrapTable => Caller::set_trap_table,
            MmuUpdate => Caller::mmu_update,
            SetGdt => Caller::set_gdt,
            StackSwitch => Caller::stack_switch,
            SetCallbacks => Caller::set_callbacks,
            FpuTaskswitch => Caller::fpu_taskswitch,
            SchedOpCompat => Caller::sched_op_compat,
            PlatformOp => Caller::platform_op,
            SetDebugreg => Caller::set_debugreg,
            GetDebugreg => Caller::get_debugreg,
            UpdateDescriptor => Caller::update_descriptor,
            MemoryOp => Caller::memory_op,
            Multicall => Caller::multicall,
            UpdateVaMapping => Caller::update_va_mapping,
            SetTimerOp => Caller::set_timer_op,
            XenVersion => Caller::xen_version,
            ConsoleIo => Caller::console_io,
            GrantTableOp => Caller::grant_table_op,
            VmAssist => Caller::vm_assist,
            UpdateVaMappingOtherdomain => Caller::update_va_mapping_otherdomain,
            Iret => Caller::iret,
            VcpuOp => Caller::vcpu_op,
            SetSegmentBase => Caller::set_segment_base,
            MmuextOp => Caller::mmuext_op,
            SchedOp => Caller::sched_op,
            CallbackOp => Caller::callback_op,
            EventChannelOp => Caller::event_channel_op,
            EventChannelOpCompat => Caller::event_channel_op_compat,
            PhysdevOp => Caller::physdev_op,
            Sysctl => Caller::sysctl,
            Domctl => Caller::domctl,
            XenpmuOp => Caller::unsupported_hypercall,
            // Interfaces of old that no 64-bit guest needs, and what belongs to other kinds of guests or to builds of
            // Xen with more in them: docs/hypercalls.md.
            PhysdevOpCompat => Caller::physdev_op_compat,
            XsmOp => Caller::absent_hypercall,
            NmiOp => Caller::nmi_op,
            XenoprofOp => Caller::xenoprof_op,
            HvmOp => Caller::absent_hypercall,
            KexecOp => Caller::kexec_op,
            TmemOp => Caller::absent_hypercall,
            ArgoOp => Caller::absent_hypercall,
            DmOp => Caller::dm_op,
            HypfsOp => Caller::hypfs_op,
            Mca => Caller::mca,
        })
    }
}

impl<M: Machine> Caller<'_, M> {
    /// What there is not.
    fn absent_hypercall(&mut self, _: &mut Args) -> Reply {
        Err(Errno::NoSys.into())
    }

    /// A batch has none inside.
    fn multicall_in_batch(&mut self, _: &mut Args) -> Reply {
        Err(Errno::Inval.into())
    }

    /// Always `-EOPNOTSUPP`, as Xen without a performance monitor.
    fn unsupported_hypercall(&mut self, _: &mut Args) -> Reply {
        Err(Errno::OpNotSupp.into())
    }

    /// Executes one hypercall by number.
    #[inline]
    pub fn hypercall(&mut self, number: u64, args: &mut Args) -> Outcome {
        self.enter(&Table::<M>::ENTRIES, number, args)
    }

    /// The same in a batch.
    #[inline]
    fn hypercall_in_batch(&mut self, number: u64, args: &mut Args) -> Outcome {
        self.domain.counters.count(Counted::Subcall);
        self.enter(&Table::<M>::IN_BATCH, number, args)
    }

    #[inline(always)]
    fn enter(&mut self, entries: &[Entry<M>; NUMBERS], number: u64, args: &mut Args) -> Outcome {
        match entries.get(number::size(number)) {
            Some(entry) => entry(self, args),
            None => Outcome::refused(Errno::NoSys),
        }
    }

    /// Does what is left of a hypercall that was not answered.
    #[cold]
    pub fn settle_hypercall(&mut self, next: Next, args: &Args) {
        match next {
            Next::Answer | Next::Leave => {}
            Next::Again => {
                let regs = &mut *self.regs;
                [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = *args;
                regs.rip = regs.rip.wrapping_sub(SYSCALL_BYTES);
            }
            Next::Crash(Fault::AbsentEntry) => self.end_for_absent_entry(),
            Next::Crash(fault) => self.crash(fault.reason()),
        }
    }
}

/// `iret` of a batch: the guest goes on where it leads, and what is left of the batch is not done.
extern "sysv64" fn iret_in_batch<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Outcome {
    caller.domain.counters.hypercall(number::uint(IRET));
    match outcome(caller.iret(args)) {
        Outcome { value, next: Next::Answer } => Outcome { value, next: Next::Leave },
        other => other,
    }
}

/// Turns a reply into two registers' worth.
#[inline]
fn outcome(reply: Reply) -> Outcome {
    match reply {
        Ok(value) => Outcome { value, next: Next::Answer },
        Err(Stop::Refused(error)) => Outcome::refused(error),
        Err(Stop::Unfinished) => Outcome { value: 0, next: Next::Again },
        Err(Stop::Fatal(fault)) => Outcome { value: 0, next: Next::Crash(fault) },
    }
}
