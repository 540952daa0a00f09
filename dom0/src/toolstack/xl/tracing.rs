//! Commands about the hypervisor's trace.

use alloc::string::String;

use anyhow::{Context, Result};
use oxen_abi::trace::{TRC_ALL, TRC_DOM0OP, TRC_GEN, TRC_HW, TRC_MEM, TRC_PV, TRC_SCHED};
use oxen_domu_lib::println;

use super::{Call, Outcome, usage};
use crate::toolstack::{trace, tracer::Summary};

/// Classes of events by name.
const CLASSES: [(&str, u32); 7] = [
    ("all", TRC_ALL),
    ("gen", TRC_GEN),
    ("sched", TRC_SCHED),
    ("dom0op", TRC_DOM0OP),
    ("mem", TRC_MEM),
    ("pv", TRC_PV),
    ("hw", TRC_HW),
];

/// Pages of each processor's buffer.
const PAGES: u32 = 256;

/// `trace`.
pub(super) async fn trace(mut call: Call) -> Outcome {
    let (events, pages) = (call.option("-e")?, call.option("-S")?);
    let events = events.map_or(Ok(TRC_ALL), |text| mask(&text))?;
    let pages = pages.map_or(Ok(PAGES), |text| text.parse()).map_err(|_| usage("trace"))?;
    let words: alloc::vec::Vec<&str> = call.args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["begin", disk] => trace::begin(&call.system, disk, events, pages),
        ["end"] => {
            let Summary { records, lost, bytes } = trace::end(&call.system).await?;
            println!("trace: {records} records, {lost} lost, {bytes} bytes");
            Ok(())
        }
        _ => Err(usage("trace")),
    }
}

/// Events as a number, or as names of classes.
fn mask(text: &str) -> Result<u32> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u32::from_str_radix(digits, 16).with_context(|| alloc::format!("`{text}` is no mask of events"));
    }
    text.split(',').try_fold(0, |mask, name| {
        let class = CLASSES.iter().find(|(known, _)| *known == name);
        let (_, bits) = class.with_context(|| {
            alloc::format!("there are no events `{name}`: all, gen, sched, dom0op, mem, pv, hw, or a mask 0x…")
        })?;
        Ok(mask | bits)
    })
}
