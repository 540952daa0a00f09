//! Who calls: the guest that entered the hypervisor, and what its rights are.

use crate::{
    Hypervisor,
    domain::{
        Domain,
        regs::Regs,
        vcpu::{Vcpu, VcpuState},
    },
    hardware::CpuId,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    per_cpu::CpuShared,
    reply::Control,
};
use alloc::{boxed::Box, sync::Arc};
use core::ops::Deref;
use core::sync::atomic::Ordering;
use oxen_abi::{domid::DomId, errno::Errno};
use zerocopy::{FromBytes, Immutable, IntoBytes};

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

/// A domain that a caller names: the most name themselves, and need no count of their own for that.
#[derive(Debug)]
pub enum Named<'a> {
    /// The caller's.
    Own(&'a Arc<Domain>),
    /// Another.
    Other(Arc<Domain>),
}

impl Deref for Named<'_> {
    type Target = Arc<Domain>;

    #[inline]
    fn deref(&self) -> &Arc<Domain> {
        match self {
            Self::Own(domain) => domain,
            Self::Other(domain) => domain,
        }
    }
}

/// A guest that entered the hypervisor, with everything a handler may use.
#[derive(Debug)]
pub struct Caller<'a, M: Machine> {
    /// The hypervisor.
    pub hv: &'static Hypervisor<M>,
    /// The CPU it runs on.
    pub cpu: CpuId,
    /// What that CPU shares with the others.
    pub shared: &'static CpuShared,
    /// Its domain.
    pub domain: &'a Arc<Domain>,
    /// Its vcpu.
    pub vcpu: &'a Arc<Vcpu>,
    /// The state of its vcpu.
    pub state: &'a mut VcpuState,
    /// Its registers, as they will be when it goes on.
    pub regs: &'a mut Regs,
}

impl<'a, M: Machine> Caller<'a, M> {
    /// Whether something more urgent than the present hypercall waits on this CPU.
    #[inline]
    #[must_use]
    pub fn must_yield(&self) -> bool {
        !self.shared.work.load(Ordering::Relaxed).is_empty() || self.state.info.wants_upcall()
    }

    /// The right to act on others, for the control domain.
    ///
    /// # Errors
    /// `Perm` for everybody else.
    pub fn control(&self) -> Result<Control, Errno> {
        Control::of(self.domain.is_privileged())
    }

    /// Whether an id that the caller names is itself: `DOMID_SELF`, or its own.
    #[inline]
    #[must_use]
    pub fn is_self(&self, id: DomId) -> bool {
        id == DomId::SELF || id == self.domain.id
    }

    /// The domain that the caller names, itself included.
    ///
    /// # Errors
    /// `Srch` if it does not exist.
    #[inline]
    pub fn named_domain(&self, id: DomId) -> Result<Named<'a>, Errno> {
        if self.is_self(id) {
            return Ok(Named::Own(self.domain));
        }
        self.hv.domains.get(id).map(Named::Other).ok_or(Errno::Srch)
    }

    /// Checks that the caller may act on a domain: on itself, or by privilege.
    ///
    /// # Errors
    /// `Perm` if not.
    pub fn may_act_on(&self, domain: &Domain) -> Result<(), Errno> {
        if domain.id == self.domain.id { Ok(()) } else { self.control().map(|_| ()) }
    }

    /// The domain that the caller names to act on, itself included.
    ///
    /// # Errors
    /// `Srch` if it does not exist, `Perm` if the caller may not act on it.
    #[inline]
    pub fn domain_to_act_on(&self, id: DomId) -> Result<Named<'a>, Errno> {
        let domain = self.named_domain(id)?;
        self.may_act_on(&domain)?;
        Ok(domain)
    }

    /// Copies a value out of the guest's memory.
    ///
    /// # Errors
    /// `Fault` if the guest has no memory there.
    #[inline]
    pub fn copy_from_guest<T: FromBytes + IntoBytes + Immutable>(&self, address: u64) -> Result<T, Errno> {
        GuestPtr::one(address)?.read(self.hv.machine(), 0)
    }

    /// Copies a value into the guest's memory.
    ///
    /// # Errors
    /// `Fault` if the guest has no memory there that it can write to.
    #[inline]
    pub fn copy_to_guest<T: FromBytes + IntoBytes + Immutable>(&self, address: u64, value: &T) -> Result<(), Errno> {
        GuestPtr::one(address)?.write(self.hv.machine(), 0, value)
    }
}
