//! What tells the time at boot: the 8254 timer, to calibrate the others by, and the battery clock.

use super::super::{cpu, port::Port};
use super::apic::Apic;

/// The 8254's frequency in Hz.
const PIT_FREQUENCY: u64 = 1_193_182;
/// How long one measurement takes, in its ticks: 1 ms.
const CALIBRATION: u16 = 1_193;
/// How often it is measured.
const MEASUREMENTS: usize = 10;
/// Looks at the timer's output before it is given up.
const PATIENCE: u32 = 50_000_000;
const CHANNEL2_ONE_SHOT: u8 = 0xb0;
const GATE: u8 = 1;
const SPEAKER: u8 = 2;
const OUTPUT: u8 = 1 << 5;

/// Frequencies in Hz.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frequencies {
    /// Of the time stamp counter.
    pub tsc: u64,
    /// Of the APIC timer.
    pub apic: u64,
}

/// Measures both counters against channel 2 of the 8254; `None` if that does not count.
///
/// A machine that is itself a guest may be stopped in the middle of a measurement, which then nearly always says too
/// much, as the end is seen late. So the smallest of several is right, but for one that may have begun late.
pub(crate) fn calibrate(apic: Apic) -> Option<Frequencies> {
    let mut measured = [Frequencies { tsc: 0, apic: 0 }; MEASUREMENTS];
    for frequencies in &mut measured {
        *frequencies = measure(apic)?;
    }
    measured.sort_unstable_by_key(|frequencies| frequencies.tsc);
    measured.get(1).copied()
}

/// One measurement.
fn measure(apic: Apic) -> Option<Frequencies> {
    // SAFETY: the 8254 and the speaker's port, as every PC has them; neither reaches memory.
    let [control, mode, channel2] = [0x61, 0x43, 0x42].map(|port| unsafe { Port::<u8>::new(port) });
    let before = control.read();
    control.write(before & !SPEAKER & !GATE);
    mode.write(CHANNEL2_ONE_SHOT);
    let [low, high] = CALIBRATION.to_le_bytes();
    channel2.write(low);
    channel2.write(high);
    control.write(before & !SPEAKER | GATE);
    let start = cpu::ticks();
    apic.start_counting();
    let is_done = (0..PATIENCE).any(|_| control.read() & OUTPUT != 0);
    let counted = u64::from(apic.stop_counting());
    let ticks = cpu::ticks() - start;
    control.write(before);
    let per_second = |count: u64| count * PIT_FREQUENCY / u64::from(CALIBRATION);
    is_done.then(|| Frequencies { tsc: per_second(ticks), apic: per_second(counted) })
}

/// Looks at the battery clock before an update is taken for stuck.
const UPDATE_PATIENCE: u32 = 100_000;

/// Seconds since 1970 by the battery clock.
pub(crate) fn wall_clock() -> u64 {
    let mut seen = read_battery_clock();
    loop {
        let again = read_battery_clock();
        if again == seen {
            return to_seconds(seen);
        }
        seen = again;
    }
}

/// Second, minute, hour, day, month, year, century: as the clock has them.
fn read_battery_clock() -> [u8; 7] {
    // SAFETY: the battery clock's index and data ports; NMI stays enabled, and no memory is reached.
    let (index, data) = unsafe { (Port::<u8>::new(0x70), Port::<u8>::new(0x71)) };
    let read = |register: u8| {
        index.write(register);
        data.read()
    };
    for _ in 0..UPDATE_PATIENCE {
        if read(0x0a) & 0x80 == 0 {
            break;
        }
    }
    let status = read(0x0b);
    let raw = [0, 2, 4, 7, 8, 9, 0x32].map(read);
    let decimal = |value: u8| if status & 4 != 0 { value } else { (value >> 4) * 10 + (value & 0xf) };
    let mut fields = raw.map(decimal);
    if let [_, _, hour, ..] = &mut fields
        && status & 2 == 0
    {
        let [_, _, raw_hour, ..] = raw;
        *hour = decimal(raw_hour & 0x7f) % 12 + if raw_hour & 0x80 != 0 { 12 } else { 0 };
    }
    fields
}

fn to_seconds([second, minute, hour, day, month, year, century]: [u8; 7]) -> u64 {
    let century = if (19..=29).contains(&century) { u64::from(century) } else { 20 };
    let (mut years, mut months) = (century * 100 + u64::from(year), u64::from(month));
    // Years from March on, so that the leap day comes last.
    if months <= 2 {
        years -= 1;
        months += 12;
    }
    let days =
        365 * years + years / 4 - years / 100 + years / 400 + (153 * months - 457) / 5 + u64::from(day) - 719_469;
    ((days * 24 + u64::from(hour)) * 60 + u64::from(minute)) * 60 + u64::from(second)
}
