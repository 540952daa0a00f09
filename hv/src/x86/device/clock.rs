//! What tells the time at boot: the 8254 timer, to calibrate the others by, and the battery clock.

use super::super::{cpu, port::Port};
use super::apic::Apic;

/// The 8254's frequency in Hz.
const PIT_FREQUENCY: u64 = 1_193_182;
/// How long a measurement takes at the least, in its ticks: 10 ms.
const CALIBRATION: u16 = 11_932;
/// Looks at the timer before it is given up; in QEMU under `-icount` a look costs some thirty nanoseconds only.
const PATIENCE: u32 = 2_000_000;
/// Measurements before it is given up. A busy host may interrupt one after the other.
const ATTEMPTS: u32 = 200;
/// Measurements after which the next take half as long: the shorter, the likelier it is that nothing interrupts them.
const ATTEMPTS_OF_A_LENGTH: u32 = 20;
/// Halvings at most.
const MAX_HALVINGS: u32 = 3;
/// Readings of all counters at once of which the quickest counts.
const READINGS: u32 = 8;
const CHANNEL2_COUNT_DOWN: u8 = 0xb0;
const LATCH_CHANNEL2: u8 = 0x80;
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

/// All counters at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    tsc: u64,
    pit: u16,
    apic: u32,
    /// How long reading took, in ticks of the TSC.
    took: u64,
}

/// Channel 2 of the 8254, which can be read without being heard.
struct Timer {
    control: Port<u8>,
    mode: Port<u8>,
    channel: Port<u8>,
}

impl Timer {
    fn start(&self) {
        let control = self.control.read();
        self.control.write(control & !SPEAKER & !GATE);
        self.mode.write(CHANNEL2_COUNT_DOWN);
        self.channel.write(u8::MAX);
        self.channel.write(u8::MAX);
        self.control.write(control & !SPEAKER | GATE);
    }

    fn read(&self, apic: Apic) -> Reading {
        let tsc = cpu::ticks();
        self.mode.write(LATCH_CHANNEL2);
        let pit = u16::from_le_bytes([self.channel.read(), self.channel.read()]);
        let apic = apic.counted();
        Reading { tsc, pit, apic, took: cpu::ticks() - tsc }
    }

    /// A reading that nothing interrupted: a machine that is itself a program may lose its CPU between two counters.
    fn read_well(&self, apic: Apic) -> Reading {
        let first = self.read(apic);
        (1..READINGS).map(|_| self.read(apic)).fold(first, |best, next| if next.took < best.took { next } else { best })
    }
}

/// Why a measurement is none.
enum NotMeasured {
    /// The 8254 does not count.
    Still,
    /// It came to its end: something kept the CPU busy for too long.
    Late,
}

/// Measures both counters against channel 2 of the 8254; `None` if that does not count, or no
/// measurement came to its end in time.
pub(crate) fn calibrate(apic: Apic) -> Option<Frequencies> {
    // SAFETY: the 8254 and the speaker's port, as every PC has them; neither reaches memory.
    let [control, mode, channel] = [0x61, 0x43, 0x42].map(|port| unsafe { Port::<u8>::new(port) });
    let before = control.read();
    apic.start_counting();
    let timer = Timer { control, mode, channel };
    let attempt = |number: u32| measure(&timer, apic, CALIBRATION >> (number / ATTEMPTS_OF_A_LENGTH).min(MAX_HALVINGS));
    let found = (0..ATTEMPTS).map(attempt).find(|measured| !matches!(measured, Err(NotMeasured::Late)));
    apic.stop_counting();
    timer.control.write(before);
    found?.ok()
}

/// One measurement, of `length` ticks at the least.
fn measure(timer: &Timer, apic: Apic, length: u16) -> Result<Frequencies, NotMeasured> {
    timer.start();
    let start = timer.read_well(apic);
    let passed = |reading: &Reading| start.pit.wrapping_sub(reading.pit);
    let is_done = (0..PATIENCE).any(|_| passed(&timer.read(apic)) >= length);
    let end = timer.read_well(apic);
    if !is_done {
        return Err(NotMeasured::Still);
    }
    if timer.control.read() & OUTPUT != 0 {
        return Err(NotMeasured::Late);
    }
    let per_second = |count: u64| count * PIT_FREQUENCY / u64::from(passed(&end));
    let apic_ticks = u64::from(end.apic.wrapping_sub(start.apic));
    Ok(Frequencies { tsc: per_second(end.tsc - start.tsc), apic: per_second(apic_ticks) })
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
