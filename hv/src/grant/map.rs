//! Mapping granted frames: a claim with a handle, and for the processor an entry of a page table.

use super::{
    Claim, Grants, Peer, drop_frame,
    entry::{self, Access, Status},
    lock_both,
    maptrack::Track,
};
use crate::{
    Hypervisor,
    addr::{GuestAddr, MachineAddr, Mfn},
    caller::{Caller, Refusal},
    config::PREEMPT_INTERVAL,
    domain::{Domain, Progress},
    machine::Machine,
    mem::{
        editor::Editor,
        frame_alloc,
        grant_mapping::{At, entry_flags},
        tlb,
    },
};
use core::sync::atomic::Ordering;
use heapless::Vec;
use oxen_abi::grant_table::{self as abi, GnttabMapGrantRef};

/// Mappings that are ended with one flush.
pub const UNMAP_BATCH: usize = 32;

/// Maps a granted frame (`GNTTABOP_map_grant_ref`) and fills in handle and bus address. Answers the status; nothing is
/// mapped unless it is `GNTST_okay`.
///
/// # Errors
/// `Preempted` before anything was done.
pub fn map<M: Machine>(caller: &Caller<'_, M>, peer: &mut Peer, op: &mut GnttabMapGrantRef) -> Result<Status, Refusal> {
    if op.flags & (abi::GNTMAP_DEVICE_MAP | abi::GNTMAP_HOST_MAP) == 0 {
        return Ok(abi::GNTST_BAD_GNTREF);
    }
    let granter = match peer.get(caller.hv, op.dom) {
        Ok(granter) => granter,
        Err(status) => return Ok(status),
    };
    let is_host = op.flags & abi::GNTMAP_HOST_MAP != 0;
    let mut editor = if is_host { Some(Editor::open(caller.hv, caller.domain)?) } else { None };
    let (handle, track, frame) = match begin(caller.hv, caller.domain, granter, op) {
        Ok(begun) => begun,
        Err(status) => return Ok(status),
    };
    if let Some(editor) = &mut editor {
        let mapped = at(caller, op.flags, op.host_addr).and_then(|at| {
            editor.map_grant(at, frame, granter.owner, entry_flags(op.flags)).map_err(|_| abi::GNTST_GENERAL_ERROR)
        });
        if let Err(status) = mapped {
            finish(caller.hv, caller.domain, handle, abi::GNTMAP_HOST_MAP | abi::GNTMAP_DEVICE_MAP);
            return Ok(status);
        }
    }
    caller.domain.grants.lock().maptrack.set(handle, track);
    op.handle = handle;
    op.dev_bus_addr = frame.address().0;
    Ok(abi::GNTST_OKAY)
}

/// Claims the entry and takes a handle, which nobody but the caller can use yet. Returns what it is to hold in the end.
fn begin<M: Machine>(
    hv: &Hypervisor<M>,
    mapper: &Domain,
    granter: &Domain,
    op: &GnttabMapGrantRef,
) -> Result<(u32, Track, Mfn), Status> {
    let access = if op.flags & abi::GNTMAP_READONLY != 0 { Access::Read } else { Access::Write };
    let slot = entry::slot(granter).ok_or(abi::GNTST_GENERAL_ERROR)?;
    let (mut own, mut other) = lock_both(mapper, granter);
    let Grants { table, maptrack } = &mut *own;
    let table = other.as_mut().map_or(table, |other| &mut other.table);
    let handle = maptrack.free_handle(&hv.machine).map_err(|_| abi::GNTST_NO_SPACE)?;
    let claim = table.claim(hv, granter, mapper, op.r#ref, access, true)?;
    let track = Track::new(claim.frame, slot, op.r#ref, op.flags);
    maptrack.open(handle, track.busy(true));
    Ok((handle, track, claim.frame))
}

/// Where a request wants its mapping.
fn at<M: Machine>(caller: &Caller<'_, M>, flags: u32, address: u64) -> Result<At, Status> {
    if flags & abi::GNTMAP_CONTAINS_PTE != 0 {
        return Ok(At::Entry(MachineAddr(address)));
    }
    caller.state.kernel_root.map(|root| At::Address(root, GuestAddr(address))).ok_or(abi::GNTST_GENERAL_ERROR)
}

/// One mapping to be ended, in whole or in part.
#[derive(Clone, Copy, Debug)]
pub struct Unmap {
    /// Where the processor's mapping is; 0: it stays.
    pub host_addr: u64,
    /// Whose page table entry takes the place of the processor's mapping; 0: none does.
    pub new_addr: u64,
    /// The bus address of the devices' mapping; 0: it stays.
    pub dev_bus_addr: u64,
    /// The handle.
    pub handle: u32,
}

/// Mappings whose page table entries are gone, and that wait for the flush.
#[derive(Debug, Default)]
pub struct Ended {
    parts: Vec<(u32, u32), UNMAP_BATCH>,
    needs_flush: bool,
}

impl Ended {
    /// Takes a mapping out of the page tables (`GNTTABOP_unmap_grant_ref`, `GNTTABOP_unmap_and_replace`). It is over
    /// after [`Self::finish`], which must be called before [`UNMAP_BATCH`] more of them. Answers the status; the mapping
    /// stays unless it is `GNTST_okay`.
    ///
    /// # Errors
    /// `Preempted` before anything was done.
    pub fn unmap<M: Machine>(&mut self, caller: &Caller<'_, M>, op: &Unmap) -> Result<Status, Refusal> {
        let mut editor = if op.host_addr == 0 { None } else { Some(Editor::open(caller.hv, caller.domain)?) };
        let track = match take(caller.domain, op) {
            Ok(track) => track,
            Err(status) => return Ok(status),
        };
        let mut parts = 0;
        if let Some(editor) = editor.as_mut().filter(|_| track.flags() & abi::GNTMAP_HOST_MAP != 0) {
            if let Err(status) = remove_entry(caller, editor, track, op) {
                caller.domain.grants.lock().maptrack.set(op.handle, track);
                return Ok(status);
            }
            parts |= abi::GNTMAP_HOST_MAP;
            self.needs_flush = true;
        }
        if op.dev_bus_addr != 0 {
            parts |= track.flags() & abi::GNTMAP_DEVICE_MAP;
        }
        // The caller finishes often enough, so there is room; if not, the mapping just stays claimed until the end.
        let _ = self.parts.push((op.handle, parts));
        Ok(abi::GNTST_OKAY)
    }

    /// Flushes once and gives back what was unmapped.
    pub fn finish<M: Machine>(&mut self, caller: &Caller<'_, M>) {
        if core::mem::take(&mut self.needs_flush) {
            tlb::flush_cpus(caller.hv, caller.domain.dirty_cpus.load(Ordering::Acquire));
        }
        for (handle, parts) in core::mem::take(&mut self.parts) {
            finish(caller.hv, caller.domain, handle, parts);
        }
    }
}

/// Takes a handle out of everybody else's hands.
fn take(domain: &Domain, op: &Unmap) -> Result<Track, Status> {
    let maptrack = &mut domain.grants.lock().maptrack;
    let track = maptrack.get(op.handle).filter(|track| !track.is_busy()).ok_or(abi::GNTST_BAD_HANDLE)?;
    let bus = track.frame().map(|frame| frame.address().0);
    if op.dev_bus_addr != 0 && track.flags() & abi::GNTMAP_DEVICE_MAP != 0 && bus != Some(op.dev_bus_addr) {
        return Err(abi::GNTST_BAD_DEV_ADDR);
    }
    maptrack.set(op.handle, track.busy(true));
    Ok(track)
}

fn remove_entry<M: Machine>(
    caller: &Caller<'_, M>,
    editor: &mut Editor<'_, M>,
    track: Track,
    op: &Unmap,
) -> Result<(), Status> {
    let frame = track.frame().ok_or(abi::GNTST_GENERAL_ERROR)?;
    let is_writable = track.access() == Access::Write;
    let outcome = match (at(caller, track.flags(), op.host_addr)?, op.new_addr) {
        (at, 0) => editor.unmap_grant(at, frame, is_writable),
        (at @ At::Address(root, _), new) => editor.replace_grant(at, frame, is_writable, (root, GuestAddr(new))),
        (At::Entry(_), _) => return Err(abi::GNTST_GENERAL_ERROR),
    };
    outcome.map_err(|_| abi::GNTST_GENERAL_ERROR)
}

/// Ends parts of a mapping that the caller has made busy; with the last of them the claim and the handle are given back.
fn finish<M: Machine>(hv: &Hypervisor<M>, mapper: &Domain, handle: u32, parts: u32) {
    let Some(track) = mapper.grants.lock().maptrack.get(handle) else { return };
    let left = track.without(parts).busy(false);
    if left.is_mapped() {
        mapper.grants.lock().maptrack.set(handle, left);
        return;
    }
    // A granter that is gone has no table to mark; its frame was kept from others by the claim's reference.
    let granter = hv.domains.in_slot(track.slot().into());
    let Some(frame) = track.frame() else { return };
    let claim = Claim { reference: track.reference(), frame, access: track.access() };
    let (mut own, mut other) = match &granter {
        Some(granter) => lock_both(mapper, granter),
        None => (mapper.grants.lock(), None),
    };
    let Grants { table, maptrack } = &mut *own;
    if granter.is_some() {
        let table = other.as_mut().map_or(table, |other| &mut other.table);
        table.release(&hv.machine, claim);
    }
    maptrack.close(handle);
    drop((own, other));
    drop_frame(hv, frame, claim.access);
}

/// Ends all mappings that a dying domain holds, then its table: a bounded number at a time, to be called again until it is
/// done. Nobody runs in its name any more.
pub fn release_all<M: Machine>(hv: &Hypervisor<M>, domain: &Domain) -> Progress {
    let used = domain.grants.lock().maptrack.used();
    let mut ended = 0;
    for handle in 0..used {
        if domain.grants.lock().maptrack.get(handle).is_none() {
            continue;
        }
        if ended == PREEMPT_INTERVAL {
            return Progress::Stopped;
        }
        finish(hv, domain, handle, abi::GNTMAP_HOST_MAP | abi::GNTMAP_DEVICE_MAP);
        ended += 1;
    }
    let frames = {
        let table = &mut domain.grants.lock().table;
        table.is_closed = true;
        core::mem::take(&mut table.frames)
    };
    for frame in frames {
        frame_alloc::give_back_shared(hv, frame);
    }
    Progress::Done
}
