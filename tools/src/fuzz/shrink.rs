//! The least part of a sequence that still shows a difference.

use std::fmt::Write;

use anyhow::Result;

use super::Seeds;
use super::lines::Difference;
use super::machines::Sides;

/// How often the guest is booted for one difference, at most.
const MAX_ROUNDS: u32 = 6;
/// How long the list of parts may be: what is left of a command line.
const MAX_LIST: usize = 800;

/// The least sequence.
#[derive(Debug)]
pub(super) struct Least {
    /// The calls as the guest's option `only` takes them.
    pub(super) calls: String,
    /// Each call with its answer, or its two answers.
    pub(super) text: String,
}

/// Looks for the least sequence: the last call alone or with one before it, else what is left when one after the other
/// is taken away.
///
/// # Errors
/// Fails when the machines cannot be booted.
pub(super) fn least(sides: &Sides<'_>, difference: &Difference, seeds: Seeds) -> Result<Least> {
    let last = difference.call;
    let mut calls: Vec<u64> = (0..last.min(seeds.calls)).collect();
    let mut parts: Vec<Vec<u64>> = vec![Vec::new()];
    parts.extend(calls.iter().map(|call| vec![*call]));
    let mut shown = None;
    for _ in 0..MAX_ROUNDS {
        let Some((part, text)) = first_that_differs(sides, seeds.of(difference.label), &parts, last)? else { break };
        calls = part;
        shown = Some(text);
        if calls.len() < 2 {
            break;
        }
        parts = without_one(&calls);
    }
    if shown.is_none() && calls.len() > 1 {
        for _ in 0..MAX_ROUNDS {
            let Some((part, text)) = first_that_differs(sides, seeds.of(difference.label), &without_one(&calls), last)?
            else {
                break;
            };
            calls = part;
            shown = Some(text);
        }
    }
    let text = match shown {
        Some(text) => text,
        None => first_that_differs(sides, seeds.of(difference.label), &[calls.clone()], last)?
            .map_or_else(|| "    not shown again by this sequence alone\n".to_owned(), |(_, text)| text),
    };
    Ok(Least { calls: option(&calls, last), text })
}

fn without_one(calls: &[u64]) -> Vec<Vec<u64>> {
    calls.iter().map(|left_out| calls.iter().copied().filter(|call| call != left_out).collect()).collect()
}

fn option(calls: &[u64], last: u64) -> String {
    let all: Vec<String> = calls.iter().chain([&last]).map(u64::to_string).collect();
    all.join(".")
}

/// Tries parts, each followed by the last call, in one boot; the first after which the last call's answers differ.
fn first_that_differs(
    sides: &Sides<'_>,
    seed: Seeds,
    parts: &[Vec<u64>],
    last: u64,
) -> Result<Option<(Vec<u64>, String)>> {
    let mut list = String::new();
    let mut plan = Vec::new();
    for (label, part) in (0..).zip(parts) {
        let next = option(part, last);
        if list.len() + next.len() > MAX_LIST {
            break;
        }
        let between = if list.is_empty() { "" } else { "+" };
        let _ = write!(list, "{between}{next}");
        plan.extend(part.iter().chain([&last]).map(|call| (label, *call)));
    }
    let (xen, oxen) = sides.run(&format!("fuzz={} only={list}{}", seed.first, seed.draw()))?;
    let reached = xen.reached(&oxen, plan.into_iter());
    let found = xen.differences(&oxen, reached, false).into_iter().find(|difference| difference.call == last);
    Ok(found.and_then(|difference| {
        let part = parts.get(usize::try_from(difference.label).ok()?)?.clone();
        let mut text = String::new();
        for (call, line) in xen.of(difference.label).filter(|(call, _)| *call < last) {
            let _ = writeln!(text, "    {call} {line}");
        }
        let _ = writeln!(text, "    {last} Xen  {}\n    {last} Oxen {}", difference.xen, difference.oxen);
        Some((part, text))
    }))
}
