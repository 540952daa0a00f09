//! System time: nanoseconds since the hypervisor started, from the time stamp counter, and what guests are told of it.
//!
//! One counter value, one system time and one scale are fixed when the clock starts and hold for good, on every CPU.
//! Guests compute from the same three numbers by the same rule, so their time is the hypervisor's to the nanosecond and
//! needs to be published once per place only.

use crate::{
    addr::{GuestWords, PAGE_BYTES},
    hardware::Clock,
    lock::{Lock, rank},
    mem::{GuestMemory, Ram, RamFrame},
    shared_info::VcpuInfoPlace,
};
use core::sync::atomic::{Ordering, fence};

/// Where the time is in a `vcpu_info`.
const TIME_OFFSET: usize = 32;
/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// A factor as `vcpu_time_info` has it: `((ticks << shift) * mul) >> 32`, with a right shift where `shift` is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// `tsc_to_system_mul`.
    pub mul: u32,
    /// `tsc_shift`.
    pub shift: i8,
}

impl Scale {
    /// The factor `to / from`, with 32 significant bits.
    #[must_use]
    pub fn ratio(from: u64, to: u64) -> Self {
        let from = from.max(1);
        let mut shift = 0_i8;
        let mut factor = (u128::from(to.max(1)) << 64) / u128::from(from);
        // Normalised to 2^63 <= factor < 2^64: then its upper half is the multiplier.
        while factor >> 64 != 0 {
            factor >>= 1;
            shift += 1;
        }
        while factor >> 63 == 0 {
            factor <<= 1;
            shift -= 1;
        }
        Self { mul: (factor >> 32) as u32, shift }
    }

    /// The two in a word, as they stand in `vcpu_time_info`.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.mul as u64 | (self.shift as u8 as u64) << 32
    }

    /// Applies the factor, exactly as guests do.
    #[inline]
    #[must_use]
    pub const fn apply(self, value: u64) -> u64 {
        let shifted = if self.shift < 0 {
            value >> (-(self.shift as i32) as u32 & 63)
        } else {
            value << (self.shift as u32 & 63)
        };
        ((shifted as u128 * self.mul as u128) >> 32) as u64
    }
}

/// The machine's time.
#[derive(Debug)]
pub struct SystemTime {
    /// The counter at system time zero.
    epoch: u64,
    to_nanoseconds: Scale,
    to_ticks: Scale,
    /// Seconds and nanoseconds since 1970 at system time zero.
    wall: Lock<(u64, u32), { rank::WALL_CLOCK }>,
}

impl SystemTime {
    /// Starts the clock.
    #[must_use]
    pub fn start(machine: &impl Clock) -> Self {
        let frequency = machine.frequency();
        let epoch = machine.ticks();
        let to_nanoseconds = Scale::ratio(frequency, SECOND);
        let (seconds, nanoseconds) = machine.wall_clock_at_boot();
        let since = to_nanoseconds.apply(epoch) + u64::from(nanoseconds);
        let wall = (seconds + since / SECOND, (since % SECOND) as u32);
        Self { epoch, to_nanoseconds, to_ticks: Scale::ratio(SECOND, frequency), wall: Lock::new(wall) }
    }

    /// Nanoseconds since the start.
    #[inline]
    #[must_use]
    pub fn now(&self, machine: &impl Clock) -> u64 {
        self.to_nanoseconds.apply(machine.ticks().saturating_sub(self.epoch))
    }

    /// The counter value by which this system time will have come: never early, late by no more than 2^-29 of the wait.
    #[inline]
    #[must_use]
    pub fn ticks_at(&self, machine: &impl Clock, deadline: u64) -> u64 {
        let ticks = machine.ticks();
        let now = self.to_nanoseconds.apply(ticks.saturating_sub(self.epoch));
        // Two truncated scales are short of each other by less than one part in 2^30, and each rounds down.
        let wait = self.to_ticks.apply(deadline.saturating_sub(now));
        ticks.saturating_add(wait).saturating_add((wait >> 30) + self.ticks_of_one_nanosecond())
    }

    const fn ticks_of_one_nanosecond(&self) -> u64 {
        self.to_ticks.apply(1) + 2
    }

    /// Seconds and nanoseconds since 1970 at system time zero.
    #[must_use]
    pub fn wall_clock(&self) -> (u64, u32) {
        *self.wall.lock()
    }

    /// Sets the wall clock: it was `seconds` and `nanoseconds` at `system_time`.
    pub fn set_wall_clock(&self, seconds: u64, nanoseconds: u32, system_time: u64) {
        let moment = u128::from(seconds) * u128::from(SECOND) + u128::from(nanoseconds);
        let start = moment.saturating_sub(system_time.into());
        let second = u128::from(SECOND);
        *self.wall.lock() = (u64::try_from(start / second).unwrap_or(u64::MAX), (start % second) as u32);
    }

    /// The 32 bytes of `vcpu_time_info`, as words; the version is left zero.
    #[must_use]
    pub fn vcpu_time_info(&self) -> [u64; 4] {
        [0, self.epoch, 0, self.to_nanoseconds.word()]
    }

    /// Publishes the time in a `vcpu_info` where it is not: a toolstack may have cleared the page.
    #[inline]
    pub fn publish_if_lost(&self, place: &VcpuInfoPlace) {
        let [.., scale] = self.vcpu_time_info();
        if place.word(TIME_OFFSET + 24).load(Ordering::Relaxed) != scale {
            self.publish(place);
        }
    }

    /// Publishes the time in a `vcpu_info`: readers see the version odd while the rest changes.
    pub fn publish(&self, place: &VcpuInfoPlace) {
        publish(place, self.vcpu_time_info());
    }

    /// Publishes the wall clock, `ahead` seconds ahead, in a `shared_info`, by the same protocol.
    pub fn publish_wall_clock(&self, memory: &impl Ram, shared_info: RamFrame, ahead: i64) {
        /// `wc_version` and `wc_sec`, then `wc_nsec` and `wc_sec_hi` (`struct shared_info`, `xen.h`).
        const WALL_OFFSET: usize = 3072;
        const _: () = assert!(WALL_OFFSET + 16 <= PAGE_BYTES);
        let [first, second, ..] = memory.words(shared_info).split_at(WALL_OFFSET / 8).1 else { return };
        let (seconds, nanoseconds) = self.wall_clock();
        let seconds = seconds.saturating_add_signed(ahead);
        let version = first.load(Ordering::Relaxed) as u32 | 1;
        let with_version = |v: u32| u64::from(v) | (seconds & u64::from(u32::MAX)) << 32;
        first.store(with_version(version), Ordering::Relaxed);
        fence(Ordering::Release);
        second.store(u64::from(nanoseconds) | seconds >> 32 << 32, Ordering::Relaxed);
        first.store(with_version(version.wrapping_add(1)), Ordering::Release);
    }
}

/// Publishes `vcpu_time_info` in a `vcpu_info`: readers see the version odd while the rest changes.
pub fn publish(place: &VcpuInfoPlace, info: [u64; 4]) {
    let version = place.word(TIME_OFFSET);
    let old = version.load(Ordering::Relaxed) as u32;
    version.store((old | 1).into(), Ordering::Relaxed);
    fence(Ordering::Release);
    for (word, value) in (TIME_OFFSET + 8..).step_by(8).zip(info.into_iter().skip(1)) {
        place.word(word).store(value, Ordering::Relaxed);
    }
    version.store((old | 1).wrapping_add(1).into(), Ordering::Release);
}

/// Publishes it in a guest's own memory, by the same protocol; returns whether it is there.
pub fn publish_to_guest(machine: &impl GuestMemory, area: GuestWords<4>, info: [u64; 4]) -> bool {
    let [_, words @ ..] = info;
    let version = area.part::<0, 1>();
    let Ok([old]) = machine.read_guest_words(version) else { return false };
    let odd = old as u32 | 1;
    machine.write_guest_words(version, [odd.into()]).is_ok()
        && machine.write_guest_words(area.part::<1, 3>(), words).is_ok()
        && machine.write_guest_words(version, [odd.wrapping_add(1).into()]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_scale_is_exact_to_one_part_in_2_to_the_31(from in 1_000_000..10_000_000_000_u64, value in 0..1_u64 << 50) {
            let scaled = Scale::ratio(from, SECOND).apply(value);
            let exact = u128::from(value) * u128::from(SECOND) / u128::from(from);
            let exact = exact as u64;
            // A scale for a slow counter drops the lowest bits of the count when it shifts right.
            prop_assert!(scaled <= exact && exact - scaled <= (exact >> 31) + SECOND / from + 2, "{scaled} {exact}");
        }
    }

    #[test]
    fn equal_rates_are_the_identity() {
        assert_eq!(Scale::ratio(SECOND, SECOND), Scale { mul: 1 << 31, shift: 1 });
        assert_eq!(Scale::ratio(SECOND, SECOND).apply(123_456_789), 123_456_789);
    }
}
