//! One step: what the domain on a CPU does, or what happens around it.

use super::{
    code::{INSTRUCTIONS, VECTORS},
    cpus,
    input::Input,
    support::{CPUS, Fake, on_cpu},
    world::{BUFFER, CODE, STACK_END, World},
};
use oxen_abi::{domctl, hypercall::Hypercall, platform, sysctl};
use oxen_hv::{
    addr::{GuestAddr, PAGE_SIZE},
    caller::Caller,
    hypercall::Next,
    per_cpu::Work,
    trap::vector,
};
use std::sync::atomic::Ordering::SeqCst;
use x86_64::registers::rflags::RFlags;

/// How often a hypercall that is not finished is executed again.
const AGAIN: usize = 40;
/// Stacks below this address begin anew with every step.
const STACKS: u64 = 0x10_0000;

/// Hypercalls that take a command and where its structure is.
const FAMILIES: [(Hypercall, [u64; 4]); 12] = [
    (Hypercall::EventChannelOp, [0, BUFFER, 0, 0]),
    (Hypercall::GrantTableOp, [0, BUFFER, 1, 0]),
    (Hypercall::MemoryOp, [0, BUFFER, 0, 0]),
    (Hypercall::SchedOp, [0, BUFFER, 0, 0]),
    (Hypercall::VcpuOp, [0, 1, BUFFER, 0]),
    (Hypercall::PhysdevOp, [0, BUFFER, 0, 0]),
    (Hypercall::XenVersion, [0, BUFFER, 0, 0]),
    (Hypercall::ConsoleIo, [0, 16, BUFFER, 0]),
    (Hypercall::VmAssist, [0, 4, 0, 0]),
    (Hypercall::CallbackOp, [0, BUFFER, 0, 0]),
    (Hypercall::HypfsOp, [0, BUFFER, 16, BUFFER]),
    (Hypercall::StackSwitch, [0, STACK_END, 0, 0]),
];

/// Hypercalls whose structure begins with the command, and the version that it names.
const CONTROL: [(Hypercall, u32); 4] = [
    (Hypercall::Domctl, domctl::XEN_DOMCTL_INTERFACE_VERSION),
    (Hypercall::Domctl, domctl::XEN_DOMCTL_INTERFACE_VERSION),
    (Hypercall::Sysctl, sysctl::XEN_SYSCTL_INTERFACE_VERSION),
    (Hypercall::PlatformOp, platform::XENPF_INTERFACE_VERSION),
];

/// Does what the next bytes say.
pub(super) fn step(world: &mut World, input: &mut Input<'_>) {
    let kind = input.byte() & 31;
    let hv = world.hv;
    match kind {
        // What happens around the guests.
        0 => world.cpu = u16::from(input.byte()) % CPUS as u16,
        1 => drop(hv.machine().time.fetch_add(1 << (input.byte() & 31), SeqCst)),
        2 => {
            on_cpu(world.cpu);
            match input.byte() {
                line @ 0..=63 => hv.raise_pirq(line.into()),
                byte => {
                    hv.machine().peripherals.lock().unwrap().input.push_back(byte);
                    hv.receive_input();
                }
            }
        }
        3 => hv.machine().frames_left.store((input.byte() & 7).into(), SeqCst),
        4 => hv.machine().heap_left.store((input.byte() & 7).into(), SeqCst),
        5 => {
            hv.machine().frames_left.store(u64::MAX, SeqCst);
            hv.machine().heap_left.store(u64::MAX, SeqCst);
        }
        _ => {
            let Some(id) = cpus::go_on(hv, world.cpu) else { return };
            let me = world.side_of(id);
            guest_step(world, me, kind, input);
        }
    }
}

/// Does what a guest does.
fn guest_step(world: &mut World, me: usize, kind: u8, input: &mut Input<'_>) {
    match kind {
        6..=19 => call_step(world, me, kind, input),
        20..=29 => memory_step(world, me, kind, input),
        30 => entry_step(world, input),
        _ => return_step(world, input),
    }
}

/// Makes a hypercall.
fn call_step(world: &mut World, me: usize, kind: u8, input: &mut Input<'_>) {
    match kind {
        6..=9 => {
            let words = numbers::<8>(world, me, input);
            let [which] = input.bytes();
            let (call, mut args) = FAMILIES[usize::from(which >> 4) % FAMILIES.len()];
            args[0] = (which & 15).into();
            if input.byte() & 3 == 0 {
                args[0] = input.number(world, me);
                args[2] = input.number(world, me);
            }
            request(world, &words, call.number(), args, input.byte());
        }
        10 | 11 => {
            let pairs = usize::from(input.byte() & 3) + 1;
            let words: Vec<u64> = (0..2 * pairs).map(|_| input.number(world, me)).collect();
            let args = [BUFFER, pairs as u64, 0, foreign(input)];
            request(world, &words, Hypercall::MmuUpdate.number(), args, input.byte());
        }
        12 | 13 => {
            let command = u64::from(input.byte() % 21);
            let words = [command, input.number(world, me), input.number(world, me)];
            let args = [BUFFER, 1, 0, foreign(input)];
            request(world, &words, Hypercall::MmuextOp.number(), args, input.byte());
        }
        14 => {
            let args = [input.number(world, me), input.number(world, me), (input.byte() & 7).into(), foreign(input)];
            let call = [Hypercall::UpdateVaMapping, Hypercall::UpdateVaMappingOtherdomain];
            request(world, &[], call[usize::from(input.byte() & 1)].number(), args, 0);
        }
        15..=17 => {
            let (call, version) = CONTROL[usize::from(input.byte() & 3)];
            let mut words = vec![u64::from(input.byte()) | u64::from(version) << 32];
            words.extend(numbers::<12>(world, me, input));
            request(world, &words, call.number(), [BUFFER, 0, 0, 0], input.byte());
        }
        18 => {
            let number = u64::from(input.byte() & 63);
            let args = [(); 4].map(|()| input.number(world, me));
            let words = numbers::<8>(world, me, input);
            request(world, &words, number, args, input.byte());
        }
        // Several calls at once: entries of eight words.
        _ => {
            let calls = usize::from(input.byte() & 3) + 1;
            let mut words = Vec::new();
            for _ in 0..calls {
                words.extend([u64::from(input.byte() & 63), 0]);
                words.extend([(); 4].map(|()| input.number(world, me)));
                words.extend([0, 0]);
            }
            request(world, &words, Hypercall::Multicall.number(), [BUFFER, calls as u64, 0, 0], input.byte());
        }
    }
}

/// Stores, faults, instructions, and what else changes memory or registers.
fn memory_step(world: &mut World, me: usize, kind: u8, input: &mut Input<'_>) {
    match kind {
        20..=22 => {
            let at = input.number(world, me);
            for (i, word) in numbers::<4>(world, me, input).into_iter().enumerate() {
                come_in(world, |caller| store(caller, at.wrapping_add(8 * i as u64), word));
            }
        }
        23 | 24 => execute(world, me, input),
        25 => {
            let (address, error) = (input.number(world, me), u32::from(input.byte() & 0x1f));
            come_in(world, |caller| caller.page_fault(address, error));
        }
        26 => {
            let (register, value) = (input.byte(), input.number(world, me));
            come_in(world, |caller| match register % 18 {
                16 => caller.regs.rip = value,
                17 => caller.regs.rflags = RFlags::from_bits_retain(value),
                register => caller.regs.set_general(register, 8, value),
            });
        }
        // An offer in the guest's own grant table, version 1: flags, domain, frame.
        27 => {
            let (reference, flags, to) = (u64::from(input.byte() & 31), input.byte() & 0x1f, input.byte() & 3);
            let frame = input.number(world, me);
            let at = (super::world::GRANTS_PAGE * PAGE_SIZE) + 8 * reference;
            let entry = u64::from(flags) | u64::from(to) << 16 | frame << 32;
            come_in(world, |caller| store(caller, at, entry));
        }
        28 => come_in(world, |caller| {
            caller.state.info.set_upcall_mask(false);
        }),
        // Other work waits, and is not done before the next call is under way.
        _ => {
            if let Some(shared) = world.hv.cpu(oxen_hv::hardware::CpuId(world.cpu)) {
                let bits = [Work::RESCHEDULE, Work::RESCHEDULE | Work::YIELD, Work::TIMER, Work::empty()];
                shared.work.insert(bits[usize::from(input.byte() & 3)], SeqCst);
            }
        }
    }
}

/// Comes in by another way than a hypercall.
fn entry_step(world: &mut World, input: &mut Input<'_>) {
    let [how, more] = input.bytes();
    come_in(world, |caller| match how & 7 {
        0 => caller.user_syscall(),
        1 => caller.user_syscall32(),
        2 => caller.user_sysenter(),
        3 => drop(caller.software_interrupt(more)),
        4 => caller.refused_return(VECTORS[usize::from(more & 7)], more.into()),
        5 => caller.ldt_fault(u64::from(more) << 8, 0),
        _ => caller.exception(VECTORS[usize::from(more & 7)], more.into()),
    });
}

/// Goes back by `iret`, to the kernel or to user mode.
fn return_step(world: &mut World, input: &mut Input<'_>) {
    let is_user = input.byte() & 1 != 0;
    let cs = if is_user { 0xe033 } else { 0xe030 };
    let words = [0, 0, 0, 0, CODE, cs, 0x202, STACK_END, 0xe02b];
    let at = STACK_END - 0x100;
    come_in(world, |caller| {
        for (i, word) in words.into_iter().enumerate() {
            store(caller, at + 8 * i as u64, word);
        }
        caller.regs.rsp = at;
    });
    perform(world, Hypercall::Iret.number(), [0; 4], 0);
}

/// As many numbers as a byte says.
fn numbers<const MAX: usize>(world: &World, me: usize, input: &mut Input<'_>) -> Vec<u64> {
    let count = usize::from(input.byte()) % (MAX + 1);
    (0..count).map(|_| input.number(world, me)).collect()
}

/// For whom a call on page tables is: mostly the caller itself.
fn foreign(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        number @ 0..=3 => number.into(),
        4 => 0x7ff1,
        5 => 0x7ff2,
        6 => 0x2_7ff0,
        _ => 0x7ff0,
    }
}

/// The guest comes in; where its stack is one of ours, it begins anew.
fn come_in(world: &World, act: impl FnOnce(&mut Caller<'_, Fake>)) {
    cpus::with_caller(world.hv, world.cpu, |caller| {
        if caller.regs.rsp < STACKS {
            caller.regs.rsp = STACK_END;
        }
        act(caller);
    });
}

/// The guest writes a word where it can; where not, it is told so as by the CPU.
fn store(caller: &mut Caller<'_, Fake>, at: u64, word: u64) {
    let is_guests = GuestAddr::new(at).is_guest_range(8);
    if is_guests && caller.hv.machine().write_guest(GuestAddr::new(at), &word.to_le_bytes()).is_ok() {
        return;
    }
    let is_there = is_guests && caller.hv.machine().translate(GuestAddr::new(at), false).is_ok();
    caller.page_fault(at, 6 | u32::from(is_there));
}

/// A hypercall, its structure written first.
fn request(world: &mut World, words: &[u64], number: u64, args: [u64; 4], patience: u8) {
    come_in(world, |caller| {
        for (i, &word) in words.iter().enumerate() {
            store(caller, BUFFER + 8 * i as u64, word);
        }
    });
    perform(world, number, args, patience);
}

/// Executes a hypercall until it is finished, or the guest has enough of it.
fn perform(world: &mut World, number: u64, args: [u64; 4], patience: u8) {
    let mut answer = None;
    cpus::with_caller(world.hv, world.cpu, |caller| {
        if !caller.state.in_kernel {
            return caller.user_syscall();
        }
        let mut args = [args[0], args[1], args[2], args[3], 0, 0];
        let times = if patience & 7 == 7 { 1 } else { AGAIN };
        for _ in 0..times {
            let outcome = caller.hypercall(number, &mut args);
            if outcome.next == Next::Answer {
                caller.regs.rax = outcome.value;
                answer = Some(outcome.value);
                break;
            }
            caller.settle_hypercall(outcome.next, &args);
            if outcome.next != Next::Again {
                break;
            }
        }
    });
    if let Some(answer) = answer {
        world.remember(answer);
        // Numbers that were given out stand in the structure.
        let mut words = [0; 2];
        cpus::with_caller(world.hv, world.cpu, |caller| {
            for (i, word) in words.iter_mut().enumerate() {
                *word = caller.hv.machine().read_guest_word(GuestAddr::new(BUFFER + 8 * i as u64)).unwrap_or(0);
            }
        });
        world.remember(words[1] >> 32);
        world.remember(words[0] >> 32);
    }
}

/// The guest's kernel executes an instruction that traps: a known one, or any bytes.
fn execute(world: &World, me: usize, input: &mut Input<'_>) {
    let which = input.byte();
    let mut code = [0; 15];
    match INSTRUCTIONS.get(usize::from(which)) {
        Some(known) => code[..known.len()].copy_from_slice(known),
        None => code = input.bytes(),
    }
    let (rax, rdi, how) = (input.number(world, me), input.number(world, me), input.byte());
    come_in(world, |caller| {
        for (i, bytes) in code.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            store(caller, CODE + 8 * i as u64, u64::from_le_bytes(word));
        }
        (caller.regs.rip, caller.regs.rax, caller.regs.rdi) = (CODE, rax, rdi);
        (caller.regs.rcx, caller.regs.rdx, caller.regs.rsi) = (how.into(), rax & 0xffff, rdi);
        if code[0] & 0xf0 == 0x40 || (29..40).contains(&which) {
            let is_there = GuestAddr::new(rdi).is_guest_range(8)
                && caller.hv.machine().translate(GuestAddr::new(rdi), false).is_ok();
            return caller.page_fault(rdi, 6 | u32::from(is_there));
        }
        match VECTORS[usize::from(how & 7)] {
            _ if how & 0x80 == 0 => caller.exception(vector::GENERAL_PROTECTION, 0),
            vector => caller.exception(vector, 0),
        }
    });
}
