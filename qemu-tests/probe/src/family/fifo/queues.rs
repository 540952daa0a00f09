//! Words and queues: what is linked where, in which order, and what the guest may write there.

use oxen_abi::errno::Errno;
use oxen_abi::event_channel as abi;
use oxen_domu_lib::event;

use super::{BUSY, Fifo, LINKED, MASKED, PENDING, SELF, close, ipi, poll, send, set_priority, with};
use crate::judge::Probe;

pub(super) fn ask(probe: &mut Probe, fifo: &Fifo) {
    order(probe, fifo);
    priorities(probe, fifo);
    masks(probe, fifo);
    rubbish(probe, fifo);
    closed(probe, fifo);
}

/// One queue.
fn order(probe: &mut Probe, fifo: &Fifo) {
    let ports = [0; 3].map(|_| ipi(probe, 0));
    let [first, second, third] = ports;
    probe.works("send", send(probe, first));
    probe.is("pending and linked to none", fifo.word(first).into(), (PENDING | LINKED).into());
    probe.is("ready", fifo.control(0).into(), 1 << 7);
    probe.is("head", fifo.head(7).into(), first.into());
    probe.works("send to a second", send(probe, second));
    probe.is("the first leads to it", fifo.word(first).into(), (PENDING | LINKED | second).into());
    probe.works("send to the second again", send(probe, second));
    probe.works("send to the first again", send(probe, first));
    probe.works("send to a third", send(probe, third));
    probe.is("the second leads to it", fifo.word(second).into(), (PENDING | LINKED | third).into());
    probe.is("the third to none", fifo.word(third).into(), (PENDING | LINKED).into());
    probe.is("head as before", fifo.head(7).into(), first.into());
    // The guest takes the first off, and looks at its head and at what is ready no more.
    fifo.set(first, 0);
    event::settle(0);
    probe.works("send to the first once more", send(probe, first));
    probe.is("it is the last", fifo.word(third).into(), (PENDING | LINKED | first).into());
    probe.is("no upcall: its queue was not empty", event::upcall().0.into(), 0);
    // All are taken off; the guest's bits of ready stay.
    for port in ports {
        fifo.set(port, 0);
    }
    probe.works("send to the second, the queue empty", send(probe, second));
    probe.is("the head is the second", fifo.head(7).into(), second.into());
    probe.is("no upcall: its queue was ready", event::upcall().0.into(), 0);
    probe.is("poll of it", poll(probe, second), 0);
    for port in ports {
        close(probe, port);
    }
    fifo.serve();
}

fn priorities(probe: &mut Probe, fifo: &Fifo) {
    let [high, low] = [0; 2].map(|_| ipi(probe, 0));
    probe.refuses("priority 16", set_priority(probe, high, 16), Errno::Inval);
    probe.refuses("priority of a port that is closed", set_priority(probe, 60, 3), Errno::Acces);
    probe.refuses("priority of port 0", set_priority(probe, 0, 3), Errno::Acces);
    probe.refuses("priority 16 of a port that is closed", set_priority(probe, 60, 16), Errno::Acces);
    probe.refuses("priority of a port beyond", set_priority(probe, 1 << 20, 3), Errno::Inval);
    probe.works("priority 0", set_priority(probe, high, 0));
    probe.works("priority 15", set_priority(probe, low, 15));
    probe.works("send to the low", send(probe, low));
    probe.works("send to the high", send(probe, high));
    probe.is("both are ready", fifo.control(0).into(), 1 << 15 | 1);
    probe.is("head of the high", fifo.head(0).into(), high.into());
    probe.is("head of the low", fifo.head(15).into(), low.into());
    probe.works("the low becomes the high's equal", set_priority(probe, low, 0));
    probe.works("send to it where it is linked", send(probe, low));
    probe.is("it stays in its queue", fifo.word(high).into(), (PENDING | LINKED).into());
    fifo.set(low, 0);
    probe.works("send to it when it is not", send(probe, low));
    probe.is("it moves", fifo.word(high).into(), (PENDING | LINKED | low).into());
    fifo.set(high, 0);
    fifo.set(low, 0);
    probe.works("the low is low again", set_priority(probe, low, 15));
    probe.works("send to the low", send(probe, low));
    probe.works("send to the high", send(probe, high));
    probe.is("the queue that it was the last of is empty", fifo.word(low).into(), (PENDING | LINKED).into());
    probe.is("and begins anew", fifo.head(0).into(), high.into());
    close(probe, high);
    fifo.serve();
    let again = ipi(probe, 0);
    probe.is("the port is given out again", again.into(), high.into());
    send(probe, again);
    probe.is("with the usual priority", fifo.control(0).into(), 1 << 7);
    close(probe, again);
    close(probe, low);
    fifo.serve();
}

fn masks(probe: &mut Probe, fifo: &Fifo) {
    let port = ipi(probe, 0);
    fifo.set(port, MASKED);
    probe.works("send, masked", send(probe, port));
    probe.is("pending, not linked", fifo.word(port).into(), (PENDING | MASKED).into());
    probe.is("not ready", fifo.control(0).into(), 0);
    probe.is("no upcall", event::upcall().0.into(), 0);
    probe.is("poll of it", poll(probe, port), 0);
    probe.works("unmask", with(probe, abi::EVTCHNOP_UNMASK, &[port]));
    probe.is("linked", fifo.word(port).into(), (PENDING | LINKED).into());
    probe.is("an upcall", event::upcall().0.into(), 1);
    fifo.serve();
    probe.works("unmask of one that is not pending", with(probe, abi::EVTCHNOP_UNMASK, &[port]));
    probe.is("nothing happens", fifo.word(port).into(), 0);
    fifo.set(port, PENDING);
    probe.works("unmask of one that is not masked", with(probe, abi::EVTCHNOP_UNMASK, &[port]));
    probe.is("it is linked all the same", fifo.word(port).into(), (PENDING | LINKED).into());
    fifo.serve();
    close(probe, port);
    fifo.set(port, PENDING | MASKED);
    probe.works("unmask of a closed port", with(probe, abi::EVTCHNOP_UNMASK, &[port]));
    probe.is("nothing happens to it", fifo.word(port).into(), (PENDING | MASKED).into());
    fifo.serve();
}

/// What the guest should never write.
fn rubbish(probe: &mut Probe, fifo: &Fifo) {
    let [first, second] = [0; 2].map(|_| ipi(probe, 0));
    send(probe, first);
    fifo.set(first, PENDING | LINKED | BUSY | 0x1234);
    probe.works("send behind a word that is busy", send(probe, second));
    probe.is("it leads on, and is not busy", fifo.word(first).into(), (PENDING | LINKED | second).into());
    fifo.serve();
    send(probe, first);
    fifo.set(first, 0x0fff_ffff & !0x1_ffff | PENDING | LINKED);
    send(probe, second);
    probe.is("the other bits stay", fifo.word(first).into(), (0x0ffe_0000 | PENDING | LINKED | second).into());
    fifo.serve();
    send(probe, first);
    fifo.set(first, BUSY);
    send(probe, second);
    probe.is("a last that is busy and not linked: as it was", fifo.word(first).into(), BUSY.into());
    probe.is("and the second is the head", fifo.head(7).into(), second.into());
    fifo.serve();
    fifo.set(first, LINKED);
    probe.works("send to a port that the guest has linked", send(probe, first));
    probe.is("it is in no queue", fifo.head(7).into(), 0);
    probe.is("pending and linked", fifo.word(first).into(), (PENDING | LINKED).into());
    fifo.serve();
    fifo.set(first, BUSY | 0x77);
    probe.works("send to a port that is busy", send(probe, first));
    probe.is("the rest stays", fifo.word(first).into(), (PENDING | LINKED | BUSY | 0x77).into());
    close(probe, first);
    probe.is("closed, too", fifo.word(first).into(), (LINKED | BUSY | 0x77).into());
    close(probe, second);
    fifo.serve();
}

/// A port that is closed and still linked is not given out.
fn closed(probe: &mut Probe, fifo: &Fifo) {
    let [first, second] = [0; 2].map(|_| ipi(probe, 0));
    send(probe, first);
    close(probe, first);
    let other = ipi(probe, 0);
    probe.holds("a port that is linked is passed over", other > second, other.into());
    let got = with(probe, abi::EVTCHNOP_STATUS, &[SELF, first, 0, 0, 0, 0]);
    probe.works("its status", got);
    probe.is("it is closed", probe.word32(2).into(), 0);
    probe.refuses("poll of it", poll(probe, first), Errno::Inval);
    probe.refuses("send to it", send(probe, first), Errno::Inval);
    fifo.serve();
    let again = ipi(probe, 0);
    probe.is("one that is not linked is given out", again.into(), first.into());
    for port in [again, second, other] {
        close(probe, port);
    }
    fifo.serve();
}
