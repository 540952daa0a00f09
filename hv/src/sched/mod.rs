//! Who runs where, and until when: mechanism. Policy is the run queue's, and being wrong costs time, never safety.

use core::sync::atomic::AtomicU32;

/// What a physical CPU shares with the others.
#[derive(Debug, Default)]
pub struct CpuShared {
    /// Things to do before guest code runs again on this CPU: bits of [`crate::trap::work`].
    pub work: AtomicU32,
    /// The TLB clock when this CPU last flushed everything.
    pub last_flush: AtomicU32,
}

/// What the scheduler keeps with a vcpu.
#[derive(Debug, Default)]
pub struct VcpuSched {}

/// Time and waiting, asked of the machine.
pub trait Clock {
    /// The time stamp counter.
    fn ticks(&self) -> u64;
    /// Ticks per second.
    fn frequency(&self) -> u64;
    /// Arms this CPU's timer for a moment in ticks; replaces what was armed.
    fn arm(&self, deadline: u64);
    /// Lets another CPU look at its work.
    fn kick(&self, cpu: crate::machine::CpuId);
    /// Waits until an interrupt came in.
    fn idle(&self);
    /// Seconds and nanoseconds since 1970, from the machine's battery clock at boot.
    fn wall_clock_at_boot(&self) -> (u64, u32);
}

/// Lets a vcpu run that waits for events, and the CPU that runs it look. To be called after the event was made visible.
pub fn wake<M: crate::machine::Machine>(_: &crate::Hypervisor<M>, vcpu: &crate::domain::vcpu::Vcpu) {
    vcpu.pauses.fetch_and(!6, core::sync::atomic::Ordering::SeqCst);
}
