//! `platform_op`: the control domain's hand on the machine: wall clock, processors, power.

use crate::{
    caller::{Args, Caller, Reply},
    machine::{CpuId, Machine},
    mem::guest_ptr::GuestPtr,
    sched::clock::SECOND,
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    platform::{
        PlatformOp, XEN_FW_DISK_INFO, XEN_FW_DISK_MBR_SIGNATURE, XEN_FW_EFI_APPLE_PROPERTIES, XEN_FW_EFI_CONFIG_TABLE,
        XEN_FW_EFI_INFO, XEN_FW_EFI_MEM_INFO, XEN_FW_EFI_PCI_ROM, XEN_FW_EFI_RT_VERSION, XEN_FW_EFI_VENDOR,
        XEN_FW_EFI_VERSION, XEN_FW_KBD_SHIFT_FLAGS, XEN_FW_VBEDDC_INFO, XEN_PCPU_FLAGS_INVALID, XEN_PCPU_FLAGS_ONLINE,
        XENPF_ENTER_ACPI_SLEEP, XENPF_FIRMWARE_INFO, XENPF_GET_CPUINFO, XENPF_INTERFACE_VERSION, XENPF_SETTIME32,
        XENPF_SETTIME64, XenpfEnterAcpiSleep, XenpfFirmwareInfo, XenpfPcpuinfo, XenpfSettime32, XenpfSettime64,
    },
};

/// The sleep state that is off.
const SOFT_OFF: u32 = 5;

/// `platform_op(request)`.
///
/// # Errors
/// `Fault` for an unreadable request, `Perm` for everybody but the control domain, `Acces` for another version of the
/// interface, `Inval` for what cannot be, `Srch` for what the firmware does not tell, `NoSys` for what is not built.
#[inline]
pub fn platform_op<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let place = GuestPtr::<PlatformOp>::one(args[0])?;
    let mut op = place.read(&caller.hv.machine, 0)?;
    caller.control()?;
    if op.interface_version != XENPF_INTERFACE_VERSION {
        return Err(Errno::Acces.into());
    }
    match op.cmd {
        XENPF_SETTIME32 => {
            let XenpfSettime32 { secs, nsecs, system_time } = op.get();
            set_time(caller, secs.into(), nsecs, system_time)?;
        }
        XENPF_SETTIME64 => {
            let XenpfSettime64 { secs, nsecs, mbz, system_time } = op.get();
            if mbz != 0 {
                return Err(Errno::Inval.into());
            }
            set_time(caller, secs, nsecs, system_time)?;
        }
        XENPF_ENTER_ACPI_SLEEP => {
            let request: XenpfEnterAcpiSleep = op.get();
            if request.sleep_state != SOFT_OFF {
                return Err(Errno::OpNotSupp.into());
            }
            caller.hv.machine.power_off();
        }
        XENPF_GET_CPUINFO => {
            let info = processor(caller, op.get());
            op.set(&info);
            place.write(&caller.hv.machine, 0, &op)?;
        }
        XENPF_FIRMWARE_INFO => {
            let request: XenpfFirmwareInfo = op.get();
            match request.r#type {
                // The firmware's own interfaces are not asked, so there is nothing after the last of nothing.
                XEN_FW_DISK_INFO | XEN_FW_DISK_MBR_SIGNATURE | XEN_FW_VBEDDC_INFO => return Err(Errno::Srch.into()),
                XEN_FW_KBD_SHIFT_FLAGS => {
                    op.set(&XenpfFirmwareInfo { u: [0; 4], ..request });
                    place.write(&caller.hv.machine, 0, &op)?;
                }
                XEN_FW_EFI_INFO => {
                    let u = efi_info(caller, &request)?;
                    op.set(&XenpfFirmwareInfo { u, ..request });
                    place.write(&caller.hv.machine, 0, &op)?;
                }
                _ => return Err(Errno::NoSys.into()),
            }
        }
        _ => return Err(Errno::NoSys.into()),
    }
    Ok(0)
}

/// What UEFI firmware left, in the shape of `xenpf_efi_info`. Its runtime services are nobody's here.
fn efi_info<M: Machine>(caller: &Caller<'_, M>, asked: &XenpfFirmwareInfo) -> Result<[u64; 4], Errno> {
    let efi = caller.hv.efi.as_ref().ok_or(Errno::NoSys)?;
    let [first, second, ..] = asked.u;
    match asked.index {
        XEN_FW_EFI_VERSION => Ok([efi.version.into(), 0, 0, 0]),
        XEN_FW_EFI_CONFIG_TABLE => Ok([efi.tables, efi.table_count.into(), 0, 0]),
        XEN_FW_EFI_VENDOR => {
            // The room is told in bytes; what does not fit is cut.
            let room = (first >> 32) / size_of::<u16>() as u64;
            let name = GuestPtr::<u16>::new(second, room)?;
            let fits = efi.vendor.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            name.write_many(&caller.hv.machine, 0, efi.vendor.get(..fits).unwrap_or_default())?;
            Ok([u64::from(efi.vendor_revision) | first & !u64::from(u32::MAX), second, 0, 0])
        }
        XEN_FW_EFI_MEM_INFO => {
            let (found, size) = efi.memory.find(first, second).ok_or(Errno::Srch)?;
            Ok([first, size, found.attributes, found.kind.into()])
        }
        XEN_FW_EFI_RT_VERSION => Err(Errno::OpNotSupp),
        XEN_FW_EFI_PCI_ROM => Err(Errno::Srch),
        XEN_FW_EFI_APPLE_PROPERTIES => Err(Errno::NoData),
        _ => Err(Errno::Inval),
    }
}

/// Sets the wall clock, and tells every domain.
fn set_time<M: Machine>(caller: &Caller<'_, M>, seconds: u64, nanoseconds: u32, system_time: u64) -> Result<(), Errno> {
    if u64::from(nanoseconds) >= SECOND {
        return Err(Errno::Inval);
    }
    let hv = caller.hv;
    hv.time.set_wall_clock(seconds, nanoseconds, system_time);
    let mut from = DomId(0);
    while let Some(domain) = hv.domains.next_from(from) {
        domain.publish_wall_clock(hv);
        from = DomId(domain.id.0 + 1);
    }
    Ok(())
}

/// Processors are numbered as their APICs are.
fn processor<M: Machine>(caller: &Caller<'_, M>, asked: XenpfPcpuinfo) -> XenpfPcpuinfo {
    let number = asked.xen_cpuid;
    let last = caller.hv.online_cpus().map(|cpu| cpu.0).max().unwrap_or(0);
    let cpu = u16::try_from(number).ok().and_then(|n| caller.hv.cpu(CpuId(n)));
    let flags = if cpu.is_some_and(|c| c.is_online()) { XEN_PCPU_FLAGS_ONLINE } else { XEN_PCPU_FLAGS_INVALID };
    XenpfPcpuinfo { xen_cpuid: number, max_present: last.into(), flags, apic_id: number, acpi_id: number }
}
