//! Registers that the caller sets, in its state and in the CPU.

use crate::{caller::Caller, domain::debug::set, machine::Machine};
use oxen_abi::errno::Errno;

impl<M: Machine> Caller<'_, M> {
    /// Sets or clears CR0.TS for the caller (also `fpu_taskswitch`).
    pub fn set_task_switched(&mut self, set: bool) {
        self.state.task_switched = set;
        self.hv.machine().set_task_switched(set);
    }

    /// Writes DR0 to DR7 of the caller.
    ///
    /// # Errors
    /// `Perm` for a breakpoint that a guest may not have; `Inval` for more than 32 bits of DR6 or DR7; `NoDev` for a
    /// register that there is not.
    pub fn write_debug_register(&mut self, number: u8, value: u64) -> Result<(), Errno> {
        set(self.state, number, value)?;
        self.hv.machine().load_debug_registers(self.state);
        Ok(())
    }
}
