//! Physical devices: interrupts, port privileges and PCI bookkeeping of driver domains (`physdev.h`).

use crate::domid::DomId;
use core::mem::offset_of;

abi_consts! {
    /// A command of `physdev_op`.
    u32:
    /// An interrupt is served; of old kernels, and without meaning.
    PHYSDEVOP_IRQ_UNMASK_NOTIFY = 4,
    /// Whether an interrupt needs an end, and is shared: [`PhysdevIrqStatusQuery`].
    PHYSDEVOP_IRQ_STATUS_QUERY = 5,
    /// Set the calling vcpu's I/O privilege level: [`PhysdevSetIopl`].
    PHYSDEVOP_SET_IOPL = 6,
    /// Set which ports user mode may use: [`PhysdevSetIobitmap`].
    PHYSDEVOP_SET_IOBITMAP = 7,
    /// Read a register of an I/O APIC: [`PhysdevApic`].
    PHYSDEVOP_APIC_READ = 8,
    /// Write one: [`PhysdevApic`].
    PHYSDEVOP_APIC_WRITE = 9,
    /// Ask for a vector: [`PhysdevIrq`].
    PHYSDEVOP_ALLOC_IRQ_VECTOR = 10,
    /// Give one back: [`PhysdevIrq`]. `ENOSYS`.
    PHYSDEVOP_FREE_IRQ_VECTOR = 11,
    /// An interrupt has been served: [`PhysdevEoi`].
    PHYSDEVOP_EOI = 12,
    /// Give a line or a message a pirq: [`PhysdevMapPirq`]. `ENOSPC` without a vector left.
    PHYSDEVOP_MAP_PIRQ = 13,
    /// Take it back: [`PhysdevUnmapPirq`].
    PHYSDEVOP_UNMAP_PIRQ = 14,
    /// Announce a device on segment 0: [`PhysdevManagePci`].
    PHYSDEVOP_MANAGE_PCI_ADD = 15,
    /// It is gone: [`PhysdevManagePci`].
    PHYSDEVOP_MANAGE_PCI_REMOVE = 16,
    /// Register a page whose bits say which interrupts need an end; unmasking a port then also ends its interrupt:
    /// [`PhysdevPirqEoiGmfn`]. `EBUSY` if there is one.
    PHYSDEVOP_PIRQ_EOI_GMFN_V1 = 17,
    /// Write a device's messages again, after a sleep: [`PhysdevManagePci`].
    PHYSDEVOP_RESTORE_MSI = 19,
    /// Announce a device with its kind: [`PhysdevManagePciExt`].
    PHYSDEVOP_MANAGE_PCI_ADD_EXT = 20,
    /// How a line signals: [`PhysdevSetupGsi`]. `EEXIST` if that was said.
    PHYSDEVOP_SETUP_GSI = 21,
    /// Ask for an unused pirq: [`PhysdevGetFreePirq`]. `ENOSPC`.
    PHYSDEVOP_GET_FREE_PIRQ = 23,
    /// Announce a window of PCI configuration space: [`PhysdevPciMmcfgReserved`].
    PHYSDEVOP_PCI_MMCFG_RESERVED = 24,
    /// Announce a device on any segment: [`PhysdevPciDeviceAdd`].
    PHYSDEVOP_PCI_DEVICE_ADD = 25,
    /// It is gone: [`PhysdevPciDevice`].
    PHYSDEVOP_PCI_DEVICE_REMOVE = 26,
    /// Write a device's messages again: [`PhysdevPciDevice`].
    PHYSDEVOP_RESTORE_MSI_EXT = 27,
    /// As the first version, but unmasking ends nothing: [`PhysdevPirqEoiGmfn`]. `EBUSY` if there is one.
    PHYSDEVOP_PIRQ_EOI_GMFN_V2 = 28,
    /// Tell of a debug port's reset: [`PhysdevDbgpOp`].
    PHYSDEVOP_DBGP_OP = 29,
    /// Guard a device's MSI-X table before a driver has it: [`PhysdevPciDevice`].
    PHYSDEVOP_PREPARE_MSIX = 30,
    /// End that: [`PhysdevPciDevice`].
    PHYSDEVOP_RELEASE_MSIX = 31,
}

/// The interrupt must be ended with [`PHYSDEVOP_EOI`].
pub const XENIRQSTAT_NEEDS_EOI: u32 = 1 << 0;
/// The interrupt is shared between guests.
pub const XENIRQSTAT_SHARED: u32 = 1 << 1;

/// `type` of a mapping: message-signalled.
pub const MAP_PIRQ_TYPE_MSI: i32 = 0;
/// `type` of a mapping: a global system interrupt.
pub const MAP_PIRQ_TYPE_GSI: i32 = 1;
/// `type` of a mapping: not known.
pub const MAP_PIRQ_TYPE_UNKNOWN: i32 = 2;
/// `type` of a mapping: message-signalled, `bus` holds the PCI segment too.
pub const MAP_PIRQ_TYPE_MSI_SEG: i32 = 3;
/// `type` of a mapping: several messages of one device.
pub const MAP_PIRQ_TYPE_MULTI_MSI: i32 = 4;

/// The configuration window's memory is reserved by the firmware.
pub const XEN_PCI_MMCFG_RESERVED: u32 = 1;
/// The device is an extended function.
pub const XEN_PCI_DEV_EXTFN: u32 = 1;
/// The device is a virtual function of `physfn`.
pub const XEN_PCI_DEV_VIRTFN: u32 = 2;
/// A proximity domain follows the structure.
pub const XEN_PCI_DEV_PXM: u32 = 4;

abi_flags! {
    /// `flags` of [`PhysdevPciMmcfgReserved`].
    pub struct MmcfgFlags: u32 {
        RESERVED = XEN_PCI_MMCFG_RESERVED,
    }
    /// `flags` of [`PhysdevPciDeviceAdd`].
    pub struct PciDeviceFlags: u32 {
        EXTFN = XEN_PCI_DEV_EXTFN,
        VIRTFN = XEN_PCI_DEV_VIRTFN,
        PXM = XEN_PCI_DEV_PXM,
    }
}

/// Debug port: its controller is about to be reset.
pub const PHYSDEVOP_DBGP_RESET_PREPARE: u8 = 1;
/// Debug port: its controller has been reset.
pub const PHYSDEVOP_DBGP_RESET_DONE: u8 = 2;
/// Debug port: on a bus of unknown kind.
pub const PHYSDEVOP_DBGP_BUS_UNKNOWN: u8 = 0;
/// Debug port: on PCI.
pub const PHYSDEVOP_DBGP_BUS_PCI: u8 = 1;

abi_struct! {
    /// An interrupt has been served (`physdev_eoi`).
    pub struct PhysdevEoi [4] {
        /// IN: the pirq.
        pub irq: u32,
    }
    /// Register a page whose bits tell which pirqs need an end (`physdev_pirq_eoi_gmfn`).
    pub struct PhysdevPirqEoiGmfn [8] {
        /// IN: the page.
        pub gmfn: u64,
    }
    /// Ask about an interrupt (`physdev_irq_status_query`).
    pub struct PhysdevIrqStatusQuery [8] {
        /// IN: the pirq.
        pub irq: u32,
        /// OUT: `XENIRQSTAT_*`.
        pub flags: u32,
    }
    /// Set the calling vcpu's I/O privilege level (`physdev_set_iopl`).
    pub struct PhysdevSetIopl [4] {
        /// IN: 0 to 3.
        pub iopl: u32,
    }
    /// Set the calling vcpu's port bitmap (`physdev_set_iobitmap`).
    pub struct PhysdevSetIobitmap [16] {
        /// IN: guest address of the bitmap; a clear bit allows user mode a port.
        pub bitmap: u64,
        /// IN: ports covered.
        pub nr_ports: u32,
        /// Padding.
        pub _pad0: u32,
    }
    /// Read or write a register of an I/O APIC (`physdev_apic`).
    pub struct PhysdevApic [16] {
        /// IN: its physical address.
        pub apic_physbase: u64,
        /// IN: the register.
        pub reg: u32,
        /// IN or OUT: its value.
        pub value: u32,
    }
    /// Ask for or give back a vector (`physdev_irq`).
    pub struct PhysdevIrq [8] {
        /// IN: the interrupt.
        pub irq: u32,
        /// IN or OUT: its vector.
        pub vector: u32,
    }
    /// Give a machine interrupt a pirq number (`physdev_map_pirq`).
    pub struct PhysdevMapPirq [40] {
        /// IN: for whom.
        pub domid: DomId,
        /// Padding.
        pub _pad0: u16,
        /// IN: `MAP_PIRQ_TYPE_*`.
        pub r#type: i32,
        /// IN: the interrupt; -1 for any.
        pub index: i32,
        /// IN or OUT: the pirq; negative for any.
        pub pirq: i32,
        /// IN: PCI bus, with the segment in the high half for some types.
        pub bus: i32,
        /// IN: PCI device and function.
        pub devfn: i32,
        /// IN or OUT: entry of the MSI-X table, or how many messages.
        pub entry_nr: i32,
        /// Padding.
        pub _pad1: u32,
        /// IN: physical address of the MSI-X table.
        pub table_base: u64,
    }
}
const _: () = assert!(offset_of!(PhysdevMapPirq, table_base) == 32);

abi_struct! {
    /// Take a pirq back (`physdev_unmap_pirq`).
    pub struct PhysdevUnmapPirq [8] {
        /// IN: whose.
        pub domid: DomId,
        /// Padding.
        pub _pad0: u16,
        /// IN: the pirq.
        pub pirq: i32,
    }
    /// Name a device on segment 0 (`physdev_manage_pci`, `physdev_restore_msi`).
    pub struct PhysdevManagePci [2] {
        /// IN: the bus.
        pub bus: u8,
        /// IN: device and function.
        pub devfn: u8,
    }
    /// Announce a device on segment 0 with its kind (`physdev_manage_pci_ext`).
    pub struct PhysdevManagePciExt [16] {
        /// IN: the bus.
        pub bus: u8,
        /// IN: device and function.
        pub devfn: u8,
        /// Padding.
        pub _pad0: u16,
        /// IN: whether it is an extended function.
        pub is_extfn: u32,
        /// IN: whether it is a virtual function.
        pub is_virtfn: u32,
        /// IN: of which physical function.
        pub physfn: PhysdevManagePci,
        /// Padding.
        pub _pad1: u16,
    }
    /// Set up a global system interrupt (`physdev_setup_gsi`).
    pub struct PhysdevSetupGsi [8] {
        /// IN: the interrupt.
        pub gsi: i32,
        /// IN: 0 edge, 1 level.
        pub triggering: u8,
        /// IN: 0 active high, 1 active low.
        pub polarity: u8,
        /// Padding.
        pub _pad0: u16,
    }
    /// Ask for an unused pirq (`physdev_get_free_pirq`).
    pub struct PhysdevGetFreePirq [8] {
        /// IN: `MAP_PIRQ_TYPE_GSI` or `MAP_PIRQ_TYPE_MSI`.
        pub r#type: i32,
        /// OUT: the pirq.
        pub pirq: u32,
    }
    /// Announce a PCI configuration window (`physdev_pci_mmcfg_reserved`).
    pub struct PhysdevPciMmcfgReserved [16] {
        /// IN: physical address.
        pub address: u64,
        /// IN: PCI segment.
        pub segment: u16,
        /// IN: first bus.
        pub start_bus: u8,
        /// IN: last bus.
        pub end_bus: u8,
        /// IN: `XEN_PCI_MMCFG_*`.
        pub flags: u32,
    }
    /// Announce a device; a proximity domain (u32) may follow (`physdev_pci_device_add`).
    pub struct PhysdevPciDeviceAdd [12] {
        /// IN: PCI segment.
        pub seg: u16,
        /// IN: the bus.
        pub bus: u8,
        /// IN: device and function.
        pub devfn: u8,
        /// IN: `XEN_PCI_DEV_*`.
        pub flags: u32,
        /// IN: physical function of a virtual one.
        pub physfn: PhysdevManagePci,
        /// Padding.
        pub _pad0: u16,
    }
    /// Name a device (`physdev_pci_device`).
    pub struct PhysdevPciDevice [4] {
        /// IN: PCI segment.
        pub seg: u16,
        /// IN: the bus.
        pub bus: u8,
        /// IN: device and function.
        pub devfn: u8,
    }
    /// Tell of a debug port's reset (`physdev_dbgp_op`).
    pub struct PhysdevDbgpOp [6] {
        /// IN: `PHYSDEVOP_DBGP_RESET_*`.
        pub op: u8,
        /// IN: `PHYSDEVOP_DBGP_BUS_*`.
        pub bus: u8,
        /// IN: the controller.
        pub pci: PhysdevPciDevice,
    }
}
