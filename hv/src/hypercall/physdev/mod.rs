//! `physdev_op`: I/O privileges of every guest, interrupts and devices of the control domain.
//!
//! The order of the checks is Xen's: guests see which error comes first.

mod pci;
mod pirq;

use crate::{
    addr::GuestAddr,
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply},
};
use oxen_abi::{
    errno::Errno,
    physdev::{
        PHYSDEVOP_ALLOC_IRQ_VECTOR, PHYSDEVOP_APIC_READ, PHYSDEVOP_APIC_WRITE, PHYSDEVOP_EOI, PHYSDEVOP_GET_FREE_PIRQ,
        PHYSDEVOP_IRQ_STATUS_QUERY, PHYSDEVOP_IRQ_UNMASK_NOTIFY, PHYSDEVOP_MAP_PIRQ, PHYSDEVOP_PIRQ_EOI_GMFN_V1,
        PHYSDEVOP_PIRQ_EOI_GMFN_V2, PHYSDEVOP_SET_IOBITMAP, PHYSDEVOP_SET_IOPL, PHYSDEVOP_SETUP_GSI,
        PHYSDEVOP_UNMAP_PIRQ, PhysdevSetIobitmap, PhysdevSetIopl,
    },
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Ports that a bitmap can cover.
const PORTS: u32 = 1 << 16;

/// Where the argument of the old interface begins, behind the command (`struct physdev_op`), and its size in all.
const COMPAT_ARGUMENT: u64 = 8;
const COMPAT_BYTES: usize = 24;

/// `physdev_op(command, argument)`.
///
/// # Errors
/// `Fault` for an unreadable argument, `Inval` for what there is not, `Perm` for what only the control domain may do,
/// `NoDev` for a device that was not announced, `NoSys` for unknown commands; else those of the commands.
#[inline]
pub fn physdev_op<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [command, at, ..] = *args;
    match command as u32 {
        PHYSDEVOP_EOI => pirq::end(caller, at)?,
        PHYSDEVOP_PIRQ_EOI_GMFN_V1 => pirq::set_page(caller, at, true)?,
        PHYSDEVOP_PIRQ_EOI_GMFN_V2 => pirq::set_page(caller, at, false)?,
        PHYSDEVOP_IRQ_STATUS_QUERY => pirq::status(caller, at)?,
        PHYSDEVOP_MAP_PIRQ => pirq::map(caller, at)?,
        PHYSDEVOP_UNMAP_PIRQ => pirq::unmap(caller, at)?,
        PHYSDEVOP_GET_FREE_PIRQ => pirq::reserve(caller, at)?,
        PHYSDEVOP_SETUP_GSI => pirq::set_up(caller, at)?,
        PHYSDEVOP_ALLOC_IRQ_VECTOR => pirq::name_vector(caller, at)?,
        PHYSDEVOP_APIC_READ => pirq::read_controller(caller, at)?,
        PHYSDEVOP_APIC_WRITE => pirq::write_controller(caller, at)?,
        PHYSDEVOP_SET_IOPL => {
            let request: PhysdevSetIopl = read(caller, at)?;
            caller.state.iopl = u8::try_from(request.iopl).ok().filter(|&iopl| iopl <= 3).ok_or(Errno::Inval)?;
        }
        PHYSDEVOP_SET_IOBITMAP => set_bitmap(caller, at)?,
        // It meant something to the first guests only.
        PHYSDEVOP_IRQ_UNMASK_NOTIFY => {}
        command => pci::operation(caller, command, at)?,
    }
    Ok(0)
}

/// `physdev_op_compat(request)`: command and argument in one structure, as before Xen 3.2; which commands, Xen does not mind.
///
/// # Errors
/// `Fault` for an unreadable structure, else as [`physdev_op`].
pub fn physdev_op_compat<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [at, ..] = *args;
    let [a, b, c, d, ..]: [u8; COMPAT_BYTES] = GuestPtr::one(at)?.read(caller.hv.machine(), 0)?;
    let command = u32::from_le_bytes([a, b, c, d]).into();
    physdev_op(caller, &mut [command, at.wrapping_add(COMPAT_ARGUMENT), 0, 0, 0, 0])
}

fn read<M: Machine, T: FromBytes + IntoBytes>(caller: &Caller<'_, M>, at: u64) -> Result<T, Errno> {
    let mut copy = T::new_zeroed();
    read_bytes(caller, at, copy.as_mut_bytes())?;
    Ok(copy)
}

/// One function for all structures.
#[inline(never)]
fn read_bytes<M: Machine>(caller: &Caller<'_, M>, at: u64, to: &mut [u8]) -> Result<(), Errno> {
    GuestPtr::<u8>::new(at, to.len() as u64)?.read_many(caller.hv.machine(), 0, to)
}

fn write<M: Machine, T: IntoBytes + Immutable>(caller: &Caller<'_, M>, at: u64, value: &T) -> Result<(), Errno> {
    write_bytes(caller, at, value.as_bytes())
}

#[inline(never)]
fn write_bytes<M: Machine>(caller: &Caller<'_, M>, at: u64, from: &[u8]) -> Result<(), Errno> {
    GuestPtr::<u8>::new(at, from.len() as u64)?.write_many(caller.hv.machine(), 0, from)
}

/// Which ports user mode may use although its I/O privilege level does not let it.
#[inline(never)]
fn set_bitmap<M: Machine>(caller: &mut Caller<'_, M>, at: u64) -> Result<(), Errno> {
    let request: PhysdevSetIobitmap = read(caller, at)?;
    let bytes = u64::from(request.nr_ports.div_ceil(8));
    if request.nr_ports > PORTS || (bytes != 0 && !GuestAddr(request.bitmap).is_guest_range(bytes)) {
        return Err(Errno::Inval);
    }
    caller.state.io_bitmap = request.bitmap;
    caller.state.io_bitmap_ports = request.nr_ports;
    Ok(())
}
