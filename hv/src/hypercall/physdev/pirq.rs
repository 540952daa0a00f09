//! Interrupts: lines and messages, their numbers, and when they are served.

use crate::hypercall::number::ushort;
use crate::{
    caller::Caller,
    event::pirq::{Line, Signal},
    machine::Machine,
    pci::{Address, Entry, MAX_ENTRIES},
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    physdev::{
        MAP_PIRQ_TYPE_GSI, MAP_PIRQ_TYPE_MSI, MAP_PIRQ_TYPE_MSI_SEG, MAP_PIRQ_TYPE_MULTI_MSI, PhysdevApic, PhysdevEoi,
        PhysdevGetFreePirq, PhysdevIrq, PhysdevIrqStatusQuery, PhysdevMapPirq, PhysdevPirqEoiGmfn, PhysdevSetupGsi,
        PhysdevUnmapPirq, XENIRQSTAT_NEEDS_EOI,
    },
};

/// Messages of one device at most, where several were possible.
const MAX_MESSAGES: i32 = 32;

/// The first register of an I/O APIC that routes a pin, two for each, and what is in its lower half.
const FIRST_ROUTE: u32 = 0x10;
const ROUTE_VECTOR: u32 = 0xff;
const ROUTE_ACTIVE_LOW: u32 = 1 << 13;
const ROUTE_LEVEL: u32 = 1 << 15;

impl<M: Machine> Caller<'_, M> {
    /// An interrupt is served.
    pub(super) fn end_pirq(&self, at: u64) -> Result<(), Errno> {
        let request: PhysdevEoi = self.read_packed(at)?;
        match self.hv.end_of_interrupt(self.domain, request.irq)? {
            Some(port) => self.unmask_port(port),
            None => Ok(()),
        }
    }

    #[inline(never)]
    pub(super) fn set_pirq_eoi_page(&self, at: u64, unmasks: bool) -> Result<(), Errno> {
        let request: PhysdevPirqEoiGmfn = self.read_packed(at)?;
        self.hv.set_eoi_page(self.domain, request.gmfn, unmasks)
    }

    /// Whoever asks is told to end every interrupt: an end too many does nothing.
    #[inline(never)]
    pub(super) fn get_irq_status(&self, at: u64) -> Result<(), Errno> {
        let request: PhysdevIrqStatusQuery = self.read_packed(at)?;
        if request.irq >= self.hv.pirq_count(self.domain) {
            return Err(Errno::Inval);
        }
        self.write_packed(at, &PhysdevIrqStatusQuery { flags: XENIRQSTAT_NEEDS_EOI, ..request })
    }

    /// Whether a domain is the caller itself, who controls the machine. Nobody else has devices.
    fn maps_pirqs_for_itself(&self, domain: DomId) -> Result<bool, Errno> {
        self.named_domain(domain)?;
        self.control()?;
        Ok(self.is_self(domain))
    }

    #[inline(never)]
    pub(super) fn map_pirq(&self, at: u64) -> Result<(), Errno> {
        let mut request: PhysdevMapPirq = self.read_packed(at)?;
        let segment = match request.r#type {
            MAP_PIRQ_TYPE_MULTI_MSI if request.table_base != 0 => return Err(Errno::Inval),
            MAP_PIRQ_TYPE_MSI_SEG => {
                request.r#type = MAP_PIRQ_TYPE_MSI;
                request.bus >> 16
            }
            MAP_PIRQ_TYPE_MULTI_MSI => request.bus >> 16,
            _ => 0,
        };
        // Of each number the lower end counts.
        let ([bus, ..], [devfn, ..]) = (request.bus.to_le_bytes(), request.devfn.to_le_bytes());
        let device = Address::new(ushort(u64::from(segment.cast_unsigned())), bus, devfn);
        let done = self.map_pirq_for(&mut request, device);
        self.write_packed(at, &request)?;
        done
    }

    fn map_pirq_for(&self, request: &mut PhysdevMapPirq, at: Address) -> Result<(), Errno> {
        let is_self = self.maps_pirqs_for_itself(request.domid)?;
        let control = self.control()?;
        match request.r#type {
            MAP_PIRQ_TYPE_GSI if !is_self => return Err(Errno::OpNotSupp),
            MAP_PIRQ_TYPE_GSI => {
                let gsi = u32::try_from(request.index).map_err(|_| Errno::Inval)?;
                if gsi >= self.hv.machine().lines() {
                    return Err(Errno::Inval);
                }
                if request.pirq >= 0 && request.pirq != request.index {
                    let is_mapped = self.hv.pirqs.line(gsi).is_some_and(Line::is_mapped);
                    return Err(if is_mapped { Errno::Exist } else { Errno::Inval });
                }
                self.hv.map_line(self.domain, control, gsi)?;
                request.pirq = request.index;
                return Ok(());
            }
            // What stands for the message is made here, and is no interrupt of the guest's before.
            MAP_PIRQ_TYPE_MSI if request.index != -1 => {
                let could_be = self.hv.machine().lines()..self.hv.pirq_count(self.domain);
                let could_be = u32::try_from(request.index).is_ok_and(|index| could_be.contains(&index));
                return Err(if could_be { Errno::Perm } else { Errno::Inval });
            }
            MAP_PIRQ_TYPE_MULTI_MSI if request.pirq < 0 => match request.entry_nr {
                1 => {}
                2..=MAX_MESSAGES => return Err(Errno::OpNotSupp),
                _ => return Err(Errno::Dom),
            },
            MAP_PIRQ_TYPE_MSI | MAP_PIRQ_TYPE_MULTI_MSI => {}
            _ => return Err(Errno::Inval),
        }
        if !is_self {
            return Err(Errno::OpNotSupp);
        }
        let entry = match request.table_base {
            0 => Entry::Msi,
            // A number beyond every table is told after what the device is.
            _ => Entry::Msix(u16::try_from(request.entry_nr).unwrap_or(MAX_ENTRIES)),
        };
        let wanted = u32::try_from(request.pirq).ok();
        request.pirq = self.hv.map_message(self.domain, wanted, at, entry)?.cast_signed();
        Ok(())
    }

    #[inline(never)]
    pub(super) fn unmap_pirq(&self, at: u64) -> Result<(), Errno> {
        let request: PhysdevUnmapPirq = self.read_packed(at)?;
        if !self.maps_pirqs_for_itself(request.domid)? {
            return Err(Errno::OpNotSupp);
        }
        self.hv.unmap_pirq(self.domain, u32::try_from(request.pirq).map_err(|_| Errno::Inval)?)
    }

    /// Every guest may ask for a number.
    #[inline(never)]
    pub(super) fn get_free_pirq(&self, at: u64) -> Result<(), Errno> {
        let request: PhysdevGetFreePirq = self.read_packed(at)?;
        let pirq = self.hv.reserve_pirq(self.domain, request.r#type == MAP_PIRQ_TYPE_GSI)?;
        self.write_packed(at, &PhysdevGetFreePirq { pirq, ..request })
    }

    #[inline(never)]
    pub(super) fn setup_gsi(&self, at: u64) -> Result<(), Errno> {
        let request: PhysdevSetupGsi = self.read_packed(at)?;
        let gsi = u32::try_from(request.gsi).ok().filter(|&gsi| gsi < self.hv.machine().lines()).ok_or(Errno::Inval)?;
        let signal = Signal { is_level: request.triggering != 0, is_active_low: request.polarity != 0 };
        self.hv.set_up_line(self.domain, self.control()?, gsi, signal)
    }

    /// A name and no more, for whatever number: routes are made when the line is set up.
    #[inline(never)]
    pub(super) fn assign_irq_vector(&self, at: u64) -> Result<(), Errno> {
        let request: PhysdevIrq = self.read_packed(at)?;
        self.control()?;
        self.write_packed(at, &PhysdevIrq { vector: request.irq, ..request })
    }

    #[inline(never)]
    pub(super) fn read_apic(&self, at: u64) -> Result<(), Errno> {
        let request: PhysdevApic = self.read_packed(at)?;
        self.control()?;
        let value = self.hv.machine().read_controller(request.apic_physbase, request.reg).ok_or(Errno::Inval)?;
        self.write_packed(at, &PhysdevApic { value, ..request })
    }

    /// The lower half of a route sets a line up and maps it, as kernels did before they asked for that apart; the
    /// vector in it is the pirq. Nothing else is changed.
    #[inline(never)]
    pub(super) fn write_apic(&self, at: u64) -> Result<(), Errno> {
        let request: PhysdevApic = self.read_packed(at)?;
        let control = self.control()?;
        let hv = self.hv;
        hv.machine().line_of_pin(request.apic_physbase, 0).ok_or(Errno::Inval)?;
        let Some(index) = request.reg.checked_sub(FIRST_ROUTE).filter(|index| index % 2 == 0) else { return Ok(()) };
        let gsi = hv.machine().line_of_pin(request.apic_physbase, index / 2).ok_or(Errno::Inval)?;
        if request.value & ROUTE_VECTOR != gsi {
            return Err(Errno::Inval);
        }
        let signal =
            Signal { is_level: request.value & ROUTE_LEVEL != 0, is_active_low: request.value & ROUTE_ACTIVE_LOW != 0 };
        match hv.set_up_line(self.domain, control, gsi, signal) {
            Ok(()) | Err(Errno::Exist) => hv.map_line(self.domain, control, gsi),
            Err(error) => Err(error),
        }
    }
}
