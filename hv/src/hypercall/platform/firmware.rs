//! What the firmware told: disks and displays nothing, UEFI its tables. Its own services are not called.

use crate::hypercall::number::bytes;
use crate::{caller::Caller, machine::Machine, mem::guest_ptr::GuestPtr};
use oxen_abi::{
    errno::Errno,
    platform::{
        XEN_FW_DISK_INFO, XEN_FW_DISK_MBR_SIGNATURE, XEN_FW_EFI_APPLE_PROPERTIES, XEN_FW_EFI_CONFIG_TABLE,
        XEN_FW_EFI_INFO, XEN_FW_EFI_MEM_INFO, XEN_FW_EFI_PCI_ROM, XEN_FW_EFI_RT_VERSION, XEN_FW_EFI_VENDOR,
        XEN_FW_EFI_VERSION, XEN_FW_KBD_SHIFT_FLAGS, XEN_FW_VBEDDC_INFO, XenpfFirmwareInfo,
    },
};

impl<M: Machine> Caller<'_, M> {
    /// Answers `XENPF_firmware_info`.
    ///
    /// # Errors
    /// `Srch` for what there is none of, `NoSys` for UEFI on other firmware, `Inval` for what cannot be.
    pub(super) fn get_firmware_info(&self, asked: &XenpfFirmwareInfo) -> Result<XenpfFirmwareInfo, Errno> {
        let u = match asked.r#type {
            XEN_FW_KBD_SHIFT_FLAGS if asked.index == 0 => [0; 4],
            XEN_FW_DISK_INFO | XEN_FW_DISK_MBR_SIGNATURE | XEN_FW_VBEDDC_INFO | XEN_FW_KBD_SHIFT_FLAGS => {
                return Err(Errno::Srch);
            }
            XEN_FW_EFI_INFO => self.get_efi_info(asked)?,
            _ => return Err(Errno::Inval),
        };
        Ok(XenpfFirmwareInfo { u, ..*asked })
    }

    /// What UEFI firmware left, in the shape of `xenpf_efi_info`. Its runtime services are nobody's here.
    fn get_efi_info(&self, asked: &XenpfFirmwareInfo) -> Result<[u64; 4], Errno> {
        let efi = self.hv.efi.as_ref().ok_or(Errno::NoSys)?;
        let [first, second, ..] = asked.u;
        match asked.index {
            XEN_FW_EFI_VERSION => Ok([efi.version.into(), 0, 0, 0]),
            XEN_FW_EFI_CONFIG_TABLE => Ok([efi.tables, efi.table_count.into(), 0, 0]),
            XEN_FW_EFI_VENDOR => {
                // The room is told in bytes; what does not fit is cut.
                const UNIT: u64 = bytes::<u16>();
                let room = (first >> 32) / UNIT;
                let name = GuestPtr::<u16>::new(second, room)?;
                let fits = efi.vendor.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                name.write_many(self.hv.machine(), 0, efi.vendor.get(..fits).unwrap_or_default())?;
                Ok([u64::from(efi.vendor_revision) | first & !u64::from(u32::MAX), second, 0, 0])
            }
            XEN_FW_EFI_MEM_INFO => {
                let (found, size) = efi.memory.find(first, second).ok_or(Errno::Srch)?;
                Ok([first, size, found.attributes, found.kind.into()])
            }
            XEN_FW_EFI_RT_VERSION => Err(Errno::OpNotSupp),
            XEN_FW_EFI_PCI_ROM => Err(Errno::Srch),
            XEN_FW_EFI_APPLE_PROPERTIES => Err(Errno::NoData),
            _ => Err(Errno::Inval),
        }
    }
}
