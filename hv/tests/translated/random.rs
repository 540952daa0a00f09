//! What a guest may do, wise or not, at random, and what holds after each step.

use super::{
    support::{
        Fake, audit,
        control::{LIST, control_domain, destroy},
        dice::Dice,
    },
    world::{PAGES, SPAN, build, call, repair, run},
};
use oxen_abi::{domid::DomId, memory, mmu, vcpu::VCPUOP_REGISTER_VCPU_INFO};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    mem::{
        RamFrame,
        entry::Entry,
        frame_type::FrameType,
        shadow::translated::{Forget, Mode},
    },
    reply::{Args, Reply},
};
use std::{collections::HashMap, sync::atomic::Ordering::SeqCst};
use zerocopy::IntoBytes;

/// What a walk through the guest's tables and its p2m comes to, by somebody who knows nothing of shadows: the number,
/// and whether it may be written to.
fn model(caller: &Caller<'_, Fake>, va: u64) -> Option<(Mfn, bool)> {
    let (hv, owner) = (caller.hv, caller.domain.owner());
    let mut gfn = hv.memory.translated_root(owner, 0, Mode::Kernel)?;
    let mut may_write = true;
    for level in (1..=4).rev() {
        let (table, is_writable) = hv.memory.translation(owner, gfn)?;
        let slot = (va >> (3 + 9 * level)) as usize & 511;
        let entry = Entry(hv.machine().words(table)[slot].load(SeqCst));
        let state = hv.memory.frames.state(table);
        let is_descriptor = state.kind() == FrameType::Descriptor && state.uses() != 0;
        if !is_writable && is_descriptor || !entry.is_present() || level > 1 && entry.has(Entry::PAT_OR_SIZE) {
            return None;
        }
        may_write &= entry.is_writable();
        gfn = entry.frame_index() as u64;
    }
    let (page, _) = hv.memory.translation(owner, gfn)?;
    Some((page, may_write))
}

/// Law 1: what the root that this CPU has loaded leads to, and what the CPU remembers, is held by the p2m.
fn check_shown(caller: &Caller<'_, Fake>) {
    let hv = caller.hv;
    let mut held: HashMap<Mfn, bool> = HashMap::new();
    for (_, frame, is_writable) in hv.memory.each_translation(caller.domain.owner()) {
        *held.entry(frame).or_default() |= is_writable;
    }
    let is_held = |entry: Entry| {
        let right = held.get(&entry.mfn().unwrap());
        assert!(right.is_some(), "law 1: {entry:?} is shown, and no number means it");
        assert!(!entry.is_writable() || right == Some(&true), "law 1: {entry:?} is shown to be written to");
    };
    let mut tables = vec![(caller.state.loaded.kernel.mfn().unwrap(), 4)];
    while let Some((table, level)) = tables.pop() {
        for (slot, word) in hv.machine().words(table).iter().enumerate() {
            let entry = Entry(word.load(SeqCst));
            let is_own = level == 4 && (256..272).contains(&slot);
            match level {
                _ if is_own || !entry.is_present() => {}
                1 => is_held(entry),
                _ => tables.push((entry.mfn().unwrap(), level - 1)),
            }
        }
    }
    hv.machine().cpu(0).pages.values().for_each(|&entry| is_held(entry));
}

/// Each address means what the guest's tables say, once it has flushed.
fn check_meaning(caller: &mut Caller<'_, Fake>) {
    let hv = caller.hv;
    hv.memory.forget_translations(caller.domain.owner(), Forget::All);
    for page in 0..SPAN {
        let va = GuestAddr::new(page << 12);
        let (found, expected) = (hv.machine().translate(va, false).ok(), model(caller, va.as_u64()));
        assert_eq!(found, expected.map(|(frame, _)| frame), "page {page}");
        let writes = hv.machine().translate(va, true).is_ok();
        let is_descriptor = found.is_some_and(|frame| caller.state.gdt.iter().flatten().any(|gdt| gdt.mfn() == frame));
        assert_eq!(writes, expected.is_some_and(|(_, may_write)| may_write) && !is_descriptor, "writes to page {page}");
    }
}

/// Writes a request where the guest's requests are, and makes a call about it. Returns whether it was done.
fn ask<'a>(caller: &mut Caller<'a, Fake>, words: &[u64], handler: Handler<'a>, args: [u64; 4]) -> bool {
    let [a, b, c, d] = args;
    caller.hv.machine().write_guest(GuestAddr::new(LIST), words.as_bytes()).is_ok()
        && call(caller, handler, [a, b, c, d, 0, 0]).is_ok()
}

type Handler<'a> = fn(&mut Caller<'a, Fake>, &mut Args) -> Reply;

/// A number, mostly of a page that there is.
fn number(dice: &mut Dice) -> u64 {
    match dice.roll(8) {
        0 => dice.wide(1 << 30),
        1 => PAGES + u64::from(dice.roll(8)),
        _ => dice.wide(PAGES),
    }
}

/// An entry of a table, or something else.
fn entry(dice: &mut Dice) -> u64 {
    number(dice) << 12 | dice.pick(&[0, 1, 3, 7, 7, 7, 5, 0x67, 0x87, 1 << 63 | 7])
}

/// Something that a guest does, wise or not. Returns whether it was done.
fn act(caller: &mut Caller<'_, Fake>, dice: &mut Dice) -> bool {
    const SELF: u64 = DomId::SELF.0 as u64;
    let machine = caller.hv.machine();
    let va = dice.wide(SPAN) << 12 | dice.wide(512) << 3;
    match dice.roll(16) {
        0..=2 => machine.read_guest_word(GuestAddr::new(va)).is_ok(),
        3 | 4 => machine.write_guest_word(GuestAddr::new(va), entry(dice)).is_ok(),
        5 => {
            let flags = dice.pick(&[mmu::UVMF_NONE, mmu::UVMF_INVLPG, mmu::UVMF_TLB_FLUSH, mmu::UVMF_INVLPG | 4, !3]);
            call(caller, Caller::update_va_mapping, [va & !0xfff, entry(dice), flags, 0, 0, 0]).is_ok()
        }
        6 | 7 => {
            let address = dice.wide(PAGES) << 12 | dice.wide(SPAN) << 3 | dice.wide(4);
            ask(caller, &[address, entry(dice)], Caller::mmu_update, [LIST, 1, 0, SELF])
        }
        8 | 9 => {
            let command = dice.pick(&MMUEXT);
            let of_page = matches!(command, mmu::MMUEXT_INVLPG_LOCAL | mmu::MMUEXT_INVLPG_ALL);
            let op = [command.into(), if of_page { va } else { number(dice) }, number(dice)];
            ask(caller, &op, Caller::mmuext_op, [LIST, 1, 0, SELF])
        }
        10 | 11 => {
            let command = dice.pick(&[
                memory::XENMEM_DECREASE_RESERVATION,
                memory::XENMEM_POPULATE_PHYSMAP,
                memory::XENMEM_POPULATE_PHYSMAP,
                memory::XENMEM_INCREASE_RESERVATION,
            ]);
            let request = [LIST + 32, 1, 0, SELF, number(dice)];
            ask(caller, &request, Caller::memory_op, [command.into(), LIST, 0, 0])
        }
        12 => match dice.roll(3) {
            0 => {
                let command = memory::XENMEM_REMOVE_FROM_PHYSMAP.into();
                ask(caller, &[SELF, number(dice)], Caller::memory_op, [command, LIST, 0, 0])
            }
            _ => {
                let space = dice.pick(&[0, 1, 1, 2, 3, 9]);
                let request = [SELF | space << 32, dice.wide(3), number(dice)];
                ask(caller, &request, Caller::memory_op, [memory::XENMEM_ADD_TO_PHYSMAP.into(), LIST, 0, 0])
            }
        },
        13 => ask(caller, &[number(dice)], Caller::set_gdt, [LIST, dice.pick(&[0, 1, 512]), 0, 0]),
        14 => {
            let address = number(dice) << 12 | dice.wide(512) << 3;
            call(caller, Caller::update_descriptor, [address, dice.wide(1 << 30) << 20, 0, 0, 0, 0]).is_ok()
        }
        _ => {
            let command = VCPUOP_REGISTER_VCPU_INFO.into();
            ask(caller, &[number(dice), 64], Caller::vcpu_op, [command, 0, LIST, 0])
        }
    }
}

const MMUEXT: [u32; 12] = [
    mmu::MMUEXT_PIN_L1_TABLE,
    mmu::MMUEXT_PIN_L4_TABLE,
    mmu::MMUEXT_UNPIN_TABLE,
    mmu::MMUEXT_NEW_BASEPTR,
    mmu::MMUEXT_NEW_BASEPTR,
    mmu::MMUEXT_NEW_USER_BASEPTR,
    mmu::MMUEXT_TLB_FLUSH_LOCAL,
    mmu::MMUEXT_INVLPG_LOCAL,
    mmu::MMUEXT_INVLPG_ALL,
    mmu::MMUEXT_TLB_FLUSH_ALL,
    mmu::MMUEXT_CLEAR_PAGE,
    mmu::MMUEXT_COPY_PAGE,
];

/// What the test knows to be held beside what tables, pins, events and p2ms hold: descriptors and `vcpu_info`.
fn known(control_root: RamFrame, caller: &Caller<'_, Fake>) -> audit::Holds {
    let mut holds = audit::Holds::default();
    holds.add(control_root, true);
    caller.state.gdt.iter().chain(&caller.state.ldt).flatten().for_each(|&page| holds.add(page, true));
    caller.vcpu.info_frame.lock().iter().for_each(|&frame| holds.add(frame, true));
    let mut from = DomId(0);
    while let Some(domain) = caller.hv.domains.next_from(from) {
        from = DomId(domain.id.0 + 1);
        holds.add(domain.shared_info, true);
        let frames = domain.grants.lock().size().0;
        (0..frames).for_each(|index| holds.add(caller.hv.grant_table_frame(&domain, index).unwrap(), true));
    }
    holds
}

#[test]
fn whatever_a_guest_does_it_sees_what_its_tables_say_and_all_comes_back() {
    let mut done = 0;
    for seed in 1..=40 {
        let mut control = control_domain();
        let (hv, root) = (control.hv, control.state.kernel_root.unwrap());
        // To look at a grant table makes its first frame.
        hv.grow_grant_table(&control.domain, 1).unwrap();
        let free = hv.memory.frames.free_frames();
        let mut dice = Dice(seed * 0x1234_5677);
        let domain = build(&mut control);
        for step in 0..300 {
            run(&mut control, &domain, |caller| {
                if step % 20 == 19 {
                    repair(caller);
                }
                done += u32::from(act(caller, &mut dice));
                check_shown(caller);
                if step % 7 == 0 {
                    check_meaning(caller);
                    check_shown(caller);
                }
                if step % 10 == 0 {
                    audit::check(hv, &known(root, caller), audit::nothing_lent);
                }
            });
        }
        let id = domain.id;
        drop(domain);
        destroy(&mut control, id).unwrap();
        assert_eq!(hv.memory.frames.free_frames(), free, "seed {seed}");
    }
    assert!(done > 40 * 300 / 3, "hardly anything was done: {done}");
}
