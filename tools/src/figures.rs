//! The figures to reach: what the primitives cost on Debian's Xen 4.17, and what they may cost here.

/// A primitive that the guest `bench` measures.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name in the guest's lines.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Instructions on Debian's Xen 4.17 with `spec-ctrl=no xpti=no`.
    pub xen: f64,
    /// Cycles there, by the model of `bench/events.rs`.
    pub xen_cycles: f64,
    /// Instructions to reach, at most, where the design says so.
    pub goal: Option<f64>,
}

const fn figure(name: &'static str, what: &'static str, xen: [f64; 2], goal: Option<f64>) -> Figure {
    let [xen, xen_cycles] = xen;
    Figure { name, what, xen, xen_cycles, goal }
}

/// The primitives, in the table's order. Instructions, medians, the guest's own side included; QEMU TCG with
/// `-icount shift=0`, where a tick of the TSC is an instruction.
pub const FIGURES: [Figure; 60] = [
    figure("null_hypercall", "null hypercall (xen_version)", [251.0, 226.0], Some(84.0)),
    figure("multicall_null", "multicall, per null call", [206.0, 105.0], Some(45.0)),
    figure("update_va_map", "update_va_mapping with invlpg, map", [839.0, 748.0], Some(275.0)),
    figure("update_va_unmap", "update_va_mapping with invlpg, unmap", [754.0, 705.0], Some(250.0)),
    figure("mmu_update_map", "mmu_update, per entry, batch 256, map", [570.0, 393.0], Some(160.0)),
    figure("mmu_update_unmap", "mmu_update, per entry, batch 256, unmap", [476.0, 346.0], Some(140.0)),
    figure("pin_l1_entry", "pin an L1 with 512 writable entries, per entry", [206.0, 139.0], Some(60.0)),
    figure("unpin_l1_entry", "unpin an L1 with 512 writable entries, per entry", [162.0, 117.0], Some(50.0)),
    figure("pin_unpin_process", "pin + unpin a process (8 L1s × 64 entries)", [413_843.0, 245_106.0], Some(110_000.0)),
    figure("new_baseptr", "new_baseptr", [1051.0, 986.0], Some(300.0)),
    figure("context_switch", "context switch as Linux does it (one multicall)", [3366.0, 2595.0], Some(1000.0)),
    figure("pte_write_mov", "direct write to a read-only L1 (emulated), mov", [1646.0, 1267.0], Some(600.0)),
    figure("pte_write_xchg", "direct write to a read-only L1 (emulated), xchg", [1727.0, 1344.0], Some(600.0)),
    figure("event_send_upcall", "event send to own loopback port, with the upcall", [857.0, 904.0], Some(305.0)),
    figure("event_send_masked", "event send, masked", [416.0, 362.0], Some(139.0)),
    figure("grant_map", "grant map, batch 32, per op", [1015.0, 691.0], Some(330.0)),
    figure("grant_unmap", "grant unmap, batch 32, per op", [984.0, 720.0], Some(320.0)),
    figure("grant_copy_4096", "grant copy 4 KiB, batch 32, per op", [1713.0, 1076.0], Some(850.0)),
    figure("grant_copy_64", "grant copy 64 B, batch 32, per op", [1209.0, 824.0], Some(380.0)),
    figure("user_syscall", "guest user's syscall to guest kernel and back by iret", [661.0, 1200.0], Some(215.0)),
    figure("page_fault", "page fault to the guest's handler and back", [664.0, 752.0], Some(220.0)),
    figure("int3", "int3 to the guest's handler and back", [598.0, 719.0], Some(200.0)),
    figure("rdmsr", "rdmsr, emulated", [1133.0, 926.0], Some(380.0)),
    figure("port_read", "port read, emulated", [1343.0, 1008.0], Some(470.0)),
    figure("sched_yield", "sched_yield with nobody else", [1977.0, 1642.0], Some(300.0)),
    figure("balloon_page", "balloon: a page out and back in, batch 64", [3679.0, 2687.0], Some(1220.0)),
    figure("timer_to_blocked", "timer interrupt to a blocked guest's handler", [4444.0, 10_933.0], Some(1300.0)),
    figure("int80", "int 0x80 of the guest's kernel to its handler and back", [498.0, 649.0], None),
    figure("invalid_opcode", "#UD to the guest's handler and back", [662.0, 751.0], None),
    figure("divide_error", "#DE to the guest's handler and back", [607.0, 744.0], None),
    figure("general_protection", "#GP to the guest's handler and back", [1380.0, 1110.0], None),
    figure("device_not_available", "#NM to the guest's handler and back", [601.0, 780.0], None),
    figure("user_int80", "guest user's int 0x80 to guest kernel and back", [650.0, 1395.0], None),
    figure("forced_cpuid", "cpuid behind Xen's prefix", [422.0, 511.0], None),
    figure("clts", "clts, emulated", [1116.0, 978.0], None),
    figure("read_cr0", "read of CR0, emulated", [1257.0, 928.0], None),
    figure("port_write", "port write, emulated", [1396.0, 1034.0], None),
    figure("get_features", "xen_version, features", [328.0, 264.0], None),
    figure("set_timer", "set_timer_op, none", [350.0, 366.0], None),
    figure("stack_switch", "stack_switch", [218.0, 209.0], None),
    figure("segment_base_fs", "set_segment_base, FS", [226.0, 313.0], None),
    figure("segment_base_gs", "set_segment_base, user's GS", [226.0, 313.0], None),
    figure("fpu_taskswitch", "fpu_taskswitch", [224.0, 272.0], None),
    figure("set_debugreg", "set_debugreg", [253.0, 226.0], None),
    figure("get_debugreg", "get_debugreg", [237.0, 218.0], None),
    figure("vcpu_is_up", "vcpu_op, is_up", [279.0, 240.0], None),
    figure("vcpu_runstate", "vcpu_op, get_runstate_info", [419.0, 362.0], None),
    figure("vcpu_set_timer", "vcpu_op, set_singleshot_timer", [622.0, 502.0], None),
    figure("vcpu_stop_timer", "vcpu_op, stop_singleshot_timer", [376.0, 326.0], None),
    figure("tlb_flush", "mmuext_op, tlb_flush_local", [514.0, 645.0], None),
    figure("tlb_flush_all", "mmuext_op, tlb_flush_all", [575.0, 676.0], None),
    figure("invlpg", "mmuext_op, invlpg_local", [500.0, 470.0], None),
    figure("invlpg_all", "mmuext_op, invlpg_all", [556.0, 498.0], None),
    figure("new_user_baseptr", "mmuext_op, new_user_baseptr", [445.0, 322.0], None),
    figure("machphys_update", "mmu_update, one MACHPHYS_UPDATE", [546.0, 409.0], None),
    figure("event_status", "event status", [422.0, 347.0], None),
    figure("event_unmask", "event unmask", [350.0, 329.0], None),
    figure("event_alloc_close", "event port made and closed", [1017.0, 870.0], None),
    figure("current_reservation", "memory_op, current_reservation", [310.0, 255.0], None),
    figure("timer_to_running", "timer interrupt into a running guest's handler", [968.0, 1177.0], None),
];
