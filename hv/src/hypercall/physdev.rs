//! `physdev_op`: I/O privileges of every guest, interrupts of the control domain.

use crate::{
    addr::GuestAddr,
    caller::{Args, Caller, Reply},
    config::MAX_PIRQS,
    event::pirq::{self, Signal},
    machine::Machine,
    mem::guest_ptr::GuestPtr,
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    physdev::{
        MAP_PIRQ_TYPE_GSI, PHYSDEVOP_ALLOC_IRQ_VECTOR, PHYSDEVOP_EOI, PHYSDEVOP_IRQ_STATUS_QUERY,
        PHYSDEVOP_IRQ_UNMASK_NOTIFY, PHYSDEVOP_MANAGE_PCI_ADD, PHYSDEVOP_MANAGE_PCI_ADD_EXT,
        PHYSDEVOP_MANAGE_PCI_REMOVE, PHYSDEVOP_MAP_PIRQ, PHYSDEVOP_PCI_DEVICE_ADD, PHYSDEVOP_PCI_DEVICE_REMOVE,
        PHYSDEVOP_PCI_MMCFG_RESERVED, PHYSDEVOP_SET_IOBITMAP, PHYSDEVOP_SET_IOPL, PHYSDEVOP_SETUP_GSI,
        PHYSDEVOP_UNMAP_PIRQ, PhysdevEoi, PhysdevIrq, PhysdevIrqStatusQuery, PhysdevMapPirq, PhysdevSetIobitmap,
        PhysdevSetIopl, PhysdevSetupGsi, PhysdevUnmapPirq, XENIRQSTAT_NEEDS_EOI,
    },
};

/// Lines of the two classic interrupt controllers, which signal by edges where nobody says otherwise.
const CLASSIC_LINES: u32 = 16;
/// The line by which ACPI's own events come: by level, which its tables tell the control domain and not us.
const ACPI_LINE: u32 = 9;
/// Ports that a bitmap can cover.
const PORTS: u32 = 1 << 16;

/// `physdev_op(command, argument)`.
///
/// # Errors
/// `Fault` for an unreadable argument, `Inval` for what there is not, `Perm` for what only the control domain may do,
/// `NoSys` for what is not built: message-signalled interrupts, I/O APIC registers, acknowledgement by page.
#[inline]
pub fn physdev_op<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [command, at, ..] = *args;
    match command as u32 {
        PHYSDEVOP_EOI => {
            let request = GuestPtr::<PhysdevEoi>::one(at)?.read(&caller.hv.machine, 0)?;
            // Another domain has no interrupts that it could end.
            let control = caller.control().map_err(|_| Errno::Inval)?;
            pirq::end_of_interrupt(caller.hv, control, request.irq)?;
        }
        PHYSDEVOP_SET_IOPL => {
            let request = GuestPtr::<PhysdevSetIopl>::one(at)?.read(&caller.hv.machine, 0)?;
            caller.state.iopl = u8::try_from(request.iopl).ok().filter(|&iopl| iopl <= 3).ok_or(Errno::Inval)?;
        }
        PHYSDEVOP_SET_IOBITMAP => set_bitmap(caller, at)?,
        PHYSDEVOP_IRQ_STATUS_QUERY => status(caller, at)?,
        PHYSDEVOP_MAP_PIRQ => map(caller, at)?,
        PHYSDEVOP_UNMAP_PIRQ => {
            let request = GuestPtr::<PhysdevUnmapPirq>::one(at)?.read(&caller.hv.machine, 0)?;
            own_line(caller, request.domid, request.pirq)?;
        }
        PHYSDEVOP_SETUP_GSI => set_up(caller, at)?,
        PHYSDEVOP_ALLOC_IRQ_VECTOR => {
            caller.control()?;
            let place = GuestPtr::<PhysdevIrq>::one(at)?;
            let request = place.read(&caller.hv.machine, 0)?;
            line(request.irq)?;
            // A name and no more: routes are made when the line is set up.
            place.write(&caller.hv.machine, 0, &PhysdevIrq { vector: request.irq, ..request })?;
        }
        // It meant something to the first guests only.
        PHYSDEVOP_IRQ_UNMASK_NOTIFY => {}
        // Nothing is kept of devices: there is no I/O MMU to tell of them.
        PHYSDEVOP_MANAGE_PCI_ADD
        | PHYSDEVOP_MANAGE_PCI_REMOVE
        | PHYSDEVOP_MANAGE_PCI_ADD_EXT
        | PHYSDEVOP_PCI_DEVICE_ADD
        | PHYSDEVOP_PCI_DEVICE_REMOVE
        | PHYSDEVOP_PCI_MMCFG_RESERVED => {
            caller.control()?;
        }
        _ => return Err(Errno::NoSys.into()),
    }
    Ok(0)
}

fn line(number: u32) -> Result<u32, Errno> {
    if (number as usize) < MAX_PIRQS { Ok(number) } else { Err(Errno::Inval) }
}

/// A line that the control domain names for itself: nobody else has any.
fn own_line<M: Machine>(caller: &Caller<'_, M>, domain: DomId, number: i32) -> Result<u32, Errno> {
    caller.control()?;
    if domain != DomId::SELF && domain != caller.domain.id {
        return Err(Errno::OpNotSupp);
    }
    line(u32::try_from(number).map_err(|_| Errno::Inval)?)
}

/// Which ports user mode may use although its I/O privilege level does not let it.
fn set_bitmap<M: Machine>(caller: &mut Caller<'_, M>, at: u64) -> Result<(), Errno> {
    let request = GuestPtr::<PhysdevSetIobitmap>::one(at)?.read(&caller.hv.machine, 0)?;
    let bytes = u64::from(request.nr_ports.div_ceil(8));
    if request.nr_ports > PORTS || (bytes != 0 && !GuestAddr(request.bitmap).is_guest_range(bytes)) {
        return Err(Errno::Inval);
    }
    caller.state.io_bitmap = request.bitmap;
    caller.state.io_bitmap_ports = request.nr_ports;
    Ok(())
}

/// Whoever asks is told to end every interrupt: an end too many does nothing.
fn status<M: Machine>(caller: &Caller<'_, M>, at: u64) -> Result<(), Errno> {
    let place = GuestPtr::<PhysdevIrqStatusQuery>::one(at)?;
    let request = place.read(&caller.hv.machine, 0)?;
    line(request.irq)?;
    place.write(&caller.hv.machine, 0, &PhysdevIrqStatusQuery { flags: XENIRQSTAT_NEEDS_EOI, ..request })
}

/// A line's pirq is its own number. The classic ones are set up here, because nobody asks for that apart.
fn map<M: Machine>(caller: &Caller<'_, M>, at: u64) -> Result<(), Errno> {
    let place = GuestPtr::<PhysdevMapPirq>::one(at)?;
    let request = place.read(&caller.hv.machine, 0)?;
    if request.r#type != MAP_PIRQ_TYPE_GSI {
        caller.control()?;
        return Err(Errno::NoSys);
    }
    let gsi = own_line(caller, request.domid, request.index)?;
    if request.pirq >= 0 && request.pirq != request.index {
        return Err(Errno::Inval);
    }
    if gsi < CLASSIC_LINES && gsi != ACPI_LINE {
        let signal = Signal { is_level: false, is_active_low: false };
        match pirq::set_up(caller.hv, caller.control()?, gsi, signal) {
            Ok(()) | Err(Errno::Exist) => {}
            Err(error) => return Err(error),
        }
    }
    place.write(&caller.hv.machine, 0, &PhysdevMapPirq { pirq: request.index, ..request })
}

fn set_up<M: Machine>(caller: &Caller<'_, M>, at: u64) -> Result<(), Errno> {
    let control = caller.control()?;
    let request = GuestPtr::<PhysdevSetupGsi>::one(at)?.read(&caller.hv.machine, 0)?;
    let gsi = line(u32::try_from(request.gsi).map_err(|_| Errno::Inval)?)?;
    let signal = Signal { is_level: request.triggering != 0, is_active_low: request.polarity != 0 };
    pirq::set_up(caller.hv, control, gsi, signal)
}
