//! The NUMA nodes that a toolstack lets a guest see (`XEN_DOMCTL_setvnumainfo`): kept for the guest to read, and
//! nothing else. Where its memory is and where it runs is decided without it.

use crate::heap::{self, Reserve};
use alloc::boxed::Box;
use oxen_abi::{errno::Errno, memory::Vmemrange};
use zerocopy::FromZeros;

/// What a table may take, as in Xen: a page.
const MAX_BYTES: usize = 4096;

/// A guest's nodes.
#[derive(Debug)]
pub struct Vnuma {
    /// How many there are.
    pub nodes: u32,
    /// How far each is from each, row by row.
    pub distances: Box<[u32]>,
    /// What memory is where.
    pub ranges: Box<[Vmemrange]>,
    /// On which node each vcpu is.
    pub vcpus: Box<[u32]>,
}

impl Vnuma {
    /// Room for so many nodes, ranges of memory, and vcpus.
    ///
    /// # Errors
    /// `Inval` for none or too many nodes or too many ranges, `NoMem` without memory for them.
    pub fn empty(machine: &impl Reserve, nodes: u32, ranges: u32, vcpus: u32) -> Result<Self, Errno> {
        let pairs = (nodes as usize).saturating_mul(nodes as usize);
        if pairs == 0 || pairs > MAX_BYTES / size_of::<u32>() || ranges as usize > MAX_BYTES / size_of::<Vmemrange>() {
            return Err(Errno::Inval);
        }
        Ok(Self {
            nodes,
            distances: heap::row(machine, pairs, |_| 0)?,
            ranges: heap::row(machine, ranges as usize, |_| Vmemrange::new_zeroed())?,
            vcpus: heap::row(machine, vcpus as usize, |_| 0)?,
        })
    }

    /// Whether each vcpu is on a node that there is.
    #[must_use]
    pub fn places_every_vcpu(&self) -> bool {
        self.vcpus.iter().all(|&node| node < self.nodes)
    }

    /// Whether no range says more of itself than where it is.
    #[must_use]
    pub fn has_plain_ranges(&self) -> bool {
        self.ranges.iter().all(|range| range.flags == 0)
    }
}
