//! The local APIC: end of interrupt, the one-shot timer, interrupts between CPUs.

use super::super::memory::tables;
use super::super::{cpu, msr};
use core::sync::atomic::{AtomicU32, Ordering};
use x86_64::registers::model_specific::ApicBaseFlags;

/// Vectors of the hypervisor's own interrupts. Device interrupts take those from 0x20 on, by the pirq's number.
pub(crate) mod vector {
    /// Pirq 0.
    pub(crate) const FIRST_PIRQ: u32 = 0x20;
    /// After the last pirq.
    pub(crate) const END_PIRQ: u32 = FIRST_PIRQ + oxen_hv::config::MAX_PIRQS as u32;
    const _: () = assert!(END_PIRQ == TIMER);
    /// The APIC timer.
    pub(crate) const TIMER: u32 = 0xf0;
    /// Another CPU wants this one to look at its work.
    pub(crate) const KICK: u32 = 0xf1;
    /// Another CPU waits until this one has flushed.
    pub(crate) const FLUSH: u32 = 0xf2;
    /// Nothing; wants no end of interrupt.
    pub(crate) const SPURIOUS: u32 = 0xff;
}

const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const END_OF_INTERRUPT: usize = 0xb0;
const SPURIOUS_VECTOR: usize = 0xf0;
const COMMAND: usize = 0x300;
const COMMAND_TARGET: usize = 0x310;
const TIMER_VECTOR: usize = 0x320;
const PERFORMANCE_VECTOR: usize = 0x340;
const LINE0: usize = 0x350;
const LINE1: usize = 0x360;
const ERROR_VECTOR: usize = 0x370;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

const MASKED: u32 = 1 << 16;
const NMI: u32 = 4 << 8;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const TIMER_BY_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0b1011;
/// Command register: ways to deliver, the level that all but ancient ones want, a group of
/// targets (Intel SDM vol. 3A, 11.6.1).
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const ALL_OTHERS: u32 = 3 << 18;
/// Command register: the last one is still on its way.
const BUSY: u32 = 1 << 12;
const GLOBAL_ENABLE: u64 = ApicBaseFlags::LAPIC_ENABLE.bits();
const X2APIC_ENABLE: u64 = ApicBaseFlags::X2APIC_ENABLE.bits();

/// The registers of the CPU that uses it; every CPU sees its own at the same address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Apic {
    registers: &'static [AtomicU32; 1024],
    by_deadline: bool,
}

impl Apic {
    /// Finds the APIC of the boot CPU; `None` where there is none, or firmware left it in a mode that cannot be undone.
    pub(crate) fn find(features: &cpu::Features) -> Option<Self> {
        // SAFETY: every CPU with an APIC, hence every 64-bit one, has this register.
        let base = unsafe { msr::read(msr::APIC_BASE) };
        if base & X2APIC_ENABLE != 0 {
            return None;
        }
        let address = tables::map_device(base & 0xf_ffff_f000)?;
        // SAFETY: the page was just mapped, for good, on the APIC's registers, which are only ever used as atomics.
        let registers = unsafe { &*(address as *const [AtomicU32; 1024]) };
        Some(Self { registers, by_deadline: features.has(cpu::Feature::TSC_DEADLINE) })
    }

    fn read(self, register: usize) -> u32 {
        self.registers.get(register / 4).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn write(self, register: usize, value: u32) {
        if let Some(word) = self.registers.get(register / 4) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Turns this CPU's APIC on, timer stopped.
    pub(crate) fn enable(self) {
        // SAFETY: sets the enable bit only; the registers stay where they are.
        unsafe { msr::write(msr::APIC_BASE, msr::read(msr::APIC_BASE) | GLOBAL_ENABLE) }
        self.write(TASK_PRIORITY, 0);
        self.write(LINE0, MASKED);
        self.write(LINE1, NMI);
        self.write(PERFORMANCE_VECTOR, MASKED);
        self.write(ERROR_VECTOR, MASKED);
        self.write(DIVIDE, DIVIDE_BY_1);
        self.write(TIMER_VECTOR, if self.by_deadline { TIMER_BY_DEADLINE } else { 0 } | vector::TIMER);
        self.write(INITIAL_COUNT, 0);
        self.write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | vector::SPURIOUS);
    }

    /// This CPU's number among APICs.
    pub(crate) fn id(self) -> u8 {
        (self.read(ID) >> 24) as u8
    }

    /// Says that the interrupt being served is done with.
    #[inline]
    pub(crate) fn end_of_interrupt(self) {
        self.write(END_OF_INTERRUPT, 0);
    }

    /// Counts the timer down from its greatest value, for calibration.
    pub(crate) fn start_counting(self) {
        self.write(TIMER_VECTOR, MASKED | vector::TIMER);
        self.write(INITIAL_COUNT, u32::MAX);
    }

    /// How far the timer has counted since [`Self::start_counting`].
    pub(crate) fn counted(self) -> u32 {
        u32::MAX - self.read(CURRENT_COUNT)
    }

    /// Ends [`Self::start_counting`].
    pub(crate) fn stop_counting(self) {
        self.enable();
    }

    /// Arms the timer. `ticks` is a distance in its own unit; `deadline` the same moment in TSC ticks.
    #[inline]
    pub(crate) fn arm(self, ticks: u32, deadline: u64) {
        if self.by_deadline {
            // SAFETY: the CPU has the register, or `by_deadline` would not be set.
            unsafe { msr::write(msr::TSC_DEADLINE, deadline) }
        } else {
            self.write(INITIAL_COUNT, ticks.max(1));
        }
    }

    /// Raises `vector` on the CPU whose APIC has this number.
    pub(crate) fn send(self, apic: u8, vector: u32) {
        self.command(apic, vector);
    }

    /// Puts another CPU into the state in which it waits for [`Self::start_up`].
    pub(crate) fn reset(self, apic: u8) {
        self.command(apic, INIT);
    }

    /// Lets a CPU that was reset begin at a page below 1 MiB, in real mode.
    pub(crate) fn start_up(self, apic: u8, page: u8) {
        self.command(apic, START_UP | u32::from(page));
    }

    /// Stops the other CPUs where they are, whatever they do.
    pub(crate) fn interrupt_others_now(self) {
        self.command(0, NMI | ALL_OTHERS);
    }

    /// Sends an NMI to another CPU, by one that has just had one itself: it may have interrupted
    /// [`Self::command`] between the two halves.
    pub(crate) fn send_nmi_within_nmi(self, apic: u8) {
        self.wait_until_sent();
        let target = self.read(COMMAND_TARGET);
        self.command(apic, NMI);
        self.wait_until_sent();
        self.write(COMMAND_TARGET, target);
    }

    fn wait_until_sent(self) {
        while self.read(COMMAND) & BUSY != 0 {
            core::hint::spin_loop();
        }
    }

    fn command(self, apic: u8, command: u32) {
        self.wait_until_sent();
        self.write(COMMAND_TARGET, u32::from(apic) << 24);
        self.write(COMMAND, command | ASSERT);
    }
}
