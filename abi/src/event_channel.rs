//! `event_channel_op` (`event_channel.h`).
//!
//! # Example
//!
//! ```
//! use oxen_abi::domid::DomId;
//! use oxen_abi::event_channel::{EVTCHNOP_ALLOC_UNBOUND, EvtchnAllocUnbound};
//!
//! // `event_channel_op(EVTCHNOP_ALLOC_UNBOUND, &request)` fills in the port.
//! let request = EvtchnAllocUnbound { dom: DomId::SELF, remote_dom: DomId(2), port: 0 };
//! assert_eq!((EVTCHNOP_ALLOC_UNBOUND, size_of_val(&request)), (6, 8));
//! ```

use crate::domid::DomId;

abi_consts! {
    /// A command of `event_channel_op`.
    u32:
    /// Make a port of the caller's that leads to an unbound port of another domain, and the other way round:
    /// [`EvtchnBindInterdomain`]. The new port begins pending. `EINVAL` if that port does not wait for the caller.
    EVTCHNOP_BIND_INTERDOMAIN = 0,
    /// Make a port for a virtual interrupt: [`EvtchnBindVirq`]. `EINVAL` for an interrupt that there is not, or a
    /// global one on another vcpu than 0; `ENOENT` for the vcpu; `EEXIST` if it is bound.
    EVTCHNOP_BIND_VIRQ = 1,
    /// Make a port for a physical interrupt: [`EvtchnBindPirq`]. `EPERM` if it is not mapped for the caller; `EEXIST`
    /// if it is bound; `EBUSY` if the hypervisor has it.
    EVTCHNOP_BIND_PIRQ = 2,
    /// Close a port: [`EvtchnClose`]. The other end becomes unbound. `EINVAL` for a port that is closed.
    EVTCHNOP_CLOSE = 3,
    /// Send an event through a port: [`EvtchnSend`]. It is pending at the other end, once, however often it is sent.
    /// `EINVAL` for a port that leads nowhere.
    EVTCHNOP_SEND = 4,
    /// Ask what a port is: [`EvtchnStatus`]. `EINVAL` for a number that no port has.
    EVTCHNOP_STATUS = 5,
    /// Make a port to which one domain may bind: [`EvtchnAllocUnbound`].
    EVTCHNOP_ALLOC_UNBOUND = 6,
    /// Make a port by which the domain's vcpus notify one of them: [`EvtchnBindIpi`]. `ENOENT` for the vcpu.
    EVTCHNOP_BIND_IPI = 7,
    /// Choose the vcpu that a port notifies: [`EvtchnBindVcpu`]. `ENOENT` for the vcpu; `EINVAL` for a port that is
    /// closed or belongs to one vcpu.
    EVTCHNOP_BIND_VCPU = 8,
    /// Unmask a port, and notify its vcpu if it was masked and is pending: [`EvtchnUnmask`]. `EINVAL` for a number
    /// that no port has.
    EVTCHNOP_UNMASK = 9,
    /// Close all ports, and go back to the two-level ABI: [`EvtchnReset`]. `EINVAL` for another domain that is not
    /// paused; `EBUSY` if a reset is under way; `EAGAIN` if ports were opened meanwhile.
    EVTCHNOP_RESET = 10,
    /// Go over to the FIFO ABI, or give one more vcpu its control block, an [`EvtchnFifoControlBlock`]:
    /// [`EvtchnInitControl`]. `ENOENT` for the vcpu; `EINVAL` for a frame that is not writable memory of the caller's,
    /// or a vcpu that has one.
    EVTCHNOP_INIT_CONTROL = 11,
    /// Add a page of event words for the FIFO ABI: [`EvtchnExpandArray`]. `EOPNOTSUPP` with two levels; `ENOSPC` if
    /// every port has its word; `EINVAL` for the frame.
    EVTCHNOP_EXPAND_ARRAY = 12,
    /// Set the priority of a port in the FIFO ABI: [`EvtchnSetPriority`]. `ENOSYS` with two levels; `EINVAL` for the
    /// port or the priority; `EACCES` for a port that is not in use.
    EVTCHNOP_SET_PRIORITY = 13,
    /// Go on with a reset that was interrupted: [`EvtchnReset`]. Only the hypervisor makes this call of the other one.
    EVTCHNOP_RESET_CONT = 14,
}

abi_consts! {
    /// What a port is ([`EvtchnStatus::status`]).
    u32:
    EVTCHNSTAT_CLOSED = 0,
    EVTCHNSTAT_UNBOUND = 1,
    EVTCHNSTAT_INTERDOMAIN = 2,
    EVTCHNSTAT_PIRQ = 3,
    EVTCHNSTAT_VIRQ = 4,
    EVTCHNSTAT_IPI = 5,
}

/// [`EvtchnBindPirq::flags`]: the line is shared.
pub const BIND_PIRQ_WILL_SHARE: u32 = 1;
/// Ports of the two-level ABI.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;

abi_consts! {
    /// A priority of an event in the FIFO ABI; less is more urgent.
    u32:
    EVTCHN_FIFO_PRIORITY_MAX = 0,
    EVTCHN_FIFO_PRIORITY_DEFAULT = 7,
    EVTCHN_FIFO_PRIORITY_MIN = 15,
}

abi_consts! {
    /// A bit of an event word of the FIFO ABI. Below them stands the link, of [`EVTCHN_FIFO_LINK_BITS`].
    u32:
    EVTCHN_FIFO_PENDING = 31,
    EVTCHN_FIFO_MASKED = 30,
    EVTCHN_FIFO_LINKED = 29,
    EVTCHN_FIFO_BUSY = 28,
}

/// Queues of a vcpu in the FIFO ABI, one for each priority.
pub const EVTCHN_FIFO_MAX_QUEUES: usize = 16;
/// Bits of a link: the next port of the queue, 0 for none.
pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
/// The link of an event word.
pub const EVTCHN_FIFO_LINK_MASK: u32 = (1 << EVTCHN_FIFO_LINK_BITS) - 1;
/// Ports of the FIFO ABI.
pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << EVTCHN_FIFO_LINK_BITS;

abi_struct! {
    /// `EVTCHNOP_alloc_unbound`.
    pub struct EvtchnAllocUnbound [8] {
        /// In: whose port.
        pub dom: DomId,
        /// In: who may bind to it.
        pub remote_dom: DomId,
        /// Out.
        pub port: u32,
    }
    /// `EVTCHNOP_bind_interdomain`.
    pub struct EvtchnBindInterdomain [12] {
        /// In: whose port to bind to.
        pub remote_dom: DomId,
        /// Padding.
        pub _pad: u16,
        /// In: which port.
        pub remote_port: u32,
        /// Out.
        pub local_port: u32,
    }
    /// `EVTCHNOP_bind_virq`.
    pub struct EvtchnBindVirq [12] {
        /// In: `VIRQ_*`.
        pub virq: u32,
        /// In.
        pub vcpu: u32,
        /// Out.
        pub port: u32,
    }
    /// `EVTCHNOP_bind_pirq`.
    pub struct EvtchnBindPirq [12] {
        /// In.
        pub pirq: u32,
        /// In: `BIND_PIRQ__*`.
        pub flags: u32,
        /// Out.
        pub port: u32,
    }
    /// `EVTCHNOP_bind_ipi`.
    pub struct EvtchnBindIpi [8] {
        /// In.
        pub vcpu: u32,
        /// Out.
        pub port: u32,
    }
    /// `EVTCHNOP_close`.
    pub struct EvtchnClose [4] {
        /// In.
        pub port: u32,
    }
    /// `EVTCHNOP_send`.
    pub struct EvtchnSend [4] {
        /// In.
        pub port: u32,
    }
    /// `EVTCHNOP_status`.
    pub struct EvtchnStatus [24] {
        /// In: whose port.
        pub dom: DomId,
        /// Padding.
        pub _pad: u16,
        /// In.
        pub port: u32,
        /// Out: `EVTCHNSTAT_*`.
        pub status: u32,
        /// Out: the vcpu it notifies.
        pub vcpu: u32,
        /// Out, by status: the remote domain in the low half (unbound, interdomain), the pirq, the virq.
        pub u: u32,
        /// Out: the remote port (interdomain).
        pub remote_port: u32,
    }
    /// `EVTCHNOP_bind_vcpu`.
    pub struct EvtchnBindVcpu [8] {
        /// In.
        pub port: u32,
        /// In.
        pub vcpu: u32,
    }
    /// `EVTCHNOP_unmask`.
    pub struct EvtchnUnmask [4] {
        /// In.
        pub port: u32,
    }
    /// `EVTCHNOP_reset`.
    pub struct EvtchnReset [2] {
        /// In: whose ports.
        pub dom: DomId,
    }
    /// `EVTCHNOP_init_control`.
    pub struct EvtchnInitControl [24] {
        /// In: the frame of the control block.
        pub control_gfn: u64,
        /// In: its offset.
        pub offset: u32,
        /// In.
        pub vcpu: u32,
        /// Out.
        pub link_bits: u8,
        /// Padding.
        pub _pad: [u8; 7],
    }
    /// `EVTCHNOP_expand_array`.
    pub struct EvtchnExpandArray [8] {
        /// In.
        pub array_gfn: u64,
    }
    /// `EVTCHNOP_set_priority`.
    pub struct EvtchnSetPriority [8] {
        /// In.
        pub port: u32,
        /// In.
        pub priority: u32,
    }
    /// `evtchn_fifo_control_block`, which a vcpu and the hypervisor share.
    pub struct EvtchnFifoControlBlock [72] {
        /// Bit n: queue n has been empty and is not any more.
        pub ready: u32,
        /// Reserved.
        pub _rsvd: u32,
        /// The first port of each queue; taken off by the guest.
        pub head: [u32; EVTCHN_FIFO_MAX_QUEUES],
    }
    /// `evtchn_op`, the argument of `event_channel_op_compat`: the command, and behind it the command's own structure,
    /// at most an [`EvtchnStatus`].
    pub struct EvtchnOp [28] {
        /// In: `EVTCHNOP_*`, as far as there were such before Xen 3.2: up to `EVTCHNOP_UNMASK`.
        pub cmd: u32,
        /// In and out.
        pub u: [u32; 6],
    }
}
