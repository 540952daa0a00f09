//! What dom0's commands and tasks share.

use alloc::{format, rc::Rc, string::String};
use core::cell::{Cell, RefCell};

use oxen_domu_lib::{machine, sched, sync::Waiters};

use super::guest::Guests;
use super::tracer::Tracer;
use crate::archive::Archive;
use crate::balloon::{controller::Controller, coordinator::Coordinator};
use crate::bridge::Bridge;
use crate::device::Disks;
use crate::network::Network;
use crate::notes::Notes;
use crate::options::Options;
use crate::store::server::StoreHandle;
use crate::terminal::Terminal;

/// One machine, one of these.
pub struct System {
    /// Xenstore.
    pub store: StoreHandle,
    /// Guest kernels and configurations.
    pub archive: Archive<'static>,
    /// The command line.
    pub options: Options,
    /// The machine's console.
    pub terminal: Terminal,
    /// The guests that were created here.
    pub guests: Guests,
    /// The machine's disks.
    pub disks: Disks,
    /// The network of guests and machine.
    pub bridge: Bridge,
    /// dom0's own place in it, where it has one.
    pub network: Option<Network>,
    /// Memory targets.
    pub balloon: Controller,
    /// Who decides on memory targets.
    pub coordinator: Coordinator,
    /// What takes the hypervisor's trace down, while it does.
    pub tracer: RefCell<Option<Rc<Tracer>>>,
    /// What the backends note meanwhile.
    pub notes: Rc<Notes>,
    /// Wakes who waits for a domain to stop or to end.
    pub ends: Waiters,
    /// Whether a command of the script has failed.
    pub failed: Cell<bool>,
}

/// Port of QEMU's debug-exit device, and what is written there for success and failure.
const DEBUG_EXIT: u16 = 0xf4;
const EXIT_SUCCESS: u32 = 0x10;
const EXIT_FAILURE: u32 = 0x11;

impl System {
    /// Ends the machine, telling the host whether all commands of the script succeeded.
    pub fn power_off(&self) -> ! {
        if self.options.debug_exit {
            machine::port::write32(DEBUG_EXIT, if self.failed.get() { EXIT_FAILURE } else { EXIT_SUCCESS });
        }
        sched::shutdown(sched::Reason::Poweroff)
    }

    /// Starts the machine again.
    pub fn reboot(&self) -> ! {
        sched::shutdown(sched::Reason::Reboot)
    }

    /// The name of a domain, as the store has it.
    pub fn name_of(&self, domain: u16) -> String {
        let name = self.store.read(&format!("/local/domain/{domain}/name"));
        name.unwrap_or_else(|_| format!("(domain {domain})"))
    }
}
