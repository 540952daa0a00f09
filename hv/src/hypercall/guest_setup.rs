//! Small hypercalls by which a guest's kernel tells where it wants to be entered and how its CPU is set up.

use super::{
    args::{
        CallbackOp, DebugRegister, FpuTaskswitch, NmiOp, SetCallbacks, SetGdt, SetSegmentBase, SetTrapTable,
        StackSwitch, UpdateDescriptor, VmAssist,
    },
    commands::{AssistCommand, CallbackCommand, NmiCommand, SegmentBase},
    number::{bytes, index, long, ushort},
};
use crate::{
    addr::GuestAddr,
    caller::Caller,
    domain::{
        debug,
        traps::{Callback, NMI, TrapHandler, TrapTable},
    },
    machine::Machine,
    mem::{editor::Editor, guest_ptr::GuestPtr},
    reply::{Args, Reply},
};
use oxen_abi::{
    callback::{
        CALLBACKTYPE_EVENT, CALLBACKTYPE_FAILSAFE, CALLBACKTYPE_NMI, CALLBACKTYPE_SYSCALL, CALLBACKTYPE_SYSCALL32,
        CALLBACKTYPE_SYSENTER, CallbackFlags, CallbackRegister, CallbackUnregister,
    },
    errno::Errno,
    segments::{FIRST_RESERVED_GDT_ENTRY, FIRST_RESERVED_GDT_PAGE, FLAT_KERNEL_CS},
    trap::TrapInfo,
    vm_assist::Assists,
};

/// Descriptors that fit into a page.
const DESCRIPTORS_IN_A_PAGE: usize = 512;
/// Handlers in a table at most: one for each vector, and the end.
const MAX_HANDLERS: u64 = 257;

impl<M: Machine> Caller<'_, M> {
    /// `set_trap_table(table)`: adds handlers to those there are; a null pointer forgets them all.
    ///
    /// # Errors
    /// `Fault` for an unreadable table, `Inval` for a handler that no CPU could jump to; those before it stay.
    #[inline]
    pub fn set_trap_table(&mut self, args: &mut Args) -> Reply {
        let table = SetTrapTable::from(&*args).table.as_u64();
        if table == 0 {
            self.state.traps = TrapTable::default();
            return Ok(0);
        }
        for i in 0..MAX_HANDLERS {
            let place = table.checked_add(i.wrapping_mul(bytes::<TrapInfo>())).ok_or(Errno::Fault)?;
            let info = self.copy_from_guest::<TrapInfo>(place)?;
            if info.address == 0 {
                break;
            }
            if !GuestAddr::new(info.address).is_canonical() {
                return Err(Errno::Inval.into());
            }
            let handler = TrapHandler { address: info.address, cs: info.cs | 3, flags: info.flags & 7 };
            self.state.traps.set(info.vector, handler);
        }
        Ok(0)
    }

    /// `set_gdt(frames, entries)`: the frames become descriptor pages; the descriptors in them are checked.
    ///
    /// # Errors
    /// `Inval` for more entries than a guest may have or a frame that cannot be a descriptor page, `Fault`.
    #[inline]
    pub fn set_gdt(&mut self, args: &mut Args) -> Reply {
        let SetGdt { list, entries } = (&*args).into();
        if index(entries) > FIRST_RESERVED_GDT_ENTRY {
            return Err(Errno::Inval.into());
        }
        let mut frames = [0; FIRST_RESERVED_GDT_PAGE];
        let frames = frames.get_mut(..index(entries).div_ceil(DESCRIPTORS_IN_A_PAGE)).unwrap_or_default();
        GuestPtr::<u64>::new(list, long(frames.len()))?.read_many(self.hv.machine(), 0, frames)?;
        let editor = Editor::open(&self.hv.memory, &self.domain.memory)?;
        let old = core::mem::replace(&mut self.state.gdt, editor.take_gdt(frames)?);
        self.state.gdt_entries = ushort(entries.into());
        self.hv.machine().load_descriptor_tables(self.state);
        editor.put_gdt(old);
        Ok(0)
    }

    /// `update_descriptor(machine address, descriptor)`.
    ///
    /// # Errors
    /// `Inval` for a descriptor that a guest may not have, or a place that cannot be written.
    #[inline]
    pub fn update_descriptor(&mut self, args: &mut Args) -> Reply {
        let UpdateDescriptor { address, descriptor } = (&*args).into();
        let editor = Editor::open(&self.hv.memory, &self.domain.memory)?;
        if let Err(refusal) = editor.write_descriptor(address, descriptor) {
            editor.write_translated_descriptor(address, descriptor, refusal)?;
        }
        Ok(0)
    }

    /// `stack_switch(ss, rsp)`: the stack on which the kernel is entered from user mode.
    ///
    /// # Errors
    /// None.
    #[inline]
    pub fn stack_switch(&mut self, args: &mut Args) -> Reply {
        let StackSwitch { ss, rsp } = (&*args).into();
        self.state.kernel_ss = u64::from(ss | 3);
        self.state.kernel_sp = rsp;
        Ok(0)
    }

    /// `set_callbacks(event, failsafe, syscall)`.
    ///
    /// # Errors
    /// `Inval` for an address that no CPU could jump to.
    #[inline]
    pub fn set_callbacks(&mut self, args: &mut Args) -> Reply {
        let SetCallbacks { event, failsafe, syscall } = (&*args).into();
        let callbacks =
            [(CALLBACKTYPE_EVENT, event), (CALLBACKTYPE_FAILSAFE, failsafe), (CALLBACKTYPE_SYSCALL, syscall)];
        if callbacks.iter().any(|&(_, address)| !address.is_canonical()) {
            return Err(Errno::Inval.into());
        }
        for (kind, address) in callbacks {
            self.register_callback(kind, Callback { address: address.as_u64(), masks_events: false })?;
        }
        Ok(0)
    }

    /// `callback_op(command, argument)`.
    ///
    /// # Errors
    /// `NoSys` for an unknown command or type, `Inval` for an address that no CPU could jump to or a callback that
    /// cannot be taken back, `Fault`.
    #[inline]
    pub fn callback_op(&mut self, args: &mut Args) -> Reply {
        let request = CallbackOp::from(&*args);
        let argument = request.argument;
        match request.command()? {
            CallbackCommand::Register => {
                let request = self.copy_from_guest::<CallbackRegister>(argument)?;
                if !GuestAddr::new(request.address).is_canonical() {
                    return Err(Errno::Inval.into());
                }
                let flags = CallbackFlags::from_bits_retain(request.flags);
                let masks_events = flags.contains(CallbackFlags::MASK_EVENTS);
                self.register_callback(request.r#type, Callback { address: request.address, masks_events })?;
            }
            CallbackCommand::Unregister => {
                let request = self.copy_from_guest::<CallbackUnregister>(argument)?;
                match request.r#type {
                    CALLBACKTYPE_NMI => self.set_nmi_handler(0),
                    CALLBACKTYPE_EVENT
                    | CALLBACKTYPE_FAILSAFE
                    | CALLBACKTYPE_SYSCALL
                    | CALLBACKTYPE_SYSCALL32
                    | CALLBACKTYPE_SYSENTER => return Err(Errno::Inval.into()),
                    _ => return Err(Errno::NoSys.into()),
                }
            }
        }
        Ok(0)
    }

    /// `nmi_op(command, argument)`: the entry for NMIs.
    ///
    /// # Errors
    /// `NoSys` for an unknown command, `Fault`, `Inval` for an address that no CPU could jump to.
    #[inline(never)]
    pub fn nmi_op(&mut self, args: &mut Args) -> Reply {
        let request = NmiOp::from(&*args);
        let argument = request.argument;
        let address = match request.command()? {
            NmiCommand::RegisterCallback => {
                let [address, _] = self.copy_from_guest::<[u64; 2]>(argument)?;
                if !GuestAddr::new(address).is_canonical() {
                    return Err(Errno::Inval.into());
                }
                address
            }
            NmiCommand::UnregisterCallback => 0,
        };
        self.set_nmi_handler(address);
        Ok(0)
    }

    /// An NMI has no entry of its own: it is the trap table's, with events masked.
    fn set_nmi_handler(&mut self, address: u64) {
        let handler = match address {
            0 => TrapHandler::default(),
            _ => TrapHandler { address, cs: FLAT_KERNEL_CS, flags: TrapHandler::MASKS_EVENTS },
        };
        self.state.traps.set(NMI, handler);
    }

    fn register_callback(&mut self, kind: u16, callback: Callback) -> Result<(), Errno> {
        if kind == CALLBACKTYPE_NMI {
            self.set_nmi_handler(callback.address);
            return Ok(());
        }
        let state = &mut *self.state;
        let place = match kind {
            CALLBACKTYPE_EVENT => &mut state.event_callback,
            CALLBACKTYPE_FAILSAFE => &mut state.failsafe_callback,
            CALLBACKTYPE_SYSCALL => &mut state.syscall_callback,
            CALLBACKTYPE_SYSCALL32 => &mut state.syscall32_callback,
            CALLBACKTYPE_SYSENTER => &mut state.sysenter_callback,
            _ => return Err(Errno::NoSys),
        };
        *place = callback;
        Ok(())
    }

    /// `set_segment_base(which, base)`: `SEGBASE_*`; the last takes a selector.
    ///
    /// # Errors
    /// `Inval` for an unknown base or an address that is not canonical.
    #[inline]
    pub fn set_segment_base(&mut self, args: &mut Args) -> Reply {
        let SetSegmentBase { which, base } = (&*args).into();
        if which != Ok(SegmentBase::GsUserSelector) && !GuestAddr::new(base).is_canonical() {
            return Err(Errno::Inval.into());
        }
        let machine = self.hv.machine();
        match which? {
            SegmentBase::Fs => {
                self.state.fs_base = base;
                machine.set_fs_base(base);
            }
            SegmentBase::GsUser => {
                self.state.gs_base_user = base;
                machine.set_other_gs_base(base);
            }
            SegmentBase::GsKernel => {
                self.state.gs_base_kernel = base;
                machine.set_gs_base(base);
            }
            SegmentBase::GsUserSelector => {
                // Guests load selectors of ring 3; null ones have no ring. A selector that does not load is null then,
                // and nobody is told.
                let selector = ushort(base);
                machine.set_user_gs(if selector > 3 { selector | 3 } else { selector });
            }
        }
        Ok(0)
    }

    /// `fpu_taskswitch(set)`: CR0.TS.
    ///
    /// # Errors
    /// None.
    #[inline]
    pub fn fpu_taskswitch(&mut self, args: &mut Args) -> Reply {
        let FpuTaskswitch { set } = (&*args).into();
        self.set_task_switched(set);
        Ok(0)
    }

    /// `set_debugreg(number, value)`.
    ///
    /// # Errors
    /// `NoDev` for a register that there is not, `Perm` for a breakpoint that a guest may not have.
    #[inline]
    pub fn set_debugreg(&mut self, args: &mut Args) -> Reply {
        let DebugRegister { number, value } = (&*args).into();
        self.write_debug_register(register_number(number)?, value)?;
        Ok(0)
    }

    /// `get_debugreg(number)`.
    ///
    /// # Errors
    /// `NoDev` for a register that there is not.
    #[inline]
    pub fn get_debugreg(&mut self, args: &mut Args) -> Reply {
        Ok(debug::read(self.state, register_number(DebugRegister::from(&*args).number)?).ok_or(Errno::NoDev)?)
    }

    /// `vm_assist(command, type)`.
    ///
    /// # Errors
    /// `Inval` for an unknown type, `NoSys` for an unknown command.
    #[inline]
    pub fn vm_assist(&mut self, args: &mut Args) -> Reply {
        let VmAssist { command, kind } = (&*args).into();
        let assist = 1_u64.checked_shl(kind).and_then(Assists::from_bits).ok_or(Errno::Inval)?;
        self.domain.memory.change_assists(assist, command? == AssistCommand::Enable);
        Ok(0)
    }
}

fn register_number(number: u32) -> Result<u8, Errno> {
    u8::try_from(number).map_err(|_| Errno::NoDev)
}
