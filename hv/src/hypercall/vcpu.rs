//! `vcpu_op`: what a guest does with its vcpus.

use crate::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    caller::Caller,
    channel::deliver,
    domain::vcpu::{Vcpu, pause},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    per_cpu::work,
    reply::{Args, Reply},
    shared_info::{VCPU_INFO_BYTES, VcpuInfoPlace},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    errno::Errno,
    vcpu::{
        VCPUOP_DOWN, VCPUOP_GET_PHYSID, VCPUOP_GET_RUNSTATE_INFO, VCPUOP_INITIALISE, VCPUOP_IS_UP,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, VCPUOP_REGISTER_VCPU_INFO, VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
        VCPUOP_SEND_NMI, VCPUOP_SET_PERIODIC_TIMER, VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_STOP_PERIODIC_TIMER,
        VCPUOP_STOP_SINGLESHOT_TIMER, VCPUOP_UP, VcpuRegisterRunstateMemoryArea, VcpuRegisterTimeMemoryArea,
        VcpuRegisterVcpuInfo, VcpuRunstateInfo, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer,
    },
};

/// Periods below this many nanoseconds are refused.
const MIN_PERIOD: u64 = 1_000_000;
/// Periods above this many nanoseconds are refused: 2^55 is a year.
const MAX_PERIOD: u64 = 1 << 55;

/// `vcpu_op(command, vcpu, argument)`.
///
/// # Errors
/// `NoEnt` for a vcpu that there is not, `Fault` for an unreadable argument, `NoSys` for an unknown command, and the
/// commands' own.
#[inline]
pub fn vcpu_op<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [command, id, argument, ..] = *args;
    if id as u32 == caller.vcpu.id && command as u32 == VCPUOP_SET_SINGLESHOT_TIMER {
        return set_one_shot(caller, argument);
    }
    let vcpu = caller.domain.vcpu(id as u32).ok_or(Errno::NoEnt)?.clone();
    let is_self = Arc::ptr_eq(&vcpu, caller.vcpu);
    match command as u32 {
        VCPUOP_INITIALISE => return initialise(caller, &vcpu, argument),
        VCPUOP_UP => {
            if !vcpu.is_initialised.load(Ordering::Acquire) {
                return Err(Errno::Inval.into());
            }
            caller.hv.unpause_vcpu(&vcpu, pause::DOWN);
        }
        VCPUOP_DOWN => take_down(caller, &vcpu),
        VCPUOP_IS_UP => return Ok((vcpu.pauses.load(Ordering::Relaxed) & pause::DOWN == 0).into()),
        VCPUOP_GET_RUNSTATE_INFO => {
            let info = vcpu.sched.runstate.lock().until(caller.hv.now());
            GuestPtr::one(argument)?.write(caller.hv.machine(), 0, &info)?;
        }
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => register_runstate(caller, &vcpu, argument)?,
        VCPUOP_SET_PERIODIC_TIMER => {
            let request = GuestPtr::<VcpuSetPeriodicTimer>::one(argument)?.read(caller.hv.machine(), 0)?;
            if !(MIN_PERIOD..=MAX_PERIOD).contains(&request.period_ns) {
                return Err(Errno::Inval.into());
            }
            caller.hv.set_periodic_timer(&vcpu, request.period_ns);
        }
        VCPUOP_STOP_PERIODIC_TIMER => caller.hv.set_periodic_timer(&vcpu, 0),
        VCPUOP_STOP_SINGLESHOT_TIMER if is_self => caller.stop_one_shot_timer(),
        VCPUOP_STOP_SINGLESHOT_TIMER | VCPUOP_SET_SINGLESHOT_TIMER => return Err(Errno::Inval.into()),
        VCPUOP_REGISTER_VCPU_INFO => register_vcpu_info(caller, &vcpu, argument)?,
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA => register_time(caller, &vcpu, argument)?,
        VCPUOP_GET_PHYSID => {
            let physid = physical_id(caller, &vcpu)?;
            GuestPtr::one(argument)?.write(caller.hv.machine(), 0, &physid)?;
        }
        VCPUOP_SEND_NMI => send_nmi(caller, &vcpu, argument)?,
        _ => return Err(Errno::NoSys.into()),
    }
    Ok(0)
}

#[inline]
fn set_one_shot<M: Machine>(caller: &Caller<'_, M>, argument: u64) -> Reply {
    let request = GuestPtr::<VcpuSetSingleshotTimer>::one(argument)?.read(caller.hv.machine(), 0)?;
    // A time that has passed fires at once, whether or not the guest asked to be told (`VCPU_SSHOTTMR_FUTURE`), as in Xen.
    // And one before the start of the machine has passed: times have a sign.
    let at = if request.timeout_abs_ns > i64::MAX as u64 { 0 } else { request.timeout_abs_ns };
    caller.set_one_shot_timer(at);
    Ok(0)
}

/// The processor of a control domain's vcpu that has one of its own: the ids of its APIC and in ACPI's tables.
fn physical_id<M: Machine>(caller: &Caller<'_, M>, vcpu: &Vcpu) -> Result<u64, Errno> {
    let allowed = vcpu.sched.affinity.load(Ordering::Relaxed) & caller.hv.online_mask();
    if !caller.domain.is_privileged || allowed.count_ones() != 1 {
        return Err(Errno::Inval);
    }
    let cpu = u64::from(allowed.trailing_zeros());
    Ok(cpu | cpu << 32)
}

fn initialise<M: Machine>(caller: &Caller<'_, M>, vcpu: &Arc<Vcpu>, argument: u64) -> Reply {
    let context = GuestPtr::one(argument)?.read(caller.hv.machine(), 0)?;
    let stage = caller.domain.life.lock();
    if vcpu.is_initialised.load(Ordering::Acquire) {
        return Err(Errno::Exist.into());
    }
    caller.hv.set_context(caller.domain, vcpu, &context)?;
    drop(stage);
    Ok(0)
}

/// A domain whose last vcpu goes down has ended.
fn take_down<M: Machine>(caller: &Caller<'_, M>, vcpu: &Vcpu) {
    caller.hv.pause_vcpu(vcpu, pause::DOWN);
    if caller.domain.each_vcpu().all(|v| v.pauses.load(Ordering::SeqCst) & pause::DOWN != 0) {
        caller.end_without_vcpus();
    }
    caller.reschedule();
}

/// The range of the area is judged here, once: it is written to whenever the vcpu starts or stops to run.
fn register_runstate<M: Machine>(caller: &Caller<'_, M>, vcpu: &Vcpu, argument: u64) -> Result<(), Errno> {
    let request = GuestPtr::<VcpuRegisterRunstateMemoryArea>::one(argument)?.read(caller.hv.machine(), 0)?;
    let area = GuestPtr::<VcpuRunstateInfo>::one(request.addr)?;
    let info = vcpu.sched.runstate.lock().info();
    // Where the page is not there yet, it is told as it changes: the address is the guest's to keep mapped.
    let _ = area.write(caller.hv.machine(), 0, &info);
    vcpu.sched.runstate_area.store(request.addr, Ordering::Relaxed);
    Ok(())
}

/// Where the page is not there yet the time is written when the vcpu next begins to run and it is: the address is the
/// guest's to keep mapped. Once written it never has to be published again, as what it is computed from does not change.
fn register_time<M: Machine>(caller: &Caller<'_, M>, vcpu: &Vcpu, argument: u64) -> Result<(), Errno> {
    let request = GuestPtr::<VcpuRegisterTimeMemoryArea>::one(argument)?.read(caller.hv.machine(), 0)?;
    let area = GuestAddr(request.addr).words::<4>().ok_or(Errno::Fault)?;
    let is_written = caller.hv.time.publish_to_guest(caller.hv.machine(), area);
    vcpu.sched.time_area.store(if is_written { 0 } else { request.addr }, Ordering::Relaxed);
    Ok(())
}

/// Moves a vcpu's `vcpu_info` to a frame of the guest's choice. What waited there moves with it; and because more may
/// come while it moves, everything is said to be pending, as in Xen.
fn register_vcpu_info<M: Machine>(caller: &mut Caller<'_, M>, vcpu: &Arc<Vcpu>, argument: u64) -> Result<(), Errno> {
    let hv = caller.hv;
    let request = GuestPtr::<VcpuRegisterVcpuInfo>::one(argument)?.read(hv.machine(), 0)?;
    // Which error an argument with several faults gets is Xen's order of checks.
    if !VcpuInfoPlace::fits(request.offset as usize) {
        return Err(Errno::NxIo);
    }
    let is_self = Arc::ptr_eq(vcpu, caller.vcpu);
    if !is_self && vcpu.pauses.load(Ordering::SeqCst) & pause::DOWN == 0 {
        return Err(Errno::Inval);
    }
    let mfn = Mfn::new(request.mfn).filter(|&mfn| hv.memory.frames.is_ram(mfn)).ok_or(Errno::Inval)?;
    let place = VcpuInfoPlace::new(hv.machine(), mfn, request.offset as usize).ok_or(Errno::NxIo)?;
    let mut frame = vcpu.info_frame.lock();
    if frame.is_some() {
        return Err(Errno::Inval);
    }
    let mut slot = vcpu.slot.lock();
    if !is_self && slot.is_none() {
        // It goes down, and has not left its CPU yet.
        return Err(Errno::Inval);
    }
    hv.memory.hold_writable(mfn, caller.domain.owner).map_err(|_| Errno::Inval)?;
    *frame = Some(mfn);
    let mut info = vcpu.info.lock();
    if let Some(old) = *info {
        for offset in (0..VCPU_INFO_BYTES).step_by(8) {
            place.word(offset).store(old.word(offset).load(Ordering::Acquire), Ordering::Relaxed);
        }
    }
    deliver::set_everything_pending(&place);
    *info = Some(place);
    match slot.as_mut() {
        Some(state) => state.info = place,
        None => caller.state.info = place,
    }
    Ok(())
}

fn send_nmi<M: Machine>(caller: &Caller<'_, M>, vcpu: &Vcpu, argument: u64) -> Result<(), Errno> {
    if argument != 0 {
        return Err(Errno::Inval);
    }
    raise_nmi(caller.hv, vcpu);
    Ok(())
}

/// Has a vcpu take an NMI.
pub(super) fn raise_nmi<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu) {
    vcpu.work.fetch_or(work::NMI, Ordering::SeqCst);
    hv.wake_vcpu(vcpu);
    // It has to be noticed on the way back to the guest, where events alone are not looked for.
    if let Some(cpu) = vcpu.sched.cpu() {
        hv.raise_work(cpu, work::RESCHEDULE);
    }
}
