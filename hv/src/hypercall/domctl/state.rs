//! What of a vcpu is not in its context: the extended registers, the callbacks of 32-bit user mode, registers of
//! models. A toolstack saves and restores a guest with them.

use super::{Answer, Outcome, find};
use crate::hypercall::number::{self, bytes, count, long, uint};
use crate::{
    addr::GuestAddr,
    caller::Caller,
    domain::{
        Domain,
        traps::Callback,
        vcpu::{ExtendedState, Vcpu, VcpuState},
    },
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    processor::machine_check,
    reply::Control,
    speculation::SPEC_CTRL,
};
use alloc::sync::Arc;
use oxen_abi::{
    domctl::{Domctl, DomctlExtVcpucontext, DomctlVcpuMsr, DomctlVcpuMsrs, DomctlVcpuextstate},
    errno::Errno,
};

/// XCR0 and all that it ever was, before the registers.
const STATE_HEADER: u64 = 16;
/// Where software's part of the state begins, behind the header.
const SOFTWARE_AT: u64 = STATE_HEADER + long(ExtendedState::SOFTWARE_AT);
/// What a record of registers has at least: the image of FXSAVE and XSAVE's header.
const MIN_AREA: u64 = 576;
/// Where a set ends that lacks machine checks, as one of another age of the interface may, and one that has no
/// more of them than which there are.
const BEFORE_MACHINE_CHECKS: u32 = 32;
const WITH_MACHINE_CHECKS: u32 = BEFORE_MACHINE_CHECKS + 8;
/// Registers of models that a guest can have been given: their number is the room a toolstack makes.
const MODEL_REGISTERS: [u32; 7] =
    [SPEC_CTRL, MISC_FEATURES, TSC_AUX, 0xc001_1019, 0xc001_101a, 0xc001_101b, 0xc001_1027];
const MISC_FEATURES: u32 = 0x140;
const TSC_AUX: u32 = 0xc000_0103;

impl<M: Machine> Caller<'_, M> {
    /// A vcpu of another domain than the caller's, whose own is refused with `own`. One that is not there is one of no
    /// domain.
    fn find_other_vcpu<'a>(&self, domain: &'a Domain, id: u32, own: Errno) -> Result<&'a Arc<Vcpu>, Errno> {
        let vcpu = find(domain, id).map_err(|_| Errno::Srch)?;
        if domain.id == self.domain.id { Err(own) } else { Ok(vcpu) }
    }

    /// Works on the state of a vcpu that is held off its CPU meanwhile.
    fn with_vcpu_state<R>(
        &self,
        domain: &Domain,
        vcpu: &Vcpu,
        work: impl FnOnce(&mut VcpuState) -> R,
    ) -> Result<R, Errno> {
        self.hold_domain(domain);
        let done = vcpu.slot.lock().as_mut().map(|state| work(state));
        self.hv.unpause_domain(domain);
        done.ok_or(Errno::Busy)
    }

    #[inline(never)]
    fn hold_domain(&self, domain: &Domain) {
        self.hv.pause_domain(domain);
        self.hv.wait_until_domain_off(domain);
    }

    pub(super) fn get_ext_vcpu_context(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        let request: DomctlExtVcpucontext = op.get();
        let vcpu = self.find_other_vcpu(domain, request.vcpu, Errno::Srch)?;
        let machine_checks = machine_check::capabilities(self.hv.machine());
        let answer = self.with_vcpu_state(domain, vcpu, |state| DomctlExtVcpucontext {
            size: uint(bytes::<DomctlExtVcpucontext>()),
            syscall32_callback_eip: state.syscall32_callback.address,
            sysenter_callback_eip: state.sysenter_callback.address,
            syscall32_callback_cs: state.callback_selectors[0],
            sysenter_callback_cs: state.callback_selectors[1],
            syscall32_disables_events: state.syscall32_callback.masks_events.into(),
            sysenter_disables_events: state.sysenter_callback.masks_events.into(),
            _pad0: 0,
            machine_checks: [machine_checks, 0, 0, 0],
            ..request
        })?;
        op.set(&answer);
        Ok(Answer::CopyBack)
    }

    pub(super) fn set_ext_vcpu_context(&self, _: Control, domain: &Domain, request: DomctlExtVcpucontext) -> Outcome {
        let vcpu = self.find_other_vcpu(domain, request.vcpu, Errno::Srch)?;
        let addresses = [request.syscall32_callback_eip, request.sysenter_callback_eip];
        if request.size < BEFORE_MACHINE_CHECKS || !addresses.iter().all(|&a| GuestAddr::new(a).is_canonical()) {
            return Err(Errno::Inval.into());
        }
        self.with_vcpu_state(domain, vcpu, |state| {
            let callback = |address, masks| Callback { address, masks_events: masks != 0 };
            state.syscall32_callback = callback(request.syscall32_callback_eip, request.syscall32_disables_events);
            state.sysenter_callback = callback(request.sysenter_callback_eip, request.sysenter_disables_events);
            state.callback_selectors = [request.syscall32_callback_cs, request.sysenter_callback_cs].map(|cs| cs | 3);
        })?;
        let [capabilities, ..] = request.machine_checks;
        if request.size >= WITH_MACHINE_CHECKS && !machine_check::can_have(self.hv.machine(), capabilities) {
            return Err(Errno::Inval.into());
        }
        Ok(Answer::Done)
    }

    /// The extended registers: what XCR0 is and was, then the area as XSAVE writes it. A null pointer, or neither size
    /// nor mask, asks for both.
    pub(super) fn get_extended_state(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        let request: DomctlVcpuextstate = op.get();
        let vcpu = self.find_other_vcpu(domain, request.vcpu, Errno::Inval)?;
        let (mask, size) = self.extended_state_layout()?;
        if request.buffer == 0 || (request.size, request.xfeature_mask) == (0, 0) {
            op.set(&DomctlVcpuextstate { xfeature_mask: mask, size, ..request });
            return Ok(Answer::CopyBack);
        }
        if (request.size, request.xfeature_mask) != (size, mask) {
            return Err(Errno::Inval.into());
        }
        let to = GuestPtr::<u8>::new(request.buffer, size)?;
        let area = self.with_vcpu_state(domain, vcpu, |state| state.extended.clone())?;
        let machine = self.hv.machine();
        to.write_many(machine, 0, &area.xcr0().to_le_bytes())?;
        to.write_many(machine, 8, &mask.to_le_bytes())?;
        to.write_many(machine, STATE_HEADER, area.standard(number::size(size.wrapping_sub(STATE_HEADER))))?;
        // The hypervisor keeps XCR0 in bytes of the area that are software's.
        to.write_many(machine, SOFTWARE_AT, &[0; ExtendedState::SOFTWARE_BYTES])?;
        Ok(Answer::Done)
    }

    pub(super) fn set_extended_state(&self, _: Control, domain: &Domain, request: DomctlVcpuextstate) -> Outcome {
        let vcpu = self.find_other_vcpu(domain, request.vcpu, Errno::Inval)?;
        let (mask, size) = self.extended_state_layout()?;
        if !(STATE_HEADER..=size).contains(&request.size) {
            return Err(Errno::Inval.into());
        }
        let machine = self.hv.machine();
        let from = GuestPtr::<u8>::new(request.buffer, request.size)?;
        let mut header = [0; number::size(STATE_HEADER)];
        from.read_many(machine, 0, &mut header)?;
        let mut area = ExtendedState::RESET;
        let bytes = number::size(request.size.wrapping_sub(STATE_HEADER));
        from.read_many(machine, STATE_HEADER, area.0.get_mut(..bytes).ok_or(Errno::Inval)?)?;
        let [xcr0, ever] = [0_usize, 8].map(|at| {
            header.get(at..at.saturating_add(8)).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
        });
        let has_area = request.size >= STATE_HEADER + MIN_AREA;
        let is_sound = if ever == 0 { xcr0 == 0 } else { has_area && area.is_sound(xcr0, ever, mask) };
        if !is_sound {
            return Err(Errno::Inval.into());
        }
        if request.size == STATE_HEADER {
            return Ok(Answer::Done);
        }
        let most =
            if ever == 0 { 0 } else { STATE_HEADER.saturating_add(ExtendedState::standard_bytes(machine, ever)) };
        if !has_area || request.size > most {
            return Err(Errno::Inval.into());
        }
        area.set_xcr0(xcr0);
        self.with_vcpu_state(domain, vcpu, |state| state.extended = area)?;
        Ok(Answer::Done)
    }

    /// The parts of the extended registers that guests can have, and the bytes of a record of them.
    fn extended_state_layout(&self) -> Result<(u64, u64), Errno> {
        let machine = self.hv.machine();
        let mask = ExtendedState::parts(machine);
        if mask == 0 {
            // Without XSAVE there is no such record.
            return Err(Errno::Inval);
        }
        Ok((mask, STATE_HEADER.saturating_add(ExtendedState::standard_bytes(machine, mask))))
    }

    /// Registers of models that are not zero; a null pointer asks how many there can be.
    pub(super) fn get_vcpu_msrs(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        let request: DomctlVcpuMsrs = op.get();
        let vcpu = self.find_other_vcpu(domain, request.vcpu, Errno::Inval)?;
        if request.msrs == 0 {
            op.set(&DomctlVcpuMsrs { msr_count: count(MODEL_REGISTERS.len()), ..request });
            return Ok(Answer::CopyBack);
        }
        let values = self.with_vcpu_state(domain, vcpu, |s| [(SPEC_CTRL, s.spec_ctrl.bits()), (TSC_AUX, s.tsc_aux)])?;
        let mut count: u32 = 0;
        for (index, value) in values.into_iter().filter(|&(_, value)| value != 0) {
            if count == request.msr_count {
                return Err(Errno::NoBufs.into());
            }
            let place = u64::from(count).wrapping_mul(bytes::<DomctlVcpuMsr>());
            let register = DomctlVcpuMsr { index, reserved: 0, value: value.into() };
            self.copy_to_guest(request.msrs.checked_add(place).ok_or(Errno::Fault)?, &register)?;
            count = count.wrapping_add(1);
        }
        op.set(&DomctlVcpuMsrs { msr_count: count, ..request });
        Ok(Answer::CopyBack)
    }

    /// Sets registers, one after the other; where one cannot be, the answer says how many there were before it.
    pub(super) fn set_vcpu_msrs(&self, _: Control, domain: &Domain, op: &mut Domctl) -> Outcome {
        let request: DomctlVcpuMsrs = op.get();
        let vcpu = self.find_other_vcpu(domain, request.vcpu, Errno::Inval)?;
        if number::index(request.msr_count) > MODEL_REGISTERS.len() {
            return Err(Errno::Inval.into());
        }
        let mut done = 0;
        let failed = (0..request.msr_count).try_for_each(|index| {
            let place = request.msrs.checked_add(u64::from(index).wrapping_mul(bytes::<DomctlVcpuMsr>()));
            let register = GuestPtr::<DomctlVcpuMsr>::one(place.ok_or(Errno::Fault)?)?.read(self.hv.machine(), 0)?;
            let value = u32::try_from(register.value).map_err(|_| Errno::Inval)?;
            match register.index {
                _ if register.reserved != 0 => return Err(Errno::Inval),
                SPEC_CTRL => {
                    let wanted = self.judge_spec_ctrl(domain, register.value).ok_or(Errno::Inval)?;
                    self.with_vcpu_state(domain, vcpu, |state| state.spec_ctrl = wanted)?;
                }
                TSC_AUX => self.with_vcpu_state(domain, vcpu, |state| state.tsc_aux = value)?,
                // Faults of CPUID are not had.
                MISC_FEATURES if value == 0 => {}
                _ => return Err(Errno::Inval),
            }
            done = index.wrapping_add(1);
            Ok(())
        });
        match failed {
            Ok(()) => Ok(Answer::Done),
            Err(error) => {
                op.set(&DomctlVcpuMsrs { msr_count: done, ..request });
                Ok(Answer::CopyBackAnd(error))
            }
        }
    }
}
