//! A guest in translated mode, as a toolstack builds it.

use super::support::{
    self, Fake,
    control::{LIST, REQUEST, STEPS, ask, make, set_context},
    guest::Guest,
    run_domain,
};
use oxen_abi::{
    domctl::{self as abi, DomctlShadowOp},
    domid::DomId,
    errno::Errno,
    guest_context::VcpuGuestContext,
    memory::{self, AddToPhysmap, MemoryReservation},
    segments::{VGCF_IN_KERNEL, VGCF_ONLINE},
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    domain::{Domain, regs::Regs},
    mem::{Tlb, shadow::translated::Mode},
    reply::{Args, Reply, Stop},
};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use zerocopy::{FromZeros, IntoBytes};

/// Pages of the guest's memory at its beginning: tables first, from the root down, then ordinary ones.
pub(crate) const PAGES: u64 = 24;
pub(crate) const TABLES: u64 = 4;
/// Its page of descriptors.
pub(crate) const GDT: u64 = 20;
/// Present, writable, user.
pub(crate) const RW: u64 = 7;
/// Addresses of the guest's that the tables at the start lead to, and as many behind them.
pub(crate) const SPAN: u64 = 32;

pub(crate) fn shadow_op(control: &mut Guest, id: DomId, op: u32, mode: u32, mb: u32) -> Result<u32, Errno> {
    let request = DomctlShadowOp { op, mode, mb, ..FromZeros::new_zeroed() };
    ask(control, abi::XEN_DOMCTL_SHADOW_OP, id, &request).map(|answer| answer.get::<DomctlShadowOp>().mb)
}

pub(crate) const TRANSLATE: u32 = abi::OXEN_DOMCTL_SHADOW_ENABLE_TRANSLATED;

pub(crate) fn translate(control: &mut Guest, id: DomId) -> Result<u32, Errno> {
    // Without the bit of Oxen's own this is Xen's question, and Xen refuses it.
    let as_xen = shadow_op(control, id, abi::XEN_DOMCTL_SHADOW_OP_ENABLE, TRANSLATE & !(1 << 31), 0);
    assert!(as_xen.is_err(), "{as_xen:?}");
    shadow_op(control, id, abi::XEN_DOMCTL_SHADOW_OP_ENABLE, TRANSLATE, 0)
}

/// Extents of a domain's memory, one page each, named by their numbers.
pub(crate) fn reservation(guest: &mut Guest, command: u32, id: DomId, numbers: &[u64]) -> u64 {
    guest.put(LIST, numbers);
    let request = MemoryReservation {
        extent_start: LIST,
        nr_extents: numbers.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: id,
        _pad: [0; 3],
    };
    guest.hv.machine().write_guest(GuestAddr::new(REQUEST), request.as_bytes()).unwrap();
    guest.call(Caller::memory_op, [command.into(), REQUEST, 0, 0]).unwrap()
}

pub(crate) fn place(control: &mut Guest, id: DomId, space: u32, idx: u64, gpfn: u64) -> Result<u64, Errno> {
    let request = AddToPhysmap { domid: id, size: 0, space, idx, gpfn };
    control.hv.machine().write_guest(GuestAddr::new(REQUEST), request.as_bytes()).unwrap();
    control.call(Caller::memory_op, [memory::XENMEM_ADD_TO_PHYSMAP.into(), REQUEST, 0, 0])
}

pub(crate) fn frame(domain: &Domain, hv: &'static oxen_hv::Hypervisor<Fake>, gfn: u64) -> Option<Mfn> {
    hv.memory.translation(domain.owner(), gfn).map(|(frame, _)| frame)
}

/// A guest as a builder leaves it: its tables are the first four pages, each maps the next, the last all pages.
pub(crate) fn build(control: &mut Guest) -> Arc<Domain> {
    let domain = make(control);
    let id = domain.id;
    STEPS[1](control, &domain);
    shadow_op(control, id, abi::XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION, 0, 1).unwrap();
    translate(control, id).unwrap();
    let numbers: Vec<u64> = (0..PAGES).collect();
    assert_eq!(reservation(control, memory::XENMEM_POPULATE_PHYSMAP, id, &numbers), PAGES);
    assert_eq!(control.hv.machine().read_guest_word(GuestAddr::new(LIST + 40)), Ok(5), "the numbers stay");
    write_tables(control.hv, &domain);
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = (VGCF_IN_KERNEL | VGCF_ONLINE).into();
    context.gdt_frames[0] = GDT;
    context.gdt_ents = 16;
    context.user_regs.cs = 0xe030;
    set_context(control, id, 0, &context).unwrap();
    domain
}

/// Writes the tables as they were at the start.
pub(crate) fn write_tables(hv: &'static oxen_hv::Hypervisor<Fake>, domain: &Domain) {
    let word = |gfn: u64, slot: u64| &hv.machine().words(frame(domain, hv, gfn).unwrap())[slot as usize];
    for table in 0..TABLES - 1 {
        word(table, 0).store((table + 1) << 12 | RW, SeqCst);
    }
    (0..PAGES).for_each(|page| word(TABLES - 1, page).store(page << 12 | RW, SeqCst));
}

/// Has a guest that went astray begin anew: all its pages are there, and its tables and its root are those of the
/// start.
pub(crate) fn repair(caller: &mut Caller<'_, Fake>) {
    let (hv, domain) = (caller.hv, caller.domain);
    // No table of the start is a page of descriptors.
    let gdt = caller.state.gdt.iter().flatten().filter_map(|page| hv.memory.number_of(domain.owner(), page.mfn()));
    if gdt.into_iter().any(|number| number < TABLES) {
        call(caller, Caller::set_gdt, [0, 0, 0, 0, 0, 0]).unwrap();
    }
    for gfn in (0..PAGES).filter(|&gfn| frame(domain, hv, gfn).is_none()) {
        let fresh = hv.memory.take_for(&domain.memory, 0).unwrap();
        hv.memory.place_frame(&domain.memory, gfn, fresh).unwrap();
    }
    write_tables(hv, domain);
    hv.memory.set_translated_root(domain.owner(), 0, Mode::Kernel, Some(0)).unwrap();
}

/// What the guest's kernel does while its vcpu is on this CPU.
pub(crate) fn run<R>(control: &mut Guest, domain: &Arc<Domain>, act: impl FnOnce(&mut Caller<'_, Fake>) -> R) -> R {
    let hv = control.hv;
    let vcpu = domain.vcpu(0).unwrap();
    let mut state = vcpu.slot.lock().take().unwrap();
    hv.memory.frames.tlb.enter(domain.owner(), 1);
    state.loaded = hv.memory.roots_to_load(&domain.memory, 0, state.user_root, state.kernel_root);
    assert!(state.loaded.are_shadows);
    hv.machine().load_root(state.loaded_root());
    run_domain(hv, domain);
    let (cpu, mut regs) = (support::this_cpu(), Regs::default());
    let shared = hv.cpu(cpu).unwrap();
    let result = act(&mut Caller { hv, cpu, shared, domain, vcpu, state: &mut state, regs: &mut regs });
    *vcpu.slot.lock() = Some(state);
    control.run();
    result
}

pub(crate) fn call<'a>(
    caller: &mut Caller<'a, Fake>,
    handler: fn(&mut Caller<'a, Fake>, &mut Args) -> Reply,
    mut args: Args,
) -> Result<u64, Errno> {
    loop {
        match handler(caller, &mut args) {
            Ok(value) => return Ok(value),
            Err(Stop::Refused(error)) => return Err(error),
            Err(Stop::Unfinished) => {}
            Err(Stop::Fatal(fault)) => panic!("crashed: {}", fault.reason()),
        }
    }
}
