//! Devices: what the control domain announces, and what it is told of their interrupts by message.

use super::read;
use crate::{
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    pci::{Address, Window},
};
use oxen_abi::{
    errno::Errno,
    physdev::{
        PHYSDEVOP_DBGP_OP, PHYSDEVOP_MANAGE_PCI_ADD, PHYSDEVOP_MANAGE_PCI_ADD_EXT, PHYSDEVOP_MANAGE_PCI_REMOVE,
        PHYSDEVOP_PCI_DEVICE_ADD, PHYSDEVOP_PCI_DEVICE_REMOVE, PHYSDEVOP_PCI_MMCFG_RESERVED, PHYSDEVOP_PREPARE_MSIX,
        PHYSDEVOP_RELEASE_MSIX, PHYSDEVOP_RESTORE_MSI, PHYSDEVOP_RESTORE_MSI_EXT, PhysdevDbgpOp, PhysdevManagePci,
        PhysdevManagePciExt, PhysdevPciDevice, PhysdevPciDeviceAdd, PhysdevPciMmcfgReserved, XEN_PCI_DEV_PXM,
        XEN_PCI_MMCFG_RESERVED,
    },
};

/// What is asked of the function that the argument names.
#[derive(Clone, Copy)]
enum Act {
    Add,
    Remove,
    Restore,
    Prepare,
    Release,
}

/// Does one of the commands about devices.
#[inline(never)]
pub(super) fn operation<M: Machine>(caller: &Caller<'_, M>, command: u32, at: u64) -> Result<(), Errno> {
    let (act, function) = match command {
        PHYSDEVOP_MANAGE_PCI_ADD => (Act::Add, on_segment_0(caller, at)?),
        PHYSDEVOP_MANAGE_PCI_REMOVE => (Act::Remove, on_segment_0(caller, at)?),
        PHYSDEVOP_RESTORE_MSI => (Act::Restore, on_segment_0(caller, at)?),
        PHYSDEVOP_MANAGE_PCI_ADD_EXT => {
            let device: PhysdevManagePciExt = read(caller, at)?;
            if device.is_extfn > 1 || device.is_virtfn > 1 {
                return Err(Errno::Inval);
            }
            (Act::Add, Address::new(0, device.bus, device.devfn))
        }
        PHYSDEVOP_PCI_DEVICE_ADD => {
            let device: PhysdevPciDeviceAdd = read(caller, at)?;
            // There is one node: which one is told does not matter, but told it must be.
            if device.flags & XEN_PCI_DEV_PXM != 0 {
                let end = at.checked_add(size_of::<PhysdevPciDeviceAdd>() as u64).ok_or(Errno::Fault)?;
                GuestPtr::<u32>::one(end)?.read(caller.hv.machine(), 0)?;
            }
            (Act::Add, Address::new(device.seg, device.bus, device.devfn))
        }
        PHYSDEVOP_PCI_DEVICE_REMOVE => (Act::Remove, named(caller, at)?),
        PHYSDEVOP_RESTORE_MSI_EXT => (Act::Restore, named(caller, at)?),
        PHYSDEVOP_PREPARE_MSIX => (Act::Prepare, named(caller, at)?),
        PHYSDEVOP_RELEASE_MSIX => (Act::Release, named(caller, at)?),
        PHYSDEVOP_PCI_MMCFG_RESERVED => return window(caller, at),
        // No debug port is in use here: there is nothing to do before and after its controller is reset.
        PHYSDEVOP_DBGP_OP => {
            caller.control()?;
            return read::<_, PhysdevDbgpOp>(caller, at).map(|_| ());
        }
        _ => return Err(Errno::NoSys),
    };
    let hv = caller.hv;
    if matches!(act, Act::Restore) && !hv.memory.pci.lock().is_known(function) {
        return Err(Errno::NoDev);
    }
    caller.control()?;
    let is_device = |mfn| !hv.memory.frames.is_ram(mfn) && !hv.memory.frames.is_forbidden_io(mfn);
    match act {
        Act::Add => hv.memory.pci.lock().announce(hv.machine(), function),
        Act::Remove => hv.forget_device(caller.domain, function),
        Act::Restore => hv.memory.pci.lock().restore(hv.machine(), function),
        Act::Prepare => hv.memory.pci.lock().prepare(hv.machine(), &is_device, function),
        Act::Release => hv.memory.pci.lock().unprepare(function),
    }
}

fn on_segment_0<M: Machine>(caller: &Caller<'_, M>, at: u64) -> Result<Address, Errno> {
    let device: PhysdevManagePci = read(caller, at)?;
    Ok(Address::new(0, device.bus, device.devfn))
}

fn named<M: Machine>(caller: &Caller<'_, M>, at: u64) -> Result<Address, Errno> {
    let device: PhysdevPciDevice = read(caller, at)?;
    Ok(Address::new(device.seg, device.bus, device.devfn))
}

/// The windows are those of the firmware's tables, and in use from the beginning.
fn window<M: Machine>(caller: &Caller<'_, M>, at: u64) -> Result<(), Errno> {
    caller.control()?;
    let request: PhysdevPciMmcfgReserved = read(caller, at)?;
    let PhysdevPciMmcfgReserved { address, segment, start_bus: first_bus, end_bus: last_bus, flags } = request;
    if flags & !XEN_PCI_MMCFG_RESERVED != 0 {
        return Err(Errno::Inval);
    }
    let is_known = caller.hv.memory.pci.lock().has_window(&Window { address, segment, first_bus, last_bus });
    if is_known { Ok(()) } else { Err(Errno::NoDev) }
}
