//! A guest on the fake machine: a domain, a vcpu, and what a test does in its name.

use super::{Fake, this_cpu};
use oxen_abi::domid::DomId;
use oxen_hv::{
    Hypervisor,
    addr::Mfn,
    caller::Caller,
    domain::{
        Domain, NOT_SHUT_DOWN,
        regs::Regs,
        vcpu::{Callback, ExtendedState, Vcpu, VcpuState},
    },
    mem::frame_alloc,
    mem::frame_type::Owner,
    trap::{TrapHandler, TrapTable},
};
use std::sync::{Arc, atomic::Ordering};

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

/// A vcpu's state as a toolstack would leave it at first: all zero, in its kernel, no roots.
pub(crate) fn blank_state() -> Box<VcpuState> {
    Box::new(VcpuState {
        regs: Regs::default(),
        extended: ExtendedState([0; ExtendedState::BYTES]),
        in_kernel: true,
        traps: TrapTable([TrapHandler::default(); 256]),
        event_callback: Callback::default(),
        failsafe_callback: Callback::default(),
        syscall_callback: Callback::default(),
        syscall32_callback: Callback::default(),
        sysenter_callback: Callback::default(),
        nmi_callback: Callback::default(),
        kernel_ss: 0,
        kernel_sp: 0,
        fs_base: 0,
        gs_base_kernel: 0,
        gs_base_user: 0,
        selectors: [0; 4],
        gdt: [None; 14],
        gdt_entries: 0,
        ldt_base: 0,
        ldt_entries: 0,
        task_switched: false,
        cr4: 0,
        breakpoints: [0; 4],
        debug_status: 0,
        debug_control: 0,
        kernel_root: None,
        user_root: None,
        iopl: 0,
    })
}

/// A domain in the first free slot.
pub(crate) fn new_domain(hv: &'static Hypervisor<Fake>, id: u16, is_privileged: bool, max_pages: u32) -> Arc<Domain> {
    let owner = Owner::domain(hv.domains.free_slot().unwrap()).unwrap();
    let domain = Arc::new(Domain {
        id: DomId(id),
        owner,
        is_privileged,
        handle: Default::default(),
        shared_info: frame_alloc::take_shared(hv, owner).unwrap(),
        vcpus: Default::default(),
        max_vcpus: 1.into(),
        max_pages: max_pages.into(),
        paging: Default::default(),
        events: Default::default(),
        console_line: Default::default(),
        grants: Default::default(),
        vm_assist: 0.into(),
        pause_count: 0.into(),
        is_paused_by_controller: false.into(),
        shutdown: NOT_SHUT_DOWN.into(),
        is_dying: false.into(),
        dirty_cpus: 0.into(),
    });
    hv.domains.insert(domain.clone()).unwrap();
    domain
}

impl Guest {
    /// A guest with a fresh domain, in the first free slot.
    pub(crate) fn new(hv: &'static Hypervisor<Fake>, id: u16, is_privileged: bool, max_pages: u32) -> Self {
        let domain = new_domain(hv, id, is_privileged, max_pages);
        let vcpu = Arc::new(Vcpu {
            domain: domain.id,
            id: 0,
            pauses: 0.into(),
            slot: Default::default(),
            is_initialised: true.into(),
            info: Default::default(),
            work: 0.into(),
            sched: Default::default(),
            timer: u64::MAX.into(),
        });
        domain.vcpus[0].call_once(|| vcpu.clone());
        Self { hv, domain, vcpu, state: blank_state(), regs: Regs::default() }
    }

    /// The guest as a handler sees it.
    pub(crate) fn caller(&mut self) -> Caller<'_, Fake> {
        self.domain.dirty_cpus.fetch_or(1 << this_cpu().0, Ordering::SeqCst);
        Caller {
            hv: self.hv,
            cpu: this_cpu(),
            domain: &self.domain,
            vcpu: &self.vcpu,
            state: &mut self.state,
            regs: &mut self.regs,
        }
    }

    /// A frame for its reservation.
    pub(crate) fn frame(&self) -> Mfn {
        frame_alloc::take_for(self.hv, &self.domain, 0).unwrap()
    }
}
