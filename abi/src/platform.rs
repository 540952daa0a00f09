//! What the control domain does to the platform: clock, sleep states, firmware, processors (`platform.h`).

use zerocopy::{Immutable, IntoBytes};

/// The one version of [`PlatformOp`] the hypervisor speaks.
pub const XENPF_INTERFACE_VERSION: u32 = 0x0300_0001;

abi_consts! {
    /// A command of `platform_op`.
    u32:
    /// Set the wall clock: [`XenpfSettime32`].
    XENPF_SETTIME32 = 17,
    /// Set a memory type range.
    XENPF_ADD_MEMTYPE = 31,
    /// Take one away.
    XENPF_DEL_MEMTYPE = 32,
    /// Ask for one: [`XenpfReadMemtype`].
    XENPF_READ_MEMTYPE = 33,
    /// Load microcode.
    XENPF_MICROCODE_UPDATE = 35,
    /// Tell of a chip set's fault.
    XENPF_PLATFORM_QUIRK = 39,
    /// A processor's make: [`XenpfPcpuVersion`].
    XENPF_GET_CPU_VERSION = 48,
    /// Call the firmware.
    XENPF_EFI_RUNTIME_CALL = 49,
    /// What the firmware found: [`XenpfFirmwareInfo`]. `ESRCH` for what it did not.
    XENPF_FIRMWARE_INFO = 50,
    /// Put the machine to sleep, or off: [`XenpfEnterAcpiSleep`]. `EOPNOTSUPP` for states that there are not.
    XENPF_ENTER_ACPI_SLEEP = 51,
    /// Tell of a new frequency.
    XENPF_CHANGE_FREQ = 52,
    /// For how long processors were idle: [`XenpfGetidletime`].
    XENPF_GETIDLETIME = 53,
    /// Tell of a processor's sleep states and frequencies, as ACPI has them: [`XenpfSetProcessorPminfo`].
    XENPF_SET_PROCESSOR_PMINFO = 54,
    /// Whether a processor is up, and its ids: [`XenpfPcpuinfo`].
    XENPF_GET_CPUINFO = 55,
    /// Take a processor up: [`XenpfCpuOl`].
    XENPF_CPU_ONLINE = 56,
    /// Take it down: [`XenpfCpuOl`].
    XENPF_CPU_OFFLINE = 57,
    /// Add a processor.
    XENPF_CPU_HOTADD = 58,
    /// Add memory.
    XENPF_MEM_HOTADD = 59,
    /// Set or get how many cores are parked: [`XenpfCoreParking`].
    XENPF_CORE_PARKING = 60,
    /// Access some registers of a processor: [`XenpfResourceOp`], with [`XenpfResourceEntry`]s. `EPERM` in an entry
    /// that is not allowed.
    XENPF_RESOURCE_OP = 61,
    /// Set the wall clock: [`XenpfSettime64`].
    XENPF_SETTIME64 = 62,
    /// A symbol of the hypervisor: [`XenpfSymdata`].
    XENPF_GET_SYMBOL = 63,
}

abi_consts! {
    /// `type` of [`XenpfFirmwareInfo`].
    u32:
    XEN_FW_DISK_INFO = 1,
    XEN_FW_DISK_MBR_SIGNATURE = 2,
    XEN_FW_VBEDDC_INFO = 3,
    XEN_FW_EFI_INFO = 4,
    XEN_FW_KBD_SHIFT_FLAGS = 5,
}

abi_consts! {
    /// `index` of [`XenpfFirmwareInfo`] where its type is [`XEN_FW_EFI_INFO`].
    u32:
    XEN_FW_EFI_VERSION = 0,
    XEN_FW_EFI_CONFIG_TABLE = 1,
    XEN_FW_EFI_VENDOR = 2,
    XEN_FW_EFI_MEM_INFO = 3,
    XEN_FW_EFI_RT_VERSION = 4,
    XEN_FW_EFI_PCI_ROM = 5,
    XEN_FW_EFI_APPLE_PROPERTIES = 6,
}

/// `flags` of [`XenpfEnterAcpiSleep`]: the values are sleep types for the extended registers.
pub const XENPF_ACPI_SLEEP_EXTENDED: u32 = 1;
/// `flags` of [`XenpfPcpuinfo`]: the processor is up.
pub const XEN_PCPU_FLAGS_ONLINE: u32 = 1;
/// `flags` of [`XenpfPcpuinfo`]: there is no such processor.
pub const XEN_PCPU_FLAGS_INVALID: u32 = 2;
/// `type` of [`XenpfCoreParking`]: set the number.
pub const XEN_CORE_PARKING_SET: u32 = 1;
/// `type` of [`XenpfCoreParking`]: get the number.
pub const XEN_CORE_PARKING_GET: u32 = 2;

abi_struct! {
    /// The argument of `platform_op` (`xen_platform_op`).
    pub struct PlatformOp [136] {
        /// `XENPF_*`: tells what `u` holds.
        pub cmd: u32,
        /// [`XENPF_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The command's structure, from the first byte on.
        pub u: [u8; 128],
    }
    /// Set the wall clock (`xenpf_settime32`).
    pub struct XenpfSettime32 [16] {
        /// Seconds since 1970 at `system_time`.
        pub secs: u32,
        /// Nanoseconds beyond.
        pub nsecs: u32,
        /// Nanoseconds since the machine began.
        pub system_time: u64,
    }
    /// Set the wall clock (`xenpf_settime64`).
    pub struct XenpfSettime64 [24] {
        /// Seconds since 1970 at `system_time`.
        pub secs: u64,
        /// Nanoseconds beyond.
        pub nsecs: u32,
        /// Must be zero.
        pub mbz: u32,
        /// Nanoseconds since the machine began.
        pub system_time: u64,
    }
    /// Ask what the firmware found (`xenpf_firmware_info`).
    pub struct XenpfFirmwareInfo [40] {
        /// `XEN_FW_*`.
        pub r#type: u32,
        /// Which one of that type.
        pub index: u32,
        /// OUT: as `type` tells.
        pub u: [u64; 4],
    }
    /// Put the machine to sleep, or off (`xenpf_enter_acpi_sleep`).
    pub struct XenpfEnterAcpiSleep [12] {
        /// Value for PM1a control, or sleep type A.
        pub val_a: u16,
        /// Value for PM1b control, or sleep type B.
        pub val_b: u16,
        /// Which state: 5 is off.
        pub sleep_state: u32,
        /// `XENPF_ACPI_SLEEP_*`.
        pub flags: u32,
    }
    /// Ask about a processor (`xenpf_pcpuinfo`).
    pub struct XenpfPcpuinfo [20] {
        /// IN: which one.
        pub xen_cpuid: u32,
        /// OUT: greatest one there is.
        pub max_present: u32,
        /// OUT: `XEN_PCPU_FLAGS_*`.
        pub flags: u32,
        /// OUT: its APIC's id.
        pub apic_id: u32,
        /// OUT: its id in ACPI's tables.
        pub acpi_id: u32,
    }
    /// Ask for a processor's make (`xenpf_pcpu_version`).
    pub struct XenpfPcpuVersion [32] {
        /// IN: which one.
        pub xen_cpuid: u32,
        /// OUT: greatest one there is.
        pub max_present: u32,
        /// OUT: as `cpuid` tells it.
        pub vendor_id: [u8; 12],
        /// OUT: family.
        pub family: u32,
        /// OUT: model.
        pub model: u32,
        /// OUT: stepping.
        pub stepping: u32,
    }
    /// Take a processor up or down (`xenpf_cpu_ol`).
    pub struct XenpfCpuOl [4] {
        /// Which one.
        pub cpuid: u32,
    }
    /// Ask how long processors were idle (`xenpf_getidletime`).
    pub struct XenpfGetidletime [32] {
        /// IN/OUT: guest address of a bitmap of processors.
        pub cpumap_bitmap: u64,
        /// IN: bits it has.
        pub cpumap_nr_cpus: u32,
        /// Padding.
        pub _pad0: u32,
        /// IN: guest address of u64 nanoseconds.
        pub idletime: u64,
        /// OUT: system time of the answer, in nanoseconds.
        pub now: u64,
    }
    /// Set or get how many cores are parked (`xenpf_core_parking`).
    pub struct XenpfCoreParking [8] {
        /// `XEN_CORE_PARKING_*`.
        pub r#type: u32,
        /// How many.
        pub idle_nums: u32,
    }
    /// Give the processors other code (`xenpf_microcode_update`).
    pub struct XenpfMicrocodeUpdate [16] {
        /// Guest address of the patches.
        pub data: u64,
        /// How many bytes they are.
        pub length: u32,
        /// Padding.
        pub _pad0: u32,
    }
    /// Ask for a symbol of the hypervisor (`xenpf_symdata`).
    pub struct XenpfSymdata [32] {
        /// IN: room for the name; OUT: its length.
        pub namelen: u32,
        /// IN: which one; OUT: the next one, the same at the end.
        pub symnum: u32,
        /// IN: guest address of the name's bytes.
        pub name: u64,
        /// OUT: the symbol's address.
        pub address: u64,
        /// OUT: its kind as `nm` tells it.
        pub r#type: u8,
        /// Padding.
        pub _pad0: [u8; 7],
    }
}

abi_consts! {
    /// `type` of [`XenpfSetProcessorPminfo`].
    u32:
    XEN_PM_CX = 0,
    XEN_PM_PX = 1,
    XEN_PM_TX = 2,
    XEN_PM_PDC = 3,
}

abi_struct! {
    /// Ask for a range of memory types (`xenpf_read_memtype`).
    pub struct XenpfReadMemtype [32] {
        /// IN: which register.
        pub reg: u32,
        /// Padding.
        pub _pad0: u32,
        /// OUT: the first frame.
        pub mfn: u64,
        /// OUT: how many frames; 0: the register is not in use.
        pub nr_mfns: u64,
        /// OUT: their type as the processor numbers it.
        pub r#type: u32,
        /// Padding.
        pub _pad1: u32,
    }
    /// Tell of a processor's states (`xenpf_set_processor_pminfo`).
    pub struct XenpfSetProcessorPminfo [112] {
        /// The processor as ACPI numbers it.
        pub id: u32,
        /// `XEN_PM_*`.
        pub r#type: u32,
        /// As `type` tells; of sleep states their number, then flags, then the guest address of their array.
        pub u: [u64; 13],
    }
    /// One access to a register (`xenpf_resource_entry`).
    #[derive(Default)]
    pub struct XenpfResourceEntry [24] {
        /// IN: 0 read, 1 write; OUT: the negative error of one that failed.
        pub cmd: u32,
        /// Must be zero.
        pub rsvd: u32,
        /// Which register.
        pub idx: u64,
        /// Its value.
        pub val: u64,
    }
    /// Access registers of a processor (`xenpf_resource_op`).
    pub struct XenpfResourceOp [16] {
        /// How many.
        pub nr_entries: u32,
        /// Which processor.
        pub cpu: u32,
        /// Guest address of [`XenpfResourceEntry`]s.
        pub entries: u64,
    }
}

impl PlatformOp {
    /// A command with its structure.
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(cmd: u32, command: &T) -> Self {
        let mut call = Self { cmd, interface_version: XENPF_INTERFACE_VERSION, u: [0; 128] };
        call.set(command);
        call
    }
}

crate::command::impl_command!(PlatformOp);
