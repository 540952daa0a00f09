//! What a virtio disk can do.

use bitflags::bitflags;

use crate::device::virtio::VirtioDevice;

bitflags! {
    /// What a disk offers, as far as it is of use here (virtio 1.1, 5.2.3).
    #[derive(Clone, Copy)]
    pub(super) struct Feature: u64 {
        /// It says how many segments a request may have.
        const SEG_MAX = 1 << 2;
        const READ_ONLY = 1 << 5;
        const FLUSH = 1 << 9;
        const DISCARD = 1 << 13;
    }
}

impl Feature {
    /// What both sides have.
    pub(super) fn of(device: &VirtioDevice) -> Self {
        Self::from_bits_retain(device.features)
    }
}
