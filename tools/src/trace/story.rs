//! A trace as what lasts and what happens at once: who runs where and how long, which hypercall takes how long, marks.
//! Pictures are made of this.

use std::collections::BTreeMap;

use oxen_abi::io::blkif::BLKIF_RSP_OKAY;
use oxen_abi::trace::{OXEN_BLOCK_ANSWERED, OXEN_BLOCK_FROM_DISK, OXEN_BLOCK_TAKEN, OXEN_BLOCK_TO_DISK};

use super::names;
use super::stream::{Disk, Event, RUNNING, Trace, Vcpu, What};
use super::text;

/// Something that lasts, in nanoseconds since the first event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where it is shown.
    pub(crate) vcpu: Vcpu,
    pub(crate) cpu: u32,
    pub(crate) name: String,
    /// What it says besides.
    pub(crate) detail: String,
    /// Whether it stands in a batch.
    pub(crate) is_inner: bool,
    /// Whether it was refused.
    pub(crate) is_refused: bool,
}

/// Something that happens at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) at: u64,
    pub(crate) cpu: u32,
    pub(crate) vcpu: Option<Vcpu>,
    pub(crate) name: &'static str,
    pub(crate) detail: String,
}

/// Somebody wakes a vcpu, which then runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrow {
    pub(crate) from: (u64, Vcpu),
    pub(crate) to: (u64, Vcpu),
}

/// A request of a guest's disk, from where the backend takes it off the ring to its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) disk: Disk,
    pub(crate) number: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// What is asked.
    pub(crate) operation: &'static str,
    /// When the disk had it, or parts of it.
    pub(crate) at_disk: Vec<(u64, u64)>,
    pub(crate) is_refused: bool,
}

impl Request {
    /// What it says of itself.
    pub(crate) fn detail(&self) -> String {
        let micros = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        let named = format!("{}, request {}: {}", names::of_disk(self.disk), self.number, self.operation);
        let outcome = if self.is_refused { ", refused" } else { "" };
        match (self.at_disk.first(), self.at_disk.last()) {
            (Some((begun, _)), Some((_, done))) => format!(
                "{named}: {:.3} µs until the disk has it, {:.3} µs at the disk, {:.3} µs to the answer{outcome}",
                micros(begun - self.start),
                micros(done - begun),
                micros(self.end - done),
            ),
            _ => format!("{named}: answered without the disk{outcome}"),
        }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Vcpus on CPUs.
    pub(crate) runs: Vec<Span>,
    pub(crate) calls: Vec<Span>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) arrows: Vec<Arrow>,
    pub(crate) requests: Vec<Request>,
}

/// A hypercall that has no answer yet.
struct Open {
    number: u64,
    start: u64,
    cpu: u32,
    detail: String,
}

impl Story {
    /// Puts together what belongs together.
    pub(crate) fn of(trace: &Trace) -> Self {
        let mut story = Self { requests: requests(trace), ..Self::default() };
        let mut running: BTreeMap<Vcpu, (u64, u32)> = BTreeMap::new();
        let mut open: BTreeMap<(Vcpu, bool), Open> = BTreeMap::new();
        let mut woken: BTreeMap<Vcpu, (u64, Vcpu)> = BTreeMap::new();
        for event in &trace.events {
            let (at, cpu) = (trace.nanoseconds(event.time), event.cpu);
            let detail = text::of(&event.what, trace);
            match &event.what {
                What::Runstate { vcpu, .. } if vcpu.is_idle() => {}
                What::Runstate { vcpu, now: RUNNING, .. } => {
                    running.insert(*vcpu, (at, cpu));
                    if let Some(from) = woken.remove(vcpu) {
                        story.arrows.push(Arrow { from, to: (at, *vcpu) });
                    }
                }
                What::GoesOn(vcpu) => _ = running.entry(*vcpu).or_insert((at, cpu)),
                What::Runstate { vcpu, before: RUNNING, .. } => {
                    if let Some((start, cpu)) = running.remove(vcpu) {
                        story.runs.push(run(trace, *vcpu, cpu, start, at));
                    }
                }
                What::Runstate { .. } => {}
                What::Hypercall { number, in_batch, .. } => {
                    if let Some(vcpu) = event.vcpu {
                        let opened = Open { number: *number, start: at, cpu, detail };
                        open.insert((vcpu, *in_batch), opened);
                    }
                }
                What::Answer { number, value, in_batch } => {
                    let key = event.vcpu.map(|vcpu| (vcpu, *in_batch));
                    let Some((vcpu, call)) = key.and_then(|key| Some((key.0, open.remove(&key)?))) else { continue };
                    if call.number == *number {
                        let answer = names::of_answer(*value);
                        story.calls.push(Span {
                            start: call.start,
                            end: at,
                            vcpu,
                            cpu: call.cpu,
                            name: names::of_hypercall(*number),
                            is_refused: answer.starts_with("-E"),
                            detail: format!("{} = {answer}", call.detail.trim_start_matches([' ', '.'])),
                            is_inner: *in_batch,
                        });
                    }
                }
                What::Wake(vcpu) => {
                    if let Some(by) = event.vcpu {
                        woken.insert(*vcpu, (at, by));
                    }
                }
                other => {
                    if let Some(name) = mark(other) {
                        story.marks.push(Mark { at, cpu, vcpu: event.vcpu, name, detail });
                    }
                }
            }
        }
        let end = trace.events.last().map_or(0, |event| trace.nanoseconds(event.time));
        story.runs.extend(running.into_iter().map(|(vcpu, (start, cpu))| run(trace, vcpu, cpu, start, end)));
        story
    }
}

/// The requests of which begin and answer were noted, in the order of their answers.
fn requests(trace: &Trace) -> Vec<Request> {
    let mut at_work = BTreeMap::new();
    let step = |event: &Event| match event.what {
        What::Request { disk, number, step, more } => {
            follow(&mut at_work, (disk, number), trace.nanoseconds(event.time), step, more)
        }
        _ => None,
    };
    trace.events.iter().filter_map(step).collect()
}

/// Follows a request through a step; returns it with its answer.
fn follow(
    at_work: &mut BTreeMap<(Disk, u32), Request>,
    key @ (disk, number): (Disk, u32),
    at: u64,
    step: u32,
    more: u32,
) -> Option<Request> {
    if step == OXEN_BLOCK_TAKEN {
        let operation = names::of_block_operation(more);
        let request = Request { disk, number, start: at, end: at, operation, at_disk: Vec::new(), is_refused: false };
        at_work.insert(key, request);
        return None;
    }
    // Of what began before the trace, the begin is not known.
    let request = at_work.get_mut(&key)?;
    request.end = at;
    match step {
        OXEN_BLOCK_TO_DISK => request.at_disk.push((at, at)),
        OXEN_BLOCK_FROM_DISK => request.at_disk.last_mut().into_iter().for_each(|part| part.1 = at),
        OXEN_BLOCK_ANSWERED => {
            request.is_refused = more != u32::from(BLKIF_RSP_OKAY.cast_unsigned());
            return at_work.remove(&key);
        }
        _ => {}
    }
    None
}

/// What a mark is called; none for what is shown otherwise.
const fn mark(what: &What) -> Option<&'static str> {
    Some(match what {
        What::Trap { .. } => "trap",
        What::PageFault { .. } => "page fault",
        What::Emulated { .. } => "emulated",
        What::TableWrite { .. } => "table write",
        What::Upcall(_) => "upcall",
        What::EventSent { .. } => "event",
        What::Made(_) | What::Ended(_) | What::ShutDown { .. } => "domain",
        What::GrantMapped(_) | What::GrantUnmapped(_) | What::Transferred(_) => "grant",
        What::Lost(_) => "lost",
        What::Other { .. } => "other",
        _ => return None,
    })
}

fn run(trace: &Trace, vcpu: Vcpu, cpu: u32, start: u64, end: u64) -> Span {
    let detail = format!("{} ({}) on CPU {cpu}", names::of_vcpu(Some(vcpu)), trace.name(vcpu.domain));
    let name = names::of_vcpu(Some(vcpu));
    Span { start, end, vcpu, cpu, name, detail, is_inner: false, is_refused: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_last_until_their_answer_and_who_is_woken_is_pointed_at() {
        let [waker, sleeper] = [Vcpu { domain: 0, id: 0 }, Vcpu { domain: 1, id: 0 }];
        let call = |number, in_batch| What::Hypercall { number, args: [None; 6], in_batch };
        let answer = |number, value, in_batch| What::Answer { number, value, in_batch };
        let runs = |vcpu, before, now| What::Runstate { vcpu, before, now };
        let events = [
            (1, None, runs(waker, 1, RUNNING)),
            (10, Some(waker), call(13, false)),
            (11, Some(waker), call(32, true)),
            (12, Some(waker), What::Wake(sleeper)),
            (13, Some(waker), answer(32, (-22_i64) as u64, true)),
            (20, Some(waker), answer(13, 0, false)),
            (30, Some(waker), runs(waker, RUNNING, 2)),
            (31, Some(waker), runs(sleeper, 1, RUNNING)),
            (40, Some(sleeper), What::Lost(3)),
        ];
        let events = events.map(|(time, vcpu, what)| Event { time, cpu: 0, vcpu, what }).to_vec();
        let story = Story::of(&Trace { events, khz: 1_000_000, ..Trace::default() });
        let calls: Vec<_> = story.calls.iter().map(|c| (c.start, c.end, &*c.name, c.is_inner, c.is_refused)).collect();
        assert_eq!(calls, [(10, 12, "event_channel_op", true, true), (9, 19, "multicall", false, false)]);
        assert!(story.calls[0].detail.ends_with("= -EINVAL"), "{}", story.calls[0].detail);
        assert_eq!(story.arrows, [Arrow { from: (11, waker), to: (30, sleeper) }]);
        let runs: Vec<_> = story.runs.iter().map(|run| (run.start, run.end, run.vcpu)).collect();
        assert_eq!(runs, [(0, 29, waker), (30, 39, sleeper)]);
        assert_eq!(story.marks[0].name, "lost");
    }

    #[test]
    fn a_request_is_followed_from_the_ring_to_its_answer() {
        let disk = Disk { domain: 3, number: 51712 };
        let step = |number, step, more| What::Request { disk, number, step, more };
        let events = [
            (0, step(6, OXEN_BLOCK_ANSWERED, 0)),
            (10, step(7, OXEN_BLOCK_TAKEN, 1)),
            (12, step(8, OXEN_BLOCK_TAKEN, 0)),
            (13, step(8, OXEN_BLOCK_ANSWERED, 0xffff)),
            (20, step(7, OXEN_BLOCK_TO_DISK, 0)),
            (50, step(7, OXEN_BLOCK_FROM_DISK, 0)),
            (55, step(7, OXEN_BLOCK_ANSWERED, 0)),
        ];
        let events = events.map(|(time, what)| Event { time, cpu: 2, vcpu: None, what }).to_vec();
        let story = Story::of(&Trace { events, khz: 1_000, ..Trace::default() });
        let told: Vec<String> = story.requests.iter().map(Request::detail).collect();
        let expected = [
            "disk 51712 of d3, request 8: read: answered without the disk, refused",
            "disk 51712 of d3, request 7: write: 10.000 µs until the disk has it, 30.000 µs at the disk, 5.000 µs to \
             the answer",
        ];
        assert_eq!(told, expected);
    }
}
