//! A trace as one HTML file that needs no network: the page with the data in it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::names;
use super::story::{Span, Story};
use super::stream::{Disk, Trace, Vcpu, What};

/// The page; the data take the place of [`PLACE`].
const PAGE: &str = include_str!("page.html");
const PLACE: &str = "/*DATA*/";

/// A row of the picture.
#[derive(Default)]
struct Lane {
    label: String,
    items: Vec<Item>,
    /// Whether what it shows stands in another lane too.
    is_repeated: bool,
}

struct Item {
    start: u64,
    end: u64,
    name: String,
    detail: String,
    is_refused: bool,
    kind: &'static str,
}

impl Item {
    fn of(span: &Span, kind: &'static str) -> Self {
        let Span { start, end, name, detail, is_refused, .. } = span.clone();
        Self { start, end, name, detail, is_refused, kind }
    }
}

/// Which lane of a vcpu, or of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Cpu(u32),
    Runs(Vcpu),
    Calls(Vcpu),
    Inner(Vcpu),
    Marks(Vcpu),
    Backend(Disk),
    Medium(Disk),
}

impl Place {
    /// CPUs first, then each vcpu's lanes together.
    fn order(self) -> (u8, u32, u16, u8) {
        match self {
            Self::Cpu(cpu) => (0, cpu, 0, 0),
            Self::Runs(vcpu) => (1, vcpu.domain.into(), vcpu.id, 0),
            Self::Calls(vcpu) => (1, vcpu.domain.into(), vcpu.id, 1),
            Self::Inner(vcpu) => (1, vcpu.domain.into(), vcpu.id, 2),
            Self::Marks(vcpu) => (1, vcpu.domain.into(), vcpu.id, 3),
            // Behind the vcpus of the guest whose disk it is.
            Self::Backend(disk) => (1, disk.domain.into(), u16::MAX, 0),
            Self::Medium(disk) => (1, disk.domain.into(), u16::MAX, 1),
        }
    }

    fn label(self, trace: &Trace) -> String {
        let named = |vcpu: Vcpu| format!("{} {}", names::of_vcpu(Some(vcpu)), trace.name(vcpu.domain));
        match self {
            Self::Cpu(cpu) => format!("CPU {cpu}"),
            Self::Runs(vcpu) => named(vcpu),
            Self::Calls(vcpu) => format!("{} calls", names::of_vcpu(Some(vcpu))),
            Self::Inner(vcpu) => format!("{} in batches", names::of_vcpu(Some(vcpu))),
            Self::Marks(vcpu) => format!("{} events", names::of_vcpu(Some(vcpu))),
            Self::Backend(disk) => names::of_disk(disk),
            Self::Medium(disk) => format!("{}: disk", names::of_disk(disk)),
        }
    }
}

/// All lanes, in their order.
fn lanes(trace: &Trace, story: &Story) -> Vec<(Place, Lane)> {
    let mut lanes: BTreeMap<Place, Vec<Item>> = BTreeMap::new();
    let mut put = |place, item| lanes.entry(place).or_default().push(item);
    for run in &story.runs {
        put(Place::Cpu(run.cpu), Item::of(run, "running"));
        put(Place::Runs(run.vcpu), Item::of(run, "running"));
    }
    for call in &story.calls {
        let place = if call.is_inner { Place::Inner(call.vcpu) } else { Place::Calls(call.vcpu) };
        put(place, Item::of(call, "hypercall"));
    }
    for request in &story.requests {
        let item = |(start, end): (u64, u64), name: &str| Item {
            start,
            end,
            name: name.to_owned(),
            detail: request.detail(),
            is_refused: request.is_refused,
            kind: "block request",
        };
        put(Place::Backend(request.disk), item((request.start, request.end), request.operation));
        request.at_disk.iter().for_each(|&part| put(Place::Medium(request.disk), item(part, "at the disk")));
    }
    for mark in &story.marks {
        let (start, end, name) = (mark.at, mark.at, mark.name.to_owned());
        let item =
            Item { start, end, name, detail: mark.detail.clone(), is_refused: mark.name == "lost", kind: mark.name };
        put(mark.vcpu.map_or(Place::Cpu(mark.cpu), Place::Marks), item);
    }
    let mut lanes: Vec<_> = lanes
        .into_iter()
        .map(|(place, mut items)| {
            items.sort_by_key(|item| item.start);
            let label = place.label(trace);
            (place, Lane { label, items, is_repeated: matches!(place, Place::Cpu(_)) })
        })
        .collect();
    lanes.sort_by_key(|(place, _)| place.order());
    lanes
}

/// The whole page.
pub(crate) fn write(trace: &Trace, story: &Story) -> String {
    let lanes = lanes(trace, story);
    let mut names: Vec<&str> = lanes.iter().flat_map(|(_, lane)| &lane.items).map(|item| &*item.name).collect();
    names.sort_unstable();
    names.dedup();
    let row = |vcpu: Vcpu| lanes.iter().position(|(place, _)| *place == Place::Runs(vcpu));
    let arrows: Vec<Value> = story
        .arrows
        .iter()
        .filter_map(|arrow| Some(json!([arrow.from.0, row(arrow.from.1)?, arrow.to.0, row(arrow.to.1)?])))
        .collect();
    let shown: Vec<Value> = lanes
        .iter()
        .map(|(_, lane)| {
            let items: Vec<Value> = lane
                .items
                .iter()
                .map(|item| {
                    let name = names.binary_search(&&*item.name).unwrap_or(0);
                    json!([item.start, item.end, name, item.detail, u8::from(item.is_refused), item.kind])
                })
                .collect();
            let longest = lane.items.iter().map(|item| item.end - item.start).max().unwrap_or(0);
            json!({ "label": lane.label, "longest": longest, "is_repeated": lane.is_repeated, "items": items })
        })
        .collect();
    let lost: u64 =
        trace.events.iter().map(|event| if let What::Lost(count) = event.what { count.into() } else { 0 }).sum();
    let end = trace.events.last().map_or(0, |event| trace.nanoseconds(event.time));
    let data = json!({
        "names": names, "lanes": shown, "arrows": arrows, "end": end, "count": trace.events.len(), "lost": lost,
    });
    // Nothing in the data can end the script that holds them.
    PAGE.replacen(PLACE, &data.to_string().replace('<', "\\u003c"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_the_data_and_nothing_of_them_ends_it() {
        let trace = Trace { names: [(0, "</script>".to_owned())].into(), ..Trace::default() };
        let vcpu = Vcpu { domain: 0, id: 0 };
        let run = Span {
            start: 0,
            end: 5,
            vcpu,
            cpu: 0,
            name: "d0v0".to_owned(),
            detail: "</script>".to_owned(),
            is_inner: false,
            is_refused: false,
        };
        let page = write(&trace, &Story { runs: vec![run], ..Story::default() });
        assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
        assert!(!page.contains(PLACE));
        let data = page.split_once("application/json\">").unwrap().1.split_once("</script>").unwrap().0;
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["lanes"].as_array().unwrap().len(), 2);
        assert_eq!(data["lanes"][1]["label"], "d0v0 </script>");
    }
}
