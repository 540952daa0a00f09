//! The capability for MSI (PCI 3.0, 6.8.1): its control word, and where its registers are.

use super::{DeviceMemory, config::Config, config::SHORT_SPACE};
use crate::ports::Ports;
use bitflags::bitflags;

/// The kind of the capability.
pub(super) const MSI: u8 = 0x05;
/// Offset of the control word, in the capability for MSI-X as well.
pub(super) const CONTROL: u16 = 2;
pub(super) const MSI_ADDRESS: u16 = 4;
pub(super) const MSI_ADDRESS_HIGH: u16 = 8;

bitflags! {
    /// The control word of the capability for MSI.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct MsiControl: u16 {
        const ENABLE = 1 << 0;
        /// How many messages may be sent, as a power of two.
        const COUNT = 7 << 4;
        const ADDRESS_64_BIT = 1 << 7;
        const MASKABLE = 1 << 8;
    }
}

/// How the capability for MSI is laid out, as its control word said when the function was announced. That is asked
/// once: what the device says later could lead to registers that are none of the capability's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) has_high: bool,
    pub(super) data: u16,
    pub(super) mask: Option<u16>,
    pub(super) bytes: u16,
}

impl Layout {
    pub(super) const fn of(control: MsiControl) -> Self {
        let has_high = control.contains(MsiControl::ADDRESS_64_BIT);
        let data = if has_high { 12 } else { 8 };
        if !control.contains(MsiControl::MASKABLE) {
            return Self { has_high, data, mask: None, bytes: data + 2 };
        }
        Self { has_high, data, mask: Some(data + 4), bytes: data + 12 }
    }
}

/// The capability for MSI and its layout, if it is whole.
pub(super) fn find_msi<M: Ports + DeviceMemory>(config: &Config<'_, M>) -> Option<(u8, Layout)> {
    let at = config.find_capability(MSI, Layout::of(MsiControl::empty()).bytes)?;
    let layout = Layout::of(config.msi_control(at));
    (u16::from(at) + layout.bytes <= SHORT_SPACE).then_some((at, layout))
}

impl<M: Ports + DeviceMemory> Config<'_, M> {
    pub(super) fn msi_control(&self, capability: u8) -> MsiControl {
        MsiControl::from_bits_retain(self.read16(u16::from(capability) + CONTROL))
    }
}
