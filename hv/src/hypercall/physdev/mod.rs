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

impl<M: Machine> Caller<'_, M> {
    /// `physdev_op(command, argument)`.
    ///
    /// # Errors
    /// `Fault` for an unreadable argument, `Inval` for what there is not, `Perm` for what only the control domain may
    /// do, `NoDev` for a device that was not announced, `NoSys` for unknown commands; else those of the commands.
    #[inline]
    pub fn physdev_op(&mut self, args: &mut Args) -> Reply {
        let [command, at, ..] = *args;
        match command as u32 {
            PHYSDEVOP_EOI => self.end_pirq(at)?,
            PHYSDEVOP_PIRQ_EOI_GMFN_V1 => self.set_pirq_eoi_page(at, true)?,
            PHYSDEVOP_PIRQ_EOI_GMFN_V2 => self.set_pirq_eoi_page(at, false)?,
            PHYSDEVOP_IRQ_STATUS_QUERY => self.get_irq_status(at)?,
            PHYSDEVOP_MAP_PIRQ => self.map_pirq(at)?,
            PHYSDEVOP_UNMAP_PIRQ => self.unmap_pirq(at)?,
            PHYSDEVOP_GET_FREE_PIRQ => self.get_free_pirq(at)?,
            PHYSDEVOP_SETUP_GSI => self.setup_gsi(at)?,
            PHYSDEVOP_ALLOC_IRQ_VECTOR => self.assign_irq_vector(at)?,
            PHYSDEVOP_APIC_READ => self.read_apic(at)?,
            PHYSDEVOP_APIC_WRITE => self.write_apic(at)?,
            PHYSDEVOP_SET_IOPL => {
                let request: PhysdevSetIopl = self.read_packed(at)?;
                self.state.iopl = u8::try_from(request.iopl).ok().filter(|&iopl| iopl <= 3).ok_or(Errno::Inval)?;
            }
            PHYSDEVOP_SET_IOBITMAP => self.set_io_bitmap(at)?,
            // It meant something to the first guests only.
            PHYSDEVOP_IRQ_UNMASK_NOTIFY => {}
            command => self.physdev_op_on_pci(command, at)?,
        }
        Ok(0)
    }

    /// `physdev_op_compat(request)`: command and argument in one structure, as before Xen 3.2; which commands, Xen does
    /// not mind.
    ///
    /// # Errors
    /// `Fault` for an unreadable structure, else as [`physdev_op`].
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
        GuestPtr::<u8>::new(at, to.len() as u64)?.read_many(self.hv.machine(), 0, to)
    }

    fn write_packed<T: IntoBytes + Immutable>(&self, at: u64, value: &T) -> Result<(), Errno> {
        self.write_physdev_bytes(at, value.as_bytes())
    }

    #[inline(never)]
    fn write_physdev_bytes(&self, at: u64, from: &[u8]) -> Result<(), Errno> {
        GuestPtr::<u8>::new(at, from.len() as u64)?.write_many(self.hv.machine(), 0, from)
    }

    /// Which ports user mode may use although its I/O privilege level does not let it.
    #[inline(never)]
    fn set_io_bitmap(&mut self, at: u64) -> Result<(), Errno> {
        let request: PhysdevSetIobitmap = self.read_packed(at)?;
        let bytes = u64::from(request.nr_ports.div_ceil(8));
        if request.nr_ports > PORTS || (bytes != 0 && !GuestAddr(request.bitmap).is_guest_range(bytes)) {
            return Err(Errno::Inval);
        }
        self.state.io_bitmap = request.bitmap;
        self.state.io_bitmap_ports = request.nr_ports;
        Ok(())
    }
}
