//! One request of a guest's disk as a picture: from the event by which the frontend sends it to the upcall that brings
//! the answer, in five hops, each with its time. It is a description in the language of the book's pictures.

use anyhow::{Context, Result};
use oxen_abi::domid::DomId;

use super::names;
use super::story::{Request, Story};
use super::stream::{Event, Trace, What};

/// Moments of a request, in nanoseconds since the first event of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hops {
    /// The frontend sends an event, through this port.
    sent: (u64, u32),
    taken: u64,
    to_disk: u64,
    from_disk: u64,
    answered: u64,
    /// The backend sends an event, through this port.
    told: (u64, u32),
    /// The upcall enters the guest's kernel.
    upcall: u64,
}

impl Hops {
    /// Those of a request, where all of them were noted.
    fn of(trace: &Trace, request: &Request) -> Option<Self> {
        let guest = request.disk.domain;
        let at = |event: &Event| trace.nanoseconds(event.time);
        let sent_by = |event: &Event, by: u16| match event.what {
            What::EventSent { domain, port } if domain == by => Some((at(event), port)),
            _ => None,
        };
        let (&(to_disk, _), &(_, from_disk)) = (request.at_disk.first()?, request.at_disk.last()?);
        let earlier = trace.events.iter().filter(|event| at(event) <= request.start);
        let later = || trace.events.iter().filter(|event| at(event) >= request.end);
        let sent = earlier.filter_map(|event| sent_by(event, guest)).next_back()?;
        let told = later().find_map(|event| sent_by(event, DomId::DOM0.0))?;
        let is_upcall = |event: &&Event| matches!(event.what, What::Upcall(vcpu) if vcpu.domain == guest);
        let upcall = later().filter(|event| at(event) >= told.0).find(is_upcall).map(at)?;
        Some(Self { sent, taken: request.start, to_disk, from_disk, answered: request.end, told, upcall })
    }

    /// Whether the frontend's own event has brought it: nothing else was on the way when it was sent.
    fn is_alone(&self, story: &Story) -> bool {
        let overlaps = |other: &&Request| other.start < self.answered && other.end > self.sent.0;
        story.requests.iter().filter(overlaps).count() == 1
    }
}

/// The picture of the first request that has the disk to itself.
///
/// # Errors
/// Fails where no such request was noted whole.
pub(crate) fn picture(trace: &Trace, story: &Story) -> Result<String> {
    let whole = |request: &Request| Some((Hops::of(trace, request)?, request.clone()));
    let found = story.requests.iter().filter_map(whole).find(|(hops, _)| hops.is_alone(story));
    let (hops, request) = found.context("no request of a disk was noted from its event to its answer's upcall")?;
    Ok(describe(&hops, &request))
}

fn describe(hops: &Hops, request: &Request) -> String {
    let begin = hops.sent.0;
    let since = |moment: u64| format!("{:.1} µs", moment.saturating_sub(begin) as f64 / 1000.0);
    let length = |from: u64, to: u64| format!("{:.1} µs", to.saturating_sub(from) as f64 / 1000.0);
    let lines = [
        format!(
            "title {}, request {}: {}, {} from the frontend's event to its upcall, in five hops",
            names::of_disk(request.disk),
            request.number,
            request.operation,
            since(hops.upcall),
        ),
        "size 44 20".to_owned(),
        "area guest 0.5 0.5 12.5 19 Guest".to_owned(),
        "area dom0 15 0.5 13 19 dom0".to_owned(),
        "area hv 30 0.5 13.5 19 Hypervisor and machine".to_owned(),
        format!("box sent guest 1.5 2.5 10.5 3 frontend: event sent / through port {} / at 0", hops.sent.1),
        format!("box upcall guest 1.5 15.5 10.5 3 upcall / at {}", since(hops.upcall)),
        format!("box taken dom0 16 2.5 11 3 backend: request taken / off the ring / at {}", since(hops.taken)),
        format!("box given dom0 16 7 11 2.5 driver: given to the disk / at {}", since(hops.to_disk)),
        format!("box done dom0 16 11 11 2.5 driver: done by the disk / at {}", since(hops.from_disk)),
        format!("box answered dom0 16 15.5 11 3 backend: answered / at {}", since(hops.answered)),
        format!("box disk plain 31 8 11.5 4 the disk works / {}", length(hops.to_disk, hops.from_disk)),
        format!(
            "box told hv 31 15.5 11.5 3 event sent / through dom0's port {} / at {}",
            hops.told.1,
            since(hops.told.0)
        ),
        "arrow sent taken 1".to_owned(),
        "arrow taken given 2".to_owned(),
        "arrow given disk 3".to_owned(),
        "arrow disk done 4".to_owned(),
        "arrow done answered".to_owned(),
        "arrow answered told".to_owned(),
        "arrow answered upcall 5".to_owned(),
    ];
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::picture;
    use crate::trace::stream::{Disk, Vcpu};
    use oxen_abi::trace::{OXEN_BLOCK_ANSWERED, OXEN_BLOCK_FROM_DISK, OXEN_BLOCK_TAKEN, OXEN_BLOCK_TO_DISK};

    fn trace(events: &[(u64, What)]) -> Trace {
        let event = |(time, what): &(u64, What)| Event { time: *time, cpu: 0, vcpu: None, what: what.clone() };
        Trace { events: events.iter().map(event).collect(), khz: 1_000, ..Trace::default() }
    }

    #[test]
    fn the_first_request_that_is_alone_is_drawn_with_its_times() {
        let disk = Disk { domain: 4, number: 51712 };
        let step = |number, step| What::Request { disk, number, step, more: 0 };
        let sent = |domain, port| What::EventSent { domain, port };
        let mut events = vec![
            (0, step(1, OXEN_BLOCK_TAKEN)),
            (5, step(1, OXEN_BLOCK_ANSWERED)),
            (10, sent(4, 7)),
            (12, step(2, OXEN_BLOCK_TAKEN)),
            (20, step(2, OXEN_BLOCK_TO_DISK)),
            (50, step(2, OXEN_BLOCK_FROM_DISK)),
            (55, step(2, OXEN_BLOCK_ANSWERED)),
        ];
        let of = |events: &[(u64, What)]| {
            let trace = trace(events);
            picture(&trace, &Story::of(&trace))
        };
        assert!(of(&events).is_err(), "nobody was told yet");
        let upcall = What::Upcall(Vcpu { domain: 4, id: 0 });
        events.extend([(56, sent(0, 9)), (57, sent(0, 11)), (60, upcall)]);
        let text = of(&events).unwrap();
        assert!(text.contains("request 2: read, 50.0 µs from"), "{text}");
        assert!(text.contains("the disk works / 30.0 µs"), "{text}");
        assert!(text.contains("port 9 / at 46.0 µs"), "{text}");
        picture::parse(&text).unwrap();
    }
}
