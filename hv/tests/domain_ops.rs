//! Domains made and ended through the control domain's calls: whatever state they are ended in, everything comes back.

mod support;

use oxen_abi::{
    domctl::{self as abi, Domctl},
    domid::DomId,
    errno::Errno,
    guest_context::VcpuGuestContext,
    sched::SHUTDOWN_CRASH,
    segments::{VGCF_IN_KERNEL, VGCF_ONLINE},
    sysctl::{self, Sysctl, SysctlGetdomaininfolist, SysctlPhysinfo},
    vcpu::{VCPUOP_INITIALISE, VCPUOP_REGISTER_VCPU_INFO},
};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    caller::{Caller, Refusal},
    domain::{self, Domain, Progress, context, regs::Regs},
    event, grant,
    hypercall::{
        domctl::domctl, physdev::physdev_op, platform::platform_op, sched, sysctl::sysctl as sysctl_call, vcpu,
    },
    mem::{GuestMemory, Tlb, editor::Editor, entry::Entry, frame_alloc, frame_type::FrameType},
};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use support::{Fake, audit, boot, guest::Guest, on_cpu, table_word, this_cpu};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Where the control domain's requests are, and what they point to.
const REQUEST: u64 = 0;
const CONTEXT: u64 = 0x1000;
const LIST: u64 = 0x4000;

fn control_domain() -> Guest {
    on_cpu(0);
    let mut control = Guest::new(boot(1024), 0, true, 256);
    control.build_home(16);
    control
}

fn ask<T: IntoBytes + zerocopy::Immutable>(
    control: &mut Guest,
    command: u32,
    domain: DomId,
    request: &T,
) -> Result<Domctl, Errno> {
    let op = Domctl::new(command, domain, request);
    control.hv.machine.write_guest(GuestAddr(REQUEST), op.as_bytes()).unwrap();
    control.call(domctl, [REQUEST, 0, 0, 0])?;
    let mut answer = Domctl::new_zeroed();
    control.hv.machine.read_guest(GuestAddr(REQUEST), answer.as_mut_bytes()).unwrap();
    Ok(answer)
}

fn wanted(max_vcpus: u32) -> abi::DomctlCreatedomain {
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

fn make(control: &mut Guest) -> Arc<Domain> {
    let id = ask(control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(0), &wanted(2)).unwrap().domain;
    control.hv.domains.get(id).unwrap()
}

fn destroy(control: &mut Guest, id: DomId) -> Result<Domctl, Errno> {
    ask(control, abi::XEN_DOMCTL_DESTROYDOMAIN, id, &0_u64)
}

/// What `domain`'s vcpu does by itself, although no CPU runs it.
fn as_guest<R>(hv: &'static Hypervisor<Fake>, domain: &Arc<Domain>, act: impl FnOnce(&mut Caller<'_, Fake>) -> R) -> R {
    let vcpu = domain.vcpu(0).unwrap();
    let mut state = vcpu.slot.lock().take().unwrap();
    let mut regs = Regs::default();
    let mut caller = Caller { hv, cpu: this_cpu(), domain, vcpu, state: &mut state, regs: &mut regs };
    let result = act(&mut caller);
    *vcpu.slot.lock() = Some(state);
    result
}

/// Memory as a domain builder leaves it: one table of each level, a GDT, some pages. The context that goes with it.
fn furnish(hv: &'static Hypervisor<Fake>, domain: &Arc<Domain>) -> (VcpuGuestContext, Vec<Mfn>) {
    let frames: Vec<Mfn> = (0..20).map(|_| frame_alloc::take_for(hv, domain, 0).unwrap()).collect();
    let flags = Entry::PRESENT | Entry::ACCESSED | Entry::USER;
    for pair in frames[..4].windows(2) {
        table_word(hv, pair[0], 0).store(Entry::to(pair[1], flags | Entry::WRITABLE).0, SeqCst);
    }
    for (slot, &frame) in frames[5..].iter().enumerate() {
        table_word(hv, frames[3], slot).store(Entry::to(frame, flags | Entry::WRITABLE).0, SeqCst);
    }
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = (VGCF_IN_KERNEL | VGCF_ONLINE).into();
    context.ctrlreg[3] = frames[0].address().0;
    context.gdt_frames[0] = frames[4].raw();
    context.gdt_ents = 16;
    context.user_regs.cs = 0xe030;
    (context, frames)
}

fn set_context(control: &mut Guest, id: DomId, vcpu: u32, context: &VcpuGuestContext) -> Result<Domctl, Errno> {
    control.hv.machine.write_guest(GuestAddr(CONTEXT), context.as_bytes()).unwrap();
    let request = abi::DomctlVcpucontext { vcpu, _pad0: 0, ctxt: CONTEXT };
    ask(control, abi::XEN_DOMCTL_SETVCPUCONTEXT, id, &request)
}

/// Everything that a domain goes through, one step after the other.
const STEPS: [fn(&mut Guest, &Arc<Domain>); 9] = [
    |_, _| {},
    |control, domain| {
        ask(control, abi::XEN_DOMCTL_MAX_VCPUS, domain.id, &abi::DomctlMaxVcpus { max: 2 }).unwrap();
        ask(control, abi::XEN_DOMCTL_MAX_MEM, domain.id, &abi::DomctlMaxMem { max_memkb: 4 * 64 }).unwrap();
    },
    |control, domain| {
        let (context, frames) = furnish(control.hv, domain);
        Editor::open(control.hv, domain).unwrap().pin(frames[0], 4).unwrap();
        set_context(control, domain.id, 0, &context).unwrap();
    },
    |control, domain| {
        ask(control, abi::XEN_DOMCTL_UNPAUSEDOMAIN, domain.id, &0_u64).unwrap();
    },
    |control, domain| {
        let id = control.domain.id;
        let port = as_guest(control.hv, domain, |caller| {
            event::bind_virq(caller, oxen_abi::virq::VIRQ_TIMER, 0).unwrap();
            event::bind_ipi(caller, 1).unwrap();
            event::alloc_unbound(caller, DomId::SELF, id).unwrap()
        });
        event::bind_interdomain(&control.caller(), domain.id, port).unwrap();
    },
    |control, domain| {
        grant::grow(control.hv, domain, 3).unwrap();
    },
    |control, domain| {
        // The guest's own pages follow its tables, from address 0 on; the second is written to for the third.
        let root = domain.vcpu(0).unwrap().slot.lock().as_ref().unwrap().kernel_root.unwrap();
        let frame = |i: u64| Mfn::new(root.raw() + i);
        let info = (0..64).filter_map(frame).find(|&m| {
            let state = control.hv.frames.state(m);
            state.owner() == domain.owner && state.uses() == 1 && state.kind() == FrameType::Writable
        });
        control.hv.machine.load_root(root);
        as_guest(control.hv, domain, |caller| {
            let words = [info.unwrap().raw(), 64];
            caller.hv.machine.write_guest(GuestAddr(0), words.as_bytes()).unwrap();
            vcpu::vcpu_op(caller, &mut [VCPUOP_REGISTER_VCPU_INFO.into(), 0, 0, 0, 0, 0]).unwrap();
            assert!(caller.state.info.upcall_pending().load(SeqCst) != 0, "nothing is lost in the move");
        });
        control.run();
    },
    |control, domain| domain::shut_down(control.hv, domain, SHUTDOWN_CRASH),
    |control, domain| {
        ask(control, abi::XEN_DOMCTL_PAUSEDOMAIN, domain.id, &0_u64).unwrap();
    },
];

#[test]
fn a_domain_ended_in_any_state_gives_everything_back() {
    for last in 0..STEPS.len() {
        let mut control = control_domain();
        let hv = control.hv;
        let free = hv.frames.free_frames();
        let domain = make(&mut control);
        for step in &STEPS[..=last] {
            step(&mut control, &domain);
        }
        destroy(&mut control, domain.id).unwrap();
        assert_eq!(hv.frames.free_frames(), free, "after step {last}");
        assert!(hv.domains.get(domain.id).is_none(), "after step {last}");
        assert_eq!(Arc::strong_count(&domain), 1, "after step {last}");
        assert_eq!(destroy(&mut control, domain.id), Err(Errno::Srch));
        let mut holds = audit::Holds::default();
        holds.add(control.domain.shared_info, true);
        holds.add(control.state.kernel_root.unwrap(), true);
        audit::check(hv, &holds, audit::nothing_lent);
    }
}

#[test]
fn who_is_mapped_by_another_is_dead_and_not_buried() {
    let mut control = control_domain();
    let hv = control.hv;
    let free = hv.frames.free_frames();
    let domain = make(&mut control);
    STEPS[1](&mut control, &domain);
    let (_, frames) = furnish(hv, &domain);
    hv.frames.reference(frames[7], domain.owner).unwrap();
    destroy(&mut control, domain.id).unwrap();
    let info: abi::DomctlGetdomaininfo =
        ask(&mut control, abi::XEN_DOMCTL_GETDOMAININFO, domain.id, &0_u64).unwrap().get();
    assert_eq!((info.domain, info.flags & abi::XEN_DOMINF_DYING, info.tot_pages), (domain.id, 1, 1));
    let again = abi::DomctlCreatedomain { ..wanted(1) };
    assert_eq!(ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, domain.id, &again), Err(Errno::Exist));
    hv.frames.put(frames[7]);
    let list = SysctlGetdomaininfolist { max_domains: 10, buffer: LIST, ..FromZeros::new_zeroed() };
    let op = Sysctl::new(sysctl::XEN_SYSCTL_GETDOMAININFOLIST, &list);
    hv.machine.write_guest(GuestAddr(REQUEST), op.as_bytes()).unwrap();
    control.call(sysctl_call, [REQUEST, 0, 0, 0]).unwrap();
    assert!(hv.domains.get(domain.id).is_none());
    assert_eq!(hv.frames.free_frames(), free);
}

#[test]
fn what_is_wrong_with_a_new_domain_is_refused_and_leaves_nothing() {
    let mut control = control_domain();
    let free = control.hv.frames.free_frames();
    for bad in [
        abi::DomctlCreatedomain { max_vcpus: 0, ..wanted(1) },
        abi::DomctlCreatedomain { max_vcpus: 33, ..wanted(1) },
        abi::DomctlCreatedomain { flags: abi::XEN_DOMCTL_CDF_HVM, ..wanted(1) },
        abi::DomctlCreatedomain { grant_opts: 3, ..wanted(1) },
        abi::DomctlCreatedomain { max_grant_frames: 0, ..wanted(1) },
        abi::DomctlCreatedomain { cpupool_id: 1, ..wanted(1) },
    ] {
        assert_eq!(ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(0), &bad), Err(Errno::Inval));
    }
    assert_eq!(ask(&mut control, 999, DomId(0), &0_u64), Err(Errno::NoSys));
    assert_eq!(ask(&mut control, abi::XEN_DOMCTL_PAUSEDOMAIN, DomId(9), &0_u64), Err(Errno::Srch));
    for command in [abi::XEN_DOMCTL_DESTROYDOMAIN, abi::XEN_DOMCTL_PAUSEDOMAIN] {
        assert_eq!(ask(&mut control, command, DomId(0), &0_u64), Err(Errno::Inval), "not to itself");
    }
    // Memory that runs out at any line is -ENOMEM, and nothing stays behind.
    for left in 0..3 {
        control.hv.machine.heap_left.store(left, SeqCst);
        let made = ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(5), &wanted(1));
        let more = abi::DomctlMaxVcpus { max: 1 };
        let made = made.and_then(|_| ask(&mut control, abi::XEN_DOMCTL_MAX_VCPUS, DomId(5), &more));
        assert_eq!(made, Err(Errno::NoMem), "{left}");
        control.hv.machine.heap_left.store(u64::MAX, SeqCst);
        let _ = destroy(&mut control, DomId(5));
        assert_eq!(control.hv.frames.free_frames(), free, "{left}");
    }
}

#[test]
fn only_the_control_domain_controls() {
    let control = control_domain();
    let mut guest = Guest::new(control.hv, 3, false, 64);
    guest.build_home(4);
    for command in [abi::XEN_DOMCTL_GETDOMAININFO, abi::XEN_DOMCTL_CREATEDOMAIN, abi::XEN_DOMCTL_DESTROYDOMAIN] {
        assert_eq!(ask(&mut guest, command, DomId(0), &wanted(1)), Err(Errno::Perm));
    }
    let op = Sysctl::new(sysctl::XEN_SYSCTL_PHYSINFO, &SysctlPhysinfo::new_zeroed());
    guest.hv.machine.write_guest(GuestAddr(REQUEST), op.as_bytes()).unwrap();
    assert_eq!(guest.call(sysctl_call, [REQUEST, 0, 0, 0]), Err(Errno::Perm));
    assert_eq!(guest.call(platform_op, [REQUEST, 0, 0, 0]), Err(Errno::Perm));
}

#[test]
fn a_context_is_taken_whole_or_not_at_all() {
    let mut control = control_domain();
    let hv = control.hv;
    let domain = make(&mut control);
    STEPS[1](&mut control, &domain);
    let (good, frames) = furnish(hv, &domain);
    let bad: [fn(&mut VcpuGuestContext, &[Mfn]); 8] = [
        |c, _| c.user_regs.rip = 1 << 60,
        |c, _| c.event_callback_eip = 1 << 60,
        |c, _| c.trap_ctxt[200].address = 1 << 60,
        |c, _| c.gdt_ents = 7169,
        |c, _| c.gdt_frames[0] = 3,
        |c, f| c.gdt_frames[0] = f[0].raw(),
        |c, _| c.ctrlreg[3] = 3 << 12,
        |c, _| c.flags = 0,
    ];
    let before: Vec<_> = frames.iter().map(|&mfn| hv.frames.state(mfn).refs()).collect();
    for (which, change) in bad.iter().enumerate() {
        let mut context = good;
        change(&mut context, &frames);
        assert!(set_context(&mut control, domain.id, 0, &context).is_err(), "{which}");
        let after: Vec<_> = frames.iter().map(|&mfn| hv.frames.state(mfn).refs()).collect();
        assert_eq!(after, before, "{which}");
    }
    set_context(&mut control, domain.id, 0, &good).unwrap();
    let mut other = good;
    other.ctrlreg[3] = frames[8].address().0;
    assert_eq!(set_context(&mut control, domain.id, 0, &other), Err(Errno::OpNotSupp));
    let mut read = VcpuGuestContext::new_zeroed();
    context::get(&domain, domain.vcpu(0).unwrap(), &mut read).unwrap();
    assert_eq!((read.ctrlreg[3], read.gdt_frames[0], read.gdt_ents), (good.ctrlreg[3], good.gdt_frames[0], 16));
    assert_eq!(read.user_regs.cs, 0xe033, "in ring 3");
    assert_eq!(read.flags & u64::from(VGCF_IN_KERNEL), VGCF_IN_KERNEL.into());
    destroy(&mut control, domain.id).unwrap();
}

/// A generator of numbers that repeats itself exactly (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % sides
    }

    /// Numbers as a hostile caller would choose them.
    fn word(&mut self) -> u64 {
        match self.roll(8) {
            0 => u64::MAX - self.roll(3),
            1 => 1 << self.roll(64),
            2 => 0xffff_8000_0000_0000 + self.roll(1 << 40),
            3 => CONTEXT + self.roll(0x4000),
            4 => self.roll(1100),
            _ => self.roll(5),
        }
    }
}

fn hostile_request(dice: &mut Dice, command: u32, version: u32) -> [u8; 144] {
    let mut bytes = [0; 144];
    for word in bytes.chunks_exact_mut(4) {
        word.copy_from_slice(&(dice.word() as u32).to_le_bytes());
    }
    if dice.roll(2) == 0 {
        // As eight-byte fields would have it.
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&dice.word().to_le_bytes());
        }
    }
    bytes[..4].copy_from_slice(&command.to_le_bytes());
    bytes[4..8].copy_from_slice(&version.to_le_bytes());
    bytes[8..10].copy_from_slice(&(dice.roll(6) as u16).to_le_bytes());
    bytes
}

#[test]
fn no_request_of_the_control_domain_breaks_anything() {
    for seed in 1..=12_u64 {
        let mut control = control_domain();
        let hv = control.hv;
        let free = hv.frames.free_frames();
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let versions = [abi::XEN_DOMCTL_INTERFACE_VERSION, sysctl::XEN_SYSCTL_INTERFACE_VERSION, 0x0300_0001];
        for _ in 0..2500 {
            if dice.roll(20) == 0 {
                let domain = DomId(dice.roll(5) as u16 + 1);
                if ask(&mut control, abi::XEN_DOMCTL_CREATEDOMAIN, domain, &wanted(2)).is_ok() {
                    let domain = hv.domains.get(domain).unwrap();
                    let steps = dice.roll(5) as usize;
                    STEPS[..steps].iter().for_each(|step| step(&mut control, &domain));
                }
            }
            let which = dice.roll(5);
            let (handler, command): (fn(&mut Caller<'_, Fake>, &mut _) -> _, u64) = match which {
                0..=2 => (domctl::<Fake>, dice.roll(90)),
                3 => (sysctl_call::<Fake>, dice.roll(32)),
                _ => (platform_op::<Fake>, dice.roll(66)),
            };
            let version = versions[(which as usize).saturating_sub(2)];
            let request = hostile_request(&mut dice, command as u32, version);
            hv.machine.write_guest(GuestAddr(REQUEST), &request).unwrap();
            let _ = control.call(handler, [REQUEST, 0, 0, 0]);
            if dice.roll(3) == 0 {
                let argument = dice.word();
                let _ = control.call(physdev_op, [dice.roll(34), argument, 0, 0]);
            }
        }
        for id in 1..600 {
            let _ = destroy(&mut control, DomId(id));
        }
        assert_eq!(hv.domains.count(), 1);
        assert_eq!(hv.frames.free_frames(), free, "seed {seed}");
    }
}

#[test]
fn no_vcpu_op_of_a_guest_breaks_anything() {
    for seed in 1..=20_u64 {
        let mut control = control_domain();
        let hv = control.hv;
        let free = hv.frames.free_frames();
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let domain = make(&mut control);
        STEPS[..4].iter().for_each(|step| step(&mut control, &domain));
        let root = domain.vcpu(0).unwrap().slot.lock().as_ref().unwrap().kernel_root.unwrap();
        hv.machine.load_root(root);
        as_guest(hv, &domain, |caller| {
            for _ in 0..1500 {
                for word in 0..128 {
                    let value = dice.word();
                    hv.machine.write_guest(GuestAddr(8 * word), &value.to_le_bytes()).unwrap();
                }
                let argument = if dice.roll(4) == 0 { dice.word() } else { 8 * dice.roll(64) };
                let mut args = [dice.roll(16), dice.roll(4), argument, 0, 0, 0];
                let answer = if dice.roll(3) == 0 {
                    sched::sched_op(caller, &mut [args[0] % 8, argument, 0, 0, 0, 0])
                } else {
                    vcpu::vcpu_op(caller, &mut args)
                };
                assert!(!matches!(answer, Err(Refusal::Crash(_))), "{args:?}");
            }
        });
        control.run();
        destroy(&mut control, domain.id).unwrap();
        assert_eq!(hv.frames.free_frames(), free, "seed {seed}");
    }
}

#[test]
fn a_second_vcpu_starts_with_the_context_that_the_first_gives_it() {
    let mut control = control_domain();
    let hv = control.hv;
    let domain = make(&mut control);
    STEPS[..3].iter().for_each(|step| step(&mut control, &domain));
    let (first, second) = (domain.vcpu(0).unwrap().clone(), domain.vcpu(1).unwrap().clone());
    let root = first.slot.lock().as_ref().unwrap().kernel_root.unwrap();
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = VGCF_IN_KERNEL.into();
    context.ctrlreg[3] = root.address().0;
    context.user_regs.cs = 0x10;
    context.user_regs.ss = 0x18;
    context.user_regs.rflags = 0x1000;
    hv.machine.load_root(root);
    hv.machine.write_guest(GuestAddr(0), context.as_bytes()).unwrap();
    let ask = |command| as_guest(hv, &domain, |c| vcpu::vcpu_op(c, &mut [command, 1, 0, 0, 0, 0]));
    assert_eq!(ask(oxen_abi::vcpu::VCPUOP_UP.into()), Err(Refusal::Tell(Errno::Inval)));
    assert_eq!(ask(VCPUOP_INITIALISE.into()), Ok(0));
    assert_eq!(ask(VCPUOP_INITIALISE.into()), Err(Refusal::Tell(Errno::Exist)));
    assert_eq!(ask(oxen_abi::vcpu::VCPUOP_IS_UP.into()), Ok(0));
    assert_eq!(ask(oxen_abi::vcpu::VCPUOP_UP.into()), Ok(0));
    assert_eq!(ask(oxen_abi::vcpu::VCPUOP_IS_UP.into()), Ok(1));
    let state = second.slot.lock();
    let state = state.as_ref().unwrap();
    assert_eq!((state.regs.cs, state.regs.ss), (0x13, 0x1b));
    assert_eq!(state.regs.rflags & 0x3200, 0x200, "interrupts on, no privilege");
    assert_eq!(event::close_all(hv, &domain), Progress::Done);
}

#[test]
fn a_request_survives_every_bit() {
    // `hostile_request` relies on it: any bits are a request.
    assert!(Domctl::read_from_bytes(&[0xff; 144]).is_ok());
}
