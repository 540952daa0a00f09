//! Locks, and the one order in which they may be taken.
//!
//! From outermost to innermost: domain table, domain life cycle, paging, grants, events, pools, pirqs, PCI, run queue, frame
//! allocator, console. Two locks of one rank (two domains' events, say) are taken in the order of domain ids.

/// A fair spin lock. The hypervisor runs with interrupts off, so no interrupt handler can find it taken by its own CPU.
pub type Lock<T> = spin::mutex::TicketMutex<T, Attentive>;
/// A held [`Lock`].
pub type Guard<'a, T> = spin::mutex::TicketMutexGuard<'a, T>;

/// Waiting with an ear for other CPUs: the one that holds the lock may itself wait until this one has flushed.
#[derive(Debug)]
pub struct Attentive;

static LISTEN: spin::Once<fn()> = spin::Once::new();

/// Says what a CPU does while it waits for a lock: what others ask of it, with interrupts off. Once, at boot.
pub fn listen_while_waiting(listen: fn()) {
    LISTEN.call_once(|| listen);
}

impl spin::RelaxStrategy for Attentive {
    #[inline(always)]
    fn relax() {
        attend();
    }
}

/// One turn of waiting; out of line, as locks are nearly always free.
#[cold]
#[inline(never)]
fn attend() {
    if let Some(listen) = LISTEN.get() {
        listen();
    }
    core::hint::spin_loop();
}

/// Takes the locks of two owners in the order of their ranks, once only if they are the same.
pub fn both<'a, T>(a: (u32, &'a Lock<T>), b: (u32, &'a Lock<T>)) -> (Guard<'a, T>, Option<Guard<'a, T>>) {
    match a.0.cmp(&b.0) {
        core::cmp::Ordering::Equal => (a.1.lock(), None),
        core::cmp::Ordering::Less => {
            let first = a.1.lock();
            (first, Some(b.1.lock()))
        }
        core::cmp::Ordering::Greater => {
            let second = b.1.lock();
            (a.1.lock(), Some(second))
        }
    }
}
