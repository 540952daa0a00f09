//! What guests see of the defences against speculation, and the registers by which they defend themselves; entries that
//! are not present, where the CPU follows them all the same.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{domid::DomId, errno::Errno, mmu, vm_assist::Assists};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn, TABLE_ENTRIES},
    caller::Caller,
    mem::{entry::Entry, frame_type::FrameType, write_emulation::Write},
    reply::{Fault, Reply, Stop},
    speculation::{ARCH_CAPABILITIES, Choices, Found, IBPB, L1tf, PRED_CMD, Plan, SPEC_CTRL, SpecCtrl, Way},
};
use std::sync::atomic::Ordering;
use support::{
    Fake, boot_as,
    dice::Dice,
    entry_address,
    guest::{Guest, Home},
    table_word,
};

const MD_CLEAR: u32 = 1 << 10;
const IBRS_IBPB: u32 = 1 << 26;
const STIBP: u32 = 1 << 27;
const ARCH: u32 = 1 << 29;
const SSBD: u32 = 1 << 31;

/// A hypervisor on a CPU whose leaves 7 (EDX) and 0x80000008 (EBX) are these.
fn on(vendor: [u8; 4], seven: u32, eight: u32, choices: &Choices) -> &'static Hypervisor<Fake> {
    support::on_cpu(0);
    boot_as(256, |hv| {
        let machine = hv.machine();
        let mut peripherals = machine.peripherals.lock().unwrap();
        peripherals.cpuid.insert(0, [0xd, u32::from_le_bytes(vendor), 0, 0]);
        peripherals.cpuid.insert(1, [0x5_06e3, 0, 0, 0]);
        peripherals.cpuid.insert(7, [0, 1 << 7, 0, seven]);
        peripherals.cpuid.insert(0x8000_0000, [0x8000_0021, 0, 0, 0]);
        peripherals.cpuid.insert(0x8000_0008, [0x302e, eight, 0, 0]);
        drop(peripherals);
        let speculation = Plan::of(&Found::of(machine), choices);
        Hypervisor { speculation, ..hv }
    })
}

fn skylake(choices: &Choices) -> &'static Hypervisor<Fake> {
    on(*b"Genu", MD_CLEAR | IBRS_IBPB | STIBP | SSBD, 0, choices)
}

/// As real Xen 4.17 has it on such a CPU, with its defaults and with `spec-ctrl=no`.
#[test]
fn guests_are_told_of_what_they_can_use() {
    let told = |hv, is_privileged| {
        let mut guest = Guest::new(hv, if is_privileged { 0 } else { 1 }, is_privileged, 16);
        let caller = guest.caller();
        (caller.cpuid_leaf(7, 0)[3], caller.cpuid_leaf(0x8000_0008, 0)[1])
    };
    let mut none = Choices::default();
    none.refuse_all();
    let (all, few) = (MD_CLEAR | IBRS_IBPB | STIBP | SSBD, MD_CLEAR);
    assert_eq!(told(skylake(&Choices::default()), true), (all | ARCH, 0x1000));
    assert_eq!(told(skylake(&Choices::default()), false), (all | ARCH, 0x1000));
    assert_eq!(told(skylake(&none), false), (few | ARCH, 0x1000));
    let without_threads = on(*b"Genu", IBRS_IBPB, 0, &Choices::default());
    assert_eq!(told(without_threads, false), (IBRS_IBPB | STIBP | ARCH, 0x1000), "it may be set where it does nothing");
    let zen = on(*b"Auth", 0, 0x7000_9005 | 1 << 14, &Choices::default());
    assert_eq!(told(zen, false), (0, 0x6000_1005), "of AMD's controls the barrier alone");
}

#[test]
fn a_guests_own_register_is_as_it_wrote_it_and_in_force_at_once() {
    let hv = skylake(&Choices::default());
    let mut guest = Guest::new(hv, 1, false, 16);
    let mut caller = guest.caller();
    assert_eq!(caller.read_msr(SPEC_CTRL), Some(0));
    for (value, is_taken) in [(0, true), (1, true), (2, true), (4, true), (7, true), (8, false), (0x400, false)] {
        let before = caller.read_msr(SPEC_CTRL);
        assert_eq!(caller.write_msr(SPEC_CTRL, value), is_taken, "{value:#x}");
        assert_eq!(caller.read_msr(SPEC_CTRL), if is_taken { Some(value) } else { before });
    }
    assert!(!caller.write_msr(SPEC_CTRL, 1 << 32) && !caller.write_msr(ARCH_CAPABILITIES, 0));
    assert_eq!(caller.read_msr(ARCH_CAPABILITIES), Some(4), "Skylake's returns");
    let ways = caller.state.ways;
    assert_eq!((ways.own, ways.guests), (SpecCtrl::IBRS, SpecCtrl::IBRS | SpecCtrl::STIBP | SpecCtrl::SSBD));
    assert!(ways.way.contains(Way::CONTROL));
    assert!(caller.write_msr(SPEC_CTRL, 1) && !caller.state.ways.way.contains(Way::CONTROL));
    assert_eq!(hv.machine().peripherals.lock().unwrap().msrs.get(&SPEC_CTRL), None, "the ways load it, nobody else");
}

#[test]
fn predictions_are_forgotten_for_who_asks() {
    let forgot = |hv: &Hypervisor<Fake>| hv.machine().peripherals.lock().unwrap().msrs.remove(&PRED_CMD);
    let hv = skylake(&Choices::default());
    let mut guest = Guest::new(hv, 1, false, 16);
    let mut caller = guest.caller();
    assert!(caller.write_msr(PRED_CMD, 0) && forgot(hv).is_none());
    assert!(caller.write_msr(PRED_CMD, 1) && forgot(hv) == Some(IBPB));
    assert!(!caller.write_msr(PRED_CMD, 2) && !caller.write_msr(PRED_CMD, 1 << 32 | 1) && forgot(hv).is_none());
    assert_eq!(caller.read_msr(PRED_CMD), None, "it is a command");
    for (vendor, eight, is_there) in [(*b"Auth", 1 << 12, true), (*b"Auth", 1 << 14, false), (*b"Genu", 1 << 12, false)]
    {
        let hv = on(vendor, 0, eight, &Choices::default());
        let mut guest = Guest::new(hv, 1, false, 16);
        assert_eq!(guest.caller().write_msr(PRED_CMD, 1), is_there);
        assert_eq!((guest.caller().read_msr(SPEC_CTRL), guest.caller().write_msr(SPEC_CTRL, 0)), (None, false));
    }
}

/// No RAM from 0x300000000000 on, 46 bits compared: Skylake's.
const RULE: L1tf = L1tf { judged: [false, true], compared: (1 << 46) - 1, safe: 3 << 44 };
/// What such a CPU could follow, and what it could not.
const UNSAFE: [u64; 4] = [0x1000, 0x12_3456_7ffe, 0x2fff_ffff_f000, 1 << 46 | 0x5000];
const SAFE: [u64; 5] = [0, 0xffe, 3 << 44, 0x000f_ffff_ffff_f000, 1 << 46];

fn judged() -> (Guest, Home) {
    support::on_cpu(0);
    let hv = boot_as(256, |hv| Hypervisor { speculation: Plan { l1tf: RULE, ..Plan::NOTHING }, ..hv });
    let mut guest = Guest::new(hv, 1, false, 64);
    let home = guest.build_home(16);
    (guest, home)
}

const BUFFER: u64 = 0;

/// A handler's reply as it is, once it is not preempted any more.
fn ask(guest: &mut Guest, handler: fn(&mut Caller<'_, Fake>, &mut [u64; 6]) -> Reply, args: [u64; 4]) -> Reply {
    let mut args = [args[0], args[1], args[2], args[3], 0, 0];
    loop {
        match handler(&mut guest.caller(), &mut args) {
            Err(Stop::Unfinished) => {}
            reply => return reply,
        }
    }
}

fn update(guest: &mut Guest, ptr: u64, val: u64) -> Reply {
    guest.put(BUFFER, &[ptr, val]);
    ask(guest, |caller, args| caller.mmu_update(args), [BUFFER, 1, 0, 0x7ff0])
}

fn pin(guest: &mut Guest, cmd: u32, table: Mfn) -> Reply {
    guest.put(BUFFER, &[u64::from(cmd), table.raw(), 0]);
    ask(guest, |caller, args| caller.mmuext_op(args), [BUFFER, 1, 0, 0x7ff0])
}

const ENDED: Reply = Err(Stop::Fatal(Fault::AbsentEntry));

/// Every entry of every table that the guest has is one that it may have.
fn assert_sound(guest: &Guest) {
    let frames = &guest.hv.memory.frames;
    for frame in (0..frames.end() as u64).filter_map(Mfn::new) {
        let state = frames.state(frame);
        let is_table = matches!(state.kind(), FrameType::L1 | FrameType::L2 | FrameType::L3 | FrameType::L4);
        if is_table && state.uses() != 0 && state.is_validated() && state.owner() == guest.domain.owner() {
            for slot in 0..TABLE_ENTRIES {
                let entry = table_word(guest.hv, frame, slot).load(Ordering::SeqCst);
                assert!(Entry(entry).is_present() || RULE.is_safe(entry), "{frame:?} {slot}: {entry:#x}");
            }
        }
    }
}

#[test]
fn an_entry_that_is_not_present_and_leads_to_memory_ends_the_guest_on_every_way() {
    for entry in UNSAFE {
        let (mut guest, home) = judged();
        let [l4, l3, l2, l1] = home.tables;
        for (table, slot) in [(l1, 3), (l2, 7), (l3, 7), (l4, 7)] {
            let before = table_word(guest.hv, table, slot).load(Ordering::SeqCst);
            assert_eq!(update(&mut guest, entry_address(table, slot), entry), ENDED, "{entry:#x} in {table:?}");
            assert_eq!(table_word(guest.hv, table, slot).load(Ordering::SeqCst), before, "it is not written");
        }
        let mapped = ask(&mut guest, |caller, args| caller.update_va_mapping(args), [4 << 12, entry, 0, 0]);
        assert_eq!(mapped, ENDED);
        guest.domain.memory.change_assists(Assists::WRITABLE_PAGETABLES, true);
        let root = guest.state.kernel_root.unwrap();
        let va = GuestAddr::new(((16 + 3) << 12) + 8 * 5);
        let emulated = guest.hv.memory.emulate_write(&guest.domain.memory, root, va, 8, Write::Store(entry));
        assert_eq!(emulated.map(drop), Err(Stop::Fatal(Fault::AbsentEntry)));
        // A table that is pinned with such an entry in it.
        let table = home.data[9];
        table_word(guest.hv, table, 200).store(entry, Ordering::SeqCst);
        assert_eq!(update(&mut guest, entry_address(l1, 9), 0), Ok(0));
        for cmd in [mmu::MMUEXT_PIN_L1_TABLE, mmu::MMUEXT_PIN_L2_TABLE, mmu::MMUEXT_PIN_L4_TABLE] {
            assert_eq!(pin(&mut guest, cmd, table), ENDED);
            assert_eq!(guest.hv.memory.frames.state(table).uses(), 0, "it holds nothing");
        }
        assert_sound(&guest);
        guest.caller().end_for_absent_entry();
        assert!(guest.domain.is_shut_down());
    }
}

#[test]
fn what_the_cache_cannot_hold_may_stand_in_any_table() {
    let (mut guest, home) = judged();
    let [l4, l3, l2, l1] = home.tables;
    for entry in SAFE {
        for (table, slot) in [(l1, 3), (l2, 7), (l3, 7), (l4, 7)] {
            assert_eq!(update(&mut guest, entry_address(table, slot), entry), Ok(0), "{entry:#x}");
        }
    }
    assert_sound(&guest);
}

#[test]
fn whose_entries_are_not_judged_writes_what_it_likes() {
    support::on_cpu(0);
    let hv = boot_as(256, |hv| Hypervisor { speculation: Plan { l1tf: RULE, ..Plan::NOTHING }, ..hv });
    let mut control = Guest::new(hv, 0, true, 64);
    let home = control.build_home(16);
    assert_eq!(
        update(&mut control, entry_address(home.tables[3], 3), UNSAFE[0]),
        Ok(0),
        "the control domain is trusted"
    );
}

#[test]
fn who_writes_such_an_entry_for_another_guest_is_told_and_the_other_ends() {
    let (guest, home) = judged();
    let mut control = Guest::new(guest.hv, 0, true, 64);
    control.build_home(4);
    control.put(BUFFER, &[entry_address(home.tables[3], 3), UNSAFE[0]]);
    let foreign = u64::from(guest.domain.id.0 + 1) << 16 | u64::from(DomId::SELF.0);
    assert_eq!(ask(&mut control, |caller, args| caller.mmu_update(args), [BUFFER, 1, 0, foreign]), ENDED);
    control.caller().end_for_absent_entry();
    assert!(guest.domain.is_shut_down() && !control.domain.is_shut_down());
    assert_eq!(control.regs.rax, Errno::Inval.to_return_value());
}

/// Random entries by random ways: no table of the guest's ever has one that its CPU could follow.
#[test]
fn no_table_ever_holds_an_entry_that_the_cpu_could_follow() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ 11);
    for _ in 0..20 {
        let (mut guest, home) = judged();
        guest.domain.memory.change_assists(Assists::WRITABLE_PAGETABLES, true);
        let root = guest.state.kernel_root.unwrap();
        let mut refused = 0;
        for _ in 0..300 {
            let entry = match dice.roll(4) {
                0 => UNSAFE[dice.roll(4) as usize] | dice.wide(0x800) << 1,
                1 => SAFE[dice.roll(5) as usize],
                2 => (u64::from(dice.roll(u32::MAX)) << 31 | dice.wide(1 << 31)) & !1,
                _ => Entry::to(home.data[dice.roll(16) as usize], Entry::PRESENT | Entry::ACCESSED | Entry::USER).0,
            };
            let slot = 1 + dice.roll(500) as usize;
            let reply = match dice.roll(4) {
                0 => update(&mut guest, entry_address(home.tables[dice.roll(4) as usize], slot.max(16)), entry),
                1 => ask(&mut guest, |c, args| c.update_va_mapping(args), [(slot.max(1) as u64) << 12, entry, 0, 0]),
                2 => {
                    let va = GuestAddr::new(((16 + 3) << 12) + 8 * slot as u64);
                    let written = guest.hv.memory.emulate_write(&guest.domain.memory, root, va, 4, Write::Store(entry));
                    written.map(|_| 0)
                }
                _ => {
                    let table = home.data[8 + dice.roll(8) as usize];
                    if guest.hv.memory.frames.state(table).kind() == FrameType::Writable {
                        table_word(guest.hv, table, slot).store(entry, Ordering::SeqCst);
                    }
                    let commands = [mmu::MMUEXT_PIN_L1_TABLE, mmu::MMUEXT_PIN_L2_TABLE, mmu::MMUEXT_UNPIN_TABLE];
                    pin(&mut guest, commands[dice.roll(3) as usize], table)
                }
            };
            refused += u32::from(reply == ENDED);
        }
        assert_sound(&guest);
        assert!(refused > 10, "{refused}");
    }
}

/// A guest whose CPUs run on copies of its roots is told of an entry that was not there by no fault: who changes a root
/// has the others make new copies before it goes on. Below the root nothing is copied.
#[test]
fn a_change_of_a_root_reaches_the_cpus_that_run_on_copies_of_it() {
    for is_apart in [true, false] {
        support::on_cpu(0);
        let hv =
            boot_as(256, |hv| Hypervisor { speculation: Plan { apart: [false, is_apart], ..Plan::NOTHING }, ..hv });
        let mut guest = Guest::new(hv, 1, false, 64);
        let home = guest.build_home(16);
        assert!(guest.domain.memory.is_apart == is_apart);
        hv.memory.frames.tlb.enter(guest.domain.owner(), 1 << 1);
        let [l4, l3, _, l1] = home.tables;
        let link = table_word(hv, l4, 0).load(Ordering::SeqCst);
        let flushes = |cpu| hv.machine().cpu(cpu).flushes;
        let mut dice = Dice(0x9e37_79b9);
        for _ in 0..100 {
            let before = [0, 1, 2].map(flushes);
            let (table, slot, entry) = match dice.roll(4) {
                0 => (l4, 1 + dice.roll(200), link),
                1 => (l4, 1 + dice.roll(200), 0),
                2 => (l3, 3, 0),
                _ => (l1, 3, 0),
            };
            assert_eq!(update(&mut guest, entry_address(table, slot as usize), entry), Ok(0));
            let told = [0, 1, 2].map(flushes);
            let others = u64::from(is_apart && table == l4);
            assert_eq!([told[1] - before[1], told[2] - before[2]], [others, 0], "{table:?} {slot} {entry:#x}");
        }
    }
}
