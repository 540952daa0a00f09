//! `grant_table_op`: batches of requests, each with a status of its own.

use crate::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    domain::Domain,
    grant::{MAX_STATUS_FRAMES, entry::Status},
    granted::{
        self,
        map::{ROW, Unmap, UnmapRequest},
    },
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply, Stop},
};
use alloc::sync::Arc;
use oxen_abi::{
    domid::DomId,
    errno::Errno,
    grant_table::{self as abi, GNTST_OKAY},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Above the command: at which entry a cache flush goes on.
const CONTINUATION: u32 = !0xfff;

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
        let (command, count) = (args[0] as u32, args[2] as u32);
        let first = command & CONTINUATION;
        if count > i32::MAX as u32 || (first != 0 && command & !CONTINUATION != abi::GNTTABOP_CACHE_FLUSH) {
            return Err(Errno::Inval.into());
        }
        match command & !CONTINUATION {
            abi::GNTTABOP_MAP_GRANT_REF => self.grant_op_by_rows(args, |caller, ops| caller.map_grants(ops)),
            abi::GNTTABOP_UNMAP_GRANT_REF => {
                self.grant_op_by_rows::<abi::GnttabUnmapGrantRef>(args, |caller, ops| caller.unmap_grants(ops))
            }
            abi::GNTTABOP_UNMAP_AND_REPLACE => {
                self.grant_op_by_rows::<abi::GnttabUnmapAndReplace>(args, |caller, ops| caller.unmap_grants(ops))
            }
            abi::GNTTABOP_COPY => self.grant_op_by_rows(args, |caller, ops| caller.copy_grants(ops)),
            abi::GNTTABOP_TRANSFER => self.grant_op_by_rows(args, |caller, ops| caller.transfer_frames(ops)),
            abi::GNTTABOP_SWAP_GRANT_REF => {
                self.grant_op_by_rows(args, |caller, ops: &mut [abi::GnttabSwapGrantRef]| {
                    for op in ops.iter_mut() {
                        op.status = status(caller.hv.swap_grants(caller.domain, op.ref_a, op.ref_b));
                    }
                    ops.len()
                })
            }
            abi::GNTTABOP_SETUP_TABLE | abi::GNTTABOP_QUERY_SIZE | abi::GNTTABOP_GET_STATUS_FRAMES if count != 1 => {
                Err(Errno::Inval.into())
            }
            abi::GNTTABOP_SETUP_TABLE => self.setup_grant_table(args[1]),
            abi::GNTTABOP_QUERY_SIZE => self.query_grant_table_size(args[1]),
            abi::GNTTABOP_SET_VERSION => self.set_grant_table_version(args[1]),
            abi::GNTTABOP_GET_STATUS_FRAMES => self.get_grant_status_frames(args[1]),
            abi::GNTTABOP_GET_VERSION => self.get_grant_table_version(args[1]),
            abi::GNTTABOP_CACHE_FLUSH => self.flush_caches_of_grants(args, first),
            _ => Err(Errno::NoSys.into()),
        }
    }

    /// Does the requests of a batch, a row at a time: copied in, done, copied out. Stops before a row, or where `act`
    /// did not get on, when something more urgent waits.
    fn grant_op_by_rows<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        args: &mut Args,
        act: impl Fn(&Caller<'_, M>, &mut [T]) -> usize,
    ) -> Reply {
        let count = args[2] & u64::from(u32::MAX);
        let requests = GuestPtr::<T>::new(args[1], count)?;
        let mut row: [T; ROW] = core::array::from_fn(|_| T::new_zeroed());
        let mut done = 0;
        while done < count {
            if done != 0 && self.must_yield() {
                return stop::<T>(args, done);
            }
            let ops = row.get_mut(..(count - done).min(ROW as u64) as usize).unwrap_or_default();
            requests.read_many(self.hv.machine(), done, ops)?;
            let acted = act(self, ops);
            requests.write_many(self.hv.machine(), done, ops.get(..acted).unwrap_or_default())?;
            done += acted as u64;
            if acted < ops.len() {
                return stop::<T>(args, done);
            }
        }
        Ok(0)
    }

    /// The domain that a request about a table names, if the caller may ask about it.
    fn grant_table_owner(&self, id: DomId) -> Result<Arc<Domain>, Status> {
        if id == DomId::SELF || id == self.domain.id {
            return Ok(Arc::clone(self.domain));
        }
        let domain = self.hv.domains.get(id).ok_or(abi::GNTST_BAD_DOMAIN)?;
        self.control().map(|_| domain).map_err(|_| abi::GNTST_PERMISSION_DENIED)
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
                list.write(machine, index.into(), &frame.raw()).map_err(|_| abi::GNTST_BAD_VIRT_ADDR)?;
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
    fn flush_caches_of_grants(&mut self, args: &mut Args, mut first: u32) -> Reply {
        let count = args[2] & u64::from(u32::MAX);
        let requests = GuestPtr::<abi::GnttabCacheFlush>::new(args[1], count)?;
        let mut done = 0;
        let mut is_new = true;
        while done < count {
            if !is_new && self.must_yield() {
                args[0] = u64::from(abi::GNTTABOP_CACHE_FLUSH | first);
                return stop::<abi::GnttabCacheFlush>(args, done);
            }
            is_new = false;
            let op = requests.read(self.hv.machine(), done)?;
            first = match self.flush_granted_cache(&op, first)? {
                granted::Flushed::UpTo(entry) => entry,
                granted::Flushed::Done => {
                    done += 1;
                    0
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
            let frames: heapless::Vec<Mfn, MAX_STATUS_FRAMES> = grants.status_frames().iter().copied().collect();
            drop(grants);
            let frames = frames.get(..op.nr_frames as usize).ok_or(abi::GNTST_GENERAL_ERROR)?;
            let list =
                GuestPtr::<u64>::new(op.frame_list, op.nr_frames.into()).map_err(|_| abi::GNTST_BAD_VIRT_ADDR)?;
            (0..).zip(frames).try_for_each(|(index, frame)| {
                list.write(self.hv.machine(), index, &frame.raw()).map_err(|_| abi::GNTST_BAD_VIRT_ADDR)
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

/// Leaves the rest of a batch for when the hypercall is executed again.
#[cold]
fn stop<T>(args: &mut Args, done: u64) -> Reply {
    args[1] += done * size_of::<T>() as u64;
    args[2] = (args[2] & u64::from(u32::MAX)) - done;
    Err(Stop::Unfinished)
}

/// Where a list of frames begins is judged before anything else; where it ends, when it is known to be of a size that
/// can be.
fn judge_list(list: u64) -> Result<(), Errno> {
    if GuestAddr(list).is_guest_range(1) { Ok(()) } else { Err(Errno::Fault) }
}
