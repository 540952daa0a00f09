//! A trace as text: a line an event, for reading and for `grep`.

use std::fmt::Write as _;

use super::names;
use super::stream::{Trace, What};

/// What an event says, in a few words.
pub(crate) fn of(what: &What, trace: &Trace) -> String {
    let vcpu = |vcpu| names::of_vcpu(Some(vcpu));
    let state = |state: u8| names::RUNSTATES.get(usize::from(state)).copied().unwrap_or("?");
    match what {
        What::Hypercall { number, args, in_batch } => {
            format!("{}{}", if *in_batch { "  . " } else { "" }, names::of_call(*number, args))
        }
        What::Answer { number, value, in_batch } => {
            let indent = if *in_batch { "  . " } else { "" };
            format!("{indent}{} = {}", names::of_hypercall(*number), names::of_answer(*value))
        }
        What::Trap { rip, vector, error } => {
            let error = error.map_or_else(String::new, |error| format!(", error code {error:#x}"));
            format!("{} at {rip:#x}{error}, to the guest", names::of_exception(*vector))
        }
        What::PageFault { rip, address, error } => {
            format!("#PF at {rip:#x} for {address:#x}, error code {error:#x}, to the guest")
        }
        What::Emulated { rip, is_cpuid: false } => format!("privileged instruction done at {rip:#x}"),
        What::Emulated { rip, is_cpuid: true } => format!("cpuid answered at {rip:#x}"),
        What::TableWrite { rip, address, entry } => {
            format!("page table write done at {rip:#x}: {entry:#x} to {address:#x}")
        }
        What::Upcall(who) => format!("upcall of {}", vcpu(*who)),
        What::EventSent { domain, port } => format!("event sent by d{domain} through port {port}"),
        What::Runstate { vcpu: who, before, now } => {
            format!("{} is {} (was {})", vcpu(*who), state(*now), state(*before))
        }
        What::GoesOn(who) => format!("{} goes on", vcpu(*who)),
        What::Wake(who) => format!("{} is woken", vcpu(*who)),
        What::Block(who) => format!("{} waits for an event", vcpu(*who)),
        What::Made(domain) => format!("domain {domain} is made"),
        What::Ended(domain) => format!("domain {domain} ({}) ends", trace.name(*domain)),
        What::ShutDown { domain, reason } => {
            format!("domain {domain} ({}) shuts down: {}", trace.name(*domain), names::of_reason(*reason))
        }
        What::GrantMapped(domain) => format!("grants of d{domain} are mapped"),
        What::GrantUnmapped(domain) => format!("grants of d{domain} are unmapped"),
        What::Transferred(domain) => format!("a page goes to d{domain}"),
        What::Request { disk, number, step, more } => {
            format!("{}, request {number}: {}", names::of_disk(*disk), names::of_block_step(*step, *more))
        }
        What::Lost(count) => format!("{count} RECORDS ARE LOST: the ring was full"),
        What::Other { event, words } => format!("event {event:#x} {words:x?}"),
    }
}

/// The whole trace: seconds since its first event, CPU, vcpu, what has happened.
pub(crate) fn write(trace: &Trace) -> String {
    let mut text = String::new();
    for event in &trace.events {
        let time = trace.nanoseconds(event.time);
        let (seconds, rest) = (time / 1_000_000_000, time % 1_000_000_000);
        let (cpu, who, what) = (event.cpu, names::of_vcpu(event.vcpu), of(&event.what, trace));
        let _ = writeln!(text, "{seconds:>4}.{rest:09} cpu{cpu} {who:<6} {what}");
    }
    text
}
