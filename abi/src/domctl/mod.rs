//! What the control domain does to other domains (`domctl.h`, interface version 0x15).

mod domain;
mod resources;
mod vcpu;

pub use domain::*;
pub use resources::*;
pub use vcpu::*;

use crate::domid::DomId;
use zerocopy::{Immutable, IntoBytes};

/// The one version of [`Domctl`] the hypervisor speaks.
pub const XEN_DOMCTL_INTERFACE_VERSION: u32 = 0x15;

abi_consts! {
    /// A command of `domctl`.
    u32:
    /// Make a domain, paused and empty: [`DomctlCreatedomain`].
    XEN_DOMCTL_CREATEDOMAIN = 1,
    /// End a domain and take everything back.
    XEN_DOMCTL_DESTROYDOMAIN = 2,
    /// Stop a domain.
    XEN_DOMCTL_PAUSEDOMAIN = 3,
    /// Let it go on.
    XEN_DOMCTL_UNPAUSEDOMAIN = 4,
    /// What is known of a domain: [`DomctlGetdomaininfo`].
    XEN_DOMCTL_GETDOMAININFO = 5,
    /// Set where a vcpu runs: [`DomctlVcpuaffinity`].
    XEN_DOMCTL_SETVCPUAFFINITY = 9,
    /// Note which pages a running domain writes: [`DomctlShadowOp`].
    XEN_DOMCTL_SHADOW_OP = 10,
    /// Set how much memory a domain may have: [`DomctlMaxMem`].
    XEN_DOMCTL_MAX_MEM = 11,
    /// Set a vcpu's registers: [`DomctlVcpucontext`].
    XEN_DOMCTL_SETVCPUCONTEXT = 12,
    /// Get a vcpu's registers: [`DomctlVcpucontext`].
    XEN_DOMCTL_GETVCPUCONTEXT = 13,
    /// What is known of a vcpu: [`DomctlGetvcpuinfo`].
    XEN_DOMCTL_GETVCPUINFO = 14,
    /// Set how many vcpus a domain has: [`DomctlMaxVcpus`].
    XEN_DOMCTL_MAX_VCPUS = 15,
    /// Set or get a domain's share of time: [`DomctlSchedulerOp`].
    XEN_DOMCTL_SCHEDULER_OP = 16,
    /// Set a domain's UUID: [`DomctlSetdomainhandle`].
    XEN_DOMCTL_SETDOMAINHANDLE = 17,
    /// Have a debugger stop the domain at breakpoints: [`DomctlSetdebugging`].
    XEN_DOMCTL_SETDEBUGGING = 18,
    /// Give or take the right to an interrupt: [`DomctlIrqPermission`].
    XEN_DOMCTL_IRQ_PERMISSION = 19,
    /// Give or take the right to device memory: [`DomctlIomemPermission`].
    XEN_DOMCTL_IOMEM_PERMISSION = 20,
    /// Give or take the right to ports: [`DomctlIoportPermission`].
    XEN_DOMCTL_IOPORT_PERMISSION = 21,
    /// Fill a page with hypercall stubs: [`DomctlHypercallInit`].
    XEN_DOMCTL_HYPERCALL_INIT = 22,
    /// Move a domain's wall clock: [`DomctlSettimeoffset`].
    XEN_DOMCTL_SETTIMEOFFSET = 24,
    /// Get where a vcpu runs: [`DomctlVcpuaffinity`].
    XEN_DOMCTL_GETVCPUAFFINITY = 25,
    /// Let a domain go on that has shut itself down.
    XEN_DOMCTL_RESUMEDOMAIN = 27,
    /// Have a vcpu take an NMI: [`DomctlSendtrigger`].
    XEN_DOMCTL_SENDTRIGGER = 28,
    /// Have an event sent when the domain stops.
    XEN_DOMCTL_SUBSCRIBE = 29,
    /// Get the state of a hardware-assisted guest.
    XEN_DOMCTL_GETHVMCONTEXT = 33,
    /// Set it.
    XEN_DOMCTL_SETHVMCONTEXT = 34,
    /// Set the bits of the kernel's words: [`DomctlAddressSize`].
    XEN_DOMCTL_SET_ADDRESS_SIZE = 35,
    /// Get them: [`DomctlAddressSize`].
    XEN_DOMCTL_GET_ADDRESS_SIZE = 36,
    /// Give a device to a domain, behind an I/O MMU.
    XEN_DOMCTL_ASSIGN_DEVICE = 37,
    /// Give its interrupt to the domain.
    XEN_DOMCTL_BIND_PT_IRQ = 38,
    /// Map device memory for a translated guest: [`DomctlMemoryMapping`].
    XEN_DOMCTL_MEMORY_MAPPING = 39,
    /// Map ports for a hardware-assisted guest.
    XEN_DOMCTL_IOPORT_MAPPING = 40,
    /// Set callbacks that are in no context: [`DomctlExtVcpucontext`].
    XEN_DOMCTL_SET_EXT_VCPUCONTEXT = 42,
    /// Get them: [`DomctlExtVcpucontext`].
    XEN_DOMCTL_GET_EXT_VCPUCONTEXT = 43,
    /// Whether a device could be given.
    XEN_DOMCTL_TEST_ASSIGN_DEVICE = 45,
    /// Let one domain serve another as its device model.
    XEN_DOMCTL_SET_TARGET = 46,
    /// Take a device back.
    XEN_DOMCTL_DEASSIGN_DEVICE = 47,
    /// Take its interrupt back.
    XEN_DOMCTL_UNBIND_PT_IRQ = 48,
    /// Devices that can only be given together.
    XEN_DOMCTL_GET_DEVICE_GROUP = 50,
    /// Step a hardware-assisted guest.
    XEN_DOMCTL_DEBUG_OP = 54,
    /// Get a part of its state.
    XEN_DOMCTL_GETHVMCONTEXT_PARTIAL = 55,
    /// Make or end a ring of events about a guest: [`DomctlVmEventOp`].
    XEN_DOMCTL_VM_EVENT_OP = 56,
    /// Control the sharing of pages.
    XEN_DOMCTL_MEM_SHARING_OP = 57,
    /// How a domain sees the time stamp counter: [`DomctlTscInfo`].
    XEN_DOMCTL_GETTSCINFO = 59,
    /// Set that: [`DomctlTscInfo`].
    XEN_DOMCTL_SETTSCINFO = 60,
    /// The kinds of frames, for saving a domain: [`DomctlGetpageframeinfo3`].
    XEN_DOMCTL_GETPAGEFRAMEINFO3 = 61,
    /// Set a vcpu's extended registers: [`DomctlVcpuextstate`].
    XEN_DOMCTL_SETVCPUEXTSTATE = 62,
    /// Get them: [`DomctlVcpuextstate`].
    XEN_DOMCTL_GETVCPUEXTSTATE = 63,
    /// Whether a monitor must be there.
    XEN_DOMCTL_SET_ACCESS_REQUIRED = 64,
    /// Check a translated guest's map.
    XEN_DOMCTL_AUDIT_P2M = 65,
    /// Which domain gets one of the system's virtual interrupts: [`DomctlSetVirqHandler`].
    XEN_DOMCTL_SET_VIRQ_HANDLER = 66,
    /// Mark a page as broken.
    XEN_DOMCTL_SET_BROKEN_PAGE_P2M = 67,
    /// Set the nodes of a domain.
    XEN_DOMCTL_SETNODEAFFINITY = 68,
    /// Get them.
    XEN_DOMCTL_GETNODEAFFINITY = 69,
    /// Flush caches; not on x86.
    XEN_DOMCTL_CACHEFLUSH = 71,
    /// Get model-specific registers of a vcpu: [`DomctlVcpuMsrs`].
    XEN_DOMCTL_GET_VCPU_MSRS = 72,
    /// Set them: [`DomctlVcpuMsrs`].
    XEN_DOMCTL_SET_VCPU_MSRS = 73,
    /// Give a domain virtual memory nodes.
    XEN_DOMCTL_SETVNUMAINFO = 74,
    /// Monitor a domain's use of caches.
    XEN_DOMCTL_PSR_CMT_OP = 75,
    /// What a monitor is told of: [`DomctlMonitorOp`].
    XEN_DOMCTL_MONITOR_OP = 77,
    /// A domain's part of the caches.
    XEN_DOMCTL_PSR_ALLOC = 78,
    /// Make a hardware-assisted guest as new.
    XEN_DOMCTL_SOFT_RESET = 79,
    /// Make a virtual serial line; not on x86.
    XEN_DOMCTL_VUART_OP = 81,
    /// The whole of CPUID, as a domain sees it.
    XEN_DOMCTL_GET_CPU_POLICY = 82,
    /// Set that.
    XEN_DOMCTL_SET_CPU_POLICY = 83,
    /// Trace a vcpu's branches.
    XEN_DOMCTL_VMTRACE_OP = 84,
    /// How much memory shadows may take.
    XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE = 85,
    /// Set that.
    XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE = 86,
    /// Read or write a guest's memory, for a debugger.
    XEN_DOMCTL_GDBSX_GUESTMEMIO = 1000,
    /// Stop a vcpu, for a debugger.
    XEN_DOMCTL_GDBSX_PAUSEVCPU = 1001,
    /// Let it go on.
    XEN_DOMCTL_GDBSX_UNPAUSEVCPU = 1002,
    /// Whether the domain has stopped for the debugger.
    XEN_DOMCTL_GDBSX_DOMSTATUS = 1003,
}

abi_struct! {
    /// The argument of `domctl` (`xen_domctl`).
    pub struct Domctl [144] {
        /// `XEN_DOMCTL_*`: tells what `u` holds.
        pub cmd: u32,
        /// [`XEN_DOMCTL_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// Who is meant.
        pub domain: DomId,
        /// Padding.
        pub _pad: [u16; 3],
        /// The command's structure, from the first byte on.
        pub u: [u8; 128],
    }
    /// A bitmap in the caller's memory (`xenctl_bitmap`, `xen.h`).
    pub struct XenctlBitmap [16] {
        /// Guest address of the bytes; the lowest bit of the first byte is bit 0.
        pub bitmap: u64,
        /// Bits it has.
        pub nr_bits: u32,
        /// Padding.
        pub _pad0: u32,
    }
}

impl Domctl {
    /// A command for `domain` with its structure.
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(cmd: u32, domain: DomId, command: &T) -> Self {
        let mut call = Self { cmd, interface_version: XEN_DOMCTL_INTERFACE_VERSION, domain, _pad: [0; 3], u: [0; 128] };
        call.set(command);
        call
    }
}

crate::command::impl_command!(Domctl);
