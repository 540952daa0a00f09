//! The handlers that a guest registered for its exceptions.

/// A code address in the guest that the hypervisor enters by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callback {
    /// Where; 0 if none is registered.
    pub address: u64,
    /// Whether events are masked on the way in (`CALLBACKF_mask_events`).
    pub masks_events: bool,
}

/// One exception's handler in the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapHandler {
    /// Where; 0 if there is none.
    pub address: u64,
    /// The code selector.
    pub cs: u16,
    /// `TrapInfo.flags`: privilege level in bits 0 and 1, bit 2 masks events.
    pub flags: u8,
}

impl TrapHandler {
    /// In `flags`: events are masked on the way in.
    pub const MASKS_EVENTS: u8 = 1 << 2;

    /// The lowest privilege (greatest number) that may reach it by `int`.
    #[inline]
    #[must_use]
    pub const fn privilege(self) -> u8 {
        self.flags & 3
    }

    /// What is jumped to.
    #[inline]
    #[must_use]
    pub const fn callback(self) -> Callback {
        Callback { address: self.address, masks_events: self.flags & Self::MASKS_EVENTS != 0 }
    }
}

/// The vector of NMIs. Their handler is the trap table's, however it was registered.
pub const NMI: u8 = 2;

/// The guest's handlers, by vector.
#[derive(Clone, Debug)]
pub struct TrapTable(pub [TrapHandler; 256]);

impl Default for TrapTable {
    fn default() -> Self {
        Self([TrapHandler::default(); 256])
    }
}

impl TrapTable {
    /// Registers a handler.
    pub fn set(&mut self, vector: u8, handler: TrapHandler) {
        if let Some(place) = self.0.get_mut(usize::from(vector)) {
            *place = handler;
        }
    }

    /// The handler of a vector.
    #[inline]
    #[must_use]
    pub fn handler(&self, vector: u8) -> TrapHandler {
        self.0.get(usize::from(vector)).copied().unwrap_or_default()
    }
}
