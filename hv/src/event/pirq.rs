//! Physical interrupts: lines of the interrupt controller that the control domain binds to ports.
//!
//! An edge is passed on as it comes. A level is masked when it comes, because only the guest's driver can make the device
//! lower it, and unmasked when the guest says that it has (`PHYSDEVOP_eoi`).

use super::deliver::set_pending;
use crate::{Hypervisor, caller::Control, config::MAX_PIRQS, machine::Machine};
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_abi::{domid::DomId, errno::Errno, event_channel::EVTCHN_FIFO_LINK_MASK};

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
    /// Routes a line, masked, so that it calls [`raise`] with its number.
    ///
    /// # Errors
    /// `Inval` if there is no such line, `NoSpc` if no vector is left.
    fn route(&self, gsi: u32, signal: Signal) -> Result<(), Errno>;
    /// Masks or unmasks a routed line.
    fn set_masked(&self, gsi: u32, masked: bool);
}

/// All lines.
#[derive(Debug)]
pub struct Pirqs([Line; MAX_PIRQS]);

impl Default for Pirqs {
    fn default() -> Self {
        Self([const { Line(AtomicU32::new(0)) }; MAX_PIRQS])
    }
}

/// One line: the port in the low bits, 0 if none, and flags. Ports change under the lock of the control domain's events.
#[derive(Debug)]
pub struct Line(AtomicU32);

const PORT: u32 = EVTCHN_FIFO_LINK_MASK;
const ROUTED: u32 = 1 << 24;
const LEVEL: u32 = 1 << 25;
/// Masked until the guest has served the device.
const IN_SERVICE: u32 = 1 << 26;

impl Pirqs {
    /// A line, if the number is one that a line could have.
    #[must_use]
    pub fn line(&self, pirq: u32) -> Option<&Line> {
        self.0.get(pirq as usize)
    }
}

impl Line {
    /// The port it is bound to.
    #[must_use]
    pub fn port(&self) -> Option<u32> {
        let port = self.0.load(Ordering::Acquire) & PORT;
        (port != 0).then_some(port)
    }

    /// Whether somebody has set it up.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        self.0.load(Ordering::Acquire) & ROUTED != 0
    }

    /// Whether the guest must say when it has served it (`XENIRQSTAT_needs_eoi`).
    #[must_use]
    pub fn needs_eoi(&self) -> bool {
        self.0.load(Ordering::Acquire) & LEVEL != 0
    }

    /// Binds a line that is set up to a port of the control domain and unmasks it.
    pub(super) fn bind(&self, machine: &impl Interrupts, _: Control, gsi: u32, port: u32) {
        self.0.fetch_or(port & PORT, Ordering::AcqRel);
        machine.set_masked(gsi, false);
    }
}

/// Sets a line up (`PHYSDEVOP_setup_gsi`, `PHYSDEVOP_map_pirq`).
///
/// # Errors
/// `Inval` if there is no such line, `Exist` if it is set up already, `NoSpc` if no vector is left.
pub fn set_up<M: Machine>(hv: &Hypervisor<M>, _: Control, gsi: u32, signal: Signal) -> Result<(), Errno> {
    let line = hv.pirqs.line(gsi).ok_or(Errno::Inval)?;
    let flags = ROUTED | if signal.is_level { LEVEL } else { 0 };
    if line.0.compare_exchange(0, flags, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return Err(Errno::Exist);
    }
    hv.machine.route(gsi, signal).inspect_err(|_| line.0.store(0, Ordering::Release))
}

/// A line signalled: the machine's interrupt handler calls this.
pub fn raise<M: Machine>(hv: &Hypervisor<M>, gsi: u32) {
    let Some(line) = hv.pirqs.line(gsi) else { return };
    let Some(control) = hv.domains.get(DomId::DOM0) else { return };
    let mut bindings = control.events.bindings.lock();
    if line.needs_eoi() {
        line.0.fetch_or(IN_SERVICE, Ordering::AcqRel);
        hv.machine.set_masked(gsi, true);
    }
    if let Some((port, state)) = line.port().and_then(|port| Some((port, control.events.port(port)?))) {
        set_pending(hv, &control, &mut bindings, port, state.vcpu(), None);
    }
}

/// The guest has served the device (`PHYSDEVOP_eoi`).
///
/// # Errors
/// `Inval` for a line that is not bound.
pub fn end_of_interrupt<M: Machine>(hv: &Hypervisor<M>, _: Control, pirq: u32) -> Result<(), Errno> {
    let line = hv.pirqs.line(pirq).filter(|l| l.port().is_some()).ok_or(Errno::Inval)?;
    if line.0.fetch_and(!IN_SERVICE, Ordering::AcqRel) & IN_SERVICE != 0 {
        hv.machine.set_masked(pirq, false);
    }
    Ok(())
}

/// The port of a line is being closed; the lock of the control domain's events is held.
pub(super) fn unbind<M: Machine>(hv: &Hypervisor<M>, pirq: u32) {
    if let Some(line) = hv.pirqs.line(pirq) {
        hv.machine.set_masked(pirq, true);
        line.0.fetch_and(!(PORT | IN_SERVICE), Ordering::AcqRel);
    }
}
