//! `grant_table_op`: batches of requests, each with a status of its own.

use super::{
    args::{GrantTableOp, Resume},
    commands::GrantCommand,
    number::{count, index},
};
use crate::{
    addr::GuestAddr,
    caller::{Caller, Named},
    grant::{MAX_STATUS_FRAMES, entry::Status},
    granted::map::{ROW, Unmap, UnmapRequest},
    machine::Machine,
    mem::{RamFrame, guest_ptr::GuestPtr},
    reply::{Args, Reply, Stop},
};
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    grant_table::{self as abi, GNTST_OKAY},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

impl UnmapRequest for abi::GnttabUnmapGrantRef {
    fn what(&self) -> Unmap {
        Unmap { host_addr: self.host_addr, new_addr: 0, dev_bus_addr: self.dev_bus_addr, handle: self.handle }
    }

    fn answer(&mut self, status: Status) {
        self.status = status;
    }
}

impl UnmapRequest for abi::GnttabUnmapAndReplace {
    fn what(&self) -> Unmap {
        Unmap { host_addr: self.host_addr, new_addr: self.new_addr, dev_bus_addr: 0, handle: self.handle }
    }

    fn answer(&mut self, status: Status) {
        self.status = status;
    }
}

impl<M: Machine> Caller<'_, M> {
    /// `grant_table_op(command, requests, count)`. What cannot be done to one request stands in its status.
    ///
    /// # Errors
    /// `Fault` for requests that cannot be read or written, `Inval` for a count that the command does not take, `NoSys`
    /// for unknown commands, and what the commands without a status say.
    #[inline]
    pub fn grant_table_op(&mut self, args: &mut Args) -> Reply {
        let request = GrantTableOp::from(&*args);
        let is_flush = request.command == Ok(GrantCommand::CacheFlush);
        if i32::try_from(request.count).is_err() || (request.first != 0 && !is_flush) {
            return Err(Errno::Inval.into());
        }
        match request.command? {
            GrantCommand::MapGrantRef => self.grant_op_by_rows(args, request, |caller, ops| caller.map_grants(ops)),
            GrantCommand::UnmapGrantRef => {
                self.grant_op_by_rows::<abi::GnttabUnmapGrantRef>(args, request, |caller, ops| caller.unmap_grants(ops))
            }
            GrantCommand::UnmapAndReplace => {
                self.grant_op_by_rows::<abi::GnttabUnmapAndReplace>(args, request, |caller, ops| {
                    caller.unmap_grants(ops)
                })
            }
            GrantCommand::Copy => self.grant_op_by_rows(args, request, |caller, ops| caller.copy_grants(ops)),
            GrantCommand::Transfer => self.grant_op_by_rows(args, request, |caller, ops| caller.transfer_frames(ops)),
            GrantCommand::SwapGrantRef => {
                self.grant_op_by_rows(args, request, |caller, ops: &mut [abi::GnttabSwapGrantRef]| {
                    for op in ops.iter_mut() {
                        op.status = status(caller.hv.swap_grants(caller.domain, op.ref_a, op.ref_b));
                    }
                    ops.len()
                })
            }
            GrantCommand::SetupTable | GrantCommand::QuerySize | GrantCommand::GetStatusFrames
                if request.count != 1 =>
            {
                Err(Errno::Inval.into())
            }
            GrantCommand::SetupTable => self.setup_grant_table(request.list),
            GrantCommand::QuerySize => self.query_grant_table_size(request.list),
            GrantCommand::SetVersion => self.set_grant_table_version(request.list),
            GrantCommand::GetStatusFrames => self.get_grant_status_frames(request.list),
            GrantCommand::GetVersion => self.get_grant_table_version(request.list),
            GrantCommand::CacheFlush => self.flush_caches_of_grants(args, request),
        }
    }

    /// Does the requests of a batch, a row at a time: copied in, done, copied out. Stops before a row, or where `act`
    /// did not get on, when something more urgent waits.
    fn grant_op_by_rows<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        args: &mut Args,
        request: GrantTableOp,
        act: impl Fn(&Caller<'_, M>, &mut [T]) -> usize,
    ) -> Reply {
        let requests = request.requests::<T>()?;
        let mut row: [T; ROW] = core::array::from_fn(|_| T::new_zeroed());
        let mut done = 0_u32;
        while done < request.count {
            if done != 0 && self.must_yield() {
                return Err(request.after::<T>(done).leave(args));
            }
            let left = index(request.count.wrapping_sub(done));
            let ops = row.get_mut(..left.min(ROW)).unwrap_or_default();
            requests.read_many(self.hv.machine(), done.into(), ops)?;
            let acted = act(self, ops);
            requests.write_many(self.hv.machine(), done.into(), ops.get(..acted).unwrap_or_default())?;
            done = done.wrapping_add(count(acted));
            if acted < ops.len() {
                return Err(request.after::<T>(done).leave(args));
            }
        }
        Ok(0)
    }

    /// The domain that a request about a table names, if the caller may ask about it.
    fn grant_table_owner(&self, id: DomId) -> Result<Named<'_>, Status> {
        let domain = self.named_domain(id).map_err(|_| abi::GNTST_BAD_DOMAIN)?;
        self.may_act_on(&domain).map(|()| domain).map_err(|_| abi::GNTST_PERMISSION_DENIED)
    }

    #[cold]
    #[inline(never)]
    fn setup_grant_table(&mut self, at: u64) -> Reply {
        let machine = self.hv.machine();
        let request = GuestPtr::<abi::GnttabSetupTable>::one(at)?;
        let mut op = request.read(machine, 0)?;
        judge_list(op.frame_list)?;
        let outcome = self.grant_table_owner(op.dom).and_then(|domain| {
            let (_, limit) = domain.grants.lock().size();
            if op.nr_frames > limit {
                return Err(abi::GNTST_GENERAL_ERROR);
            }
            self.hv.grow_grant_table(&domain, op.nr_frames).map_err(|_| abi::GNTST_GENERAL_ERROR)?;
            let list =
                GuestPtr::<u64>::new(op.frame_list, op.nr_frames.into()).map_err(|_| abi::GNTST_BAD_VIRT_ADDR)?;
            for index in 0..op.nr_frames {
                let frame = self.hv.grant_table_frame(&domain, index).map_err(|_| abi::GNTST_GENERAL_ERROR)?;
                let told = self.hv.memory.told_of(&domain.memory, frame.mfn());
                list.write(machine, index.into(), &told).map_err(|_| abi::GNTST_BAD_VIRT_ADDR)?;
            }
            Ok(())
        });
        op.status = status(outcome);
        request.write(machine, 0, &op)?;
        Ok(0)
    }

    #[cold]
    #[inline(never)]
    fn query_grant_table_size(&mut self, at: u64) -> Reply {
        let request = GuestPtr::<abi::GnttabQuerySize>::one(at)?;
        let mut op = request.read(self.hv.machine(), 0)?;
        let outcome = self.grant_table_owner(op.dom).map(|domain| {
            (op.nr_frames, op.max_nr_frames) = domain.grants.lock().size();
        });
        op.status = status(outcome);
        request.write(self.hv.machine(), 0, &op)?;
        Ok(0)
    }

    /// Does one request after the other; within one, one step of its owner's entries after the other.
    #[cold]
    #[inline(never)]
    fn flush_caches_of_grants(&mut self, args: &mut Args, mut request: GrantTableOp) -> Reply {
        request.requests::<abi::GnttabCacheFlush>()?;
        let mut is_new = true;
        while request.count != 0 {
            if !is_new && self.must_yield() {
                return Err(request.leave(args));
            }
            is_new = false;
            let op = request.requests()?.read(self.hv.machine(), 0)?;
            let mut first = request.first;
            request = match self.flush_granted_cache(&op, &mut first) {
                Err(Stop::Unfinished) => GrantTableOp { first, ..request },
                outcome => {
                    outcome?;
                    GrantTableOp { first: 0, ..request.after::<abi::GnttabCacheFlush>(1) }
                }
            };
        }
        Ok(0)
    }

    /// The answer tells the version in force even where the wish is refused.
    #[cold]
    #[inline(never)]
    fn set_grant_table_version(&mut self, at: u64) -> Reply {
        let request = GuestPtr::<abi::GnttabSetVersion>::one(at)?;
        let wish = request.read(self.hv.machine(), 0)?.version;
        let (outcome, version) = self.hv.set_grant_version(self.domain, wish);
        request.write(self.hv.machine(), 0, &abi::GnttabSetVersion { version })?;
        outcome.map(|()| 0).map_err(Stop::from)
    }

    /// In version 1 there are no status frames.
    #[cold]
    #[inline(never)]
    fn get_grant_status_frames(&mut self, at: u64) -> Reply {
        let request = GuestPtr::<abi::GnttabGetStatusFrames>::one(at)?;
        let mut op = request.read(self.hv.machine(), 0)?;
        judge_list(op.frame_list)?;
        let outcome = self.grant_table_owner(op.dom).and_then(|domain| {
            let grants = domain.grants.lock();
            let frames: heapless::Vec<RamFrame, MAX_STATUS_FRAMES> = grants.status_frames().iter().copied().collect();
            drop(grants);
            let frames = frames.get(..index(op.nr_frames)).ok_or(abi::GNTST_GENERAL_ERROR)?;
            let list =
                GuestPtr::<u64>::new(op.frame_list, op.nr_frames.into()).map_err(|_| abi::GNTST_BAD_VIRT_ADDR)?;
            (0..).zip(frames).try_for_each(|(index, frame)| {
                let told = self.hv.memory.told_of(&domain.memory, frame.mfn());
                list.write(self.hv.machine(), index, &told).map_err(|_| abi::GNTST_BAD_VIRT_ADDR)
            })
        });
        op.status = status(outcome);
        request.write(self.hv.machine(), 0, &op)?;
        Ok(0)
    }

    #[cold]
    #[inline(never)]
    fn get_grant_table_version(&mut self, at: u64) -> Reply {
        let request = GuestPtr::<abi::GnttabGetVersion>::one(at)?;
        let mut op = request.read(self.hv.machine(), 0)?;
        let domain = self.grant_table_owner(op.dom).map_err(|status| match status {
            abi::GNTST_BAD_DOMAIN => Errno::Srch,
            _ => Errno::Perm,
        })?;
        op.version = domain.grants.lock().version();
        request.write(self.hv.machine(), 0, &op)?;
        Ok(0)
    }
}

fn status(outcome: Result<(), Status>) -> i16 {
    outcome.err().unwrap_or(GNTST_OKAY)
}

/// Where a list of frames begins is judged before anything else; where it ends, when it is known to be of a size that
/// can be.
fn judge_list(list: u64) -> Result<(), Errno> {
    if GuestAddr::new(list).is_guest_range(1) { Ok(()) } else { Err(Errno::Fault) }
}
