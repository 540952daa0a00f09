//! Hypercall numbers (`xen.h`). In RAX; arguments in RDI, RSI, RDX, R10, R8, R9; the result in RAX.

macro_rules! hypercalls {
    ($($(#[$meta:meta])* $name:ident = $value:literal, $xen:literal;)*) => {
        /// Every hypercall of the interface.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Hypercall { $($(#[$meta])* $name = $value),* }

        impl Hypercall {
            /// Every hypercall there is.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The number.
            #[inline]
            #[must_use]
            pub const fn number(self) -> u64 {
                self as u64
            }

            /// The name in the header, without the prefix `__HYPERVISOR_`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $xen),* }
            }
        }

        impl Hypercall {
            /// The hypercall of this number.
            #[inline]
            #[must_use]
            pub const fn from_number(number: u64) -> Option<Self> {
                match number { $($value => Some(Self::$name),)* _ => None }
            }
        }

        impl TryFrom<u64> for Hypercall {
            type Error = crate::errno::Errno;

            #[inline]
            fn try_from(number: u64) -> Result<Self, Self::Error> {
                Self::from_number(number).ok_or(crate::errno::Errno::NoSys)
            }
        }
    };
}

hypercalls! {
    /// Register exception handlers.
    SetTrapTable = 0, "set_trap_table";
    /// Edit page tables.
    MmuUpdate = 1, "mmu_update";
    /// Set the frames of the GDT.
    SetGdt = 2, "set_gdt";
    /// Set the kernel stack.
    StackSwitch = 3, "stack_switch";
    /// Set the three classic callbacks.
    SetCallbacks = 4, "set_callbacks";
    /// Set or clear CR0.TS.
    FpuTaskswitch = 5, "fpu_taskswitch";
    /// The scheduler interface of old.
    SchedOpCompat = 6, "sched_op_compat";
    /// Control the machine.
    PlatformOp = 7, "platform_op";
    /// Write a debug register.
    SetDebugreg = 8, "set_debugreg";
    /// Read a debug register.
    GetDebugreg = 9, "get_debugreg";
    /// Write a segment descriptor.
    UpdateDescriptor = 10, "update_descriptor";
    /// Change or ask about memory.
    MemoryOp = 12, "memory_op";
    /// Execute a batch.
    Multicall = 13, "multicall";
    /// Edit the L1 entry of an address.
    UpdateVaMapping = 14, "update_va_mapping";
    /// Set the one-shot timer.
    SetTimerOp = 15, "set_timer_op";
    /// The event interface of old.
    EventChannelOpCompat = 16, "event_channel_op_compat";
    /// Ask about the hypervisor.
    XenVersion = 17, "xen_version";
    /// Use the emergency console.
    ConsoleIo = 18, "console_io";
    /// The physical device interface of old.
    PhysdevOpCompat = 19, "physdev_op_compat";
    /// Share memory.
    GrantTableOp = 20, "grant_table_op";
    /// Turn assistance on or off.
    VmAssist = 21, "vm_assist";
    /// Map a foreign frame at an address.
    UpdateVaMappingOtherdomain = 22, "update_va_mapping_otherdomain";
    /// Return from an exception or event.
    Iret = 23, "iret";
    /// Control a vcpu.
    VcpuOp = 24, "vcpu_op";
    /// Set FS or GS.
    SetSegmentBase = 25, "set_segment_base";
    /// Pin tables, switch roots, flush.
    MmuextOp = 26, "mmuext_op";
    /// Security modules.
    XsmOp = 27, "xsm_op";
    /// NMI callbacks of old.
    NmiOp = 28, "nmi_op";
    /// Yield, block, poll, shut down.
    SchedOp = 29, "sched_op";
    /// Register callbacks.
    CallbackOp = 30, "callback_op";
    /// Profiling of old.
    XenoprofOp = 31, "xenoprof_op";
    /// Event channels.
    EventChannelOp = 32, "event_channel_op";
    /// Physical devices.
    PhysdevOp = 33, "physdev_op";
    /// Hardware-assisted guests.
    HvmOp = 34, "hvm_op";
    /// Ask about and control the system.
    Sysctl = 35, "sysctl";
    /// Control domains.
    Domctl = 36, "domctl";
    /// Boot another kernel.
    KexecOp = 37, "kexec_op";
    /// Transcendent memory, of old.
    TmemOp = 38, "tmem_op";
    /// Messages between domains.
    ArgoOp = 39, "argo_op";
    /// Performance counters.
    XenpmuOp = 40, "xenpmu_op";
    /// Device models.
    DmOp = 41, "dm_op";
    /// The hypervisor file system.
    HypfsOp = 42, "hypfs_op";
    /// Machine checks (`__HYPERVISOR_mca`).
    Mca = 48, "arch_0";
}

/// Bytes of a slot of the hypercall page; slot n calls hypercall n.
pub const HYPERCALL_SLOT_BYTES: usize = 32;

abi_struct! {
    /// One call of a batch (`multicall_entry_t`).
    pub struct MulticallEntry [64] {
        /// The hypercall's number.
        pub op: u64,
        /// What it answered.
        pub result: u64,
        /// Its arguments.
        pub args: [u64; 6],
    }
}
