//! What rooms of every layer ask of the hardware: its CPUs, its time, its end.

/// A physical CPU, numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuId(pub u16);

/// Time and waiting, asked of the machine.
pub trait Clock {
    /// The time stamp counter.
    fn ticks(&self) -> u64;
    /// Ticks per second.
    fn frequency(&self) -> u64;
    /// Arms this CPU's timer for a moment in ticks; replaces what was armed.
    fn arm(&self, deadline: u64);
    /// Lets another CPU look at its work.
    fn kick(&self, cpu: CpuId);
    /// Waits until an interrupt came in.
    fn idle(&self);
    /// Waits a little for another CPU, and serves what others ask of this one meanwhile.
    fn relax(&self) {
        core::hint::spin_loop();
    }
    /// Seconds and nanoseconds since 1970 when the time stamp counter was 0, by the machine's battery clock.
    fn wall_clock_at_boot(&self) -> (u64, u32);
}

/// The machine's own end. On a real machine neither returns.
pub trait Power {
    /// Switches the machine off.
    fn power_off(&self);
    /// Starts the machine anew.
    fn reboot(&self);
    /// Ends after the control domain's crash, so that it is noticed.
    fn fail(&self);
}
