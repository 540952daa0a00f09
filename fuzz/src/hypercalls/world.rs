//! Who plays: a control domain and two guests, and an idler that keeps every CPU in work. The machine outlives a
//! sequence, as long as that left it as it was.

use super::{
    cpus::{self, IDLER},
    laws,
    support::{self, CPUS, Fake, OWN_FRAMES, Peripherals, audit, table_word},
};
use oxen_abi::{domid::DomId, vm_assist::Assists};
use oxen_hv::{
    Hypervisor,
    addr::Mfn,
    domain::{
        Config, Domain,
        traps::{Callback, TrapHandler},
        vcpu::Pauses,
    },
    mem::{editor::Editor, entry::Entry},
    sched::run_queue::Share,
};
use std::{
    cell::RefCell,
    sync::{Arc, atomic::Ordering::SeqCst},
};
use x86_64::structures::paging::PageTableFlags;

/// Frames of the machine.
const FRAMES: usize = 320;
/// Frames that a domain may have.
const MAX_PAGES: u32 = 70;
/// Sequences after which a machine is given up in any case.
const MAX_SEQUENCES: u32 = 2000;

/// Addresses of every domain: where its requests stand, its code, the end of its stack.
pub(super) const BUFFER: u64 = 0;
pub(super) const CODE: u64 = 0x1000;
pub(super) const STACK_END: u64 = 0x4000;
/// Pages at the first addresses of a domain.
const DATA: usize = 16;
/// The page of its grant table: after its tables and `shared_info`.
pub(super) const GRANTS_PAGE: u64 = DATA as u64 + 6;
/// Where its handlers would be.
const HANDLERS: u64 = 0x20_0000;
/// A flat code segment of the guest's kernel.
const FLAT_KERNEL: u16 = 0xe033;

/// A machine, and what it was before anybody played.
#[derive(Clone)]
struct Machine {
    hv: &'static Hypervisor<Fake>,
    free: u32,
    print: String,
    sequences: u32,
}

thread_local! {
    static KEPT: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

/// What a sequence may change for good, although its domains are gone.
fn print(hv: &Hypervisor<Fake>) -> String {
    format!("{:?} {:?} {:?} {:?} {}", hv.pools.lock(), hv.virq_handlers, hv.pirqs, hv.trace.info(), hv.trace.is_on())
}

impl Machine {
    fn new() -> Self {
        support::on_cpu(0);
        let hv = support::boot(FRAMES);
        let free = hv.memory.frames.free_frames();
        assert_eq!(free as usize, FRAMES - OWN_FRAMES);
        // Trace buffers stay once they are made.
        hv.make_trace_buffers(1).expect("memory for trace buffers");
        let free = hv.memory.frames.free_frames();
        Self { hv, free, print: print(hv), sequences: 0 }
    }
}

/// The domains of a sequence.
pub(super) struct World {
    machine: Machine,
    pub(super) hv: &'static Hypervisor<Fake>,
    /// The CPU that acts.
    pub(super) cpu: u16,
    sides: Vec<Side>,
    /// What was answered last, newest first: numbers that the hypervisor gave out.
    last: [u64; 16],
}

/// A domain, and the frames that it began with: its pages in order of address, tables from the top down, the root of
/// its user mode, `shared_info`, its grant table.
struct Side {
    domain: Arc<Domain>,
    frames: Vec<Mfn>,
}

impl World {
    pub(super) fn begin() -> Self {
        let machine = KEPT.take().unwrap_or_else(Machine::new);
        let hv = machine.hv;
        *hv.machine().peripherals.lock().unwrap() = Peripherals {
            msrs: [0x10, 0x1b, 0x277, 0xc000_0080, 0x1a0].map(|msr| (msr, 0x1234)).into(),
            ..Peripherals::default()
        };
        hv.machine().watches_reads.store(false, SeqCst);
        hv.machine().idle_step.store(1_000_000, SeqCst);
        cpus::become_those_of(hv);
        let idler = build(hv, IDLER, CPUS as u32);
        hv.set_share(&idler.domain, Share { weight: 1, cap: 0 });
        for (cpu, vcpu) in idler.domain.each_vcpu().enumerate() {
            hv.set_hard_affinity(&idler.domain, vcpu, 1 << cpu).unwrap();
        }
        let sides = [(0, 2), (1, 2), (2, 1)].map(|(id, vcpus)| build(hv, DomId(id), vcpus)).into();
        Self { machine, hv, cpu: 0, sides, last: [0; 16] }
    }

    /// Whether there is anybody whose part the sequence can take: the control domain's end is the machine's.
    pub(super) fn goes_on(&self) -> bool {
        !self.sides[0].domain.is_shut_down()
    }

    /// The side that a domain is; of those that came later, the control domain's.
    pub(super) fn side_of(&self, id: DomId) -> usize {
        self.sides.iter().position(|side| side.domain.id == id).unwrap_or(0)
    }

    /// A frame that a domain began with.
    pub(super) fn frame(&self, side: usize, which: u8) -> u64 {
        let frames = &self.sides[side % self.sides.len()].frames;
        frames[usize::from(which) % frames.len()].raw()
    }

    pub(super) fn last(&self, age: usize) -> u64 {
        self.last[age % self.last.len()]
    }

    pub(super) fn remember(&mut self, answer: u64) {
        self.last.rotate_right(1);
        self.last[0] = answer;
    }

    /// Ends all domains, and looks whether everything came back.
    pub(super) fn end(self) {
        let hv = self.hv;
        hv.machine().frames_left.store(u64::MAX, SeqCst);
        hv.machine().heap_left.store(u64::MAX, SeqCst);
        cpus::stop(hv);
        drop(self.sides);
        for _ in 0..2 {
            for domain in cpus::domains(hv) {
                while hv.tear_down(&domain).is_err() {}
            }
        }
        laws::check(hv);
        assert_eq!(cpus::domains(hv).len(), 0, "law 7: a domain cannot be reaped");
        assert_eq!(hv.memory.frames.free_frames(), self.machine.free, "law 7: not everything came back");
        audit::check(hv, &audit::Holds::default(), audit::nothing_lent);
        let machine = Machine { sequences: self.machine.sequences + 1, ..self.machine };
        if machine.sequences < MAX_SEQUENCES && print(hv) == machine.print {
            KEPT.set(Some(machine));
        }
    }
}

/// A domain whose vcpus are up, each with an address space, handlers and a stack.
fn build(hv: &'static Hypervisor<Fake>, id: DomId, vcpus: u32) -> Side {
    let config = Config {
        id: Some(id),
        is_privileged: id == DomId::DOM0,
        max_vcpus: 4,
        max_grant_frames: 4,
        max_maptrack_frames: 4,
        ..Config::CONTROL
    };
    let domain = hv.create_domain(&config).unwrap();
    domain.memory.max_pages.store(MAX_PAGES, SeqCst);
    domain.memory.set_assists(Assists::WRITABLE_PAGETABLES);
    let frames = address_spaces(hv, &domain);
    let (root, user_root) = (frames[DATA], frames[DATA + 4]);
    for number in 0..vcpus {
        hv.add_vcpu(&domain, number).unwrap();
        let vcpu = domain.vcpu(number).unwrap();
        let [kernel, user] = [root, user_root].map(|table| hv.memory.adopt_root(&domain.memory, table).unwrap());
        let mut slot = vcpu.slot.lock();
        let state = slot.as_mut().unwrap();
        (state.kernel_root, state.user_root) = (Some(kernel), Some(user));
        for vector in 0..=u8::MAX {
            let handler = TrapHandler { address: HANDLERS + u64::from(vector), cs: FLAT_KERNEL, flags: 3 };
            state.traps.set(vector, handler);
        }
        let callback = |at: u64| Callback { address: HANDLERS + at, masks_events: false };
        state.event_callback = callback(0x1000);
        state.failsafe_callback = callback(0x1001);
        state.syscall_callback = callback(0x1002);
        (state.kernel_sp, state.regs.rsp, state.regs.rip) = (STACK_END, STACK_END, CODE);
        drop(slot);
        vcpu.is_initialised.store(true, SeqCst);
        hv.unpause_vcpu(vcpu, Pauses::DOWN);
    }
    hv.unpause_by_controller(&domain).unwrap();
    Side { domain, frames }
}

/// Pages, tables, and both roots, the kernel's pinned.
fn address_spaces(hv: &'static Hypervisor<Fake>, domain: &Arc<Domain>) -> Vec<Mfn> {
    let frame = || hv.memory.take_for(&domain.memory, 0).unwrap();
    let data: Vec<Mfn> = (0..DATA).map(|_| frame()).collect();
    let tables = [(); 5].map(|()| frame());
    let [root, level3, level2, level1, user_root] = tables;
    let grants = hv.grant_table_frame(domain, 0).unwrap();
    let flags = Entry::PRESENT | Entry::ACCESSED | Entry::USER;
    let set = |table, slot, to, flags| table_word(hv, table, slot).store(Entry::to(to, flags).0, SeqCst);
    for (above, below) in [(root, level3), (user_root, level3), (level3, level2), (level2, level1)] {
        set(above, 0, below, flags | Entry::WRITABLE);
    }
    let writable = data.iter().map(|&page| (page, Entry::WRITABLE));
    let read_only = tables.iter().map(|&table| (table, PageTableFlags::empty()));
    let lent = [domain.shared_info.mfn(), grants.mfn()];
    let shared = lent.map(|frame| (frame, Entry::WRITABLE));
    for (slot, (page, writable)) in writable.chain(read_only).chain(shared).enumerate() {
        set(level1, slot, page, flags | writable);
    }
    Editor::open(&hv.memory, &domain.memory).unwrap().pin(root, 4).unwrap();
    [data, tables.into(), lent.into()].concat()
}
