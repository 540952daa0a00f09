//! The scenarios by subject. A scenario's name is its subject and its function's name.

use anyhow::Result;

use crate::lab::{Lab, Verdict};

mod demo;

/// A guarantee and how it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Subject and sentence: `subject::the_guarantee`.
    pub name: &'static str,
    /// Tries it.
    pub run: fn(&Lab<'_>) -> Result<Verdict>,
}

/// Names scenarios by their functions.
macro_rules! scenarios {
    ($($subject:ident :: $name:ident),* $(,)?) => {
        /// All scenarios, the longest first so that the last ones end together.
        #[must_use]
        pub fn all() -> Vec<Scenario> {
            vec![$(Scenario { name: concat!(stringify!($subject), "::", stringify!($name)), run: $subject::$name }),*]
        }
    };
}

scenarios! {
    demo::three_guests_run_and_the_files_read_have_the_hosts_sums,
}
