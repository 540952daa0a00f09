//! `platform_op`: what changes nothing, or is refused; and the calls of which there is little to ask.

use oxen_abi::hypercall::Hypercall;
use oxen_abi::platform::XENPF_INTERFACE_VERSION;

use super::{Call, Random, Value, buffer, processor, small};
use crate::fuzz::draw::{WILD, number};

/// Where the command's own structure begins.
const OWN: usize = 8;
/// Where what it points to is in the argument memory.
const BEHIND: u64 = 0xa0;

fn request(command: u64, what: &'static str) -> Call {
    let call = Call::new(Hypercall::PlatformOp, what, &[Value::Memory(0)]);
    call.at(0, 4, Value::Number(command)).at(4, 4, Value::Number(XENPF_INTERFACE_VERSION.into()))
}

/// Draws a call.
pub(super) fn draw(random: &mut Random) -> Call {
    match random.below(16) {
        0 => {
            let (command, nanoseconds) = (random.of_list(&[17, 62]), random.of_list(&[1_000_000_000, 0xffff_ffff]));
            request(command, "settime").at(OWN + 4, 4, Value::Number(1)).at(OWN + 8, 4, Value::Number(nanoseconds))
        }
        1 => memory_types(random),
        2 => {
            let length = Value::Number(random.of_list(&[0, 1, 4, 16]));
            request(35, "microcode_update").at(OWN, 8, buffer(random, BEHIND)).at(OWN + 8, 4, length)
        }
        3 => request(39, "quirk").at(OWN, 4, Value::Number(random.of_list(&[0, 4, 99]))),
        4 => request(48, "get_cpu_version").at(OWN, 4, processor(random)).hide(OWN + 8, 24),
        5 => request(49, "efi_runtime_call").at(OWN, 4, small(random, 13)),
        6 => {
            let call = request(50, "firmware_info").at(OWN, 4, small(random, 8)).at(OWN + 4, 4, small(random, 6));
            // The disks that a firmware found, its keyboard and its monitor.
            call.hide(OWN + 8, 32).at(OWN + 16, 8, buffer(random, BEHIND))
        }
        7 => {
            let (cpus, size) = (random.of_list(&[0, 1, 8, 64]), buffer(random, BEHIND));
            let call = request(53, "getidletime").at(OWN, 8, size).at(OWN + 8, 4, Value::Number(cpus));
            let call = call.at(OWN + 16, 8, Value::Memory(BEHIND + 0x20)).hide(OWN + 24, 8);
            call.at(BEHIND as usize, 8, Value::Number(1)).hide(BEHIND as usize + 0x20, 8)
        }
        8 => power(random),
        9 => request(55, "get_cpuinfo").at(OWN, 4, processor(random)).hide(OWN + 12, 8),
        10 => {
            let (command, what) = match random.below(3) {
                0 => (56, "cpu_online"),
                1 => (57, "cpu_offline"),
                _ => (58, "cpu_hotadd"),
            };
            let cpu = if command == 56 { processor(random) } else { Value::Number(random.of_list(&[1, 31, 255, 256])) };
            let call = request(command, what).at(OWN, 4, cpu);
            if command == 58 {
                call.at(OWN + 4, 4, Value::Number(300)).at(OWN + 8, 4, Value::Number(0xffff_ffff))
            } else {
                call
            }
        }
        11 => {
            let call = request(60, "core_parking").at(OWN, 4, small(random, 4));
            call.at(OWN + 4, 4, Value::Number(random.of_list(&[0, 0xffff_ffff])))
        }
        12 => resources(random),
        13 => {
            let call = request(63, "get_symbol").at(OWN, 4, Value::Number(random.of_list(&[0, 8, 64])));
            let call = call.at(OWN + 4, 4, Value::Number(random.of_list(&[0xffff_fff0, 0xffff_ffff])));
            call.at(OWN + 8, 8, buffer(random, BEHIND)).hide(OWN + 16, 16)
        }
        14 => {
            let call = request(random.of_list(&[0, 16, 18, 36, 40, 47, 52, 64, 65, 99, 0xffff_ffff]), "none");
            if random.one_in(3) { call.at(4, 4, number(random)) } else { call }
        }
        _ => odd(random),
    }
}

fn memory_types(random: &mut Random) -> Call {
    match random.below(3) {
        // What is added is refused.
        0 => {
            let call = request(31, "add_memtype").at(OWN, 8, Value::Number(0xd_0000)).at(OWN + 8, 8, Value::Number(1));
            call.at(OWN + 16, 4, Value::Number(random.of_list(&[2, 3, 7, 99])))
        }
        1 => request(32, "del_memtype").at(OWN, 4, Value::Number(0)).at(
            OWN + 4,
            4,
            Value::Number(random.of_list(&[50, 99])),
        ),
        _ => request(33, "read_memtype").at(OWN, 4, Value::Number(random.of_list(&[8, 99, 0xffff_ffff]))),
    }
}

/// What a dom0's ACPI tells of processors.
fn power(random: &mut Random) -> Call {
    let kind = random.of_list(&[0, 1, 1, 2, 2, 3, 4, 99]);
    let id = Value::Number(random.of_list(&[0, 0, 1, 200, 255, 256, 0xffff_ffff]));
    let call = request(54, "set_processor_pminfo").at(OWN, 4, id).at(OWN + 4, 4, Value::Number(kind));
    match kind {
        // Idle states: how many, flags, where they are.
        0 => {
            let count = random.of_list(&[0, 1, 1, 2, 9]);
            call.at(OWN + 8, 4, Value::Number(count)).at(OWN + 16, 8, buffer(random, BEHIND))
        }
        // Frequencies: which parts are told.
        1 => {
            // The spaces of the two registers; how many states and where; who shares them.
            let call = call.at(OWN + 8, 4, Value::Number(random.of_list(&[0, 1, 2, 4, 8, 9, 10, 12])));
            let call = call.at(OWN + 20, 1, small(random, 2)).at(OWN + 36, 1, small(random, 2));
            let call = call.at(OWN + 48, 4, small(random, 3)).at(OWN + 56, 8, buffer(random, BEHIND));
            call.at(OWN + 104, 4, Value::Number(random.of_list(&[0, 1, 2, 3, 4, 0xffff_ffff])))
        }
        _ => call.at(OWN + 8, 8, buffer(random, BEHIND)),
    }
}

fn resources(random: &mut Random) -> Call {
    let count = random.of_list(&[0, 1, 1, 1, 2, 3, 0xffff_ffff]);
    let call = request(61, "resource_op").at(OWN, 4, Value::Number(count)).at(OWN + 4, 4, processor(random));
    let call = call.at(OWN + 8, 8, buffer(random, BEHIND));
    (0..2).fold(call, |call, index| {
        let at = BEHIND as usize + index * 24;
        let register = random.of_list(&[0x10, 0x10, 0x1b, 0xc8e, 0xc90, 0xc8d, 0x1a0, 0, 0xffff_ffff]);
        let call = call.at(at, 4, Value::Number(random.of_list(&[0, 0, 1, 2]))).at(at + 8, 8, Value::Number(register));
        let value = Value::Number(random.of_list(&[0, 1]));
        call.at(at + 16, 8, value).hide(at + 16, 8)
    })
}

/// Calls that no PV domain has much of.
fn odd(random: &mut Random) -> Call {
    let args = |command: u64, argument| [Value::Number(command), argument, Value::Number(0), Value::Number(0)];
    let argument = buffer(random, BEHIND);
    match random.below(9) {
        0 => {
            let command = random.below(14);
            Call::new(Hypercall::XenpmuOp, "", &args(command, argument)).at(BEHIND as usize, 8, number(random))
        }
        1 => Call::new(Hypercall::ArgoOp, "", &args(random.below(6), argument)),
        2 => Call::new(Hypercall::DmOp, "", &args(random.of_list(&[0, 0x7ff0, 0x1234]), Value::Number(0))),
        3 => {
            let path = random.of_list(&[0, 1, 2, 1025]);
            let call = Call::new(
                Hypercall::HypfsOp,
                "",
                &[small(random, 5), argument, Value::Number(path), Value::Number(WILD), Value::Number(0)],
            );
            call.at(BEHIND as usize, 2, Value::Number(0x2f))
        }
        4 => Call::new(Hypercall::XsmOp, "", &args(0, argument)),
        5 => Call::new(Hypercall::XenoprofOp, "", &args(random.below(18), Value::Number(WILD))),
        6 => Call::new(Hypercall::KexecOp, "", &args(random.of_list(&[2, 5, 6, 99]), Value::Number(WILD))),
        7 => {
            let call = Call::new(Hypercall::Mca, "", &[Value::Memory(0)]).at(0, 4, small(random, 8));
            let version = Value::Number(random.of_list(&[0x01ec_c003, 0x01ec_c003, 0x01ec_c003, 0x01ec_c002]));
            call.at(4, 4, version).at(8, 8, number(random)).hide(8, 24)
        }
        _ => {
            let call = Call::new(Hypercall::NmiOp, "", &args(random.of_list(&[0, 0, 1, 2]), argument));
            let address = Value::Number(random.of_list(&[0x1234_5678_9abc_d000, 1 << 47, 0x1000]));
            call.at(BEHIND as usize, 8, address)
        }
    }
}
