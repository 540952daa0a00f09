//! What drivers of disks move, and which way.

/// Bytes of a sector, whatever the disk's own are.
pub const SECTOR: u64 = 512;

/// Which way data go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk into the guest's pages.
    Read,
    /// From the guest's pages to the disk.
    Write,
}
