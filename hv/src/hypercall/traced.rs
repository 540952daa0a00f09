//! Hypercalls while they are traced: what was asked is noted before, how it was answered behind.

use super::{MULTICALL, Next, Outcome, number, outcome};
use crate::{caller::Caller, machine::Machine, reply::Args};
use oxen_abi::{
    event_channel::{EVTCHNOP_SEND, EvtchnSend},
    hypercall::Hypercall,
    trace::{
        HypercallArgs, OXEN_TRC_EVENT_SENT, OXEN_TRC_HYPERCALL_ANSWER, TRC_PV_HYPERCALL_SUBCALL, TRC_PV_HYPERCALL_V2,
        halves,
    },
};

/// Any hypercall, on the machine's way in.
pub(super) extern "sysv64" fn hypercall<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Outcome {
    let number = caller.regs.rax;
    caller.note_hypercall(TRC_PV_HYPERCALL_V2, number, args);
    let answered = if number == MULTICALL {
        outcome(caller.multicall_by(args, Caller::traced_hypercall_in_batch))
    } else {
        caller.hypercall(number, args)
    };
    caller.note_answer(number, answered, false);
    answered
}

impl<M: Machine> Caller<'_, M> {
    /// A hypercall of a batch.
    fn traced_hypercall_in_batch(&mut self, number: u64, args: &mut Args) -> Outcome {
        self.note_hypercall(TRC_PV_HYPERCALL_SUBCALL, number, args);
        let answered = self.hypercall_in_batch(number, args);
        self.note_answer(number, answered, true);
        answered
    }

    fn note_hypercall(&self, event: u32, number: u64, args: &Args) {
        let shape = Hypercall::from_number(number).map_or(HypercallArgs::UNKNOWN, HypercallArgs::of);
        self.hv.note_words(event, &shape.record(number, args));
        // Here, so that sending is as short as ever while nobody looks.
        if number == Hypercall::EventChannelOp.number()
            && number::uint(args[0]) == EVTCHNOP_SEND
            && let Ok(EvtchnSend { port }) = self.copy_from_guest(args[1])
        {
            self.hv.note_words(OXEN_TRC_EVENT_SENT, &[self.domain.id.0.into(), port]);
        }
    }

    /// One that is gone on with has no answer yet.
    fn note_answer(&self, asked: u64, answered: Outcome, is_subcall: bool) {
        if answered.next == Next::Answer {
            let [low, high] = halves(answered.value);
            let which = number::uint(asked & 0xff) | u32::from(is_subcall) << 8;
            self.hv.note_words(OXEN_TRC_HYPERCALL_ANSWER, &[which, low, high]);
        }
    }
}
