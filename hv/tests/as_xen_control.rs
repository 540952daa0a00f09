//! Answers to the control domain that `cargo xtask fuzz` found to be other than real Xen's, as they are there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::XenctlBitmap,
    errno::Errno,
    machine_check::{
        Mca, McaInjectV2, McaMceinject, McaMsrinject, XEN_MC_INJECT_CPU_BROADCAST, XEN_MC_INJECT_TYPE_CMCI,
        XEN_MC_INJECT_TYPE_LMCE, XEN_MC_INJECT_TYPE_MCE, XEN_MC_INJECT_V2, XEN_MC_MCEINJECT, XEN_MC_MSRINJECT,
    },
    mmu::{self, MMU_MACHPHYS_UPDATE},
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    mem::{
        HypervisorSpace,
        entry::Entry,
        write_emulation::{Write, Written},
    },
};
use std::sync::atomic::Ordering;
use support::{
    entry_address,
    guest::{Guest, Home},
    table_word,
};
use x86_64::structures::paging::PageTableFlags;
use zerocopy::{FromZeros, Immutable, IntoBytes};

const SELF: u64 = 0x7ff0;
const IO: u64 = 0x7ff1;

fn guest(is_privileged: bool) -> (Guest, Home) {
    support::on_cpu(0);
    let mut guest = Guest::new(support::boot(256), u16::from(!is_privileged), is_privileged, 64);
    let home = guest.build_home(16);
    (guest, home)
}

#[test]
fn an_operation_on_pages_that_is_none_is_told_as_such_whichever_they_are() {
    let (mut dom0, _) = guest(true);
    let mut ask = |command: u32, owner| {
        dom0.put(0, &[command.into(), 0, 0]);
        dom0.call(Caller::mmuext_op, [0, 1, 0, owner])
    };
    for none in [14, 21, u32::MAX] {
        assert_eq!([ask(none, SELF), ask(none, IO)], [Err(Errno::NoSys); 2], "{none}");
    }
    for own in [5, 6, 13, 15, 18] {
        assert_eq!(ask(own, IO), Err(Errno::Perm), "{own}");
    }
}

#[test]
fn machine_checks_without_an_error_are_injected_and_leave_nothing_behind() {
    fn ask<T: IntoBytes + Immutable>(guest: &mut Guest, command: u32, request: &T) -> Result<u64, Errno> {
        guest.hv.machine().write_guest(GuestAddr::new(0), Mca::new(command, request).as_bytes()).unwrap();
        guest.call(Caller::mca, [0; 4])
    }
    let (mut dom0, _) = guest(true);
    for (cpu, answer) in [(0, Ok(0)), (31, Err(Errno::Inval)), (u32::MAX, Err(Errno::Inval))] {
        assert_eq!(ask(&mut dom0, XEN_MC_MCEINJECT, &McaMceinject { cpu }), answer, "CPU {cpu}");
        let none = McaMsrinject { cpu, flags: 1, ..FromZeros::new_zeroed() };
        assert_eq!(ask(&mut dom0, XEN_MC_MSRINJECT, &none), answer, "no registers of CPU {cpu}");
    }
    let one = McaMsrinject { count: 1, ..FromZeros::new_zeroed() };
    assert_eq!(ask(&mut dom0, XEN_MC_MSRINJECT, &one), Err(Errno::Inval), "no register is read otherwise");
    dom0.hv.machine().write_guest(GuestAddr::new(0x800), &[0, 0, 0, 1 << 7, 0b11]).unwrap();
    let broadcast = XEN_MC_INJECT_CPU_BROADCAST;
    for (flags, bitmap, nr_bits, answer) in [
        (broadcast, u64::MAX, 64, Ok(0)),
        (broadcast, 0, 0, Ok(0)),
        (broadcast | XEN_MC_INJECT_TYPE_CMCI, 0, 0, Err(Errno::Inval)),
        (broadcast | XEN_MC_INJECT_TYPE_LMCE, 0, 0, Err(Errno::Inval)),
        (XEN_MC_INJECT_TYPE_MCE, 0x804, 8, Ok(0)),
        (XEN_MC_INJECT_TYPE_MCE, 0x800, 32, Err(Errno::Inval)),
        (XEN_MC_INJECT_TYPE_MCE, 0x804, 0, Err(Errno::Inval)),
        (XEN_MC_INJECT_TYPE_MCE, 1 << 62, 8, Err(Errno::Fault)),
    ] {
        let cpumap = XenctlBitmap { bitmap, nr_bits, _pad0: 0 };
        let request = McaInjectV2 { flags, _pad0: 0, cpumap };
        assert_eq!(ask(&mut dom0, XEN_MC_INJECT_V2, &request), answer, "{flags:#x} {cpumap:?}");
    }
}

#[test]
fn the_control_domains_writes_to_its_tables_are_done_unasked() {
    let va = GuestAddr::new(((16 + 3) << 12) + 8 * 40);
    for is_privileged in [false, true] {
        let (guest, home) = guest(is_privileged);
        let page = Entry::to(home.data[2], Entry::PRESENT | Entry::USER).0;
        let write = guest.hv.memory.emulate_write(
            &guest.domain.memory,
            guest.state.kernel_root.unwrap(),
            va,
            8,
            Write::Store(page),
        );
        assert_eq!(write == Ok(Written { old: 0, stored: true }), is_privileged, "{write:?}");
    }
}

#[test]
fn a_part_of_an_entry_is_merged_by_its_address_and_the_whole_is_not_looked_at() {
    let (guest, home) = guest(true);
    let mapping = table_word(guest.hv, home.tables[3], 16 + 3);
    let va = GuestAddr::new((16 + 3) << 12);
    for (offset, bytes, is_done, is_accessed) in [(0, 8, true, false), (0, 4, true, true), (3, 4, false, false)] {
        mapping.fetch_and(!Entry::ACCESSED.bits(), Ordering::SeqCst);
        let at = GuestAddr::new(va.as_u64() + 8 * 40 + offset);
        let write = guest.hv.memory.emulate_write(
            &guest.domain.memory,
            guest.state.kernel_root.unwrap(),
            at,
            bytes,
            Write::Store(0),
        );
        assert_eq!(write.is_ok(), is_done, "{write:?}");
        assert_eq!(
            mapping.load(Ordering::SeqCst) & Entry::ACCESSED.bits() != 0,
            is_accessed,
            "{bytes} bytes at {offset}"
        );
    }
}

#[test]
fn a_roots_entries_are_accessed_from_the_pin_on_also_where_it_fails() {
    let (mut guest, home) = guest(false);
    let root = home.data[1];
    let below = Entry::to(home.tables[1], Entry::PRESENT | Entry::USER).0;
    // The mapping for writing ends, or it would be none but a page.
    guest.put(0, &[table_word_address(home.tables[3], 1), 0]);
    assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, SELF]), Ok(0));
    for (broken, answer) in [(support::entry_of(root, 0x1000 | 1 << 7 | 1), Err(Errno::Inval)), (0, Ok(0))] {
        for (slot, entry) in [(0, below), (1, broken)] {
            table_word(guest.hv, root, slot).store(entry, Ordering::SeqCst);
        }
        guest.put(0, &[mmu::MMUEXT_PIN_L4_TABLE.into(), root.raw(), 0]);
        assert_eq!(guest.call(Caller::mmuext_op, [0, 1, 0, SELF]), answer);
        let entry = table_word(guest.hv, root, 0).load(Ordering::SeqCst);
        assert_eq!(entry, below | Entry::ACCESSED.bits(), "{answer:?}");
    }
}

fn table_word_address(table: Mfn, slot: u64) -> u64 {
    table.address().as_u64() + slot * 8
}

#[test]
fn what_is_no_memory_has_a_word_of_the_machine_to_phys_table_for_the_control_domain() {
    for (is_privileged, pfn) in [(true, 0x77), (false, u64::MAX)] {
        let (mut guest, home) = guest(is_privileged);
        let hv = guest.hv;
        let device = (0..).map_while(Mfn::new).find(|frame| !hv.memory.frames.is_ram(*frame)).unwrap();
        let words = hv.machine().machine_to_phys();
        let mut tell = |frame: Mfn| {
            guest.put(0, &[frame.address().as_u64() | MMU_MACHPHYS_UPDATE, 0x77]);
            guest.call(Caller::mmu_update, [0, 1, 0, IO])
        };
        let has_word = device.index() < words.len();
        assert_eq!(tell(device), if has_word { Ok(0) } else { Err(Errno::Inval) });
        assert_eq!(tell(home.data[0]), Err(Errno::Inval), "memory");
        if has_word {
            assert_eq!(words[device.index()].load(Ordering::SeqCst), pfn);
        }
    }
}

#[test]
fn what_the_hypervisor_publishes_is_read_by_the_control_domain_alone_and_written_by_nobody() {
    const XEN: u64 = 0x7ff2;
    for is_privileged in [true, false] {
        let (mut guest, home) = guest(is_privileged);
        let frames = &guest.hv.memory.frames;
        let own = guest.hv.memory.take_own(0).unwrap().mfn();
        let published = guest.hv.memory.take_own(0).unwrap().mfn();
        frames.publish(published, 1);
        let before = frames.state(published);
        let slot = entry_address(home.tables[3], 300);
        let map = |guest: &mut Guest, frame: Mfn, flags| {
            guest.put(0, &[slot, Entry::to(frame, Entry::PRESENT | Entry::USER | flags).0]);
            guest.call(Caller::mmu_update, [0, 1, 0, XEN])
        };
        let readable = map(&mut guest, published, PageTableFlags::empty());
        if !is_privileged {
            assert_eq!(readable, Err(Errno::Perm));
            continue;
        }
        assert_eq!(readable, Ok(0));
        assert_eq!(map(&mut guest, published, Entry::WRITABLE), Err(Errno::Busy));
        assert_eq!(map(&mut guest, own, PageTableFlags::empty()), Err(Errno::Busy), "the rest is its own");
        for kind in 0..5 {
            guest.put(0, &[kind, published.raw(), 0]);
            assert_eq!(guest.call(Caller::mmuext_op, [0, 1, 0, SELF]), Err(Errno::Inval), "no table: {kind}");
        }
        guest.put(0, &[slot, 0]);
        assert_eq!(guest.call(Caller::mmu_update, [0, 1, 0, XEN]), Ok(0));
        assert_eq!(guest.hv.memory.frames.state(published), before, "what it held is given back");
    }
}

#[test]
fn the_last_frame_number_of_all_is_no_frame_and_the_others_are_not_the_guests() {
    for is_privileged in [true, false] {
        let (mut guest, home) = guest(is_privileged);
        let mut map = |frame: u64| {
            guest.put(0, &[entry_address(home.tables[3], 300), frame << 12 | (Entry::PRESENT | Entry::USER).bits()]);
            guest.call(Caller::mmu_update, [0, 1, 0, SELF])
        };
        let last = Entry::FRAME >> 12;
        assert_eq!([map(last), map(last - 1)], [Err(Errno::Inval), Err(Errno::Perm)], "{is_privileged}");
    }
}

#[test]
fn of_a_table_of_descriptors_that_is_refused_those_before_the_bad_one_are_changed() {
    const OPEN: u64 = 0x00af_9b00_0000_ffff;
    const GATE: u64 = 0x0000_8e00_0000_0000;
    let (mut guest, home) = guest(false);
    let page = home.data[2];
    guest.put(2 << 12, &[OPEN, GATE, OPEN]);
    assert_eq!(guest.call(Caller::update_va_mapping, [2 << 12, 0, mmu::UVMF_INVLPG, 0]), Ok(0));
    guest.put(0, &[page.raw()]);
    assert_eq!(guest.call(Caller::set_gdt, [0, 512, 0, 0]), Err(Errno::Inval));
    let words = [0, 1, 2].map(|at| support::table_word(guest.hv, page, at).load(Ordering::SeqCst));
    assert_eq!(words, [OPEN | 3 << 45, GATE, OPEN]);
}
