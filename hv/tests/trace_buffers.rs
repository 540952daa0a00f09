//! The trace: its buffers as the control domain's tools set them up and read them, and what is noted in them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

mod support;

use oxen_abi::{
    domctl::XenctlBitmap,
    domid::DomId,
    errno::Errno,
    hypercall::Hypercall,
    sysctl::{Sysctl, SysctlTbufOp, XEN_SYSCTL_TBUF_OP},
    trace::{
        HypercallArgs, OXEN_TRC_EVENT_SENT, OXEN_TRC_HYPERCALL_ANSWER, Record, TRC_64_FLAG, TRC_ALL,
        TRC_PV_HYPERCALL_SUBCALL, TRC_PV_HYPERCALL_V2, TRC_PV_TRAP, TRC_SCHED, XEN_SYSCTL_TBUFOP_DISABLE,
        XEN_SYSCTL_TBUFOP_ENABLE, XEN_SYSCTL_TBUFOP_GET_INFO, XEN_SYSCTL_TBUFOP_SET_CPU_MASK,
        XEN_SYSCTL_TBUFOP_SET_EVT_MASK, XEN_SYSCTL_TBUFOP_SET_SIZE,
    },
    version::XENVER_VERSION,
};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    hypercall::{Next, Table},
    mem::entry::Entry,
    trace::max_pages,
};
use std::sync::atomic::Ordering::SeqCst;
use support::{
    Fake,
    guest::{Guest, Home},
};
use zerocopy::{FromBytes, IntoBytes};

/// Where the guests have their requests.
const REQUEST: u64 = 0;
const LIST: u64 = 0x1000;

fn control() -> (Guest, Home) {
    support::on_cpu(0);
    let hv = support::boot(1024);
    let mut control = Guest::new(hv, 0, true, 64);
    let home = control.build_home(4);
    (control, home)
}

fn request(guest: &mut Guest, cmd: u32, evt_mask: u32, size: u32) -> Result<SysctlTbufOp, Errno> {
    guest.run();
    let cpu_mask = XenctlBitmap { bitmap: LIST, nr_bits: 64, _pad0: 0 };
    let op = SysctlTbufOp { cmd, _pad0: 0, cpu_mask, evt_mask, _pad1: 0, buffer_mfn: 0, size, _pad2: 0 };
    let op = Sysctl::new(XEN_SYSCTL_TBUF_OP, &op);
    guest.hv.machine().write_guest(GuestAddr::new(REQUEST), op.as_bytes()).unwrap();
    guest.call(Caller::sysctl, [REQUEST, 0, 0, 0])?;
    let mut bytes = [0; size_of::<Sysctl>()];
    guest.hv.machine().read_guest(GuestAddr::new(REQUEST), &mut bytes).unwrap();
    Ok(Sysctl::read_from_bytes(&bytes).unwrap().get())
}

/// A frame as the tools see it, which map it.
fn words(guest: &Guest, frame: u64) -> Vec<u32> {
    let frame = guest.hv.memory.frames.ram_frame(Mfn::new(frame).unwrap()).unwrap();
    guest.hv.machine().halves(frame).iter().map(|word| word.load(SeqCst)).collect()
}

/// The frames of a CPU's ring, by the description.
fn frames_of(guest: &mut Guest, cpu: usize) -> Vec<u64> {
    let info = request(guest, XEN_SYSCTL_TBUFOP_GET_INFO, 0, 0).unwrap();
    let description = words(guest, info.buffer_mfn);
    let head = |at: usize| description[at / 2] >> (16 * (at % 2)) & 0xffff;
    let first = head(1 + cpu) as usize;
    if first == 0 {
        return Vec::new();
    }
    (first..first + head(0) as usize).map(|at| description[at].into()).collect()
}

/// What CPU 0 has noted: events, and what they say.
fn noted(guest: &mut Guest) -> Vec<(u32, Vec<u32>)> {
    let frames = frames_of(guest, 0);
    let all: Vec<u32> = frames.iter().flat_map(|&frame| words(guest, frame)).collect();
    let end = all[1] as usize / 4;
    let mut rest = &all[2..2 + end];
    let mut found = Vec::new();
    while let Some((record, after)) = Record::split_first(rest) {
        found.push((record.event, record.extra.to_vec()));
        rest = after;
    }
    found
}

/// A hypercall by the table that is used while it is traced.
fn traced(guest: &mut Guest, hypercall: Hypercall, args: [u64; 6]) -> u64 {
    guest.run();
    guest.regs.rax = hypercall.number();
    let mut args = args;
    let entry = Table::<Fake>::TRACED[hypercall.number() as usize];
    let outcome = entry(&mut guest.caller(), &mut args);
    assert_eq!(outcome.next, Next::Answer);
    outcome.value
}

#[test]
fn buffers_are_made_once_and_described_as_the_tools_expect() {
    let (mut control, _) = control();
    let cpus = control.hv.online_cpus().count();
    let info = request(&mut control, XEN_SYSCTL_TBUFOP_GET_INFO, 0, 0).unwrap();
    assert_eq!((info.evt_mask, info.buffer_mfn, info.size), (TRC_ALL, 0, 0));
    assert_eq!(request(&mut control, XEN_SYSCTL_TBUFOP_ENABLE, 0, 0), Err(Errno::Inval));
    assert_eq!(request(&mut control, XEN_SYSCTL_TBUFOP_SET_SIZE, 0, 0), Err(Errno::Inval));
    let too_many = max_pages(cpus) as u32 + 1;
    assert_eq!(request(&mut control, XEN_SYSCTL_TBUFOP_SET_SIZE, 0, too_many), Err(Errno::Inval));
    assert_eq!(request(&mut control, 6, 0, 0), Err(Errno::Inval));
    let free = control.hv.memory.frames.free_frames();
    request(&mut control, XEN_SYSCTL_TBUFOP_SET_SIZE, 0, 3).unwrap();
    assert_eq!(free - control.hv.memory.frames.free_frames(), 1 + 3 * cpus as u32);
    assert_eq!(request(&mut control, XEN_SYSCTL_TBUFOP_SET_SIZE, 0, 3), Err(Errno::Inval));
    let info = request(&mut control, XEN_SYSCTL_TBUFOP_GET_INFO, 0, 0).unwrap();
    assert_eq!((info.buffer_mfn != 0, info.size), (true, 4096));
    let mut all: Vec<u64> = (0..cpus).flat_map(|cpu| frames_of(&mut control, cpu)).collect();
    all.push(info.buffer_mfn);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 1 + 3 * cpus);
    assert!(frames_of(&mut control, cpus).is_empty());
}

#[test]
fn the_control_domain_maps_the_buffers_and_nobody_else_does() {
    let (mut control, home) = control();
    request(&mut control, XEN_SYSCTL_TBUFOP_SET_SIZE, 0, 1).unwrap();
    let frame = frames_of(&mut control, 0)[0];
    let entry = Entry::to(Mfn::new(frame).unwrap(), Entry::PRESENT | Entry::WRITABLE | Entry::USER).0;
    let map = |guest: &mut Guest, owner: DomId| {
        guest.call(Caller::update_va_mapping_otherdomain, [0x2000, entry, 0, owner.0.into()])
    };
    assert_eq!(map(&mut control, DomId::XEN), Ok(0));
    let back = Entry::to(home.data[2], Entry::PRESENT | Entry::WRITABLE | Entry::USER).0;
    control.call(Caller::update_va_mapping, [0x2000, back, 0, 0]).unwrap();
    let mut guest = Guest::new(control.hv, 1, false, 64);
    guest.build_home(4);
    assert_eq!(map(&mut guest, DomId::XEN), Err(Errno::Perm));
    assert!(guest.call(Caller::update_va_mapping, [0x2000, entry, 0, 0]).is_err());
    assert_eq!(request(&mut guest, XEN_SYSCTL_TBUFOP_GET_INFO, 0, 0), Err(Errno::Perm));
}

#[test]
fn hypercalls_are_noted_with_their_arguments_and_answers() {
    let (mut control, _) = control();
    request(&mut control, XEN_SYSCTL_TBUFOP_SET_SIZE, 0, 1).unwrap();
    assert_eq!(traced(&mut control, Hypercall::XenVersion, [XENVER_VERSION.into(), 0, 0, 0, 0, 0]), 4 << 16 | 17);
    assert!(noted(&mut control).is_empty(), "nothing before it is begun");
    request(&mut control, XEN_SYSCTL_TBUFOP_ENABLE, 0, 0).unwrap();
    let version = u64::from(XENVER_VERSION);
    traced(&mut control, Hypercall::XenVersion, [version, 0x1_0000_0002, 0, 0, 0, 0]);
    let asked = HypercallArgs::of(Hypercall::XenVersion).record(17, &[version, 0x1_0000_0002, 0, 0, 0, 0]);
    let expected = [(TRC_PV_HYPERCALL_V2, asked.to_vec()), (OXEN_TRC_HYPERCALL_ANSWER, vec![17, 4 << 16 | 17, 0])];
    assert_eq!(noted(&mut control), expected);
    // A batch is noted with what is in it.
    control.put(LIST, &[Hypercall::XenVersion.number(), 0, version, 0, 0, 0, 0, 0]);
    assert_eq!(traced(&mut control, Hypercall::Multicall, [LIST, 1, 0, 0, 0, 0]), 0);
    let events: Vec<u32> = noted(&mut control).iter().skip(2).map(|(event, _)| *event).collect();
    let answer = OXEN_TRC_HYPERCALL_ANSWER;
    assert_eq!(events, [TRC_PV_HYPERCALL_V2, TRC_PV_HYPERCALL_SUBCALL, answer, answer]);
    // So is where an event goes, though the port stands in the guest's memory; the call itself is refused.
    control.put(LIST, &[77]);
    traced(&mut control, Hypercall::EventChannelOp, [4, LIST, 0, 0, 0, 0]);
    let sent = noted(&mut control)[7].clone();
    assert_eq!(sent, (OXEN_TRC_EVENT_SENT, vec![0, 77]));
}

#[test]
fn what_is_noted_is_chosen_by_event_and_by_cpu() {
    let (mut control, _) = control();
    request(&mut control, XEN_SYSCTL_TBUFOP_SET_SIZE, 0, 1).unwrap();
    request(&mut control, XEN_SYSCTL_TBUFOP_SET_EVT_MASK, TRC_SCHED, 0).unwrap();
    request(&mut control, XEN_SYSCTL_TBUFOP_ENABLE, 0, 0).unwrap();
    traced(&mut control, Hypercall::XenVersion, [0; 6]);
    assert!(noted(&mut control).iter().all(|(event, _)| event & 0x20_0000 == 0));
    request(&mut control, XEN_SYSCTL_TBUFOP_SET_EVT_MASK, TRC_ALL, 0).unwrap();
    control.put(LIST, &[!1]);
    request(&mut control, XEN_SYSCTL_TBUFOP_SET_CPU_MASK, 0, 0).unwrap();
    let before = noted(&mut control).len();
    traced(&mut control, Hypercall::XenVersion, [0; 6]);
    assert_eq!(noted(&mut control).len(), before);
    control.put(LIST, &[1]);
    request(&mut control, XEN_SYSCTL_TBUFOP_SET_CPU_MASK, 0, 0).unwrap();
    control.state.traps.0[6].address = 0x3000;
    control.state.kernel_sp = 0x2000;
    control.regs.rsp = 0x2000;
    control.regs.rip = 0x1234_5678_9abc;
    control.caller().inject(6, None);
    assert!(noted(&mut control).contains(&(TRC_PV_TRAP | TRC_64_FLAG, vec![0x5678_9abc, 0x1234, 6])));
    request(&mut control, XEN_SYSCTL_TBUFOP_DISABLE, 0, 0).unwrap();
    let before = noted(&mut control).len();
    traced(&mut control, Hypercall::XenVersion, [0; 6]);
    assert_eq!(noted(&mut control).len(), before);
}

#[test]
fn without_memory_there_are_no_buffers_and_none_is_lost() {
    let (mut control, _) = control();
    let free = control.hv.memory.frames.free_frames();
    let cpus = control.hv.online_cpus().count() as u32;
    let pages = (free / cpus + 1).min(max_pages(cpus as usize) as u32);
    assert!(pages * cpus >= free, "the machine is small enough");
    assert_eq!(request(&mut control, XEN_SYSCTL_TBUFOP_SET_SIZE, 0, pages), Err(Errno::NoMem));
    assert_eq!(control.hv.memory.frames.free_frames(), free);
    request(&mut control, XEN_SYSCTL_TBUFOP_SET_SIZE, 0, 1).unwrap();
}
