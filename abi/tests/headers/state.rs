//! What every guest sees of its memory and its processors.

use super::{List, constants, structures};

/// Adds all of them.
pub(crate) fn all(list: &mut List) {
    guest_context(list);
    memory(list);
    mmu(list);
    segments(list);
    shared_info(list);
    start_info(list);
    trap(list);
}

fn guest_context(list: &mut List) {
    structures! {
        list, [oxen_abi::guest_context];
        CpuUserRegs = "struct cpu_user_regs" {
            r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, error_code, entry_vector, rip,
            cs, saved_upcall_mask, rflags, rsp, ss, es, ds, fs, gs
            | _pad0, _pad1, _pad2, _pad3, _pad4, _pad5, _pad6
        }
        VcpuGuestContext = "struct vcpu_guest_context" {
            fpu_ctxt, flags, user_regs, trap_ctxt, ldt_base, ldt_ents, gdt_frames, gdt_ents, kernel_ss, kernel_sp,
            ctrlreg, debugreg, event_callback_eip, failsafe_callback_eip, syscall_callback_eip, vm_assist, fs_base,
            gs_base_kernel, gs_base_user
        }
    }
}

fn memory(list: &mut List) {
    constants! {
        list, [oxen_abi::memory];
        XENMEM_INCREASE_RESERVATION = "XENMEM_increase_reservation",
        XENMEM_DECREASE_RESERVATION = "XENMEM_decrease_reservation",
        XENMEM_MAXIMUM_RAM_PAGE = "XENMEM_maximum_ram_page",
        XENMEM_CURRENT_RESERVATION = "XENMEM_current_reservation",
        XENMEM_MAXIMUM_RESERVATION = "XENMEM_maximum_reservation",
        XENMEM_MACHPHYS_MFN_LIST = "XENMEM_machphys_mfn_list", XENMEM_POPULATE_PHYSMAP = "XENMEM_populate_physmap",
        XENMEM_ADD_TO_PHYSMAP = "XENMEM_add_to_physmap", XENMEM_MEMORY_MAP = "XENMEM_memory_map",
        XENMEM_MACHINE_MEMORY_MAP = "XENMEM_machine_memory_map", XENMEM_EXCHANGE = "XENMEM_exchange",
        XENMEM_MACHPHYS_MAPPING = "XENMEM_machphys_mapping", XENMEM_SET_MEMORY_MAP = "XENMEM_set_memory_map",
        XENMEM_MAXIMUM_GPFN = "XENMEM_maximum_gpfn", XENMEM_REMOVE_FROM_PHYSMAP = "XENMEM_remove_from_physmap",
        XENMEM_SET_POD_TARGET = "XENMEM_set_pod_target", XENMEM_GET_POD_TARGET = "XENMEM_get_pod_target",
        XENMEM_GET_SHARING_FREED_PAGES = "XENMEM_get_sharing_freed_pages",
        XENMEM_GET_SHARING_SHARED_PAGES = "XENMEM_get_sharing_shared_pages", XENMEM_PAGING_OP = "XENMEM_paging_op",
        XENMEM_ACCESS_OP = "XENMEM_access_op", XENMEM_SHARING_OP = "XENMEM_sharing_op",
        XENMEM_ADD_TO_PHYSMAP_BATCH = "XENMEM_add_to_physmap_batch", XENMEM_CLAIM_PAGES = "XENMEM_claim_pages",
        XENMEM_MACHPHYS_COMPAT_MFN_LIST = "XENMEM_machphys_compat_mfn_list",
        XENMEM_GET_VNUMAINFO = "XENMEM_get_vnumainfo",
        XENMEM_RESERVED_DEVICE_MEMORY_MAP = "XENMEM_reserved_device_memory_map",
        XENMEM_ACQUIRE_RESOURCE = "XENMEM_acquire_resource",
        XENMEMF_POPULATE_ON_DEMAND = "XENMEMF_populate_on_demand",
        XENMEMF_EXACT_NODE_REQUEST = "XENMEMF_exact_node_request", XENMEMF_VNODE = "XENMEMF_vnode",
        XENMAPSPACE_SHARED_INFO = "XENMAPSPACE_shared_info", XENMAPSPACE_GRANT_TABLE = "XENMAPSPACE_grant_table",
        XENMEM_RESOURCE_IOREQ_SERVER = "XENMEM_resource_ioreq_server",
        XENMEM_RESOURCE_GRANT_TABLE = "XENMEM_resource_grant_table",
        XENMEM_RESOURCE_VMTRACE_BUF = "XENMEM_resource_vmtrace_buf",
        XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED = "XENMEM_resource_grant_table_id_shared",
        XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS = "XENMEM_resource_grant_table_id_status",
    }
    memory_structures(list);
}

fn memory_structures(list: &mut List) {
    structures! {
        list, [oxen_abi::memory];
        MemoryReservation = "struct xen_memory_reservation" {
            extent_start, nr_extents, extent_order, mem_flags, domid
            | _pad
        }
        AddToPhysmap = "struct xen_add_to_physmap" {
            domid, size, space, idx, gpfn
        }
        MemoryExchange = "struct xen_memory_exchange" {
            r#in: "in", out, nr_exchanged
        }
        MemoryDomain = "struct xen_memory_domain" {
            domid
        }
        MachphysMfnList = "struct xen_machphys_mfn_list" {
            max_extents, extent_start, nr_extents
            | _pad0, _pad1
        }
        MachphysMapping = "struct xen_machphys_mapping" {
            v_start, v_end, max_mfn
        }
        MemoryMap = "struct xen_memory_map" {
            nr_entries, buffer
            | _pad
        }
        ForeignMemoryMap = "struct xen_foreign_memory_map" {
            domid, map
            | _pad
        }
        Vmemrange = "struct xen_vmemrange" {
            start, end, flags, nid
        }
        VnumaTopologyInfo = "struct xen_vnuma_topology_info" {
            domid, pad, nr_vnodes, nr_vcpus, nr_vmemranges, vdistance, vcpu_to_vnode, vmemrange
        }
        MemAcquireResource = "struct xen_mem_acquire_resource" {
            domid, r#type: "type", id, nr_frames, pad, frame, frame_list
        }
    }
}

fn mmu(list: &mut List) {
    constants! {
        list, [oxen_abi::mmu];
        MMU_NORMAL_PT_UPDATE = "MMU_NORMAL_PT_UPDATE", MMU_MACHPHYS_UPDATE = "MMU_MACHPHYS_UPDATE",
        MMU_PT_UPDATE_PRESERVE_AD = "MMU_PT_UPDATE_PRESERVE_AD",
        MMU_PT_UPDATE_NO_TRANSLATE = "MMU_PT_UPDATE_NO_TRANSLATE", MMUEXT_PIN_L1_TABLE = "MMUEXT_PIN_L1_TABLE",
        MMUEXT_PIN_L2_TABLE = "MMUEXT_PIN_L2_TABLE", MMUEXT_PIN_L3_TABLE = "MMUEXT_PIN_L3_TABLE",
        MMUEXT_PIN_L4_TABLE = "MMUEXT_PIN_L4_TABLE", MMUEXT_UNPIN_TABLE = "MMUEXT_UNPIN_TABLE",
        MMUEXT_NEW_BASEPTR = "MMUEXT_NEW_BASEPTR", MMUEXT_TLB_FLUSH_LOCAL = "MMUEXT_TLB_FLUSH_LOCAL",
        MMUEXT_INVLPG_LOCAL = "MMUEXT_INVLPG_LOCAL", MMUEXT_TLB_FLUSH_MULTI = "MMUEXT_TLB_FLUSH_MULTI",
        MMUEXT_INVLPG_MULTI = "MMUEXT_INVLPG_MULTI", MMUEXT_TLB_FLUSH_ALL = "MMUEXT_TLB_FLUSH_ALL",
        MMUEXT_INVLPG_ALL = "MMUEXT_INVLPG_ALL", MMUEXT_FLUSH_CACHE = "MMUEXT_FLUSH_CACHE",
        MMUEXT_SET_LDT = "MMUEXT_SET_LDT", MMUEXT_NEW_USER_BASEPTR = "MMUEXT_NEW_USER_BASEPTR",
        MMUEXT_CLEAR_PAGE = "MMUEXT_CLEAR_PAGE", MMUEXT_COPY_PAGE = "MMUEXT_COPY_PAGE",
        MMUEXT_FLUSH_CACHE_GLOBAL = "MMUEXT_FLUSH_CACHE_GLOBAL", MMUEXT_MARK_SUPER = "MMUEXT_MARK_SUPER",
        MMUEXT_UNMARK_SUPER = "MMUEXT_UNMARK_SUPER", UVMF_NONE = "UVMF_NONE", UVMF_TLB_FLUSH = "UVMF_TLB_FLUSH",
        UVMF_INVLPG = "UVMF_INVLPG", UVMF_FLUSHTYPE_MASK = "UVMF_FLUSHTYPE_MASK", UVMF_LOCAL = "UVMF_LOCAL",
        UVMF_MULTI = "UVMF_MULTI", UVMF_ALL = "UVMF_ALL",
    }
    structures! {
        list, [oxen_abi::mmu];
        MmuUpdate = "struct mmu_update" {
            ptr, val
        }
        MmuextOp = "struct mmuext_op" {
            cmd, arg1: "arg1.mfn", arg2: "arg2.src_mfn"
            | _pad
        }
    }
}

fn segments(list: &mut List) {
    constants! {
        list, [oxen_abi::segments];
        FLAT_RING3_CS32 = "FLAT_RING3_CS32", FLAT_RING3_CS64 = "FLAT_RING3_CS64",
        FLAT_RING3_DS32 = "FLAT_RING3_DS32", FLAT_RING3_DS64 = "FLAT_RING3_DS64",
        FLAT_RING3_SS32 = "FLAT_RING3_SS32", FLAT_RING3_SS64 = "FLAT_RING3_SS64", FLAT_KERNEL_CS = "FLAT_KERNEL_CS",
        FLAT_KERNEL_DS = "FLAT_KERNEL_DS", FLAT_KERNEL_SS = "FLAT_KERNEL_SS", FLAT_USER_CS = "FLAT_USER_CS",
        FLAT_USER_CS32 = "FLAT_USER_CS32", FLAT_USER_DS = "FLAT_USER_DS", FLAT_USER_SS = "FLAT_USER_SS",
        FIRST_RESERVED_GDT_PAGE = "FIRST_RESERVED_GDT_PAGE", FIRST_RESERVED_GDT_BYTE = "FIRST_RESERVED_GDT_BYTE",
        FIRST_RESERVED_GDT_ENTRY = "FIRST_RESERVED_GDT_ENTRY", XEN_LEGACY_MAX_VCPUS = "XEN_LEGACY_MAX_VCPUS",
        HYPERVISOR_VIRT_START = "HYPERVISOR_VIRT_START", HYPERVISOR_VIRT_END = "HYPERVISOR_VIRT_END",
        MACH2PHYS_VIRT_START = "MACH2PHYS_VIRT_START", MACH2PHYS_VIRT_END = "MACH2PHYS_VIRT_END",
        SEGBASE_FS = "SEGBASE_FS", SEGBASE_GS_USER = "SEGBASE_GS_USER", SEGBASE_GS_KERNEL = "SEGBASE_GS_KERNEL",
        SEGBASE_GS_USER_SEL = "SEGBASE_GS_USER_SEL", VGCF_I387_VALID = "VGCF_I387_VALID",
        VGCF_IN_KERNEL = "VGCF_in_kernel", VGCF_FAILSAFE_DISABLES_EVENTS = "VGCF_failsafe_disables_events",
        VGCF_SYSCALL_DISABLES_EVENTS = "VGCF_syscall_disables_events", VGCF_ONLINE = "VGCF_online",
        VGCF_IN_SYSCALL = "VGCF_in_syscall",
    }
    structures! {
        list, [oxen_abi::segments];
        IretContext = "struct iret_context" {
            rax, r11, rcx, flags, rip, cs, rflags, rsp, ss
        }
    }
}

fn shared_info(list: &mut List) {
    constants! {
        list, [oxen_abi::shared_info];
        XEN_PVCLOCK_TSC_STABLE_BIT = "XEN_PVCLOCK_TSC_STABLE_BIT",
        XEN_PVCLOCK_GUEST_STOPPED = "XEN_PVCLOCK_GUEST_STOPPED",
    }
    structures! {
        list, [oxen_abi::shared_info];
        VcpuTimeInfo = "struct vcpu_time_info" {
            version, pad0, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags, pad1
        }
        ArchVcpuInfo = "struct arch_vcpu_info" {
            cr2, pad
        }
        VcpuInfo = "struct vcpu_info" {
            evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, arch, time
            | _pad
        }
        ArchSharedInfo = "struct arch_shared_info" {
            max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr, p2m_generation
        }
        SharedInfo = "struct shared_info" {
            vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi, arch
        }
    }
}

fn start_info(list: &mut List) {
    constants! {
        list, [oxen_abi::start_info];
        MAX_GUEST_CMDLINE = "MAX_GUEST_CMDLINE", SIF_PRIVILEGED = "SIF_PRIVILEGED",
        SIF_INITDOMAIN = "SIF_INITDOMAIN", SIF_MULTIBOOT_MOD = "SIF_MULTIBOOT_MOD",
        SIF_MOD_START_PFN = "SIF_MOD_START_PFN", SIF_VIRT_P2M_4TOOLS = "SIF_VIRT_P2M_4TOOLS",
        SIF_PM_MASK = "SIF_PM_MASK",
    }
    structures! {
        list, [oxen_abi::start_info];
        StartInfo = "struct start_info" {
            magic, nr_pages, shared_info, flags, store_mfn, store_evtchn, console_mfn: "console.domU.mfn",
            console_evtchn: "console.domU.evtchn", pt_base, nr_pt_frames, mfn_list, mod_start, mod_len, cmd_line,
            first_p2m_pfn, nr_p2m_frames
            | _pad0, _pad1, _pad2
        }
    }
}

fn trap(list: &mut List) {
    structures! {
        list, [oxen_abi::trap];
        TrapInfo = "struct trap_info" {
            vector, flags, cs, address
            | _pad
        }
    }
}
