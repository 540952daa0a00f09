//! Virtual interrupts (`xen.h`): V, one for each vcpu; G, one for the system.

abi_consts! {
    /// The number of a virtual interrupt.
    u32:
    VIRQ_TIMER = 0,
    VIRQ_DEBUG = 1,
    VIRQ_CONSOLE = 2,
    VIRQ_DOM_EXC = 3,
    VIRQ_TBUF = 4,
    VIRQ_DEBUGGER = 6,
    VIRQ_XENOPROF = 7,
    VIRQ_CON_RING = 8,
    VIRQ_PCPU_STATE = 9,
    VIRQ_MEM_EVENT = 10,
    VIRQ_ARGO = 11,
    VIRQ_ENOMEM = 12,
    VIRQ_XENPMU = 13,
    VIRQ_ARCH_0 = 16,
    NR_VIRQS = 24,
}
