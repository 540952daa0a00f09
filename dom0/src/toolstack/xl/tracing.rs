//! Commands about the hypervisor's trace.

use alloc::string::String;

use oxen_abi::trace::TRC_ALL;
use oxen_domu_lib::println;

use super::{Call, Outcome, usage};
use crate::toolstack::{trace, tracer::Summary};

/// `trace`.
pub(super) async fn trace(mut call: Call) -> Outcome {
    let (events, pages) = (call.option("-e")?, call.option("-S")?);
    let events = events.map_or(Ok(TRC_ALL), |text| trace::events(&text))?;
    let pages = pages.map_or(Ok(trace::PAGES), |text| text.parse()).map_err(|_| usage("trace"))?;
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
