//! What the control domain may write of configuration space.

use super::{
    Address, Pci,
    config::SHORT_SPACE,
    message::{Entry, MSIX_BYTES},
    msi::{CONTROL, MsiControl},
};

/// Bytes of the header, where no capability is.
const HEADER_BYTES: u16 = 0x40;

impl Pci {
    /// What comes of the control domain's write to a register: the value to write, or nothing.
    ///
    /// Of the capability for MSI-X it may write the control word, as a whole: it says whether MSI-X is on, and masks
    /// all. Of that for MSI, while the hypervisor has written a message there, the control word and the mask, as a
    /// whole each: but for how many messages there may be, and never what the hypervisor masks.
    #[inline(never)]
    pub(super) fn judge(&self, at: Address, register: u16, bytes: u8, value: u32) -> Option<u32> {
        if register + u16::from(bytes) <= HEADER_BYTES || register >= SHORT_SPACE {
            return Some(value);
        }
        let Some(function) = self.function(at) else { return Some(value) };
        let is_in = |base: u8, length: u16| {
            base != 0 && register < u16::from(base) + length && u16::from(base) < register + u16::from(bytes)
        };
        if is_in(function.msix, MSIX_BYTES) {
            return (register == u16::from(function.msix) + CONTROL && bytes == 2).then_some(value);
        }
        let Some((_, assigned)) = self.uses_of(at).find(|(_, assigned)| assigned.entry == Entry::Msi) else {
            return Some(value);
        };
        let layout = function.layout;
        if !is_in(function.msi, layout.bytes) {
            return Some(value);
        }
        match (register.wrapping_sub(function.msi.into()), bytes) {
            (CONTROL, 2) => Some(value & !u32::from(MsiControl::COUNT.bits())),
            (offset, 4) if Some(offset) == layout.mask => Some(value | !1 | u32::from(assigned.is_masked)),
            _ => None,
        }
    }
}
