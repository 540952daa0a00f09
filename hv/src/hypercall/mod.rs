//! Hypercalls: one match, one line per call, and the table that it becomes.

pub mod absent;
pub mod batch;
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
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;

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
            caller.domain.counters.hypercall($number as u32);
            let reply = $handler(caller, args);
            outcome(reply)
        }
        enter::<M>
    }};
}

/// One line per call: the match of [`entry_of`], without a rest.
macro_rules! entries {
    ($hypercall:ident { $($name:ident => $handler:path,)* }) => {
        match $hypercall {
            $(Hypercall::$name => entry!(Hypercall::$name, $handler),)*
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
        let mut entries = [entry!(u32::MAX, none) as Entry<M>; NUMBERS];
        let mut rest = Hypercall::ALL;
        while let [hypercall, others @ ..] = rest {
            entries[*hypercall as usize] = entry_of(*hypercall);
            rest = others;
        }
        entries
    };
}

/// What there is not.
fn none<M: Machine>(_: &mut Caller<'_, M>, _: &mut Args) -> Reply {
    Err(Errno::NoSys.into())
}

/// Always `-EOPNOTSUPP`, as Xen without a performance monitor.
fn unsupported<M: Machine>(_: &mut Caller<'_, M>, _: &mut Args) -> Reply {
    Err(Errno::OpNotSupp.into())
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

/// Executes one hypercall by number, called directly or from a batch.
#[inline]
pub fn call<M: Machine>(caller: &mut Caller<'_, M>, number: u64, args: &mut Args) -> Outcome {
    match usize::try_from(number).ok().and_then(|number| Table::<M>::ENTRIES.get(number)) {
        Some(entry) => entry(caller, args),
        None => Outcome { value: Errno::NoSys.to_return_value(), next: Next::Answer },
    }
}

/// Does what is left of a hypercall that was not answered.
#[cold]
pub fn settle<M: Machine>(caller: &mut Caller<'_, M>, next: Next, args: &Args) {
    match next {
        Next::Answer => {}
        Next::Again => {
            let regs = &mut *caller.regs;
            [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = *args;
            regs.rip = regs.rip.wrapping_sub(SYSCALL_BYTES);
        }
        Next::Crash(fault) => caller.crash(fault.reason()),
    }
}

/// Every call's way in.
const fn entry_of<M: Machine>(hypercall: Hypercall) -> Entry<M> {
    entries!(hypercall {
        SetTrapTable => guest_setup::set_trap_table,
        MmuUpdate => mmu::mmu_update,
        SetGdt => guest_setup::set_gdt,
        StackSwitch => guest_setup::stack_switch,
        SetCallbacks => guest_setup::set_callbacks,
        FpuTaskswitch => guest_setup::fpu_taskswitch,
        SchedOpCompat => sched::sched_op_compat,
        PlatformOp => platform::platform_op,
        SetDebugreg => guest_setup::set_debugreg,
        GetDebugreg => guest_setup::get_debugreg,
        UpdateDescriptor => guest_setup::update_descriptor,
        MemoryOp => memory::memory_op,
        Multicall => batch::multicall,
        UpdateVaMapping => mmu::update_va_mapping,
        SetTimerOp => sched::set_timer_op,
        XenVersion => version::xen_version,
        ConsoleIo => console::console_io,
        GrantTableOp => grant::grant_table_op,
        VmAssist => guest_setup::vm_assist,
        UpdateVaMappingOtherdomain => mmu::update_va_mapping_otherdomain,
        Iret => iret::iret,
        VcpuOp => vcpu::vcpu_op,
        SetSegmentBase => guest_setup::set_segment_base,
        MmuextOp => mmuext::mmuext_op,
        SchedOp => sched::sched_op,
        CallbackOp => guest_setup::callback_op,
        EventChannelOp => event::event_channel_op,
        EventChannelOpCompat => event::event_channel_op_compat,
        PhysdevOp => physdev::physdev_op,
        Sysctl => sysctl::sysctl,
        Domctl => domctl::domctl,
        XenpmuOp => unsupported,
        // Interfaces of old that no 64-bit guest needs, and what belongs to other kinds of guests or to builds of Xen with
        // more in them: docs/hypercalls.md.
        PhysdevOpCompat => physdev::physdev_op_compat,
        XsmOp => none,
        NmiOp => guest_setup::nmi_op,
        XenoprofOp => absent::xenoprof_op,
        HvmOp => none,
        KexecOp => absent::kexec_op,
        TmemOp => none,
        ArgoOp => none,
        DmOp => absent::dm_op,
        HypfsOp => hypfs::hypfs_op,
        Mca => machine_checks::mca,
    })
}
