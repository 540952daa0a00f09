//! Operations on what a domain has: more frames, fewer, others.

use crate::world::{BUFFER, MARKED_WORD, Outcome, SECRET, World};
use oxen_hv::{
    addr::{GuestAddr, Mfn},
    caller::Caller,
    mem::{editor::Editor, frame_alloc},
};
use std::sync::atomic::Ordering;

impl World {
    /// The guest touches a page, takes its mapping away without a flush, and has a frame
    /// exchanged: maybe that very one.
    pub(crate) fn unmap_and_exchange(&mut self, player: usize) -> Outcome {
        let va = (1 + self.random.below(24)) << 12;
        let Ok(frame) = self.hv.machine().translate(GuestAddr::new(va), true) else { return Outcome::Done };
        if self.is_home(frame) || self.call(player, Caller::update_va_mapping, [va, 0, 0, 0]).is_err() {
            return Outcome::Done;
        }
        if self.hv.memory.frames.state(frame).is_loose() && self.put_exchange(&[frame], (0, 0), 1) {
            let _ = self.call(player, Caller::memory_op, [11, BUFFER, 0, 0]);
        }
        Outcome::Done
    }

    pub(crate) fn reserve(&mut self, player: usize) -> Outcome {
        let operation = self.random.of(&[0, 1, 1, 6, 6, 6]);
        let list = BUFFER + 256;
        let count = 1 + self.random.below(3);
        for i in 0..count {
            let frame = self.frame(player);
            if self.hv.machine().write_guest_word(GuestAddr::new(list + 8 * i), frame.raw()).is_err() {
                return Outcome::Done;
            }
        }
        let order = if self.random.chance(80) { 0 } else { self.random.below(12) };
        let id = self.random.of(&[0x7ff0, 0x7ff0, 0, 1, 2, 77]);
        if operation == 1 && order > 0 {
            return Outcome::Done;
        }
        let order = order | self.memory_flags();
        if !self.put(&[list, count, order, id]) {
            return Outcome::Done;
        }
        match self.call(player, Caller::memory_op, [operation, BUFFER, 0, 0]) {
            Ok(0) | Err(Outcome::Refused) => Outcome::Refused,
            Ok(_) | Err(_) => Outcome::Done,
        }
    }

    pub(crate) fn exchange(&mut self, player: usize) -> Outcome {
        let (orders, counts) = self.random.of(&[
            ((0, 0), (1, 1)),
            ((0, 0), (4, 4)),
            ((0, 1), (2, 1)),
            ((0, 2), (4, 1)),
            ((0, 2), (8, 2)),
            ((0, 0), (2, 3)),
        ]);
        let mut loose: Vec<Mfn> = self
            .hv
            .each_frame()
            .filter(|&frame| {
                let state = self.hv.memory.frames.state(frame);
                state.owner() == self.players[player].guest.domain.owner() && state.is_loose()
            })
            .collect();
        let first = self.random.below(loose.len().max(1) as u64) as usize;
        let first = first.min(loose.len());
        loose.rotate_left(first);
        if self.random.chance(10) || loose.len() < counts.0 as usize {
            loose = (0..counts.0).map(|_| self.frame(player)).collect();
        }
        if self.random.chance(10) {
            loose[counts.0 as usize - 1] = loose[0];
        }
        if !self.put_exchange(&loose[..counts.0 as usize], orders, counts.1) {
            return Outcome::Done;
        }
        match self.call(player, Caller::memory_op, [11, BUFFER, 0, 0]) {
            Ok(_) => Outcome::Done,
            // Of several chunks, the first may have been exchanged.
            Err(Outcome::Refused) if counts.0 > 1 << orders.1 => Outcome::Partly,
            Err(outcome) => outcome,
        }
    }

    /// Writes the arguments of an exchange: frames, orders of what is given and asked for, extents asked for.
    pub(crate) fn put_exchange(&mut self, frames: &[Mfn], orders: (u64, u64), count: u64) -> bool {
        let (list, out) = (BUFFER + 256, BUFFER + 512);
        for (i, frame) in frames.iter().enumerate() {
            let _ = self.hv.machine().write_guest_word(GuestAddr::new(list + 8 * i as u64), frame.raw());
        }
        let (given, wanted) = (frames.len() as u64, orders.1 | self.memory_flags());
        self.put(&[list, given, orders.0, 0x7ff0, out, count, wanted, 0x7ff0, 0])
    }

    /// How many bits the addresses of frames may have; as it stands in a reservation.
    pub(crate) fn memory_flags(&mut self) -> u64 {
        self.random.of(&[0, 0, 0, 0, 1, 12, 16, 18, 19, 20, 44, 63, 255]) << 32
    }

    /// The hypervisor takes frames for itself, works with them, and gives them back.
    pub(crate) fn take_own(&mut self) -> Outcome {
        let (order, take) = (self.random.below(3) as u32, self.own.len() < 24 && self.random.chance(55));
        if take && let Ok(first) = self.hv.memory.take_own(order) {
            for frame in frame_alloc::block(first.mfn(), order) {
                let is_blank = self.hv.machine().words(frame).iter().all(|word| word.load(Ordering::SeqCst) == 0);
                assert!(is_blank, "law 8: {frame:?} of the hypervisor's is not blank");
                self.hv.machine().words(frame)[MARKED_WORD].store(SECRET, Ordering::SeqCst);
                self.own.push(frame);
            }
        } else {
            for _ in 0..self.random.below(6).min(self.own.len() as u64) {
                let index = self.random.below(self.own.len() as u64) as usize;
                self.hv.memory.give_back_own(self.own.swap_remove(index));
            }
        }
        Outcome::Done
    }

    pub(crate) fn hand_over(&mut self, player: usize) -> Outcome {
        let frame = self.frame(player);
        let to = self.random.below(self.players.len() as u64) as usize;
        let receiver = self.players[to].guest.domain.clone();
        let guest = &self.players[player].guest;
        let Ok(editor) = Editor::open(&guest.hv.memory, &guest.domain.memory) else { return Outcome::Partly };
        match editor.hand_over(frame, &receiver.memory) {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Refused,
        }
    }
}
