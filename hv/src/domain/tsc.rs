//! The time stamp counter as a domain sees it: the processor's own, or one that the hypervisor counts for it
//! (`XEN_DOMCTL_settscinfo`), read by instructions that trap (CR4.TSD).

use crate::{
    lock::{Lock, rank},
    sched::clock::{SECOND, Scale},
};
use core::sync::atomic::{AtomicBool, Ordering};
use oxen_abi::{
    domctl::{DomctlTscInfo, TSC_MODE_ALWAYS_EMULATE, TSC_MODE_DEFAULT, TSC_MODE_NEVER_EMULATE},
    errno::Errno,
};

/// A counter of the hypervisor's, as it would be at any time.
#[derive(Clone, Copy, Debug)]
struct Emulation {
    khz: u32,
    /// Nanoseconds of system time when it was zero; before the start for a domain that ran elsewhere.
    zero_at: i64,
    to_ticks: Scale,
    to_nanoseconds: Scale,
}

impl Emulation {
    fn new(khz: u32, zero_at: i64) -> Self {
        let frequency = u64::from(khz) * 1000;
        Self {
            khz,
            zero_at,
            to_ticks: Scale::ratio(SECOND, frequency),
            to_nanoseconds: Scale::ratio(frequency, SECOND),
        }
    }

    /// The counter at a system time in nanoseconds.
    fn at(&self, time: u64) -> u64 {
        let since = time.wrapping_sub(self.zero_at as u64) as i64;
        let ticks = self.to_ticks.apply(since.unsigned_abs());
        if since < 0 { ticks.wrapping_neg() } else { ticks }
    }
}

#[derive(Debug)]
struct Setting {
    /// A `TSC_MODE_*`.
    mode: u32,
    /// How often the toolstack has set it, over all hosts that the domain was on.
    incarnation: u32,
    emulation: Option<Emulation>,
    /// The system time of the last reading: every reading is later than the one before.
    last: u64,
}

/// How a domain has its time stamp counter.
#[derive(Debug)]
pub struct Tsc {
    setting: Lock<Setting, { rank::TSC }>,
    /// Whether it is emulated; changes while no vcpu of the domain is on a CPU.
    is_emulated: AtomicBool,
}

impl Default for Tsc {
    fn default() -> Self {
        let setting = Setting { mode: TSC_MODE_DEFAULT, incarnation: 1, emulation: None, last: 0 };
        Self { setting: Lock::new(setting), is_emulated: AtomicBool::new(false) }
    }
}

impl Tsc {
    /// Whether the instructions that read it trap.
    #[inline]
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        self.is_emulated.load(Ordering::Relaxed)
    }

    /// What a toolstack wants, at `now`, on a machine whose own counter has this rate. By default that one serves,
    /// unless the domain began on a machine with another rate.
    ///
    /// # Errors
    /// `Inval` for a mode that there is not.
    pub fn set(&self, wanted: &DomctlTscInfo, now: u64, own_khz: u32) -> Result<(), Errno> {
        let khz = if wanted.gtsc_khz == 0 { own_khz } else { wanted.gtsc_khz };
        let emulation = match wanted.tsc_mode {
            TSC_MODE_NEVER_EMULATE => None,
            TSC_MODE_DEFAULT if khz == own_khz => None,
            TSC_MODE_DEFAULT | TSC_MODE_ALWAYS_EMULATE => {
                Some(Emulation::new(khz, now.wrapping_sub(wanted.elapsed_nsec) as i64))
            }
            _ => return Err(Errno::Inval),
        };
        let mut setting = self.setting.lock();
        (setting.mode, setting.emulation) = (wanted.tsc_mode, emulation);
        setting.incarnation = wanted.incarnation.wrapping_add(1);
        self.is_emulated.store(emulation.is_some(), Ordering::Relaxed);
        Ok(())
    }

    /// What a toolstack is told, as it would have to set it elsewhere.
    #[must_use]
    pub fn get(&self, now: u64, own_khz: u32) -> DomctlTscInfo {
        let setting = self.setting.lock();
        let (gtsc_khz, elapsed) = match (setting.mode, &setting.emulation) {
            (TSC_MODE_NEVER_EMULATE, _) => (0, 0),
            (_, Some(emulation)) => (emulation.khz, now.wrapping_sub(emulation.zero_at as u64)),
            (_, None) => (own_khz, now),
        };
        let elapsed_nsec = if (elapsed as i64) < 0 { 0 } else { elapsed };
        DomctlTscInfo { tsc_mode: setting.mode, gtsc_khz, incarnation: setting.incarnation, pad: 0, elapsed_nsec }
    }

    /// A reading at `now`, later than all before; `None` where the processor's own counter serves.
    pub(crate) fn read(&self, now: u64) -> Option<u64> {
        let mut setting = self.setting.lock();
        let emulation = setting.emulation?;
        setting.last = now.max(setting.last.saturating_add(1));
        Some(emulation.at(setting.last))
    }

    /// `vcpu_time_info` as words, for a guest that reads an emulated counter; the version is left zero.
    pub(crate) fn info(&self, now: u64) -> Option<[u64; 4]> {
        let emulation = self.setting.lock().emulation?;
        Some([0, emulation.at(now), now, emulation.to_nanoseconds.word()])
    }

    /// Multiplier and shift of its scale, where it is emulated.
    #[must_use]
    pub fn scale(&self) -> Option<Scale> {
        self.setting.lock().emulation.map(|emulation| emulation.to_nanoseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(tsc_mode: u32, gtsc_khz: u32, elapsed_nsec: u64) -> DomctlTscInfo {
        DomctlTscInfo { tsc_mode, gtsc_khz, incarnation: 4, pad: 0, elapsed_nsec }
    }

    #[test]
    fn a_mode_is_native_or_emulated_as_it_says() {
        for (mode, khz, is_emulated) in [
            (TSC_MODE_DEFAULT, 0, false),
            (TSC_MODE_DEFAULT, 3_000_000, false),
            (TSC_MODE_DEFAULT, 2_000_000, true),
            (TSC_MODE_NEVER_EMULATE, 2_000_000, false),
            (TSC_MODE_ALWAYS_EMULATE, 0, true),
        ] {
            let tsc = Tsc::default();
            tsc.set(&wanted(mode, khz, 7), 1000, 3_000_000).unwrap();
            assert_eq!((tsc.is_emulated(), tsc.read(1500).is_some()), (is_emulated, is_emulated), "{mode} {khz}");
            let told = tsc.get(1500, 3_000_000);
            assert_eq!((told.tsc_mode, told.incarnation), (mode, 5));
            let expected = match (mode, is_emulated) {
                (TSC_MODE_NEVER_EMULATE, _) => (0, 0),
                (_, true) => (if khz == 0 { 3_000_000 } else { khz }, 507),
                (_, false) => (3_000_000, 1500),
            };
            assert_eq!((told.gtsc_khz, told.elapsed_nsec), expected);
        }
        let tsc = Tsc::default();
        assert_eq!(tsc.set(&wanted(3, 0, 0), 0, 1_000_000), Err(Errno::Inval));
        assert_eq!(tsc.get(0, 1_000_000).incarnation, 1, "nothing has changed");
    }

    proptest! {
        #[test]
        fn a_guest_computes_system_time_from_what_it_reads(
            khz in 1..10_000_000_u32, elapsed in -1_i64 << 50..1_i64 << 58,
            now in 0..1_u64 << 50, wait in 0..1_u64 << 32
        ) {
            let tsc = Tsc::default();
            tsc.set(&wanted(TSC_MODE_ALWAYS_EMULATE, khz, elapsed as u64), now, 1).unwrap();
            let [_, stamp, time, scale] = tsc.info(now).unwrap();
            let scale = Scale { mul: scale as u32, shift: (scale >> 32) as i8 };
            let (first, second) = (tsc.read(now + wait).unwrap(), tsc.read(now + wait).unwrap());
            prop_assert!(second.wrapping_sub(first) as i64 >= 0, "never backwards");
            let computed = time + scale.apply(first.wrapping_sub(stamp));
            // A tick of a slow counter is long, and each scale is exact to one part in 2^31.
            let tick = 1_000_000_u64.div_ceil(khz.into());
            prop_assert!(computed.abs_diff(now + wait) <= 3 * tick + (wait >> 29) + 2, "{computed} {}", now + wait);
        }
    }
}
