//! A guest on the fake machine: a domain, a vcpu, and what a test does in its name.

use super::{Fake, run_domain, table_word, this_cpu};
use oxen_abi::{domid::DomId, errno::Errno};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    caller::Caller,
    domain::{
        Config, Domain,
        regs::Regs,
        vcpu::{Pauses, Processor, Vcpu, VcpuState},
    },
    mem::entry::Entry,
    reply::{Args, Reply, Stop},
};
use std::sync::{Arc, atomic::Ordering};
use x86_64::structures::paging::PageTableFlags;

/// A guest that runs on this thread's CPU.
pub(crate) struct Guest {
    /// The hypervisor.
    pub(crate) hv: &'static Hypervisor<Fake>,
    /// Its domain.
    pub(crate) domain: Arc<Domain>,
    /// Its only vcpu.
    pub(crate) vcpu: Arc<Vcpu>,
    /// The vcpu's state.
    pub(crate) state: Box<VcpuState>,
    /// Its registers.
    pub(crate) regs: Regs,
}

/// A domain that is not paused, in the first free slot.
pub(crate) fn new_domain(hv: &'static Hypervisor<Fake>, id: u16, is_privileged: bool, max_pages: u32) -> Arc<Domain> {
    let config = Config { id: Some(DomId(id)), is_privileged, ..Config::CONTROL };
    let domain = hv.create_domain(&config).unwrap();
    domain.memory.max_pages.store(max_pages, Ordering::SeqCst);
    hv.unpause_by_controller(&domain).unwrap();
    domain
}

impl Guest {
    /// A guest with a fresh domain, in the first free slot.
    pub(crate) fn new(hv: &'static Hypervisor<Fake>, id: u16, is_privileged: bool, max_pages: u32) -> Self {
        let domain = new_domain(hv, id, is_privileged, max_pages);
        hv.add_vcpu(&domain, 0).unwrap();
        let vcpu = domain.vcpu(0).unwrap().clone();
        let state = vcpu.slot.lock().take().unwrap();
        vcpu.is_initialised.store(true, Ordering::SeqCst);
        vcpu.pauses.store(Pauses::empty(), Ordering::SeqCst);
        Self { hv, domain, vcpu, state, regs: Regs::default() }
    }

    /// The guest as a handler sees it.
    pub(crate) fn caller(&mut self) -> Caller<'_, Fake> {
        self.hv.memory.frames.tlb.enter(self.domain.owner(), 1 << this_cpu().0);
        run_domain(self.hv, &self.domain);
        Caller {
            hv: self.hv,
            cpu: this_cpu(),
            shared: self.hv.cpu(this_cpu()).unwrap(),
            domain: &self.domain,
            vcpu: &self.vcpu,
            state: &mut self.state,
            regs: &mut self.regs,
        }
    }

    /// A frame for its reservation.
    pub(crate) fn frame(&self) -> Mfn {
        self.hv.memory.take_for(&self.domain.memory, 0).unwrap()
    }

    /// An address space as a domain builder leaves it: one table of each level. The page at address `i << 12` is the
    /// `i`th of `data`, writable; after them come the four tables, read-only. The kernel runs on it.
    pub(crate) fn build_home(&mut self, data: usize) -> Home {
        let tables = [(); 4].map(|()| self.frame());
        let data: Vec<Mfn> = (0..data).map(|_| self.frame()).collect();
        let flags = Entry::PRESENT | Entry::ACCESSED | Entry::USER;
        for (above, below) in tables.iter().zip(&tables[1..]) {
            table_word(self.hv, *above, 0).store(Entry::to(*below, flags | Entry::WRITABLE).0, Ordering::SeqCst);
        }
        let pages = data
            .iter()
            .map(|&frame| (frame, Entry::WRITABLE))
            .chain(tables.iter().map(|&frame| (frame, PageTableFlags::empty())));
        for (slot, (frame, writable)) in pages.enumerate() {
            table_word(self.hv, tables[3], slot).store(Entry::to(frame, flags | writable).0, Ordering::SeqCst);
        }
        self.state.kernel_root = Some(self.hv.memory.adopt_root(&self.domain.memory, tables[0]).unwrap());
        self.run();
        Home { tables, data }
    }

    /// Words in its memory.
    pub(crate) fn put(&self, at: u64, words: &[u64]) {
        for (index, &word) in words.iter().enumerate() {
            self.hv.machine().write_guest_word(GuestAddr::new(at + 8 * index as u64), word).unwrap();
        }
    }

    /// The guest runs on this CPU now.
    pub(crate) fn run(&mut self) {
        self.hv.memory.frames.tlb.enter(self.domain.owner(), 1 << this_cpu().0);
        let (user, kernel) = (self.state.user_root, self.state.kernel_root);
        self.state.loaded = self.hv.memory.roots_to_load(&self.domain.memory, self.vcpu.id, user, kernel);
        run_domain(self.hv, &self.domain);
        self.hv.machine().switch_mode(&self.state);
    }

    /// A hypercall's handler, called until it is not preempted any more.
    pub(crate) fn call<'a>(
        &'a mut self,
        handler: fn(&mut Caller<'a, Fake>, &mut Args) -> Reply,
        args: [u64; 4],
    ) -> Result<u64, Errno> {
        let mut args = [args[0], args[1], args[2], args[3], 0, 0];
        let mut caller = self.caller();
        loop {
            match handler(&mut caller, &mut args) {
                Ok(value) => return Ok(value),
                Err(Stop::Refused(error)) => return Err(error),
                Err(Stop::Unfinished) => {}
                Err(Stop::Fatal(fault)) => panic!("crashed: {}", fault.reason()),
            }
        }
    }
}

/// What [`Guest::build_home`] built.
pub(crate) struct Home {
    /// The tables, from level 4 to level 1.
    pub(crate) tables: [Mfn; 4],
    /// The data pages.
    pub(crate) data: Vec<Mfn>,
}
