//! `physdev_op`: I/O privileges of every guest, interrupts and devices of the control domain.
//!
//! The order of the checks is Xen's: guests see which error comes first.

mod pci;
mod pirq;

use super::{args::PhysdevOp, commands::PhysdevCommand, number::long};
use crate::{
    addr::GuestAddr,
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply},
};
use oxen_abi::{
    errno::Errno,
    physdev::{PhysdevSetIobitmap, PhysdevSetIopl},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Ports that a bitmap can cover.
const PORTS: u32 = 1 << 16;

/// Where the argument of the old interface begins, behind the command (`struct physdev_op`), and its size in all.
const COMPAT_ARGUMENT: u64 = 8;
const COMPAT_BYTES: usize = 24;

impl<M: Machine> Caller<'_, M> {
    /// `physdev_op(command, argument)`.
    ///
    /// # Errors
    /// `Fault` for an unreadable argument, `Inval` for what there is not, `Perm` for what only the control domain may
    /// do, `NoDev` for a device that was not announced, `NoSys` for unknown commands; else those of the commands.
    #[inline]
    pub fn physdev_op(&mut self, args: &mut Args) -> Reply {
        let request = PhysdevOp::from(&*args);
        let at = request.argument;
        match request.command()? {
            PhysdevCommand::Eoi => self.end_pirq(at)?,
            PhysdevCommand::PirqEoiGmfnV1 => self.set_pirq_eoi_page(at, true)?,
            PhysdevCommand::PirqEoiGmfnV2 => self.set_pirq_eoi_page(at, false)?,
            PhysdevCommand::IrqStatusQuery => self.get_irq_status(at)?,
            PhysdevCommand::MapPirq => self.map_pirq(at)?,
            PhysdevCommand::UnmapPirq => self.unmap_pirq(at)?,
            PhysdevCommand::GetFreePirq => self.get_free_pirq(at)?,
            PhysdevCommand::SetupGsi => self.setup_gsi(at)?,
            PhysdevCommand::AllocIrqVector => self.assign_irq_vector(at)?,
            PhysdevCommand::ApicRead => self.read_apic(at)?,
            PhysdevCommand::ApicWrite => self.write_apic(at)?,
            PhysdevCommand::SetIopl => {
                let request: PhysdevSetIopl = self.read_packed(at)?;
                self.state.iopl = u8::try_from(request.iopl).ok().filter(|&iopl| iopl <= 3).ok_or(Errno::Inval)?;
            }
            PhysdevCommand::SetIobitmap => self.set_io_bitmap(at)?,
            // It meant something to the first guests only.
            PhysdevCommand::IrqUnmaskNotify => {}
            command => self.physdev_op_on_pci(command, at)?,
        }
        Ok(0)
    }

    /// `physdev_op_compat(request)`: command and argument in one structure, as before Xen 3.2; which commands, Xen does
    /// not mind.
    ///
    /// # Errors
    /// `Fault` for an unreadable structure, else as `physdev_op`.
    pub fn physdev_op_compat(&mut self, args: &mut Args) -> Reply {
        let [at, ..] = *args;
        let [a, b, c, d, ..]: [u8; COMPAT_BYTES] = self.copy_from_guest(at)?;
        let command = u32::from_le_bytes([a, b, c, d]).into();
        self.physdev_op(&mut [command, at.wrapping_add(COMPAT_ARGUMENT), 0, 0, 0, 0])
    }

    fn read_packed<T: FromBytes + IntoBytes>(&self, at: u64) -> Result<T, Errno> {
        let mut copy = T::new_zeroed();
        self.read_physdev_bytes(at, copy.as_mut_bytes())?;
        Ok(copy)
    }

    /// One function for all structures.
    #[inline(never)]
    fn read_physdev_bytes(&self, at: u64, to: &mut [u8]) -> Result<(), Errno> {
        GuestPtr::<u8>::new(at, long(to.len()))?.read_many(self.hv.machine(), 0, to)
    }

    fn write_packed<T: IntoBytes + Immutable>(&self, at: u64, value: &T) -> Result<(), Errno> {
        self.write_physdev_bytes(at, value.as_bytes())
    }

    #[inline(never)]
    fn write_physdev_bytes(&self, at: u64, from: &[u8]) -> Result<(), Errno> {
        GuestPtr::<u8>::new(at, long(from.len()))?.write_many(self.hv.machine(), 0, from)
    }

    /// Which ports user mode may use although its I/O privilege level does not let it.
    #[inline(never)]
    fn set_io_bitmap(&mut self, at: u64) -> Result<(), Errno> {
        let request: PhysdevSetIobitmap = self.read_packed(at)?;
        let bytes = u64::from(request.nr_ports.div_ceil(8));
        if request.nr_ports > PORTS || (bytes != 0 && !GuestAddr::new(request.bitmap).is_guest_range(bytes)) {
            return Err(Errno::Inval);
        }
        self.state.io_bitmap = request.bitmap;
        self.state.io_bitmap_ports = request.nr_ports;
        Ok(())
    }
}
