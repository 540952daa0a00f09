//! What the control domain does to other domains.
#![expect(clippy::too_many_lines, reason = "tables")]

use super::{List, constants, structures};

/// Adds all of them.
pub(crate) fn all(list: &mut List) {
    domctl(list);
}

fn domctl(list: &mut List) {
    constants! {
        list, [oxen_abi::domctl];
        XEN_DOMCTL_CDF_HVM = "XEN_DOMCTL_CDF_hvm", XEN_DOMCTL_CDF_HAP = "XEN_DOMCTL_CDF_hap",
        XEN_DOMCTL_CDF_S3_INTEGRITY = "XEN_DOMCTL_CDF_s3_integrity",
        XEN_DOMCTL_CDF_OOS_OFF = "XEN_DOMCTL_CDF_oos_off", XEN_DOMCTL_CDF_XS_DOMAIN = "XEN_DOMCTL_CDF_xs_domain",
        XEN_DOMCTL_CDF_IOMMU = "XEN_DOMCTL_CDF_iommu", XEN_DOMCTL_CDF_NESTED_VIRT = "XEN_DOMCTL_CDF_nested_virt",
        XEN_DOMCTL_CDF_VPMU = "XEN_DOMCTL_CDF_vpmu", XEN_DOMCTL_IOMMU_NO_SHAREPT = "XEN_DOMCTL_IOMMU_no_sharept",
        XEN_DOMCTL_GRANT_VERSION_MASK = "XEN_DOMCTL_GRANT_version_mask", XEN_X86_EMU_LAPIC = "XEN_X86_EMU_LAPIC",
        XEN_X86_EMU_HPET = "XEN_X86_EMU_HPET", XEN_X86_EMU_PM = "XEN_X86_EMU_PM",
        XEN_X86_EMU_RTC = "XEN_X86_EMU_RTC", XEN_X86_EMU_IOAPIC = "XEN_X86_EMU_IOAPIC",
        XEN_X86_EMU_PIC = "XEN_X86_EMU_PIC", XEN_X86_EMU_VGA = "XEN_X86_EMU_VGA",
        XEN_X86_EMU_IOMMU = "XEN_X86_EMU_IOMMU", XEN_X86_EMU_PIT = "XEN_X86_EMU_PIT",
        XEN_X86_EMU_USE_PIRQ = "XEN_X86_EMU_USE_PIRQ", XEN_X86_EMU_VPCI = "XEN_X86_EMU_VPCI",
        XEN_X86_MSR_RELAXED = "XEN_X86_MSR_RELAXED", XEN_DOMINF_DYING = "XEN_DOMINF_dying",
        XEN_DOMINF_HVM_GUEST = "XEN_DOMINF_hvm_guest", XEN_DOMINF_SHUTDOWN = "XEN_DOMINF_shutdown",
        XEN_DOMINF_PAUSED = "XEN_DOMINF_paused", XEN_DOMINF_BLOCKED = "XEN_DOMINF_blocked",
        XEN_DOMINF_RUNNING = "XEN_DOMINF_running", XEN_DOMINF_DEBUGGED = "XEN_DOMINF_debugged",
        XEN_DOMINF_XS_DOMAIN = "XEN_DOMINF_xs_domain", XEN_DOMINF_HAP = "XEN_DOMINF_hap",
        XEN_DOMINF_SHUTDOWNMASK = "XEN_DOMINF_shutdownmask", XEN_DOMINF_SHUTDOWNSHIFT = "XEN_DOMINF_shutdownshift",
        XEN_INVALID_MAX_VCPU_ID = "XEN_INVALID_MAX_VCPU_ID", XEN_DOMCTL_PFINFO_NOTAB = "XEN_DOMCTL_PFINFO_NOTAB",
        XEN_DOMCTL_PFINFO_L1TAB = "XEN_DOMCTL_PFINFO_L1TAB", XEN_DOMCTL_PFINFO_L2TAB = "XEN_DOMCTL_PFINFO_L2TAB",
        XEN_DOMCTL_PFINFO_L3TAB = "XEN_DOMCTL_PFINFO_L3TAB", XEN_DOMCTL_PFINFO_L4TAB = "XEN_DOMCTL_PFINFO_L4TAB",
        XEN_DOMCTL_PFINFO_LTABTYPE_MASK = "XEN_DOMCTL_PFINFO_LTABTYPE_MASK",
        XEN_DOMCTL_PFINFO_LPINTAB = "XEN_DOMCTL_PFINFO_LPINTAB", XEN_DOMCTL_PFINFO_XTAB = "XEN_DOMCTL_PFINFO_XTAB",
        XEN_DOMCTL_PFINFO_XALLOC = "XEN_DOMCTL_PFINFO_XALLOC", XEN_DOMCTL_PFINFO_BROKEN = "XEN_DOMCTL_PFINFO_BROKEN",
        XEN_DOMCTL_PFINFO_LTAB_MASK = "XEN_DOMCTL_PFINFO_LTAB_MASK",
        XEN_DOMCTL_PFINFO_LTAB_SHIFT = "XEN_DOMCTL_PFINFO_LTAB_SHIFT",
        XEN_DOMCTL_SHADOW_OP_OFF = "XEN_DOMCTL_SHADOW_OP_OFF",
        XEN_DOMCTL_SHADOW_OP_ENABLE_TEST = "XEN_DOMCTL_SHADOW_OP_ENABLE_TEST",
        XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY = "XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY",
        XEN_DOMCTL_SHADOW_OP_CLEAN = "XEN_DOMCTL_SHADOW_OP_CLEAN",
        XEN_DOMCTL_SHADOW_OP_PEEK = "XEN_DOMCTL_SHADOW_OP_PEEK",
        XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION = "XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION",
        XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION = "XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION",
        XEN_DOMCTL_SHADOW_OP_ENABLE = "XEN_DOMCTL_SHADOW_OP_ENABLE",
        XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT = "XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT",
        XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY = "XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY",
        XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE = "XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE",
        XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL = "XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL",
        XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL = "XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL",
        XEN_DOMCTL_INTERFACE_VERSION = "XEN_DOMCTL_INTERFACE_VERSION",
        XEN_DOMCTL_CREATEDOMAIN = "XEN_DOMCTL_createdomain", XEN_DOMCTL_DESTROYDOMAIN = "XEN_DOMCTL_destroydomain",
        XEN_DOMCTL_PAUSEDOMAIN = "XEN_DOMCTL_pausedomain", XEN_DOMCTL_UNPAUSEDOMAIN = "XEN_DOMCTL_unpausedomain",
        XEN_DOMCTL_GETDOMAININFO = "XEN_DOMCTL_getdomaininfo",
        XEN_DOMCTL_SETVCPUAFFINITY = "XEN_DOMCTL_setvcpuaffinity", XEN_DOMCTL_SHADOW_OP = "XEN_DOMCTL_shadow_op",
        XEN_DOMCTL_MAX_MEM = "XEN_DOMCTL_max_mem", XEN_DOMCTL_SETVCPUCONTEXT = "XEN_DOMCTL_setvcpucontext",
        XEN_DOMCTL_GETVCPUCONTEXT = "XEN_DOMCTL_getvcpucontext", XEN_DOMCTL_GETVCPUINFO = "XEN_DOMCTL_getvcpuinfo",
        XEN_DOMCTL_MAX_VCPUS = "XEN_DOMCTL_max_vcpus", XEN_DOMCTL_SCHEDULER_OP = "XEN_DOMCTL_scheduler_op",
        XEN_DOMCTL_SETDOMAINHANDLE = "XEN_DOMCTL_setdomainhandle",
        XEN_DOMCTL_SETDEBUGGING = "XEN_DOMCTL_setdebugging", XEN_DOMCTL_IRQ_PERMISSION = "XEN_DOMCTL_irq_permission",
        XEN_DOMCTL_IOMEM_PERMISSION = "XEN_DOMCTL_iomem_permission",
        XEN_DOMCTL_IOPORT_PERMISSION = "XEN_DOMCTL_ioport_permission",
        XEN_DOMCTL_HYPERCALL_INIT = "XEN_DOMCTL_hypercall_init",
        XEN_DOMCTL_SETTIMEOFFSET = "XEN_DOMCTL_settimeoffset",
        XEN_DOMCTL_GETVCPUAFFINITY = "XEN_DOMCTL_getvcpuaffinity",
        XEN_DOMCTL_RESUMEDOMAIN = "XEN_DOMCTL_resumedomain", XEN_DOMCTL_SENDTRIGGER = "XEN_DOMCTL_sendtrigger",
        XEN_DOMCTL_SUBSCRIBE = "XEN_DOMCTL_subscribe", XEN_DOMCTL_GETHVMCONTEXT = "XEN_DOMCTL_gethvmcontext",
        XEN_DOMCTL_SETHVMCONTEXT = "XEN_DOMCTL_sethvmcontext",
        XEN_DOMCTL_SET_ADDRESS_SIZE = "XEN_DOMCTL_set_address_size",
        XEN_DOMCTL_GET_ADDRESS_SIZE = "XEN_DOMCTL_get_address_size",
        XEN_DOMCTL_ASSIGN_DEVICE = "XEN_DOMCTL_assign_device", XEN_DOMCTL_BIND_PT_IRQ = "XEN_DOMCTL_bind_pt_irq",
        XEN_DOMCTL_MEMORY_MAPPING = "XEN_DOMCTL_memory_mapping",
        XEN_DOMCTL_IOPORT_MAPPING = "XEN_DOMCTL_ioport_mapping",
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT = "XEN_DOMCTL_set_ext_vcpucontext",
        XEN_DOMCTL_GET_EXT_VCPUCONTEXT = "XEN_DOMCTL_get_ext_vcpucontext",
        XEN_DOMCTL_TEST_ASSIGN_DEVICE = "XEN_DOMCTL_test_assign_device",
        XEN_DOMCTL_SET_TARGET = "XEN_DOMCTL_set_target", XEN_DOMCTL_DEASSIGN_DEVICE = "XEN_DOMCTL_deassign_device",
        XEN_DOMCTL_UNBIND_PT_IRQ = "XEN_DOMCTL_unbind_pt_irq",
        XEN_DOMCTL_GET_DEVICE_GROUP = "XEN_DOMCTL_get_device_group", XEN_DOMCTL_DEBUG_OP = "XEN_DOMCTL_debug_op",
        XEN_DOMCTL_GETHVMCONTEXT_PARTIAL = "XEN_DOMCTL_gethvmcontext_partial",
        XEN_DOMCTL_VM_EVENT_OP = "XEN_DOMCTL_vm_event_op", XEN_DOMCTL_MEM_SHARING_OP = "XEN_DOMCTL_mem_sharing_op",
        XEN_DOMCTL_GETTSCINFO = "XEN_DOMCTL_gettscinfo", XEN_DOMCTL_SETTSCINFO = "XEN_DOMCTL_settscinfo",
        XEN_DOMCTL_GETPAGEFRAMEINFO3 = "XEN_DOMCTL_getpageframeinfo3",
        XEN_DOMCTL_SETVCPUEXTSTATE = "XEN_DOMCTL_setvcpuextstate",
        XEN_DOMCTL_GETVCPUEXTSTATE = "XEN_DOMCTL_getvcpuextstate",
        XEN_DOMCTL_SET_ACCESS_REQUIRED = "XEN_DOMCTL_set_access_required",
        XEN_DOMCTL_AUDIT_P2M = "XEN_DOMCTL_audit_p2m", XEN_DOMCTL_SET_VIRQ_HANDLER = "XEN_DOMCTL_set_virq_handler",
        XEN_DOMCTL_SET_BROKEN_PAGE_P2M = "XEN_DOMCTL_set_broken_page_p2m",
        XEN_DOMCTL_SETNODEAFFINITY = "XEN_DOMCTL_setnodeaffinity",
        XEN_DOMCTL_GETNODEAFFINITY = "XEN_DOMCTL_getnodeaffinity", XEN_DOMCTL_CACHEFLUSH = "XEN_DOMCTL_cacheflush",
        XEN_DOMCTL_GET_VCPU_MSRS = "XEN_DOMCTL_get_vcpu_msrs", XEN_DOMCTL_SET_VCPU_MSRS = "XEN_DOMCTL_set_vcpu_msrs",
        XEN_DOMCTL_SETVNUMAINFO = "XEN_DOMCTL_setvnumainfo", XEN_DOMCTL_PSR_CMT_OP = "XEN_DOMCTL_psr_cmt_op",
        XEN_DOMCTL_MONITOR_OP = "XEN_DOMCTL_monitor_op", XEN_DOMCTL_PSR_ALLOC = "XEN_DOMCTL_psr_alloc",
        XEN_DOMCTL_SOFT_RESET = "XEN_DOMCTL_soft_reset", XEN_DOMCTL_VUART_OP = "XEN_DOMCTL_vuart_op",
        XEN_DOMCTL_GET_CPU_POLICY = "XEN_DOMCTL_get_cpu_policy",
        XEN_DOMCTL_SET_CPU_POLICY = "XEN_DOMCTL_set_cpu_policy", XEN_DOMCTL_VMTRACE_OP = "XEN_DOMCTL_vmtrace_op",
        XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE = "XEN_DOMCTL_get_paging_mempool_size",
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE = "XEN_DOMCTL_set_paging_mempool_size",
        XEN_DOMCTL_GDBSX_GUESTMEMIO = "XEN_DOMCTL_gdbsx_guestmemio",
        XEN_DOMCTL_GDBSX_PAUSEVCPU = "XEN_DOMCTL_gdbsx_pausevcpu",
        XEN_DOMCTL_GDBSX_UNPAUSEVCPU = "XEN_DOMCTL_gdbsx_unpausevcpu",
        XEN_DOMCTL_GDBSX_DOMSTATUS = "XEN_DOMCTL_gdbsx_domstatus", XEN_CPUID_NO_SUBLEAF = "XEN_CPUID_NO_SUBLEAF",
        XEN_CPUID_INPUT_UNUSED = "XEN_CPUID_INPUT_UNUSED", XEN_VCPUAFFINITY_HARD = "XEN_VCPUAFFINITY_HARD",
        XEN_VCPUAFFINITY_SOFT = "XEN_VCPUAFFINITY_SOFT", XEN_VCPUAFFINITY_FORCE = "XEN_VCPUAFFINITY_FORCE",
        XEN_SCHEDULER_CREDIT = "XEN_SCHEDULER_CREDIT", XEN_SCHEDULER_CREDIT2 = "XEN_SCHEDULER_CREDIT2",
        XEN_SCHEDULER_ARINC653 = "XEN_SCHEDULER_ARINC653", XEN_SCHEDULER_RTDS = "XEN_SCHEDULER_RTDS",
        XEN_SCHEDULER_NULL = "XEN_SCHEDULER_NULL", XEN_DOMCTL_SCHEDOP_PUTINFO = "XEN_DOMCTL_SCHEDOP_putinfo",
        XEN_DOMCTL_SCHEDOP_GETINFO = "XEN_DOMCTL_SCHEDOP_getinfo",
        XEN_DOMCTL_SCHEDOP_PUTVCPUINFO = "XEN_DOMCTL_SCHEDOP_putvcpuinfo",
        XEN_DOMCTL_SCHEDOP_GETVCPUINFO = "XEN_DOMCTL_SCHEDOP_getvcpuinfo",
    }
    structures! {
        list, [oxen_abi::domctl];
        ArchDomainconfig = "struct xen_arch_domainconfig" {
            emulation_flags, misc_flags
        }
        DomctlCreatedomain = "struct xen_domctl_createdomain" {
            ssidref, handle, flags, iommu_opts, max_vcpus, max_evtchn_port, max_grant_frames, max_maptrack_frames,
            grant_opts, vmtrace_size, cpupool_id, arch
        }
        DomctlGetdomaininfo = "struct xen_domctl_getdomaininfo" {
            domain, pad1, flags, tot_pages, max_pages, outstanding_pages, shr_pages, paged_pages, shared_info_frame,
            cpu_time, nr_online_vcpus, max_vcpu_id, ssidref, handle, cpupool, gpaddr_bits, pad2, arch_config
        }
        DomctlGetpageframeinfo3 = "struct xen_domctl_getpageframeinfo3" {
            num, array
        }
        DomctlShadowOpStats = "struct xen_domctl_shadow_op_stats" {
            fault_count, dirty_count
        }
        DomctlShadowOp = "struct xen_domctl_shadow_op" {
            op, mode, mb, dirty_bitmap, pages, stats
            | _pad0
        }
        DomctlSetdomainhandle = "struct xen_domctl_setdomainhandle" {
            handle
        }
        DomctlSetdebugging = "struct xen_domctl_setdebugging" {
            enable
        }
        DomctlSettimeoffset = "struct xen_domctl_settimeoffset" {
            time_offset_seconds
        }
        DomctlAddressSize = "struct xen_domctl_address_size" {
            size
        }
        DomctlTscInfo = "struct xen_domctl_tsc_info" {
            tsc_mode, gtsc_khz, incarnation, pad, elapsed_nsec
        }
        DomctlVnuma = "struct xen_domctl_vnuma" {
            nr_vnodes, nr_vmemranges, nr_vcpus, pad, vdistance, vcpu_to_vnode, vnode_to_pnode, vmemrange
        }
        DomctlHypercallInit = "struct xen_domctl_hypercall_init" {
            gmfn
        }
        DomctlSetVirqHandler = "struct xen_domctl_set_virq_handler" {
            virq
        }
        Domctl = "struct xen_domctl" {
            cmd, interface_version, domain, u
            | _pad
        }
        XenctlBitmap = "struct xenctl_bitmap" {
            bitmap, nr_bits
            | _pad0
        }
        DomctlMaxMem = "struct xen_domctl_max_mem" {
            max_memkb
        }
        DomctlNodeaffinity = "struct xen_domctl_nodeaffinity" {
            nodemap
        }
        DomctlIrqPermission = "struct xen_domctl_irq_permission" {
            pirq, allow_access, pad
        }
        DomctlIomemPermission = "struct xen_domctl_iomem_permission" {
            first_mfn, nr_mfns, allow_access
            | _pad0
        }
        DomctlIoportPermission = "struct xen_domctl_ioport_permission" {
            first_port, nr_ports, allow_access
            | _pad0
        }
        DomctlCpuPolicy = "struct xen_domctl_cpu_policy" {
            nr_leaves, nr_msrs, leaves, msrs, err_leaf, err_subleaf, err_msr
            | _pad0
        }
        CpuidLeaf = "struct xen_cpuid_leaf" {
            leaf, subleaf, a, b, c, d
        }
        MsrEntry = "struct xen_msr_entry" {
            idx, flags, val
        }
        DomctlMaxVcpus = "struct xen_domctl_max_vcpus" {
            max
        }
        DomctlVcpucontext = "struct xen_domctl_vcpucontext" {
            vcpu, ctxt
            | _pad0
        }
        DomctlGetvcpuinfo = "struct xen_domctl_getvcpuinfo" {
            vcpu, online, blocked, running, cpu_time, cpu
            | _pad0, _pad1
        }
        DomctlVcpuaffinity = "struct xen_domctl_vcpuaffinity" {
            vcpu, flags, cpumap_hard, cpumap_soft
        }
        DomctlSchedCredit = "struct xen_domctl_sched_credit" {
            weight, cap
        }
        DomctlSchedulerOp = "struct xen_domctl_scheduler_op" {
            sched_id, cmd, credit: "u.credit"
            | _pad0
        }
        DomctlExtVcpucontext = "struct xen_domctl_ext_vcpucontext" {
            vcpu, size, syscall32_callback_eip, sysenter_callback_eip, syscall32_callback_cs, sysenter_callback_cs,
            syscall32_disables_events, sysenter_disables_events, machine_checks: "vmce"
            | _pad0
        }
        DomctlVcpuextstate = "struct xen_domctl_vcpuextstate" {
            vcpu, xfeature_mask, size, buffer
            | _pad0
        }
        DomctlVcpuMsr = "struct xen_domctl_vcpu_msr" {
            index, reserved, value
        }
        DomctlVcpuMsrs = "struct xen_domctl_vcpu_msrs" {
            vcpu, msr_count, msrs
        }
        DomctlSendtrigger = "struct xen_domctl_sendtrigger" {
            trigger, vcpu
        }
        DomctlMemoryMapping = "struct xen_domctl_memory_mapping" {
            first_gfn, first_mfn, nr_mfns, add_mapping, padding
        }
        DomctlMonitorOp = "struct xen_domctl_monitor_op" {
            op, event, u
        }
        DomctlVmEventOp = "struct xen_domctl_vm_event_op" {
            op, mode, value: "u"
        }
    }
}
