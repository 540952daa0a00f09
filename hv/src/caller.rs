//! The vocabulary of handlers: who calls, with what rights, and what they are answered.

use crate::{
    Hypervisor,
    domain::{Domain, regs::Regs, vcpu::Vcpu, vcpu::VcpuState},
    hardware::CpuId,
    machine::Machine,
};
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::Ordering;
use oxen_abi::errno::Errno;

/// The vcpu that a CPU runs. Its state is on the CPU, not in the vcpu's slot, for as long as it runs there.
#[derive(Debug)]
pub struct Current {
    /// The domain.
    pub domain: Arc<Domain>,
    /// The vcpu.
    pub vcpu: Arc<Vcpu>,
    /// What only the CPU that runs the vcpu may touch.
    pub state: Box<VcpuState>,
}

/// A guest that entered the hypervisor, with everything a handler may use.
#[derive(Debug)]
pub struct Caller<'a, M: Machine> {
    /// The hypervisor.
    pub hv: &'static Hypervisor<M>,
    /// The CPU it runs on.
    pub cpu: CpuId,
    /// Its domain.
    pub domain: &'a Arc<Domain>,
    /// Its vcpu.
    pub vcpu: &'a Arc<Vcpu>,
    /// The state of its vcpu.
    pub state: &'a mut VcpuState,
    /// Its registers, as they will be when it goes on.
    pub regs: &'a mut Regs,
}

/// The right to act on other domains and on the machine. Only [`Caller::control`] mints it.
#[derive(Clone, Copy, Debug)]
pub struct Control(());

/// Six arguments of a hypercall. A handler that stops half way leaves here where to go on.
pub type Args = [u64; 6];

/// Why a hypercall did not return a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The guest erred or asked too much, and is told.
    Tell(Errno),
    /// More urgent work waits: the same hypercall is executed again, with the arguments as the handler left them.
    Preempted,
    /// The guest broke a promise that it cannot be told about, and is ended with this reason. Behind a pointer, so that
    /// a [`Reply`] fits into two registers.
    Crash(&'static &'static str),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Self::Tell(error)
    }
}

/// What a hypercall answers: the value for RAX, or why there is none.
pub type Reply = Result<u64, Refusal>;
const _: () = assert!(size_of::<Reply>() == 16);

impl<M: Machine> Caller<'_, M> {
    /// Whether something more urgent than the present hypercall waits on this CPU.
    #[inline]
    #[must_use]
    pub fn must_yield(&self) -> bool {
        self.hv.cpus.get(usize::from(self.cpu.0)).is_some_and(|cpu| cpu.work.load(Ordering::Relaxed) != 0)
            || self.state.info.wants_upcall()
    }

    /// The right to act on others, for the control domain.
    ///
    /// # Errors
    /// `Perm` for everybody else.
    pub fn control(&self) -> Result<Control, Errno> {
        if self.domain.is_privileged { Ok(Control(())) } else { Err(Errno::Perm) }
    }
}
