//! Which pages a domain uses: what is told of it against what the domain does.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    errno::Errno,
    sysctl::{OXEN_SYSCTL_WORKING_SETS, Sysctl, SysctlWorkingSets, WorkingSet},
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    hypervisor::Hypervisor,
    mem::entry::Entry,
};
use std::sync::atomic::Ordering::SeqCst;
use support::{
    Fake,
    audit::{self, Holds},
    guest::{Guest, Home},
    table_word,
};
use zerocopy::{FromBytes, IntoBytes};

/// Where the control domain has its request, and its list.
const REQUEST: u64 = 0;
const LIST: u64 = 0x1000;
const ROOM: u32 = 8;

/// A control domain, and a domain with so many pages of data.
fn domains(pages: usize) -> (Guest, Guest, Home) {
    support::on_cpu(0);
    let hv = support::boot(1024);
    let mut control = Guest::new(hv, 0, true, 64);
    control.build_home(4);
    let mut guest = Guest::new(hv, 1, false, 500);
    let home = guest.build_home(pages);
    (control, guest, home)
}

fn turn_with(control: &mut Guest, request: SysctlWorkingSets) -> Result<SysctlWorkingSets, Errno> {
    control.run();
    let op = Sysctl::new(OXEN_SYSCTL_WORKING_SETS, &request);
    control.hv.machine().write_guest(GuestAddr::new(REQUEST), op.as_bytes()).unwrap();
    control.call(Caller::sysctl, [REQUEST, 0, 0, 0])?;
    let mut bytes = [0; size_of::<Sysctl>()];
    control.hv.machine().read_guest(GuestAddr::new(REQUEST), &mut bytes).unwrap();
    Ok(Sysctl::read_from_bytes(&bytes).unwrap().get())
}

/// Ends a period and begins another: what was sampled and touched of the guest, which is domain 1.
fn turn(control: &mut Guest, samples: u32) -> Option<(u32, u32)> {
    let request = SysctlWorkingSets { samples, max_domains: ROOM, next: 0, buffer: LIST };
    let told = turn_with(control, request).unwrap();
    assert_eq!(told.next, 0);
    let sets = (0..told.max_domains).map(|index| {
        let mut set = [0; size_of::<WorkingSet>()];
        let at = GuestAddr::new(LIST + u64::from(index) * set.len() as u64);
        control.hv.machine().read_guest(at, &mut set).unwrap();
        WorkingSet::read_from_bytes(&set).unwrap()
    });
    let set = sets.filter(|set| set.domain.0 == 1).last();
    set.map(|set| (set.sampled, set.touched))
}

/// The guest reads these of its pages.
fn read(guest: &mut Guest, pages: impl Iterator<Item = usize>) {
    guest.run();
    pages.for_each(|page| _ = guest.hv.machine().read_guest_word(GuestAddr::new((page as u64) << 12)).unwrap());
}

fn entries(hv: &'static Hypervisor<Fake>, table: Mfn) -> Vec<u64> {
    (0..512).map(|slot| table_word(hv, table, slot).load(SeqCst)).collect()
}

#[test]
fn of_a_small_domain_every_page_is_watched_and_what_it_reads_is_counted_to_the_page() {
    const PAGES: usize = 60;
    let (mut control, mut guest, home) = domains(PAGES);
    assert_eq!(turn(&mut control, 100), Some((0, 0)), "nothing was watched before");
    let all = PAGES as u32 + 4;
    for (used, again) in [(0, 0), (7, 7), (60, 60), (3, 5)] {
        (0..2).for_each(|_| read(&mut guest, 0..again.min(used)));
        read(&mut guest, 0..used);
        // The four tables always count: they can't be given away.
        assert_eq!(turn(&mut control, 100), Some((all, used as u32 + 4)), "{used} of {PAGES}");
    }
    assert_eq!(turn(&mut control, 0), Some((all, 4)));
    read(&mut guest, 0..PAGES);
    assert_eq!(turn(&mut control, 0), Some((0, 0)), "nothing is watched any more");
    let _ = home;
}

#[test]
fn what_is_known_to_the_cpu_is_forgotten_so_that_hot_pages_count() {
    let (mut control, mut guest, _) = domains(20);
    read(&mut guest, 0..20);
    turn(&mut control, 100);
    read(&mut guest, 0..20);
    assert_eq!(turn(&mut control, 100), Some((24, 24)));
}

#[test]
fn nothing_but_the_mark_of_use_is_changed_and_only_in_entries_that_are_present() {
    let (mut control, mut guest, home) = domains(20);
    read(&mut guest, 0..20);
    // A guest's own notes, where nothing is present.
    table_word(guest.hv, home.tables[3], 400).store(0x1234_5000 | Entry::ACCESSED.bits(), SeqCst);
    let before = entries(guest.hv, home.tables[3]);
    turn(&mut control, 100);
    let after = entries(guest.hv, home.tables[3]);
    for (slot, (before, after)) in before.iter().zip(&after).enumerate() {
        let gone = if slot < 24 { Entry::ACCESSED.bits() } else { 0 };
        assert_eq!(after | gone, before | gone, "slot {slot}");
        assert_eq!(slot < 24, before != after, "slot {slot}");
    }
    table_word(guest.hv, home.tables[3], 400).store(0, SeqCst);
    let mut known = Holds::default();
    for guest in [&control, &guest] {
        known.add(guest.domain.shared_info, true);
        known.add(guest.state.kernel_root.unwrap(), true);
    }
    audit::check(guest.hv, &known, audit::nothing_lent);
}

#[test]
fn of_a_larger_domain_about_as_many_pages_are_watched_as_are_asked_for() {
    let (mut control, mut guest, _) = domains(400);
    let (mut sampled, mut touched) = (0, 0);
    turn(&mut control, 50);
    for _ in 0..40 {
        guest.hv.machine().time.fetch_add(0x1_2345_6789, SeqCst);
        read(&mut guest, 0..100);
        let (watched, used) = turn(&mut control, 50).unwrap();
        sampled += watched;
        touched += used;
    }
    assert!((1700..2300).contains(&sampled), "{sampled} of 2000");
    // 100 pages of 404, and the four tables.
    assert!((touched * 404).abs_diff(sampled * 104) < sampled * 404 / 20, "{touched} of {sampled}");
}

#[test]
fn a_domain_whose_writes_are_logged_is_left_alone() {
    let (mut control, mut guest, home) = domains(20);
    turn(&mut control, 100);
    read(&mut guest, 0..20);
    guest.domain.memory.is_shadowed.store(true, SeqCst);
    turn(&mut control, 100);
    let before = entries(guest.hv, home.tables[3]);
    assert_eq!(turn(&mut control, 100), Some((0, 0)));
    assert_eq!(entries(guest.hv, home.tables[3]), before);
    guest.domain.memory.is_shadowed.store(false, SeqCst);
}

#[test]
fn it_is_the_control_domain_s_and_a_list_that_cannot_be_written_is_a_fault() {
    let (mut control, mut guest, _) = domains(20);
    let request = SysctlWorkingSets { samples: 100, max_domains: ROOM, next: 0, buffer: LIST };
    assert_eq!(turn_with(&mut guest, request).err(), Some(Errno::Perm));
    let wild = SysctlWorkingSets { buffer: 0x7fff_dead_b000, ..request };
    turn(&mut control, 100);
    assert_eq!(turn_with(&mut control, wild).err(), Some(Errno::Fault));
    // Without room nothing is told.
    let none = SysctlWorkingSets { max_domains: 0, ..wild };
    assert_eq!(turn_with(&mut control, none).unwrap().max_domains, 0);
    // Whoever says to have come far is believed: the rest is looked at.
    assert_eq!(turn_with(&mut control, SysctlWorkingSets { next: u64::MAX, ..request }).unwrap().next, 0);
}
