//! Commands about memory.

use alloc::{format, string::String};

use oxen_domu_lib::println;

use super::{Call, Outcome, guest, usage};
use crate::balloon::controller;

/// A size: MiB, or with a unit: k, m, g. In KiB.
fn kib(text: &str) -> Result<u64, String> {
    let unit = text.trim_end_matches(['b', 'B']);
    let digits = unit.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    let scale = match unit.get(digits.len()..).unwrap_or_default() {
        "" | "m" | "M" => 1 << 10,
        "k" | "K" => 1,
        "g" | "G" => 1 << 20,
        _ => 0,
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|n| n.checked_mul(scale))
        .filter(|&n| n != 0)
        .ok_or_else(|| format!("`{text}` is no amount of memory; 64 or 64m are 64 MiB"))
}

/// `mem-set`.
pub async fn set(call: Call) -> Outcome {
    let (system, [name, size]) = call.exactly("mem-set")?;
    let size = kib(&size)?;
    if name == "0" || name == "Domain-0" {
        return Err("dom0's memory is fixed by dom0_mem= on the hypervisor's command line".into());
    }
    let guest = guest(&system, &name)?;
    controller::set_target(&system, &guest, size)
}

/// `mem-max`.
pub async fn max(call: Call) -> Outcome {
    let (system, [name, size]) = call.exactly("mem-max")?;
    let guest = guest(&system, &name)?;
    controller::set_maximum(&system, &guest, kib(&size)?)
}

/// `balloon explain`.
pub async fn balloon(mut call: Call) -> Outcome {
    if !call.flag("explain") {
        return Err(usage("balloon"));
    }
    let (system, guest) = call.guest("balloon")?;
    println!("{}", controller::explain(&system, &guest)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_mib_unless_they_say() {
        assert_eq!((kib("64"), kib("64m"), kib("512k"), kib("1G")), (Ok(65536), Ok(65536), Ok(512), Ok(1 << 20)));
        for bad in ["", "x", "0", "-3", "9999999999999999999g", "1t"] {
            assert!(kib(bad).is_err(), "{bad}");
        }
    }
}
