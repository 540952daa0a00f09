//! What a vcpu is told about itself: traps, descriptors, registers, timers, callbacks.

use oxen_abi::hypercall::Hypercall;

use super::{Call, Random, Value};

/// Draws a call.
pub(super) fn draw(random: &mut Random) -> Call {
    match random.below(16) {
        0 => trap_table(random),
        1 => descriptors(random),
        2 | 3 => {
            let at = match random.below(4) {
                0 => super::number(random),
                1 => Value::Machine(super::frame(random), random.below(4096)),
                _ => Value::Machine(super::frame(random), random.below(512) * 8),
            };
            let args = [at, descriptor(random)];
            Call::new(Hypercall::UpdateDescriptor, "", &args)
        }
        4 => {
            let segment = random.of_list(&[0, 1, 2, 3, 4, 0xffff_ffff, 1 << 32]);
            let base = match (segment, random.below(3)) {
                (3, _) => Value::Number(random.of_list(&[0, 1, 3, 0xe02b, 0xe033, 7, 0x10, 0x1_0003, 0xffff])),
                (_, 0) => super::number(random),
                _ => super::any_address(random),
            };
            Call::new(Hypercall::SetSegmentBase, "", &[Value::Number(segment), base])
        }
        5 => Call::new(Hypercall::FpuTaskswitch, "", &[Value::Number(random.of_list(&[0, 1, 1, 2, 1 << 32]))]),
        6 => set_debug_register(random),
        7 => {
            let register = random.of_list(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 0xffff_ffff, 1 << 32]);
            Call::new(Hypercall::GetDebugreg, "", &[Value::Number(register)])
        }
        8 => {
            let command = random.of_list(&[0, 0, 0, 1, 1, 2, 0xffff_ffff]);
            let kind = random.of_list(&[0, 1, 2, 2, 2, 3, 4, 5, 6, 31, 32, 33, 64, 0xffff_ffff]);
            Call::new(Hypercall::VmAssist, "", &[Value::Number(command), Value::Number(kind)])
        }
        9 => callback(random),
        10 | 11 => vcpu(random),
        12 => Call::new(
            Hypercall::StackSwitch,
            "",
            &[Value::Number(random.of_list(&[0, 0xe02b, 3, 0xffff])), super::any_address(random)],
        ),
        13 => Call::new(Hypercall::NmiOp, "", &[Value::Number(random.of_list(&[1, 2, 99])), Value::Memory(0)]),
        14 => Call::new(Hypercall::SetTimerOp, "", &[Value::Number(0)]),
        _ => schedule(random),
    }
}

/// Two handlers that are ours, or a table that is refused. Ours are put back after each step.
fn trap_table(random: &mut Random) -> Call {
    let list = match random.below(8) {
        0 => Value::Number(super::WILD),
        1 => Value::Number(0),
        _ => Value::Memory(0),
    };
    let mut call = Call::new(Hypercall::SetTrapTable, "", &[list]);
    for index in 0..2 {
        let vector = random.below(256);
        let flags = random.of_list(&[0, 1, 3, 4, 7, 0xff]);
        let selector = random.of_list(&[0xe033, 0xe033, 0xe033, 0, 0xe030, 0xe02b, 0xe008, 0x33, 0xffff]);
        let address = match random.below(4) {
            0 => super::number(random),
            _ => Value::Handler(vector & 31),
        };
        call =
            call.at(index * 16, 4, Value::Number(vector | flags << 8 | selector << 16)).at(index * 16 + 8, 8, address);
    }
    call
}

fn descriptors(random: &mut Random) -> Call {
    let count = random.of_list(&[0, 1, 512, 513, 1024, 7168, 7169, 8192, 0xffff_ffff]);
    let list = if random.one_in(8) { Value::Number(super::WILD) } else { Value::Memory(0) };
    let call = Call::new(Hypercall::SetGdt, "", &[list, Value::Number(count)]);
    call.words(&[super::any_frame(random), super::any_frame(random)])
}

/// A segment descriptor: code, data, system segments, call gates.
fn descriptor(random: &mut Random) -> Value {
    let access = random.of_list(&[0x92, 0x93, 0x9b, 0xf2, 0xf3, 0xfb, 0xfa, 0xb3, 0x82, 0x89, 0x8e, 0xff, 0x7b, 0]);
    let flags = random.of_list(&[0, 2, 4, 6, 8, 10, 12, 15]);
    let (base, limit) = (random.of_list(&[0, 0x1000, 0xffff_ffff]), random.of_list(&[0, 0xffff, 0xf_ffff]));
    Value::Number(match random.below(7) {
        0 => random.word(),
        1 => 0,
        2 => {
            let selector = random.of_list(&[0x8, 0xb, 0xdfff, 0xe000, 0xe008, 0xe023, 0xe02b, 0xe033, 0xe00c, 0xffff]);
            let kind = random.of_list(&[0x8c, 0xec, 0xec, 0xcc, 0x80, 0xe0, 0xa0]);
            let reserved = random.of_list(&[0, 0, 0, 1, 0x80]);
            0x1234 << 48 | kind << 40 | reserved << 32 | selector << 16 | 0x5678
        }
        _ => {
            limit & 0xffff
                | (base & 0xff_ffff) << 16
                | access << 40
                | (limit >> 16 & 15) << 48
                | flags << 52
                | (base >> 24 & 0xff) << 56
        }
    })
}

/// Watches nothing that this guest's own code touches.
fn set_debug_register(random: &mut Random) -> Call {
    let register = random.of_list(&[0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 0xffff_ffff]);
    let value = match register {
        7 => Value::Number(random.of_list(&[
            0,
            1 << 10,
            1 << 8,
            1 << 13,
            1 << 11,
            1 << 32,
            1 << 12,
            0xffff_0000,
            // Writes of 8 bytes at what the first says.
            1 | 1 << 16 | 2 << 18,
            2 | 1 << 16,
            // Input and output, with CR4.DE and without.
            1 | 2 << 16,
            0x400,
        ])),
        _ => match random.below(4) {
            0 => super::number(random),
            1 => Value::Number(super::WILD),
            _ => Value::Window(super::window(random), random.below(512) * 8),
        },
    };
    Call::new(Hypercall::SetDebugreg, "", &[Value::Number(register), value])
}

/// Callbacks at addresses that are refused, or of kinds that are not there: where one goes matters to this guest.
fn callback(random: &mut Random) -> Call {
    let command = random.of_list(&[0, 0, 0, 0, 1, 1, 2, 0xffff_ffff]);
    let kind = random.below(10);
    let flags = random.below(4);
    let argument = if random.one_in(8) { Value::Number(super::WILD) } else { Value::Memory(0) };
    let address = match (command, kind) {
        // From user mode only, of which there is none.
        (0, 2 | 3 | 5 | 7) => super::any_address(random),
        _ => Value::Number(random.of_list(&[1 << 47, 1 << 63, 0x1234_5678_9abc_d000])),
    };
    let call = Call::new(Hypercall::CallbackOp, "", &[Value::Number(command), argument]);
    call.at(0, 2, Value::Number(kind)).at(2, 2, Value::Number(flags)).at(8, 8, address)
}

fn vcpu(random: &mut Random) -> Call {
    let number = random.of_list(&[0, 0, 0, 0, 1, 31, 32, 8192, 0xffff_ffff]);
    let command = random.of_list(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 99]);
    // What ends or moves the one vcpu that there is.
    let number = if matches!(command, 0 | 1 | 2 | 10) && number == 0 { 1 } else { number };
    let argument = if random.one_in(8) { Value::Number(super::WILD) } else { Value::Memory(0) };
    let call = Call::new(Hypercall::VcpuOp, "", &[Value::Number(command), Value::Number(number), argument]);
    match command {
        4 => call.hide(8, 40),
        5 | 13 => call.words(&[if random.one_in(2) { Value::Memory(4096) } else { super::number(random) }]),
        6 => call.words(&[Value::Number(random.of_list(&[0, 1, 999_999, u64::MAX, 1 << 63]))]),
        // Deadlines that have passed with the flag that refuses them; others are far away.
        8 => call
            .words(&[Value::Number(random.of_list(&[1, 1 << 61])), Value::Number(random.of_list(&[1, 1, 3, 1 << 31]))]),
        _ => call,
    }
}

/// Yields and polls that end at once.
fn schedule(random: &mut Random) -> Call {
    let op = |command: u64, what, argument| Call::new(Hypercall::SchedOp, what, &[Value::Number(command), argument]);
    let memory = Value::Memory(0);
    match random.below(8) {
        0 => op(0, "yield", super::number(random)),
        1..5 => {
            let count = random.of_list(&[0, 1, 1, 2, 128, 129, 0xffff_ffff]);
            let list = if random.one_in(4) { Value::Number(super::WILD) } else { Value::Memory(0x80) };
            let port = |random: &mut Random| match random.below(4) {
                0 => super::number(random),
                _ => Value::Port(random.below(4) as u32),
            };
            let call = op(3, "poll", memory).words(&[list, Value::Number(count), Value::Number(1)]);
            call.at(0x80, 4, port(random)).at(0x84, 4, port(random))
        }
        5 => op(4, "remote_shutdown", memory).words32(&[Value::Number(0x1234), Value::Number(0)]),
        6 => {
            op(6, "watchdog", memory).words32(&[Value::Number(random.of_list(&[3, 9, 0xffff_ffff])), Value::Number(60)])
        }
        _ => op(random.of_list(&[7, 8, 99, 0xffff_ffff]), "other", memory),
    }
}
