//! `vcpu_op`: what a guest does with its vcpus.

use super::{args::VcpuOp, commands::VcpuCommand, number::index};
use crate::{
    Hypervisor,
    addr::GuestAddr,
    caller::Caller,
    channel::deliver,
    domain::vcpu::{Pauses, Vcpu},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    per_cpu::Work,
    reply::{Args, Reply},
    sched::clock,
    shared_info::{VCPU_INFO_BYTES, VcpuInfoPlace},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    errno::Errno,
    vcpu::{
        VcpuRegisterRunstateMemoryArea, VcpuRegisterTimeMemoryArea, VcpuRegisterVcpuInfo, VcpuSetPeriodicTimer,
        VcpuSetSingleshotTimer,
    },
};

/// Periods below this many nanoseconds are refused.
const MIN_PERIOD: u64 = 1_000_000;
/// Periods above this many nanoseconds are refused: 2^55 is a year.
const MAX_PERIOD: u64 = 1 << 55;

/// 1 for a vcpu that is up, else 0.
fn is_up(vcpu: &Vcpu) -> u64 {
    (!vcpu.pauses.load(Ordering::Relaxed).intersects(Pauses::DOWN)).into()
}

impl<M: Machine> Caller<'_, M> {
    /// `vcpu_op(command, vcpu, argument)`.
    ///
    /// # Errors
    /// `NoEnt` for a vcpu that there is not, `Fault` for an unreadable argument, `NoSys` for an unknown command, and
    /// the commands' own.
    #[inline]
    pub fn vcpu_op(&mut self, args: &mut Args) -> Reply {
        let VcpuOp { command, id, argument } = (&*args).into();
        let Ok(command) = command else { return self.no_vcpu_op(id) };
        if id == self.vcpu.id {
            match command {
                VcpuCommand::SetSingleshotTimer => return self.set_one_shot_timer(argument),
                VcpuCommand::StopSingleshotTimer => {
                    self.disarm_one_shot();
                    return Ok(0);
                }
                VcpuCommand::IsUp => return Ok(is_up(self.vcpu)),
                VcpuCommand::GetRunstateInfo => return self.tell_runstate(self.vcpu, argument),
                _ => {}
            }
        }
        self.other_vcpu_op(command, id, argument)
    }

    /// That there is no such vcpu comes before that there is no such command.
    #[cold]
    #[inline(never)]
    fn no_vcpu_op(&self, id: u32) -> Reply {
        Err(if self.domain.vcpu(id).is_some() { Errno::NoSys } else { Errno::NoEnt }.into())
    }

    /// What a vcpu asks of others, or seldom of itself.
    #[inline(never)]
    fn other_vcpu_op(&mut self, command: VcpuCommand, id: u32, argument: u64) -> Reply {
        let vcpu = &self.domain.vcpu(id).ok_or(Errno::NoEnt)?.clone();
        match command {
            VcpuCommand::Initialise => return self.initialise_vcpu(vcpu, argument),
            VcpuCommand::Up => {
                if !vcpu.is_initialised.load(Ordering::Acquire) {
                    return Err(Errno::Inval.into());
                }
                self.hv.unpause_vcpu(vcpu, Pauses::DOWN);
            }
            VcpuCommand::Down => self.take_vcpu_down(vcpu),
            VcpuCommand::IsUp => return Ok(is_up(vcpu)),
            VcpuCommand::GetRunstateInfo => return self.tell_runstate(vcpu, argument),
            VcpuCommand::RegisterRunstateMemoryArea => self.register_runstate_area(vcpu, argument)?,
            VcpuCommand::SetPeriodicTimer => {
                let request = self.copy_from_guest::<VcpuSetPeriodicTimer>(argument)?;
                if !(MIN_PERIOD..=MAX_PERIOD).contains(&request.period_ns) {
                    return Err(Errno::Inval.into());
                }
                self.hv.set_periodic_timer(vcpu, request.period_ns);
            }
            VcpuCommand::StopPeriodicTimer => self.hv.set_periodic_timer(vcpu, 0),
            VcpuCommand::StopSingleshotTimer | VcpuCommand::SetSingleshotTimer => return Err(Errno::Inval.into()),
            VcpuCommand::RegisterVcpuInfo => self.register_vcpu_info(vcpu, argument)?,
            VcpuCommand::RegisterVcpuTimeMemoryArea => self.register_time_area(vcpu, argument)?,
            VcpuCommand::GetPhysid => {
                let physid = self.physical_id_of(vcpu)?;
                self.copy_to_guest(argument, &physid)?;
            }
            VcpuCommand::SendNmi => self.send_nmi(vcpu, argument)?,
        }
        Ok(0)
    }

    /// For how long a vcpu has been in which state.
    #[inline]
    fn tell_runstate(&self, vcpu: &Vcpu, argument: u64) -> Reply {
        let info = vcpu.sched.runstate.lock().until(self.hv.now());
        self.copy_to_guest(argument, &info)?;
        Ok(0)
    }

    #[inline]
    fn set_one_shot_timer(&self, argument: u64) -> Reply {
        let request = self.copy_from_guest::<VcpuSetSingleshotTimer>(argument)?;
        // A time that has passed fires at once, whether or not the guest asked to be told (`VCPU_SSHOTTMR_FUTURE`), as
        // in Xen. And one before the start of the machine has passed: times have a sign.
        let at = if i64::try_from(request.timeout_abs_ns).is_err() { 0 } else { request.timeout_abs_ns };
        self.arm_one_shot(at);
        Ok(0)
    }

    /// The processor of a control domain's vcpu that has one of its own: the ids of its APIC and in ACPI's tables.
    fn physical_id_of(&self, vcpu: &Vcpu) -> Result<u64, Errno> {
        let allowed = vcpu.sched.affinity.load(Ordering::Relaxed) & self.hv.online_mask();
        if !self.domain.is_privileged() || allowed.count_ones() != 1 {
            return Err(Errno::Inval);
        }
        let cpu = u64::from(allowed.trailing_zeros());
        Ok(cpu | cpu << 32)
    }

    fn initialise_vcpu(&self, vcpu: &Arc<Vcpu>, argument: u64) -> Reply {
        if !vcpu.has_info() {
            return Err(Errno::Inval.into());
        }
        let context = self.copy_from_guest(argument)?;
        let stage = self.domain.life.lock();
        if vcpu.is_initialised.load(Ordering::Acquire) {
            return Err(Errno::Exist.into());
        }
        self.hv.set_context(self.domain, vcpu, &context)?;
        drop(stage);
        Ok(0)
    }

    /// A domain whose last vcpu goes down has ended.
    fn take_vcpu_down(&self, vcpu: &Vcpu) {
        self.hv.pause_vcpu(vcpu, Pauses::DOWN);
        if self.domain.each_vcpu().all(|v| v.pauses.load(Ordering::SeqCst).intersects(Pauses::DOWN)) {
            self.end_without_vcpus();
        }
        self.reschedule();
    }

    /// Where the area begins is judged here, as in Xen; its range whenever it is written to, as
    /// the vcpu starts or stops to run.
    fn register_runstate_area(&self, vcpu: &Vcpu, argument: u64) -> Result<(), Errno> {
        let request = self.copy_from_guest::<VcpuRegisterRunstateMemoryArea>(argument)?;
        GuestPtr::<u8>::one(request.addr)?;
        let info = vcpu.sched.runstate.lock().info();
        // Where the page is not there yet, it is told as it changes: the address is the guest's to keep mapped.
        let _ = GuestPtr::one(request.addr).and_then(|area| area.write(self.hv.machine(), 0, &info));
        vcpu.sched.runstate_area.store(request.addr, Ordering::Relaxed);
        Ok(())
    }

    /// Where the page is not there yet the time is written when the vcpu next begins to run and it is: the address is
    /// the guest's to keep mapped. Once written it has to be published again only of an emulated counter: the
    /// processor's is computed from what does not change.
    fn register_time_area(&self, vcpu: &Vcpu, argument: u64) -> Result<(), Errno> {
        let request = self.copy_from_guest::<VcpuRegisterTimeMemoryArea>(argument)?;
        let area = GuestAddr::new(request.addr).words::<4>().ok_or(Errno::Fault)?;
        let is_written = clock::publish_to_guest(self.hv.machine(), area, self.hv.time_info(self.domain));
        vcpu.sched.time_area.store(request.addr, Ordering::Relaxed);
        vcpu.sched.time_is_due.store(!is_written, Ordering::Relaxed);
        Ok(())
    }

    /// Moves a vcpu's `vcpu_info` to a frame of the guest's choice. What waited there moves with it, if it was in
    /// `shared_info`, else it begins masked; and because more may come while it moves, everything is
    /// said to be pending, as in Xen.
    fn register_vcpu_info(&mut self, vcpu: &Arc<Vcpu>, argument: u64) -> Result<(), Errno> {
        let hv = self.hv;
        let request = GuestPtr::<VcpuRegisterVcpuInfo>::one(argument)?.read(hv.machine(), 0)?;
        // Which error an argument with several faults gets is Xen's order of checks.
        if !VcpuInfoPlace::fits(index(request.offset)) {
            return Err(Errno::NxIo);
        }
        let is_self = Arc::ptr_eq(vcpu, self.vcpu);
        if !is_self && !vcpu.pauses.load(Ordering::SeqCst).intersects(Pauses::DOWN) {
            return Err(Errno::Inval);
        }
        let had_info = vcpu.has_info();
        let mut slot = vcpu.slot.lock();
        if !is_self && slot.is_none() {
            // It goes down, and has not left its CPU yet.
            return Err(Errno::Inval);
        }
        let mut frame = vcpu.info_frame.lock();
        if frame.is_some() {
            return Err(Errno::Inval);
        }
        let held = hv.memory.hold_own(request.mfn, self.domain.memory.named())?;
        let place = VcpuInfoPlace::new(hv.machine(), held.frame(), index(request.offset)).ok_or(Errno::NxIo)?;
        *frame = Some(held.into_entry());
        let mut info = vcpu.info.lock();
        let old = info.filter(|_| had_info);
        for offset in (0..VCPU_INFO_BYTES).step_by(8) {
            let word = old.map_or(0, |old| old.word(offset).load(Ordering::Acquire));
            place.word(offset).store(word, Ordering::Relaxed);
        }
        if old.is_none() {
            place.set_upcall_mask(true);
        }
        deliver::set_everything_pending(&place);
        *info = Some(place);
        match slot.as_mut() {
            Some(state) => state.info = place,
            None => self.state.info = place,
        }
        Ok(())
    }

    fn send_nmi(&self, vcpu: &Vcpu, argument: u64) -> Result<(), Errno> {
        if argument != 0 {
            return Err(Errno::Inval);
        }
        self.hv.raise_nmi(vcpu);
        Ok(())
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Has a vcpu take an NMI.
    pub(super) fn raise_nmi(&self, vcpu: &Vcpu) {
        vcpu.work.insert(Work::NMI, Ordering::SeqCst);
        self.wake_vcpu(vcpu);
        // It has to be noticed on the way back to the guest, where events alone are not looked for.
        if let Some(cpu) = vcpu.sched.cpu() {
            self.raise_work(cpu, Work::RESCHEDULE);
        }
    }
}
