//! What keeps a CPU, or a vcpu, from going on with guest code at once.

use bitflags::bitflags;

bitflags! {
    /// What is to be done before guest code goes on, on a CPU or for a vcpu.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Work: u32 {
        /// Another vcpu may have to run.
        const RESCHEDULE = 1 << 0;
        /// Deadlines may have passed.
        const TIMER = 1 << 1;
        /// An NMI waits for the vcpu.
        const NMI = 1 << 2;
        /// The vcpu that runs lets others go first.
        const YIELD = 1 << 3;
        /// The CPU did not take the vcpu's selectors.
        const SELECTORS = 1 << 4;
        /// The watchdog's note: nothing is to be done but to take it.
        const WATCHED = 1 << 5;
        /// Half of the CPU's trace is full, or which events it notes has changed.
        const TRACED = 1 << 6;
    }
}
