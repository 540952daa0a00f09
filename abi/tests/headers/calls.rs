//! What every guest calls.
#![expect(clippy::too_many_lines, reason = "tables")]

use super::{List, constants, structures};

/// Adds all of them.
pub(crate) fn all(list: &mut List) {
    callback(list);
    event_channel(list);
    features(list);
    hypercall(list);
    sched(list);
    vcpu(list);
    version(list);
    virq(list);
    vm_assist(list);
}

fn callback(list: &mut List) {
    constants! {
        list, [oxen_abi::callback];
        CALLBACKOP_REGISTER = "CALLBACKOP_register", CALLBACKOP_UNREGISTER = "CALLBACKOP_unregister",
        CALLBACKTYPE_EVENT = "CALLBACKTYPE_event", CALLBACKTYPE_FAILSAFE = "CALLBACKTYPE_failsafe",
        CALLBACKTYPE_SYSCALL = "CALLBACKTYPE_syscall",
        CALLBACKTYPE_SYSENTER_DEPRECATED = "CALLBACKTYPE_sysenter_deprecated", CALLBACKTYPE_NMI = "CALLBACKTYPE_nmi",
        CALLBACKTYPE_SYSENTER = "CALLBACKTYPE_sysenter", CALLBACKTYPE_SYSCALL32 = "CALLBACKTYPE_syscall32",
        CALLBACKF_MASK_EVENTS = "CALLBACKF_mask_events",
    }
    structures! {
        list, [oxen_abi::callback];
        CallbackRegister = "struct callback_register" {
            r#type: "type", flags, address
            | _pad
        }
        CallbackUnregister = "struct callback_unregister" {
            r#type: "type"
            | _unused
        }
    }
}

fn event_channel(list: &mut List) {
    constants! {
        list, [oxen_abi::event_channel];
        EVTCHNOP_BIND_INTERDOMAIN = "EVTCHNOP_bind_interdomain", EVTCHNOP_BIND_VIRQ = "EVTCHNOP_bind_virq",
        EVTCHNOP_BIND_PIRQ = "EVTCHNOP_bind_pirq", EVTCHNOP_CLOSE = "EVTCHNOP_close",
        EVTCHNOP_SEND = "EVTCHNOP_send", EVTCHNOP_STATUS = "EVTCHNOP_status",
        EVTCHNOP_ALLOC_UNBOUND = "EVTCHNOP_alloc_unbound", EVTCHNOP_BIND_IPI = "EVTCHNOP_bind_ipi",
        EVTCHNOP_BIND_VCPU = "EVTCHNOP_bind_vcpu", EVTCHNOP_UNMASK = "EVTCHNOP_unmask",
        EVTCHNOP_RESET = "EVTCHNOP_reset", EVTCHNOP_INIT_CONTROL = "EVTCHNOP_init_control",
        EVTCHNOP_EXPAND_ARRAY = "EVTCHNOP_expand_array", EVTCHNOP_SET_PRIORITY = "EVTCHNOP_set_priority",
        EVTCHNSTAT_CLOSED = "EVTCHNSTAT_closed", EVTCHNSTAT_UNBOUND = "EVTCHNSTAT_unbound",
        EVTCHNSTAT_INTERDOMAIN = "EVTCHNSTAT_interdomain", EVTCHNSTAT_PIRQ = "EVTCHNSTAT_pirq",
        EVTCHNSTAT_VIRQ = "EVTCHNSTAT_virq", EVTCHNSTAT_IPI = "EVTCHNSTAT_ipi",
        BIND_PIRQ_WILL_SHARE = "BIND_PIRQ__WILL_SHARE", EVTCHN_2L_NR_CHANNELS = "EVTCHN_2L_NR_CHANNELS",
        EVTCHN_FIFO_PRIORITY_MAX = "EVTCHN_FIFO_PRIORITY_MAX", EVTCHN_FIFO_PRIORITY_MIN = "EVTCHN_FIFO_PRIORITY_MIN",
        EVTCHN_FIFO_PRIORITY_DEFAULT = "EVTCHN_FIFO_PRIORITY_DEFAULT",
        EVTCHN_FIFO_PENDING = "EVTCHN_FIFO_PENDING", EVTCHN_FIFO_MASKED = "EVTCHN_FIFO_MASKED",
        EVTCHN_FIFO_LINKED = "EVTCHN_FIFO_LINKED", EVTCHN_FIFO_BUSY = "EVTCHN_FIFO_BUSY",
        EVTCHN_FIFO_MAX_QUEUES = "EVTCHN_FIFO_MAX_QUEUES", EVTCHN_FIFO_LINK_BITS = "EVTCHN_FIFO_LINK_BITS",
        EVTCHN_FIFO_LINK_MASK = "EVTCHN_FIFO_LINK_MASK", EVTCHN_FIFO_NR_CHANNELS = "EVTCHN_FIFO_NR_CHANNELS",
    }
    structures! {
        list, [oxen_abi::event_channel];
        EvtchnAllocUnbound = "struct evtchn_alloc_unbound" {
            dom, remote_dom, port
        }
        EvtchnBindInterdomain = "struct evtchn_bind_interdomain" {
            remote_dom, remote_port, local_port
            | _pad
        }
        EvtchnBindVirq = "struct evtchn_bind_virq" {
            virq, vcpu, port
        }
        EvtchnBindPirq = "struct evtchn_bind_pirq" {
            pirq, flags, port
        }
        EvtchnBindIpi = "struct evtchn_bind_ipi" {
            vcpu, port
        }
        EvtchnClose = "struct evtchn_close" {
            port
        }
        EvtchnSend = "struct evtchn_send" {
            port
        }
        EvtchnStatus = "struct evtchn_status" {
            dom, port, status, vcpu, u: "u.virq", remote_port: "u.interdomain.port"
            | _pad
        }
        EvtchnBindVcpu = "struct evtchn_bind_vcpu" {
            port, vcpu
        }
        EvtchnUnmask = "struct evtchn_unmask" {
            port
        }
        EvtchnReset = "struct evtchn_reset" {
            dom
        }
        EvtchnInitControl = "struct evtchn_init_control" {
            control_gfn, offset, vcpu, link_bits
            | _pad
        }
        EvtchnExpandArray = "struct evtchn_expand_array" {
            array_gfn
        }
        EvtchnSetPriority = "struct evtchn_set_priority" {
            port, priority
        }
        EvtchnFifoControlBlock = "struct evtchn_fifo_control_block" {
            ready, _rsvd, head
        }
        EvtchnOp = "struct evtchn_op" {
            cmd, u
        }
    }
}

fn features(list: &mut List) {
    constants! {
        list, [oxen_abi::features];
        XENFEAT_WRITABLE_PAGE_TABLES = "XENFEAT_writable_page_tables",
        XENFEAT_WRITABLE_DESCRIPTOR_TABLES = "XENFEAT_writable_descriptor_tables",
        XENFEAT_AUTO_TRANSLATED_PHYSMAP = "XENFEAT_auto_translated_physmap",
        XENFEAT_SUPERVISOR_MODE_KERNEL = "XENFEAT_supervisor_mode_kernel",
        XENFEAT_PAE_PGDIR_ABOVE_4GB = "XENFEAT_pae_pgdir_above_4gb",
        XENFEAT_MMU_PT_UPDATE_PRESERVE_AD = "XENFEAT_mmu_pt_update_preserve_ad",
        XENFEAT_HIGHMEM_ASSIST = "XENFEAT_highmem_assist",
        XENFEAT_GNTTAB_MAP_AVAIL_BITS = "XENFEAT_gnttab_map_avail_bits",
        XENFEAT_HVM_CALLBACK_VECTOR = "XENFEAT_hvm_callback_vector",
        XENFEAT_HVM_SAFE_PVCLOCK = "XENFEAT_hvm_safe_pvclock", XENFEAT_HVM_PIRQS = "XENFEAT_hvm_pirqs",
        XENFEAT_DOM0 = "XENFEAT_dom0", XENFEAT_MEMORY_OP_VNODE_SUPPORTED = "XENFEAT_memory_op_vnode_supported",
        XENFEAT_ARM_SMCCC_SUPPORTED = "XENFEAT_ARM_SMCCC_supported",
        XENFEAT_LINUX_RSDP_UNRESTRICTED = "XENFEAT_linux_rsdp_unrestricted",
        XENFEAT_NOT_DIRECT_MAPPED = "XENFEAT_not_direct_mapped", XENFEAT_DIRECT_MAPPED = "XENFEAT_direct_mapped",
        XENFEAT_NR_SUBMAPS = "XENFEAT_NR_SUBMAPS",
    }
}

fn hypercall(list: &mut List) {
    structures! {
        list, [oxen_abi::hypercall];
        MulticallEntry = "struct multicall_entry" {
            op, result, args
        }
    }
}

fn sched(list: &mut List) {
    constants! {
        list, [oxen_abi::sched];
        SCHEDOP_YIELD = "SCHEDOP_yield", SCHEDOP_BLOCK = "SCHEDOP_block", SCHEDOP_SHUTDOWN = "SCHEDOP_shutdown",
        SCHEDOP_POLL = "SCHEDOP_poll", SCHEDOP_REMOTE_SHUTDOWN = "SCHEDOP_remote_shutdown",
        SCHEDOP_SHUTDOWN_CODE = "SCHEDOP_shutdown_code", SCHEDOP_WATCHDOG = "SCHEDOP_watchdog",
        SCHEDOP_PIN_OVERRIDE = "SCHEDOP_pin_override", SHUTDOWN_POWEROFF = "SHUTDOWN_poweroff",
        SHUTDOWN_REBOOT = "SHUTDOWN_reboot", SHUTDOWN_SUSPEND = "SHUTDOWN_suspend",
        SHUTDOWN_CRASH = "SHUTDOWN_crash", SHUTDOWN_WATCHDOG = "SHUTDOWN_watchdog",
        SHUTDOWN_SOFT_RESET = "SHUTDOWN_soft_reset", SHUTDOWN_MAX = "SHUTDOWN_MAX",
    }
    structures! {
        list, [oxen_abi::sched];
        SchedShutdown = "struct sched_shutdown" {
            reason
        }
        SchedPoll = "struct sched_poll" {
            ports, nr_ports, timeout
            | _pad
        }
        SchedRemoteShutdown = "struct sched_remote_shutdown" {
            domain_id, reason
            | _pad
        }
        SchedWatchdog = "struct sched_watchdog" {
            id, timeout
        }
        SchedPinOverride = "struct sched_pin_override" {
            pcpu
        }
    }
}

fn vcpu(list: &mut List) {
    constants! {
        list, [oxen_abi::vcpu];
        VCPUOP_INITIALISE = "VCPUOP_initialise", VCPUOP_UP = "VCPUOP_up", VCPUOP_DOWN = "VCPUOP_down",
        VCPUOP_IS_UP = "VCPUOP_is_up", VCPUOP_GET_RUNSTATE_INFO = "VCPUOP_get_runstate_info",
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA = "VCPUOP_register_runstate_memory_area",
        VCPUOP_SET_PERIODIC_TIMER = "VCPUOP_set_periodic_timer",
        VCPUOP_STOP_PERIODIC_TIMER = "VCPUOP_stop_periodic_timer",
        VCPUOP_SET_SINGLESHOT_TIMER = "VCPUOP_set_singleshot_timer",
        VCPUOP_STOP_SINGLESHOT_TIMER = "VCPUOP_stop_singleshot_timer",
        VCPUOP_REGISTER_VCPU_INFO = "VCPUOP_register_vcpu_info", VCPUOP_SEND_NMI = "VCPUOP_send_nmi",
        VCPUOP_GET_PHYSID = "VCPUOP_get_physid",
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA = "VCPUOP_register_vcpu_time_memory_area",
        RUNSTATE_RUNNING = "RUNSTATE_running", RUNSTATE_RUNNABLE = "RUNSTATE_runnable",
        RUNSTATE_BLOCKED = "RUNSTATE_blocked", RUNSTATE_OFFLINE = "RUNSTATE_offline",
        XEN_RUNSTATE_UPDATE = "XEN_RUNSTATE_UPDATE", VCPU_SSHOTTMR_FUTURE = "VCPU_SSHOTTMR_future",
    }
    structures! {
        list, [oxen_abi::vcpu];
        VcpuRunstateInfo = "struct vcpu_runstate_info" {
            state, state_entry_time, time
            | _pad
        }
        VcpuRegisterRunstateMemoryArea = "struct vcpu_register_runstate_memory_area" {
            addr: "addr.p"
        }
        VcpuSetPeriodicTimer = "struct vcpu_set_periodic_timer" {
            period_ns
        }
        VcpuSetSingleshotTimer = "struct vcpu_set_singleshot_timer" {
            timeout_abs_ns, flags
            | _pad
        }
        VcpuRegisterVcpuInfo = "struct vcpu_register_vcpu_info" {
            mfn, offset, rsvd
        }
        VcpuGetPhysid = "struct vcpu_get_physid" {
            phys_id
        }
        VcpuRegisterTimeMemoryArea = "struct vcpu_register_time_memory_area" {
            addr: "addr.p"
        }
    }
}

fn version(list: &mut List) {
    constants! {
        list, [oxen_abi::version];
        XENVER_VERSION = "XENVER_version", XENVER_EXTRAVERSION = "XENVER_extraversion",
        XENVER_COMPILE_INFO = "XENVER_compile_info", XENVER_CAPABILITIES = "XENVER_capabilities",
        XENVER_CHANGESET = "XENVER_changeset", XENVER_PLATFORM_PARAMETERS = "XENVER_platform_parameters",
        XENVER_GET_FEATURES = "XENVER_get_features", XENVER_PAGESIZE = "XENVER_pagesize",
        XENVER_GUEST_HANDLE = "XENVER_guest_handle", XENVER_COMMANDLINE = "XENVER_commandline",
        XENVER_BUILD_ID = "XENVER_build_id", XEN_EXTRAVERSION_LEN = "XEN_EXTRAVERSION_LEN",
        XEN_CAPABILITIES_INFO_LEN = "XEN_CAPABILITIES_INFO_LEN",
        XEN_CHANGESET_INFO_LEN = "sizeof(xen_changeset_info_t)", XEN_COMMANDLINE_LEN = "sizeof(xen_commandline_t)",
    }
    structures! {
        list, [oxen_abi::version];
        CompileInfo = "struct xen_compile_info" {
            compiler, compile_by, compile_domain, compile_date
        }
        PlatformParameters = "struct xen_platform_parameters" {
            virt_start
        }
        FeatureInfo = "struct xen_feature_info" {
            submap_idx, submap
        }
    }
}

fn virq(list: &mut List) {
    constants! {
        list, [oxen_abi::virq];
        VIRQ_TIMER = "VIRQ_TIMER", VIRQ_DEBUG = "VIRQ_DEBUG", VIRQ_CONSOLE = "VIRQ_CONSOLE",
        VIRQ_DOM_EXC = "VIRQ_DOM_EXC", VIRQ_TBUF = "VIRQ_TBUF", VIRQ_DEBUGGER = "VIRQ_DEBUGGER",
        VIRQ_XENOPROF = "VIRQ_XENOPROF", VIRQ_CON_RING = "VIRQ_CON_RING", VIRQ_PCPU_STATE = "VIRQ_PCPU_STATE",
        VIRQ_MEM_EVENT = "VIRQ_MEM_EVENT", VIRQ_ARGO = "VIRQ_ARGO", VIRQ_ENOMEM = "VIRQ_ENOMEM",
        VIRQ_XENPMU = "VIRQ_XENPMU", VIRQ_ARCH_0 = "VIRQ_ARCH_0", NR_VIRQS = "NR_VIRQS",
    }
}

fn vm_assist(list: &mut List) {
    constants! {
        list, [oxen_abi::vm_assist];
        VMASST_CMD_ENABLE = "VMASST_CMD_enable", VMASST_CMD_DISABLE = "VMASST_CMD_disable",
        VMASST_TYPE_4GB_SEGMENTS = "VMASST_TYPE_4gb_segments",
        VMASST_TYPE_4GB_SEGMENTS_NOTIFY = "VMASST_TYPE_4gb_segments_notify",
        VMASST_TYPE_WRITABLE_PAGETABLES = "VMASST_TYPE_writable_pagetables",
        VMASST_TYPE_PAE_EXTENDED_CR3 = "VMASST_TYPE_pae_extended_cr3",
        VMASST_TYPE_ARCHITECTURAL_IOPL = "VMASST_TYPE_architectural_iopl",
        VMASST_TYPE_RUNSTATE_UPDATE_FLAG = "VMASST_TYPE_runstate_update_flag",
        VMASST_TYPE_M2P_STRICT = "VMASST_TYPE_m2p_strict",
    }
}
