//! Small hypercalls by which a guest's kernel tells where it wants to be entered and how its CPU is set up.

use crate::{
    addr::{GuestAddr, MachineAddr},
    caller::Caller,
    domain::{KNOWN_ASSISTS, vcpu::Callback},
    domain::{
        debug,
        traps::{TrapHandler, TrapTable},
    },
    machine::Machine,
    mem::{editor::Editor, guest_ptr::GuestPtr},
    reply::{Args, Reply},
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    callback::{
        CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CALLBACKOP_UNREGISTER, CALLBACKTYPE_EVENT, CALLBACKTYPE_FAILSAFE,
        CALLBACKTYPE_NMI, CALLBACKTYPE_SYSCALL, CALLBACKTYPE_SYSCALL32, CALLBACKTYPE_SYSENTER, CallbackRegister,
        CallbackUnregister,
    },
    errno::Errno,
    segments::{
        FIRST_RESERVED_GDT_ENTRY, FIRST_RESERVED_GDT_PAGE, SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER,
        SEGBASE_GS_USER_SEL,
    },
    trap::TrapInfo,
    vm_assist::{VMASST_CMD_DISABLE, VMASST_CMD_ENABLE},
};

/// Descriptors that fit into a page.
const DESCRIPTORS_IN_A_PAGE: usize = 512;
/// Handlers in a table at most: one for each vector, and the end.
const MOST_HANDLERS: u64 = 257;

impl<M: Machine> Caller<'_, M> {
    /// `set_trap_table(table)`: adds handlers to those there are; a null pointer forgets them all.
    ///
    /// # Errors
    /// `Fault` for an unreadable table, `Inval` for a handler that no CPU could jump to; those before it stay.
    #[inline]
    pub fn set_trap_table(&mut self, args: &mut Args) -> Reply {
        let [table, ..] = *args;
        if table == 0 {
            self.state.traps = TrapTable::default();
            return Ok(0);
        }
        for i in 0..MOST_HANDLERS {
            let place = table.checked_add(i * size_of::<TrapInfo>() as u64).ok_or(Errno::Fault)?;
            let info = self.copy_from_guest::<TrapInfo>(place)?;
            if info.address == 0 {
                break;
            }
            if !GuestAddr(info.address).is_canonical() {
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
        let [list, entries, ..] = *args;
        let entries = entries as u32 as usize;
        if entries > FIRST_RESERVED_GDT_ENTRY {
            return Err(Errno::Inval.into());
        }
        let mut frames = [0; FIRST_RESERVED_GDT_PAGE];
        let frames = frames.get_mut(..entries.div_ceil(DESCRIPTORS_IN_A_PAGE)).unwrap_or_default();
        GuestPtr::<u64>::new(list, frames.len() as u64)?.read_many(self.hv.machine(), 0, frames)?;
        let editor = Editor::open(&self.hv.memory, &self.domain.memory)?;
        let old = core::mem::replace(&mut self.state.gdt, editor.take_gdt(frames)?);
        self.state.gdt_entries = entries as u16;
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
        let [address, descriptor, ..] = *args;
        Editor::open(&self.hv.memory, &self.domain.memory)?.write_descriptor(MachineAddr(address), descriptor)?;
        Ok(0)
    }

    /// `stack_switch(ss, rsp)`: the stack on which the kernel is entered from user mode.
    ///
    /// # Errors
    /// None.
    #[inline]
    pub fn stack_switch(&mut self, args: &mut Args) -> Reply {
        let [ss, rsp, ..] = *args;
        self.state.kernel_ss = ss & 0xffff | 3;
        self.state.kernel_sp = rsp;
        Ok(0)
    }

    /// `set_callbacks(event, failsafe, syscall)`.
    ///
    /// # Errors
    /// `Inval` for an address that no CPU could jump to.
    #[inline]
    pub fn set_callbacks(&mut self, args: &mut Args) -> Reply {
        let [event, failsafe, syscall, ..] = *args;
        let callbacks =
            [(CALLBACKTYPE_EVENT, event), (CALLBACKTYPE_FAILSAFE, failsafe), (CALLBACKTYPE_SYSCALL, syscall)];
        if callbacks.iter().any(|&(_, address)| !GuestAddr(address).is_canonical()) {
            return Err(Errno::Inval.into());
        }
        for (kind, address) in callbacks {
            self.register_callback(kind, Callback { address, masks_events: false })?;
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
        let [command, pointer, ..] = *args;
        match command as u32 {
            CALLBACKOP_REGISTER => {
                let request = self.copy_from_guest::<CallbackRegister>(pointer)?;
                if !GuestAddr(request.address).is_canonical() {
                    return Err(Errno::Inval.into());
                }
                let masks_events = request.flags & CALLBACKF_MASK_EVENTS != 0;
                self.register_callback(request.r#type, Callback { address: request.address, masks_events })?;
            }
            CALLBACKOP_UNREGISTER => {
                let request = self.copy_from_guest::<CallbackUnregister>(pointer)?;
                match request.r#type {
                    CALLBACKTYPE_NMI => self.state.nmi_callback = Callback::default(),
                    CALLBACKTYPE_EVENT
                    | CALLBACKTYPE_FAILSAFE
                    | CALLBACKTYPE_SYSCALL
                    | CALLBACKTYPE_SYSCALL32
                    | CALLBACKTYPE_SYSENTER => return Err(Errno::Inval.into()),
                    _ => return Err(Errno::NoSys.into()),
                }
            }
            _ => return Err(Errno::NoSys.into()),
        }
        Ok(0)
    }

    /// `nmi_op(command, argument)`: the entry for NMIs.
    ///
    /// # Errors
    /// `NoSys` for an unknown command, `Fault`, `Inval` for an address that no CPU could jump to.
    #[inline(never)]
    pub fn nmi_op(&mut self, args: &mut Args) -> Reply {
        /// Commands of `nmi.h`.
        const REGISTER_CALLBACK: u32 = 0;
        const UNREGISTER_CALLBACK: u32 = 1;
        let [command, argument, ..] = *args;
        let address = match command as u32 {
            REGISTER_CALLBACK => {
                let [address, _] = self.copy_from_guest::<[u64; 2]>(argument)?;
                if !GuestAddr(address).is_canonical() {
                    return Err(Errno::Inval.into());
                }
                address
            }
            UNREGISTER_CALLBACK => 0,
            _ => return Err(Errno::NoSys.into()),
        };
        self.state.nmi_callback = Callback { address, masks_events: false };
        Ok(0)
    }

    fn register_callback(&mut self, kind: u16, callback: Callback) -> Result<(), Errno> {
        let state = &mut *self.state;
        let place = match kind {
            CALLBACKTYPE_EVENT => &mut state.event_callback,
            CALLBACKTYPE_FAILSAFE => &mut state.failsafe_callback,
            CALLBACKTYPE_SYSCALL => &mut state.syscall_callback,
            CALLBACKTYPE_SYSCALL32 => &mut state.syscall32_callback,
            CALLBACKTYPE_SYSENTER => &mut state.sysenter_callback,
            CALLBACKTYPE_NMI => &mut state.nmi_callback,
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
        let [which, base, ..] = *args;
        let which = which as u32;
        if which != SEGBASE_GS_USER_SEL && !GuestAddr(base).is_canonical() {
            return Err(Errno::Inval.into());
        }
        let machine = self.hv.machine();
        match which {
            SEGBASE_FS => {
                self.state.fs_base = base;
                machine.set_fs_base(base);
            }
            SEGBASE_GS_USER => {
                self.state.gs_base_user = base;
                machine.set_other_gs_base(base);
            }
            SEGBASE_GS_KERNEL => {
                self.state.gs_base_kernel = base;
                machine.set_gs_base(base);
            }
            SEGBASE_GS_USER_SEL => {
                // Guests load selectors of ring 3; null ones have no ring. A selector that does not load is null then,
                // and nobody is told.
                let selector = base as u16;
                machine.set_user_gs(if selector > 3 { selector | 3 } else { selector });
            }
            _ => return Err(Errno::Inval.into()),
        }
        Ok(0)
    }

    /// `fpu_taskswitch(set)`: CR0.TS.
    ///
    /// # Errors
    /// None.
    #[inline]
    pub fn fpu_taskswitch(&mut self, args: &mut Args) -> Reply {
        self.set_task_switched(args[0] as u32 != 0);
        Ok(0)
    }

    /// `set_debugreg(number, value)`.
    ///
    /// # Errors
    /// `NoDev` for a register that there is not, `Perm` for a breakpoint that a guest may not have.
    #[inline]
    pub fn set_debugreg(&mut self, args: &mut Args) -> Reply {
        let [number, value, ..] = *args;
        self.write_debug_register(register_number(number)?, value)?;
        Ok(0)
    }

    /// `get_debugreg(number)`.
    ///
    /// # Errors
    /// `NoDev` for a register that there is not.
    #[inline]
    pub fn get_debugreg(&mut self, args: &mut Args) -> Reply {
        Ok(debug::read(self.state, register_number(args[0])?).ok_or(Errno::NoDev)?)
    }

    /// `vm_assist(command, type)`.
    ///
    /// # Errors
    /// `Inval` for an unknown type, `NoSys` for an unknown command.
    #[inline]
    pub fn vm_assist(&mut self, args: &mut Args) -> Reply {
        let [command, kind, ..] = *args;
        let bit = 1_u64.checked_shl(kind as u32).unwrap_or(0) & KNOWN_ASSISTS;
        if bit == 0 {
            return Err(Errno::Inval.into());
        }
        match command as u32 {
            VMASST_CMD_ENABLE => self.domain.memory.vm_assist.fetch_or(bit, Ordering::Relaxed),
            VMASST_CMD_DISABLE => self.domain.memory.vm_assist.fetch_and(!bit, Ordering::Relaxed),
            _ => return Err(Errno::NoSys.into()),
        };
        Ok(0)
    }
}

fn register_number(number: u64) -> Result<u8, Errno> {
    u8::try_from(number as u32).map_err(|_| Errno::NoDev)
}
