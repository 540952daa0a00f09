//! What the control domain needs of the machine to drive devices: ports, and interrupts by line and by message.

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::physdev;
use zerocopy::FromZeros;

use crate::raw::hypercall::call2;

/// Issues a `physdev_op` whose structure `T` is what the command wants.
fn physdev_op<T>(command: u32, request: &mut T) -> Result<(), Errno> {
    // SAFETY: the commands used here read and fill their structure.
    Errno::check(unsafe {
        call2::<{ Hypercall::PhysdevOp as u32 }>(command.into(), core::ptr::from_mut(request) as u64)
    })
    .map(|_| ())
}

/// Lets this vcpu use I/O ports at privilege level `level` and above (as numbers: below).
///
/// # Errors
/// `EPERM` for all but dom0.
pub fn set_iopl(level: u32) -> Result<(), Errno> {
    physdev_op(physdev::PHYSDEVOP_SET_IOPL, &mut physdev::PhysdevSetIopl { iopl: level })
}

/// Makes a line of the interrupt controller a physical interrupt of this domain, level-triggered and active low.
///
/// # Errors
/// What the hypervisor refuses: no such line.
pub fn map_interrupt_line(gsi: u32) -> Result<u32, Errno> {
    let line = i32::try_from(gsi).map_err(|_| Errno::Inval)?;
    let mut setup = physdev::PhysdevSetupGsi { gsi: line, triggering: 1, polarity: 1, _pad0: 0 };
    match physdev_op(physdev::PHYSDEVOP_SETUP_GSI, &mut setup) {
        // Somebody set the line up before: so be it.
        Ok(()) | Err(Errno::Exist) => {}
        Err(errno) => return Err(errno),
    }
    let mut map = physdev::PhysdevMapPirq {
        domid: DomId::SELF,
        r#type: physdev::MAP_PIRQ_TYPE_GSI,
        index: line,
        pirq: line,
        ..FromZeros::new_zeroed()
    };
    physdev_op(physdev::PHYSDEVOP_MAP_PIRQ, &mut map)?;
    u32::try_from(map.pirq).map_err(|_| Errno::Inval)
}

/// Makes an entry of a device's MSI-X table a physical interrupt of this domain. The device is on segment 0, `devfn` is
/// its device and function, `range` the machine address of the memory range that holds the table.
///
/// # Errors
/// What the hypervisor refuses: `ENODEV` for a device without MSI-X, `ENOSPC` when there are too many interrupts.
pub fn map_message(bus: u8, devfn: u8, range: u64, entry: u16) -> Result<u32, Errno> {
    let mut device = physdev::PhysdevPciDeviceAdd { bus, devfn, ..FromZeros::new_zeroed() };
    physdev_op(physdev::PHYSDEVOP_PCI_DEVICE_ADD, &mut device)?;
    let mut map = physdev::PhysdevMapPirq {
        domid: DomId::SELF,
        r#type: physdev::MAP_PIRQ_TYPE_MSI_SEG,
        index: -1,
        pirq: -1,
        bus: bus.into(),
        devfn: devfn.into(),
        entry_nr: entry.into(),
        table_base: range,
        ..FromZeros::new_zeroed()
    };
    physdev_op(physdev::PHYSDEVOP_MAP_PIRQ, &mut map)?;
    u32::try_from(map.pirq).map_err(|_| Errno::Inval)
}

/// Gives a physical interrupt back.
///
/// # Errors
/// What the hypervisor refuses: it was not mapped.
pub fn unmap_interrupt(pirq: u32) -> Result<(), Errno> {
    let pirq = i32::try_from(pirq).map_err(|_| Errno::Inval)?;
    let mut request = physdev::PhysdevUnmapPirq { domid: DomId::SELF, _pad0: 0, pirq };
    physdev_op(physdev::PHYSDEVOP_UNMAP_PIRQ, &mut request)
}

/// Tells the interrupt controller that an interrupt was served.
///
/// # Errors
/// `EINVAL` for an interrupt that is not bound.
pub fn end_of_interrupt(pirq: u32) -> Result<(), Errno> {
    physdev_op(physdev::PHYSDEVOP_EOI, &mut physdev::PhysdevEoi { irq: pirq })
}
