//! Physical interrupts: what the control domain binds to ports.
//!
//! A number below [`Interrupts::lines`] is a line of an interrupt controller, all others are messages of devices
//! ([`crate::pci`]). The number also fixes the vector, the same on all CPUs.
//!
//! An edge or a message is passed on as it comes. A level is masked when it comes, because only the guest's driver can
//! make the device lower it, and unmasked when the guest says that it has (`PHYSDEVOP_eoi`).

use crate::{
    config::{MAX_PIRQS, MAX_PORTS},
    hardware::CpuId,
    mem::RamFrame,
    pci::Message,
};
use bitflags::bitflags;
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_abi::errno::Errno;

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// By its level until it is served, and not by an edge.
    pub is_level: bool,
    /// Active when low.
    pub is_active_low: bool,
}

/// The interrupt controllers, asked of the machine. Lines are numbered as ACPI does (global system interrupts).
pub trait Interrupts {
    /// How many lines there are.
    fn lines(&self) -> u32;
    /// Whether the hypervisor serves a line itself: its console's.
    fn is_own(&self, gsi: u32) -> bool;
    /// Routes a line, masked, so that it calls the library's handler with its number.
    ///
    /// # Errors
    /// `Inval` if there is no such line, `NoSpc` if no vector is left.
    fn route(&self, gsi: u32, signal: Signal) -> Result<(), Errno>;
    /// Masks or unmasks a routed line.
    fn set_masked(&self, gsi: u32, masked: bool);
    /// The message by which a device makes a CPU call the library's handler with this number.
    fn message(&self, pirq: u32, cpu: CpuId) -> Message;
    /// A register of the controller whose registers are at a machine address; `None` if there is none.
    fn read_controller(&self, address: u64, register: u32) -> Option<u32>;
    /// The line behind a pin of the controller at a machine address; `None` if there is no such controller, or pin.
    fn line_of_pin(&self, address: u64, pin: u32) -> Option<u32>;
}

/// Lines that every PC has, which are set up as edges unless somebody says otherwise.
pub(crate) const CLASSIC_LINES: u32 = 16;
/// The line by which ACPI's own events come: by level, which its tables tell the control domain and not us.
pub(crate) const ACPI_LINE: u32 = 9;
/// Numbers that a guest has for messages, which it can ask for and not use.
pub(crate) const GUEST_MESSAGES: u32 = 32;

/// All physical interrupts.
#[derive(Debug)]
pub struct Pirqs([Line; MAX_PIRQS]);

impl Default for Pirqs {
    fn default() -> Self {
        Self([const { Line(AtomicU32::new(0)) }; MAX_PIRQS])
    }
}

/// One of them: the port in the low bits, 0 if none, and [`LineFlags`]. Changed under the lock of the control domain's
/// events.
#[derive(Debug)]
pub struct Line(AtomicU32);

const PORT: u32 = (1 << 20) - 1;
const _: () = assert!(MAX_PORTS <= PORT as usize + 1);

bitflags! {
    /// What is known of a physical interrupt beside its port.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct LineFlags: u32 {
        /// The line of an interrupt controller is set up.
        const ROUTED = 1 << 20;
        /// It signals by its level.
        const LEVEL = 1 << 21;
        /// Masked until the guest has served the device.
        const IN_SERVICE = 1 << 22;
        /// The control domain may bind it.
        const MAPPED = 1 << 23;
        /// The control domain has asked for the number (`PHYSDEVOP_get_free_pirq`).
        const RESERVED = 1 << 24;
        /// The control domain has said how the line signals (`PHYSDEVOP_setup_gsi`).
        const TOLD = 1 << 25;
    }
}

/// What belongs to a domain: the page in which it finds what it must end, and the numbers it has asked for.
#[derive(Debug, Default)]
pub struct DomainPirqs {
    /// Its bits say which pirqs need an end (`PHYSDEVOP_pirq_eoi_gmfn`). A writable use is held.
    pub(crate) page: Option<RamFrame>,
    /// Whether to end an interrupt is to unmask its port.
    pub(crate) unmasks: bool,
    /// Numbers that a guest other than the control domain has asked for.
    pub(crate) reserved: u64,
}

impl DomainPirqs {
    /// The frame in which the domain finds what it must end, used to be written, if it gave one.
    #[must_use]
    pub const fn page(&self) -> Option<RamFrame> {
        self.page
    }
}

impl Pirqs {
    /// A line, if the number is one that a line could have.
    #[must_use]
    pub fn line(&self, pirq: u32) -> Option<&Line> {
        self.0.get(pirq as usize)
    }
}

impl Line {
    /// Whether it is one of these.
    pub(crate) fn has(&self, flags: LineFlags) -> bool {
        LineFlags::from_bits_truncate(self.0.load(Ordering::Acquire)).intersects(flags)
    }

    /// Sets flags. Returns those that there were.
    pub(crate) fn insert(&self, flags: LineFlags) -> LineFlags {
        LineFlags::from_bits_truncate(self.0.fetch_or(flags.bits(), Ordering::AcqRel))
    }

    /// Clears flags. Returns those that there were.
    pub(crate) fn remove(&self, flags: LineFlags) -> LineFlags {
        LineFlags::from_bits_truncate(self.0.fetch_and(!flags.bits(), Ordering::AcqRel))
    }

    /// Notes the port that it is bound to, where there was none.
    pub(crate) fn bind(&self, port: u32) {
        self.0.fetch_or(port & PORT, Ordering::AcqRel);
    }

    /// It is bound to no port any more, and served.
    pub(crate) fn unbind(&self) {
        self.0.fetch_and(!(PORT | LineFlags::IN_SERVICE.bits()), Ordering::AcqRel);
    }

    /// The port it is bound to.
    #[must_use]
    pub fn port(&self) -> Option<u32> {
        let port = self.0.load(Ordering::Acquire) & PORT;
        (port != 0).then_some(port)
    }

    /// Whether it can be bound.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.has(LineFlags::MAPPED)
    }

    /// Whether the guest must say when it has served it (`XENIRQSTAT_needs_eoi`).
    #[must_use]
    pub fn needs_eoi(&self) -> bool {
        self.has(LineFlags::LEVEL)
    }

    /// Whether nobody has anything to do with the number.
    pub(crate) fn is_free(&self) -> bool {
        self.port().is_none() && !self.has(LineFlags::MAPPED | LineFlags::RESERVED)
    }
}
