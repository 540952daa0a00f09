//! Physical interrupts at work: set up, mapped, bound to ports, passed on, served.

use crate::{
    Hypervisor,
    config::MAX_PIRQS,
    domain::Domain,
    event::pirq::{ACPI_LINE, CLASSIC_LINES, DomainPirqs, GUEST_MESSAGES, Line, LineFlags, Signal},
    lock::{Lock, rank},
    machine::Machine,
    mem::Hold,
    pci::{Address, Entry},
    reply::Control,
    rights::TIMER_LINE,
};
use core::sync::atomic::Ordering;
use oxen_abi::{domid::DomId, errno::Errno};

impl<M: Machine> Hypervisor<M> {
    /// How many numbers a domain has, from 0 on.
    pub fn pirq_count(&self, domain: &Domain) -> u32 {
        if domain.is_privileged() { MAX_PIRQS as u32 } else { self.machine().lines() + GUEST_MESSAGES }
    }

    #[inline(never)]
    fn set_pirq_masked(&self, pirq: u32, line: &Line, masked: bool) {
        if pirq < self.machine().lines() {
            if line.has(LineFlags::ROUTED) && !self.machine().is_own(pirq) {
                self.machine().set_masked(pirq, masked);
            }
        } else {
            self.memory.pci.lock().set_masked(self.machine(), pirq, masked);
        }
    }

    /// Binds a pirq to a port of the control domain and unmasks it. The lock of the domain's events is held.
    #[inline(never)]
    pub(crate) fn bind_pirq_to_port(&self, domain: &Domain, pirq: u32, port: u32, vcpu: u32) {
        let Some(line) = self.pirqs.line(pirq) else { return };
        line.bind(port);
        if let Some(page) = domain.pirqs.lock().page
            && let Some(word) = self.machine().words(page).get(pirq as usize / 64)
        {
            let bit = 1 << (pirq % 64);
            if line.needs_eoi() {
                word.fetch_or(bit, Ordering::AcqRel)
            } else {
                word.fetch_and(!bit, Ordering::AcqRel)
            };
        }
        self.aim_pirq(domain, pirq, vcpu);
        self.set_pirq_masked(pirq, line, false);
    }

    /// Lets a message go to the CPU on which a vcpu runs, or ran last.
    #[inline(never)]
    pub(crate) fn aim_pirq(&self, domain: &Domain, pirq: u32, vcpu: u32) {
        if let Some(vcpu) = domain.vcpu(vcpu).filter(|_| pirq >= self.machine().lines()) {
            let message = self.machine().message(pirq, vcpu.sched.cpu().unwrap_or(self.machine().this_cpu()));
            self.memory.pci.lock().aim(self.machine(), pirq, message);
        }
    }

    /// The port of a pirq is being closed; the lock of the control domain's events is held.
    #[inline(never)]
    pub(crate) fn unbind_pirq(&self, pirq: u32) {
        if let Some(line) = self.pirqs.line(pirq) {
            self.set_pirq_masked(pirq, line, true);
            line.unbind();
        }
    }

    /// Sets a line up as the control domain says that it signals (`PHYSDEVOP_setup_gsi`): once, and not while it is at
    /// work. A classic line that is mapped is set up as an edge; that it is said now.
    ///
    /// # Errors
    /// `Inval` if there is no such line, `Exist` if this was said already, if the line is bound to a port and set up,
    /// or is the hypervisor's own, `NoSpc` if no vector is left.
    #[inline(never)]
    pub fn set_up_line(&self, domain: &Domain, _: Control, gsi: u32, signal: Signal) -> Result<(), Errno> {
        let line = self.pirqs.line(gsi).filter(|_| gsi < self.machine().lines()).ok_or(Errno::Inval)?;
        let _held = domain.events.bindings.lock();
        let is_at_work = line.has(LineFlags::ROUTED) && line.port().is_some();
        let is_ours = gsi == TIMER_LINE || self.machine().is_own(gsi);
        if is_at_work || is_ours || line.insert(LineFlags::TOLD).contains(LineFlags::TOLD) {
            return Err(Errno::Exist);
        }
        self.route_line(line, gsi, signal)
    }

    /// Lets a line signal in one way; the lock of the control domain's events is held.
    fn route_line(&self, line: &Line, gsi: u32, signal: Signal) -> Result<(), Errno> {
        self.machine().route(gsi, signal)?;
        line.remove(LineFlags::LEVEL);
        let mut flags = LineFlags::ROUTED;
        flags.set(LineFlags::LEVEL, signal.is_level);
        line.insert(flags);
        if line.port().is_some() {
            self.machine().set_masked(gsi, false);
        }
        Ok(())
    }

    /// Lets the control domain bind a line, whose number is the pirq's (`PHYSDEVOP_map_pirq`). The classic lines signal
    /// by edges unless somebody says otherwise.
    ///
    /// # Errors
    /// `Inval` if there is no such line, `Perm` if the domain has no right to it, `NoSpc` if no vector is left.
    pub fn map_line(&self, domain: &Domain, _: Control, gsi: u32) -> Result<(), Errno> {
        let line = self.pirqs.line(gsi).filter(|_| gsi < self.machine().lines()).ok_or(Errno::Inval)?;
        if !domain.memory.rights.lock().interrupts.contains(gsi.into(), gsi.into()) {
            return Err(Errno::Perm);
        }
        let _held = domain.events.bindings.lock();
        if gsi < CLASSIC_LINES && gsi != ACPI_LINE && !line.has(LineFlags::ROUTED) && !self.machine().is_own(gsi) {
            self.route_line(line, gsi, Signal { is_level: false, is_active_low: false })?;
        }
        line.insert(LineFlags::MAPPED);
        Ok(())
    }

    /// Lets the control domain bind a message of a device: by this pirq, or else by one that nobody has. Answers which.
    ///
    /// # Errors
    /// `Inval` for a pirq that is a line's or in use, `NoSpc` if there is none left; else as
    /// [`crate::pci::Pci::assign`].
    #[inline(never)]
    pub fn map_message(&self, domain: &Domain, wanted: Option<u32>, at: Address, entry: Entry) -> Result<u32, Errno> {
        let _held = domain.events.bindings.lock();
        let pirq = match wanted {
            None => self.free_message()?,
            Some(pirq) => {
                let line = self.pirqs.line(pirq).filter(|_| pirq >= self.machine().lines());
                line.filter(|line| line.port().is_none() && !line.is_mapped()).map(|_| pirq).ok_or(Errno::Inval)?
            }
        };
        let line = self.pirqs.line(pirq).ok_or(Errno::Inval)?;
        let is_device = |mfn| !self.memory.frames.is_ram(mfn) && !self.memory.frames.is_forbidden_io(mfn);
        let message = self.machine().message(pirq, self.machine().this_cpu());
        self.memory.pci.lock().assign(self.machine(), &is_device, (at, entry), pirq, message)?;
        line.insert(LineFlags::MAPPED);
        Ok(pirq)
    }

    /// Takes a pirq from the control domain. The device is silenced first; a port that is bound gets no more events.
    /// The right to a line goes with it, as in Xen.
    ///
    /// # Errors
    /// `Inval` if it is not mapped.
    #[inline(never)]
    pub fn unmap_pirq(&self, domain: &Domain, pirq: u32) -> Result<(), Errno> {
        let _held = domain.events.bindings.lock();
        let line = self.pirqs.line(pirq).filter(|line| line.is_mapped()).ok_or(Errno::Inval)?;
        if pirq < self.machine().lines() {
            self.set_pirq_masked(pirq, line, true);
            // Where the set is of too many ranges the right stays.
            let _ = domain.memory.rights.lock().interrupts.remove(pirq.into(), pirq.into());
        } else {
            self.memory.pci.lock().release(self.machine(), pirq);
        }
        line.remove(LineFlags::MAPPED | LineFlags::RESERVED | LineFlags::IN_SERVICE);
        Ok(())
    }

    /// Forgets a device, and takes its interrupts from the control domain.
    ///
    /// # Errors
    /// `NoDev` if it is not known.
    #[inline(never)]
    pub fn forget_device(&self, domain: &Domain, at: Address) -> Result<(), Errno> {
        loop {
            // Looked at and forgotten in one step: another vcpu may map the next one meanwhile.
            let mut pci = self.memory.pci.lock();
            let Some(pirq) = pci.pirqs_of(at).next() else { return pci.forget(self.machine(), at) };
            drop(pci);
            self.unmap_pirq(domain, pirq)?;
        }
    }

    fn free_message(&self) -> Result<u32, Errno> {
        let is_free = |&pirq: &u32| self.pirqs.line(pirq).is_some_and(Line::is_free);
        (self.machine().lines()..MAX_PIRQS as u32).rev().find(is_free).ok_or(Errno::NoSpc)
    }

    /// Reserves a number for a domain (`PHYSDEVOP_get_free_pirq`): for lines one above the classic ones, if there is
    /// one.
    ///
    /// # Errors
    /// `NoSpc` if there is none left.
    #[inline(never)]
    pub fn reserve_pirq(&self, domain: &Domain, for_line: bool) -> Result<u32, Errno> {
        let _held = domain.events.bindings.lock();
        let lines = self.machine().lines();
        let mut own = domain.pirqs.lock();
        let is_free = |&pirq: &u32| match self.pirqs.line(pirq) {
            Some(line) if domain.is_privileged() => line.is_free(),
            Some(_) => pirq < u64::BITS && own.reserved >> pirq & 1 == 0,
            None => false,
        };
        let low = (CLASSIC_LINES..lines).find(is_free).filter(|_| for_line);
        let pirq = low.or_else(|| (lines..self.pirq_count(domain)).rev().find(is_free)).ok_or(Errno::NoSpc)?;
        if domain.is_privileged() {
            self.pirqs.line(pirq).ok_or(Errno::NoSpc)?.insert(LineFlags::RESERVED);
        } else {
            own.reserved |= 1 << pirq;
        }
        Ok(pirq)
    }

    /// A pirq signalled: the machine's interrupt handler calls this.
    pub fn raise_pirq(&self, pirq: u32) {
        let Some(line) = self.pirqs.line(pirq) else { return };
        let Some(control) = self.domains.get(DomId::DOM0) else { return };
        let mut bindings = control.events.bindings.lock();
        if line.needs_eoi() {
            line.insert(LineFlags::IN_SERVICE);
            self.machine().set_masked(pirq, true);
        }
        // What is unmapped may have been on its way.
        let port = line.port().filter(|_| line.is_mapped());
        if let Some((port, state)) = port.and_then(|port| Some((port, control.events.port(port)?))) {
            self.set_pending(&control, &mut bindings, port, state.vcpu(), None);
        }
    }

    /// The guest has served the device (`PHYSDEVOP_eoi`). Answers the port that is to be unmasked now, if any.
    ///
    /// # Errors
    /// `Inval` for a pirq that the domain has nothing to do with.
    pub fn end_of_interrupt(&self, domain: &Domain, pirq: u32) -> Result<Option<u32>, Errno> {
        let own = domain.pirqs.lock();
        if !domain.is_privileged() {
            return if pirq < u64::BITS && own.reserved >> pirq & 1 != 0 { Ok(None) } else { Err(Errno::Inval) };
        }
        let line = self.pirqs.line(pirq).filter(|line| !line.is_free()).ok_or(Errno::Inval)?;
        if line.remove(LineFlags::IN_SERVICE).contains(LineFlags::IN_SERVICE) && line.is_mapped() {
            self.machine().set_masked(pirq, false);
        }
        Ok(line.port().filter(|_| own.unmasks))
    }

    /// Takes a page of the domain's in which it finds what it must end; with `unmasks`, to do so unmasks the port.
    ///
    /// # Errors
    /// `Inval` for what is no page of its own that it may write, `Busy` if it has given one already.
    #[inline(never)]
    pub fn set_eoi_page(&self, domain: &Domain, frame: u64, unmasks: bool) -> Result<(), Errno> {
        let held = self.memory.hold_own(frame, domain.memory.named())?;
        let mut own = domain.pirqs.lock();
        if own.page.is_some() {
            return Err(Errno::Busy);
        }
        (own.page, own.unmasks) = (Some(held.into_entry()), unmasks);
        Ok(())
    }

    /// Gives back the page of a domain that ends.
    pub fn put_eoi_page(&self, own: &Lock<DomainPirqs, { rank::PIRQS }>) {
        let page = own.lock().page.take();
        if let Some(page) = page {
            self.memory.frames.put_entry(page.mfn(), Hold::Writable);
        }
    }
}
