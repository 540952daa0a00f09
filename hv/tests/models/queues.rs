//! An event that is put on a queue of the FIFO ABI while the guest takes the one before it off.

use crate::support::{self, guest::Guest, on_cpu};
use oxen_abi::{
    domid::DomId,
    event_channel::{
        EVTCHN_FIFO_LINKED, EVTCHN_FIFO_PENDING, EVTCHN_FIFO_PRIORITY_DEFAULT, EvtchnFifoControlBlock,
        EvtchnInitControl,
    },
};
use oxen_model::check;
use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering::SeqCst},
};

const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
/// Where an event word leads to.
const LINK: u32 = (1 << 17) - 1;
/// Where in the control block the head of the queue stands, in words.
const HEAD: usize = core::mem::offset_of!(EvtchnFifoControlBlock, head) / 4 + EVTCHN_FIFO_PRIORITY_DEFAULT as usize;

/// Two domains with two channels between them; the second has queues.
struct World {
    sender: Mutex<Guest>,
    receiver: Mutex<Guest>,
    /// The receiver's ports, and the sender's.
    ports: [(u32, u32); 2],
    block: &'static [AtomicU32],
    words: &'static [AtomicU32],
    /// How often each event was taken, by the receiver's port.
    taken: Mutex<Vec<u32>>,
}

impl World {
    /// The first event waits in its queue, and was told of.
    fn new() -> &'static Self {
        on_cpu(0);
        let hv = support::boot(64);
        let [mut sender, mut receiver] = [1, 2].map(|id| Guest::new(hv, id, false, 16));
        let [block, words] = [(); 2].map(|()| receiver.frame());
        let control = EvtchnInitControl { control_gfn: block.raw(), offset: 0, vcpu: 0, link_bits: 0, _pad: [0; 7] };
        receiver.caller().init_event_control(&control).unwrap();
        receiver.caller().expand_event_array(words.raw()).unwrap();
        let ports = [(); 2].map(|()| {
            let there = receiver.caller().alloc_unbound(DomId::SELF, DomId(1)).unwrap();
            (there, sender.caller().bind_interdomain(DomId(2), there).unwrap())
        });
        let [block, words] = [block, words].map(|frame| &hv.machine().halves(frame)[..]);
        let (sender, receiver) = (Mutex::new(sender), Mutex::new(receiver));
        let world = Self { sender, receiver, ports, block, words, taken: Mutex::default() };
        world.receiver.lock().unwrap().state.info.set_upcall_mask(false);
        // A channel that is bound tells its first end.
        world.drain();
        world.taken.lock().unwrap().clear();
        world.send(0);
        Box::leak(Box::new(world))
    }

    fn send(&self, which: usize) {
        self.sender.lock().unwrap().caller().send_event(self.ports[which].1).unwrap();
    }

    /// The guest's upcall: takes off what its queue has, as long as it is told that there is something.
    fn drain(&self) {
        let info = self.receiver.lock().unwrap().state.info;
        info.upcall_pending().swap(0, SeqCst);
        let mut head = 0;
        while self.block[0].swap(0, SeqCst) != 0 || head != 0 {
            if head == 0 {
                head = self.block[HEAD].load(SeqCst);
            }
            let port = head;
            let word = &self.words[port as usize];
            // It is off the queue in the same moment as its link is read.
            let old = word.fetch_and(!(LINKED | LINK), SeqCst);
            head = old & LINK;
            if word.fetch_and(!PENDING, SeqCst) & PENDING != 0 {
                self.taken.lock().unwrap().push(port);
            }
        }
    }

    /// Who was told takes all that there is; each event was taken once. Then it is again as it was.
    fn each_came_once(&self) {
        on_cpu(1);
        if self.receiver.lock().unwrap().state.info.wants_upcall() {
            self.drain();
        }
        let mut taken = std::mem::take(&mut *self.taken.lock().unwrap());
        taken.sort_unstable();
        assert_eq!(taken, self.ports.map(|(port, _)| port), "an event is lost, or came twice");
        self.send(0);
    }
}

fn send_another(world: &World) {
    on_cpu(0);
    world.send(1);
}

fn take(world: &World) {
    on_cpu(1);
    world.drain();
}

#[test]
fn an_event_that_is_linked_while_the_queue_is_emptied_is_not_lost() {
    println!("{} ways", check(World::new(), 3, &[send_another, take], World::each_came_once));
}
