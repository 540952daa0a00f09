//! `event_channel_op` with the FIFO interface, which is left again before the next sequence, and in its oldest form.

use alloc::vec::Vec;

use oxen_abi::hypercall::Hypercall;

use super::{Call, Random, Value, domain};
use crate::fuzz::call::Kept;
use crate::fuzz::value::SELF;

/// Calls of a batch that begins with queues.
const BURST: u64 = 4;
const CLEAR_PAGE: u64 = oxen_abi::mmu::MMUEXT_CLEAR_PAGE as u64;

fn op(command: u64, what: &'static str) -> Call {
    Call::new(Hypercall::EventChannelOp, what, &[Value::Number(command), Value::Memory(0)])
}

/// A control block, mostly of the vcpu that there is.
fn init_control(random: &mut Random) -> Call {
    let offset = random.of_list(&[0, 0, 64, 8, 4, 4024, 4032, 4096, 0xffff_fff8]);
    let vcpu = random.of_list(&[0, 0, 0, 0, 1, 0xffff_ffff]);
    let call = op(11, "init_control").at(0, 8, super::any_frame(random));
    call.at(8, 4, Value::Number(offset)).at(12, 4, Value::Number(vcpu))
}

fn expand_array(random: &mut Random) -> Call {
    op(12, "expand_array").at(0, 8, super::any_frame(random))
}

fn set_priority(random: &mut Random) -> Call {
    let priority = random.of_list(&[0, 1, 7, 15, 16, 0xffff_ffff]);
    op(13, "set_priority").words32(&[domain::port(random), Value::Number(priority)])
}

/// The same call by the hypercall of before Xen 3.2: the command stands before its argument.
fn of_old(mut call: Call) -> Call {
    const COMMAND: usize = 4;
    let command = call.args.first().copied().unwrap_or_default();
    call.number = Hypercall::EventChannelOpCompat as u64;
    call.args = [Value::Memory(0)].to_vec();
    call.memory.iter_mut().for_each(|(at, ..)| *at += COMMAND);
    call.hidden.iter_mut().for_each(|(at, _)| *at += COMMAND);
    if let Some(Kept::Port(at)) = &mut call.kept {
        *at += COMMAND;
    }
    call.at(0, COMMAND, command)
}

/// Draws a call.
pub(super) fn draw(random: &mut Random) -> Call {
    match random.below(6) {
        0 => init_control(random),
        1 => expand_array(random),
        2 | 3 => set_priority(random),
        _ => of_old(domain::event(random)),
    }
}

/// Draws a batch that gives the vcpu its queues, and does something with them. The event words begin as zeros, or a
/// flag in half of a machine address would make a number of it that is another on each hypervisor.
pub(super) fn burst(random: &mut Random) -> Vec<Call> {
    let array = Value::Frame(super::frame(random));
    let one = [Value::Memory(0), Value::Number(1), Value::Number(0), Value::Number(SELF)];
    let clear = Call::new(Hypercall::MmuextOp, "clear_page", &one).words(&[Value::Number(CLEAR_PAGE), array]);
    let init = op(11, "init_control").at(0, 8, Value::Frame(super::frame(random)));
    let mut calls = Vec::from([clear, init, op(12, "expand_array").at(0, 8, array)]);
    for _ in 0..1 + random.below(BURST) {
        calls.push(if random.one_in(4) { draw(random) } else { domain::event(random) });
    }
    calls
}
