//! What of the machine a domain may use.

use super::{Answer, Outcome, read_bitmap, write_bitmap};
use crate::{
    caller::{Caller, Control},
    config::MAX_PIRQS,
    domain::{Domain, rights::Ranges},
    machine::Machine,
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    domctl::{DomctlIomemPermission, DomctlIoportPermission, DomctlIrqPermission, DomctlNodeaffinity},
    errno::Errno,
};

/// I/O ports of a PC.
const PORTS: u32 = 1 << 16;

fn change(ranges: &mut Ranges, allow: u8, first: u64, last: u64) -> Outcome {
    if allow != 0 {
        ranges.insert(first, last)?
    } else {
        ranges.remove(first, last)?
    }
    Ok(Answer::Done)
}

pub(super) fn interrupt(_: Control, domain: &Domain, request: DomctlIrqPermission) -> Outcome {
    if request.pirq as usize >= MAX_PIRQS {
        return Err(Errno::Inval.into());
    }
    let pirq = request.pirq.into();
    change(&mut domain.rights.lock().interrupts, request.allow_access, pirq, pirq)
}

pub(super) fn memory(_: Control, domain: &Domain, request: DomctlIomemPermission) -> Outcome {
    let more = request.nr_mfns.checked_sub(1).ok_or(Errno::Inval)?;
    let last = request.first_mfn.checked_add(more).ok_or(Errno::Inval)?;
    change(&mut domain.rights.lock().memory, request.allow_access, request.first_mfn, last)
}

pub(super) fn ports(_: Control, domain: &Domain, request: DomctlIoportPermission) -> Outcome {
    let end = request.first_port.checked_add(request.nr_ports).filter(|&end| end <= PORTS).ok_or(Errno::Inval)?;
    if request.nr_ports == 0 {
        return Ok(Answer::Done);
    }
    change(&mut domain.rights.lock().ports, request.allow_access, request.first_port.into(), u64::from(end) - 1)
}

/// The machine is one node; what a toolstack would like is kept.
pub(super) fn set_nodes<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Domain,
    request: DomctlNodeaffinity,
) -> Outcome {
    let nodes = read_bitmap(caller, &request.nodemap)?;
    if nodes & 1 == 0 {
        return Err(Errno::Inval.into());
    }
    domain.node_affinity.store(nodes, Ordering::Relaxed);
    Ok(Answer::Done)
}

pub(super) fn get_nodes<M: Machine>(
    caller: &Caller<'_, M>,
    _: Control,
    domain: &Domain,
    request: DomctlNodeaffinity,
) -> Outcome {
    write_bitmap(caller, &request.nodemap, domain.node_affinity.load(Ordering::Relaxed) & 1)?;
    Ok(Answer::Done)
}
