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
pub mod platform;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;
mod vnuma;

use crate::{
    caller::Caller,
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

/// How a hypercall ended, in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Outcome {
    /// For RAX, if it was answered.
    pub value: u64,
    /// What is left to do.
    pub next: Next,
}

/// What is left to do after a hypercall. The machine's entry code looks at the first word alone, for [`Next::Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Next {
    /// Nothing: the value is the answer.
    Answer,
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

    /// Always `-EOPNOTSUPP`, as Xen without a performance monitor.
    fn unsupported_hypercall(&mut self, _: &mut Args) -> Reply {
        Err(Errno::OpNotSupp.into())
    }

    /// Executes one hypercall by number, called directly or from a batch.
    #[inline]
    pub fn hypercall(&mut self, number: u64, args: &mut Args) -> Outcome {
        match usize::try_from(number).ok().and_then(|number| Table::<M>::ENTRIES.get(number)) {
            Some(entry) => entry(self, args),
            None => Outcome { value: Errno::NoSys.to_return_value(), next: Next::Answer },
        }
    }

    /// Does what is left of a hypercall that was not answered.
    #[cold]
    pub fn settle_hypercall(&mut self, next: Next, args: &Args) {
        match next {
            Next::Answer => {}
            Next::Again => {
                let regs = &mut *self.regs;
                [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = *args;
                regs.rip = regs.rip.wrapping_sub(SYSCALL_BYTES);
            }
            Next::Crash(fault) => self.crash(fault.reason()),
        }
    }
}

/// Turns a reply into two registers' worth.
#[inline]
fn outcome(reply: Reply) -> Outcome {
    match reply {
        Ok(value) => Outcome { value, next: Next::Answer },
        Err(Stop::Refused(error)) => Outcome { value: error.to_return_value(), next: Next::Answer },
        Err(Stop::Unfinished) => Outcome { value: 0, next: Next::Again },
        Err(Stop::Fatal(fault)) => Outcome { value: 0, next: Next::Crash(fault) },
    }
}
