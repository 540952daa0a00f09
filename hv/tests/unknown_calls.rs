//! Commands that no family knows, and pointers to nowhere: every one is refused, and nothing panics or changes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::errno::Errno;
use oxen_hv::caller::Caller;
use support::{audit, guest::Guest};

/// Beyond the commands of every family, the largest of all, and one that is negative to a careless cast.
const UNKNOWN: [u64; 5] = [60, 61, 63, 0x7fff_ffff, 0xffff_ffff];
/// An address that nothing is mapped at, one in the hypervisor, one that is no address at all.
const NOWHERE: [u64; 3] = [0x7000_0000_0000, 0xffff_8300_0000_0000, 0x8000_0000_0000];

macro_rules! refuses {
    ($guest:ident, $family:path, $errors:expr) => {
        for command in UNKNOWN {
            for pointer in NOWHERE {
                let answer = $guest.call($family, [command, pointer, 1, 0]);
                let errors: &[Errno] = &$errors;
                assert!(
                    answer.is_err_and(|error| errors.contains(&error)),
                    "{} {command:#x} {pointer:#x}: {answer:?}",
                    stringify!($family)
                );
            }
        }
    };
}

#[test]
fn what_no_family_knows_is_refused_and_changes_nothing() {
    support::on_cpu(0);
    let hv = support::boot(512);
    for (id, is_privileged) in [(0, true), (1, false)] {
        let mut guest = Guest::new(hv, id, is_privileged, 64);
        guest.build_home(4);
        guest.run();
        let before = audit::snapshot(hv);
        refuses!(guest, Caller::event_channel_op, [Errno::NoSys]);
        refuses!(guest, Caller::sched_op, [Errno::NoSys]);
        refuses!(guest, Caller::callback_op, [Errno::NoSys]);
        refuses!(guest, Caller::xen_version, [Errno::NoSys]);
        refuses!(guest, Caller::physdev_op, [Errno::NoSys]);
        refuses!(guest, Caller::memory_op, [Errno::NoSys]);
        refuses!(guest, Caller::console_io, [Errno::NoSys, Errno::Perm]);
        refuses!(guest, Caller::grant_table_op, [Errno::NoSys, Errno::Fault, Errno::Inval]);
        refuses!(guest, Caller::vcpu_op, [Errno::NoSys, Errno::NoEnt]);
        // These two take no command but a pointer to one.
        refuses!(guest, Caller::platform_op, [Errno::Perm, Errno::Fault, Errno::Acces]);
        refuses!(guest, Caller::sysctl, [Errno::Perm, Errno::Fault, Errno::Acces]);
        audit::assert_unchanged(hv, &before);
    }
}
