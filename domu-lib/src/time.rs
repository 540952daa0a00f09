//! Time: the hypervisor's clock, and tasks that sleep.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::{println, task, time};
//!
//! task::run(async {
//!     let before = time::now();
//!     time::sleep(50 * time::MILLISECOND).await;
//!     println!("slept {} ns; it is {} ns after 1970", time::now() - before, time::wall());
//!     let late = task::timeout(time::SECOND, core::future::pending::<()>()).await;
//!     assert!(late.is_err());
//! });
//! ```

use alloc::collections::BTreeMap;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::task::{Poll, Waker};

use oxen_abi::errno::Errno;
use oxen_abi::shared_info::{SharedInfo, VcpuInfo, VcpuTimeInfo};
use oxen_abi::virq::VIRQ_TIMER;

use crate::event::Port;
use crate::raw::hypercall::call as hypercall;
use crate::raw::local::local;
use crate::raw::{machine, shared};

/// Nanoseconds of a millisecond.
pub const MILLISECOND: u64 = 1_000_000;
/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000 * MILLISECOND;

const TIME: usize = core::mem::offset_of!(SharedInfo, vcpu_info) + core::mem::offset_of!(VcpuInfo, time);
const WALL: usize = core::mem::offset_of!(SharedInfo, wc_version);

fn field(offset: usize) -> u64 {
    shared::word(TIME + offset).load(Ordering::Relaxed)
}

/// Reads a record of the shared page between two looks at its version.
fn consistently<T>(version: impl Fn() -> u32, read: impl Fn() -> T) -> T {
    loop {
        let before = version();
        fence(Ordering::Acquire);
        let value = read();
        fence(Ordering::Acquire);
        if before & 1 == 0 && before == version() {
            return value;
        }
    }
}

/// Scales ticks to nanoseconds as `vcpu_time_info` says.
const fn scale(ticks: u64, mul: u32, shift: i8) -> u64 {
    let shifted = if shift < 0 { ticks >> shift.unsigned_abs() } else { ticks << shift };
    ((shifted as u128 * mul as u128) >> 32) as u64
}

/// How many nanoseconds so many ticks are, if they are that many at least. No counter is faster than 16 GHz.
pub(crate) fn long(ticks: u64, nanoseconds: u64) -> Option<u64> {
    if ticks < nanoseconds / 16 {
        return None;
    }
    let packed = field(core::mem::offset_of!(VcpuTimeInfo, tsc_to_system_mul));
    Some(scale(ticks, packed as u32, (packed >> 32) as i8)).filter(|&taken| taken >= nanoseconds)
}

/// What a tick is, for tests: `multiplier` / 2^32 nanoseconds, shifted.
#[cfg(test)]
pub(crate) fn set_tick(multiplier: u32, shift: u8) {
    let packed = u64::from(multiplier) | u64::from(shift) << 32;
    shared::word(TIME + core::mem::offset_of!(VcpuTimeInfo, tsc_to_system_mul)).store(packed, Ordering::Relaxed);
}

/// What is added to the hypervisor's clock, modulo 2^64: another one after a restore, so that the guest's goes on.
static OFFSET: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds since the machine started on which this guest did. After a restore it goes on where it was.
pub fn now() -> u64 {
    system().wrapping_add(OFFSET.load(Ordering::Relaxed))
}

/// What the hypervisor's clock tells when [`now`] tells `time`.
pub(crate) fn as_system(time: u64) -> u64 {
    time.wrapping_sub(OFFSET.load(Ordering::Relaxed))
}

/// Nanoseconds since the machine started on which this guest is, as the hypervisor counts them for all domains.
pub fn system() -> u64 {
    consistently(
        || field(0) as u32,
        || {
            let packed = field(core::mem::offset_of!(VcpuTimeInfo, tsc_to_system_mul));
            let elapsed = machine::tsc().wrapping_sub(field(core::mem::offset_of!(VcpuTimeInfo, tsc_timestamp)));
            let nanoseconds = scale(elapsed, packed as u32, (packed >> 32) as i8);
            field(core::mem::offset_of!(VcpuTimeInfo, system_time)).wrapping_add(nanoseconds)
        },
    )
}

/// A time `nanoseconds` from now, as [`system`] counts and as the time stamp counter does.
pub(crate) fn ahead(nanoseconds: u64) -> (u64, u64) {
    let packed = field(core::mem::offset_of!(VcpuTimeInfo, tsc_to_system_mul));
    let (mul, shift) = (u128::from(packed as u32).max(1), (packed >> 32) as i8);
    let scaled = (u128::from(nanoseconds) << 32) / mul;
    let ticks = if shift < 0 { scaled << shift.unsigned_abs() } else { scaled >> shift };
    let (time, tsc) = (system(), machine::tsc());
    (time + nanoseconds, tsc + ticks as u64)
}

/// Nanoseconds since 1970.
pub fn wall() -> u64 {
    let at_boot = consistently(
        || shared::word(WALL).load(Ordering::Relaxed) as u32,
        || {
            let seconds = shared::word(WALL).load(Ordering::Relaxed) >> 32;
            let rest = shared::word(WALL + 8).load(Ordering::Relaxed);
            ((rest >> 32 << 32) + seconds) * SECOND + u64::from(rest as u32)
        },
    );
    at_boot + system()
}

#[derive(Default)]
struct Sleepers {
    queue: RefCell<BTreeMap<(u64, u64), Waker>>,
    next: Cell<u64>,
}

local!(static SLEEPERS: Sleepers = Sleepers::default());

/// The deadline that the hypervisor was told last, 0 for none.
static ARMED: AtomicU64 = AtomicU64::new(0);

/// Binds the timer's virtual interrupt, whose only duty is to end a block, and stops the periodic one.
///
/// # Errors
/// What the hypervisor refuses; sleeping tasks do not wake up by themselves then.
pub(crate) fn start() -> Result<(), Errno> {
    let _ = hypercall::stop_periodic_timer();
    // It is never dropped: the timer is used as long as the guest lives.
    Port::bind_virq(VIRQ_TIMER).map(core::mem::forget)
}

/// Goes on in a new domain at the time `now`: nobody sleeps longer or less for it.
pub(crate) fn go_on(now: u64) {
    OFFSET.store(now.wrapping_sub(system()), Ordering::Relaxed);
    ARMED.store(0, Ordering::Relaxed);
    let _ = hypercall::stop_periodic_timer();
}

/// Wakes the tasks whose time has come.
pub(crate) fn fire() {
    SLEEPERS.with(|sleepers| {
        let mut queue = sleepers.queue.borrow_mut();
        if queue.is_empty() {
            return;
        }
        let now = now();
        while let Some(entry) = queue.first_entry() {
            if entry.key().0 > now {
                break;
            }
            entry.remove().wake();
        }
    });
}

/// Tells the hypervisor the next deadline.
pub(crate) fn arm() {
    let next = SLEEPERS.with(|sleepers| sleepers.queue.borrow().keys().next().map_or(0, |&(deadline, _)| deadline));
    if ARMED.swap(next, Ordering::Relaxed) != next || next != 0 {
        let _ = hypercall::set_timer(if next == 0 { 0 } else { as_system(next) });
    }
}

/// Takes a sleeper out of the queue when the sleep is given up.
struct Entry(Option<(u64, u64)>);

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            SLEEPERS.with(|sleepers| sleepers.queue.borrow_mut().remove(&key));
        }
    }
}

/// Waits until the time (as [`now`] counts it) is `deadline`.
pub async fn sleep_until(deadline: u64) {
    let mut entry = Entry(None);
    poll_fn(|context| {
        if now() >= deadline {
            return Poll::Ready(());
        }
        SLEEPERS.with(|sleepers| {
            let key = *entry.0.get_or_insert_with(|| {
                sleepers.next.set(sleepers.next.get() + 1);
                (deadline, sleepers.next.get())
            });
            sleepers.queue.borrow_mut().insert(key, context.waker().clone());
        });
        Poll::Pending
    })
    .await;
}

/// Waits for `nanoseconds`.
pub async fn sleep(nanoseconds: u64) {
    sleep_until(now().saturating_add(nanoseconds)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_scale_both_ways() {
        // 2 GHz: half a nanosecond a tick.
        assert_eq!(scale(2_000, 1 << 31, 0), 1_000);
        // 500 MHz: two nanoseconds, which only a shift can say.
        assert_eq!(scale(500, 1 << 31, 2), 1_000);
        assert_eq!(scale(8_000, u32::MAX, -3), 999);
    }
}
