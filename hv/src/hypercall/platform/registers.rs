//! Registers of a processor that the control domain may read by `platform_op`: the clock, and its memory types.

use crate::hypercall::number::{index, long, uint};
use crate::{caller::Caller, machine::Machine, mem::guest_ptr::GuestPtr, reply::Reply};
use oxen_abi::{
    errno::Errno,
    platform::{XenpfReadMemtype, XenpfResourceEntry, XenpfResourceOp},
};

/// Accesses of one call at most.
const MAX_ENTRIES: u32 = 3;
const TSC: u64 = 0x10;

impl<M: Machine> Caller<'_, M> {
    /// Reads registers, one after the other, and returns how many. The first that cannot be says why in its entry.
    pub(super) fn access_processor_registers(&self, request: XenpfResourceOp) -> Reply {
        const READ: u32 = 0;
        const WRITE: u32 = 1;
        if request.nr_entries > MAX_ENTRIES {
            return Err(Errno::Inval.into());
        }
        if request.nr_entries == 0 {
            return Ok(0);
        }
        let machine = self.hv.machine();
        let list = GuestPtr::<XenpfResourceEntry>::new(request.entries, request.nr_entries.into())?;
        let mut entries = [XenpfResourceEntry::default(); index(MAX_ENTRIES)];
        for (index, place) in (0..request.nr_entries.into()).zip(&mut entries) {
            *place = list.read(machine, index)?;
        }
        let why = |entry: &XenpfResourceEntry| match entry.cmd {
            _ if entry.rsvd != 0 => Some(Errno::Inval),
            READ | WRITE if entry.idx > u32::MAX.into() => Some(Errno::Inval),
            READ if entry.idx == TSC => None,
            READ | WRITE => Some(Errno::Perm),
            _ => Some(Errno::OpNotSupp),
        };
        let asked = entries.iter().take(index(request.nr_entries));
        let readable = asked.clone().take_while(|entry| why(entry).is_none()).count();
        if readable != 0 && self.find_processor(request.cpu).is_err() {
            return Err(Errno::NoDev.into());
        }
        for (index, entry) in (0..).zip(asked) {
            if let Some(error) = why(entry) {
                let refused = XenpfResourceEntry { cmd: uint(error.to_return_value()), ..*entry };
                list.write(machine, index, &refused)?;
                break;
            }
            // The clocks of all processors are one.
            list.write(machine, index, &XenpfResourceEntry { val: machine.ticks(), ..*entry })?;
        }
        Ok(long(readable))
    }

    /// A variable range of memory types as the firmware set it (Intel SDM vol. 3A, 12.11.2).
    pub(super) fn read_memory_type(&self, request: XenpfReadMemtype) -> Result<XenpfReadMemtype, Errno> {
        const CAPABILITIES: u32 = 0xfe;
        const FIRST: u32 = 0x200;
        const VALID: u64 = 1 << 11;
        const MTRR: u32 = 1 << 12;
        let machine = self.hv.machine();
        let [.., features] = machine.cpuid(1, 0);
        let count = if features & MTRR == 0 { None } else { machine.read_msr(CAPABILITIES) };
        if u64::from(request.reg) >= count.ok_or(Errno::Inval)? & 0xff {
            return Err(Errno::Inval);
        }
        let read = |register| machine.read_msr(register).ok_or(Errno::Inval);
        let base = FIRST.wrapping_add(request.reg.wrapping_mul(2));
        let (base, mask) = (read(base)?, read(base.wrapping_add(1))?);
        if mask & VALID == 0 {
            return Ok(XenpfReadMemtype { mfn: 0, nr_mfns: 0, r#type: 0, ..request });
        }
        let frames = crate::rights::last_frame(machine);
        let nr_mfns = (!(mask >> 12) & frames).wrapping_add(1);
        Ok(XenpfReadMemtype { mfn: base >> 12 & frames, nr_mfns, r#type: uint(base & 0xff), ..request })
    }
}
