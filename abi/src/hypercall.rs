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
    ///
    /// Handlers are added to those that there are. A handler's flags say from which privilege level `int` may reach
    /// it, and whether events are masked on entry.
    ///
    /// # Arguments
    /// * `table`: address of [`TrapInfo`](crate::trap::TrapInfo)s, the last with an address of 0; 0 forgets all
    ///   handlers
    ///
    /// # Errors
    /// `EINVAL` for an address that is not canonical; the handlers before it stay.
    SetTrapTable = 0, "set_trap_table";
    /// Edit page tables, a batch of entries at a time.
    ///
    /// Each new entry is judged, takes the references that it needs, is written, and what the old entry held is given
    /// back. Nothing is flushed from a TLB.
    ///
    /// # Arguments
    /// * `requests`: address of [`MmuUpdate`](crate::mmu::MmuUpdate)s; the low two bits of each `ptr` are the
    ///   sub-operation
    /// * `count`: how many; the top bit is Xen's mark of a call that goes on
    /// * `done`: address of a `u32` that gets the number of requests done; 0 for none
    /// * `domain`: who owns what is mapped (`DOMID_SELF`, `DOMID_IO`, another domain's id) in the low 16 bits; above
    ///   them the id plus one of whose tables are changed, 0 for the caller's own
    ///
    /// # Errors
    /// Those of the first request that is refused; those before it are done, and counted. Of an L1 entry `EBUSY` for a
    /// frame that is not the owner's or is in use as a table, `EPERM` for what is no memory and not allowed; `EINVAL`
    /// for a bit that guests may not set, for a frame that cannot be a table, and for an address where no table is.
    /// `EPERM` and `ESRCH` for the domain.
    ///
    /// # Example
    /// ```
    /// use oxen_abi::mmu::{MMU_NORMAL_PT_UPDATE, MmuUpdate};
    ///
    /// // Map frame 0x1234 for reading and writing through entry 5 of the L1 table in frame 0x800.
    /// let update = MmuUpdate { ptr: 0x800 << 12 | 5 * 8 | MMU_NORMAL_PT_UPDATE, val: 0x1234 << 12 | 0x67 };
    /// assert_eq!(update.ptr & 7, 0);
    /// ```
    MmuUpdate = 1, "mmu_update";
    /// Set the frames of the GDT.
    ///
    /// The frames become descriptor pages: their descriptors are checked, and no mapping of them may be writable. The
    /// hypervisor's own descriptors follow behind the guest's.
    ///
    /// # Arguments
    /// * `frames`: address of up to 14 machine frame numbers (`u64`)
    /// * `entries`: how many descriptors are in use, at most 7168
    ///
    /// # Errors
    /// `EINVAL` for too many entries, a frame that is writable somewhere or not the caller's, or a descriptor that a
    /// guest may not have.
    SetGdt = 2, "set_gdt";
    /// Set the kernel stack.
    ///
    /// On this stack the kernel is entered from user mode: by exceptions, events, and the syscall callback.
    ///
    /// # Arguments
    /// * `ss`: the selector
    /// * `esp`: the stack pointer
    ///
    /// # Errors
    /// None.
    StackSwitch = 3, "stack_switch";
    /// Set the three classic callbacks.
    ///
    /// `callback_op` does the same for each by itself, with flags.
    ///
    /// # Arguments
    /// * `event`, `failsafe`, `syscall`: the addresses at which the kernel is entered
    ///
    /// # Errors
    /// `EINVAL` for an address that is not canonical.
    SetCallbacks = 4, "set_callbacks";
    /// Set or clear CR0.TS.
    ///
    /// With the bit set the next use of the FPU raises exception 7, so that a kernel can switch the FPU's registers
    /// lazily.
    ///
    /// # Arguments
    /// * `set`: not 0 sets it
    ///
    /// # Errors
    /// None.
    FpuTaskswitch = 5, "fpu_taskswitch";
    /// The scheduler interface of old.
    ///
    /// # Arguments
    /// * `command`: yield, block or shutdown, numbered as in `sched_op`
    /// * `argument`: of shutdown, the reason itself
    ///
    /// # Errors
    /// `ENOSYS` for other commands.
    SchedOpCompat = 6, "sched_op_compat";
    /// Control the machine.
    ///
    /// For the control domain alone.
    ///
    /// # Arguments
    /// * `op`: address of a [`PlatformOp`](crate::platform::PlatformOp)
    ///
    /// # Errors
    /// `EPERM` for others; `EACCES` for another version of the interface; `EINVAL` for a value that cannot be; `ESRCH`
    /// for what the firmware does not tell.
    PlatformOp = 7, "platform_op";
    /// Write a debug register.
    ///
    /// Breakpoints on the hypervisor's addresses and for I/O are not for guests.
    ///
    /// # Arguments
    /// * `register`: 0 to 3, 6 or 7
    /// * `value`
    ///
    /// # Errors
    /// `ENODEV` for a register that there is not; `EPERM` for a value that guests may not set.
    SetDebugreg = 8, "set_debugreg";
    /// Read a debug register.
    ///
    /// The value is the result; a value is not told from an error by its sign.
    ///
    /// # Arguments
    /// * `register`: 0 to 7
    ///
    /// # Errors
    /// `ENODEV` for a register that there is not.
    GetDebugreg = 9, "get_debugreg";
    /// Write a segment descriptor.
    ///
    /// The page may be in use as a descriptor page, where the descriptor is checked first.
    ///
    /// # Arguments
    /// * `address`: the machine address of a descriptor
    /// * `descriptor`: its 64 bits
    ///
    /// # Errors
    /// `EINVAL` for a descriptor that a guest may not have, or a place that is not the caller's to write.
    UpdateDescriptor = 10, "update_descriptor";
    /// Change or ask about memory.
    ///
    /// # Arguments
    /// * `command`: `XENMEM_*` in the low six bits; above them how many extents are done already, which a call that
    ///   goes on fills in
    /// * `argument`: address of the command's structure
    ///
    /// # Errors
    /// `EPERM` and `ESRCH` for another domain. The commands on extents have no other errors: they answer how many
    /// extents are done.
    ///
    /// # Example
    /// ```
    /// use oxen_abi::{domid::DomId, memory::MemoryReservation};
    ///
    /// // XENMEM_decrease_reservation: give one page back, as a balloon does.
    /// let frames = [0x1234_u64];
    /// let request = MemoryReservation {
    ///     extent_start: frames.as_ptr().addr() as u64,
    ///     nr_extents: 1,
    ///     extent_order: 0,
    ///     mem_flags: 0,
    ///     domid: DomId::SELF,
    ///     _pad: [0; 3],
    /// };
    /// assert_eq!(request.nr_extents << request.extent_order, 1);
    /// ```
    MemoryOp = 12, "memory_op";
    /// Execute a batch.
    ///
    /// The calls are executed in order, each result is written into its entry, and a call that fails does not stop the
    /// others. One entry to the hypervisor is paid for all.
    ///
    /// # Arguments
    /// * `calls`: address of [`MulticallEntry`](crate::hypercall::MulticallEntry)s
    /// * `count`: how many
    ///
    /// # Errors
    /// `EINVAL` inside a batch; `EFAULT` for entries that cannot be read or written.
    ///
    /// # Example
    /// ```
    /// use oxen_abi::hypercall::{Hypercall, MulticallEntry};
    ///
    /// let call = MulticallEntry { op: Hypercall::FpuTaskswitch.number(), result: 0, args: [1, 0, 0, 0, 0, 0] };
    /// assert_eq!(call.op, 5);
    /// ```
    Multicall = 13, "multicall";
    /// Edit the L1 entry of an address.
    ///
    /// One call for what `mmu_update` and a flush do in two. The tables above must be there.
    ///
    /// # Arguments
    /// * `va`: an address in the current address space
    /// * `entry`: the new L1 entry
    /// * `flags`: `UVMF_*`: what is flushed afterwards, and where
    ///
    /// # Errors
    /// `EINVAL` where no L1 table translates the address, else as `mmu_update`; `EFAULT` for a bitmap of vcpus that
    /// cannot be read, after the entry was written.
    ///
    /// # Example
    /// ```
    /// use oxen_abi::mmu::{UVMF_INVLPG, UVMF_LOCAL};
    ///
    /// // Arguments that map frame 0x1234 at 4 MiB and flush that page on this CPU.
    /// let args = [0x40_0000, 0x1234 << 12 | 0x67, UVMF_INVLPG | UVMF_LOCAL];
    /// assert_eq!(args[2], 2);
    /// ```
    UpdateVaMapping = 14, "update_va_mapping";
    /// Set the one-shot timer.
    ///
    /// When the time comes `VIRQ_TIMER` is raised on the calling vcpu. A time that has passed fires at once.
    ///
    /// # Arguments
    /// * `timeout`: system time in nanoseconds; 0 stops the timer
    ///
    /// # Errors
    /// None.
    SetTimerOp = 15, "set_timer_op";
    /// The event interface of old.
    ///
    /// # Arguments
    /// * `op`: address of an [`EvtchnOp`](crate::event_channel::EvtchnOp), the command before its structure
    ///
    /// # Errors
    /// As `event_channel_op`; `ENOSYS` for commands after `EVTCHNOP_unmask`.
    EventChannelOpCompat = 16, "event_channel_op_compat";
    /// Ask about the hypervisor.
    ///
    /// Cheap and without effect, so it serves as the null hypercall of measurements, and to take pending events.
    ///
    /// # Arguments
    /// * `command`: `XENVER_*`
    /// * `argument`: address of what the command fills; for some 0
    ///
    /// # Errors
    /// `EPERM` for what is the control domain's alone; `EINVAL` for an argument that the command does not take.
    XenVersion = 17, "xen_version";
    /// Use the emergency console.
    ///
    /// The hypervisor's own serial line. Guests have the console's ring instead.
    ///
    /// # Arguments
    /// * `command`: `CONSOLEIO_*`
    /// * `count`: bytes
    /// * `buffer`: address of the text
    ///
    /// # Errors
    /// `EPERM` for guests, unless the command line lets them write; `E2BIG` for an absurd count to read.
    ConsoleIo = 18, "console_io";
    /// The physical device interface of old.
    ///
    /// # Arguments
    /// * `op`: address of a command, and behind it its structure
    ///
    /// # Errors
    /// As `physdev_op`.
    PhysdevOpCompat = 19, "physdev_op_compat";
    /// Share memory.
    ///
    /// Most errors are a status (`GNTST_*`) in each request, not the result of the call.
    ///
    /// # Arguments
    /// * `command`: `GNTTABOP_*`
    /// * `requests`: address of the command's structures
    /// * `count`: how many; 1 where the table says "one"
    ///
    /// # Errors
    /// `EINVAL` for a count that the command does not take; `EFAULT` for requests that cannot be read or written.
    ///
    /// # Example
    /// ```
    /// use oxen_abi::{domid::DomId, grant_table::{GNTMAP_HOST_MAP, GNTMAP_READONLY, GnttabMapGrantRef}};
    ///
    /// // Map what domain 3 offers in entry 8 of its table, for reading, at an address of ours.
    /// let request = GnttabMapGrantRef {
    ///     host_addr: 0xffff_8880_0000_0000,
    ///     flags: GNTMAP_HOST_MAP | GNTMAP_READONLY,
    ///     r#ref: 8,
    ///     dom: DomId(3),
    ///     status: 0,
    ///     handle: 0,
    ///     dev_bus_addr: 0,
    /// };
    /// assert_eq!(request.flags, 6);
    /// ```
    GrantTableOp = 20, "grant_table_op";
    /// Turn assistance on or off.
    ///
    /// `writable_pagetables` has plain writes to L1 tables emulated; `m2p_strict` hides the machine-to-physical table
    /// from user mode; `runstate_update_flag` marks a runstate area while it is written; `architectural_iopl` has IOPL
    /// kept in RFLAGS.
    ///
    /// # Arguments
    /// * `command`: `VMASST_CMD_*`
    /// * `type`: `VMASST_TYPE_*`
    ///
    /// # Errors
    /// `EINVAL` for an unknown type.
    VmAssist = 21, "vm_assist";
    /// Map a foreign frame at an address.
    ///
    /// For the control domain.
    ///
    /// # Arguments
    /// * `va`, `entry`, `flags`: as of `update_va_mapping`
    /// * `domain`: who owns the frame
    ///
    /// # Errors
    /// As `update_va_mapping`; `EPERM` and `ESRCH` for the domain.
    UpdateVaMappingOtherdomain = 22, "update_va_mapping_otherdomain";
    /// Return from an exception or event.
    ///
    /// Restores instruction pointer, selectors, flags and stack in one step, and unmasks events if RFLAGS.IF is set
    /// there. A CS of privilege level 3 returns to user mode, with the user's page tables. The call has no result.
    ///
    /// # Arguments
    /// * at the stack pointer: an [`IretContext`](crate::segments::IretContext)
    ///
    /// # Errors
    /// None: a context that cannot be read, or a return to user mode without page tables for it, ends the guest.
    Iret = 23, "iret";
    /// Control a vcpu.
    ///
    /// # Arguments
    /// * `command`: `VCPUOP_*`
    /// * `vcpu`: its number
    /// * `argument`: address of the command's structure
    ///
    /// # Errors
    /// `ENOENT` for a vcpu that there is not.
    VcpuOp = 24, "vcpu_op";
    /// Set FS or GS.
    ///
    /// # Arguments
    /// * `which`: `SEGBASE_*`
    /// * `base`: an address, or of the last a selector
    ///
    /// # Errors
    /// `EINVAL` for an unknown base or an address that is not canonical.
    SetSegmentBase = 25, "set_segment_base";
    /// Pin tables, switch roots, flush.
    ///
    /// # Arguments
    /// * `operations`: address of [`MmuextOp`](crate::mmu::MmuextOp)s
    /// * `count`, `done`: as of `mmu_update`
    /// * `domain`: whose pages; only the control domain names another than itself
    ///
    /// # Errors
    /// Those of the first operation that is refused; those before it are done, and counted. `EPERM` for operations
    /// that a domain may do to itself alone.
    ///
    /// # Example
    /// ```
    /// use oxen_abi::mmu::{MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MmuextOp};
    ///
    /// // A context switch: other roots for kernel and user mode, in one call.
    /// let op = |cmd, arg1| MmuextOp { cmd, _pad: 0, arg1, arg2: 0 };
    /// let switch = [op(MMUEXT_NEW_BASEPTR, 0x4321), op(MMUEXT_NEW_USER_BASEPTR, 0x4322)];
    /// assert_eq!(size_of_val(&switch), 48);
    /// ```
    MmuextOp = 26, "mmuext_op";
    /// Security modules.
    ///
    /// # Arguments
    /// * `op`: address of a request of the security module
    ///
    /// # Errors
    /// `ENOSYS` without a security module.
    XsmOp = 27, "xsm_op";
    /// NMI callbacks of old.
    ///
    /// # Arguments
    /// * `command`: 0 registers, 1 takes back
    /// * `argument`: address of the entry's address and a word
    ///
    /// # Errors
    /// `EINVAL` for an address that is not canonical.
    NmiOp = 28, "nmi_op";
    /// Yield, block, poll, shut down.
    ///
    /// # Arguments
    /// * `command`: `SCHEDOP_*`
    /// * `argument`: address of the command's structure
    ///
    /// # Errors
    /// `EPERM` and `ESRCH` for another domain.
    ///
    /// # Example
    /// ```
    /// use oxen_abi::sched::{SHUTDOWN_POWEROFF, SchedShutdown};
    ///
    /// let request = SchedShutdown { reason: SHUTDOWN_POWEROFF };
    /// assert_eq!(request.reason, 0);
    /// ```
    SchedOp = 29, "sched_op";
    /// Register callbacks.
    ///
    /// # Arguments
    /// * `command`: `CALLBACKOP_*`
    /// * `argument`: address of the command's structure
    ///
    /// # Errors
    /// `ENOSYS` for an unknown type; `EINVAL` for an address that is not canonical.
    CallbackOp = 30, "callback_op";
    /// Profiling of old.
    ///
    /// # Arguments
    /// * `command`
    /// * `argument`
    ///
    /// # Errors
    /// `ENODEV` where profiling is not there; `EPERM`.
    XenoprofOp = 31, "xenoprof_op";
    /// Event channels.
    ///
    /// # Arguments
    /// * `command`: `EVTCHNOP_*`
    /// * `argument`: address of the command's structure; answers are written back into it
    ///
    /// # Errors
    /// `EPERM` and `ESRCH` for another domain; `ENOSPC` without a free port; `ENOMEM`.
    ///
    /// # Example
    /// ```
    /// use oxen_abi::{domid::DomId, event_channel::{EvtchnAllocUnbound, EvtchnSend}};
    ///
    /// // A port of ours to which domain 0 may bind; then a notification through it.
    /// let offer = EvtchnAllocUnbound { dom: DomId::SELF, remote_dom: DomId(0), port: 0 };
    /// let ring = EvtchnSend { port: 7 };
    /// assert_eq!((size_of_val(&offer), size_of_val(&ring)), (8, 4));
    /// ```
    EventChannelOp = 32, "event_channel_op";
    /// Physical devices.
    ///
    /// Interrupts, port privileges and PCI bookkeeping. Most of it is the control domain's.
    ///
    /// # Arguments
    /// * `command`: `PHYSDEVOP_*`
    /// * `argument`: address of the command's structure
    ///
    /// # Errors
    /// `EPERM` for others than the control domain where that alone may; `EINVAL` for what there is not; `ENODEV` for a
    /// device that was not announced.
    PhysdevOp = 33, "physdev_op";
    /// Hardware-assisted guests.
    ///
    /// # Arguments
    /// * `command`
    /// * `argument`: address of the command's structure
    ///
    /// # Errors
    /// `ENOSYS` where there are no such guests.
    HvmOp = 34, "hvm_op";
    /// Ask about and control the system.
    ///
    /// For the control domain alone. The interface has a version of its own, which must match.
    ///
    /// # Arguments
    /// * `op`: address of a [`Sysctl`](crate::sysctl::Sysctl)
    ///
    /// # Errors
    /// `EPERM` for others; `EACCES` for another version of the interface; `EINVAL` for a value that cannot be.
    Sysctl = 35, "sysctl";
    /// Control domains.
    ///
    /// For the control domain alone. The interface has a version of its own, which must match.
    ///
    /// # Arguments
    /// * `op`: address of a [`Domctl`](crate::domctl::Domctl)
    ///
    /// # Errors
    /// `EPERM` for others; `EACCES` for another version of the interface; `ESRCH` for a domain that there is not;
    /// `EINVAL` for a value that cannot be.
    Domctl = 36, "domctl";
    /// Boot another kernel.
    ///
    /// For the control domain alone.
    ///
    /// # Arguments
    /// * `command`
    /// * `argument`: address of the command's structure
    ///
    /// # Errors
    /// `EPERM` for others; `ENOENT` for an image that was not loaded; `EINVAL`.
    KexecOp = 37, "kexec_op";
    /// Transcendent memory, of old.
    ///
    /// # Arguments
    /// * `op`: address of a request
    ///
    /// # Errors
    /// `ENOSYS`: the call was taken out of Xen.
    TmemOp = 38, "tmem_op";
    /// Messages between domains.
    ///
    /// # Arguments
    /// * `command`
    /// * four arguments of the command
    ///
    /// # Errors
    /// `ENOSYS` where it is not built.
    ArgoOp = 39, "argo_op";
    /// Performance counters.
    ///
    /// # Arguments
    /// * `command`
    /// * `argument`: address of the command's structure
    ///
    /// # Errors
    /// `EOPNOTSUPP` where guests have no counters.
    XenpmuOp = 40, "xenpmu_op";
    /// Device models.
    ///
    /// # Arguments
    /// * `domain`: whose
    /// * `count`: how many buffers
    /// * `buffers`: address of their addresses and sizes
    ///
    /// # Errors
    /// `EINVAL` for a domain without a device model; `EPERM` and `ESRCH` for the domain.
    DmOp = 41, "dm_op";
    /// The hypervisor file system.
    ///
    /// For the control domain alone.
    ///
    /// # Arguments
    /// * `command`: `XEN_HYPFS_OP_*`
    /// * `path`: address of the name
    /// * `path_length`: its bytes, with the final zero
    /// * `buffer`, `buffer_length`: where the contents go, or come from
    ///
    /// # Errors
    /// `EPERM` for others; `ENOENT` for a path that there is not; `EACCES` for what is not for writing; `ENOBUFS` for
    /// too small a buffer.
    HypfsOp = 42, "hypfs_op";
    /// Machine checks (`__HYPERVISOR_mca`).
    ///
    /// For the control domain alone.
    ///
    /// # Arguments
    /// * `op`: address of an [`Mca`](crate::machine_check::Mca)
    ///
    /// # Errors
    /// `EPERM` for others; `EACCES` for another version of the interface; `EINVAL` for a command that there is not.
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
