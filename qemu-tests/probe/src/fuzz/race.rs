//! Every vcpu but the first issues what is drawn, all at once, on the same frames, ports and grants, while the first
//! draws anew and does as they do. Nobody compares answers here: whoever watches counts everything again from outside
//! (debug key `A` of a hypervisor that checks itself).

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use oxen_abi::hypercall::Hypercall;
use oxen_abi::segments::{ContextFlags, FLAT_KERNEL_CS, FLAT_KERNEL_SS};
use oxen_abi::trap::TrapInfo;
use oxen_abi::{guest_context::VcpuGuestContext, mmu, vcpu};
use oxen_domu_lib::memory::Pages;
use oxen_domu_lib::{println, time};
use zerocopy::FromZeros;

use super::call::{Call, Step};
use super::draw;
use super::random::Random;
use super::value::{SELF, Value};
use super::world::World;
use crate::judge::call;
use crate::raw::racer::{ENTRIES, ENTRY_WORDS, STORE, entries, word};
use crate::raw::{self, trapped};

/// Racers at most.
const RACERS: usize = 7;
/// Pages of each: its block, the memory of its calls' arguments, and one that an answer may run over into.
const PAGES: usize = 3;
/// Argument memory of one entry.
const SHARE: usize = 4096 / ENTRIES;
/// Steps of the first vcpu from one look at the clock, and one way back to a fresh world, to the next.
const ROUND: u64 = 500;
/// Handles of grants that are looked for when all is taken back.
const HANDLES: u32 = 8;

/// One of the vcpus that race.
struct Racer {
    vcpu: u64,
    memory: Pages,
}

impl Racer {
    fn new(vcpu: u64) -> Option<Self> {
        Some(Self { vcpu, memory: Pages::zeroed(PAGES)? })
    }

    fn set(&self, index: usize, value: u64) {
        self.memory.words64().iter().skip(index).take(1).for_each(|word| word.store(value, Ordering::SeqCst));
    }

    fn get(&self, index: usize) -> u64 {
        self.memory.words64().get(index).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    /// Starts the vcpu. Fails where there is none.
    fn start(&self) -> bool {
        let block = self.memory.address();
        self.set(0, block + 4096);
        self.set(word::REST, 1);
        // What stands nowhere is set_trap_table, which would take its handlers away.
        (0..ENTRIES).for_each(|entry| self.give(entry, [Hypercall::XenVersion as u64, 0, 0, 0, 0, 0]));
        let (begin, fault) = entries();
        let mut context = VcpuGuestContext::new_zeroed();
        context.flags = (ContextFlags::IN_KERNEL | ContextFlags::ONLINE).bits().into();
        for (vector, trap) in (0..32).zip(&mut context.trap_ctxt) {
            *trap = TrapInfo { vector, flags: 0, cs: FLAT_KERNEL_CS, _pad: 0, address: fault };
        }
        context.user_regs.rbx = block;
        context.user_regs.r12 = block + word::LIST as u64 * 8;
        (context.user_regs.rip, context.user_regs.rsp) = (begin, block + 4096);
        (context.user_regs.cs, context.user_regs.ss) = (FLAT_KERNEL_CS, FLAT_KERNEL_SS);
        (context.kernel_ss, context.kernel_sp) = (FLAT_KERNEL_SS.into(), block + 4096);
        context.ctrlreg[3] = raw::cr3();
        context.event_callback_eip = fault;
        context.failsafe_callback_eip = fault;
        context.syscall_callback_eip = fault;
        let at = core::ptr::from_ref(&context) as u64;
        call(Hypercall::VcpuOp, [vcpu::VCPUOP_INITIALISE.into(), self.vcpu, at]) == 0 && self.bring_up()
    }

    /// Another racer may have taken it down.
    fn bring_up(&self) -> bool {
        call(Hypercall::VcpuOp, [vcpu::VCPUOP_UP.into(), self.vcpu, 0]) == 0
    }

    /// Lets it rest, and waits until it does.
    fn stop(&self) {
        self.set(word::REST, 1);
        let seen = self.get(word::RESTED);
        while self.get(word::RESTED) == seen {
            self.bring_up();
            call(Hypercall::SchedOp, [0]);
        }
    }

    fn go_on(&self) {
        self.set(word::REST, 0);
    }

    /// Has it let go of all frames that its vcpu holds: descriptor tables and a root for user mode.
    fn let_go(&self) {
        let at = 4096;
        let operations = [mmu::MMUEXT_SET_LDT, mmu::MMUEXT_NEW_USER_BASEPTR];
        for (index, operation) in operations.into_iter().enumerate() {
            let words = [operation.into(), 0, 0];
            (at / 8 + index * 3..).zip(words).for_each(|(place, word)| self.set(place, word));
        }
        let list = self.memory.address() + at as u64;
        for entry in 0..ENTRIES {
            self.give(
                entry,
                match entry % 2 {
                    0 => [Hypercall::MmuextOp as u64, list, operations.len() as u64, 0, SELF, 0],
                    _ => [Hypercall::SetGdt as u64, list, 0, 0, 0, 0],
                },
            );
        }
        let issued = || self.get(word::DONE) + self.get(word::REFUSED);
        let before = issued();
        self.go_on();
        while issued() < before + 2 * ENTRIES as u64 {
            self.bring_up();
            call(Hypercall::SchedOp, [0]);
        }
        self.stop();
    }

    /// Puts another entry into its list, which it may be reading.
    fn give(&self, entry: usize, [number, args @ ..]: [u64; 6]) {
        let at = word::LIST + entry * ENTRY_WORDS;
        // What has arguments of two calls could take this guest's own memory away.
        self.set(at, Hypercall::XenVersion as u64);
        (1..).zip(args).for_each(|(index, arg)| self.set(at + index, arg));
        self.set(at, number);
    }

    fn give_call(&self, world: &World, entry: usize, call: &Call) {
        let at = 4096 + entry * SHARE;
        self.give(entry, [Hypercall::XenVersion as u64, 0, 0, 0, 0, 0]);
        let base = world.write_into(&self.memory, at, call);
        let [first, second, third, fourth, fifth] = world.args(call, base);
        self.give(entry, [call.number, first, second, third, fourth, fifth]);
    }
}

/// Whether a racer may issue it: not what decides where its kernel goes on, or that it waits.
fn is_for_racers(call: &Call) -> bool {
    let is = |hypercall: Hypercall| call.number == hypercall as u64;
    let decides = is(Hypercall::SetTrapTable)
        || is(Hypercall::SetCallbacks)
        || is(Hypercall::CallbackOp)
        || is(Hypercall::StackSwitch)
        || is(Hypercall::Iret);
    !(decides || call.may_wait() || call.tells_text() || call.number >= STORE)
}

/// Gives a racer something new to do.
fn refill(world: &World, racer: &Racer, random: &mut Random) {
    let entry = random.below(ENTRIES as u64) as usize;
    if random.one_in(4) {
        let place = Value::Window(draw::window(random), random.of_list(&draw::SLOTS) * 8);
        racer.give(entry, [STORE, world.value(place, 0), world.value(draw::entry(random), 0), 0, 0, 0]);
        return;
    }
    let calls = match draw::step(random, world.privileged, false) {
        Step::Call(call) => vec![call],
        Step::Batch(calls) => calls,
        Step::Offer(_) | Step::Version(_) | Step::Instruction(..) => return,
    };
    for (offset, call) in calls.iter().filter(|call| is_for_racers(call)).enumerate() {
        racer.give_call(world, (entry + offset) % ENTRIES, call);
    }
}

/// Does what is drawn on the first vcpu, without a look at what comes of it.
fn perform(world: &mut World, step: &Step) {
    let issue = |call: &Call| {
        world.write(call, 0);
        raw::hypercall(call.number, world.args(call, 0));
    };
    match step {
        Step::Call(call) => Some(call).into_iter().filter(|call| is_for_racers(call)).for_each(issue),
        Step::Batch(calls) => calls.iter().filter(|call| is_for_racers(call)).for_each(issue),
        Step::Offer(entry) => world.offer(entry),
        Step::Version(version) => _ = world.change_version(*version),
        Step::Instruction(index, registers) => {
            trapped::attempt(*index, registers.map(|register| world.value(register, 0)));
        }
    }
}

/// Races for some seconds, and says after each round what was done.
pub(super) fn run(world: &mut World, seed: u64, seconds: u64) {
    let racers: Vec<Racer> = (1..).map_while(Racer::new).take_while(Racer::start).take(RACERS).collect();
    println!("race: {} vcpus beside the first", racers.len());
    let end = time::now().saturating_add(seconds.saturating_mul(time::SECOND));
    let (mut rounds, mut failed) = (0, 0);
    while time::now() < end {
        racers.iter().for_each(Racer::stop);
        racers.iter().for_each(Racer::let_go);
        // What the racers have mapped of grants is not told, but its handles are small numbers.
        world.stale.extend(0..HANDLES);
        if let Err(what) = world.reset(seed + rounds, false) {
            println!("race: round {rounds}: {what}");
            failed += 1;
        }
        racers.iter().for_each(Racer::go_on);
        for step in 0..ROUND {
            let mut random = Random::of(seed + rounds, step);
            racers.iter().for_each(|racer| refill(world, racer, &mut random));
            let own = draw::step(&mut random, world.privileged, false);
            perform(world, &own);
            if step % 64 == 0 {
                racers.iter().for_each(|racer| _ = racer.bring_up());
            }
        }
        rounds += 1;
        let sum = |index: usize| racers.iter().map(|racer| racer.get(index)).sum::<u64>();
        let [done, refused, stores, faults] = [word::DONE, word::REFUSED, word::STORES, word::FAULTS].map(sum);
        println!(
            "race: {rounds} rounds, {failed} without a way back; \
             {done} calls done, {refused} refused, {stores} stores, {faults} exceptions"
        );
    }
    racers.iter().for_each(Racer::stop);
}
