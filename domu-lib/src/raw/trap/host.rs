//! What stands for the trap code on the host: nothing traps, and every address is bad.

use super::frame::{Fault, Frame};

/// The fault that every probe runs into.
const FAULT: Fault = Fault { vector: 14, error: 0, address: 0 };

pub(crate) fn probe_read(_address: u64) -> Result<u64, Fault> {
    Err(FAULT)
}

/// # Safety
/// Writes nothing.
pub(crate) unsafe fn probe_write(_address: u64, _value: u64) -> Result<(), Fault> {
    Err(FAULT)
}

/// # Safety
/// Runs nothing.
pub(crate) unsafe fn run_user(frame: &mut Frame) {
    frame.vector = FAULT.vector;
}
