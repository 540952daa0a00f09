//! From registers to requests: the one place where the words of a hypercall are read, and where what is left of one
//! that stops half way is written back.
//!
//! Where a register is wider than the type that Xen's handler gives it, the rest is not looked at. A command that there
//! is not stands as the error that it is answered with: when is the handler's to say, as guests see which comes first.

use super::{
    commands::{
        AssistCommand, CallbackCommand, ConsoleCommand, EventCommand, GrantCommand, HypfsCommand, KexecCommand,
        MemoryCommand, NmiCommand, PhysdevCommand, SchedCommand, SegmentBase, VcpuCommand, VersionCommand,
    },
    number::{bytes, domid, uint, ushort},
};
use crate::{
    addr::{GuestAddr, GuestRecords, MachineAddr},
    mem::guest_ptr::GuestPtr,
    reply::{Args, Stop},
};
use core::marker::PhantomData;
use oxen_abi::{domid::DomId, errno::Errno, memory::MEMOP_EXTENT_SHIFT};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Requests, each by the words that it is made of.
macro_rules! requests {
    ($($(#[$meta:meta])* $name:ident($($word:ident),*) {
        $($(#[$field_meta:meta])* $field:ident: $type:ty = $value:expr,)*
    })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name { $($(#[$field_meta])* pub(super) $field: $type,)* }

        impl From<&Args> for $name {
            #[inline(always)]
            fn from(&[$($word,)* ..]: &Args) -> Self {
                Self { $($field: $value,)* }
            }
        }
    )* };
}

/// In the count of a batch of updates: it is a continuation, and the success count already counts what was done before.
const CONTINUED: u32 = 1 << 31;
/// The bits of a `memory_op`'s command that name it; those above say how many extents were done before.
const MEMORY_COMMAND: u64 = (1 << MEMOP_EXTENT_SHIFT) - 1;
/// The bits of a `grant_table_op`'s command above it: at which entry a cache flush goes on.
const FIRST_ENTRY: u32 = !0xfff;

requests! {
    /// `console_io(command, count, buffer)`.
    ConsoleIo(command, count, buffer) {
        command: Result<ConsoleCommand, Errno> = uint(command).try_into(),
        count: u32 = uint(count),
        buffer: GuestAddr = GuestAddr::new(buffer),
    }

    /// `set_debugreg(number, value)`, `get_debugreg(number)`.
    DebugRegister(number, value) {
        number: u32 = uint(number),
        value: u64 = value,
    }

    /// `dm_op(domain, count, buffers)`.
    DmOp(domain, count, buffers) {
        domain: DomId = domid(domain),
        count: u32 = uint(count),
        buffers: u64 = buffers,
    }

    /// `fpu_taskswitch(set)`.
    FpuTaskswitch(set) {
        set: bool = uint(set) != 0,
    }

    /// `grant_table_op(command, requests, count)`.
    GrantTableOp(command, list, count) {
        command: Result<GrantCommand, Errno> = (uint(command) & !FIRST_ENTRY).try_into(),
        /// At which entry a cache flush goes on.
        first: u32 = uint(command) & FIRST_ENTRY,
        list: u64 = list,
        count: u32 = uint(count),
    }

    /// `hypfs_op(command, path, bytes of it, buffer, bytes of it)`.
    HypfsOp(command, path, path_bytes, buffer, bytes) {
        command: Result<HypfsCommand, Errno> = uint(command).try_into(),
        path: u64 = path,
        path_bytes: u64 = path_bytes,
        buffer: u64 = buffer,
        bytes: u64 = bytes,
    }

    /// `memory_op(command, argument)`.
    MemoryOp(command, argument) {
        command: Result<MemoryCommand, Errno> = uint(command & MEMORY_COMMAND).try_into(),
        /// Extents that were done before.
        start: u64 = command >> MEMOP_EXTENT_SHIFT,
        argument: u64 = argument,
    }

    /// `multicall(entries, count)`.
    Multicall(list, count) {
        list: GuestAddr = GuestAddr::new(list),
        count: u32 = uint(count),
    }

    /// `set_callbacks(event, failsafe, syscall)`.
    SetCallbacks(event, failsafe, syscall) {
        event: GuestAddr = GuestAddr::new(event),
        failsafe: GuestAddr = GuestAddr::new(failsafe),
        syscall: GuestAddr = GuestAddr::new(syscall),
    }

    /// `set_gdt(frames, entries)`.
    SetGdt(list, entries) {
        list: u64 = list,
        entries: u32 = uint(entries),
    }

    /// `set_segment_base(which, base)`.
    SetSegmentBase(which, base) {
        which: Result<SegmentBase, Errno> = uint(which).try_into(),
        /// The address, or the selector at its lower end.
        base: u64 = base,
    }

    /// `set_timer_op(timeout)`: in nanoseconds of system time.
    SetTimer(timeout) {
        timeout: u64 = timeout,
    }

    /// `set_trap_table(table)`.
    SetTrapTable(table) {
        table: GuestAddr = GuestAddr::new(table),
    }

    /// `stack_switch(ss, rsp)`.
    StackSwitch(ss, rsp) {
        ss: u16 = ushort(ss),
        rsp: u64 = rsp,
    }

    /// `update_descriptor(machine address, descriptor)`.
    UpdateDescriptor(address, descriptor) {
        address: MachineAddr = MachineAddr::new(address),
        descriptor: u64 = descriptor,
    }

    /// `update_va_mapping(va, entry, flags)`, `update_va_mapping_otherdomain(va, entry, flags, domid)`.
    UpdateVaMapping(va, entry, flags, owner) {
        va: GuestAddr = GuestAddr::new(va),
        entry: u64 = entry,
        flags: u64 = flags,
        owner: DomId = domid(owner),
    }

    /// `mmu_update` and `mmuext_op`: (requests, count, success count, foreign). The low half of `foreign` names the
    /// owner of what is mapped, the high half plus one the owner of the tables.
    Updates(list, count, done_at, foreign) {
        list: GuestAddr = GuestAddr::new(list),
        count: u32 = uint(count) & !CONTINUED,
        is_continued: bool = uint(count) & CONTINUED != 0,
        /// Where the guest wants to be told how many were done; 0: nowhere.
        done_at: u64 = done_at,
        pages: DomId = domid(foreign),
        /// `None`: the caller.
        tables: Option<DomId> = (uint(foreign) >> 16).checked_sub(1).map(|id| domid(id.into())),
    }

    /// `vcpu_op(command, vcpu, argument)`.
    VcpuOp(command, id, argument) {
        command: Result<VcpuCommand, Errno> = uint(command).try_into(),
        id: u32 = uint(id),
        argument: u64 = argument,
    }

    /// `vm_assist(command, type)`.
    VmAssist(command, kind) {
        command: Result<AssistCommand, Errno> = uint(command).try_into(),
        kind: u32 = uint(kind),
    }

    /// `xenoprof_op(command, argument)`: of its commands none is built.
    XenoprofOp(command) {
        command: u32 = uint(command),
    }
}

/// A command and its argument: an address, or what the command makes of it. The command of a hot path is known by its
/// number alone, before all others are told apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation<C> {
    number: u32,
    pub(super) argument: u64,
    command: PhantomData<C>,
}

impl<C: TryFrom<u32, Error = Errno> + Into<u32>> Operation<C> {
    /// This command with this argument.
    pub(super) fn new(command: C, argument: u64) -> Self {
        Self { number: command.into(), argument, command: PhantomData }
    }

    /// Whether it is this command.
    #[inline(always)]
    pub(super) fn is(&self, command: C) -> bool {
        self.number == command.into()
    }

    /// The command, or what an unknown one is answered with.
    #[inline(always)]
    pub(super) fn command(&self) -> Result<C, Errno> {
        C::try_from(self.number)
    }
}

pub(super) type CallbackOp = Operation<CallbackCommand>;
pub(super) type EventChannelOp = Operation<EventCommand>;
pub(super) type KexecOp = Operation<KexecCommand>;
pub(super) type NmiOp = Operation<NmiCommand>;
pub(super) type PhysdevOp = Operation<PhysdevCommand>;
pub(super) type SchedOp = Operation<SchedCommand>;
pub(super) type XenVersion = Operation<VersionCommand>;

impl<C> From<&Args> for Operation<C> {
    #[inline(always)]
    fn from(&[command, argument, ..]: &Args) -> Self {
        Self { number: uint(command), argument, command: PhantomData }
    }
}

/// A request that can be left half way.
pub(super) trait Resume: Sized {
    /// Writes what is left to where it was read from.
    fn write(&self, args: &mut Args);

    /// Leaves it for when the hypercall is executed again.
    #[cold]
    fn leave(self, args: &mut Args) -> Stop {
        self.write(args);
        Stop::Unfinished
    }
}

impl<C> Resume for Operation<C> {
    fn write(&self, args: &mut Args) {
        args[0] = self.number.into();
        args[1] = self.argument;
    }
}

impl Resume for ConsoleIo {
    fn write(&self, args: &mut Args) {
        args[1] = self.count.into();
        args[2] = self.buffer.as_u64();
    }
}

impl ConsoleIo {
    /// What is left when so many bytes are done.
    pub(super) fn after(self, done: u32) -> Self {
        let buffer = GuestAddr::new(self.buffer.as_u64().wrapping_add(done.into()));
        Self { count: self.count.wrapping_sub(done), buffer, ..self }
    }
}

impl Resume for GrantTableOp {
    fn write(&self, args: &mut Args) {
        if let Ok(command) = self.command {
            args[0] = u64::from(u32::from(command) | self.first);
        }
        args[1] = self.list;
        args[2] = self.count.into();
    }
}

impl GrantTableOp {
    /// The requests.
    ///
    /// # Errors
    /// `Fault` if they are not where guests have memory.
    pub(super) fn requests<T: FromBytes + IntoBytes + Immutable>(&self) -> Result<GuestPtr<T>, Errno> {
        GuestPtr::new(self.list, self.count.into())
    }

    /// What is left when so many requests are done.
    pub(super) fn after<T>(self, done: u32) -> Self {
        let list = self.list.wrapping_add(u64::from(done).wrapping_mul(bytes::<T>()));
        Self { list, count: self.count.wrapping_sub(done), ..self }
    }
}

impl Resume for MemoryOp {
    fn write(&self, args: &mut Args) {
        if let Ok(command) = self.command {
            args[0] = u64::from(u32::from(command)) | self.start << MEMOP_EXTENT_SHIFT;
        }
    }
}

impl Resume for Multicall {
    fn write(&self, args: &mut Args) {
        args[0] = self.list.as_u64();
        args[1] = self.count.into();
    }
}

impl Resume for Updates {
    fn write(&self, args: &mut Args) {
        args[0] = self.list.as_u64();
        args[1] = u64::from(self.count | if self.is_continued { CONTINUED } else { 0 });
    }
}

impl Updates {
    /// The requests, of `N` words each.
    ///
    /// # Errors
    /// `Fault` if they are not where guests have memory.
    #[inline(always)]
    pub(super) fn requests<const N: usize>(&self) -> Result<GuestRecords<N>, Errno> {
        GuestRecords::some_or_none(self.list, self.count).ok_or(Errno::Fault)
    }

    /// What is left when all but these are done.
    pub(super) const fn rest<const N: usize>(self, left: GuestRecords<N>) -> Self {
        Self { list: left.start(), count: left.count(), is_continued: true, ..self }
    }
}
