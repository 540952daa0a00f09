//! Physical interrupts: what the control domain binds to ports.
//!
//! A number below [`Interrupts::lines`] is a line of an interrupt controller, all others are messages of devices
//! ([`crate::pci`]). The number also fixes the vector, the same on all CPUs.
//!
//! An edge or a message is passed on as it comes. A level is masked when it comes, because only the guest's driver can
//! make the device lower it, and unmasked when the guest says that it has (`PHYSDEVOP_eoi`).

use super::deliver::set_pending;
use crate::{
    Hypervisor,
    config::MAX_PIRQS,
    domain::Domain,
    lock::{Lock, rank},
    machine::{CpuId, Machine},
    mem::editor::hold_writable,
    pci::{Address, Entry, Message},
    reply::Control,
};
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_abi::{domid::DomId, errno::Errno};

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
    /// Routes a line, masked, so that it calls [`raise`] with its number.
    ///
    /// # Errors
    /// `Inval` if there is no such line, `NoSpc` if no vector is left.
    fn route(&self, gsi: u32, signal: Signal) -> Result<(), Errno>;
    /// Masks or unmasks a routed line.
    fn set_masked(&self, gsi: u32, masked: bool);
    /// The message by which a device makes a CPU call [`raise`] with this number.
    fn message(&self, pirq: u32, cpu: CpuId) -> Message;
    /// A register of the controller whose registers are at a machine address; `None` if there is none.
    fn read_controller(&self, address: u64, register: u32) -> Option<u32>;
    /// The line behind a pin of the controller at a machine address; `None` if there is no such controller, or pin.
    fn line_of_pin(&self, address: u64, pin: u32) -> Option<u32>;
}

/// Lines that every PC has, which are set up as edges unless somebody says otherwise.
const CLASSIC_LINES: u32 = 16;
/// The line by which ACPI's own events come: by level, which its tables tell the control domain and not us.
const ACPI_LINE: u32 = 9;
/// Numbers that a guest has for messages, which it can ask for and not use.
const GUEST_MESSAGES: u32 = 32;

/// All physical interrupts.
#[derive(Debug)]
pub struct Pirqs([Line; MAX_PIRQS]);

impl Default for Pirqs {
    fn default() -> Self {
        Self([const { Line(AtomicU32::new(0)) }; MAX_PIRQS])
    }
}

/// One of them: the port in the low bits, 0 if none, and flags. Changed under the lock of the control domain's events.
#[derive(Debug)]
pub struct Line(AtomicU32);

const PORT: u32 = (1 << 20) - 1;
/// The line of an interrupt controller is set up.
const ROUTED: u32 = 1 << 20;
const LEVEL: u32 = 1 << 21;
/// Masked until the guest has served the device.
const IN_SERVICE: u32 = 1 << 22;
/// The control domain may bind it.
const MAPPED: u32 = 1 << 23;
/// The control domain has asked for the number (`PHYSDEVOP_get_free_pirq`).
const RESERVED: u32 = 1 << 24;

/// What belongs to a domain: the page in which it finds what it must end, and the numbers it has asked for.
#[derive(Debug, Default)]
pub struct Own {
    /// Its bits say which pirqs need an end (`PHYSDEVOP_pirq_eoi_gmfn`). A writable use is held.
    page: Option<crate::addr::Mfn>,
    /// Whether to end an interrupt is to unmask its port.
    unmasks: bool,
    /// Numbers that a guest other than the control domain has asked for.
    reserved: u64,
}

impl Pirqs {
    /// A line, if the number is one that a line could have.
    #[must_use]
    pub fn line(&self, pirq: u32) -> Option<&Line> {
        self.0.get(pirq as usize)
    }
}

impl Line {
    fn flags(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    fn has(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    /// The port it is bound to.
    #[must_use]
    pub fn port(&self) -> Option<u32> {
        let port = self.flags() & PORT;
        (port != 0).then_some(port)
    }

    /// Whether it can be bound.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.has(MAPPED)
    }

    /// Whether the guest must say when it has served it (`XENIRQSTAT_needs_eoi`).
    #[must_use]
    pub fn needs_eoi(&self) -> bool {
        self.has(LEVEL)
    }

    /// Whether nobody has anything to do with the number.
    fn is_free(&self) -> bool {
        self.flags() & (PORT | MAPPED | RESERVED) == 0
    }
}

/// How many numbers a domain has, from 0 on.
pub fn count<M: Machine>(hv: &Hypervisor<M>, domain: &Domain) -> u32 {
    if domain.is_privileged { MAX_PIRQS as u32 } else { hv.machine.lines() + GUEST_MESSAGES }
}

#[inline(never)]
fn set_masked<M: Machine>(hv: &Hypervisor<M>, pirq: u32, line: &Line, masked: bool) {
    if pirq < hv.machine.lines() {
        if line.has(ROUTED) && !hv.machine.is_own(pirq) {
            hv.machine.set_masked(pirq, masked);
        }
    } else {
        hv.pci.lock().set_masked(&hv.machine, pirq, masked);
    }
}

/// Binds a pirq to a port of the control domain and unmasks it. The lock of the domain's events is held.
#[inline(never)]
pub(super) fn bind<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, pirq: u32, port: u32, vcpu: u32) {
    let Some(line) = hv.pirqs.line(pirq) else { return };
    line.0.fetch_or(port & PORT, Ordering::AcqRel);
    if let Some(page) = domain.pirqs.lock().page
        && let Some(word) = hv.machine.words(page).get(pirq as usize / 64)
    {
        let bit = 1 << (pirq % 64);
        if line.needs_eoi() {
            word.fetch_or(bit, Ordering::AcqRel)
        } else {
            word.fetch_and(!bit, Ordering::AcqRel)
        };
    }
    aim(hv, domain, pirq, vcpu);
    set_masked(hv, pirq, line, false);
}

/// Lets a message go to the CPU on which a vcpu runs, or ran last.
#[inline(never)]
pub(super) fn aim<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, pirq: u32, vcpu: u32) {
    if let Some(vcpu) = domain.vcpu(vcpu).filter(|_| pirq >= hv.machine.lines()) {
        let message = hv.machine.message(pirq, vcpu.sched.cpu().unwrap_or(hv.machine.this_cpu()));
        hv.pci.lock().aim(&hv.machine, pirq, message);
    }
}

/// The port of a pirq is being closed; the lock of the control domain's events is held.
#[inline(never)]
pub(super) fn unbind<M: Machine>(hv: &Hypervisor<M>, pirq: u32) {
    if let Some(line) = hv.pirqs.line(pirq) {
        set_masked(hv, pirq, line, true);
        line.0.fetch_and(!(PORT | IN_SERVICE), Ordering::AcqRel);
    }
}

/// Sets a line up (`PHYSDEVOP_setup_gsi`). What the hypervisor serves stays as it is.
///
/// # Errors
/// `Inval` if there is no such line, `Exist` if it is set up already, `NoSpc` if no vector is left.
#[inline(never)]
pub fn set_up<M: Machine>(hv: &Hypervisor<M>, _: Control, gsi: u32, signal: Signal) -> Result<(), Errno> {
    let line = hv.pirqs.line(gsi).filter(|_| gsi < hv.machine.lines()).ok_or(Errno::Inval)?;
    let flags = ROUTED | if signal.is_level { LEVEL } else { 0 };
    if line.0.fetch_or(ROUTED, Ordering::AcqRel) & ROUTED != 0 {
        return Err(Errno::Exist);
    }
    if hv.machine.is_own(gsi) {
        return Ok(());
    }
    hv.machine.route(gsi, signal).inspect_err(|_| _ = line.0.fetch_and(!ROUTED, Ordering::AcqRel))?;
    if line.0.fetch_or(flags, Ordering::AcqRel) & PORT != 0 {
        hv.machine.set_masked(gsi, false);
    }
    Ok(())
}

/// Lets the control domain bind a line, whose number is the pirq's (`PHYSDEVOP_map_pirq`). Nobody asks apart for the
/// classic lines to be set up.
///
/// # Errors
/// `Inval` if there is no such line, `Perm` if the domain has no right to it, `NoSpc` if no vector is left.
pub fn map_line<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, control: Control, gsi: u32) -> Result<(), Errno> {
    let line = hv.pirqs.line(gsi).filter(|_| gsi < hv.machine.lines()).ok_or(Errno::Inval)?;
    if !domain.rights.lock().interrupts.contains(gsi.into(), gsi.into()) {
        return Err(Errno::Perm);
    }
    if gsi < CLASSIC_LINES && gsi != ACPI_LINE {
        match set_up(hv, control, gsi, Signal { is_level: false, is_active_low: false }) {
            Ok(()) | Err(Errno::Exist) => {}
            Err(error) => return Err(error),
        }
    }
    line.0.fetch_or(MAPPED, Ordering::AcqRel);
    Ok(())
}

/// Lets the control domain bind a message of a device: by this pirq, or else by one that nobody has. Answers which.
///
/// # Errors
/// `Inval` for a pirq that is a line's or in use, `NoSpc` if there is none left; else as [`crate::pci::Pci::assign`].
#[inline(never)]
pub fn map_message<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain,
    wanted: Option<u32>,
    at: Address,
    entry: Entry,
) -> Result<u32, Errno> {
    let _held = domain.events.bindings.lock();
    let pirq = match wanted {
        None => free_message(hv)?,
        Some(pirq) => {
            let line = hv.pirqs.line(pirq).filter(|_| pirq >= hv.machine.lines());
            line.filter(|line| line.flags() & (PORT | MAPPED) == 0).map(|_| pirq).ok_or(Errno::Inval)?
        }
    };
    let line = hv.pirqs.line(pirq).ok_or(Errno::Inval)?;
    let is_device = |mfn| !hv.frames.is_ram(mfn) && !hv.frames.is_forbidden_io(mfn);
    let message = hv.machine.message(pirq, hv.machine.this_cpu());
    hv.pci.lock().assign(&hv.machine, &is_device, (at, entry), pirq, message)?;
    line.0.fetch_or(MAPPED, Ordering::AcqRel);
    Ok(pirq)
}

/// Takes a pirq from the control domain. The device is silenced first; a port that is bound gets no more events. The right
/// to a line goes with it, as in Xen.
///
/// # Errors
/// `Inval` if it is not mapped.
#[inline(never)]
pub fn unmap<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, pirq: u32) -> Result<(), Errno> {
    let _held = domain.events.bindings.lock();
    let line = hv.pirqs.line(pirq).filter(|line| line.is_mapped()).ok_or(Errno::Inval)?;
    if pirq < hv.machine.lines() {
        set_masked(hv, pirq, line, true);
        // Where the set is of too many ranges the right stays.
        let _ = domain.rights.lock().interrupts.remove(pirq.into(), pirq.into());
    } else {
        hv.pci.lock().release(&hv.machine, pirq);
    }
    line.0.fetch_and(!(MAPPED | RESERVED | IN_SERVICE), Ordering::AcqRel);
    Ok(())
}

/// Forgets a device, and takes its interrupts from the control domain.
///
/// # Errors
/// `NoDev` if it is not known.
#[inline(never)]
pub fn forget_device<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, at: Address) -> Result<(), Errno> {
    loop {
        let next = hv.pci.lock().pirqs_of(at).next();
        let Some(pirq) = next else { break };
        unmap(hv, domain, pirq)?;
    }
    hv.pci.lock().forget(&hv.machine, at)
}

fn free_message<M: Machine>(hv: &Hypervisor<M>) -> Result<u32, Errno> {
    let is_free = |&pirq: &u32| hv.pirqs.line(pirq).is_some_and(Line::is_free);
    (hv.machine.lines()..MAX_PIRQS as u32).rev().find(is_free).ok_or(Errno::NoSpc)
}

/// Reserves a number for a domain (`PHYSDEVOP_get_free_pirq`): for lines one above the classic ones, if there is one.
///
/// # Errors
/// `NoSpc` if there is none left.
#[inline(never)]
pub fn reserve<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, for_line: bool) -> Result<u32, Errno> {
    let _held = domain.events.bindings.lock();
    let lines = hv.machine.lines();
    let mut own = domain.pirqs.lock();
    let is_free = |&pirq: &u32| match hv.pirqs.line(pirq) {
        Some(line) if domain.is_privileged => line.is_free(),
        Some(_) => pirq < u64::BITS && own.reserved >> pirq & 1 == 0,
        None => false,
    };
    let low = (CLASSIC_LINES..lines).find(is_free).filter(|_| for_line);
    let pirq = low.or_else(|| (lines..count(hv, domain)).rev().find(is_free)).ok_or(Errno::NoSpc)?;
    if domain.is_privileged {
        hv.pirqs.line(pirq).ok_or(Errno::NoSpc)?.0.fetch_or(RESERVED, Ordering::AcqRel);
    } else {
        own.reserved |= 1 << pirq;
    }
    Ok(pirq)
}

/// A pirq signalled: the machine's interrupt handler calls this.
pub fn raise<M: Machine>(hv: &Hypervisor<M>, pirq: u32) {
    let Some(line) = hv.pirqs.line(pirq) else { return };
    let Some(control) = hv.domains.get(DomId::DOM0) else { return };
    let mut bindings = control.events.bindings.lock();
    if line.needs_eoi() {
        line.0.fetch_or(IN_SERVICE, Ordering::AcqRel);
        hv.machine.set_masked(pirq, true);
    }
    // What is unmapped may have been on its way.
    let port = line.port().filter(|_| line.is_mapped());
    if let Some((port, state)) = port.and_then(|port| Some((port, control.events.port(port)?))) {
        set_pending(hv, &control, &mut bindings, port, state.vcpu(), None);
    }
}

/// The guest has served the device (`PHYSDEVOP_eoi`). Answers the port that is to be unmasked now, if any.
///
/// # Errors
/// `Inval` for a pirq that the domain has nothing to do with.
pub fn end_of_interrupt<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, pirq: u32) -> Result<Option<u32>, Errno> {
    let own = domain.pirqs.lock();
    if !domain.is_privileged {
        return if pirq < u64::BITS && own.reserved >> pirq & 1 != 0 { Ok(None) } else { Err(Errno::Inval) };
    }
    let line = hv.pirqs.line(pirq).filter(|line| !line.is_free()).ok_or(Errno::Inval)?;
    if line.0.fetch_and(!IN_SERVICE, Ordering::AcqRel) & IN_SERVICE != 0 && line.is_mapped() {
        hv.machine.set_masked(pirq, false);
    }
    Ok(line.port().filter(|_| own.unmasks))
}

/// Takes a page of the domain's in which it finds what it must end; with `unmasks`, to do so unmasks the port.
///
/// # Errors
/// `Inval` for what is no page of its own that it may write, `Busy` if it has given one already.
#[inline(never)]
pub fn set_eoi_page<M: Machine>(hv: &Hypervisor<M>, domain: &Domain, frame: u64, unmasks: bool) -> Result<(), Errno> {
    let mfn = crate::addr::Mfn::new(frame).filter(|&mfn| hv.frames.is_ram(mfn)).ok_or(Errno::Inval)?;
    hold_writable(hv, mfn, domain.owner).map_err(|_| Errno::Inval)?;
    let mut own = domain.pirqs.lock();
    if own.page.is_some() {
        drop(own);
        hv.frames.put_use(mfn);
        return Err(Errno::Busy);
    }
    (own.page, own.unmasks) = (Some(mfn), unmasks);
    Ok(())
}

/// Gives back the page of a domain that ends.
pub fn put_eoi_page<M: Machine>(hv: &Hypervisor<M>, own: &Lock<Own, { rank::PIRQS }>) {
    let page = own.lock().page.take();
    if let Some(page) = page {
        hv.frames.put_use(page);
    }
}
