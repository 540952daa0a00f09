//! How a run of a machine ends.

use std::process::ExitStatus;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// dom0 ended the run and called it a success.
    Success,
    /// dom0 ended the run and called it a failure.
    Failure,
    /// The machine was powered off, or reset, without a word.
    PoweredOff,
    /// The hypervisor refused what it was given to run, and said why.
    Refused,
    /// dom0 crashed, and the hypervisor said how.
    Crashed,
    /// The emulator ended otherwise, with this status, or by a signal.
    Qemu(Option<i32>),
    /// The deadline passed, or a limit for silence; the machine was stopped.
    Deadline,
}

impl Exit {
    /// Reads QEMU's status: the exit device makes `value << 1 | 1` of what is written to it.
    #[must_use]
    pub fn from_status(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Self::PoweredOff,
            Some(code) if code & 1 == 1 => Self::from_told(code as u32 >> 1),
            code => Self::Qemu(code),
        }
    }

    /// Reads what was written to the exit device.
    pub(crate) fn from_told(value: u32) -> Self {
        match value {
            0x10 => Self::Success,
            0x11 => Self::Failure,
            0x12 => Self::Refused,
            0x13 => Self::Crashed,
            value => Self::Qemu(i32::try_from(value << 1 | 1).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn what_the_exit_device_was_told_is_understood() {
        let told = |value: i32| Exit::from_status(ExitStatus::from_raw((value << 1 | 1) << 8));
        let ends = [Exit::Success, Exit::Failure, Exit::Refused, Exit::Crashed];
        assert_eq!([0x10, 0x11, 0x12, 0x13].map(told), ends);
        assert_eq!(Exit::from_status(ExitStatus::from_raw(0)), Exit::PoweredOff);
        assert_eq!(told(0x20), Exit::Qemu(Some(0x41)));
    }
}
