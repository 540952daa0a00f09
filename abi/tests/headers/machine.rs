//! What the control domain does to the machine: `sysctl`, `platform_op`, `physdev_op`.
#![expect(clippy::too_many_lines, reason = "tables")]

use super::{List, constants, structures};

/// Adds all of them.
pub(crate) fn all(list: &mut List) {
    physdev(list);
    platform(list);
    sysctl(list);
}

fn physdev(list: &mut List) {
    constants! {
        list, [oxen_abi::physdev];
        PHYSDEVOP_IRQ_UNMASK_NOTIFY = "PHYSDEVOP_IRQ_UNMASK_NOTIFY",
        PHYSDEVOP_IRQ_STATUS_QUERY = "PHYSDEVOP_irq_status_query", PHYSDEVOP_SET_IOPL = "PHYSDEVOP_set_iopl",
        PHYSDEVOP_SET_IOBITMAP = "PHYSDEVOP_set_iobitmap", PHYSDEVOP_APIC_READ = "PHYSDEVOP_apic_read",
        PHYSDEVOP_APIC_WRITE = "PHYSDEVOP_apic_write", PHYSDEVOP_ALLOC_IRQ_VECTOR = "PHYSDEVOP_alloc_irq_vector",
        PHYSDEVOP_FREE_IRQ_VECTOR = "PHYSDEVOP_free_irq_vector", PHYSDEVOP_EOI = "PHYSDEVOP_eoi",
        PHYSDEVOP_MAP_PIRQ = "PHYSDEVOP_map_pirq", PHYSDEVOP_UNMAP_PIRQ = "PHYSDEVOP_unmap_pirq",
        PHYSDEVOP_MANAGE_PCI_ADD = "PHYSDEVOP_manage_pci_add",
        PHYSDEVOP_MANAGE_PCI_REMOVE = "PHYSDEVOP_manage_pci_remove",
        PHYSDEVOP_PIRQ_EOI_GMFN_V1 = "PHYSDEVOP_pirq_eoi_gmfn_v1", PHYSDEVOP_RESTORE_MSI = "PHYSDEVOP_restore_msi",
        PHYSDEVOP_MANAGE_PCI_ADD_EXT = "PHYSDEVOP_manage_pci_add_ext", PHYSDEVOP_SETUP_GSI = "PHYSDEVOP_setup_gsi",
        PHYSDEVOP_GET_FREE_PIRQ = "PHYSDEVOP_get_free_pirq",
        PHYSDEVOP_PCI_MMCFG_RESERVED = "PHYSDEVOP_pci_mmcfg_reserved",
        PHYSDEVOP_PCI_DEVICE_ADD = "PHYSDEVOP_pci_device_add",
        PHYSDEVOP_PCI_DEVICE_REMOVE = "PHYSDEVOP_pci_device_remove",
        PHYSDEVOP_RESTORE_MSI_EXT = "PHYSDEVOP_restore_msi_ext",
        PHYSDEVOP_PIRQ_EOI_GMFN_V2 = "PHYSDEVOP_pirq_eoi_gmfn_v2", PHYSDEVOP_DBGP_OP = "PHYSDEVOP_dbgp_op",
        PHYSDEVOP_PREPARE_MSIX = "PHYSDEVOP_prepare_msix", PHYSDEVOP_RELEASE_MSIX = "PHYSDEVOP_release_msix",
        XENIRQSTAT_NEEDS_EOI = "XENIRQSTAT_needs_eoi", XENIRQSTAT_SHARED = "XENIRQSTAT_shared",
        MAP_PIRQ_TYPE_MSI = "MAP_PIRQ_TYPE_MSI", MAP_PIRQ_TYPE_GSI = "MAP_PIRQ_TYPE_GSI",
        MAP_PIRQ_TYPE_UNKNOWN = "MAP_PIRQ_TYPE_UNKNOWN", MAP_PIRQ_TYPE_MSI_SEG = "MAP_PIRQ_TYPE_MSI_SEG",
        MAP_PIRQ_TYPE_MULTI_MSI = "MAP_PIRQ_TYPE_MULTI_MSI", XEN_PCI_MMCFG_RESERVED = "XEN_PCI_MMCFG_RESERVED",
        XEN_PCI_DEV_EXTFN = "XEN_PCI_DEV_EXTFN", XEN_PCI_DEV_VIRTFN = "XEN_PCI_DEV_VIRTFN",
        XEN_PCI_DEV_PXM = "XEN_PCI_DEV_PXM", PHYSDEVOP_DBGP_RESET_PREPARE = "PHYSDEVOP_DBGP_RESET_PREPARE",
        PHYSDEVOP_DBGP_RESET_DONE = "PHYSDEVOP_DBGP_RESET_DONE",
        PHYSDEVOP_DBGP_BUS_UNKNOWN = "PHYSDEVOP_DBGP_BUS_UNKNOWN", PHYSDEVOP_DBGP_BUS_PCI = "PHYSDEVOP_DBGP_BUS_PCI",
    }
    structures! {
        list, [oxen_abi::physdev];
        PhysdevEoi = "struct physdev_eoi" {
            irq
        }
        PhysdevPirqEoiGmfn = "struct physdev_pirq_eoi_gmfn" {
            gmfn
        }
        PhysdevIrqStatusQuery = "struct physdev_irq_status_query" {
            irq, flags
        }
        PhysdevSetIopl = "struct physdev_set_iopl" {
            iopl
        }
        PhysdevSetIobitmap = "struct physdev_set_iobitmap" {
            bitmap, nr_ports
            | _pad0
        }
        PhysdevApic = "struct physdev_apic" {
            apic_physbase, reg, value
        }
        PhysdevIrq = "struct physdev_irq" {
            irq, vector
        }
        PhysdevMapPirq = "struct physdev_map_pirq" {
            domid, r#type: "type", index, pirq, bus, devfn, entry_nr, table_base
            | _pad0, _pad1
        }
        PhysdevUnmapPirq = "struct physdev_unmap_pirq" {
            domid, pirq
            | _pad0
        }
        PhysdevManagePci = "struct physdev_manage_pci" {
            bus, devfn
        }
        PhysdevManagePciExt = "struct physdev_manage_pci_ext" {
            bus, devfn, is_extfn, is_virtfn, physfn
            | _pad0, _pad1
        }
        PhysdevSetupGsi = "struct physdev_setup_gsi" {
            gsi, triggering, polarity
            | _pad0
        }
        PhysdevGetFreePirq = "struct physdev_get_free_pirq" {
            r#type: "type", pirq
        }
        PhysdevPciMmcfgReserved = "struct physdev_pci_mmcfg_reserved" {
            address, segment, start_bus, end_bus, flags
        }
        PhysdevPciDeviceAdd = "struct physdev_pci_device_add" {
            seg, bus, devfn, flags, physfn
            | _pad0
        }
        PhysdevPciDevice = "struct physdev_pci_device" {
            seg, bus, devfn
        }
        PhysdevDbgpOp = "struct physdev_dbgp_op" {
            op, bus, pci: "u.pci"
        }
    }
}

fn platform(list: &mut List) {
    constants! {
        list, [oxen_abi::platform];
        XENPF_INTERFACE_VERSION = "XENPF_INTERFACE_VERSION", XENPF_SETTIME32 = "XENPF_settime32",
        XENPF_ADD_MEMTYPE = "XENPF_add_memtype", XENPF_DEL_MEMTYPE = "XENPF_del_memtype",
        XENPF_READ_MEMTYPE = "XENPF_read_memtype", XENPF_MICROCODE_UPDATE = "XENPF_microcode_update",
        XENPF_PLATFORM_QUIRK = "XENPF_platform_quirk", XENPF_GET_CPU_VERSION = "XENPF_get_cpu_version",
        XENPF_EFI_RUNTIME_CALL = "XENPF_efi_runtime_call", XENPF_FIRMWARE_INFO = "XENPF_firmware_info",
        XENPF_ENTER_ACPI_SLEEP = "XENPF_enter_acpi_sleep", XENPF_CHANGE_FREQ = "XENPF_change_freq",
        XENPF_GETIDLETIME = "XENPF_getidletime", XENPF_SET_PROCESSOR_PMINFO = "XENPF_set_processor_pminfo",
        XENPF_GET_CPUINFO = "XENPF_get_cpuinfo", XENPF_CPU_ONLINE = "XENPF_cpu_online",
        XENPF_CPU_OFFLINE = "XENPF_cpu_offline", XENPF_CPU_HOTADD = "XENPF_cpu_hotadd",
        XENPF_MEM_HOTADD = "XENPF_mem_hotadd", XENPF_CORE_PARKING = "XENPF_core_parking",
        XENPF_RESOURCE_OP = "XENPF_resource_op", XENPF_SETTIME64 = "XENPF_settime64",
        XENPF_GET_SYMBOL = "XENPF_get_symbol", XEN_FW_DISK_INFO = "XEN_FW_DISK_INFO",
        XEN_FW_DISK_MBR_SIGNATURE = "XEN_FW_DISK_MBR_SIGNATURE", XEN_FW_VBEDDC_INFO = "XEN_FW_VBEDDC_INFO",
        XEN_FW_EFI_INFO = "XEN_FW_EFI_INFO", XEN_FW_KBD_SHIFT_FLAGS = "XEN_FW_KBD_SHIFT_FLAGS",
        XEN_FW_EFI_VERSION = "XEN_FW_EFI_VERSION", XEN_FW_EFI_CONFIG_TABLE = "XEN_FW_EFI_CONFIG_TABLE",
        XEN_FW_EFI_VENDOR = "XEN_FW_EFI_VENDOR", XEN_FW_EFI_MEM_INFO = "XEN_FW_EFI_MEM_INFO",
        XEN_FW_EFI_RT_VERSION = "XEN_FW_EFI_RT_VERSION", XEN_FW_EFI_PCI_ROM = "XEN_FW_EFI_PCI_ROM",
        XEN_FW_EFI_APPLE_PROPERTIES = "XEN_FW_EFI_APPLE_PROPERTIES",
        XENPF_ACPI_SLEEP_EXTENDED = "XENPF_ACPI_SLEEP_EXTENDED", XEN_PCPU_FLAGS_ONLINE = "XEN_PCPU_FLAGS_ONLINE",
        XEN_PCPU_FLAGS_INVALID = "XEN_PCPU_FLAGS_INVALID", XEN_CORE_PARKING_SET = "XEN_CORE_PARKING_SET",
        XEN_CORE_PARKING_GET = "XEN_CORE_PARKING_GET",
    }
    structures! {
        list, [oxen_abi::platform];
        PlatformOp = "struct xen_platform_op" {
            cmd, interface_version, u
        }
        XenpfSettime32 = "struct xenpf_settime32" {
            secs, nsecs, system_time
        }
        XenpfSettime64 = "struct xenpf_settime64" {
            secs, nsecs, mbz, system_time
        }
        XenpfFirmwareInfo = "struct xenpf_firmware_info" {
            r#type: "type", index, u
        }
        XenpfEnterAcpiSleep = "struct xenpf_enter_acpi_sleep" {
            val_a, val_b, sleep_state, flags
        }
        XenpfPcpuinfo = "struct xenpf_pcpuinfo" {
            xen_cpuid, max_present, flags, apic_id, acpi_id
        }
        XenpfPcpuVersion = "struct xenpf_pcpu_version" {
            xen_cpuid, max_present, vendor_id, family, model, stepping
        }
        XenpfReadMemtype = "struct xenpf_read_memtype" {
            reg, mfn, nr_mfns, r#type: "type"
            | _pad0, _pad1
        }
        XenpfSetProcessorPminfo = "struct xenpf_set_processor_pminfo" {
            id, r#type: "type", u
        }
        XenpfResourceEntry = "struct xenpf_resource_entry" {
            cmd: "u.cmd", rsvd, idx, val
        }
        XenpfResourceOp = "struct xenpf_resource_op" {
            nr_entries, cpu, entries
        }
        XenpfCpuOl = "struct xenpf_cpu_ol" {
            cpuid
        }
        XenpfGetidletime = "struct xenpf_getidletime" {
            cpumap_bitmap, cpumap_nr_cpus, idletime, now
            | _pad0
        }
        XenpfCoreParking = "struct xenpf_core_parking" {
            r#type: "type", idle_nums
        }
        XenpfSymdata = "struct xenpf_symdata" {
            namelen, symnum, name, address, r#type: "type"
            | _pad0
        }
    }
}

fn sysctl(list: &mut List) {
    constants! {
        list, [oxen_abi::sysctl];
        XEN_SYSCTL_INTERFACE_VERSION = "XEN_SYSCTL_INTERFACE_VERSION",
        XEN_SYSCTL_READCONSOLE = "XEN_SYSCTL_readconsole", XEN_SYSCTL_TBUF_OP = "XEN_SYSCTL_tbuf_op",
        XEN_SYSCTL_PHYSINFO = "XEN_SYSCTL_physinfo", XEN_SYSCTL_SCHED_ID = "XEN_SYSCTL_sched_id",
        XEN_SYSCTL_PERFC_OP = "XEN_SYSCTL_perfc_op", XEN_SYSCTL_GETDOMAININFOLIST = "XEN_SYSCTL_getdomaininfolist",
        XEN_SYSCTL_DEBUG_KEYS = "XEN_SYSCTL_debug_keys", XEN_SYSCTL_GETCPUINFO = "XEN_SYSCTL_getcpuinfo",
        XEN_SYSCTL_AVAILHEAP = "XEN_SYSCTL_availheap", XEN_SYSCTL_GET_PMSTAT = "XEN_SYSCTL_get_pmstat",
        XEN_SYSCTL_CPU_HOTPLUG = "XEN_SYSCTL_cpu_hotplug", XEN_SYSCTL_PM_OP = "XEN_SYSCTL_pm_op",
        XEN_SYSCTL_PAGE_OFFLINE_OP = "XEN_SYSCTL_page_offline_op", XEN_SYSCTL_LOCKPROF_OP = "XEN_SYSCTL_lockprof_op",
        XEN_SYSCTL_CPUTOPOINFO = "XEN_SYSCTL_cputopoinfo", XEN_SYSCTL_NUMAINFO = "XEN_SYSCTL_numainfo",
        XEN_SYSCTL_CPUPOOL_OP = "XEN_SYSCTL_cpupool_op", XEN_SYSCTL_SCHEDULER_OP = "XEN_SYSCTL_scheduler_op",
        XEN_SYSCTL_COVERAGE_OP = "XEN_SYSCTL_coverage_op", XEN_SYSCTL_PSR_CMT_OP = "XEN_SYSCTL_psr_cmt_op",
        XEN_SYSCTL_PCITOPOINFO = "XEN_SYSCTL_pcitopoinfo", XEN_SYSCTL_PSR_ALLOC = "XEN_SYSCTL_psr_alloc",
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS = "XEN_SYSCTL_get_cpu_levelling_caps",
        XEN_SYSCTL_GET_CPU_FEATURESET = "XEN_SYSCTL_get_cpu_featureset",
        XEN_SYSCTL_LIVEPATCH_OP = "XEN_SYSCTL_livepatch_op", XEN_SYSCTL_GET_CPU_POLICY = "XEN_SYSCTL_get_cpu_policy",
        XEN_SYSCTL_PHYSCAP_HVM = "XEN_SYSCTL_PHYSCAP_hvm", XEN_SYSCTL_PHYSCAP_PV = "XEN_SYSCTL_PHYSCAP_pv",
        XEN_SYSCTL_PHYSCAP_DIRECTIO = "XEN_SYSCTL_PHYSCAP_directio",
        XEN_SYSCTL_PHYSCAP_HAP = "XEN_SYSCTL_PHYSCAP_hap", XEN_SYSCTL_PHYSCAP_SHADOW = "XEN_SYSCTL_PHYSCAP_shadow",
        XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE = "XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share",
        XEN_SYSCTL_PHYSCAP_VMTRACE = "XEN_SYSCTL_PHYSCAP_vmtrace",
        XEN_SYSCTL_PHYSCAP_VPMU = "XEN_SYSCTL_PHYSCAP_vpmu",
        XEN_SYSCTL_PHYSCAP_GNTTAB_V1 = "XEN_SYSCTL_PHYSCAP_gnttab_v1",
        XEN_SYSCTL_PHYSCAP_GNTTAB_V2 = "XEN_SYSCTL_PHYSCAP_gnttab_v2",
        XEN_SYSCTL_CPUPOOL_OP_CREATE = "XEN_SYSCTL_CPUPOOL_OP_CREATE",
        XEN_SYSCTL_CPUPOOL_OP_DESTROY = "XEN_SYSCTL_CPUPOOL_OP_DESTROY",
        XEN_SYSCTL_CPUPOOL_OP_INFO = "XEN_SYSCTL_CPUPOOL_OP_INFO",
        XEN_SYSCTL_CPUPOOL_OP_ADDCPU = "XEN_SYSCTL_CPUPOOL_OP_ADDCPU",
        XEN_SYSCTL_CPUPOOL_OP_RMCPU = "XEN_SYSCTL_CPUPOOL_OP_RMCPU",
        XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN = "XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN",
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO = "XEN_SYSCTL_CPUPOOL_OP_FREEINFO",
        XEN_SYSCTL_CPUPOOL_PAR_ANY = "XEN_SYSCTL_CPUPOOL_PAR_ANY",
        XEN_SYSCTL_SCHEDOP_PUTINFO = "XEN_SYSCTL_SCHEDOP_putinfo",
        XEN_SYSCTL_SCHEDOP_GETINFO = "XEN_SYSCTL_SCHEDOP_getinfo",
        XEN_SYSCTL_SCHED_RATELIMIT_MAX = "XEN_SYSCTL_SCHED_RATELIMIT_MAX",
        XEN_SYSCTL_SCHED_RATELIMIT_MIN = "XEN_SYSCTL_SCHED_RATELIMIT_MIN",
        XEN_SYSCTL_CSCHED_TSLICE_MAX = "XEN_SYSCTL_CSCHED_TSLICE_MAX",
        XEN_SYSCTL_CSCHED_TSLICE_MIN = "XEN_SYSCTL_CSCHED_TSLICE_MIN",
        XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US = "XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US",
        XEN_SYSCTL_CPU_FEATURESET_RAW = "XEN_SYSCTL_cpu_featureset_raw",
        XEN_SYSCTL_CPU_FEATURESET_HOST = "XEN_SYSCTL_cpu_featureset_host",
        XEN_SYSCTL_CPU_FEATURESET_PV = "XEN_SYSCTL_cpu_featureset_pv",
        XEN_SYSCTL_CPU_FEATURESET_HVM = "XEN_SYSCTL_cpu_featureset_hvm",
        XEN_SYSCTL_CPU_FEATURESET_PV_MAX = "XEN_SYSCTL_cpu_featureset_pv_max",
        XEN_SYSCTL_CPU_FEATURESET_HVM_MAX = "XEN_SYSCTL_cpu_featureset_hvm_max",
        XEN_SYSCTL_CPU_POLICY_RAW = "XEN_SYSCTL_cpu_policy_raw",
        XEN_SYSCTL_CPU_POLICY_HOST = "XEN_SYSCTL_cpu_policy_host",
        XEN_SYSCTL_CPU_POLICY_PV_MAX = "XEN_SYSCTL_cpu_policy_pv_max",
        XEN_SYSCTL_CPU_POLICY_HVM_MAX = "XEN_SYSCTL_cpu_policy_hvm_max",
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT = "XEN_SYSCTL_cpu_policy_pv_default",
        XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT = "XEN_SYSCTL_cpu_policy_hvm_default",
        XEN_INVALID_CORE_ID = "XEN_INVALID_CORE_ID", XEN_INVALID_SOCKET_ID = "XEN_INVALID_SOCKET_ID",
        XEN_INVALID_NODE_ID = "XEN_INVALID_NODE_ID", XEN_INVALID_MEM_SZ = "XEN_INVALID_MEM_SZ",
        XEN_INVALID_NODE_DIST = "XEN_INVALID_NODE_DIST",
    }
    structures! {
        list, [oxen_abi::sysctl];
        Sysctl = "struct xen_sysctl" {
            cmd, interface_version, u
        }
        SysctlReadconsole = "struct xen_sysctl_readconsole" {
            clear, incremental, pad0, pad1, index, buffer, count
            | _pad0
        }
        SysctlPhysinfo = "struct xen_sysctl_physinfo" {
            threads_per_core, cores_per_socket, nr_cpus, max_cpu_id, nr_nodes, max_node_id, cpu_khz, capabilities,
            arch_capabilities, pad, total_pages, free_pages, scrub_pages, outstanding_pages, max_mfn, hw_cap
        }
        SysctlSchedId = "struct xen_sysctl_sched_id" {
            sched_id
        }
        SysctlGetdomaininfolist = "struct xen_sysctl_getdomaininfolist" {
            first_domain, max_domains, buffer, num_domains
            | _pad0, _pad1
        }
        SysctlDebugKeys = "struct xen_sysctl_debug_keys" {
            keys, nr_keys
            | _pad0
        }
        SysctlCpuinfo = "struct xen_sysctl_cpuinfo" {
            idletime
        }
        SysctlGetcpuinfo = "struct xen_sysctl_getcpuinfo" {
            max_cpus, info, nr_cpus
            | _pad0, _pad1
        }
        SysctlAvailheap = "struct xen_sysctl_availheap" {
            min_bitwidth, max_bitwidth, node, avail_bytes
            | _pad0
        }
        SysctlCputopo = "struct xen_sysctl_cputopo" {
            core, socket, node
        }
        SysctlCputopoinfo = "struct xen_sysctl_cputopoinfo" {
            num_cpus, cputopo
            | _pad0
        }
        SysctlMeminfo = "struct xen_sysctl_meminfo" {
            memsize, memfree
        }
        SysctlNumainfo = "struct xen_sysctl_numainfo" {
            num_nodes, meminfo, distance
            | _pad0
        }
        SysctlCpupoolOp = "struct xen_sysctl_cpupool_op" {
            op, cpupool_id, sched_id, domid, cpu, n_dom, cpumap
        }
        SysctlTbufOp = "struct xen_sysctl_tbuf_op" {
            cmd, cpu_mask, evt_mask, buffer_mfn, size
            | _pad0, _pad1, _pad2
        }
        PmCxStat = "struct pm_cx_stat" {
            nr, last, idle_time, triggers, residencies, nr_pc, nr_cc, pc, cc
        }
        SysctlGetPmstat = "struct xen_sysctl_get_pmstat" {
            r#type: "type", cpuid, getcx: "u.getcx"
        }
        SysctlCpuHotplug = "struct xen_sysctl_cpu_hotplug" {
            cpu, op
        }
        SysctlPageOfflineOp = "struct xen_sysctl_page_offline_op" {
            cmd, start, end, status
            | _pad0
        }
        SysctlPcitopoinfo = "struct xen_sysctl_pcitopoinfo" {
            num_devs, devs, nodes
            | _pad0
        }
        LivepatchName = "struct xen_livepatch_name" {
            name, size, pad
        }
        SysctlCreditSchedule = "struct xen_sysctl_credit_schedule" {
            tslice_ms, ratelimit_us, vcpu_migr_delay_us
        }
        SysctlSchedulerOp = "struct xen_sysctl_scheduler_op" {
            cpupool_id, sched_id, cmd, sched_credit: "u.sched_credit"
            | _pad0, _pad1
        }
        SysctlCpuFeatureset = "struct xen_sysctl_cpu_featureset" {
            index, nr_features, features
        }
        SysctlCpuPolicy = "struct xen_sysctl_cpu_policy" {
            index, nr_leaves, nr_msrs, leaves, msrs
            | _rsvd
        }
    }
}
