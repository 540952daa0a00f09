//! Trace buffers: what the hypervisor notes as it works (`trace.h`).
//!
//! Each processor has a ring of records that the control domain maps and empties. A record is a header word, a time
//! stamp of two words where the header says so, and at most [`TRACE_EXTRA_MAX`] words more. A stream is what `xentrace`
//! writes to a file: windows of these rings, each behind a record of [`TRC_TRACE_CPU_CHANGE`].

use crate::{domid::DomId, hypercall::Hypercall};

/// Words of a record behind its time stamp, at most.
pub const TRACE_EXTRA_MAX: usize = 7;
const EXTRA_SHIFT: u32 = 28;
const EVENT: u32 = 0x0fff_ffff;
/// Of a header: a time stamp follows.
pub const TRC_HD_CYCLE_FLAG: u32 = 1 << 31;
/// Of an event: addresses in it have 64 bits.
pub const TRC_64_FLAG: u32 = 0x100;

abi_consts! {
    /// A class of events; bits 12 to 15 stand for its parts.
    u32:
    TRC_GEN = 0x0001_f000,
    TRC_SCHED = 0x0002_f000,
    TRC_DOM0OP = 0x0004_f000,
    TRC_HVM = 0x0008_f000,
    TRC_MEM = 0x0010_f000,
    TRC_PV = 0x0020_f000,
    TRC_SHADOW = 0x0040_f000,
    TRC_HW = 0x0080_f000,
    TRC_GUEST = 0x0800_f000,
    TRC_ALL = 0x0fff_f000,
}

abi_consts! {
    /// A part of a class of events.
    u32:
    TRC_SCHED_MIN = 0x0002_1000,
    TRC_SCHED_CLASS = 0x0002_2000,
    TRC_SCHED_VERBOSE = 0x0002_8000,
    TRC_DOM0_DOMOPS = 0x0004_1000,
    TRC_PV_ENTRY = 0x0020_1000,
    TRC_PV_SUBCALL = 0x0020_2000,
    TRC_HW_IRQ = 0x0080_2000,
    /// What Oxen notes beside.
    OXEN_TRC = 0x0080_4000,
}

abi_consts! {
    /// An event.
    u32:
    /// Records were lost: how many; domain and vcpu; the time of the first, in two words.
    TRC_LOST_RECORDS = TRC_GEN + 1,
    /// Nothing: a ring's end has no room for the record that follows at its begin.
    TRC_TRACE_WRAP_BUFFER = TRC_GEN + 2,
    /// In a stream: what follows is a window of the ring of this processor; bytes.
    TRC_TRACE_CPU_CHANGE = TRC_GEN + 3,
    /// A vcpu's runstate changes: the old one is in bits 8 and 9 of the event, the new one in 4 and 5; vcpu and domain.
    TRC_SCHED_RUNSTATE_CHANGE = TRC_SCHED_MIN + 1,
    /// A vcpu goes on running where it was: vcpu and domain.
    TRC_SCHED_CONTINUE_RUNNING = TRC_SCHED_MIN + 2,
    /// A domain is made: its id.
    TRC_SCHED_DOM_ADD = TRC_SCHED_VERBOSE + 1,
    /// A domain is ended: its id.
    TRC_SCHED_DOM_REM = TRC_SCHED_VERBOSE + 2,
    /// A vcpu may run no longer: domain, vcpu.
    TRC_SCHED_SLEEP = TRC_SCHED_VERBOSE + 3,
    /// A vcpu may run again: domain, vcpu.
    TRC_SCHED_WAKE = TRC_SCHED_VERBOSE + 4,
    /// A vcpu lets others go first: domain, vcpu.
    TRC_SCHED_YIELD = TRC_SCHED_VERBOSE + 5,
    /// A vcpu waits for an event: domain, vcpu.
    TRC_SCHED_BLOCK = TRC_SCHED_VERBOSE + 6,
    /// A domain shuts down: domain, vcpu, reason.
    TRC_SCHED_SHUTDOWN = TRC_SCHED_VERBOSE + 7,
    /// The processor goes from one vcpu to another: domain and vcpu of either.
    TRC_SCHED_SWITCH = TRC_SCHED_VERBOSE + 10,
    /// A grant was mapped: whose.
    TRC_MEM_PAGE_GRANT_MAP = TRC_MEM + 1,
    /// A grant was unmapped: whose.
    TRC_MEM_PAGE_GRANT_UNMAP = TRC_MEM + 2,
    /// A page was transferred: to whom.
    TRC_MEM_PAGE_GRANT_TRANSFER = TRC_MEM + 3,
    /// An exception goes to the guest: its address in two words; the vector in bits 0 to 14, whether there is an error
    /// code in bit 15, that code in the upper half.
    TRC_PV_TRAP = TRC_PV_ENTRY + 3,
    /// A page fault goes to the guest: its address and the one it wanted, in two words each, and the error code.
    TRC_PV_PAGE_FAULT = TRC_PV_ENTRY + 4,
    /// `cpuid` behind the prefix that asks for it: its address in two words.
    TRC_PV_FORCED_INVALID_OP = TRC_PV_ENTRY + 5,
    /// A privileged instruction was done for the guest: its address in two words.
    TRC_PV_EMULATE_PRIVOP = TRC_PV_ENTRY + 6,
    /// The FPU became the guest's again.
    TRC_PV_MATH_STATE_RESTORE = TRC_PV_ENTRY + 8,
    /// A page of descriptors was taken into use: the address of the instruction, and the offset, in two words each.
    TRC_PV_GDT_LDT_MAPPING_FAULT = TRC_PV_ENTRY + 10,
    /// A write to a page table was done for the guest: the new entry, its address, the instruction's, in two words
    /// each.
    TRC_PV_PTWR_EMULATION = TRC_PV_ENTRY + 11,
    /// A hypercall: the number, and which arguments follow (`TRC_PV_HYPERCALL_V2_ARG_*`).
    TRC_PV_HYPERCALL_V2 = TRC_PV_ENTRY + 13,
    /// The same for one that stands in a multicall.
    TRC_PV_HYPERCALL_SUBCALL = TRC_PV_SUBCALL + 14,
}

abi_consts! {
    /// An event of Oxen's own, in a part of a class that Xen has not: its tools count it and go on.
    u32:
    /// How a hypercall was answered: its number, bit 8 set for one of a multicall; the answer in two words.
    OXEN_TRC_HYPERCALL_ANSWER = OXEN_TRC + 0x01,
    /// An event is sent: the sender's domain, and its port.
    OXEN_TRC_EVENT_SENT = OXEN_TRC + 0x02,
    /// An upcall enters the guest's kernel: domain, vcpu.
    OXEN_TRC_UPCALL = OXEN_TRC + 0x03,
    /// A block backend works at a request: the guest's domain, the disk's number, the request's, `OXEN_BLOCK_*`, and
    /// the operation (`BLKIF_OP_*`) or the answer's status (`BLKIF_RSP_*`).
    OXEN_TRC_BLOCK = OXEN_TRC + 0x04,
    /// In a stream: kHz of the time stamps.
    OXEN_TRC_CLOCK = OXEN_TRC + 0x10,
    /// In a stream: a domain, and its name in as many words as are there.
    OXEN_TRC_DOMAIN_NAME = OXEN_TRC + 0x11,
}

abi_consts! {
    /// A step of a request through a block backend.
    u32:
    /// It is taken off the ring.
    OXEN_BLOCK_TAKEN = 0,
    /// It is given to the disk, or a part of it.
    OXEN_BLOCK_TO_DISK = 1,
    /// The disk has done that.
    OXEN_BLOCK_FROM_DISK = 2,
    /// Its answer goes to the ring.
    OXEN_BLOCK_ANSWERED = 3,
}

/// Domain and vcpu in one word, as the records of [`TRC_SCHED_RUNSTATE_CHANGE`] have them.
#[must_use]
pub const fn vcpu_and_domain(vcpu: u32, domain: DomId) -> u32 {
    vcpu & 0xffff | (domain.0 as u32) << 16
}

/// An address, or another word of 64 bits, as a record has it: the lower half first.
#[must_use]
pub const fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// The header of a record of `event` with so many words, at most [`TRACE_EXTRA_MAX`], behind its time stamp, if any.
#[must_use]
pub const fn header(event: u32, extra: usize, has_time: bool) -> u32 {
    let time = if has_time { TRC_HD_CYCLE_FLAG } else { 0 };
    event & EVENT | ((extra & TRACE_EXTRA_MAX) as u32) << EXTRA_SHIFT | time
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// `TRC_*`, flags included.
    pub event: u32,
    /// Cycles of the processor's time stamp counter.
    pub time: Option<u64>,
    /// What the event says of itself.
    pub extra: &'a [u32],
}

impl<'a> Record<'a> {
    /// The first record of `words`, and what follows it; `None` where no whole record is left.
    ///
    /// ```
    /// use oxen_abi::trace::{Record, TRC_SCHED_WAKE, header};
    /// let words = [header(TRC_SCHED_WAKE, 2, true), 0x1000, 0, 3, 1];
    /// let (record, rest) = Record::split_first(&words).unwrap();
    /// assert_eq!((record.event, record.time, record.extra), (TRC_SCHED_WAKE, Some(0x1000), &[3, 1][..]));
    /// assert!(rest.is_empty());
    /// assert!(Record::split_first(&words[..4]).is_none());
    /// ```
    #[must_use]
    pub fn split_first(words: &'a [u32]) -> Option<(Self, &'a [u32])> {
        let (&header, rest) = words.split_first()?;
        let (time, rest) = if header & TRC_HD_CYCLE_FLAG == 0 {
            (None, rest)
        } else {
            let ([low, high], rest) = rest.split_first_chunk()?;
            (Some(u64::from(*low) | u64::from(*high) << 32), rest)
        };
        let count = (header >> EXTRA_SHIFT) as usize & TRACE_EXTRA_MAX;
        let (extra, rest) = rest.split_at_checked(count)?;
        Some((Self { event: header & EVENT, time, extra }, rest))
    }
}

/// Which of a hypercall's arguments its record has, and how wide each is: bits 20 to 31 of the record's first word,
/// two for each argument (`TRC_PV_HYPERCALL_V2_ARG_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HypercallArgs(u32);

/// An argument that a record leaves out, has as 32 bits, or as 64.
const NONE: u32 = 0;
const WORD: u32 = 1;
const LONG: u32 = 2;

impl HypercallArgs {
    /// Of a call that there is not: the first three.
    pub const UNKNOWN: Self = Self::new([LONG, LONG, LONG, NONE]);

    const fn new([first, second, third, fourth]: [u32; 4]) -> Self {
        Self(first << 20 | second << 22 | third << 24 | fourth << 26)
    }

    /// Those of a hypercall: what it has, as far as six words hold it. Counts, commands and domains take one each.
    #[must_use]
    pub const fn of(hypercall: Hypercall) -> Self {
        Self::new(match hypercall {
            Hypercall::Iret => [NONE; 4],
            Hypercall::FpuTaskswitch | Hypercall::GetDebugreg => [WORD, NONE, NONE, NONE],
            Hypercall::SetTrapTable
            | Hypercall::SetTimerOp
            | Hypercall::Domctl
            | Hypercall::Sysctl
            | Hypercall::PlatformOp => [LONG, NONE, NONE, NONE],
            Hypercall::MmuUpdate | Hypercall::MmuextOp => [LONG, WORD, NONE, WORD],
            Hypercall::SetGdt | Hypercall::Multicall => [LONG, WORD, NONE, NONE],
            Hypercall::StackSwitch | Hypercall::UpdateDescriptor => [LONG, LONG, NONE, NONE],
            Hypercall::UpdateVaMappingOtherdomain => [LONG, LONG, WORD, WORD],
            Hypercall::VmAssist => [WORD, WORD, NONE, NONE],
            Hypercall::ConsoleIo | Hypercall::VcpuOp => [WORD, WORD, LONG, NONE],
            Hypercall::GrantTableOp => [WORD, LONG, WORD, NONE],
            Hypercall::SchedOp
            | Hypercall::SchedOpCompat
            | Hypercall::SetDebugreg
            | Hypercall::MemoryOp
            | Hypercall::XenVersion
            | Hypercall::SetSegmentBase
            | Hypercall::NmiOp
            | Hypercall::CallbackOp
            | Hypercall::EventChannelOp
            | Hypercall::PhysdevOp => [WORD, LONG, NONE, NONE],
            _ => return Self::UNKNOWN,
        })
    }

    /// What a record of the call says: its number and these bits, then the arguments. At most seven words.
    #[must_use]
    pub fn record(self, number: u64, args: &[u64; 6]) -> RecordWords {
        let mut words = RecordWords { words: [0; TRACE_EXTRA_MAX], count: 0 };
        words.push(number as u32 & 0xf_ffff | self.0);
        for (index, &arg) in (0..).zip(args) {
            let [low, high] = halves(arg);
            match self.0 >> (20 + 2 * index) & 3 {
                WORD => words.push(low),
                LONG => {
                    words.push(low);
                    words.push(high);
                }
                _ => {}
            }
        }
        words
    }

    /// Number and arguments out of a record's words: `None` for those that it has not.
    #[must_use]
    pub fn read(extra: &[u32]) -> Option<(u64, [Option<u64>; 6])> {
        let (&first, mut rest) = extra.split_first()?;
        let mut args = [None; 6];
        for (index, arg) in (0..).zip(&mut args) {
            match first >> (20 + 2 * index) & 3 {
                WORD => {
                    let (&low, after) = rest.split_first()?;
                    (*arg, rest) = (Some(low.into()), after);
                }
                LONG => {
                    let ([low, high], after) = rest.split_first_chunk()?;
                    (*arg, rest) = (Some(u64::from(*low) | u64::from(*high) << 32), after);
                }
                _ => {}
            }
        }
        Some((u64::from(first & 0xf_ffff), args))
    }
}

/// Words behind a record's header and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordWords {
    words: [u32; TRACE_EXTRA_MAX],
    count: usize,
}

impl RecordWords {
    fn push(&mut self, word: u32) {
        if let Some(place) = self.words.get_mut(self.count) {
            *place = word;
            self.count += 1;
        }
    }
}

impl core::ops::Deref for RecordWords {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        self.words.get(..self.count).unwrap_or_default()
    }
}

abi_consts! {
    /// What [`SysctlTbufOp`](crate::sysctl::SysctlTbufOp) does.
    u32:
    /// Say which events are traced, where the buffers' description is, and its bytes.
    XEN_SYSCTL_TBUFOP_GET_INFO = 0,
    /// Choose the processors.
    XEN_SYSCTL_TBUFOP_SET_CPU_MASK = 1,
    /// Choose the events.
    XEN_SYSCTL_TBUFOP_SET_EVT_MASK = 2,
    /// Make buffers of so many pages for each processor; once.
    XEN_SYSCTL_TBUFOP_SET_SIZE = 3,
    /// Begin to trace.
    XEN_SYSCTL_TBUFOP_ENABLE = 4,
    /// End it.
    XEN_SYSCTL_TBUFOP_DISABLE = 5,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hypercalls_arguments_fit_a_record_and_come_out_again() {
        let args = [0x1_0000_0001, 2, 0x3_0000_0003, 4, 5, 6];
        for &hypercall in Hypercall::ALL {
            let words = HypercallArgs::of(hypercall).record(hypercall.number(), &args);
            let (number, found) = HypercallArgs::read(&words).unwrap();
            assert_eq!(number, hypercall.number());
            let cut = |arg: u64| [Some(arg), Some(arg & u64::from(u32::MAX)), None];
            assert!(found.iter().zip(args).all(|(found, arg)| cut(arg).contains(found)), "{hypercall:?}");
            assert!(HypercallArgs::read(&words[..words.len() - 1]).is_none() || words.len() == 1);
        }
    }
}
