//! What the control domain does to others, and a domain's way through life as a toolstack leads it.

use super::{Fake, boot, guest::Guest, on_cpu, table_word, this_cpu};
use oxen_abi::{
    domctl::{self as abi, Domctl},
    domid::DomId,
    errno::Errno,
    event_channel::EvtchnInitControl,
    guest_context::VcpuGuestContext,
    sched::SHUTDOWN_CRASH,
    segments::{VGCF_IN_KERNEL, VGCF_ONLINE},
    vcpu::VCPUOP_REGISTER_VCPU_INFO,
};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    caller::Caller,
    domain::{Domain, regs::Regs},
    mem::{Tlb, editor::Editor, entry::Entry, frame_type::FrameType, root::RootAddress},
};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use zerocopy::{FromZeros, IntoBytes};

/// Where the control domain's requests are, and what they point to.
pub(crate) const REQUEST: u64 = 0;
pub(crate) const CONTEXT: u64 = 0x1000;
pub(crate) const LIST: u64 = 0x4000;

pub(crate) fn control_domain() -> Guest {
    on_cpu(0);
    let mut control = Guest::new(boot(1024), 0, true, 256);
    control.build_home(16);
    control
}

pub(crate) fn ask<T: IntoBytes + zerocopy::Immutable>(
    control: &mut Guest,
    command: u32,
    domain: DomId,
    request: &T,
) -> Result<Domctl, Errno> {
    let op = Domctl::new(command, domain, request);
    control.hv.machine().write_guest(GuestAddr::new(REQUEST), op.as_bytes()).unwrap();
    control.call(Caller::domctl, [REQUEST, 0, 0, 0])?;
    let mut answer = Domctl::new_zeroed();
    control.hv.machine().read_guest(GuestAddr::new(REQUEST), answer.as_mut_bytes()).unwrap();
    Ok(answer)
}

pub(crate) fn wanted(max_vcpus: u32) -> abi::DomctlCreatedomain {
    abi::DomctlCreatedomain {
        max_vcpus,
        max_evtchn_port: 1023,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 1,
        handle: [7; 16],
        ..FromZeros::new_zeroed()
    }
}

pub(crate) fn make(control: &mut Guest) -> Arc<Domain> {
    let id = ask(control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(0), &wanted(2)).unwrap().domain;
    control.hv.domains.get(id).unwrap()
}

pub(crate) fn destroy(control: &mut Guest, id: DomId) -> Result<Domctl, Errno> {
    ask(control, abi::XEN_DOMCTL_DESTROYDOMAIN, id, &0_u64)
}

/// What `domain`'s vcpu does by itself, although no CPU runs it.
pub(crate) fn as_guest<R>(
    hv: &'static Hypervisor<Fake>,
    domain: &Arc<Domain>,
    act: impl FnOnce(&mut Caller<'_, Fake>) -> R,
) -> R {
    let vcpu = domain.vcpu(0).unwrap();
    let mut state = vcpu.slot.lock().take().unwrap();
    let mut regs = Regs::default();
    let shared = hv.cpu(this_cpu()).unwrap();
    let mut caller = Caller { hv, cpu: this_cpu(), shared, domain, vcpu, state: &mut state, regs: &mut regs };
    let result = act(&mut caller);
    *vcpu.slot.lock() = Some(state);
    result
}

/// Memory as a domain builder leaves it: one table of each level, a GDT, some pages. The context that goes with it.
pub(crate) fn furnish(hv: &'static Hypervisor<Fake>, domain: &Arc<Domain>) -> (VcpuGuestContext, Vec<Mfn>) {
    let frames: Vec<Mfn> = (0..20).map(|_| hv.memory.take_for(&domain.memory, 0).unwrap()).collect();
    let flags = Entry::PRESENT | Entry::ACCESSED | Entry::USER;
    for pair in frames[..4].windows(2) {
        table_word(hv, pair[0], 0).store(Entry::to(pair[1], flags | Entry::WRITABLE).0, SeqCst);
    }
    for (slot, &frame) in frames[5..].iter().enumerate() {
        table_word(hv, frames[3], slot).store(Entry::to(frame, flags | Entry::WRITABLE).0, SeqCst);
    }
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = (VGCF_IN_KERNEL | VGCF_ONLINE).into();
    context.ctrlreg[3] = frames[0].address().as_u64();
    context.gdt_frames[0] = frames[4].raw();
    context.gdt_ents = 16;
    context.user_regs.cs = 0xe030;
    (context, frames)
}

pub(crate) fn set_context(
    control: &mut Guest,
    id: DomId,
    vcpu: u32,
    context: &VcpuGuestContext,
) -> Result<Domctl, Errno> {
    control.hv.machine().write_guest(GuestAddr::new(CONTEXT), context.as_bytes()).unwrap();
    let request = abi::DomctlVcpucontext { vcpu, _pad0: 0, ctxt: CONTEXT };
    ask(control, abi::XEN_DOMCTL_SETVCPUCONTEXT, id, &request)
}

/// Everything that a domain goes through, one step after the other.
pub(crate) const STEPS: [fn(&mut Guest, &Arc<Domain>); 9] = [
    |_, _| {},
    |control, domain| {
        ask(control, abi::XEN_DOMCTL_MAX_VCPUS, domain.id, &abi::DomctlMaxVcpus { max: 2 }).unwrap();
        ask(control, abi::XEN_DOMCTL_MAX_MEM, domain.id, &abi::DomctlMaxMem { max_memkb: 4 * 64 }).unwrap();
    },
    |control, domain| {
        let (context, frames) = furnish(control.hv, domain);
        Editor::open(&control.hv.memory, &domain.memory).unwrap().pin(frames[0], 4).unwrap();
        set_context(control, domain.id, 0, &context).unwrap();
    },
    |control, domain| {
        ask(control, abi::XEN_DOMCTL_UNPAUSEDOMAIN, domain.id, &0_u64).unwrap();
    },
    |control, domain| {
        let id = control.domain.id;
        let port = as_guest(control.hv, domain, |caller| {
            caller.bind_virq(oxen_abi::virq::VIRQ_TIMER, 0).unwrap();
            caller.bind_ipi(1).unwrap();
            caller.alloc_unbound(DomId::SELF, id).unwrap()
        });
        control.caller().bind_interdomain(domain.id, port).unwrap();
    },
    |control, domain| {
        control.hv.grow_grant_table(domain, 3).unwrap();
    },
    |control, domain| {
        // The guest's own pages follow its tables, from address 0 on; the second is written to for the third.
        let root = domain.vcpu(0).unwrap().slot.lock().as_ref().unwrap().kernel_root.unwrap();
        let frame = |i: u64| Mfn::new(root.mfn().raw() + i);
        let info = (0..64).filter_map(frame).find(|&m| {
            let state = control.hv.memory.frames.state(m);
            state.owner() == domain.owner() && state.uses() == 1 && state.kind() == FrameType::Writable
        });
        control.hv.machine().load_root(RootAddress::of(root));
        as_guest(control.hv, domain, |caller| {
            let words = [info.unwrap().raw(), 64];
            caller.hv.machine().write_guest(GuestAddr::new(0), words.as_bytes()).unwrap();
            caller.vcpu_op(&mut [VCPUOP_REGISTER_VCPU_INFO.into(), 0, 0, 0, 0, 0]).unwrap();
            assert!(caller.state.info.upcall_pending().load(SeqCst) != 0, "nothing is lost in the move");
            let control_gfn = info.unwrap().raw();
            let request = EvtchnInitControl { control_gfn, offset: 128, vcpu: 1, link_bits: 0, _pad: [0; 7] };
            caller.init_event_control(&request).unwrap();
            (0..3).for_each(|_| caller.expand_event_array(control_gfn).unwrap());
        });
        control.run();
    },
    |control, domain| control.hv.shut_down(domain, SHUTDOWN_CRASH),
    |control, domain| {
        ask(control, abi::XEN_DOMCTL_PAUSEDOMAIN, domain.id, &0_u64).unwrap();
    },
];
