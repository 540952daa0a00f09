//! The scenarios by subject. A scenario's name is its subject and its function's name.

use anyhow::Result;

use crate::lab::{Lab, Verdict};

mod boot;
mod demo;
mod hypercalls;

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
    hypercalls::version_and_console_answer_as_xen,
    hypercalls::memory_op_gives_and_takes_only_the_domains_frames,
    hypercalls::page_tables_hold_only_what_is_allowed,
    hypercalls::event_channels_connect_only_what_belongs_together,
    hypercalls::grants_reach_only_what_was_granted,
    hypercalls::a_vcpus_registers_take_only_safe_values,
    hypercalls::polls_timers_and_vcpus_answer_as_xen,
    hypercalls::privileged_instructions_and_written_tables_are_emulated,
    hypercalls::batches_and_control_calls_answer_as_xen,
    boot::a_guest_runs_in_dom0s_place_and_powers_off,
    boot::a_module_that_is_no_elf_is_refused_by_name,
    boot::a_kernel_without_notes_is_refused_by_name,
    boot::a_kernel_with_an_entry_outside_itself_is_refused_by_name,
    boot::a_kernel_that_is_cut_short_is_refused_by_name,
    boot::too_little_memory_is_said_so,
    boot::the_plain_qemu_line_leads_to_a_prompt,
    boot::grub_boots_the_iso_image,
    boot::arguments_that_mean_nothing_are_named,
}
