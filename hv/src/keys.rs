//! What comes in on the serial line: input for the control domain, and debug keys: one letter on the serial line (after
//! Ctrl-A three times) or through `xl debug-keys`.

use crate::{Hypervisor, console::Accepted, domain::NOT_SHUT_DOWN, event::port::Port, machine::Machine};
use core::sync::atomic::Ordering;
use oxen_abi::{domid::DomId, virq::VIRQ_CONSOLE};

/// A key, what it shows, and how.
type Key<M> = (u8, &'static str, fn(&Hypervisor<M>));

/// How many keys there are.
const KEYS: usize = if cfg!(all(debug_assertions, target_os = "none")) { 11 } else { 9 };

/// Every key there is.
const fn keys<M: Machine>() -> [Key<M>; KEYS] {
    [
        // A checked hypervisor's alone, and none that tests run on a host: they do this themselves.
        #[cfg(all(debug_assertions, target_os = "none"))]
        (b'!', "hang, so that the watchdog has something to find", Hypervisor::hang),
        #[cfg(all(debug_assertions, target_os = "none"))]
        (b'A', "count everything again and judge the laws", Hypervisor::audit),
        (b'a', "dump the vcpus' timers", Hypervisor::show_timers),
        (b'd', "dump registers of vcpus that do not run", Hypervisor::show_registers),
        (b'e', "dump event channels", Hypervisor::show_events),
        (b'g', "dump grant tables", Hypervisor::show_grants),
        (b'h', "show this message", Hypervisor::show_help),
        (b'm', "dump memory", Hypervisor::show_memory),
        (b'p', "print performance counters", Hypervisor::show_all_counters),
        (b'q', "dump domains and vcpus", Hypervisor::show_domains),
        (b't', "dump the clock", Hypervisor::show_clock),
    ]
}

impl<M: Machine> Hypervisor<M> {
    /// Takes what came in on the serial line. The machine's interrupt handler calls this.
    pub fn receive_input(&self) {
        let mut wake_reader = false;
        while let Some(byte) = self.machine().receive() {
            match self.console.accept(byte) {
                Accepted::Key(key) => self.handle_key(key),
                Accepted::Input => wake_reader = true,
                Accepted::Switched { hypervisor_reads } => {
                    let reader = if hypervisor_reads { "the hypervisor" } else { "DOM0" };
                    let how = "(type 'CTRL-a' three times to switch input)";
                    self.print(format_args!("*** Serial input to {reader} {how}"));
                }
                Accepted::Nothing => {}
            }
        }
        if wake_reader {
            self.raise_global_virq(VIRQ_CONSOLE);
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Does what a key asks for. Unknown keys are ignored.
    pub fn handle_key(&self, key: u8) {
        if let Some((_, what, action)) = keys::<M>().into_iter().find(|k| k.0 == key) {
            self.print(format_args!("'{}' pressed -> {what}", char::from(key)));
            action(self);
        }
    }

    /// Never leaves, with a lock. It serves other CPUs, or those would find it first.
    #[cfg(all(debug_assertions, target_os = "none"))]
    fn hang(&self) {
        let _held = self.pools.lock();
        loop {
            self.machine().relax();
        }
    }

    fn show_help(&self) {
        for (key, what, _) in keys::<M>() {
            self.print(format_args!("key '{}' => {what}", char::from(key)));
        }
    }

    fn show_domains(&self) {
        for domain in self.domains.from(DomId::DOM0) {
            let pages = domain.owner().slot().map_or(0, |slot| self.memory.frames.reserved(slot));
            let max_pages = domain.memory.max_pages.load(Ordering::Relaxed);
            let reason = domain.shutdown.load(Ordering::Relaxed);
            self.print(format_args!("domain {}: pages {pages} of {max_pages}, {:?}", domain.id.0, domain.shared_info));
            self.print(format_args!(
                "    paused {} times, assists {:#x}{}{}",
                domain.pause_count.load(Ordering::Relaxed),
                domain.memory.all_assists().bits(),
                if domain.memory.is_dying.load(Ordering::Relaxed) { ", dying" } else { "" },
                if reason == NOT_SHUT_DOWN { "" } else { ", shut down" },
            ));
            for vcpu in domain.each_vcpu() {
                self.show_vcpu(vcpu);
            }
        }
    }

    fn show_vcpu(&self, vcpu: &crate::domain::vcpu::Vcpu) {
        let (pending, masked) = vcpu
            .info
            .lock()
            .map_or((0, false), |info| (info.upcall_pending().load(Ordering::Relaxed), info.upcall_mask()));
        let (pauses, work) = (vcpu.pauses.load(Ordering::Relaxed).bits(), vcpu.work.load(Ordering::Relaxed).bits());
        let events = format_args!("upcall pending {pending}, masked {masked}");
        let known = format_args!("    vcpu {}: pauses {pauses:#x}, work {work:#x}, {events}", vcpu.id);
        match vcpu.slot.try_lock().as_deref().and_then(Option::as_ref) {
            Some(state) => {
                let (regs, mode) = (&state.regs, if state.in_kernel { "kernel" } else { "user" });
                let place = format_args!("{mode} rip {:#x} rsp {:#x} rflags {:#x}", regs.rip, regs.rsp, regs.rflags);
                self.print(format_args!("{known}, {place} root {:?}", state.kernel_root));
            }
            None => self.print(format_args!("{known}, runs")),
        }
    }

    fn show_registers(&self) {
        for domain in self.domains.from(DomId::DOM0) {
            for vcpu in domain.each_vcpu() {
                match vcpu.slot.try_lock().as_deref().and_then(Option::as_ref) {
                    Some(state) => self.print(format_args!("d{}v{}:\n{}", domain.id.0, vcpu.id, state.regs)),
                    None => self.print(format_args!("d{}v{}: runs", domain.id.0, vcpu.id)),
                }
            }
        }
    }

    fn show_all_counters(&self) {
        self.domains.from(DomId::DOM0).for_each(|domain| self.show_counters(&domain));
    }

    fn show_clock(&self) {
        let (seconds, nanoseconds) = self.time.wall_clock();
        let (now, ticks, frequency) = (self.now(), self.machine().ticks(), self.machine().frequency());
        self.print(format_args!("system time {now} ns, counter {ticks} at {frequency} Hz"));
        self.print(format_args!("system time 0 was {seconds}.{nanoseconds:09} s after 1970"));
    }

    fn show_timers(&self) {
        for domain in self.domains.from(DomId::DOM0) {
            for vcpu in domain.each_vcpu() {
                match vcpu.timer.load(Ordering::Relaxed) {
                    u64::MAX => {}
                    at => self.print(format_args!("d{}v{}: timer at {at} ns", domain.id.0, vcpu.id)),
                }
            }
        }
    }

    fn show_events(&self) {
        for domain in self.domains.from(DomId::DOM0) {
            self.print(format_args!("event channels of domain {}:  port [pending masked]", domain.id.0));
            for port in 1..domain.events.valid() {
                if let Some(state) = domain.events.port(port).filter(|&s| s != Port::CLOSED) {
                    let (pending, masked) = self.event_bits(&domain, port);
                    let bits = format_args!("{} {}", u8::from(pending), u8::from(masked));
                    self.print(format_args!("    {port:4} [{bits}]: {state:?}"));
                }
            }
        }
    }

    fn show_grants(&self) {
        for domain in self.domains.from(DomId::DOM0) {
            let grants = domain.grants.lock();
            let ((frames, limit), mappings) = (grants.size(), grants.mappings());
            self.print(format_args!(
                "grants of domain {}: version {}, {frames} of {limit} frames, {} status frames, \
                 maps {mappings} of others'",
                domain.id.0,
                grants.version(),
                grants.status_frames().len(),
            ));
            for (reference, frame, slot, readers, writers) in grants.each_pin() {
                self.print(format_args!(
                    "    {reference:5}: {frame:?} by slot {slot}: {readers} readers, {writers} writers"
                ));
            }
        }
    }

    fn show_memory(&self) {
        self.print(format_args!("frames in the table: {}", self.memory.frames.end()));
        for domain in self.domains.from(DomId::DOM0) {
            let pages = domain.owner().slot().map_or(0, |slot| self.memory.frames.reserved(slot));
            self.print(format_args!("domain {}: {pages} frames in its reservation", domain.id.0));
        }
    }
}
