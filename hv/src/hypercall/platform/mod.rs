//! `platform_op`: the control domain's hand on the machine: wall clock, firmware, power; what it tells of processors.

mod firmware;
mod processors;
mod registers;

use super::number::uint;
use crate::{
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply, Stop},
    sched::clock::SECOND,
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    platform::{
        PlatformOp, XENPF_CORE_PARKING, XENPF_CPU_HOTADD, XENPF_CPU_OFFLINE, XENPF_CPU_ONLINE, XENPF_DEL_MEMTYPE,
        XENPF_ENTER_ACPI_SLEEP, XENPF_FIRMWARE_INFO, XENPF_GET_CPU_VERSION, XENPF_GET_CPUINFO, XENPF_GET_SYMBOL,
        XENPF_INTERFACE_VERSION, XENPF_MEM_HOTADD, XENPF_MICROCODE_UPDATE, XENPF_PLATFORM_QUIRK, XENPF_READ_MEMTYPE,
        XENPF_RESOURCE_OP, XENPF_SET_PROCESSOR_PMINFO, XENPF_SETTIME32, XENPF_SETTIME64, XenpfEnterAcpiSleep,
        XenpfSettime32, XenpfSettime64, XenpfSymdata,
    },
};

/// The sleep state that is off.
const SOFT_OFF: u32 = 5;

impl<M: Machine> Caller<'_, M> {
    /// `platform_op(request)`.
    ///
    /// # Errors
    /// `Fault` for an unreadable request, `Acces` for another version of the interface, `Perm` for everybody but the
    /// control domain, `Inval` for what cannot be, `NoEnt` for no code for the processors, `Srch` for what the firmware
    /// does not tell, `NoSys` for what there is not.
    #[inline]
    pub fn platform_op(&mut self, args: &mut Args) -> Reply {
        let place = GuestPtr::<PlatformOp>::one(args[0])?;
        let mut op = place.read(self.hv.machine(), 0)?;
        if op.interface_version != XENPF_INTERFACE_VERSION {
            return Err(Errno::Acces.into());
        }
        self.control()?;
        let is_answered = match op.cmd {
            XENPF_RESOURCE_OP => return self.access_processor_registers(op.get()),
            XENPF_SETTIME32 | XENPF_SETTIME64 | XENPF_ENTER_ACPI_SLEEP => {
                self.platform_change(&op)?;
                false
            }
            XENPF_FIRMWARE_INFO => {
                op.set(&self.get_firmware_info(&op.get())?);
                true
            }
            XENPF_GET_SYMBOL => symbol(&mut op)?,
            _ => self.platform_op_on_processors(&mut op)?,
        };
        if is_answered {
            place.write(self.hv.machine(), 0, &op)?;
        }
        Ok(0)
    }

    /// The clock and the power.
    fn platform_change(&self, op: &PlatformOp) -> Result<(), Errno> {
        match op.cmd {
            XENPF_SETTIME32 => {
                let XenpfSettime32 { secs, nsecs, system_time } = op.get();
                self.set_wall_clock(secs.into(), nsecs, system_time);
            }
            XENPF_SETTIME64 => {
                let XenpfSettime64 { secs, nsecs, mbz, system_time } = op.get();
                if mbz != 0 {
                    return Err(Errno::Inval);
                }
                self.set_wall_clock(secs, nsecs, system_time);
            }
            _ => {
                let request: XenpfEnterAcpiSleep = op.get();
                if request.sleep_state != SOFT_OFF {
                    return Err(Errno::OpNotSupp);
                }
                self.hv.machine().power_off();
            }
        }
        Ok(())
    }

    fn platform_op_on_processors(&self, op: &mut PlatformOp) -> Result<bool, Stop> {
        /// The chip sets of old that were to be told.
        const LAST_QUIRK: u32 = 3;
        match op.cmd {
            XENPF_GET_CPUINFO => op.set(&self.get_processor_info(op.get())),
            XENPF_GET_CPU_VERSION => op.set(&self.get_processor_version(op.get())),
            XENPF_CORE_PARKING => return Ok(processors::park(op)?),
            XENPF_READ_MEMTYPE => op.set(&self.read_memory_type(op.get())?),
            XENPF_SET_PROCESSOR_PMINFO => {
                self.check_processor_power(op.get())?;
                return Ok(false);
            }
            XENPF_CPU_ONLINE => {
                self.find_processor(op.get())?;
                return Ok(false);
            }
            XENPF_CPU_OFFLINE => {
                self.find_processor(op.get())?;
                return Err(Errno::OpNotSupp.into());
            }
            XENPF_PLATFORM_QUIRK if (1..=LAST_QUIRK).contains(&op.get::<u32>()) => return Ok(false),
            XENPF_CPU_HOTADD => {
                // Its APIC, its number in ACPI's tables, its node.
                let [_, acpi, node] = op.get::<[u32; 3]>();
                return Err(if acpi.max(node) > 0xff { Errno::Inval } else { Errno::NoSpc }.into());
            }
            XENPF_MICROCODE_UPDATE => return Err(self.refuse_microcode(op.get()).into()),
            // There is no more memory to come, and the firmware's memory types stay.
            XENPF_MEM_HOTADD | XENPF_DEL_MEMTYPE | XENPF_PLATFORM_QUIRK => return Err(Errno::Inval.into()),
            _ => return Err(Errno::NoSys.into()),
        }
        Ok(true)
    }

    /// Sets the wall clock, and tells every domain.
    fn set_wall_clock(&self, seconds: u64, nanoseconds: u32, system_time: u64) {
        let hv = self.hv;
        let (more, nanoseconds) = (u64::from(nanoseconds) / SECOND, uint(u64::from(nanoseconds) % SECOND));
        hv.time.set_wall_clock(seconds.saturating_add(more), nanoseconds, system_time);
        hv.domains.from(DomId::DOM0).for_each(|domain| hv.publish_wall_clock(&domain));
    }
}

/// The hypervisor tells no symbols: the first is behind the last.
fn symbol(op: &mut PlatformOp) -> Result<bool, Errno> {
    let request: XenpfSymdata = op.get();
    if request.symnum != 0 {
        return Err(Errno::Range);
    }
    op.set(&XenpfSymdata { namelen: 0, ..request });
    Ok(true)
}
