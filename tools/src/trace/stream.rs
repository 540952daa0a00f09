//! A trace as dom0 has put it down: windows of the CPUs' rings, read into events in the order of time.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use oxen_abi::domid::DomId;
use oxen_abi::trace::{
    HypercallArgs, OXEN_TRC_BLOCK, OXEN_TRC_CLOCK, OXEN_TRC_DOMAIN_NAME, OXEN_TRC_EVENT_SENT,
    OXEN_TRC_HYPERCALL_ANSWER, OXEN_TRC_UPCALL, Record, TRC_64_FLAG, TRC_LOST_RECORDS, TRC_MEM_PAGE_GRANT_MAP,
    TRC_MEM_PAGE_GRANT_TRANSFER, TRC_MEM_PAGE_GRANT_UNMAP, TRC_PV_EMULATE_PRIVOP, TRC_PV_FORCED_INVALID_OP,
    TRC_PV_HYPERCALL_SUBCALL, TRC_PV_HYPERCALL_V2, TRC_PV_PAGE_FAULT, TRC_PV_PTWR_EMULATION, TRC_PV_TRAP,
    TRC_SCHED_BLOCK, TRC_SCHED_CONTINUE_RUNNING, TRC_SCHED_DOM_ADD, TRC_SCHED_DOM_REM, TRC_SCHED_RUNSTATE_CHANGE,
    TRC_SCHED_SHUTDOWN, TRC_SCHED_WAKE, TRC_TRACE_CPU_CHANGE, TRC_TRACE_WRAP_BUFFER,
};

/// A vcpu, as a trace names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Vcpu {
    /// Its domain.
    pub(crate) domain: u16,
    /// Its number there.
    pub(crate) id: u16,
}

/// A guest's disk, as a trace names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Disk {
    /// The guest.
    pub(crate) domain: u16,
    /// The number of the device.
    pub(crate) number: u32,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A hypercall, by itself or in a multicall.
    Hypercall {
        number: u64,
        args: [Option<u64>; 6],
        in_batch: bool,
    },
    /// How one was answered.
    Answer {
        number: u64,
        value: u64,
        in_batch: bool,
    },
    /// An exception goes to the guest's handler.
    Trap {
        rip: u64,
        vector: u8,
        error: Option<u16>,
    },
    /// A page fault likewise.
    PageFault {
        rip: u64,
        address: u64,
        error: u32,
    },
    /// A privileged instruction was done for the guest, or `cpuid` behind the prefix.
    Emulated {
        rip: u64,
        is_cpuid: bool,
    },
    /// A write to a page table was done for the guest.
    TableWrite {
        rip: u64,
        address: u64,
        entry: u64,
    },
    /// An upcall enters the guest's kernel.
    Upcall(Vcpu),
    /// An event is sent through a port.
    EventSent {
        domain: u16,
        port: u32,
    },
    /// A vcpu's runstate changes.
    Runstate {
        vcpu: Vcpu,
        before: u8,
        now: u8,
    },
    /// A vcpu goes on where it runs.
    GoesOn(Vcpu),
    /// A vcpu is woken.
    Wake(Vcpu),
    /// A vcpu waits for an event.
    Block(Vcpu),
    /// A domain is made, ends, or shuts down for a reason.
    Made(u16),
    Ended(u16),
    ShutDown {
        domain: u16,
        reason: u32,
    },
    /// Grants of a domain are mapped, unmapped; a page is transferred to one.
    GrantMapped(u16),
    GrantUnmapped(u16),
    Transferred(u16),
    /// A block backend is at a step of a request.
    Request {
        disk: Disk,
        number: u32,
        step: u32,
        more: u32,
    },
    /// So many records found no room.
    Lost(u32),
    /// Something else.
    Other {
        event: u32,
        words: Vec<u32>,
    },
}

/// An event: when, where, and in whose name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Ticks of the time stamp counter.
    pub(crate) time: u64,
    /// The CPU that has noted it.
    pub(crate) cpu: u32,
    /// The vcpu that it ran.
    pub(crate) vcpu: Option<Vcpu>,
    /// What it is.
    pub(crate) what: What,
}

/// A whole trace.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// In the order of time.
    pub(crate) events: Vec<Event>,
    /// Ticks in a millisecond.
    pub(crate) khz: u32,
    /// Names of domains, the last that each had.
    pub(crate) names: BTreeMap<u16, String>,
    /// The words of the stream, without what stands behind its end.
    pub(crate) words: usize,
}

/// The runstate of a vcpu that runs.
pub(crate) const RUNNING: u8 = 0;

impl Vcpu {
    /// Whether it stands for a CPU that has nothing to do.
    pub(crate) fn is_idle(self) -> bool {
        self.domain == DomId::IDLE.0
    }
}

impl Trace {
    /// Reads a stream; it ends with its words, or with a header of zeros.
    ///
    /// # Errors
    /// Fails for what is no such stream.
    pub(crate) fn read(words: &[u32]) -> Result<Self> {
        let mut trace = Self { khz: 1_000_000, ..Self::default() };
        let mut running = BTreeMap::new();
        let mut rest = words;
        while rest.first().is_some_and(|&header| header != 0) {
            let Some((head, after)) = Record::split_first(rest) else { bail!("the trace ends in a record") };
            let (TRC_TRACE_CPU_CHANGE, [cpu, bytes]) = (head.event, head.extra) else {
                bail!("word {} of the trace begins no window of a CPU", words.len() - rest.len())
            };
            let count = *bytes as usize / 4;
            ensure!(count <= after.len(), "the trace ends in a window of CPU {cpu}");
            let (window, behind) = after.split_at(count);
            trace.read_window(*cpu, window, &mut running)?;
            rest = behind;
        }
        trace.words = words.len() - rest.len();
        trace.events.sort_by_key(|event| event.time);
        Ok(trace)
    }

    fn read_window(&mut self, cpu: u32, window: &[u32], running: &mut BTreeMap<u32, Vcpu>) -> Result<()> {
        let mut rest = window;
        while !rest.is_empty() {
            let Some((record, after)) = Record::split_first(rest) else {
                bail!("a window of CPU {cpu} ends in a record")
            };
            rest = after;
            match (record.event, record.extra) {
                (TRC_TRACE_WRAP_BUFFER, _) => {}
                (OXEN_TRC_CLOCK, &[khz, ..]) => self.khz = khz.max(1),
                (OXEN_TRC_DOMAIN_NAME, &[domain, ref text @ ..]) => {
                    let bytes: Vec<u8> = text.iter().flat_map(|word| word.to_le_bytes()).collect();
                    let name = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
                    self.names.insert(domain as u16, name);
                }
                _ => {
                    let what = what(&record);
                    let before = running.get(&cpu).copied();
                    if let What::Runstate { vcpu, now: RUNNING, .. } | What::GoesOn(vcpu) = what {
                        running.insert(cpu, vcpu);
                    }
                    self.events.push(Event { time: record.time.unwrap_or(0), cpu, vcpu: before, what });
                }
            }
        }
        Ok(())
    }

    /// Nanoseconds from the first event to a time.
    pub(crate) fn nanoseconds(&self, time: u64) -> u64 {
        let first = self.events.first().map_or(0, |event| event.time);
        let ticks = u128::from(time.saturating_sub(first));
        (ticks * 1_000_000 / u128::from(self.khz)) as u64
    }

    /// The name of a domain, or its number.
    pub(crate) fn name(&self, domain: u16) -> String {
        if domain == DomId::IDLE.0 {
            return "idle".to_owned();
        }
        self.names.get(&domain).cloned().unwrap_or_else(|| format!("d{domain}"))
    }
}

/// What a record says.
fn what(record: &Record<'_>) -> What {
    let long = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let vcpu = |domain: u32, id: u32| Vcpu { domain: domain as u16, id: id as u16 };
    let other = || What::Other { event: record.event, words: record.extra.to_vec() };
    let is_runstate = record.event & !0x330 == TRC_SCHED_RUNSTATE_CHANGE;
    match (record.event & !TRC_64_FLAG, record.extra) {
        (_, &[who]) if is_runstate => What::Runstate {
            vcpu: vcpu(who >> 16, who & 0xffff),
            before: (record.event >> 8 & 3) as u8,
            now: (record.event >> 4 & 3) as u8,
        },
        (event @ (TRC_PV_HYPERCALL_V2 | TRC_PV_HYPERCALL_SUBCALL), extra) => {
            HypercallArgs::read(extra).map_or_else(other, |(number, args)| What::Hypercall {
                number,
                args,
                in_batch: event == TRC_PV_HYPERCALL_SUBCALL,
            })
        }
        (OXEN_TRC_HYPERCALL_ANSWER, &[which, low, high]) => {
            What::Answer { number: u64::from(which & 0xff), value: long(low, high), in_batch: which & 0x100 != 0 }
        }
        (TRC_PV_TRAP, &[low, high, trap]) => What::Trap {
            rip: long(low, high),
            vector: trap as u8,
            error: (trap & 1 << 15 != 0).then_some((trap >> 16) as u16),
        },
        (TRC_PV_PAGE_FAULT, &[low, high, address_low, address_high, error]) => {
            What::PageFault { rip: long(low, high), address: long(address_low, address_high), error }
        }
        (TRC_PV_EMULATE_PRIVOP, &[low, high]) => What::Emulated { rip: long(low, high), is_cpuid: false },
        (TRC_PV_FORCED_INVALID_OP, &[low, high]) => What::Emulated { rip: long(low, high), is_cpuid: true },
        (TRC_PV_PTWR_EMULATION, &[low, high, address_low, address_high, rip_low, rip_high]) => What::TableWrite {
            rip: long(rip_low, rip_high),
            address: long(address_low, address_high),
            entry: long(low, high),
        },
        (OXEN_TRC_UPCALL, &[domain, id]) => What::Upcall(vcpu(domain, id)),
        (OXEN_TRC_EVENT_SENT, &[domain, port]) => What::EventSent { domain: domain as u16, port },
        (TRC_SCHED_CONTINUE_RUNNING, &[who]) => What::GoesOn(vcpu(who >> 16, who & 0xffff)),
        (TRC_SCHED_WAKE, &[domain, id]) => What::Wake(vcpu(domain, id)),
        (TRC_SCHED_BLOCK, &[domain, id]) => What::Block(vcpu(domain, id)),
        (TRC_SCHED_DOM_ADD, &[domain]) => What::Made(domain as u16),
        (TRC_SCHED_DOM_REM, &[domain]) => What::Ended(domain as u16),
        (TRC_SCHED_SHUTDOWN, &[domain, _, reason]) => What::ShutDown { domain: domain as u16, reason },
        (TRC_MEM_PAGE_GRANT_MAP, &[domain]) => What::GrantMapped(domain as u16),
        (TRC_MEM_PAGE_GRANT_UNMAP, &[domain]) => What::GrantUnmapped(domain as u16),
        (TRC_MEM_PAGE_GRANT_TRANSFER, &[domain]) => What::Transferred(domain as u16),
        (OXEN_TRC_BLOCK, &[domain, disk, number, step, more]) => {
            What::Request { disk: Disk { domain: domain as u16, number: disk }, number, step, more }
        }
        (TRC_LOST_RECORDS, &[count, ..]) => What::Lost(count),
        _ => other(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxen_abi::trace::{header, vcpu_and_domain};

    fn window(cpu: u32, records: &[u32]) -> Vec<u32> {
        let mut words = vec![header(TRC_TRACE_CPU_CHANGE, 2, false), cpu, records.len() as u32 * 4];
        words.extend(records);
        words
    }

    #[test]
    fn windows_of_several_cpus_become_one_story() {
        let runs = header(TRC_SCHED_RUNSTATE_CHANGE | 1 << 8, 1, true);
        let mut words = window(0, &[header(OXEN_TRC_CLOCK, 1, false), 2_000_000]);
        words.extend(window(1, &[header(TRC_SCHED_WAKE, 2, true), 300, 0, 5, 1]));
        words.extend(window(
            0,
            &[runs, 100, 0, vcpu_and_domain(1, DomId(5)), header(TRC_LOST_RECORDS, 1, true), 500, 0, 7],
        ));
        words.extend([0, 0, 99]);
        let trace = Trace::read(&words).unwrap();
        assert_eq!(trace.words, words.len() - 3);
        let who = Vcpu { domain: 5, id: 1 };
        let found: Vec<_> =
            trace.events.iter().map(|event| (event.time, event.cpu, event.vcpu, event.what.clone())).collect();
        let expected = [
            (100, 0, None, What::Runstate { vcpu: who, before: 1, now: RUNNING }),
            (300, 1, None, What::Wake(who)),
            (500, 0, Some(who), What::Lost(7)),
        ];
        assert_eq!(found, expected);
        assert_eq!(trace.nanoseconds(500), 200);
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        assert!(Trace::read(&[1, 2, 3]).is_err());
        assert!(Trace::read(&[header(TRC_TRACE_CPU_CHANGE, 2, false), 0, 400]).is_err());
        assert!(Trace::read(&[]).unwrap().events.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_words_at_all_hurt(words: Vec<u32>) {
            let _ = Trace::read(&words);
            let _ = Trace::read(&window(0, &words));
        }
    }
}
