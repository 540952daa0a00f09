//! Mapping granted frames: a claim with a handle, and for the processor an entry of a page table.
//!
//! Requests come in rows, so that locks are taken once for all that concern the same granter, and one flush ends a row
//! of mappings.

use super::lock_both;
use crate::{
    Hypervisor,
    addr::{GuestAddr, MachineAddr},
    caller::Caller,
    config::PREEMPT_INTERVAL,
    domain::Domain,
    grant::{
        Grants, Table,
        entry::{self, Access, Status},
        maptrack::{Maptrack, Track},
    },
    machine::Machine,
    mem::{
        editor::Editor,
        grant_mapping::{At, entry_flags},
    },
    reply::Stop,
};
use heapless::Vec;
use oxen_abi::{
    grant_table::{self as abi, GnttabMapGrantRef, MapFlags},
    trace::{TRC_MEM_PAGE_GRANT_MAP, TRC_MEM_PAGE_GRANT_UNMAP},
};

/// Requests in a row at most.
pub const ROW: usize = 16;
/// Both ways in which a frame can be mapped.
const PARTS: MapFlags = MapFlags::HOST_MAP.union(MapFlags::DEVICE_MAP);

/// How a request wants its frame mapped. Bits that mean nothing are left unread.
#[inline]
const fn flags_of(op: &GnttabMapGrantRef) -> MapFlags {
    MapFlags::from_bits_retain(op.flags)
}

impl<M: Machine> Caller<'_, M> {
    /// Maps granted frames (`GNTTABOP_map_grant_ref`), fills in statuses, handles and bus addresses. Returns how many
    /// of the requests it got to before something more urgent came.
    #[inline(never)]
    pub fn map_grants(&self, ops: &mut [GnttabMapGrantRef]) -> usize {
        let count = ops.len();
        let mut rest = &mut ops[..];
        while let Some(first) = rest.first_mut() {
            let Ok(mut editor) = Editor::open(&self.hv.memory, &self.domain.memory) else { break };
            let id = first.dom;
            let Some(granter) = self.hv.domains.get(id) else {
                let is_nothing = !flags_of(first).intersects(PARTS);
                first.status = if is_nothing { abi::GNTST_BAD_GNTREF } else { abi::GNTST_BAD_DOMAIN };
                rest = rest.get_mut(1..).unwrap_or_default();
                continue;
            };
            let same = rest.iter().take_while(|op| op.dom == id).count();
            let (row, after) = rest.split_at_mut(same);
            let (mut own, mut other) = lock_both(self.domain, &granter);
            let Grants { table, maptrack } = &mut *own;
            let table = other.as_mut().map_or(table, |other| &mut other.table);
            for op in row {
                op.status =
                    self.map_one_grant(&mut editor, &granter, (table, maptrack), op).err().unwrap_or(abi::GNTST_OKAY);
            }
            rest = after;
            self.hv.note(TRC_MEM_PAGE_GRANT_MAP, || [id.0.into()]);
        }
        count - rest.len()
    }

    #[inline]
    fn map_one_grant(
        &self,
        editor: &mut Editor<'_, M>,
        granter: &Domain,
        (table, maptrack): (&mut Table, &mut Maptrack),
        op: &mut GnttabMapGrantRef,
    ) -> Result<(), Status> {
        let hv = self.hv;
        if !flags_of(op).intersects(PARTS) {
            return Err(abi::GNTST_BAD_GNTREF);
        }
        let slot = entry::slot(granter.owner()).ok_or(abi::GNTST_GENERAL_ERROR)?;
        let handle = maptrack.free_handle(hv.machine()).map_err(|_| abi::GNTST_NO_SPACE)?;
        let access = if flags_of(op).contains(MapFlags::READONLY) { Access::Read } else { Access::Write };
        let claim = table.claim(&hv.memory, granter.memory.named(), self.domain.party(), op.r#ref, access, true)?;
        if flags_of(op).contains(MapFlags::HOST_MAP) {
            let mapped = self.place_of_grant(flags_of(op), op.host_addr).and_then(|at| {
                let flags = entry_flags(flags_of(op));
                editor
                    .map_grant(at, claim.held.frame().mfn(), granter.owner(), flags)
                    .map_err(|_| abi::GNTST_GENERAL_ERROR)
            });
            if let Err(status) = mapped {
                table.release(hv.machine(), op.r#ref, access);
                return Err(status);
            }
        } else if access == Access::Write {
            // No entry shows what a device may write to.
            hv.memory.mark_lent(granter.owner(), claim.held.frame().mfn());
        }
        let frame = claim.held.into_entry().mfn();
        maptrack.open(handle, Track::new(frame, slot, op.r#ref, flags_of(op)));
        op.handle = handle;
        op.dev_bus_addr = frame.address().as_u64();
        Ok(())
    }

    /// Where a request wants its mapping.
    #[inline]
    fn place_of_grant(&self, flags: MapFlags, address: u64) -> Result<At, Status> {
        if flags.contains(MapFlags::CONTAINS_PTE) {
            return Ok(At::Entry(MachineAddr::new(address)));
        }
        self.state.kernel_root.map(|root| At::Address(root, GuestAddr::new(address))).ok_or(abi::GNTST_GENERAL_ERROR)
    }
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

/// A request to end a mapping, as a guest writes it.
pub trait UnmapRequest {
    /// What it asks for.
    fn what(&self) -> Unmap;
    /// Writes its status.
    fn answer(&mut self, status: Status);
}

impl<M: Machine> Caller<'_, M> {
    /// Ends mappings (`GNTTABOP_unmap_grant_ref`, `GNTTABOP_unmap_and_replace`), at most [`ROW`], and fills in
    /// statuses. Returns how many of the requests it got to before something more urgent came.
    pub fn unmap_grants(&self, ops: &mut [impl UnmapRequest]) -> usize {
        let Ok(mut editor) = Editor::open(&self.hv.memory, &self.domain.memory) else { return 0 };
        let mut ended: Vec<(u32, Track), ROW> = Vec::new();
        let mut needs_flush = false;
        let mut own = self.domain.grants.lock();
        let count = ops.len().min(ROW);
        for request in ops.iter_mut().take(count) {
            let op = request.what();
            let outcome = self.unmap_one_grant(&mut editor, &mut own.maptrack, &op);
            // What is refused may have taken away what was to be moved.
            needs_flush |= op.new_addr != 0;
            if let Ok(left) = outcome {
                needs_flush |= op.host_addr != 0;
                // There is room for a row.
                let _ = ended.push((op.handle, left));
            }
            request.answer(outcome.err().unwrap_or(abi::GNTST_OKAY));
        }
        drop((own, editor));
        if needs_flush {
            self.hv.memory.flush_cpus(self.hv.memory.frames.tlb.cpus_of(self.domain.owner()));
        }
        self.hv.finish_unmaps(self.domain, &ended);
        count
    }

    /// Takes a mapping out of the page tables and its handle out of everybody else's hands. Answers what is left of it.
    #[inline]
    fn unmap_one_grant(
        &self,
        editor: &mut Editor<'_, M>,
        maptrack: &mut Maptrack,
        op: &Unmap,
    ) -> Result<Track, Status> {
        let track = maptrack.get(op.handle).filter(|track| !track.is_busy()).ok_or(abi::GNTST_BAD_HANDLE)?;
        let frame = track.frame().ok_or(abi::GNTST_GENERAL_ERROR)?;
        let mut parts = MapFlags::empty();
        if op.dev_bus_addr != 0 {
            parts = track.flags().intersection(MapFlags::DEVICE_MAP);
        }
        if !parts.is_empty() && frame.address().as_u64() != op.dev_bus_addr {
            return Err(abi::GNTST_BAD_DEV_ADDR);
        }
        if op.host_addr != 0 && track.flags().contains(MapFlags::HOST_MAP) {
            let is_writable = track.access() == Access::Write;
            let outcome = match (self.place_of_grant(track.flags(), op.host_addr)?, op.new_addr) {
                (at, 0) => editor.unmap_grant(at, frame, is_writable),
                (at @ At::Address(root, _), new) => {
                    editor.replace_grant(at, frame, is_writable, (root, GuestAddr::new(new)))
                }
                (At::Entry(_), _) => return Err(abi::GNTST_GENERAL_ERROR),
            };
            outcome.map_err(|_| abi::GNTST_GENERAL_ERROR)?;
            parts |= MapFlags::HOST_MAP;
        }
        let left = track.without(parts);
        maptrack.set(op.handle, left.busy(true));
        Ok(left)
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Gives handles back that were made busy; of those with nothing left of their mapping, the claim too.
    fn finish_unmaps(&self, mapper: &Domain, ended: &[(u32, Track)]) {
        let mut rest = ended;
        while let Some((_, first)) = rest.first() {
            let slot = first.slot();
            let same = rest.iter().take_while(|(_, track)| track.slot() == slot).count();
            let (row, after) = rest.split_at(same);
            // A granter that is gone has no table to mark; its frames were kept from others by the claims' references.
            let granter = self.domains.in_slot(slot.into());
            self.note(TRC_MEM_PAGE_GRANT_UNMAP, || [granter.as_ref().map_or(u32::MAX, |granter| granter.id.0.into())]);
            let (mut own, mut other) = match &granter {
                Some(granter) => lock_both(mapper, granter),
                None => (mapper.grants.lock(), None),
            };
            let Grants { table, maptrack } = &mut *own;
            let table = other.as_mut().map_or(table, |other| &mut other.table);
            for &(handle, left) in row {
                if left.is_mapped() {
                    maptrack.set(handle, left.busy(false));
                    continue;
                }
                maptrack.close(handle);
                let Some(frame) = left.frame() else { continue };
                let access = left.access();
                if granter.is_some() {
                    table.release(self.machine(), left.reference(), access);
                }
                self.memory.frames.put_entry(frame, access.hold());
            }
            rest = after;
        }
    }

    /// Ends all mappings that a dying domain holds, then its table: a bounded number at a time. Nobody runs in its name
    /// any more.
    ///
    /// # Errors
    /// `Unfinished`: call again.
    pub fn release_grants(&self, domain: &Domain) -> Result<(), Stop> {
        for step in 0.. {
            if step == PREEMPT_INTERVAL {
                return Err(Stop::Unfinished);
            }
            let last = domain.grants.lock().maptrack.retire();
            match last {
                Some((handle, Some(track))) => self.finish_unmaps(domain, &[(handle, track.without(PARTS))]),
                Some((_, None)) => {}
                None => break,
            }
        }
        let frames = domain.grants.lock().table.close();
        for frame in frames {
            self.memory.give_back_shared(frame);
        }
        Ok(())
    }
}
