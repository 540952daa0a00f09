//! The PC, as the library's traits ask for it.

mod memory;

use super::device::apic::{Apic, vector};
use super::device::ioapic::IoApic;
use super::device::{clock::Frequencies, power, serial::Uart};
use super::memory::space::Space;
use super::{cpu, msr, percpu, port, processor};
use core::ops::RangeInclusive;
use oxen_hv::config::MAX_CPUS;
use oxen_hv::domain::vcpu::{Processor, VcpuState};
use oxen_hv::hardware::{Clock, CpuId, Power};
use oxen_hv::machine::Machine;
use oxen_hv::shootdown::Shootdown;
use oxen_hv::{
    console::Serial,
    firmware::acpi::PowerOff,
    ports::{Ports, Registers, overlap},
};
use x86_64::registers::control::Cr4Flags;
use x86_64::registers::debug::Dr6Flags;

/// A PC, as far as the hypervisor drives it itself.
#[derive(Debug)]
pub(crate) struct Pc {
    pub features: cpu::Features,
    pub leaves: cpu::Leaves,
    pub apic: Apic,
    /// The APICs of the CPUs, in the order of their numbers.
    pub apic_ids: heapless::Vec<u8, MAX_CPUS>,
    pub shootdown: Shootdown,
    pub ioapics: heapless::Vec<IoApic, 8>,
    pub frequencies: Frequencies,
    /// APIC timer ticks per TSC tick, as a fraction of 2^32.
    pub apic_scale: u64,
    /// Seconds since 1970 when the TSC was 0.
    pub wall_clock: u64,
    pub console: Uart,
    pub space: Space,
    pub power_off: Option<PowerOff>,
    /// The first of the ACPI timer's four ports. As on Xen they are nobody's: the hypervisor's clock is the guests'.
    pub timer_port: Option<u16>,
    /// The console's interrupt line.
    pub console_gsi: u32,
    /// The 8254's interrupt line, and whether it is the watchdog's.
    pub timer_gsi: u32,
    pub is_watched: bool,
    /// Whether to stop, rather than start again, after a crash.
    pub no_reboot: bool,
}

impl Pc {
    /// Interrupts another CPU.
    fn interrupt(&self, number: usize, vector: u32) {
        if let Some(&apic) = self.apic_ids.get(number) {
            self.apic.send(apic, vector);
        }
    }

    /// Flushes what other CPUs ask this one to.
    pub(crate) fn serve_shootdown(&self) {
        self.shootdown.serve(percpu::this().number, |page| match page {
            Some(page) => cpu::invalidate(page.as_u64()),
            None => cpu::flush(),
        });
    }
}

/// What `isa-debug-exit` is told when the control domain has crashed.
const DOM0_CRASHED: u32 = 0x13;

impl Machine for Pc {}

impl Processor for Pc {
    fn unload(&self) {
        processor::unload();
    }

    fn load(&self, state: &VcpuState) -> bool {
        processor::load(percpu::this(), &self.features, state)
    }

    fn load_segments(&self, state: &VcpuState) -> bool {
        processor::load_segments(state)
    }

    fn save(&self, state: &mut VcpuState) {
        processor::save(percpu::this(), &self.features, state);
    }

    fn bases(&self, _state: &VcpuState) -> (u64, u64, u64) {
        processor::bases()
    }

    fn set_fs_base(&self, base: u64) {
        processor::set_base(msr::FS_BASE, base);
    }

    fn set_gs_base(&self, base: u64) {
        processor::set_base(msr::GS_BASE, base);
    }

    fn set_other_gs_base(&self, base: u64) {
        processor::set_base(msr::KERNEL_GS_BASE, base);
    }

    fn set_tsc_aux(&self, value: u32) {
        processor::set_tsc_aux(percpu::this(), &self.features, value);
    }

    fn set_guest_cr4(&self, cr4: Cr4Flags) -> bool {
        cpu::set_guest_cr4(&self.features, cr4)
    }

    fn take_debug_status(&self) -> Dr6Flags {
        cpu::take_debug_status()
    }

    fn set_user_gs(&self, selector: u16) -> bool {
        processor::set_user_gs(selector)
    }

    fn load_descriptor_tables(&self, state: &VcpuState) {
        processor::load_descriptor_tables(percpu::this(), state);
    }

    fn set_task_switched(&self, set: bool) {
        cpu::set_task_switched(set);
    }

    fn load_debug_registers(&self, state: &VcpuState) {
        processor::load_debug_registers(percpu::this(), state);
    }

    #[inline]
    fn switch_mode(&self, state: &VcpuState) {
        processor::switch_mode(state);
    }
}

impl Clock for Pc {
    #[inline]
    fn ticks(&self) -> u64 {
        cpu::ticks()
    }

    #[inline]
    fn frequency(&self) -> u64 {
        self.frequencies.tsc
    }

    fn arm(&self, deadline: u64) {
        let left = deadline.saturating_sub(cpu::ticks());
        let ticks = (u128::from(left) * u128::from(self.apic_scale)) >> 32;
        self.apic.arm(u32::try_from(ticks).unwrap_or(u32::MAX), deadline);
    }

    fn kick(&self, cpu: CpuId) {
        self.interrupt(cpu.0.into(), vector::KICK);
    }

    fn idle(&self) {
        cpu::wait_for_interrupt();
    }

    fn relax(&self) {
        self.serve_shootdown();
        core::hint::spin_loop();
    }

    fn wall_clock_at_boot(&self) -> (u64, u32) {
        (self.wall_clock, 0)
    }
}

impl Power for Pc {
    fn power_off(&self) {
        power::off(self.power_off);
    }

    fn reboot(&self) {
        power::reboot();
    }

    fn fail(&self) {
        power::debug_exit(DOM0_CRASHED);
        if self.no_reboot {
            power::halt()
        }
        power::reboot_when_read(self.frequencies.tsc)
    }
}

impl Ports for Pc {
    fn port_in(&self, port: u16, bytes: u8) -> u32 {
        port::input(port, bytes)
    }

    fn port_out(&self, port: u16, bytes: u8, value: u32) {
        port::output(port, bytes, value);
    }

    fn has_own_port(&self, ports: RangeInclusive<u16>) -> bool {
        overlap(&ports, &self.console.ports())
            || self.timer_port.is_some_and(|first| overlap(&ports, &(first..=first.saturating_add(3))))
    }
}

impl Registers for Pc {
    fn read_msr(&self, msr: u32) -> Option<u64> {
        cpu::Bare.read_msr(msr)
    }

    fn write_msr(&self, msr: u32, value: u64) -> bool {
        cpu::Bare.write_msr(msr, value)
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.leaves.get(leaf, subleaf)
    }

    fn set_xcr0(&self, value: u64) -> bool {
        let is_known = value & !self.features.xcr0 == 0 && value & 1 != 0;
        let is_taken = is_known && self.features.has(cpu::Feature::XSAVE) && cpu::Bare.set_xcr0(value);
        if is_taken {
            percpu::this().xcr0.set(value);
        }
        is_taken
    }
}

impl Serial for Pc {
    fn send(&self, bytes: &[u8]) {
        self.console.send(bytes);
    }

    fn receive(&self) -> Option<u8> {
        self.console.receive()
    }
}
