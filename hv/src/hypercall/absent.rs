//! Hypercalls about what there is not: guests with hardware's help, another kernel to boot, profilers. Refused as Xen
//! refuses them where there is none of it.

use crate::{
    caller::Caller,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply},
};
use oxen_abi::{domid::DomId, errno::Errno};

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
        let [domain, count, buffers, ..] = *args;
        let count = count as u32;
        if count > MAX_BUFFERS {
            return Err(Errno::TooBig.into());
        }
        let list = GuestPtr::<[u64; 2]>::new(buffers, count.into())?;
        (0..count.into()).try_for_each(|index| list.read(self.hv.machine(), index).map(|_| ()))?;
        let domain = self.hv.domains.get(DomId(domain as u16)).ok_or(Errno::Srch)?;
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
        let command = args[0] as u32;
        Err(match command {
            _ if command > LAST => Errno::Inval,
            INIT if self.domain.is_privileged => Errno::NoDev,
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
        const EXEC: u32 = 0;
        const GET_RANGE: u32 = 3;
        const LOAD: u32 = 4;
        const UNLOAD: u32 = 5;
        const STATUS: u32 = 6;
        /// Memory set aside, of a range's kinds (`KEXEC_RANGE_MA_CRASH`).
        const CRASH_AREA: u32 = 0;
        /// Kinds of kernels: another, and one for after a crash.
        const KINDS: u8 = 2;
        self.control()?;
        let [command, argument, ..] = *args;
        let machine = self.hv.machine();
        match command as u32 {
            EXEC => {
                let kind = GuestPtr::<u32>::one(argument)?.read(machine, 0)?;
                Err(if kind < u32::from(KINDS) { Errno::NoEnt } else { Errno::Inval }.into())
            }
            GET_RANGE => {
                let place = GuestPtr::<[u32; 6]>::one(argument)?;
                let [range, number, ..] = place.read(machine, 0)?;
                if range != CRASH_AREA {
                    return Err(Errno::Inval.into());
                }
                place.write(machine, 0, &[range, number, 0, 0, 0, 0])?;
                Ok(0)
            }
            UNLOAD | STATUS | LOAD => {
                let kind = GuestPtr::<u8>::one(argument)?.read(machine, 0)?;
                if kind >= KINDS {
                    return Err(Errno::Inval.into());
                }
                if command as u32 == LOAD { Err(Errno::OpNotSupp.into()) } else { Ok(0) }
            }
            _ => Err(Errno::NoSys.into()),
        }
    }
}
