//! The scenarios by subject. A scenario's name is its subject and its function's name.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, Verdict};

mod backends;
mod blkfront;
mod boot;
mod budget;
mod complaints;
mod crowd;
mod demo;
mod disks;
mod faults;
mod gallery;
mod grants;
mod greed;
mod grub;
mod guests;
mod host_tools;
mod hostile;
mod hypercalls;
mod interop;
mod life;
mod linux;
mod load;
mod messages;
mod migration;
mod net;
mod network;
mod own_guests_saved;
mod power;
mod prompt;
mod restart;
mod rootfs;
mod saving;
mod shares;
mod soak;
mod speculation;
mod toolstack;
mod tracing;
mod translated;
mod xdp;

/// How long a scenario may take that is long by itself: a boot is seconds on an idle
/// machine, and minutes on a busy one.
const LONG_LIMIT: Duration = Duration::from_secs(3 * 3600);

/// A guarantee and how it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Subject and sentence: `subject::the_guarantee`.
    pub name: &'static str,
    /// Tries it.
    pub run: fn(&Lab<'_>) -> Result<Verdict>,
}

impl Scenario {
    /// Whether a filter chooses it: by a part of the name, and the long ones only by the beginning of theirs.
    #[must_use]
    pub fn is_meant_by(&self, filter: &str) -> bool {
        let (subject, _) = self.name.split_once("::").unwrap_or_default();
        self.name.contains(filter) && (!LONG.contains(&subject) || filter.starts_with(subject))
    }
}

/// The subjects whose scenarios take long.
const LONG: [&str; 2] = ["soak", "gallery"];

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
    load::processes_memory_signals_and_compilers_are_right_on_two_vcpus_of_an_intel_cpu,
    load::processes_memory_signals_and_compilers_are_right_on_one_vcpu,
    network::two_linux_guests_exchange_100_mib_over_the_bridge_both_ways_at_once,
    saving::a_debian_goes_from_xen_to_oxen_and_back,
    saving::a_debian_at_work_migrates_live,
    own_guests_saved::a_guest_of_ours_goes_from_xen_to_oxen_and_back,
    saving::the_toolstack_saves_and_restores_a_debian,
    saving::the_toolstack_clones_a_debian,
    own_guests_saved::a_guest_of_ours_at_work_on_its_disk_loses_nothing,
    own_guests_saved::a_connection_of_ours_outlives_both_its_ends_domains,
    own_guests_saved::a_guest_of_ours_goes_on_where_it_was,
    own_guests_saved::a_guest_of_ours_is_copied_while_it_runs,
    own_guests_saved::a_guest_that_does_not_suspend_itself_is_named_and_goes_on,
    toolstack::a_thousand_guests_come_and_go_without_losing_a_frame,
    migration::a_move_that_is_cut_off_leaves_the_guest_where_it_was,
    migration::a_guest_of_ours_moves_from_xen_to_oxen_and_back,
    migration::a_guest_of_ours_moves_to_another_machine_and_back,
    migration::a_guest_that_cannot_move_goes_on,
    migration::dom0_has_an_address_of_its_own,
    net::an_interface_that_is_detached_closes_on_both_ends,
    net::net_fetches_from_the_host_and_serves_it,
    net::two_guests_fetch_from_each_other_at_once,
    xdp::a_linux_guest_that_looks_at_frames_gets_its_room_before_them,
    network::frames_cut_inside_their_headers_harm_no_linux_guest,
    hostile::a_guest_at_work_keeps_half_its_speed_beside_two_that_flood_dom0,
    hostile::a_guest_with_the_store_has_its_share_beside_two_that_storm_it,
    hostile::disks_flooded_by_others_do_not_fail,
    hostile::fresh_frames_hold_nothing_of_domains_that_ended,
    hostile::the_hypervisor_reads_nothing_behind_a_linear_entry,
    network::a_frontend_that_breaks_the_protocol_loses_only_its_own_interface,
    network::a_linux_guest_gets_an_address_and_exchanges_32_mib_with_the_host,
    grants::a_linux_guest_of_version_2_has_its_disk_and_network_of_a_linux_dom0,
    grants::a_linux_guest_of_version_2_has_its_disk_and_network_of_our_dom0,
    linux::debians_kernel_works_as_a_guest_with_a_disk,
    linux::debians_kernel_works_as_dom0_on_four_cpus,
    speculation::debians_kernel_runs_with_every_defence_on,
    speculation::what_the_cpu_needs_is_done_and_said,
    speculation::guests_run_with_every_defence_on,
    speculation::a_guest_that_runs_has_nothing_of_the_hypervisors_mapped,
    speculation::calls_are_answered_alike_with_every_defence_on,
    boot::a_dom0_finds_the_firmwares_tables,
    boot::a_hypervisor_that_checks_itself_finds_nothing,
    linux::debian_13s_kernel_works_as_a_guest_and_as_dom0,
    linux::debian_11s_kernel_works_as_a_guest,
    linux::debians_boot_image_works_as_dom0_and_powers_off,
    messages::a_linux_dom0_drives_nvme_virtio_ahci_and_e1000e_by_message,
    interop::fs_reads_and_writes_through_linuxs_backend,
    interop::hello_mmu_and_bench_run_on_real_xen,
    interop::net_talks_through_linuxs_backend,
    interop::debians_tools_create_guests_on_oxen,
    host_tools::debians_tools_say_of_the_host_what_they_say_on_real_xen,
    interop::linux_follows_its_target_as_on_real_xen,
    interop::hog_follows_its_target_on_real_xen,
    interop::the_probe_has_the_same_answers_on_real_xen,
    interop::a_guests_counter_is_as_its_mode_says_on_both,
    interop::a_guest_sees_of_the_processor_what_debians_tools_leave_on_both,
    interop::what_is_drawn_from_seeds_does_the_same_on_real_xen,
    gallery::debian_11s_kernel_works_as_a_guest_and_as_dom0,
    gallery::debian_12s_kernel_works_as_a_guest_and_as_dom0,
    gallery::debian_12s_cloud_kernel_works_as_a_guest,
    gallery::debians_backported_kernel_works_as_a_guest_and_as_dom0,
    gallery::debian_13s_kernel_works_as_a_guest_and_as_dom0,
    gallery::ubuntus_kernel_works_as_a_guest_and_as_dom0,
    gallery::debians_installer_comes_to_its_first_question,
    soak::a_hundred_boots_of_debians_kernel_lose_nothing,
    soak::a_debian_at_work_is_saved_and_restored_a_hundred_times,
    soak::a_guest_of_ours_at_work_is_saved_and_restored_a_hundred_times,
    soak::a_debian_at_work_moves_to_another_machine_and_back_twenty_times,
    soak::damaged_streams_are_refused_and_leave_nothing,
    soak::memory_goes_to_who_consumes_it_and_comes_back,
    soak::eight_linux_guests_run_at_once_in_two_gib,
    soak::a_whole_debian_with_systemd_runs_installs_and_restarts,
    soak::two_hundred_guests_speak_read_and_ping_at_once,
    soak::two_linux_guests_of_two_vcpus_exchange_for_a_minute,
    soak::a_disks_backend_is_begun_anew_a_thousand_times,
    soak::debians_kernel_loses_nothing_while_its_backends_are_begun_anew_for_long,
    soak::a_disk_lies_for_minutes,
    soak::what_is_flushed_is_there_though_the_machine_is_stopped_two_hundred_times,
    restart::a_disks_backend_is_begun_anew_under_load_and_nothing_is_lost,
    restart::interfaces_backends_are_begun_anew_under_load_and_no_frame_is_lost,
    restart::debians_kernel_loses_nothing_while_its_backends_are_begun_anew,
    power::what_is_flushed_is_there_whenever_the_machine_is_stopped,
    backends::a_disk_that_lies_is_told_of_by_our_frontend_which_lives,
    backends::debians_kernel_lives_with_disks_that_lie,
    faults::a_cable_that_is_pulled_and_put_back_costs_time_and_nothing_else,
    faults::debians_kernel_is_told_of_sectors_that_fail,
    faults::sectors_that_fail_are_their_users_error_alone,
    faults::a_disk_that_is_full_is_its_users_error_alone,
    faults::a_disk_that_does_not_answer_is_named_and_its_guest_waits,
    faults::a_panic_of_dom0_is_told_and_the_disks_are_flushed,
    faults::a_cpu_that_hangs_in_the_hypervisor_is_named,
    faults::a_disk_that_shrinks_in_use_gives_errors_until_it_is_whole_again,
    blkfront::disks_are_flushed_discarded_protected_and_resized,
    grub::debians_pv_grub_loads_a_kernel_from_the_guests_own_disk,
    life::a_few_boots_of_debians_kernel_lose_nothing,
    life::a_guest_at_work_follows_its_memory_target_down_and_up,
    life::what_a_guest_at_work_writes_to_is_logged,
    life::a_guest_starts_again_and_its_crash_is_explained,
    life::a_guests_vcpus_go_off_and_on_line,
    life::a_guest_has_forty_vcpus,
    life::a_guest_keeps_time_by_an_emulated_counter,
    life::a_guest_at_work_gets_devices_and_lets_them_go,
    life::a_guest_whose_balloon_is_dead_is_named,
    linux::kernels_that_cannot_be_guests_are_refused_with_the_reason,
    greed::guests_that_fill_the_store_harm_nobody_else,
    greed::a_guest_for_whom_dom0_has_no_memory_is_refused,
    demo::four_guests_run_and_the_files_read_have_the_hosts_sums,
    hypercalls::version_and_console_answer_as_xen,
    hypercalls::memory_op_gives_and_takes_only_the_domains_frames,
    hypercalls::page_tables_hold_only_what_is_allowed,
    hypercalls::translations_that_a_cpu_still_knows_reach_no_table,
    hypercalls::event_channels_connect_only_what_belongs_together,
    hypercalls::event_queues_hold_what_xens_hold,
    hypercalls::grants_reach_only_what_was_granted,
    hypercalls::a_vcpus_registers_take_only_safe_values,
    hypercalls::polls_timers_and_vcpus_answer_as_xen,
    hypercalls::privileged_instructions_and_written_tables_are_emulated,
    hypercalls::batches_and_control_calls_answer_as_xen,
    hypercalls::vcpus_without_a_place_in_shared_info_answer_as_xen,
    hypercalls::devices_interrupt_by_message_as_on_xen,
    hypercalls::what_tools_for_a_host_ask_is_answered_as_by_xen,
    hypercalls::what_is_asked_of_shadows_is_answered_as_by_xen,
    hypercalls::arguments_are_as_wide_as_in_xens_headers,
    hypercalls::model_specific_registers_and_cpuid_answer_as_xen,
    boot::a_guest_runs_in_dom0s_place_and_powers_off,
    boot::a_module_that_is_no_elf_is_refused_by_name,
    boot::a_kernel_without_notes_is_refused_by_name,
    boot::a_kernel_with_an_entry_outside_itself_is_refused_by_name,
    boot::a_kernel_that_is_cut_short_is_refused_by_name,
    boot::a_dom0_that_dies_at_once_is_explained,
    boot::too_little_memory_is_said_so,
    boot::the_plain_qemu_line_leads_to_a_prompt,
    boot::grub_boots_the_iso_image,
    boot::two_cpus_run_guests_at_once,
    boot::grant_tables_are_as_small_as_the_command_line_says,
    boot::the_power_goes_off_when_dom0_says_so,
    boot::arguments_that_mean_nothing_are_named,
    hostile::a_guests_words_steer_no_terminal_and_are_few,
    tracing::xenalyze_reads_what_dom0_takes_down,
    toolstack::a_key_that_is_not_known_is_refused_with_the_nearest,
    toolstack::a_configuration_that_is_not_there_is_named,
    toolstack::a_command_that_is_not_there_is_named,
    toolstack::a_kernel_that_is_no_elf_is_refused_by_dom0,
    toolstack::a_kernel_that_is_not_there_is_named,
    toolstack::a_disk_that_is_not_there_is_named,
    toolstack::more_memory_than_there_is_is_refused,
    toolstack::less_memory_than_the_kernel_needs_is_refused,
    toolstack::two_guests_of_one_name_are_refused,
    toolstack::a_script_that_succeeds_ends_in_success,
    toolstack::an_unprivileged_guest_gets_xens_answers,
    toolstack::a_paused_guest_waits_and_a_destroyed_one_is_gone,
    toolstack::the_store_can_be_read_written_and_listed,
    toolstack::a_guest_that_crashes_shows_its_last_words_and_registers,
    toolstack::a_guest_that_jumps_nowhere_harms_only_itself,
    toolstack::a_guest_that_spins_can_be_destroyed,
    disks::what_a_guest_writes_stands_in_the_image_and_nothing_else,
    disks::a_guest_that_may_only_read_cannot_write,
    disks::an_image_cut_short_is_the_guests_error_alone,
    disks::an_image_without_a_file_system_is_the_guests_error_alone,
    disks::a_guest_that_reads_is_listed_shown_and_destroyed,
    disks::three_guests_share_a_disk,
    disks::a_disk_can_be_a_file_of_the_ramdisk,
    crowd::forty_guests_say_hello_at_once,
    crowd::two_guests_ring_each_other_in_turns,
    crowd::guests_ring_each_other_by_queues,
    guests::mmu_shows_two_address_spaces_and_every_refusal,
    guests::a_guest_follows_its_memory_target,
    translated::the_samples_run_either_way_from_one_binary,
    translated::a_translated_guest_follows_its_memory_target,
    translated::what_cannot_be_is_refused_with_the_reason,
    guests::a_guest_cannot_shrink_below_what_it_needs,
    shares::a_tax_on_idle_memory_moves_it_to_who_uses_it,
    guests::a_new_guest_builds_and_boots_outside_the_checkout,
    guests::a_guest_of_the_packaged_crates_builds_and_boots,
    guests::configurations_kernels_and_files_of_a_users_own_run,
    guests::two_guests_make_a_device_of_their_own,
    prompt::a_configuration_is_read_shown_and_changed_as_by_xl,
    prompt::a_guest_is_pinned_renamed_and_triggered_as_by_xl,
    prompt::the_line_stays_whole_and_knows_its_keys,
    guests::bench_measures_as_a_guest,
    budget::no_primitive_costs_more_than_it_may,
    budget::a_small_guest_is_saved_and_restored_in_time,
}
