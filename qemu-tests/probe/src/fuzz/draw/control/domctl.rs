//! `domctl`. What would end this domain, or stop it, is asked of the other alone.

use oxen_abi::domctl::XEN_DOMCTL_INTERFACE_VERSION;
use oxen_abi::hypercall::Hypercall;

use super::{Call, Random, Value, buffer, processor, small, vcpu};
use crate::fuzz::draw::{WILD, number};
use crate::fuzz::value::SELF;

/// Where the command's own structure begins.
const OWN: usize = 16;
/// Where what it points to is in the argument memory.
const BEHIND: u64 = 0xa0;

/// A domain: mostly the other.
fn domain(random: &mut Random) -> Value {
    match random.below(12) {
        0 => Value::Number(0x1234),
        1 => Value::Number(random.of_list(&[SELF, 0x7ff1, 0x7ff2, 0x7ff3, 0x7ff4, 0xffff])),
        2 | 3 => Value::Me,
        _ => Value::Other,
    }
}

/// A call about a domain.
struct Request(Call);

impl Request {
    fn new(command: u64, what: &'static str, domain: Value) -> Self {
        let call = Call::new(Hypercall::Domctl, what, &[Value::Memory(0)]);
        let version = Value::Number(XEN_DOMCTL_INTERFACE_VERSION.into());
        Self(call.at(0, 4, Value::Number(command)).at(4, 4, version).at(8, 2, domain))
    }

    fn word(self, offset: usize, value: Value) -> Self {
        Self(self.0.at(OWN + offset, 4, value))
    }

    fn long(self, offset: usize, value: Value) -> Self {
        Self(self.0.at(OWN + offset, 8, value))
    }

    fn byte(self, offset: usize, value: Value) -> Self {
        Self(self.0.at(OWN + offset, 1, value))
    }

    /// A bitmap of so many bits.
    fn bitmap(self, random: &mut Random, offset: usize, at: u64) -> Self {
        let bits = random.of_list(&[0, 1, 8, 32, 64, 64, 64, 100, 256]);
        let map = random.of_list(&[0, 1, 1, 1, 1, 2, 3, 0xff, u64::MAX]);
        let place = buffer(random, at);
        let request = self.long(offset, place).word(offset + 8, Value::Number(bits));
        Self(request.0.at(at as usize, 8, Value::Number(map)))
    }

    /// Does not compare bytes of the command's own.
    fn hide(self, offset: usize, length: usize) -> Self {
        Self(self.0.hide(OWN + offset, length))
    }
}

/// Draws a call.
pub(super) fn draw(random: &mut Random) -> Call {
    let about = domain(random);
    match random.below(24) {
        0 => making(random),
        1 | 2 => affinity(random, about),
        3 => scheduling(random, about),
        4..7 => contexts(random, about),
        7 => state(random, about),
        8 => registers(random, about),
        9 | 10 => whole(random, about),
        11 => time(random, about),
        12 | 13 => devices(random, about),
        14 | 15 => debugging(random, about),
        16 => monitoring(random, about),
        17 => rights(random, about),
        18 => nodes(random, about),
        19 => policy(random, about),
        _ => others(random, about),
    }
    .0
}

/// A domain that cannot be made.
fn making(random: &mut Random) -> Request {
    let id = random.of_list(&[0, 0, 0x7fff, 0x7ff1, 0xffff]);
    let [mut flags, mut iommu, mut vcpus, mut grants, mut maps, mut versions] = [0, 0, 1, 4, 4, 1];
    let [mut trace, mut pool, mut emulation, mut other] = [0, 0, 0, 0];
    match random.below(10) {
        0 => flags = random.of_list(&[1, 2, 4, 8, 0x20, 0x40, 0x80, 0x100, 1 << 31]),
        1 => iommu = random.of_list(&[1, 2, 0xffff_ffff]),
        2 => vcpus = random.of_list(&[0, 8193, 0xffff_ffff]),
        3 => grants = random.of_list(&[0, 65, 0x7fff_ffff]),
        4 => maps = random.of_list(&[1025, 0x7fff_ffff]),
        5 => versions = random.of_list(&[0, 3, 0x11, 1 << 31]),
        6 => trace = random.of_list(&[4096, 1, 0xffff_ffff]),
        7 => pool = random.of_list(&[1, 7, 0x1000_0000]),
        8 => emulation = random.of_list(&[1, 0x100, 0x7ff, 0x800]),
        _ => other = random.of_list(&[2, 1 << 31]),
    }
    let fields = [(20, flags), (24, iommu), (28, vcpus), (32, 1023), (36, grants), (40, maps), (44, versions)];
    let fields = fields.into_iter().chain([(48, trace), (52, pool), (56, emulation), (60, other)]);
    let request = fields.fold(Request::new(1, "create", Value::Number(id)), |request, (at, value)| {
        request.word(at, Value::Number(value))
    });
    // Where one is made after all, its number varies.
    Request(request.0.hide(8, 2))
}

fn affinity(random: &mut Random, about: Value) -> Request {
    let (command, what) = if random.one_in(3) { (25, "getvcpuaffinity") } else { (9, "setvcpuaffinity") };
    let flags = Value::Number(random.of_list(&[0, 1, 1, 2, 2, 3, 3, 4, 5, 0xffff_ffff]));
    let request = Request::new(command, what, about).word(0, vcpu(random)).word(4, flags);
    request.bitmap(random, 8, BEHIND).bitmap(random, 24, BEHIND + 0x40)
}

fn scheduling(random: &mut Random, about: Value) -> Request {
    let scheduler = Value::Number(random.of_list(&[5, 5, 5, 5, 0, 4, 6, 7, 8, 9, 99]));
    // Values for all vcpus of one are the real-time scheduler's.
    let request = Request::new(16, "scheduler_op", about).word(0, scheduler).word(4, small(random, 5));
    let weight = random.of_list(&[0, 1, 256, 0xffff]);
    let cap = random.of_list(&[0, 1, 100, 101, 200, 0xfffe, 0xffff]);
    request.word(8, Value::Number(weight | cap << 16))
}

fn contexts(random: &mut Random, about: Value) -> Request {
    match random.below(6) {
        0 => {
            let context = random.of_list(&[WILD, 0]);
            Request::new(12, "setvcpucontext", about).word(0, vcpu(random)).long(8, Value::Number(context))
        }
        1 | 2 => {
            let to = if random.one_in(4) { Value::Number(WILD) } else { Value::Window(0, 0) };
            let about = if random.one_in(4) { Value::Me } else { about };
            Request::new(13, "getvcpucontext", about).word(0, vcpu(random)).long(8, to)
        }
        3 => Request::new(14, "getvcpuinfo", about).word(0, vcpu(random)).hide(7, 1).hide(8, 8),
        4 => Request::new(43, "get_ext_vcpucontext", about).word(0, vcpu(random)),
        _ => {
            let size = Value::Number(random.of_list(&[0, 8, 24, 32, 40, 48, 56, 64, 128, 0xffff_ffff]));
            let request = Request::new(42, "set_ext_vcpucontext", about).word(0, vcpu(random)).word(4, size);
            let request = request.long(8, number(random)).long(16, number(random));
            let request = request.word(24, number(random)).word(28, small(random, 4));
            request.long(32, number(random)).long(40, Value::Number(random.of_list(&[0, 1])))
        }
    }
}

fn state(random: &mut Random, about: Value) -> Request {
    let mask = Value::Number(random.of_list(&[0, 1, 3, 7, 1 << 62, u64::MAX]));
    // Which parts there are, and how large they are together, is the hypervisor's to choose.
    let size = Value::Number(random.of_list(&[0, 1, 8, 16, 16, 592, 840, 0x1000, u64::MAX]));
    let place = if random.one_in(3) { Value::Number(0) } else { Value::Window(0, 0) };
    let (command, what) = if random.one_in(2) { (62, "setvcpuextstate") } else { (63, "getvcpuextstate") };
    let request = Request::new(command, what, about).word(0, vcpu(random));
    // Which parts there are is the hypervisor's to choose.
    request.long(8, mask).long(16, size).long(24, place).hide(8, 16)
}

fn registers(random: &mut Random, about: Value) -> Request {
    let count = random.of_list(&[0, 1, 1, 2, 3, 4, 20, 0xffff_ffff]);
    let place = buffer(random, BEHIND);
    let (command, what) = if random.one_in(2) { (73, "set_vcpu_msrs") } else { (72, "get_vcpu_msrs") };
    let request = Request::new(command, what, about).word(0, vcpu(random)).word(4, Value::Number(count));
    let request = request.long(8, place);
    let registers = [0x48, 0x140, 0xd90, 0xc000_0103, 0xc001_011f, 0xc001_1027, 0xc001_1019, 0x10, 0, 0xc000_0080];
    (0..2).fold(request, |request, index| {
        let at = BEHIND as usize - OWN + index * 16;
        let value = random.of_list(&[0, 0, 1, 2, 0xffff_ffff, 1 << 47, 1 << 32, u64::MAX]);
        let reserved = if random.one_in(8) { 1 } else { 0 };
        request.long(at, Value::Number(random.of_list(&registers) | reserved << 32)).long(at + 8, Value::Number(value))
    })
}

fn whole(random: &mut Random, about: Value) -> Request {
    let other = |about| if matches!(about, Value::Me) { Value::Other } else { about };
    match random.below(11) {
        0 => Request::new(2, "destroydomain", Value::Me),
        1 => Request::new(3, "pausedomain", if random.one_in(3) { Value::Me } else { other(about) }),
        // Only what is paused twice: without a context nothing would run.
        2 => Request::new(4, "unpausedomain", other(about)),
        3 => Request::new(5, "getdomaininfo", about).hide(0, 112),
        4 => {
            let most = random.of_list(&[0, 4, 1024, u64::MAX]);
            Request::new(11, "max_mem", other(about)).long(0, Value::Number(most))
        }
        5 => Request::new(15, "max_vcpus", about).word(0, Value::Number(random.of_list(&[0, 1, 2, 3, 0xffff_ffff]))),
        6 => Request::new(17, "setdomainhandle", about).long(0, number(random)),
        7 => Request::new(18, "setdebugging", about).byte(0, small(random, 3)),
        8 => Request::new(27, "resumedomain", about),
        9 => {
            let (command, what) = if random.one_in(2) { (35, "set_address_size") } else { (36, "get_address_size") };
            Request::new(command, what, about).word(0, Value::Number(random.of_list(&[0, 64, 64, 63, 0xffff_ffff])))
        }
        _ => Request::new(22, "hypercall_init", other(about)).long(0, super::super::any_frame(random)),
    }
}

fn time(random: &mut Random, about: Value) -> Request {
    match random.below(4) {
        0 => {
            let offset = random.of_list(&[0, 1, 3600, u64::MAX, 1 << 40]);
            Request::new(24, "settimeoffset", Value::Other).long(0, Value::Number(offset))
        }
        1 => Request::new(59, "gettscinfo", about).hide(4, 4).hide(16, 8),
        _ => {
            let mode = Value::Number(random.of_list(&[0, 1, 2, 3, 4, 0xffff_ffff]));
            let request = Request::new(60, "settscinfo", about).word(0, mode);
            request.word(4, Value::Number(random.of_list(&[0, 1_000_000]))).word(8, small(random, 2))
        }
    }
}

fn devices(random: &mut Random, about: Value) -> Request {
    let device = Value::Number(random.of_list(&[0, 8, 0xff00, 0x1_0000]));
    match random.below(8) {
        0 => {
            Request::new(37, "assign_device", about).word(0, small(random, 3)).word(4, small(random, 2)).word(8, device)
        }
        1 => Request::new(45, "test_assign_device", about).word(0, small(random, 3)).word(8, device),
        2 => Request::new(47, "deassign_device", about).word(0, small(random, 3)).word(8, device),
        3 => Request::new(50, "get_device_group", about).word(0, device).word(4, small(random, 2)),
        4 => Request::new(38, "bind_pt_irq", about).word(0, small(random, 32)).word(4, small(random, 6)),
        5 => Request::new(48, "unbind_pt_irq", about).word(0, small(random, 32)).word(4, small(random, 6)),
        6 => {
            let request = Request::new(39, "memory_mapping", about).long(0, number(random)).long(8, number(random));
            request.long(16, Value::Number(random.of_list(&[0, 1, 65, u64::MAX]))).word(24, small(random, 2))
        }
        _ => {
            let request = Request::new(40, "ioport_mapping", about).word(0, number(random)).word(4, number(random));
            request.word(8, Value::Number(random.of_list(&[0, 1, 65_537]))).word(12, small(random, 2))
        }
    }
}

fn debugging(random: &mut Random, about: Value) -> Request {
    match random.below(6) {
        0 => Request::new(54, "debug_op", about).word(0, small(random, 4)).word(4, vcpu(random)),
        1 => {
            let address = random.of_list(&[0, 0x1000, WILD, 1 << 63]);
            let length = Value::Number(random.of_list(&[0, 1, 8, 64]));
            let request = Request::new(1000, "gdbsx_guestmemio", about).long(8, Value::Number(address));
            request.long(16, buffer(random, BEHIND)).word(24, length).byte(28, small(random, 2))
        }
        2 => Request::new(1001, "gdbsx_pausevcpu", Value::Other).word(0, vcpu(random)),
        3 => Request::new(1002, "gdbsx_unpausevcpu", about).word(0, vcpu(random)),
        4 => Request::new(1003, "gdbsx_domstatus", about),
        _ => {
            let (trigger, vcpu) = (random.below(7), vcpu(random));
            // An NMI of our own comes between two instructions that nobody expects it between.
            let about = if (trigger, about) == (0, Value::Me) { Value::Other } else { about };
            Request::new(28, "sendtrigger", about).word(0, Value::Number(trigger)).word(4, vcpu)
        }
    }
}

fn monitoring(random: &mut Random, about: Value) -> Request {
    match random.below(6) {
        0 => Request::new(77, "monitor_op", about).word(0, small(random, 6)).word(4, small(random, 13)),
        1 => {
            let (op, mode) = (random.below(5), random.below(4));
            // Xen dies of a ring for the monitor that is asked for in a PV domain.
            let mode = if (op, mode) == (0, 2) { 0 } else { mode };
            // And of any for `DOMID_INVALID`.
            let about = if about == Value::Number(0x7ff4) { Value::Other } else { about };
            Request::new(56, "vm_event_op", about).word(0, Value::Number(op)).word(4, Value::Number(mode))
        }
        2 => Request::new(57, "mem_sharing_op", about).byte(0, small(random, 2)).byte(1, small(random, 2)),
        3 => Request::new(64, "set_access_required", about).byte(0, small(random, 2)),
        4 => Request::new(65, "audit_p2m", about),
        _ => Request::new(84, "vmtrace_op", about).word(0, small(random, 8)).word(4, vcpu(random)),
    }
}

/// Rights of the other: those of this domain stay.
fn rights(random: &mut Random, about: Value) -> Request {
    let about = if matches!(about, Value::Number(0x1234)) { about } else { Value::Other };
    match random.below(3) {
        0 => {
            let interrupt = random.of_list(&[0, 1, 15, 255, 100_000, 0xffff_ffff]);
            Request::new(19, "irq_permission", about).word(0, Value::Number(interrupt)).byte(4, small(random, 2))
        }
        1 => {
            let request = Request::new(20, "iomem_permission", about).long(0, number(random));
            request.long(8, Value::Number(random.of_list(&[0, 1, 16, u64::MAX]))).byte(16, small(random, 2))
        }
        _ => {
            let first = random.of_list(&[0, 0x3f8, 0xffff, 0x1_0000, 0xffff_ffff]);
            let count = random.of_list(&[0, 1, 8, 0x1_0000, 0x1_0001]);
            let request = Request::new(21, "ioport_permission", about).word(0, Value::Number(first));
            request.word(4, Value::Number(count)).byte(8, small(random, 2))
        }
    }
}

fn nodes(random: &mut Random, about: Value) -> Request {
    match random.below(3) {
        0 => {
            let request = Request::new(68, "setnodeaffinity", about).bitmap(random, 0, BEHIND);
            // A machine address among the nodes could not be told by its meaning when they are asked for.
            if request.0.names(Value::Window(0, 0)) { request.long(0, Value::Memory(BEHIND)) } else { request }
        }
        1 => Request::new(69, "getnodeaffinity", about).bitmap(random, 0, BEHIND),
        _ => {
            let request = Request::new(74, "setvnumainfo", about).word(0, small(random, 3)).word(4, small(random, 3));
            let request = request.word(8, small(random, 3)).word(12, Value::Number(random.of_list(&[0, 0, 0, 1])));
            let place = buffer(random, BEHIND);
            let places = [16, 24, 32, 40].into_iter().fold(request, |request, at| request.long(at, place));
            places.long(BEHIND as usize - OWN, Value::Number(random.of_list(&[0, 0, 10])))
        }
    }
}

fn policy(random: &mut Random, about: Value) -> Request {
    let set = random.one_in(2);
    let (command, what) = if set { (83, "set_cpu_policy") } else { (82, "get_cpu_policy") };
    let (leaves, registers) = (random.of_list(&[0, 1, 2]), random.of_list(&[0, 1, 2]));
    let request = Request::new(command, what, if set { Value::Other } else { about });
    let request = request.word(0, Value::Number(leaves)).word(4, Value::Number(registers));
    // What a processor has is not compared.
    let place = if random.one_in(4) { Value::Number(random.of_list(&[0, WILD])) } else { Value::Memory(BEHIND) };
    let request = request.long(8, place).long(16, buffer(random, BEHIND + 0x60));
    if set { request } else { request.hide(BEHIND as usize - OWN, 0x60) }
}

fn others(random: &mut Random, about: Value) -> Request {
    match random.below(16) {
        0 => Request::new(66, "set_virq_handler", about).word(0, Value::Number(random.of_list(&[0, 1, 7, 16, 24, 99]))),
        1 => Request::new(67, "set_broken_page_p2m", about).long(0, number(random)),
        2 => Request::new(71, "cacheflush", about).long(0, number(random)).long(8, small(random, 2)),
        3 => Request::new(75, "psr_cmt_op", about).word(0, small(random, 4)),
        4 => Request::new(78, "psr_alloc", about).word(0, small(random, 11)).word(4, small(random, 2)).hide(8, 8),
        5 => Request::new(81, "vuart_op", about).word(0, small(random, 2)).word(4, small(random, 2)),
        6 => Request::new(85, "get_paging_mempool_size", about),
        7 => {
            Request::new(86, "set_paging_mempool_size", about).long(0, Value::Number(random.of_list(&[0, 1, 1 << 20])))
        }
        8 => Request::new(46, "set_target", Value::Other).word(0, super::super::domain(random)),
        9 => Request::new(29, "subscribe", about).word(0, number(random)),
        10 => Request::new(33, "gethvmcontext", about).word(0, number(random)).long(8, buffer(random, BEHIND)),
        11 => Request::new(34, "sethvmcontext", about).word(0, number(random)).long(8, buffer(random, BEHIND)),
        12 => {
            Request::new(55, "gethvmcontext_partial", about).word(0, small(random, 4)).long(16, buffer(random, BEHIND))
        }
        13 => {
            let count = Value::Number(random.of_list(&[0, 1, 2, 1024, 1025, u64::MAX]));
            let request = Request::new(61, "getpageframeinfo3", about).long(0, count).long(8, Value::Memory(BEHIND));
            let at = BEHIND as usize - OWN;
            request.long(at, super::super::any_frame(random)).long(at + 8, super::super::any_frame(random))
        }
        14 => {
            let command =
                random.of_list(&[0, 6, 7, 8, 23, 26, 30, 31, 32, 41, 44, 49, 51, 52, 53, 58, 70, 76, 80, 87, 999]);
            Request::new(command, "none", about)
        }
        _ => {
            let request = Request::new(random.below(90), "versions", processor(random));
            Request(request.0.at(4, 4, Value::Number(random.of_list(&[0x14, 0x16, 0]))))
        }
    }
}
