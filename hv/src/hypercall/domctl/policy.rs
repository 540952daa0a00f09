//! What a guest sees of the processor: what the machine has for guests, less what its toolstack leaves out before it
//! begins.

use super::{Answer, Outcome};
use crate::hypercall::number::count;
use crate::{
    caller::Caller,
    domain::{Domain, cpu_policy::CpuPolicy},
    heap,
    hypercall::sysctl::policy::{MODEL_REGISTERS, ROOM_FOR_LEAVES, each_leaf},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Control, Stop},
};
use oxen_abi::{
    domctl::{CpuidLeaf, Domctl, DomctlCpuPolicy, MsrEntry, XEN_CPUID_INPUT_UNUSED, XEN_CPUID_NO_SUBLEAF},
    errno::Errno,
};

impl<M: Machine> Caller<'_, M> {
    /// Copies the leaves and registers out; null pointers ask how many there can be.
    pub(super) fn get_cpu_policy(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        let request: DomctlCpuPolicy = op.get();
        let machine = self.hv.machine();
        let mut nr_leaves = ROOM_FOR_LEAVES;
        if request.leaves != 0 {
            nr_leaves = 0;
            let list = GuestPtr::<CpuidLeaf>::new(request.leaves, request.nr_leaves.into())?;
            each_leaf(
                &|leaf, subleaf| self.cpuid_leaf_of(domain, leaf, subleaf),
                &mut |leaf, subleaf, [a, b, c, d]| {
                    if nr_leaves == request.nr_leaves {
                        return Err(Errno::NoBufs);
                    }
                    list.write(machine, nr_leaves.into(), &CpuidLeaf { leaf, subleaf, a, b, c, d })?;
                    nr_leaves = nr_leaves.wrapping_add(1);
                    Ok(())
                },
            )?;
        }
        let nr_msrs = count(MODEL_REGISTERS.len());
        if request.msrs != 0 {
            let list = GuestPtr::<MsrEntry>::new(request.msrs, request.nr_msrs.min(nr_msrs).into())?;
            for (index, idx) in (0..).zip(MODEL_REGISTERS) {
                if index == u64::from(request.nr_msrs) {
                    return Err(Errno::NoBufs.into());
                }
                list.write(machine, index, &MsrEntry { idx, flags: 0, val: 0 })?;
            }
        }
        op.set(&DomctlCpuPolicy { nr_leaves, nr_msrs, ..request });
        Ok(Answer::CopyBack)
    }

    /// Takes what a toolstack wishes, whole or not at all. Where something cannot be, the answer says what.
    pub(super) fn set_cpu_policy(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        if domain.id == self.domain.id {
            return Err(Errno::Inval.into());
        }
        if domain.has_begun() {
            return Err(Errno::Exist.into());
        }
        let request: DomctlCpuPolicy = op.get();
        let unused = XEN_CPUID_INPUT_UNUSED;
        let mut answer = DomctlCpuPolicy { err_leaf: unused, err_subleaf: unused, err_msr: unused, ..request };
        let mut policy = domain.cpu_policy.lock().as_deref().cloned().unwrap_or_default();
        match self.read_cpu_policy(&mut answer, &mut policy) {
            Ok(()) => {
                policy.settle();
                let policy = heap::share(self.hv.machine(), policy)?;
                let old = domain.cpu_policy.lock().replace(policy);
                drop(old);
                Ok(Answer::Done)
            }
            Err(Stop::Refused(error)) => {
                op.set(&answer);
                Ok(Answer::CopyBackAnd(error))
            }
            Err(other) => Err(other),
        }
    }

    /// Reads the leaves into a policy, and judges them and the registers.
    fn read_cpu_policy(&self, request: &mut DomctlCpuPolicy, policy: &mut CpuPolicy) -> Result<(), Stop> {
        let machine = self.hv.machine();
        if request.nr_leaves > ROOM_FOR_LEAVES || request.nr_msrs > count(MODEL_REGISTERS.len()) {
            return Err(Errno::TooBig.into());
        }
        let list = GuestPtr::<CpuidLeaf>::new(request.leaves, request.nr_leaves.into())?;
        for index in 0..request.nr_leaves.into() {
            let said = list.read(machine, index)?;
            if !is_known(said.leaf, said.subleaf) {
                (request.err_leaf, request.err_subleaf) = (said.leaf, said.subleaf);
                return Err(Errno::Range.into());
            }
            policy.set(&said);
        }
        let list = GuestPtr::<MsrEntry>::new(request.msrs, request.nr_msrs.into())?;
        for index in 0..request.nr_msrs.into() {
            let MsrEntry { idx, flags, .. } = list.read(machine, index)?;
            let error = match flags {
                0 if MODEL_REGISTERS.contains(&idx) => continue,
                0 => Errno::Range,
                _ => Errno::Inval,
            };
            request.err_msr = idx;
            return Err(error.into());
        }
        for (leaf, subleaf, wanted) in policy.last_leaves() {
            let [has, ..] = self.plain_leaf(leaf, 0);
            if wanted.is_some_and(|wanted| wanted > has) {
                (request.err_leaf, request.err_subleaf) = (leaf, subleaf);
                return Err(Errno::Inval.into());
            }
        }
        Ok(())
    }
}

/// Whether a policy has a place for a leaf.
const fn is_known(leaf: u32, subleaf: u32) -> bool {
    match leaf {
        4 => subleaf < 6,
        7 | 0xb => subleaf < 2,
        0xd => subleaf < 63,
        0..=0xd | 0x4000_0000 | 0x4000_0100 | 0x8000_0000..=0x8000_0021 => subleaf == XEN_CPUID_NO_SUBLEAF,
        _ => false,
    }
}
