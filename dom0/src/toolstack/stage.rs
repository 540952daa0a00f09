//! Where a guest stands between its creation and its end: one value, and what follows from what happens to it.

use oxen_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SUSPEND, SHUTDOWN_WATCHDOG};

use crate::config::Action;

/// Why a guest is not running any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It asked for it: one of `SHUTDOWN_*`.
    Shutdown(u32),
    /// Somebody else destroyed it.
    Destroyed,
}

impl End {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shutdown(SHUTDOWN_POWEROFF) => "poweroff",
            Self::Shutdown(SHUTDOWN_REBOOT) => "reboot",
            Self::Shutdown(SHUTDOWN_SUSPEND) => "suspend",
            Self::Shutdown(SHUTDOWN_CRASH) => "crash",
            Self::Shutdown(SHUTDOWN_WATCHDOG) => "watchdog",
            Self::Shutdown(_) => "unknown reason",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether this is how guests end when all is well.
    pub fn is_clean(self) -> bool {
        !matches!(self, Self::Shutdown(SHUTDOWN_CRASH | SHUTDOWN_WATCHDOG))
    }
}

/// Where a guest stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// It has a domain, which has not ended as far as dom0 has noticed.
    #[default]
    Running,
    /// It is being saved: its end is not looked for, as it suspends itself.
    Saving,
    /// It has ended like this and is between two of its domains.
    Restarting(End),
    /// It was between two of its domains when it was destroyed: it does not start again after all.
    CalledOff(End),
    /// It has ended like this, and its domain is kept to be looked at.
    Preserved(End),
    /// Its domain is being taken apart.
    Leaving(End),
    /// It is gone.
    Ended(End),
}

/// What follows from a change of a guest's stage, for the task that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Nothing: it is done, or somebody else's to do.
    Nothing,
    /// Wait until the guest has ended.
    Wait,
    /// Take the domain apart, then say that it is gone.
    TakeApart,
    /// Take the domain apart and start a new one.
    Restart,
    /// Say that the guest is preserved.
    Preserve,
}

impl Stage {
    /// The guest's domain was found to have ended, and its configuration says what follows.
    #[must_use]
    pub const fn end_noticed(self, end: End, action: Action) -> (Self, Duty) {
        match (self, action) {
            (Self::Running, Action::Destroy) => (Self::Leaving(end), Duty::TakeApart),
            (Self::Running, Action::Restart) => (Self::Restarting(end), Duty::Restart),
            (Self::Running, Action::Preserve) => (Self::Preserved(end), Duty::Preserve),
            // Another task takes the domain apart already, or it is kept.
            (stage, _) => (stage, Duty::Nothing),
        }
    }

    /// Somebody wants the guest gone.
    #[must_use]
    pub const fn destroyed(self) -> (Self, Duty) {
        match self {
            Self::Running | Self::Saving => (Self::Leaving(End::Destroyed), Duty::TakeApart),
            // One that ended by itself keeps its own reason.
            Self::Preserved(end) => (Self::Leaving(end), Duty::TakeApart),
            Self::Restarting(end) | Self::CalledOff(end) => (Self::CalledOff(end), Duty::Wait),
            Self::Leaving(_) => (self, Duty::Wait),
            Self::Ended(_) => (self, Duty::Nothing),
        }
    }

    /// Somebody begins to save the guest; only one that runs can be.
    #[must_use]
    pub const fn saving(self) -> Option<Self> {
        match self {
            Self::Running => Some(Self::Saving),
            _ => None,
        }
    }

    /// The guest is no longer being saved, and stays.
    #[must_use]
    pub const fn not_saved(self) -> Self {
        match self {
            Self::Saving => Self::Running,
            stage => stage,
        }
    }

    /// The guest was saved, and is not needed any more, unless somebody else has destroyed it.
    #[must_use]
    pub const fn saved(self, end: End) -> (Self, Duty) {
        match self {
            Self::Saving => (Self::Leaving(end), Duty::TakeApart),
            stage => stage.destroyed(),
        }
    }

    /// The guest runs again in a new domain, unless that was called off.
    #[must_use]
    pub const fn restarted(self) -> Self {
        match self {
            Self::Restarting(_) => Self::Running,
            stage => stage,
        }
    }

    /// Nothing is left of the guest, or it did not start again.
    #[must_use]
    pub const fn gone(self) -> Self {
        match self {
            Self::Running | Self::Saving => Self::Ended(End::Destroyed),
            Self::Restarting(end)
            | Self::CalledOff(end)
            | Self::Preserved(end)
            | Self::Leaving(end)
            | Self::Ended(end) => Self::Ended(end),
        }
    }

    /// How the guest ended, for those who wait for its end: it is gone, or preserved.
    pub const fn end(self) -> Option<End> {
        match self {
            Self::Preserved(end) | Self::Ended(end) => Some(end),
            Self::Running | Self::Saving | Self::Restarting(_) | Self::CalledOff(_) | Self::Leaving(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REBOOT: End = End::Shutdown(SHUTDOWN_REBOOT);
    const CRASH: End = End::Shutdown(SHUTDOWN_CRASH);

    #[test]
    fn what_follows_an_end_is_what_the_configuration_says() {
        let noticed = |action| Stage::Running.end_noticed(CRASH, action);
        assert_eq!(noticed(Action::Destroy), (Stage::Leaving(CRASH), Duty::TakeApart));
        assert_eq!(noticed(Action::Restart), (Stage::Restarting(CRASH), Duty::Restart));
        assert_eq!(noticed(Action::Preserve), (Stage::Preserved(CRASH), Duty::Preserve));
        assert_eq!(Stage::Leaving(CRASH).gone(), Stage::Ended(CRASH));
    }

    #[test]
    fn a_guest_that_starts_again_has_not_ended() {
        let (stage, _) = Stage::Running.end_noticed(REBOOT, Action::Restart);
        assert_eq!(stage.end(), None);
        assert_eq!(stage.restarted(), Stage::Running);
        assert_eq!(stage.gone(), Stage::Ended(REBOOT), "it did not start again");
    }

    #[test]
    fn a_restart_is_called_off_by_destroy() {
        let (stage, duty) = Stage::Restarting(REBOOT).destroyed();
        assert_eq!((stage, duty), (Stage::CalledOff(REBOOT), Duty::Wait));
        assert_eq!(stage.restarted(), stage, "a domain that was built meanwhile does not run");
        assert_eq!(stage.destroyed(), (stage, Duty::Wait));
        assert_eq!(stage.gone(), Stage::Ended(REBOOT));
    }

    #[test]
    fn a_preserved_guest_has_ended_and_is_destroyed_with_its_own_reason() {
        let preserved = Stage::Preserved(CRASH);
        assert_eq!(preserved.end(), Some(CRASH));
        assert_eq!(preserved.end_noticed(End::Destroyed, Action::Restart), (preserved, Duty::Nothing));
        assert_eq!(preserved.destroyed(), (Stage::Leaving(CRASH), Duty::TakeApart));
        assert_eq!(preserved.destroyed().0.gone(), Stage::Ended(CRASH));
    }

    #[test]
    fn of_two_who_destroy_one_takes_apart_and_the_other_waits() {
        let (stage, first) = Stage::Running.destroyed();
        let (stage, second) = stage.destroyed();
        assert_eq!((first, second), (Duty::TakeApart, Duty::Wait));
        assert_eq!(stage.gone().destroyed(), (Stage::Ended(End::Destroyed), Duty::Nothing));
    }

    #[test]
    fn an_end_that_is_noticed_while_a_guest_leaves_changes_nothing() {
        for action in [Action::Destroy, Action::Restart, Action::Preserve] {
            for stage in [Stage::Leaving(End::Destroyed), Stage::CalledOff(REBOOT), Stage::Ended(REBOOT)] {
                assert_eq!(stage.end_noticed(CRASH, action), (stage, Duty::Nothing));
            }
        }
    }

    #[test]
    fn who_is_saved_ends_or_stays_and_can_be_destroyed_meanwhile() {
        const SUSPEND: End = End::Shutdown(SHUTDOWN_SUSPEND);
        let saving = Stage::Running.saving().unwrap();
        assert_eq!(saving.saving(), None, "twice");
        assert_eq!(saving.end_noticed(SUSPEND, Action::Destroy), (saving, Duty::Nothing), "it suspends itself");
        assert_eq!(saving.not_saved(), Stage::Running);
        assert_eq!(saving.saved(SUSPEND), (Stage::Leaving(SUSPEND), Duty::TakeApart));
        let (destroyed, duty) = saving.destroyed();
        assert_eq!((destroyed, duty), (Stage::Leaving(End::Destroyed), Duty::TakeApart));
        assert_eq!(destroyed.saved(SUSPEND), (destroyed, Duty::Wait));
        assert_eq!(destroyed.not_saved(), destroyed);
    }

    proptest! {
        /// Whatever happens in whatever order: one at a time takes a domain apart, and what has ended stays ended.
        #[test]
        fn a_domain_is_never_taken_apart_twice(events in proptest::collection::vec(0..9_u8, 0..30)) {
            let (mut stage, mut at_work) = (Stage::Running, false);
            for event in events {
                let (next, duty) = match event {
                    0 => stage.end_noticed(CRASH, Action::Destroy),
                    1 => stage.end_noticed(REBOOT, Action::Restart),
                    2 => stage.end_noticed(CRASH, Action::Preserve),
                    3 => stage.destroyed(),
                    // Only the task at work says that a guest runs again or is gone.
                    4 if at_work => (stage.restarted(), Duty::Nothing),
                    5 if at_work => (stage.gone(), Duty::Nothing),
                    6 => (stage.saving().unwrap_or(stage), Duty::Nothing),
                    7 => (stage.not_saved(), Duty::Nothing),
                    8 => stage.saved(REBOOT),
                    _ => continue,
                };
                prop_assert!(!matches!(stage, Stage::Ended(_)) || next == stage);
                if matches!(duty, Duty::TakeApart | Duty::Restart) {
                    prop_assert!(!at_work);
                }
                stage = next;
                at_work = matches!(stage, Stage::Restarting(_) | Stage::CalledOff(_) | Stage::Leaving(_));
            }
        }
    }
}
