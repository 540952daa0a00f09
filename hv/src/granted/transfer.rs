//! Giving frames away for good (`GNTTABOP_transfer`).

use super::Peer;
use crate::{
    addr::Mfn,
    caller::Caller,
    domain::Domain,
    grant::entry::{Shared, Status},
    machine::Machine,
    mem::editor::Editor,
};
use core::sync::atomic::{AtomicU64, Ordering};
use oxen_abi::{
    grant_table::{self as abi, GnttabTransfer, GrantFlags},
    trace::TRC_MEM_PAGE_GRANT_TRANSFER,
};

impl<M: Machine> Caller<'_, M> {
    /// Gives frames away, and fills in statuses. Returns how many of the requests it got to before something more
    /// urgent came.
    pub fn transfer_frames(&self, ops: &mut [GnttabTransfer]) -> usize {
        let Ok(editor) = Editor::open(&self.hv.memory, &self.domain.memory) else { return 0 };
        let mut peer = Peer::default();
        for op in ops.iter_mut() {
            op.status = self.transfer_one_frame(&editor, &mut peer, op).err().unwrap_or(abi::GNTST_OKAY);
        }
        ops.len()
    }

    /// Gives a frame of the caller, which nobody uses, to a domain that waits for it. `editor` is the caller's.
    ///
    /// Xen's header lets the giver lose the frame even if the receiver does not get it. Here it stays where it was.
    fn transfer_one_frame(&self, editor: &Editor<'_, M>, peer: &mut Peer, op: &GnttabTransfer) -> Result<(), Status> {
        let hv = self.hv;
        let frame = Mfn::new(op.mfn).filter(|&frame| self.is_loose(frame)).ok_or(abi::GNTST_BAD_PAGE)?;
        let receiver = peer.get(&hv.domains, op.domid)?;
        // What is translated has a place in its guest's memory, or none that it could have.
        if self.domain.memory.is_translated() || receiver.memory.is_translated() {
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        if receiver.memory.is_dying.load(Ordering::SeqCst) {
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        let grants = receiver.grants.lock();
        let v2 = grants.table.entry_v2(hv.machine(), op.r#ref);
        let head = match &v2 {
            Some(entry) => entry.head,
            None if op.r#ref < grants.table.v1_entries => {
                grants.table.word(hv.machine(), op.r#ref).ok_or(abi::GNTST_GENERAL_ERROR)?
            }
            None => return Err(abi::GNTST_GENERAL_ERROR),
        };
        commit(head, self.domain)?;
        hv.note(TRC_MEM_PAGE_GRANT_TRANSFER, || [op.domid.0.into()]);
        if editor.hand_over(frame, &receiver.memory).is_err() {
            head.fetch_and(!u64::from(GrantFlags::TRANSFER_COMMITTED.bits()), Ordering::AcqRel);
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        match v2 {
            Some(entry) => {
                entry.body.store(frame.raw(), Ordering::Release);
                head.fetch_or(GrantFlags::TRANSFER_COMPLETED.bits().into(), Ordering::AcqRel);
            }
            None => complete(head, frame),
        }
        Ok(())
    }

    /// Whether the frame is in the caller's reservation and nobody refers to it otherwise.
    fn is_loose(&self, frame: Mfn) -> bool {
        let state = self.hv.memory.frames.state(frame);
        state.owner() == self.domain.owner() && state.is_loose()
    }
}

/// Takes the receiver at its word, from which it may not step back now.
fn commit(word: &AtomicU64, giver: &Domain) -> Result<(), Status> {
    const ATTEMPTS: u32 = 5;
    let mut seen = word.load(Ordering::Acquire);
    for _ in 0..ATTEMPTS {
        let entry = Shared(seen);
        if entry.flags() != GrantFlags::ACCEPT_TRANSFER || entry.domain() != giver.id {
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        let committed = entry.with(GrantFlags::TRANSFER_COMMITTED);
        match word.compare_exchange(seen, committed.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
    Err(abi::GNTST_GENERAL_ERROR)
}

/// Tells the receiver which frame it is, in the one word of version 1. What else it wrote into the entry meanwhile is
/// its own affair.
fn complete(word: &AtomicU64, frame: Mfn) {
    let low = Shared(word.load(Ordering::Acquire) & u64::from(u32::MAX)).with(GrantFlags::TRANSFER_COMPLETED);
    word.store(low.0 | frame.raw() << 32, Ordering::Release);
}
