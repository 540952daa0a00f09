//! The watchdog: a CPU that does not leave the hypervisor is found by an interrupt that it cannot mask, and
//! ends the machine with where it is.
//!
//! Xen has it from the performance counters, which emulators and many hosts do not give. Here the 8254 ticks, without
//! which this hypervisor does not boot: its first channel, which is nobody else's, reaches the boot CPU as an NMI
//! through the I/O APIC, and that CPU passes every eighth on to the others. The NMI's own way takes no lock and ends at
//! once, so it is blocked for no longer than that, whatever the CPU does.

use super::device::patience;
use super::machine::Pc;
use super::{cpu, panic, percpu, port::Port, running};
use crate::log;
use core::sync::atomic::{AtomicU32, Ordering};
use oxen_hv::Hypervisor;
use oxen_hv::domain::regs::Regs;
use oxen_hv::hardware::CpuId;
use oxen_hv::sched::watch::Patience;

/// The 8254's frequency in Hz, and what it counts down from: all that fits, which is 55 ms.
const FREQUENCY: u64 = 1_193_182;
const COUNT: u64 = 1 << 16;
/// Control word: channel 0, low byte then high byte, an edge every so often (mode 2).
const CHANNEL0_RATE: u8 = 0x34;
/// The 8254's interrupt, of the ISA's.
pub(crate) const TIMER_INTERRUPT: u8 = 0;
/// Ticks from one look at all CPUs to the next: nearly half a second.
const TICKS_PER_LOOK: u32 = 8;
/// Ticks that must come for it to work, and how many milliseconds they may take.
const TRIAL_TICKS: u32 = 3;
const TRIAL: u64 = 2_000;

/// NMIs that the boot CPU has had.
static TICKS: AtomicU32 = AtomicU32::new(0);
/// How many looks may find a CPU in the hypervisor without a pause.
static LOOKS: AtomicU32 = AtomicU32::new(0);

/// Begins to watch all CPUs. `seconds` in the hypervisor are too many. Returns whether NMIs come.
pub(crate) fn start(hv: &Hypervisor<Pc>, seconds: u32) -> bool {
    let Some(ioapic) = hv.machine().ioapics.iter().find(|ioapic| ioapic.has(hv.machine().timer_gsi)) else {
        return false;
    };
    let looks = u64::from(seconds) * FREQUENCY / (COUNT * u64::from(TICKS_PER_LOOK));
    LOOKS.store(looks.max(2) as u32, Ordering::Relaxed);
    // SAFETY: the 8254 of every PC, which does not reach memory.
    let [control, channel] = [0x43, 0x40].map(|port| unsafe { Port::<u8>::new(port) });
    control.write(CHANNEL0_RATE);
    // 0 counts as 65536.
    channel.write(0);
    channel.write(0);
    ioapic.route_as_nmi(hv.machine().timer_gsi, hv.machine().apic.id());
    let before = TICKS.load(Ordering::Relaxed);
    let end = cpu::ticks().saturating_add(hv.machine().frequencies.tsc / 1000 * TRIAL);
    while TICKS.load(Ordering::Relaxed).wrapping_sub(before) < TRIAL_TICKS {
        if cpu::ticks() > end {
            ioapic.set_masked(hv.machine().timer_gsi, true);
            return false;
        }
        core::hint::spin_loop();
    }
    patience::set(u64::from(seconds) * hv.machine().frequencies.tsc);
    true
}

/// An NMI has come: `inside` are the registers where it interrupted the hypervisor, `None` in a guest.
pub(crate) fn nmi(inside: Option<&Regs>) {
    let Some(hv) = running::HYPERVISOR.get() else { return };
    let this = percpu::this().number;
    let is_look = this != 0 || TICKS.fetch_add(1, Ordering::Relaxed).is_multiple_of(TICKS_PER_LOOK);
    let patience = Patience { ticks: patience::get(), looks: LOOKS.load(Ordering::Relaxed) };
    if !is_look || patience.ticks == 0 {
        return;
    }
    if this == 0 {
        let others = hv.online_cpus().filter_map(|other| hv.machine().apic_ids.get(usize::from(other.0)));
        others.skip(1).for_each(|&apic| hv.machine().apic.send_nmi_within_nmi(apic));
    }
    let Some(shared) = hv.cpu(CpuId(this as u16)) else { return };
    let is_stuck = shared.watch.look(&shared.work, inside.is_none(), cpu::ticks(), patience);
    if let Some(regs) = inside.filter(|_| is_stuck) {
        report(hv, this, regs);
    }
}

/// Ends the machine: this CPU is stuck.
fn report(hv: &Hypervisor<Pc>, this: usize, regs: &Regs) -> ! {
    patience::end();
    panic::announce();
    // In Xen's words.
    log!("Watchdog timer detects that CPU{this} is stuck!");
    let now = cpu::ticks();
    for (number, shared) in (0..).zip(&hv.cpus).filter(|(_, shared)| shared.is_online()) {
        let stuck: u64 = shared.watch.stuck_for(&shared.work, now) / hv.machine().frequencies.tsc.max(1);
        if stuck != 0 {
            log!("CPU {number} has not left the hypervisor for {stuck} s");
        }
    }
    #[cfg(debug_assertions)]
    log!("CPU {this} holds these locks, outermost first: {}", percpu::this().held);
    panic::end_at(regs)
}
