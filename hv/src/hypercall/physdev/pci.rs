//! Devices: what the control domain announces, and what it is told of their interrupts by message.

use crate::{
    caller::Caller,
    hypercall::{commands::PhysdevCommand, number::bytes},
    machine::Machine,
    pci::{Address, Window},
};
use oxen_abi::{
    errno::Errno,
    physdev::{
        MmcfgFlags, PciDeviceFlags, PhysdevDbgpOp, PhysdevManagePci, PhysdevManagePciExt, PhysdevPciDevice,
        PhysdevPciDeviceAdd, PhysdevPciMmcfgReserved,
    },
};

/// What is asked of the function that the argument names.
#[derive(Clone, Copy)]
enum Act {
    /// With the physical function of a virtual one, which is announced by it where nobody has.
    Add(Option<Address>),
    Remove,
    Restore,
    Prepare,
    Release,
}

impl<M: Machine> Caller<'_, M> {
    /// Does one of the commands about devices.
    #[inline(never)]
    pub(super) fn physdev_op_on_pci(&self, command: PhysdevCommand, at: u64) -> Result<(), Errno> {
        let (act, function) = match command {
            PhysdevCommand::ManagePciAdd => (Act::Add(None), self.read_address_on_segment_0(at)?),
            PhysdevCommand::ManagePciRemove => (Act::Remove, self.read_address_on_segment_0(at)?),
            PhysdevCommand::RestoreMsi => (Act::Restore, self.read_address_on_segment_0(at)?),
            PhysdevCommand::ManagePciAddExt => {
                let device: PhysdevManagePciExt = self.read_packed(at)?;
                if device.is_extfn > 1 || device.is_virtfn > 1 {
                    return Err(Errno::Inval);
                }
                let physical = (device.is_virtfn != 0).then(|| physical_function(0, &device.physfn));
                (Act::Add(physical), Address::new(0, device.bus, device.devfn))
            }
            PhysdevCommand::PciDeviceAdd => {
                let device: PhysdevPciDeviceAdd = self.read_packed(at)?;
                let flags = PciDeviceFlags::from_bits_retain(device.flags);
                // There is one node: which one is told does not matter, but told it must be.
                if flags.contains(PciDeviceFlags::PXM) {
                    let end = at.checked_add(bytes::<PhysdevPciDeviceAdd>()).ok_or(Errno::Fault)?;
                    self.copy_from_guest::<u32>(end)?;
                }
                let is_virtual = flags.contains(PciDeviceFlags::VIRTFN);
                let physical = is_virtual.then(|| physical_function(device.seg, &device.physfn));
                (Act::Add(physical), Address::new(device.seg, device.bus, device.devfn))
            }
            PhysdevCommand::PciDeviceRemove => (Act::Remove, self.read_pci_address(at)?),
            PhysdevCommand::RestoreMsiExt => (Act::Restore, self.read_pci_address(at)?),
            PhysdevCommand::PrepareMsix => (Act::Prepare, self.read_pci_address(at)?),
            PhysdevCommand::ReleaseMsix => (Act::Release, self.read_pci_address(at)?),
            PhysdevCommand::PciMmcfgReserved => return self.announce_pci_window(at),
            // No debug port is in use here: there is nothing to do before and after its controller is reset.
            PhysdevCommand::DbgpOp => {
                self.control()?;
                return self.read_packed::<PhysdevDbgpOp>(at).map(|_| ());
            }
            _ => return Err(Errno::NoSys),
        };
        let hv = self.hv;
        if matches!(act, Act::Restore) && !hv.memory.pci.lock().is_known(function) {
            return Err(Errno::NoDev);
        }
        self.control()?;
        let is_device = |mfn| !hv.memory.frames.is_ram(mfn) && !hv.memory.frames.is_forbidden_io(mfn);
        match act {
            Act::Add(physical) => {
                let mut pci = hv.memory.pci.lock();
                if let Some(physical) = physical {
                    // The virtual one is announced whatever comes of it.
                    let _ = pci.announce(hv.machine(), physical);
                }
                pci.announce(hv.machine(), function)
            }
            Act::Remove => hv.forget_device(self.domain, function),
            Act::Restore => hv.memory.pci.lock().restore(hv.machine(), function),
            Act::Prepare => hv.memory.pci.lock().prepare(hv.machine(), &is_device, function),
            Act::Release => hv.memory.pci.lock().unprepare(function),
        }
    }

    fn read_address_on_segment_0(&self, at: u64) -> Result<Address, Errno> {
        let device: PhysdevManagePci = self.read_packed(at)?;
        Ok(Address::new(0, device.bus, device.devfn))
    }

    fn read_pci_address(&self, at: u64) -> Result<Address, Errno> {
        let device: PhysdevPciDevice = self.read_packed(at)?;
        Ok(Address::new(device.seg, device.bus, device.devfn))
    }

    /// The windows are those of the firmware's tables, and in use from the beginning.
    fn announce_pci_window(&self, at: u64) -> Result<(), Errno> {
        self.control()?;
        let request: PhysdevPciMmcfgReserved = self.read_packed(at)?;
        let PhysdevPciMmcfgReserved { address, segment, start_bus: first_bus, end_bus: last_bus, flags } = request;
        MmcfgFlags::from_bits(flags).ok_or(Errno::Inval)?;
        let is_known = self.hv.memory.pci.lock().has_window(&Window { address, segment, first_bus, last_bus });
        if is_known { Ok(()) } else { Err(Errno::NoDev) }
    }
}

/// The physical function that an announcement of a virtual one names.
fn physical_function(segment: u16, named: &PhysdevManagePci) -> Address {
    Address::new(segment, named.bus, named.devfn)
}
