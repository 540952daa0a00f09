//! `mmuext_op`: pins, roots, flushes, the LDT, whole pages (`xen.h`).

use super::mmu::{Cpus, Lender, flush, report, vcpus_in};
use crate::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    machine::Machine,
    mem::{editor::Editor, guest_ptr::GuestPtr},
    reply::{Args, Reply, Stop},
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    mmu::{
        MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE, MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_INVLPG_ALL,
        MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI, MMUEXT_MARK_SUPER, MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR,
        MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_SET_LDT, MMUEXT_TLB_FLUSH_ALL, MMUEXT_TLB_FLUSH_LOCAL,
        MMUEXT_TLB_FLUSH_MULTI, MMUEXT_UNMARK_SUPER, MMUEXT_UNPIN_TABLE, MmuextOp,
    },
};

/// In the count of a batch: it is a continuation.
const CONTINUED: u64 = 1 << 31;
/// The work of an operation on a whole page, in units of preemption.
const PAGE_UNITS: u32 = 64;
/// Entries of an LDT at most.
const MAX_LDT_ENTRIES: u32 = 8192;

/// `mmuext_op(operations, count, success_count, foreign)`.
///
/// # Errors
/// The first failed operation's; those before it are done, and counted.
#[inline]
pub fn mmuext_op<M: Machine>(caller: &mut Caller<'_, M>, args: &mut Args) -> Reply {
    let [operations, count, done_at, foreign, ..] = *args;
    let is_continued = count & CONTINUED != 0;
    let count = count & (CONTINUED - 1);
    let lender = Lender::of(caller, DomId(foreign as u16))?;
    if lender.is_nobody() {
        caller.control()?;
    }
    let list = GuestPtr::<[u64; 3]>::new(operations, count)?;
    let mut done = 0;
    let mut spent = 0;
    let mut outcome = Ok(());
    while done < count {
        outcome = match list.read_words(caller.hv.machine(), done) {
            Ok([cmd, arg1, arg2]) => {
                let op = MmuextOp { cmd: cmd as u32, _pad: 0, arg1, arg2 };
                apply(caller, &lender, &op, &mut spent)
            }
            Err(error) => Err(error.into()),
        };
        if outcome.is_err() {
            break;
        }
        done += 1;
        spent += 1;
        if spent >= crate::config::PREEMPT_INTERVAL && done < count {
            outcome = Err(Stop::Unfinished);
            break;
        }
    }
    if done_at != 0 {
        report(caller.hv, done_at, done, is_continued);
    }
    if outcome == Err(Stop::Unfinished) {
        args[0] = operations + done * size_of::<MmuextOp>() as u64;
        args[1] = (count - done) | CONTINUED;
    }
    outcome.map(|()| 0)
}

#[inline(always)]
fn apply<M: Machine>(caller: &mut Caller<'_, M>, lender: &Lender, op: &MmuextOp, spent: &mut u32) -> Result<(), Stop> {
    let (hv, domain) = (caller.hv, caller.domain);
    // Every context switch of a guest comes this way.
    match op.cmd {
        MMUEXT_NEW_BASEPTR if lender.is_self() => {
            Editor::lock(&hv.memory, &domain.memory).switch(caller.cpu, &mut caller.state.kernel_root, frame(op.arg1)?)
        }
        MMUEXT_NEW_USER_BASEPTR if lender.is_self() => {
            let root = if op.arg1 == 0 { None } else { Some(frame(op.arg1)?) };
            Editor::lock(&hv.memory, &domain.memory).switch_user(&mut caller.state.user_root, root)
        }
        _ => apply_other(caller, lender, op, spent),
    }
}

#[inline(never)]
fn apply_other<M: Machine>(
    caller: &mut Caller<'_, M>,
    lender: &Lender,
    op: &MmuextOp,
    spent: &mut u32,
) -> Result<(), Stop> {
    match op.cmd {
        MMUEXT_PIN_L1_TABLE..=MMUEXT_UNPIN_TABLE if lender.is_nobody() => Err(Errno::Inval.into()),
        MMUEXT_PIN_L1_TABLE..=MMUEXT_PIN_L4_TABLE => {
            let level = op.cmd - MMUEXT_PIN_L1_TABLE + 1;
            let frame = frame(op.arg1)?;
            let mut editor = Editor::open(&caller.hv.memory, &lender.or(caller.domain).memory)?;
            let outcome = editor.pin(frame, level);
            *spent += editor.spent();
            outcome
        }
        MMUEXT_UNPIN_TABLE => {
            let frame = frame(op.arg1)?;
            let mut editor = Editor::open(&caller.hv.memory, &lender.or(caller.domain).memory)?;
            let outcome = editor.unpin(frame);
            *spent += editor.spent();
            outcome
        }
        MMUEXT_CLEAR_PAGE => {
            *spent += PAGE_UNITS;
            let to = frame(op.arg1)?;
            caller.hv.memory.hold_writable(to, lender.rights.owner).map_err(|_| Errno::Inval)?;
            caller.hv.machine().clear(to);
            caller.hv.memory.frames.put_use(to);
            Ok(())
        }
        MMUEXT_COPY_PAGE => {
            *spent += PAGE_UNITS;
            let (to, from) = (frame(op.arg1)?, frame(op.arg2)?);
            caller.hv.memory.frames.reference(from, lender.rights.owner)?;
            let held = caller.hv.memory.hold_writable(to, lender.rights.owner);
            if held.is_ok() {
                caller.hv.machine().copy(from, to);
                caller.hv.memory.frames.put_use(to);
            }
            caller.hv.memory.frames.put(from);
            Ok(held.map_err(|_| Errno::Inval)?)
        }
        MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => Err(Errno::OpNotSupp.into()),
        MMUEXT_UNMARK_SUPER.. => Err(Errno::NoSys.into()),
        _ if !lender.is_self() => Err(Errno::Perm.into()),
        _ => flush_or_ldt(caller, op),
    }
}

/// What changes no table.
fn flush_or_ldt<M: Machine>(caller: &mut Caller<'_, M>, op: &MmuextOp) -> Result<(), Stop> {
    let page = Some(GuestAddr(op.arg1));
    match op.cmd {
        MMUEXT_TLB_FLUSH_LOCAL => flush(caller, Cpus::Local, None),
        MMUEXT_TLB_FLUSH_MULTI => flush(caller, vcpus_in(caller, op.arg2).map_err(|_| Errno::Inval)?, None),
        MMUEXT_TLB_FLUSH_ALL => flush(caller, Cpus::Domain, None),
        MMUEXT_INVLPG_LOCAL => flush(caller, Cpus::Local, page),
        MMUEXT_INVLPG_MULTI => flush(caller, vcpus_in(caller, op.arg2).map_err(|_| Errno::Inval)?, page),
        MMUEXT_INVLPG_ALL => flush(caller, Cpus::Domain, page),
        // Who has no device's memory and no ports sees write-back memory only: there is nothing to flush for it.
        MMUEXT_FLUSH_CACHE | MMUEXT_FLUSH_CACHE_GLOBAL if caller.domain.memory.rights.lock().reach_devices() => {
            caller.hv.machine().flush_data_caches();
        }
        MMUEXT_FLUSH_CACHE => return Err(Errno::Acces.into()),
        MMUEXT_FLUSH_CACHE_GLOBAL => return Err(Errno::Inval.into()),
        // `nr_ents` is an `unsigned int`: the other half of its word is padding.
        MMUEXT_SET_LDT => return set_ldt(caller, op.arg1, op.arg2 as u32),
        _ => return Err(Errno::NoSys.into()),
    }
    Ok(())
}

/// Names another local descriptor table; its pages are taken as they are used. A table without entries has no place.
fn set_ldt<M: Machine>(caller: &mut Caller<'_, M>, base: u64, entries: u32) -> Result<(), Stop> {
    let base = if entries == 0 { 0 } else { base };
    let is_placed = entries == 0 || GuestAddr(base).is_guest_range(u64::from(entries) * 8);
    if entries > MAX_LDT_ENTRIES || base & 0xfff != 0 || !is_placed {
        return Err(Errno::Inval.into());
    }
    if (caller.state.ldt_base, u32::from(caller.state.ldt_entries)) != (base, entries) {
        let editor = Editor::open(&caller.hv.memory, &caller.domain.memory)?;
        let old = core::mem::take(&mut caller.state.ldt);
        caller.state.ldt_base = base;
        caller.state.ldt_entries = entries as u16;
        caller.hv.machine().load_descriptor_tables(caller.state);
        old.into_iter().flatten().for_each(|mfn| editor.put_descriptors(mfn));
    }
    Ok(())
}

fn frame(number: u64) -> Result<Mfn, Errno> {
    Mfn::new(number).ok_or(Errno::Inval)
}
