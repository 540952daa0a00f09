//! A trace for Perfetto and for the browser's own `about:tracing`: the JSON of trace events. A track for each CPU, one
//! for each vcpu under its domain, and arrows from who wakes to who is woken.

use serde_json::{Value, json};

use super::names;
use super::story::{Span, Story};
use super::stream::{Trace, Vcpu};

/// The number of the process whose threads are the CPUs, and of the one whose threads are disks; domains follow.
const CPUS: u32 = 1;
const BACKENDS: u32 = 2;
const DOMAINS: u32 = 100;

const fn process(vcpu: Vcpu) -> u32 {
    DOMAINS + vcpu.domain as u32
}

/// Microseconds, as the format counts.
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

fn span(span: &Span, process: u32, thread: u32) -> Value {
    json!({
        "ph": "X", "pid": process, "tid": thread, "name": span.name, "ts": micros(span.start),
        "dur": micros(span.end - span.start), "args": { "what": span.detail },
    })
}

/// The backend's tracks: one for each disk, where requests begin and end in any order.
fn requests(story: &Story) -> impl Iterator<Item = Value> {
    let name = json!({ "ph": "M", "pid": BACKENDS, "name": "process_name", "args": { "name": "block backends" } });
    let tracks = story.requests.iter().enumerate().flat_map(|(id, request)| {
        [("b", request.start), ("e", request.end)].map(|(phase, at)| {
            json!({
                "ph": phase, "cat": names::of_disk(request.disk), "id": id, "pid": BACKENDS,
                "tid": request.disk.number, "name": request.operation, "ts": micros(at),
                "args": { "what": request.detail() },
            })
        })
    });
    [name].into_iter().take(usize::from(!story.requests.is_empty())).chain(tracks)
}

/// The whole trace.
pub(crate) fn write(trace: &Trace, story: &Story) -> String {
    let mut events = vec![json!({ "ph": "M", "pid": CPUS, "name": "process_name", "args": { "name": "CPUs" } })];
    let mut domains: Vec<u16> = story.runs.iter().map(|run| run.vcpu.domain).collect();
    domains.sort_unstable();
    domains.dedup();
    events.extend(domains.iter().map(|&domain| {
        let name = format!("domain {domain}: {}", trace.name(domain));
        json!({ "ph": "M", "pid": DOMAINS + u32::from(domain), "name": "process_name", "args": { "name": name } })
    }));
    for run in &story.runs {
        events.push(span(run, CPUS, run.cpu));
        let running = Span { name: "running".to_owned(), ..run.clone() };
        events.push(span(&running, process(run.vcpu), u32::from(run.vcpu.id)));
    }
    events.extend(story.calls.iter().map(|call| span(call, process(call.vcpu), u32::from(call.vcpu.id))));
    events.extend(story.marks.iter().map(|mark| {
        let (process, thread) = mark.vcpu.map_or((CPUS, mark.cpu), |vcpu| (process(vcpu), u32::from(vcpu.id)));
        json!({
            "ph": "i", "s": "t", "pid": process, "tid": thread, "name": mark.name, "ts": micros(mark.at),
            "args": { "what": mark.detail },
        })
    }));
    events.extend(requests(story));
    for (id, arrow) in story.arrows.iter().enumerate() {
        for (phase, (at, vcpu)) in [("s", arrow.from), ("f", arrow.to)] {
            events.push(json!({
                "ph": phase, "bp": "e", "id": id, "cat": "wake", "name": "wake", "pid": process(vcpu),
                "tid": vcpu.id, "ts": micros(at),
            }));
        }
    }
    json!({ "displayTimeUnit": "ns", "traceEvents": events }).to_string()
}
