//! Memory that gives out at each allocation there is in a domain's life: the call that needed it says so, nothing is
//! lost, and with memory back the same call works and the life goes on.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl as abi,
    domid::DomId,
    errno::Errno,
    event_channel::EvtchnInitControl,
    guest_context::VcpuGuestContext,
    segments::{VGCF_IN_KERNEL, VGCF_ONLINE},
    vcpu::VCPUOP_REGISTER_VCPU_INFO,
    virq::VIRQ_TIMER,
};
use oxen_hv::{
    Hypervisor,
    addr::{GuestAddr, Mfn},
    domain::Domain,
    mem::{Tlb, editor::Editor, entry::Entry, root::RootAddress},
    reply::Stop,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};
use support::{
    Fake, audit,
    control::{as_guest, ask, control_domain, destroy, set_context, wanted},
    guest::Guest,
    table_word,
};
use zerocopy::{FromZeros, IntoBytes};

/// Pages of the domain, its tables and its GDT among them.
const FRAMES: usize = 20;
/// Event channels that it opens: more than one bucket of them.
const PORTS: usize = 300;

/// A domain on its way through life.
struct Life {
    control: Guest,
    hv: &'static Hypervisor<Fake>,
    domain: Option<Arc<Domain>>,
    frames: Vec<Mfn>,
    ports: Vec<u32>,
}

/// One call of a life; made again, it does what it has not done yet.
type Step = fn(&mut Life) -> Result<(), Errno>;

impl Life {
    fn new() -> Self {
        let control = control_domain();
        let hv = control.hv;
        Self { control, hv, domain: None, frames: Vec::new(), ports: Vec::new() }
    }

    fn domain(&self) -> Arc<Domain> {
        self.domain.clone().unwrap()
    }

    fn ask<T: IntoBytes + zerocopy::Immutable>(&mut self, command: u32, request: &T) -> Result<(), Errno> {
        let id = self.domain().id;
        ask(&mut self.control, command, id, request).map(|_| ())
    }

    fn own<R>(&self, act: impl FnOnce(&mut oxen_hv::caller::Caller<'_, Fake>) -> Result<R, Errno>) -> Result<R, Errno> {
        as_guest(self.hv, &self.domain(), act)
    }

    /// A page of the domain's that it maps itself, at address 0 of its own.
    fn page(&self) -> u64 {
        self.frames[5].raw()
    }
}

fn refused(stop: Stop) -> Errno {
    match stop {
        Stop::Refused(error) => error,
        other => panic!("{other:?}"),
    }
}

const LIFE: [(&str, Step); 15] = [
    ("created", |life| {
        let request = abi::DomctlCreatedomain { grant_opts: 2, ..wanted(2) };
        let id = ask(&mut life.control, abi::XEN_DOMCTL_CREATEDOMAIN, DomId(0), &request)?.domain;
        life.domain = life.hv.domains.get(id);
        Ok(())
    }),
    ("vcpus", |life| life.ask(abi::XEN_DOMCTL_MAX_VCPUS, &abi::DomctlMaxVcpus { max: 2 })),
    ("limit", |life| life.ask(abi::XEN_DOMCTL_MAX_MEM, &abi::DomctlMaxMem { max_memkb: 4 * 64 })),
    ("pages", |life| {
        while life.frames.len() < FRAMES {
            life.frames.push(life.hv.memory.take_for(&life.domain().memory, 0).map_err(refused)?);
        }
        Ok(())
    }),
    ("pinned", |life| {
        let flags = Entry::PRESENT | Entry::ACCESSED | Entry::USER | Entry::WRITABLE;
        for pair in life.frames[..4].windows(2) {
            table_word(life.hv, pair[0], 0).store(Entry::to(pair[1], flags).0, SeqCst);
        }
        for (slot, &frame) in life.frames[5..].iter().enumerate() {
            table_word(life.hv, life.frames[3], slot).store(Entry::to(frame, flags).0, SeqCst);
        }
        let domain = life.domain();
        Editor::open(&life.hv.memory, &domain.memory).map_err(refused)?.pin(life.frames[0], 4).map_err(refused)
    }),
    ("context", |life| {
        let mut context = VcpuGuestContext::new_zeroed();
        context.flags = (VGCF_IN_KERNEL | VGCF_ONLINE).into();
        context.ctrlreg[3] = life.frames[0].address().as_u64();
        context.gdt_frames[0] = life.frames[4].raw();
        context.gdt_ents = 16;
        context.user_regs.cs = 0xe030;
        let id = life.domain().id;
        set_context(&mut life.control, id, 0, &context).map(|_| ())
    }),
    ("running", |life| life.ask(abi::XEN_DOMCTL_UNPAUSEDOMAIN, &0_u64)),
    ("interrupt", |life| life.own(|caller| told(caller.bind_virq(VIRQ_TIMER, 0))).map(|_| ())),
    ("ports", |life| {
        let id = life.control.domain.id;
        while life.ports.len() < PORTS {
            let port = life.own(|caller| told(caller.alloc_unbound(DomId::SELF, id)))?;
            life.ports.push(port);
        }
        Ok(())
    }),
    ("connected", |life| {
        let id = life.domain().id;
        while let Some(&port) = life.ports.last() {
            told(life.control.caller().bind_interdomain(id, port))?;
            life.ports.pop();
        }
        Ok(())
    }),
    ("grants", |life| life.hv.grow_grant_table(&life.domain(), 5)),
    ("version", |life| life.hv.set_grant_version(&life.domain(), 2).0),
    ("info", |life| {
        life.hv.machine().load_root(RootAddress::of(life.hv.memory.frames.ram_frame(life.frames[0]).unwrap()));
        let words = [life.page(), 64];
        let done = life.own(|caller| {
            caller.hv.machine().write_guest(GuestAddr::new(0), words.as_bytes()).unwrap();
            caller.vcpu_op(&mut [VCPUOP_REGISTER_VCPU_INFO.into(), 0, 0, 0, 0, 0]).map_err(refused)
        });
        life.control.run();
        done.map(|_| ())
    }),
    ("queues", |life| {
        let request = EvtchnInitControl { control_gfn: life.page(), offset: 128, vcpu: 1, link_bits: 0, _pad: [0; 7] };
        life.own(|caller| caller.init_event_control(&request))
    }),
    ("queue words", |life| {
        let page = life.frames[6].raw();
        life.own(|caller| caller.expand_event_array(page))
    }),
];

/// Leads a life in which an allocation fails after `left` of them; where `goes_on`, with memory back from then on, and
/// else no further. Returns which step was refused.
fn lead(supply: fn(&Fake) -> &AtomicU64, left: u64, goes_on: bool) -> Option<&'static str> {
    let mut life = Life::new();
    let free = life.hv.memory.frames.free_frames();
    let supply = supply(life.hv.machine());
    supply.store(left, SeqCst);
    let mut failed = None;
    for (name, step) in LIFE {
        let Err(error) = step(&mut life) else { continue };
        assert_eq!(error, Errno::NoMem, "{name} without memory after {left}");
        assert_eq!(failed, None, "{name} fails with memory back");
        failed = Some(name);
        supply.store(u64::MAX, SeqCst);
        if !goes_on {
            break;
        }
        assert_eq!(step(&mut life), Ok(()), "{name} once more, with memory back after {left}");
    }
    // A life's end needs no memory.
    supply.store(0, SeqCst);
    if let Some(domain) = life.domain.take() {
        destroy(&mut life.control, domain.id).unwrap();
        assert_eq!(Arc::strong_count(&domain), 1, "{failed:?}, {left}");
    }
    supply.store(u64::MAX, SeqCst);
    let mut holds = audit::Holds::default();
    holds.add(life.control.domain.shared_info, true);
    holds.add(life.control.state.kernel_root.unwrap(), true);
    audit::check(life.hv, &holds, audit::nothing_lent);
    // The control domain keeps what its own ends of channels took.
    let kept = life.hv.memory.frames.free_frames();
    assert!(kept == free, "{} frames are gone after {failed:?}, {left}", free - kept);
    failed
}

/// All lives, until one meets no refusal; which steps were refused.
fn all(supply: fn(&Fake) -> &AtomicU64) -> Vec<&'static str> {
    let mut refused = Vec::new();
    for left in 0.. {
        let ended = lead(supply, left, false);
        assert_eq!(lead(supply, left, true), ended, "{left}");
        match ended {
            Some(name) if refused.last() == Some(&name) => {}
            Some(name) => refused.push(name),
            None => {
                println!("{left} allocations, refused at {refused:?}");
                return refused;
            }
        }
    }
    refused
}

#[test]
fn a_life_without_frames_at_any_moment_is_refused_and_loses_nothing() {
    let refused = all(|machine| &machine.frames_left);
    assert!(refused.contains(&"pages") && refused.contains(&"grants"), "{refused:?}");
}

#[test]
fn a_life_without_heap_at_any_moment_is_refused_and_loses_nothing() {
    let refused = all(|machine| &machine.heap_left);
    assert!(["created", "vcpus", "interrupt", "queues"].iter().all(|step| refused.contains(step)), "{refused:?}");
}

/// What a guest is told: no step of this life is left unfinished.
fn told<T>(outcome: Result<T, Stop>) -> Result<T, Errno> {
    outcome.map_err(|stop| match stop {
        Stop::Refused(error) => error,
        stop => panic!("{stop:?}"),
    })
}
