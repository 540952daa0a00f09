//! By which ABI a domain's events are delivered: every domain begins with two levels, and chooses queues for itself.

use super::{Bindings, Events, fifo::Fifo, two_level};
use crate::{
    config::MAX_PORTS,
    mem::{Ram, RamFrame, frame_table::FrameTable},
};
use alloc::boxed::Box;
use core::sync::atomic::Ordering;
use oxen_abi::event_channel::EVTCHN_2L_NR_CHANNELS;

/// How a domain's events are noted.
#[derive(Debug, Default)]
pub(crate) enum Abi {
    /// As bits of `shared_info`.
    #[default]
    TwoLevel,
    /// In queues that the guest gave memory for.
    Fifo(Box<Fifo>),
}

impl Abi {
    /// How many ports there are, port 0 included.
    pub(crate) const fn ports(&self) -> u32 {
        match self {
            Self::TwoLevel => EVTCHN_2L_NR_CHANNELS,
            Self::Fifo(_) => MAX_PORTS as u32,
        }
    }

    /// Whether a closed port is still in a queue, so that it cannot be given out.
    pub(crate) fn is_busy(&self, port: u32) -> bool {
        matches!(self, Self::Fifo(fifo) if fifo.is_linked(port))
    }

    /// Whether a port is pending, and whether it is masked.
    pub(crate) fn bits(&self, memory: &impl Ram, shared_info: RamFrame, port: u32) -> (bool, bool) {
        match self {
            Self::TwoLevel => two_level::bits(memory, shared_info, port),
            Self::Fifo(fifo) => fifo.bits(port),
        }
    }

    /// Forgets an event: the port is being closed, and whoever has the number next starts without it.
    pub(crate) fn clear_pending(&self, memory: &impl Ram, shared_info: RamFrame, port: u32) {
        match self {
            Self::TwoLevel => two_level::clear_pending(memory, shared_info, port),
            Self::Fifo(fifo) => fifo.clear_pending(port),
        }
    }
}

impl Events {
    /// Notes what is pending by two levels, gives every port the usual priority, and keeps senders off the
    /// way that only two levels have.
    pub(crate) fn leave_two_levels(&self, bindings: &mut Bindings, memory: &impl Ram, shared_info: RamFrame) {
        for port in 1..self.ports.valid().min(EVTCHN_2L_NR_CHANNELS) {
            let state = self.port(port).unwrap_or_default();
            self.ports.set(port, state.not_local());
            if two_level::bits(memory, shared_info, port).0 {
                bindings.records.await_word(port);
            }
            bindings.records.renew(port);
        }
    }

    /// Goes back to two levels; every port is closed. The guest's frames are given back.
    pub(crate) fn enter_two_levels(&self, bindings: &mut Bindings, frames: &FrameTable) {
        self.is_fifo.store(false, Ordering::Release);
        bindings.search = 0;
        if let Abi::Fifo(fifo) = core::mem::take(&mut bindings.abi) {
            fifo.release(frames);
        }
    }

    /// Calls `each` with the frames of the domain's own that hold its events, as often as they are held writable.
    pub fn each_frame(&self, mut each: impl FnMut(RamFrame)) {
        if let Abi::Fifo(fifo) = &self.bindings.lock().abi {
            fifo.each_frame().for_each(&mut each);
        }
    }
}
