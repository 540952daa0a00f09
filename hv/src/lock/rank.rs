//! The ranks, outermost first.

macro_rules! ranks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The ranks by number.
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "each is the name of a constant")]
        enum Number { $($name,)* }
        $($(#[$doc])* pub const $name: u8 = Number::$name as u8;)*
        /// Their names, in order.
        #[cfg(debug_assertions)]
        pub(super) const NAMES: &[&str] = &[$(stringify!($name),)*];
    };
}

ranks! {
    /// That one domain is made at a time.
    CREATION,
    /// Which stage of its life a domain is in.
    LIFE,
    /// The handle that the toolstack gave a domain.
    HANDLE,
    /// The memory map that a domain is told.
    MEMORY_MAP,
    /// The NUMA nodes that a domain sees.
    VNUMA,
    /// What a domain sees of the processor.
    CPU_POLICY,
    /// Which CPUs and domains make up a pool.
    POOLS,
    /// The registers of a vcpu that is off its CPU.
    VCPU_STATE,
    /// The frame in which a vcpu has its `vcpu_info`.
    VCPU_INFO_FRAME,
    /// Which of its pages a domain uses.
    WORKING_SET,
    /// A domain's page tables.
    PAGING,
    /// A domain's grant table and its mappings of others' grants. Several in the order of domain ids.
    GRANTS,
    /// A domain's event channels. Several in the order of domain ids.
    EVENTS,
    /// What a domain has of physical interrupts.
    PIRQS,
    /// A CPU's run queue. Several in the order of CPUs.
    RUN_QUEUE,
    /// What a domain may have of the CPUs.
    SHARE,
    /// A CPU's timers.
    DEADLINES,
    /// How long a vcpu was in which state.
    RUNSTATE,
    /// Where a vcpu has its `vcpu_info`.
    VCPU_INFO,
    /// How a domain's time stamp counter counts.
    TSC,
    /// The time of day at boot.
    WALL_CLOCK,
    /// The functions of PCI devices and their messages.
    PCI,
    /// The registers of an I/O APIC.
    IO_APIC,
    /// What of the machine a domain may reach.
    RIGHTS,
    /// Device memory that no guest maps.
    FORBIDDEN_IO,
    /// Which domains there are.
    DOMAINS,
    /// The free frames.
    FREE_FRAMES,
    /// The line that a guest writes on its console.
    GUEST_LINE,
    /// The hypervisor's console.
    CONSOLE,
    /// The shadows of a domain's page tables: taken by faults that the hypervisor meets in a guest's memory.
    SHADOW,
}
