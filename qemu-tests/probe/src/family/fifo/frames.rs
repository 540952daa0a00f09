//! Control blocks of other vcpus, and the pages of the array.

use core::sync::atomic::Ordering;

use oxen_abi::errno::Errno;
use oxen_abi::event_channel as abi;
use oxen_abi::hypercall::Hypercall;

use super::{Fifo, LINKED, NO_FRAME, PENDING, SELF, close, expand, init, ipi, poll, send, with};
use crate::judge::{Probe, call};

pub(super) fn ask(probe: &mut Probe, fifo: &Fifo) {
    vcpus(probe, fifo);
    frames(probe, fifo);
}

/// Queues of two vcpus, where there are two. The second need not run.
fn vcpus(probe: &mut Probe, fifo: &Fifo) {
    let there = ipi(probe, 1);
    if there == 0 {
        return;
    }
    probe.works("send to a vcpu without a control block", send(probe, there));
    probe.is("nobody is told", fifo.word(there).into(), 0);
    probe.is("nor is it pending", poll(probe, there), 0);
    let Some(page) = probe.page() else { return };
    let control = |index: usize| page.words32().get(index).map_or(0, |word| word.load(Ordering::SeqCst));
    probe.works("init_control of another vcpu", init(probe, page.mfn().raw(), 0, 1));
    probe.is("nothing is ready there", control(0).into(), 0);
    probe.works("send once more", send(probe, there));
    probe.is("linked", fifo.word(there).into(), (PENDING | LINKED).into());
    probe.is("ready there", control(0).into(), 1 << 7);
    probe.is("head there", control(9).into(), there.into());
    with(probe, abi::EVTCHNOP_ALLOC_UNBOUND, &[SELF | SELF << 16, 0]);
    let moving = probe.word32(1);
    with(probe, abi::EVTCHNOP_BIND_INTERDOMAIN, &[SELF, moving, 0]);
    let bell = probe.word32(2);
    probe.is("a port that was bound is raised", fifo.head(7).into(), bell.into());
    send(probe, bell);
    probe.is("another is linked behind it", fifo.word(bell).into(), (PENDING | LINKED | moving).into());
    probe.works("bind_vcpu while it is linked", with(probe, abi::EVTCHNOP_BIND_VCPU, &[moving, 1]));
    send(probe, bell);
    probe.is("it stays here", fifo.word(there).into(), (PENDING | LINKED).into());
    fifo.set(bell, 0);
    fifo.set(moving, 0);
    send(probe, bell);
    probe.is("not linked any more, it moves", fifo.word(there).into(), (PENDING | LINKED | moving).into());
    let second = ipi(probe, 0);
    send(probe, second);
    probe.is("what it left is empty", fifo.head(7).into(), second.into());
    for port in [there, bell, moving, second] {
        close(probe, port);
    }
    fifo.serve();
    page.words32().iter().for_each(|word| word.store(0, Ordering::SeqCst));
    core::mem::forget(page);
}

/// Frames that are lent so are writable and nothing else.
fn frames(probe: &mut Probe, fifo: &Fifo) {
    let got = call(Hypercall::UpdateVaMapping, [fifo.array.address(), fifo.array.mfn().raw() << 12 | 0x61, 2]);
    probe.works("the words are mapped read-only", got);
    let pin = probe.words(&[u64::from(oxen_abi::mmu::MMUEXT_PIN_L1_TABLE), fifo.array.mfn().raw(), 0]);
    let got = call(Hypercall::MmuextOp, [pin, 1, 0, SELF.into()]);
    probe.refuses("they become no page table", got, Errno::Inval);
    let got = call(Hypercall::UpdateVaMapping, [fifo.array.address(), fifo.array.mfn().raw() << 12 | 0x63, 2]);
    probe.works("the words are mapped writable", got);
    let port = ipi(probe, 0);
    send(probe, port);
    probe.is("they are written all the same", fifo.word(port).into(), (PENDING | LINKED).into());
    close(probe, port);
    fifo.serve();
    // The same frame may serve for all of the words but those of the second four thousand.
    let Some(page) = probe.page() else { return };
    for number in 1..128 {
        let got = expand(probe, if number == 4 { page.mfn().raw() } else { fifo.array.mfn().raw() });
        if got != 0 {
            probe.is("a page of the words", got, number);
        }
    }
    probe.refuses("one page too many", expand(probe, fifo.array.mfn().raw()), Errno::NoSpc);
    probe.refuses("one page too many, and no frame", expand(probe, NO_FRAME), Errno::NoSpc);
    let mut last = 0;
    while last < 4100 {
        let port = ipi(probe, 0);
        if port <= last {
            probe.is("a port behind another", port.into(), (last + 1).into());
            break;
        }
        last = port;
    }
    let word = || page.words32().get(4).map_or(0, |word| word.load(Ordering::SeqCst));
    probe.works("send to a port that two levels have no room for", send(probe, last));
    probe.is("pending and linked", word().into(), (PENDING | LINKED).into());
    probe.is("the head of its queue", fifo.head(7).into(), last.into());
    probe.is("poll of it", poll(probe, last), 0);
    probe.refuses("send to a port that is not there yet", send(probe, 4300), Errno::Inval);
    core::mem::forget(page);
}
