//! `memory_op`: reservations (`memory.h`). Maps and other questions are answered next door.

use super::{
    args::{MemoryOp, Resume},
    commands::MemoryCommand,
    number::long,
};
use crate::{
    addr::{Mfn, PAGE_SHIFT},
    caller::Caller,
    config::PREEMPT_INTERVAL,
    domain::Domain,
    machine::Machine,
    mem::{frame_alloc, guest_ptr::GuestPtr},
    reply::{Args, Reply, Stop},
};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    memory::{MEMOP_EXTENT_SHIFT, MemoryExchange, MemoryReservation, XENMEMF_EXACT_NODE_REQUEST},
};

/// The largest extent, 2 MiB: what can be filled with zeros in one go.
const MAX_EXTENT_ORDER: u32 = 9;
/// The largest extent that the control domain may name in an exchange; of those above the other there are none.
const MAX_CONTROL_ORDER: u32 = 18;
/// The work of one frame given out or taken back, in units of preemption.
const FRAME_UNITS: u32 = 4;
/// Where a reservation names a memory node, from 1 (`XENMEMF_node`).
const NODE_SHIFT: u32 = 8;

/// Extents of a reservation that is being changed.
struct Extents {
    domain: Arc<Domain>,
    list: Option<GuestPtr<u64>>,
    order: u32,
    /// Frame numbers are below it.
    limit: u64,
}

/// A part of an exchange: extents on both sides that make the same number of frames.
struct Chunk {
    source: (GuestPtr<u64>, u32),
    target: (GuestPtr<u64>, u32),
    limit: u64,
}

impl<M: Machine> Caller<'_, M> {
    /// `memory_op(command, argument)`. The bits of the command above the sixth say how many extents were done before.
    ///
    /// # Errors
    /// Each operation's own; those on extents answer how many were done instead.
    #[inline]
    pub fn memory_op(&mut self, args: &mut Args) -> Reply {
        let request = MemoryOp::from(&*args);
        match request.command {
            Ok(
                MemoryCommand::IncreaseReservation
                | MemoryCommand::DecreaseReservation
                | MemoryCommand::PopulatePhysmap,
            ) => self.adjust_reservation(args, request),
            _ if request.start != 0 => self.memory_op_begun(request.command?, request.argument),
            _ => self.memory_op_whole(request.command?, request.argument),
        }
    }

    /// An operation other than those on extents that says it has begun: maps and resources may, all others are refused.
    #[cold]
    fn memory_op_begun(&mut self, command: MemoryCommand, argument: u64) -> Reply {
        match command {
            MemoryCommand::AcquireResource | MemoryCommand::AddToPhysmap | MemoryCommand::AddToPhysmapBatch => {
                self.memory_op_whole(command, argument)
            }
            MemoryCommand::Exchange
            | MemoryCommand::MaximumRamPage
            | MemoryCommand::CurrentReservation
            | MemoryCommand::MaximumReservation
            | MemoryCommand::MaximumGpfn
            | MemoryCommand::ClaimPages
            | MemoryCommand::RemoveFromPhysmap => Err(Errno::Inval.into()),
            _ => Err(Errno::NoSys.into()),
        }
    }

    /// Operations that are done in one call, or keep in their structure how far they came.
    #[inline(never)]
    fn memory_op_whole(&mut self, command: MemoryCommand, argument: u64) -> Reply {
        match command {
            MemoryCommand::Exchange => self.exchange_memory(argument),
            MemoryCommand::CurrentReservation | MemoryCommand::MaximumReservation | MemoryCommand::MaximumGpfn => {
                let id = self.copy_from_guest::<DomId>(argument)?;
                self.answer_about_memory(command, id)
            }
            MemoryCommand::ClaimPages => self.claim_pages(argument),
            MemoryCommand::MaximumRamPage => Ok(long(self.hv.memory.frames.end())),
            MemoryCommand::MemoryMap => self.get_memory_map(argument),
            MemoryCommand::SetMemoryMap => self.set_memory_map(argument),
            MemoryCommand::MachineMemoryMap => self.get_machine_memory_map(argument),
            MemoryCommand::MachphysMapping => self.get_machphys_mapping(argument),
            MemoryCommand::MachphysMfnList => self.get_machphys_frames(argument),
            MemoryCommand::AcquireResource => self.acquire_resource(argument),
            MemoryCommand::GetVnumainfo => self.get_vnuma_info(argument),
            MemoryCommand::GetSharingFreedPages | MemoryCommand::GetSharingSharedPages => Ok(0),
            _ => self.refuse_memory_op(command, argument),
        }
    }

    /// Returns how many extents are done, as all operations on extents do whatever happened.
    #[inline(never)]
    fn adjust_reservation(&mut self, args: &mut Args, request: MemoryOp) -> Reply {
        let (command, start) = (request.command?, request.start);
        let Ok(asked) = self.copy_from_guest::<MemoryReservation>(request.argument) else { return Ok(start) };
        if asked.nr_extents > u64::from(u32::MAX >> MEMOP_EXTENT_SHIFT) || start >= asked.nr_extents {
            return Ok(start);
        }
        let domain = match self.domain_to_act_on(asked.domid) {
            Ok(domain) => Arc::clone(&domain),
            Err(Errno::Perm) => return Err(Errno::Perm.into()),
            Err(_) => return Ok(start),
        };
        let list = match (asked.extent_start, command) {
            (0, MemoryCommand::IncreaseReservation) => None,
            (list, _) => match GuestPtr::<u64>::new(list, asked.nr_extents) {
                Ok(list) => Some(list),
                Err(_) => return Ok(start),
            },
        };
        if asked.extent_order > MAX_EXTENT_ORDER || domain.memory.is_dying.load(Ordering::Acquire) {
            return Ok(start);
        }
        // The machine is one memory node, and only the control domain may insist on one.
        let (node, insists) = (asked.mem_flags >> NODE_SHIFT & 0xff, asked.mem_flags & XENMEMF_EXACT_NODE_REQUEST != 0);
        if node != 0 && insists && (node != 1 || self.control().is_err()) {
            return Ok(start);
        }
        let limit = frame_limit(asked.mem_flags);
        let extents = Extents { domain, list, order: asked.extent_order, limit };
        if extents.domain.memory.is_translated() {
            return self.adjust_translated(args, request, &extents, asked.nr_extents);
        }
        self.each_extent(args, request, asked.nr_extents, extents.order, |done| match command {
            MemoryCommand::IncreaseReservation => self.increase_by_extent(&extents, done),
            MemoryCommand::PopulatePhysmap => self.populate_extent(&extents, done),
            _ => self.decrease_by_extent(&extents, done),
        })
    }

    /// The same for a domain whose frames are translated. A frame without a place would be of no use to it.
    #[cold]
    #[inline(never)]
    fn adjust_translated(&self, args: &mut Args, request: MemoryOp, extents: &Extents, count: u64) -> Reply {
        let (domain, order, command) = (&extents.domain, extents.order, request.command?);
        self.each_extent(args, request, count, order, |index| {
            let first = extents.list.ok_or(Errno::Fault)?.read(self.hv.machine(), index)?;
            match command {
                MemoryCommand::PopulatePhysmap => self.populate_translated(domain, first, order, extents.limit),
                MemoryCommand::DecreaseReservation => {
                    let first = Mfn::new(first).ok_or(Errno::Inval)?;
                    frame_alloc::block(first, order).try_for_each(|number| self.give_up_frame(domain, number.raw()))
                }
                _ => Err(Errno::Inval.into()),
            }
        })
    }

    /// Does something to each extent, as far as it can be done. Returns how many are done.
    #[inline(always)]
    fn each_extent(
        &self,
        args: &mut Args,
        request: MemoryOp,
        count: u64,
        order: u32,
        act: impl Fn(u64) -> Result<(), Stop>,
    ) -> Reply {
        let mut done = request.start;
        let mut spent = 0_u32;
        while done < count {
            if spent >= PREEMPT_INTERVAL {
                return Err(MemoryOp { start: done, ..request }.leave(args));
            }
            match act(done) {
                Ok(()) => {}
                Err(Stop::Unfinished) => {
                    spent = PREEMPT_INTERVAL;
                    continue;
                }
                Err(_) => break,
            }
            done = done.wrapping_add(1);
            spent = spent.saturating_add(FRAME_UNITS << order);
        }
        Ok(done)
    }

    /// Takes a block for the domain whose frame numbers are small enough.
    fn take_extent(&self, extents: &Extents) -> Result<Mfn, Stop> {
        self.hv.memory.take_below(&extents.domain.memory, extents.order, extents.limit)
    }

    fn give_back_extent(&self, extents: &Extents, first: Mfn) {
        for frame in frame_alloc::block(first, extents.order) {
            let _ = self.hv.memory.frames.release_from_reservation(frame, extents.domain.owner());
        }
    }

    fn increase_by_extent(&self, extents: &Extents, index: u64) -> Result<(), Stop> {
        let first = self.take_extent(extents)?;
        let told = extents.list.map_or(Ok(()), |list| list.write(self.hv.machine(), index, &first.raw()));
        Ok(told.inspect_err(|_| self.give_back_extent(extents, first))?)
    }

    fn populate_extent(&self, extents: &Extents, index: u64) -> Result<(), Stop> {
        let list = extents.list.ok_or(Errno::Fault)?;
        let pfn = list.read(self.hv.machine(), index)?;
        let first = self.take_extent(extents)?;
        for (frame, pfn) in frame_alloc::block(first, extents.order).zip(pfn..) {
            self.hv.memory.set_m2p(frame, pfn);
        }
        Ok(list.write(self.hv.machine(), index, &first.raw()).inspect_err(|_| self.give_back_extent(extents, first))?)
    }

    fn decrease_by_extent(&self, extents: &Extents, index: u64) -> Result<(), Stop> {
        let first = extents.list.ok_or(Errno::Fault)?.read(self.hv.machine(), index)?;
        let first = Mfn::new(first).ok_or(Errno::Inval)?;
        for frame in frame_alloc::block(first, extents.order) {
            self.hv.memory.frames.release_from_reservation(frame, extents.domain.owner())?;
        }
        Ok(())
    }

    /// `XENMEM_claim_pages`: promises a domain so many frames in all, until it has them or 0 ends the promise.
    fn claim_pages(&mut self, argument: u64) -> Reply {
        let asked = self.copy_from_guest::<MemoryReservation>(argument)?;
        if asked.extent_start != 0 || asked.extent_order != 0 || asked.mem_flags != 0 {
            return Err(Errno::Inval.into());
        }
        self.control()?;
        let domain = self.domain_to_act_on(asked.domid)?;
        let pages = u32::try_from(asked.nr_extents).map_err(|_| Errno::Inval)?;
        if pages > domain.memory.max_pages.load(Ordering::Relaxed) || domain.memory.is_dying.load(Ordering::Acquire) {
            return Err(Errno::Inval.into());
        }
        match pages {
            0 => self.hv.memory.frames.end_claim(domain.owner()),
            pages => self.hv.memory.frames.claim(domain.owner(), pages)?,
        }
        Ok(0)
    }

    /// `XENMEM_exchange`, in chunks of the larger of the two orders. `nr_exchanged` in the guest's structure counts on.
    fn exchange_memory(&mut self, argument: u64) -> Reply {
        let place = GuestPtr::<MemoryExchange>::one(argument)?;
        let mut asked = place.read(self.hv.machine(), 0)?;
        let (give, get) = (asked.r#in, asked.out);
        let order = self.check_exchange(&asked)?;
        if asked.nr_exchanged == give.nr_extents {
            return Ok(0);
        }
        // The lists may be longer than any memory: where the next extents stand is looked at, the rest when its turn
        // comes.
        let more_than_given = order.wrapping_sub(give.extent_order);
        let mut chunk_index = asked.nr_exchanged >> more_than_given;
        let list = |side: &MemoryReservation, frame: u64| {
            let index = frame >> side.extent_order;
            let at =
                index.checked_mul(8).and_then(|offset| side.extent_start.checked_add(offset)).ok_or(Errno::Fault)?;
            GuestPtr::<u64>::one(at).map(|_| at)
        };
        list(&give, asked.nr_exchanged << give.extent_order)?;
        list(&get, chunk_index << order)?;
        let domain = self.domain_to_act_on(give.domid)?;
        if domain.memory.is_translated() {
            return Err(Errno::OpNotSupp.into());
        }
        if order > MAX_EXTENT_ORDER {
            // So much at once is not had in bounded time.
            let first = GuestPtr::<u64>::one(list(&give, chunk_index << order)?)?.read(self.hv.machine(), 0)?;
            let is_there =
                Mfn::new(first).is_some_and(|first| self.hv.memory.frames.state(first).owner() == domain.owner());
            return Err(if is_there { Errno::NoMem } else { Errno::Inval }.into());
        }
        let mut spent = 0_u32;
        let outcome = loop {
            if chunk_index << order >= give.nr_extents << give.extent_order {
                break Ok(0);
            }
            if spent >= PREEMPT_INTERVAL {
                break Err(Stop::Unfinished);
            }
            let exchanged = (|| {
                let part = |side: &MemoryReservation| {
                    GuestPtr::new(list(side, chunk_index << order)?, 1 << order.wrapping_sub(side.extent_order))
                };
                let chunk = Chunk {
                    source: (part(&give)?, give.extent_order),
                    target: (part(&get)?, get.extent_order),
                    limit: frame_limit(get.mem_flags),
                };
                self.exchange_chunk(&domain, &chunk)
            })();
            if let Err(refusal) = exchanged {
                break Err(refusal);
            }
            chunk_index = chunk_index.wrapping_add(1);
            spent = spent.saturating_add((FRAME_UNITS * 2) << order);
        };
        asked.nr_exchanged = chunk_index << more_than_given;
        place.write(self.hv.machine(), 0, &asked)?;
        outcome
    }

    /// The larger of the two orders of an exchange that can be.
    fn check_exchange(&self, asked: &MemoryExchange) -> Result<u32, Errno> {
        let (give, get) = (asked.r#in, asked.out);
        let order = give.extent_order.max(get.extent_order);
        if order > (if self.domain.is_privileged() { MAX_CONTROL_ORDER } else { MAX_EXTENT_ORDER }) {
            return Err(Errno::Perm);
        }
        let fits = |side: &MemoryReservation| {
            u64::MAX.checked_shr(side.extent_order).is_some_and(|most| side.nr_extents <= most)
        };
        let is_even = || give.nr_extents << give.extent_order == get.nr_extents << get.extent_order;
        if asked.nr_exchanged > give.nr_extents || give.domid != get.domid || !fits(&give) || !fits(&get) || !is_even()
        {
            return Err(Errno::Inval);
        }
        Ok(order)
    }

    /// Exchanges the frames of one part.
    fn exchange_chunk(&self, domain: &Domain, chunk: &Chunk) -> Result<(), Stop> {
        let memory = self.hv.machine();
        let (source, source_order) = chunk.source;
        let (target, target_order) = chunk.target;
        let mut old: heapless::Vec<Mfn, { frame_alloc::MAX_EXCHANGE }> = heapless::Vec::new();
        for index in 0..source.count() {
            let first = Mfn::new(source.read(memory, index)?).ok_or(Errno::Inval)?;
            for frame in frame_alloc::block(first, source_order) {
                old.push(frame).map_err(|_| Errno::Inval)?;
            }
        }
        // Read and written back, so that nothing can fail after the exchange.
        for index in 0..target.count() {
            target.write(memory, index, &target.read(memory, index)?)?;
        }
        self.hv.memory.exchange(&domain.memory, &old, target_order, chunk.limit, |block, first| {
            let index = long(block);
            // Another vcpu may have unmapped the list meanwhile: the guest's own loss.
            let pfn = target.read(memory, index).unwrap_or(frame_alloc::INVALID_M2P_ENTRY);
            for (frame, pfn) in frame_alloc::block(first, target_order).zip(pfn..) {
                self.hv.memory.set_m2p(frame, pfn);
            }
            let _ = target.write(memory, index, &first.raw());
        })
    }
}

/// The frame number below which `XENMEMF_address_bits` wants all frames.
const fn frame_limit(mem_flags: u32) -> u64 {
    match mem_flags & 0xff {
        0 | 44.. => u64::MAX,
        bits => 1 << bits.saturating_sub(PAGE_SHIFT),
    }
}
