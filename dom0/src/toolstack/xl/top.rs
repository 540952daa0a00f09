//! `top`: one table of what domains use, with xentop's columns.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use anyhow::Context;
use oxen_abi::domctl::DomctlGetdomaininfo;
use oxen_abi::domid::DomId;
use oxen_domu_lib::{control, println, time};

use super::show::{domains, seconds, state};
use super::{Call, Outcome, usage};
use crate::errno::Named;
use crate::toolstack::system::System;

/// Columns and their widths, xentop's own.
const COLUMNS: [(&str, usize); 18] = [
    ("NAME", 10),
    ("STATE", 6),
    ("CPU(sec)", 10),
    ("CPU(%)", 6),
    ("MEM(k)", 10),
    ("MEM(%)", 6),
    ("MAXMEM(k)", 10),
    ("MAXMEM(%)", 9),
    ("VCPUS", 5),
    ("NETS", 4),
    ("NETTX(k)", 8),
    ("NETRX(k)", 8),
    ("VBDS", 4),
    ("VBD_OO", 8),
    ("VBD_RD", 8),
    ("VBD_WR", 8),
    ("VBD_RSECT", 10),
    ("VBD_WSECT", 10),
];

/// What stands for "no limit" as a number of pages.
const NO_LIMIT: u64 = 0xffff_ffff;

/// `top`: how much of the processor each domain takes is measured over a second, or over those that are given.
pub(super) async fn top(mut call: Call) -> Outcome {
    let delay = call.option("-d")?.map_or(Some(1), |text| text.parse().ok().filter(|&seconds| seconds > 0));
    let (Some(delay), true) = (delay, call.args.is_empty()) else { return Err(usage("top")) };
    let machine = control::physical_info().map_err(Named).context("the hypervisor says nothing")?;
    let begun = time::now();
    let before: BTreeMap<DomId, u64> = domains()?.iter().map(|info| (info.domain, info.cpu_time)).collect();
    time::sleep(time::SECOND.saturating_mul(delay)).await;
    let span = time::now().saturating_sub(begun).max(1);
    let total = machine.total_pages * 4;
    println!("{}", row(&COLUMNS.map(|(name, _)| name.into())));
    for info in domains()? {
        let used = before.get(&info.domain).map_or(0, |earlier| info.cpu_time.saturating_sub(*earlier));
        println!("{}", row(&cells(&call.system, &info, permille(used, span), total)));
    }
    Ok(())
}

/// How many thousandths of `whole` a part is.
fn permille(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 1000 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

/// Thousandths as percents with one digit behind the point.
fn percent(permille: u64) -> String {
    format!("{}.{}", permille / 10, permille % 10)
}

fn row(cells: &[String; 18]) -> String {
    let widths = COLUMNS.map(|(_, width)| width);
    let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
    cells.join(" ")
}

fn cells(system: &System, info: &DomctlGetdomaininfo, cpu: u64, total: u64) -> [String; 18] {
    let has = info.tot_pages * 4;
    let most = Some(info.max_pages).filter(|pages| *pages < NO_LIMIT).map(|pages| pages * 4);
    let guest = system.guests.alive().into_iter().find(|guest| guest.domain.get() == info.domain);
    let disks = guest.as_ref().map(|guest| guest.disks.borrow().clone()).unwrap_or_default();
    let sum = |count: fn(&crate::backend::block::session::Counts) -> u64| {
        format!("{}", disks.iter().map(|disk| count(&disk.driver.counts)).sum::<u64>())
    };
    let vifs = guest.as_ref().map(|guest| guest.vifs.borrow().clone()).unwrap_or_default();
    let traffic = |bytes: fn(&crate::bridge::Counts) -> u64| {
        format!("{}", vifs.iter().map(|vif| bytes(vif.driver.port.counts())).sum::<u64>() >> 10)
    };
    [
        system.name_of(info.domain.0),
        state(info),
        seconds(info.cpu_time),
        percent(cpu),
        format!("{has}"),
        percent(permille(has, total)),
        most.map_or_else(|| "no limit".into(), |kib| format!("{kib}")),
        most.map_or_else(|| "n/a".into(), |kib| percent(permille(kib, total))),
        format!("{}", info.nr_online_vcpus),
        format!("{}", vifs.len()),
        traffic(|counts| counts.sent_bytes.get()),
        traffic(|counts| counts.received_bytes.get()),
        format!("{}", disks.len()),
        "0".into(),
        sum(|counts| counts.reads.get()),
        sum(|counts| counts.writes.get()),
        sum(|counts| counts.read.get() / 512),
        sum(|counts| counts.written.get() / 512),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_down_to_a_tenth_of_a_percent() {
        assert_eq!((percent(permille(1, 3)), percent(permille(5, 5))), ("33.3".into(), "100.0".into()));
        assert_eq!(permille(u64::MAX, 0), u64::MAX);
        assert!(row(&COLUMNS.map(|(name, _)| name.into())).starts_with("      NAME  STATE   CPU(sec) CPU(%)"));
    }
}
