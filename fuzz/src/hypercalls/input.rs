//! How bytes become numbers that a hostile guest would choose: frames and tables that there are, addresses that lead
//! somewhere or nowhere, edges.

use super::world::{BUFFER, World};
use crate::bytes::take;
use oxen_abi::{domctl, platform, sysctl};
use oxen_hv::addr::PAGE_SIZE;

/// Flags that an entry of a page table may have, and some that it may not.
const FLAGS: [u64; 16] = [0, 1, 3, 5, 7, 0x25, 0x27, 0x63, 0x67, 0x87, 0x107, 0x1b, 0x8000_0000_0000_0007, 0x61, 4, 2];
/// Numbers at edges, and those that interfaces know by name.
const EDGES: [u64; 16] = [
    u64::MAX,
    1 << 63,
    1 << 47,
    0xffff_8000_0000_0000,
    0xffff_8300_0000_0000,
    0xffff_8800_0000_0000,
    u32::MAX as u64,
    0x7ff0,
    0x7ff1,
    0x7ff2,
    PAGE_SIZE,
    PAGE_SIZE - 8,
    i32::MIN as u32 as u64,
    domctl::XEN_DOMCTL_INTERFACE_VERSION as u64,
    sysctl::XEN_SYSCTL_INTERFACE_VERSION as u64,
    platform::XENPF_INTERFACE_VERSION as u64,
];

/// What is left of the input.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = take(&mut self.0);
        byte
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        take(&mut self.0)
    }

    fn short(&mut self) -> u64 {
        u16::from_le_bytes(take(&mut self.0)).into()
    }

    /// A number that domain `me` might use: the upper half of its first byte says what kind, the lower half what more.
    pub(super) fn number(&mut self, world: &World, me: usize) -> u64 {
        let byte = self.byte();
        let more = u64::from(byte & 15);
        match byte >> 4 {
            0 => more,
            1 => self.byte().into(),
            2 => self.short(),
            3 => u32::from_le_bytes(take(&mut self.0)).into(),
            4 => u64::from_le_bytes(take(&mut self.0)),
            5 => self.frame(world, me, more),
            // An address in a page table: which entry, and how it is to be updated.
            6 => self.frame(world, me, more) * PAGE_SIZE + self.short() % PAGE_SIZE,
            7 => self.frame(world, me, 0) << 12 | FLAGS[more as usize],
            8 => u64::from(self.byte()) * PAGE_SIZE + more * 8,
            9 => BUFFER + more * 64,
            10 => EDGES[more as usize],
            11 => 1 << (self.byte() & 63),
            // Two halves: what structures have side by side.
            12 => self.half(world, me) | self.half(world, me) << 32,
            13 => world.last(more as usize),
            14 => more << 8 | u64::from(self.byte()),
            _ => u64::from(self.byte()).wrapping_neg(),
        }
    }

    fn half(&mut self, world: &World, me: usize) -> u64 {
        let byte = self.byte();
        let more = u64::from(byte & 15);
        let half = match byte >> 4 {
            0..=3 => more,
            4 => self.byte().into(),
            5 => self.short(),
            6 => u32::from_le_bytes(take(&mut self.0)).into(),
            7 => self.frame(world, me, more),
            8 => EDGES[more as usize],
            9 => world.last(more as usize),
            10 => 1 << (self.byte() & 31),
            11 => more << 16 | u64::from(self.byte()),
            12 => BUFFER + more * 64,
            _ => self.byte().into(),
        };
        half & u64::from(u32::MAX)
    }

    /// A frame: the domain's own, or of another, or any.
    fn frame(&mut self, world: &World, me: usize, whose: u64) -> u64 {
        let which = self.byte();
        match whose & 7 {
            0..=4 => world.frame(me, which),
            5 => world.frame(me + 1, which),
            6 => world.frame(me + 2, which),
            _ => which.into(),
        }
    }
}
