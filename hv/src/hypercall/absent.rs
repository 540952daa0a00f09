//! Hypercalls about what there is not: guests with hardware's help, another kernel to boot, profilers. Refused as Xen
//! refuses them where there is none of it.

use super::{
    args::{DmOp, KexecOp, XenoprofOp},
    commands::KexecCommand,
};
use crate::{
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply},
};
use oxen_abi::errno::Errno;

impl<M: Machine> Caller<'_, M> {
    /// `dm_op(domain, count, buffers)`: device models are for guests with hardware's help.
    ///
    /// # Errors
    /// `TooBig` for too many buffers, `Fault`, `Srch` for a domain that there is not, `Perm` for the caller's own, else
    /// `Inval`.
    #[inline(never)]
    pub fn dm_op(&mut self, args: &mut Args) -> Reply {
        /// Buffers that the commands take at most, and the bytes of what names one.
        const MAX_BUFFERS: u32 = 2;
        let DmOp { domain, count, buffers } = (&*args).into();
        if count > MAX_BUFFERS {
            return Err(Errno::TooBig.into());
        }
        let list = GuestPtr::<[u64; 2]>::new(buffers, count.into())?;
        (0..count.into()).try_for_each(|index| list.read(self.hv.machine(), index).map(|_| ()))?;
        let domain = self.hv.domains.get(domain).ok_or(Errno::Srch)?;
        Err(if domain.id == self.domain.id { Errno::Perm } else { Errno::Inval }.into())
    }

    /// `xenoprof_op(command, argument)`: there is no profiler.
    ///
    /// # Errors
    /// `Inval` for an unknown command, `NoDev` for who would set one up, else `Perm`: who has not cannot use it.
    #[inline(never)]
    pub fn xenoprof_op(&mut self, args: &mut Args) -> Reply {
        const INIT: u32 = 0;
        const LAST: u32 = 17;
        let XenoprofOp { command } = (&*args).into();
        Err(match command {
            _ if command > LAST => Errno::Inval,
            INIT if self.domain.is_privileged() => Errno::NoDev,
            _ => Errno::Perm,
        }
        .into())
    }

    /// `kexec_op(command, argument)`: no other kernel is loaded, and no memory is set aside for one.
    ///
    /// # Errors
    /// `Perm` for everybody but the control domain, `Fault`, `Inval` for an unknown range or kind of kernel, `NoEnt`
    /// for starting one, `OpNotSupp` for loading one, `NoSys` for other commands.
    #[inline(never)]
    pub fn kexec_op(&mut self, args: &mut Args) -> Reply {
        /// Memory set aside, of a range's kinds (`KEXEC_RANGE_MA_CRASH`).
        const CRASH_AREA: u32 = 0;
        /// Kinds of kernels: another, and one for after a crash.
        const KINDS: u8 = 2;
        self.control()?;
        let request = KexecOp::from(&*args);
        let argument = request.argument;
        let machine = self.hv.machine();
        match request.command()? {
            KexecCommand::Exec => {
                let kind = GuestPtr::<u32>::one(argument)?.read(machine, 0)?;
                Err(if kind < u32::from(KINDS) { Errno::NoEnt } else { Errno::Inval }.into())
            }
            KexecCommand::GetRange => {
                let place = GuestPtr::<[u32; 6]>::one(argument)?;
                let [range, number, ..] = place.read(machine, 0)?;
                if range != CRASH_AREA {
                    return Err(Errno::Inval.into());
                }
                place.write(machine, 0, &[range, number, 0, 0, 0, 0])?;
                Ok(0)
            }
            command @ (KexecCommand::Unload | KexecCommand::Status | KexecCommand::Load) => {
                let kind = GuestPtr::<u8>::one(argument)?.read(machine, 0)?;
                if kind >= KINDS {
                    return Err(Errno::Inval.into());
                }
                if command == KexecCommand::Load { Err(Errno::OpNotSupp.into()) } else { Ok(0) }
            }
        }
    }
}
