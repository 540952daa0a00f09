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
    /// Instructions to reach, at most.
    pub goal: f64,
}

const fn figure(name: &'static str, what: &'static str, xen: f64, goal: f64) -> Figure {
    Figure { name, what, xen, goal }
}

/// The primitives, in the table's order. Instructions, medians, the guest's own side included; QEMU TCG with
/// `-icount shift=0`, where a tick of the TSC is an instruction.
pub const FIGURES: [Figure; 27] = [
    figure("null_hypercall", "null hypercall (xen_version)", 252.0, 84.0),
    figure("multicall_null", "multicall, per null call", 233.0, 45.0),
    figure("update_va_map", "update_va_mapping with invlpg, map", 824.0, 275.0),
    figure("update_va_unmap", "update_va_mapping with invlpg, unmap", 760.0, 250.0),
    figure("mmu_update_map", "mmu_update, per entry, batch 256, map", 548.0, 160.0),
    figure("mmu_update_unmap", "mmu_update, per entry, batch 256, unmap", 480.0, 140.0),
    figure("pin_l1_entry", "pin an L1 with 512 writable entries, per entry", 206.0, 60.0),
    figure("unpin_l1_entry", "unpin an L1 with 512 writable entries, per entry", 162.0, 50.0),
    figure("pin_unpin_process", "pin + unpin a process (8 L1s × 64 entries)", 385_400.0, 110_000.0),
    figure("new_baseptr", "new_baseptr", 1021.0, 300.0),
    figure("context_switch", "context switch as Linux does it (one multicall)", 3281.0, 1000.0),
    figure("pte_write_mov", "direct write to a read-only L1 (emulated), mov", 1699.0, 600.0),
    figure("pte_write_xchg", "direct write to a read-only L1 (emulated), xchg", 1815.0, 600.0),
    figure("event_send_upcall", "event send to own loopback port, with the upcall", 916.0, 305.0),
    figure("event_send_masked", "event send, masked", 417.0, 139.0),
    figure("grant_map", "grant map, batch 32, per op", 1006.0, 330.0),
    figure("grant_unmap", "grant unmap, batch 32, per op", 974.0, 320.0),
    figure("grant_copy_4096", "grant copy 4 KiB, batch 32, per op", 1695.0, 850.0),
    figure("grant_copy_64", "grant copy 64 B, batch 32, per op", 1191.0, 380.0),
    figure("user_syscall", "guest user's syscall to guest kernel and back by iret", 644.0, 215.0),
    figure("page_fault", "page fault to the guest's handler and back", 666.0, 220.0),
    figure("int3", "int3 to the guest's handler and back", 599.0, 200.0),
    figure("rdmsr", "rdmsr, emulated", 1134.0, 380.0),
    figure("port_read", "port read, emulated", 1409.0, 470.0),
    figure("sched_yield", "sched_yield with nobody else", 1978.0, 300.0),
    figure("balloon_page", "balloon: a page out and back in, batch 64", 3679.0, 1220.0),
    figure("timer_to_blocked", "timer interrupt to a blocked guest's handler", 4229.0, 1300.0),
];
