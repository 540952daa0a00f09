//! How processors save power: they idle, and that is all. Frequencies are the firmware's.

use crate::hypercall::number::index;
use crate::{
    caller::Caller, hardware::CpuId, machine::Machine, mem::guest_ptr::GuestPtr, per_cpu::CpuShared, reply::Control,
};
use oxen_abi::{
    errno::Errno,
    sysctl::{PmCxStat, Sysctl, SysctlCpuHotplug, SysctlGetPmstat, SysctlPmOp},
};

/// States of a processor: running, and halted.
const STATES: u32 = 2;
/// How deep a processor sleeps at most, and how far within that state (`XEN_SYSCTL_CX_UNLIMITED`).
const DEPTHS: [u32; 2] = [1, u32::MAX];

impl<M: Machine> Caller<'_, M> {
    fn online_cpu(&self, number: u32) -> Result<&CpuShared, Errno> {
        let cpu = u16::try_from(number).map_err(|_| Errno::Inval)?;
        self.hv.cpu(CpuId(cpu)).filter(|cpu| cpu.is_online()).ok_or(Errno::Inval)
    }

    /// What is known of a processor's power: of its frequencies nothing, of its sleep how long it was.
    pub(super) fn get_power_statistics(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        const CATEGORY: u32 = 0xf0;
        const SLEEP: u32 = 0x20;
        const GET_MAX_SLEEP: u32 = SLEEP | 1;
        const GET_SLEEP: u32 = SLEEP | 2;
        const RESET_SLEEP: u32 = SLEEP | 3;
        let request: SysctlGetPmstat = op.get();
        let cpu = self.online_cpu(request.cpuid)?;
        if request.r#type & CATEGORY != SLEEP {
            return Err(Errno::NoDev);
        }
        match request.r#type {
            GET_MAX_SLEEP => op.set(&SysctlGetPmstat { getcx: PmCxStat { nr: STATES, ..request.getcx }, ..request }),
            GET_SLEEP => {
                let idle_time = cpu.idle_time();
                let awake = self.hv.now().saturating_sub(idle_time);
                let room = request.getcx.nr.min(STATES);
                let times = GuestPtr::<u64>::new(request.getcx.residencies, room.into())?;
                for (index, time) in (0..room.into()).zip([awake, idle_time]) {
                    times.write(self.hv.machine(), index, &time)?;
                }
                // How often is not counted.
                let counts = GuestPtr::<u64>::new(request.getcx.triggers, room.into())?;
                (0..room.into()).try_for_each(|index| counts.write(self.hv.machine(), index, &0))?;
                let getcx = PmCxStat { nr: STATES, last: 0, idle_time, nr_pc: 0, nr_cc: 0, ..request.getcx };
                op.set(&SysctlGetPmstat { getcx, ..request });
            }
            RESET_SLEEP => {}
            _ => return Err(Errno::NoSys),
        }
        Ok(())
    }

    /// Taking processors down and up: those that there are stay up.
    pub(super) fn cpu_hotplug(&self, _: Control, request: SysctlCpuHotplug) -> Result<(), Errno> {
        const ONLINE: u32 = 0;
        const OFFLINE: u32 = 1;
        match request.op {
            OFFLINE if request.cpu != 0 => self.online_cpu(request.cpu).and(Err(Errno::OpNotSupp)),
            ONLINE | OFFLINE => Err(Errno::Inval),
            // There are no second threads to be told apart.
            _ => Err(Errno::OpNotSupp),
        }
    }

    /// How processors save power: there is nothing to be chosen.
    pub(super) fn power_management_op(&self, _: Control, op: &mut Sysctl) -> Result<(), Errno> {
        const CATEGORY: u32 = 0xf0;
        const FREQUENCY: u32 = 0x10;
        const SET_SCHED_OPT_SMT: u32 = 0x21;
        const GET_MAX_CSTATE: u32 = 0x22;
        const SET_MAX_CSTATE: u32 = 0x23;
        const ENABLE_TURBO: u32 = 0x26;
        const DISABLE_TURBO: u32 = 0x27;
        let request: SysctlPmOp = op.get();
        match request.cmd {
            // Of states and their substates.
            GET_MAX_CSTATE | SET_MAX_CSTATE => {
                let depth = DEPTHS.get(index(request.cpuid)).copied().ok_or(Errno::Inval)?;
                if request.cmd == SET_MAX_CSTATE && request.value < depth {
                    return Err(Errno::OpNotSupp);
                }
                if request.cmd == GET_MAX_CSTATE {
                    op.set(&SysctlPmOp { value: depth, ..request });
                }
            }
            command => {
                self.online_cpu(request.cpuid)?;
                return match command {
                    _ if command & CATEGORY == FREQUENCY => Err(Errno::Inval),
                    SET_SCHED_OPT_SMT => Ok(()),
                    ENABLE_TURBO | DISABLE_TURBO => Err(Errno::Acces),
                    _ => Err(Errno::NoSys),
                };
            }
        }
        Ok(())
    }
}
