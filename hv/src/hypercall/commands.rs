//! The commands of hypercalls that have several, by the numbers of Xen's headers.
//!
//! Whether an unknown number is refused first or last is the hypercall's to say: guests see which error comes first.

use oxen_abi::{
    callback, console_io, errno::Errno, event_channel, grant_table, hypfs, memory, physdev, sched, segments, vcpu,
    version, vm_assist,
};

/// An enumeration of commands, and which number is which.
macro_rules! commands {
    ($($(#[$meta:meta])* $name:ident else $unknown:ident { $($command:ident = $number:expr,)* })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub(super) enum $name { $($command = $number,)* }

        impl TryFrom<u32> for $name {
            type Error = Errno;

            #[inline(always)]
            fn try_from(number: u32) -> Result<Self, Errno> {
                $(if number == $number { return Ok(Self::$command); })*
                Err(Errno::$unknown)
            }
        }

        impl From<$name> for u32 {
            #[inline(always)]
            fn from(command: $name) -> Self {
                match command { $($name::$command => $number,)* }
            }
        }
    )* };
}

commands! {
    /// Of `callback_op` (`callback.h`).
    CallbackCommand else NoSys {
        Register = callback::CALLBACKOP_REGISTER,
        Unregister = callback::CALLBACKOP_UNREGISTER,
    }

    /// Of `console_io` (`xen.h`).
    ConsoleCommand else NoSys {
        Write = console_io::CONSOLEIO_WRITE,
        Read = console_io::CONSOLEIO_READ,
    }

    /// Of `event_channel_op` (`event_channel.h`).
    EventCommand else NoSys {
        BindInterdomain = event_channel::EVTCHNOP_BIND_INTERDOMAIN,
        BindVirq = event_channel::EVTCHNOP_BIND_VIRQ,
        BindPirq = event_channel::EVTCHNOP_BIND_PIRQ,
        Close = event_channel::EVTCHNOP_CLOSE,
        Send = event_channel::EVTCHNOP_SEND,
        Status = event_channel::EVTCHNOP_STATUS,
        AllocUnbound = event_channel::EVTCHNOP_ALLOC_UNBOUND,
        BindIpi = event_channel::EVTCHNOP_BIND_IPI,
        BindVcpu = event_channel::EVTCHNOP_BIND_VCPU,
        Unmask = event_channel::EVTCHNOP_UNMASK,
        Reset = event_channel::EVTCHNOP_RESET,
        InitControl = event_channel::EVTCHNOP_INIT_CONTROL,
        ExpandArray = event_channel::EVTCHNOP_EXPAND_ARRAY,
        SetPriority = event_channel::EVTCHNOP_SET_PRIORITY,
        ResetGoOn = event_channel::EVTCHNOP_RESET_CONT,
    }

    /// Of `grant_table_op` (`grant_table.h`).
    GrantCommand else NoSys {
        MapGrantRef = grant_table::GNTTABOP_MAP_GRANT_REF,
        UnmapGrantRef = grant_table::GNTTABOP_UNMAP_GRANT_REF,
        SetupTable = grant_table::GNTTABOP_SETUP_TABLE,
        Transfer = grant_table::GNTTABOP_TRANSFER,
        Copy = grant_table::GNTTABOP_COPY,
        QuerySize = grant_table::GNTTABOP_QUERY_SIZE,
        UnmapAndReplace = grant_table::GNTTABOP_UNMAP_AND_REPLACE,
        SetVersion = grant_table::GNTTABOP_SET_VERSION,
        GetStatusFrames = grant_table::GNTTABOP_GET_STATUS_FRAMES,
        GetVersion = grant_table::GNTTABOP_GET_VERSION,
        SwapGrantRef = grant_table::GNTTABOP_SWAP_GRANT_REF,
        CacheFlush = grant_table::GNTTABOP_CACHE_FLUSH,
    }

    /// Of `hypfs_op` (`hypfs.h`).
    HypfsCommand else OpNotSupp {
        GetVersion = hypfs::XEN_HYPFS_OP_GET_VERSION,
        Read = hypfs::XEN_HYPFS_OP_READ,
        WriteContents = hypfs::XEN_HYPFS_OP_WRITE_CONTENTS,
    }

    /// Of `kexec_op` (`kexec.h`).
    KexecCommand else NoSys {
        Exec = 0,
        GetRange = 3,
        Load = 4,
        Unload = 5,
        Status = 6,
    }

    /// Of `memory_op` (`memory.h`).
    MemoryCommand else NoSys {
        IncreaseReservation = memory::XENMEM_INCREASE_RESERVATION,
        DecreaseReservation = memory::XENMEM_DECREASE_RESERVATION,
        MaximumRamPage = memory::XENMEM_MAXIMUM_RAM_PAGE,
        CurrentReservation = memory::XENMEM_CURRENT_RESERVATION,
        MaximumReservation = memory::XENMEM_MAXIMUM_RESERVATION,
        MachphysMfnList = memory::XENMEM_MACHPHYS_MFN_LIST,
        PopulatePhysmap = memory::XENMEM_POPULATE_PHYSMAP,
        AddToPhysmap = memory::XENMEM_ADD_TO_PHYSMAP,
        MemoryMap = memory::XENMEM_MEMORY_MAP,
        MachineMemoryMap = memory::XENMEM_MACHINE_MEMORY_MAP,
        Exchange = memory::XENMEM_EXCHANGE,
        MachphysMapping = memory::XENMEM_MACHPHYS_MAPPING,
        SetMemoryMap = memory::XENMEM_SET_MEMORY_MAP,
        MaximumGpfn = memory::XENMEM_MAXIMUM_GPFN,
        RemoveFromPhysmap = memory::XENMEM_REMOVE_FROM_PHYSMAP,
        SetPodTarget = memory::XENMEM_SET_POD_TARGET,
        GetPodTarget = memory::XENMEM_GET_POD_TARGET,
        GetSharingFreedPages = memory::XENMEM_GET_SHARING_FREED_PAGES,
        GetSharingSharedPages = memory::XENMEM_GET_SHARING_SHARED_PAGES,
        AccessOp = memory::XENMEM_ACCESS_OP,
        AddToPhysmapBatch = memory::XENMEM_ADD_TO_PHYSMAP_BATCH,
        ClaimPages = memory::XENMEM_CLAIM_PAGES,
        MachphysCompatMfnList = memory::XENMEM_MACHPHYS_COMPAT_MFN_LIST,
        GetVnumainfo = memory::XENMEM_GET_VNUMAINFO,
        ReservedDeviceMemoryMap = memory::XENMEM_RESERVED_DEVICE_MEMORY_MAP,
        AcquireResource = memory::XENMEM_ACQUIRE_RESOURCE,
    }

    /// Of `nmi_op` (`nmi.h`).
    NmiCommand else NoSys {
        RegisterCallback = 0,
        UnregisterCallback = 1,
    }

    /// Of `physdev_op` (`physdev.h`).
    PhysdevCommand else NoSys {
        IrqUnmaskNotify = physdev::PHYSDEVOP_IRQ_UNMASK_NOTIFY,
        IrqStatusQuery = physdev::PHYSDEVOP_IRQ_STATUS_QUERY,
        SetIopl = physdev::PHYSDEVOP_SET_IOPL,
        SetIobitmap = physdev::PHYSDEVOP_SET_IOBITMAP,
        ApicRead = physdev::PHYSDEVOP_APIC_READ,
        ApicWrite = physdev::PHYSDEVOP_APIC_WRITE,
        AllocIrqVector = physdev::PHYSDEVOP_ALLOC_IRQ_VECTOR,
        Eoi = physdev::PHYSDEVOP_EOI,
        MapPirq = physdev::PHYSDEVOP_MAP_PIRQ,
        UnmapPirq = physdev::PHYSDEVOP_UNMAP_PIRQ,
        ManagePciAdd = physdev::PHYSDEVOP_MANAGE_PCI_ADD,
        ManagePciRemove = physdev::PHYSDEVOP_MANAGE_PCI_REMOVE,
        PirqEoiGmfnV1 = physdev::PHYSDEVOP_PIRQ_EOI_GMFN_V1,
        RestoreMsi = physdev::PHYSDEVOP_RESTORE_MSI,
        ManagePciAddExt = physdev::PHYSDEVOP_MANAGE_PCI_ADD_EXT,
        SetupGsi = physdev::PHYSDEVOP_SETUP_GSI,
        GetFreePirq = physdev::PHYSDEVOP_GET_FREE_PIRQ,
        PciMmcfgReserved = physdev::PHYSDEVOP_PCI_MMCFG_RESERVED,
        PciDeviceAdd = physdev::PHYSDEVOP_PCI_DEVICE_ADD,
        PciDeviceRemove = physdev::PHYSDEVOP_PCI_DEVICE_REMOVE,
        RestoreMsiExt = physdev::PHYSDEVOP_RESTORE_MSI_EXT,
        PirqEoiGmfnV2 = physdev::PHYSDEVOP_PIRQ_EOI_GMFN_V2,
        DbgpOp = physdev::PHYSDEVOP_DBGP_OP,
        PrepareMsix = physdev::PHYSDEVOP_PREPARE_MSIX,
        ReleaseMsix = physdev::PHYSDEVOP_RELEASE_MSIX,
    }

    /// Of `sched_op` (`sched.h`); the first three are those of `sched_op_compat`, too.
    SchedCommand else NoSys {
        Yield = sched::SCHEDOP_YIELD,
        Block = sched::SCHEDOP_BLOCK,
        Shutdown = sched::SCHEDOP_SHUTDOWN,
        Poll = sched::SCHEDOP_POLL,
        RemoteShutdown = sched::SCHEDOP_REMOTE_SHUTDOWN,
        ShutdownCode = sched::SCHEDOP_SHUTDOWN_CODE,
        Watchdog = sched::SCHEDOP_WATCHDOG,
        PinOverride = sched::SCHEDOP_PIN_OVERRIDE,
    }

    /// Which base `set_segment_base` sets (`arch-x86/xen-x86_64.h`).
    SegmentBase else Inval {
        Fs = segments::SEGBASE_FS,
        GsUser = segments::SEGBASE_GS_USER,
        GsKernel = segments::SEGBASE_GS_KERNEL,
        GsUserSelector = segments::SEGBASE_GS_USER_SEL,
    }

    /// Of `vcpu_op` (`vcpu.h`).
    VcpuCommand else NoSys {
        Initialise = vcpu::VCPUOP_INITIALISE,
        Up = vcpu::VCPUOP_UP,
        Down = vcpu::VCPUOP_DOWN,
        IsUp = vcpu::VCPUOP_IS_UP,
        GetRunstateInfo = vcpu::VCPUOP_GET_RUNSTATE_INFO,
        RegisterRunstateMemoryArea = vcpu::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        SetPeriodicTimer = vcpu::VCPUOP_SET_PERIODIC_TIMER,
        StopPeriodicTimer = vcpu::VCPUOP_STOP_PERIODIC_TIMER,
        SetSingleshotTimer = vcpu::VCPUOP_SET_SINGLESHOT_TIMER,
        StopSingleshotTimer = vcpu::VCPUOP_STOP_SINGLESHOT_TIMER,
        RegisterVcpuInfo = vcpu::VCPUOP_REGISTER_VCPU_INFO,
        SendNmi = vcpu::VCPUOP_SEND_NMI,
        GetPhysid = vcpu::VCPUOP_GET_PHYSID,
        RegisterVcpuTimeMemoryArea = vcpu::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
    }

    /// Of `xen_version` (`version.h`).
    VersionCommand else NoSys {
        Version = version::XENVER_VERSION,
        ExtraVersion = version::XENVER_EXTRAVERSION,
        CompileInfo = version::XENVER_COMPILE_INFO,
        Capabilities = version::XENVER_CAPABILITIES,
        Changeset = version::XENVER_CHANGESET,
        PlatformParameters = version::XENVER_PLATFORM_PARAMETERS,
        GetFeatures = version::XENVER_GET_FEATURES,
        PageSize = version::XENVER_PAGESIZE,
        GuestHandle = version::XENVER_GUEST_HANDLE,
        CommandLine = version::XENVER_COMMANDLINE,
        BuildId = version::XENVER_BUILD_ID,
    }

    /// Of `vm_assist` (`xen.h`).
    AssistCommand else NoSys {
        Enable = vm_assist::VMASST_CMD_ENABLE,
        Disable = vm_assist::VMASST_CMD_DISABLE,
    }
}
