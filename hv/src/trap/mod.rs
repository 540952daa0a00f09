//! Everything that brings a guest into the hypervisor other than a hypercall, and the way back.
//!
//! An exception of the guest is either something that the hypervisor does for it or goes to the guest's own handler.

pub mod decode;
pub mod flags;

use crate::domain::vcpu::Callback;

/// `VMASST_TYPE_architectural_iopl`: the I/O privilege level lives in the RFLAGS of frames.
pub const ARCHITECTURAL_IOPL: u32 = 4;

/// Bits of [`crate::domain::vcpu::Vcpu::work`] and [`crate::sched::CpuShared::work`].
pub mod work {
    /// Another vcpu may have to run.
    pub const RESCHEDULE: u32 = 1 << 0;
    /// Deadlines may have passed.
    pub const TIMER: u32 = 1 << 1;
    /// An NMI waits for the vcpu.
    pub const NMI: u32 = 1 << 2;
    /// The vcpu that runs lets others go first.
    pub const YIELD: u32 = 1 << 3;
}

/// Vectors of exceptions (Intel SDM vol. 3A, table 6-1).
#[expect(missing_docs, reason = "the manual's own names")]
pub mod vector {
    pub const DEBUG: u8 = 1;
    pub const BREAKPOINT: u8 = 3;
    pub const OVERFLOW: u8 = 4;
    pub const INVALID_OPCODE: u8 = 6;
    pub const DEVICE_NOT_AVAILABLE: u8 = 7;
    pub const INVALID_TSS: u8 = 10;
    pub const SEGMENT_NOT_PRESENT: u8 = 11;
    pub const STACK_FAULT: u8 = 12;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const ALIGNMENT_CHECK: u8 = 17;
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
    const MASKS_EVENTS: u8 = 1 << 2;

    /// The lowest privilege (greatest number) that may reach it by `int`.
    #[inline]
    #[must_use]
    pub const fn privilege(self) -> u8 {
        self.flags & 3
    }

    /// As a callback.
    #[inline]
    #[must_use]
    pub const fn callback(self) -> Callback {
        Callback { address: self.address, masks_events: self.flags & Self::MASKS_EVENTS != 0 }
    }
}

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

/// I/O ports and model-specific registers, asked of the machine.
pub trait Ports {
    /// Reads `bytes` (1, 2 or 4) from a port.
    fn port_in(&self, port: u16, bytes: u8) -> u32;
    /// Writes `bytes` (1, 2 or 4) to a port.
    fn port_out(&self, port: u16, bytes: u8, value: u32);
    /// Reads a model-specific register of the machine; `None` if it faults.
    fn read_msr(&self, msr: u32) -> Option<u64>;
    /// Writes a model-specific register; says whether it took.
    fn write_msr(&self, msr: u32, value: u64) -> bool;
    /// Whether the port is the console's serial line, which nobody else may touch.
    fn is_console_port(&self, port: u16) -> bool;
    /// CPUID of the machine: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Sets the extended control register XCR0; says whether the CPU took it.
    fn set_xcr0(&self, value: u64) -> bool;
}
