//! `sysctl`. What the machine is and how much of it is used is not compared, only the shape of the answers.

use oxen_abi::hypercall::Hypercall;
use oxen_abi::sysctl::XEN_SYSCTL_INTERFACE_VERSION;

use super::{Call, Random, Value, buffer, processor, small};
use crate::fuzz::draw::{WILD, number};

/// Where the command's own structure begins.
const OWN: usize = 8;
/// Where what it points to is in the argument memory.
const BEHIND: u64 = 0xa0;

struct Request(Call);

impl Request {
    fn new(command: u64, what: &'static str) -> Self {
        let call = Call::new(Hypercall::Sysctl, what, &[Value::Memory(0)]);
        let version = Value::Number(XEN_SYSCTL_INTERFACE_VERSION.into());
        Self(call.at(0, 4, Value::Number(command)).at(4, 4, version))
    }

    fn word(self, offset: usize, value: Value) -> Self {
        Self(self.0.at(OWN + offset, 4, value))
    }

    fn long(self, offset: usize, value: Value) -> Self {
        Self(self.0.at(OWN + offset, 8, value))
    }

    fn hide(self, offset: usize, length: usize) -> Self {
        Self(self.0.hide(OWN + offset, length))
    }

    fn behind(self, value: Value) -> Self {
        Self(self.0.at(BEHIND as usize, 8, value))
    }
}

/// Where what varies is written: in the argument memory, or nowhere.
fn hidden(random: &mut Random, at: u64) -> Value {
    match random.below(8) {
        0 => Value::Number(WILD),
        1 => Value::Number(0),
        _ => Value::Memory(at),
    }
}

/// Draws a call.
pub(super) fn draw(random: &mut Random) -> Call {
    match random.below(16) {
        0 | 1 => machine(random),
        2 | 3 => power(random),
        4..8 => pools(random),
        8 => scheduler(random),
        9 => pages(random),
        10 => tracing(random),
        11 => livepatch(random),
        12 => processors(random),
        _ => others(random),
    }
    .0
}

fn machine(random: &mut Random) -> Request {
    match random.below(6) {
        0 => Request::new(3, "physinfo").hide(0, 120),
        1 => {
            let count = random.of_list(&[0, 1, 2, 0xffff_ffff]);
            Request::new(8, "getcpuinfo").word(0, Value::Number(count)).long(8, hidden(random, BEHIND)).behind_hidden()
        }
        2 => {
            let node = random.of_list(&[0, 1, 63, 64, 0xffff_ffff, 0xffff_fffe]);
            let request = Request::new(9, "availheap").word(0, Value::Number(random.of_list(&[0, 30, 64])));
            request.word(4, Value::Number(random.of_list(&[0, 32, 64]))).word(8, Value::Number(node)).hide(16, 8)
        }
        3 => {
            let count = random.of_list(&[0, 1, 2, 0xffff_ffff]);
            Request::new(16, "cputopoinfo")
                .word(0, Value::Number(count))
                .long(8, hidden(random, BEHIND))
                .behind_hidden()
        }
        4 => {
            let request = Request::new(17, "numainfo").word(0, Value::Number(random.of_list(&[0, 1, 2, 64])));
            request.long(8, hidden(random, BEHIND)).long(16, buffer(random, BEHIND + 0x40)).behind_hidden()
        }
        _ => {
            let count = random.of_list(&[0, 1, 2]);
            let request = Request::new(22, "pcitopoinfo").word(0, Value::Number(count));
            request.long(8, buffer(random, BEHIND)).long(16, buffer(random, BEHIND + 0x40)).behind(number(random))
        }
    }
}

impl Request {
    /// What is pointed to varies.
    fn behind_hidden(self) -> Self {
        Self(self.0.hide(BEHIND as usize, 0x20))
    }
}

fn power(random: &mut Random) -> Request {
    match random.below(4) {
        0 => {
            let kind = random.of_list(&[0x11, 0x12, 0x13, 0x21, 0x22, 0x23, 0x24, 0x31, 0]);
            Request::new(10, "get_pmstat").word(0, Value::Number(kind)).word(4, processor(random)).hide(16, 8)
        }
        1 => {
            // The one processor stays.
            let cpu = random.of_list(&[1, 2, 31, 255, 256, 0xffff_ffff]);
            let op = random.of_list(&[0, 1, 2, 3, 4, 0xffff_ffff]);
            Request::new(11, "cpu_hotplug").word(0, Value::Number(cpu)).word(4, Value::Number(op))
        }
        _ => {
            let command = random.of_list(&[0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x25, 0x26, 0x27, 0x28, 0x31, 0]);
            Request::new(12, "pm_op").word(0, Value::Number(command)).word(4, processor(random))
        }
    }
}

fn pools(random: &mut Random) -> Request {
    let op = random.of_list(&[2, 3, 3, 4, 5, 6, 6, 7, 7, 0, 8, 99]);
    let pool = Value::Number(random.of_list(&[0, 0, 0, 1, 7, 0xffff_ffff]));
    let cpu = Value::Number(random.of_list(&[0, 1, 31, 255, 256, 0xffff_ffff]));
    // The one pool keeps its processor, and this domain its pool.
    let cpu = if op == 5 { Value::Number(random.of_list(&[1, 31, 255, 256])) } else { cpu };
    let domain = match random.below(4) {
        0 => Value::Number(random.of_list(&[0x1234, 0x7ff2, 0x7fff])),
        1 => Value::Me,
        _ => Value::Other,
    };
    let request = Request::new(18, "cpupool_op").word(0, Value::Number(op)).word(4, pool).word(8, small(random, 3));
    let request = request.word(12, domain).word(16, cpu).long(24, buffer(random, BEHIND));
    // How many are dying varies.
    request.word(32, Value::Number(random.of_list(&[0, 1, 8, 64, 64, 100]))).hide(12, 4).hide(20, 4)
}

fn scheduler(random: &mut Random) -> Request {
    let (scheduler, pool) = (random.of_list(&[5, 5, 5, 4, 6, 7, 8, 9]), random.of_list(&[0, 0, 0, 1, 0xffff_ffff]));
    let request = Request::new(19, "scheduler_op").word(0, Value::Number(pool)).word(4, Value::Number(scheduler));
    let command = random.of_list(&[0, 1, 1, 2, 99]);
    // What is set is refused.
    let slice = Value::Number(random.of_list(&[0, 1001, 0xffff_ffff]));
    let limit = Value::Number(random.of_list(&[1, 99, 500_001]));
    request.word(8, Value::Number(command)).word(16, slice).word(20, limit).word(24, small(random, 2)).hide(16, 12)
}

fn pages(random: &mut Random) -> Request {
    let command = random.of_list(&[0, 3, 3, 3, 4, 99]);
    let first = if random.one_in(3) { Value::Number(random.of_list(&[0, 1, 0xffff_ffff])) } else { Value::Frame(0) };
    let last = if random.one_in(4) { Value::Number(random.of_list(&[0, 1])) } else { first };
    let request = Request::new(14, "page_offline_op").word(0, Value::Number(command)).word(4, first).word(8, last);
    request.long(16, buffer(random, BEHIND))
}

fn tracing(random: &mut Random) -> Request {
    match random.below(4) {
        // Buffers that are made stay, and lie in other frames: none is.
        0 => {
            let command = random.of_list(&[0, 0, 0, 1, 2, 2, 4, 5, 6, 99]);
            let events = random.of_list(&[0, 1, 0x0002_1000, 0x0fff_f000, 0xffff_ffff]);
            Request::new(2, "tbuf_op").word(0, Value::Number(command)).word(24, Value::Number(events))
        }
        1 => Request::new(5, "perfc_op").word(0, small(random, 4)).long(16, buffer(random, BEHIND)),
        2 => Request::new(15, "lockprof_op").word(0, small(random, 4)).long(24, buffer(random, BEHIND)),
        _ => Request::new(20, "coverage_op").word(0, small(random, 4)).long(8, buffer(random, BEHIND)),
    }
}

fn livepatch(random: &mut Random) -> Request {
    let command = random.of_list(&[0, 1, 2, 3, 4]);
    let pad = Value::Number(random.of_list(&[0, 0, 0, 1]));
    let request = Request::new(27, "livepatch_op").word(0, Value::Number(command)).word(4, pad);
    if command == 2 {
        let request = request.word(8 + 4, small(random, 2)).word(8 + 8, small(random, 3));
        let request = request.word(8 + 12, Value::Number(random.of_list(&[0, 0, 0, 1])));
        return request.long(8 + 24, buffer(random, BEHIND)).long(8 + 32, buffer(random, BEHIND));
    }
    let size = random.of_list(&[0, 1, 5, 128, 129]);
    let name = if random.one_in(6) { Value::Number(WILD) } else { Value::Memory(BEHIND) };
    let request = request.long(8, name).word(16, Value::Number(size));
    request.long(24, Value::Number(random.of_list(&[0, 1, 4096]))).behind(Value::Number(0x64_6362_6100))
}

fn processors(random: &mut Random) -> Request {
    match random.below(4) {
        0 => Request::new(21, "psr_cmt_op").word(0, small(random, 6)).word(4, small(random, 2)),
        1 => Request::new(23, "psr_alloc").word(0, small(random, 4)).word(4, small(random, 2)),
        2 => Request::new(25, "get_cpu_levelling_caps").hide(0, 4),
        _ => {
            let request = Request::new(26, "get_cpu_featureset").word(0, small(random, 7));
            request.word(4, Value::Number(random.of_list(&[0, 1, 13, 99]))).long(8, hidden(random, BEHIND)).behind_all()
        }
    }
}

impl Request {
    fn behind_all(self) -> Self {
        Self(self.0.hide(BEHIND as usize, 0x100))
    }
}

fn others(random: &mut Random) -> Request {
    match random.below(6) {
        0 => Request::new(4, "sched_id"),
        1 => {
            let count = random.of_list(&[0, 0, 1]);
            let from = random.of_list(&[0, 0x1234, 0x7ff0]);
            let request =
                Request::new(6, "getdomaininfolist").word(0, Value::Number(from)).word(4, Value::Number(count));
            let place = if count == 0 { buffer(random, BEHIND) } else { Value::Memory(BEHIND) };
            Request(request.long(8, place).0.hide(BEHIND as usize, 0x70))
        }
        2 => Request::new(7, "debug_keys").long(0, buffer(random, BEHIND)).word(8, Value::Number(0)),
        3 => {
            let request = Request::new(29, "get_cpu_policy").word(0, small(random, 8)).word(4, small(random, 2));
            let request = request.word(8, small(random, 2)).word(12, Value::Number(random.of_list(&[0, 0, 1])));
            Request(request.long(16, Value::Number(0)).long(24, Value::Number(0)).0.hide(OWN + 4, 8))
        }
        4 => Request::new(random.of_list(&[0, 13, 24, 28, 30, 99, 0xffff_ffff]), "none"),
        _ => {
            let request = Request::new(random.below(31), "versions");
            Request(request.0.at(4, 4, Value::Number(random.of_list(&[0x14, 0x16, 0]))))
        }
    }
}
