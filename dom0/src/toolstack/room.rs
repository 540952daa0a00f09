//! dom0's memory: what is free, what is promised to guests, and what that leaves for one more or for unpacking a
//! kernel.

use anyhow::{Error, Result, anyhow, ensure};
use oxen_domu_lib::memory::{self, PAGE_SIZE};

use crate::purse::{Admission, PER_GUEST, Purses};

/// Bytes that stay free for dom0 itself: its tasks, commands, and what a request takes while it is carried out.
const RESERVE: usize = 8 << 20;

/// Bytes of memory that are not in use: pages, and what the heap has claimed and not given out.
fn free() -> usize {
    let (taken, claimed) = memory::heap_usage();
    memory::pool::free_pages() * PAGE_SIZE + claimed.saturating_sub(taken)
}

/// Bytes that are free for guests and kernels, where `network` bytes belong to the bridge.
fn usable(network: usize) -> usize {
    free().saturating_sub(RESERVE + network)
}

/// Promises one more guest its share of dom0's memory.
///
/// # Errors
/// dom0 has too little memory for that; what it has and what it would need is said.
pub fn admit(purses: &Purses, network: usize) -> Result<Admission> {
    let free = usable(network);
    purses.admit(free).map_err(|_| refusal(free, purses.promised()))
}

/// Bytes that are promised to nobody: for unpacking a kernel, for disks in memory.
pub fn spare(purses: &Purses, network: usize) -> usize {
    usable(network).saturating_sub(purses.promised())
}

/// Judges whether `bytes` of these may be taken for `what`.
///
/// # Errors
/// They are more than `spare`; what is there and what would be needed is said.
pub fn allow(what: &str, bytes: usize, spare: usize) -> Result<()> {
    let [needed, free] = [bytes.div_ceil(1 << 10), spare >> 10];
    ensure!(
        bytes <= spare,
        "{what}: dom0 has too little memory: {needed} KiB are needed, {free} KiB are promised to nobody"
    );
    Ok(())
}

fn refusal(free: usize, promised: usize) -> Error {
    let [free, promised, share] = [free, promised, PER_GUEST].map(|bytes| bytes.div_ceil(1 << 10));
    anyhow!(
        "dom0 has too little memory for one more guest: a guest may take {share} KiB of it, and of the {free} KiB that \
         are free {promised} KiB are promised to others; end a guest, or give dom0 more (dom0_mem= on the hypervisor's \
         command line)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_taken_by_nobody_else() {
        assert!(allow("disk xvdb", 2 << 20, 2 << 20).is_ok());
        let said = allow("disk xvdb", 3 << 20, 2 << 20).unwrap_err().to_string();
        assert!(said.contains("disk xvdb: ") && said.contains("3072 KiB are needed, 2048 KiB"), "{said}");
    }

    #[test]
    fn a_refusal_names_what_is_there_and_what_is_missing() {
        let said = refusal(3 << 20, 2 << 20).to_string();
        assert!(
            said.contains("of the 3072 KiB") && said.contains("2048 KiB are promised") && said.contains("dom0_mem=")
        );
    }
}
