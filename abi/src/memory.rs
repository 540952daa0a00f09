//! `memory_op` (`memory.h`).

use crate::domid::DomId;

abi_consts! {
    /// A command of `memory_op`.
    u32:
    /// Take more memory: [`MemoryReservation`]. The new machine frames are written into the list.
    XENMEM_INCREASE_RESERVATION = 0,
    /// Give memory back: [`MemoryReservation`]. Extents before the first frame that is mapped, granted or not the
    /// domain's are done.
    XENMEM_DECREASE_RESERVATION = 1,
    /// The number of the machine's last frame plus one. No argument.
    XENMEM_MAXIMUM_RAM_PAGE = 2,
    /// How many pages a domain has: [`MemoryDomain`].
    XENMEM_CURRENT_RESERVATION = 3,
    /// How many pages a domain may have: [`MemoryDomain`].
    XENMEM_MAXIMUM_RESERVATION = 4,
    /// The first frame of each 2 MiB of the machine-to-physical table: [`MachphysMfnList`].
    XENMEM_MACHPHYS_MFN_LIST = 5,
    /// Take memory for pfns: [`MemoryReservation`]. The list holds the first pfn of each extent, and gets its first
    /// machine frame; the machine-to-physical table is set.
    XENMEM_POPULATE_PHYSMAP = 6,
    /// Put a special frame at a pfn of a translated guest. `EACCES` for PV guests.
    XENMEM_ADD_TO_PHYSMAP = 7,
    /// The caller's map of memory, as firmware would tell it: [`MemoryMap`]. `ENOSYS` if it has none.
    XENMEM_MEMORY_MAP = 9,
    /// The machine's map of memory: [`MemoryMap`]. For the control domain.
    XENMEM_MACHINE_MEMORY_MAP = 10,
    /// Give extents back and take as much memory of another order or below another address in their place:
    /// [`MemoryExchange`]. `EINVAL` if the sides do not match; `EPERM` for too large an order; `ENOMEM`.
    XENMEM_EXCHANGE = 11,
    /// Where the machine-to-physical table is mapped, and how far: [`MachphysMapping`].
    XENMEM_MACHPHYS_MAPPING = 12,
    /// Set what a domain gets from `XENMEM_memory_map`: [`ForeignMemoryMap`]. `EINVAL` for too many entries.
    XENMEM_SET_MEMORY_MAP = 13,
    /// The last pfn of a domain: [`MemoryDomain`].
    XENMEM_MAXIMUM_GPFN = 14,
    /// Take a frame out of a translated guest's map. `EACCES` for PV guests.
    XENMEM_REMOVE_FROM_PHYSMAP = 15,
    /// Set how much memory of a translated guest may be populated on demand. `EINVAL` for PV guests.
    XENMEM_SET_POD_TARGET = 16,
    /// Ask the same. `EINVAL` for PV guests.
    XENMEM_GET_POD_TARGET = 17,
    /// How many pages sharing saves. No argument.
    XENMEM_GET_SHARING_FREED_PAGES = 18,
    /// How many pages are shared. No argument.
    XENMEM_GET_SHARING_SHARED_PAGES = 19,
    /// Page out memory of a translated guest. `ENOSYS` where it is not built.
    XENMEM_PAGING_OP = 20,
    /// Restrict access to a translated guest's pages. `EINVAL` for PV guests.
    XENMEM_ACCESS_OP = 21,
    /// Share pages of translated guests. `ENOSYS` where it is not built.
    XENMEM_SHARING_OP = 22,
    /// As `XENMEM_add_to_physmap`, many at a time. `EACCES` for PV guests.
    XENMEM_ADD_TO_PHYSMAP_BATCH = 23,
    /// Promise a domain that many pages in all: [`MemoryReservation`]; 0 ends the promise. `ENOMEM` if there are not
    /// enough; `EINVAL`.
    XENMEM_CLAIM_PAGES = 24,
    /// As `XENMEM_machphys_mfn_list`, for 32-bit guests.
    XENMEM_MACHPHYS_COMPAT_MFN_LIST = 25,
    /// The virtual memory nodes that a domain was given: [`VnumaTopologyInfo`]. `EOPNOTSUPP` if there are none;
    /// `ENOBUFS` for too little room.
    XENMEM_GET_VNUMAINFO = 26,
    /// Ranges that devices reach past an I/O MMU.
    XENMEM_RESERVED_DEVICE_MEMORY_MAP = 27,
    /// Frames of a domain's resource, for the control domain to map: [`MemAcquireResource`]. `EOPNOTSUPP` for other
    /// resources; `EINVAL`.
    XENMEM_ACQUIRE_RESOURCE = 28,
}

abi_consts! {
    /// Where a frame comes from that `XENMEM_add_to_physmap` places.
    u32:
    /// The domain's `shared_info`; the index is 0.
    XENMAPSPACE_SHARED_INFO = 0,
    /// Its grant table, by the index of the frame.
    XENMAPSPACE_GRANT_TABLE = 1,
}

/// Where a preempted command keeps its progress: the command is in the bits below.
pub const MEMOP_EXTENT_SHIFT: u32 = 6;

abi_consts! {
    /// A flag of [`MemoryReservation::mem_flags`], beside the address bits in bits 0 to 7 and the node in 8 to 15.
    u32:
    XENMEMF_POPULATE_ON_DEMAND = 1 << 16,
    XENMEMF_EXACT_NODE_REQUEST = 1 << 17,
    XENMEMF_VNODE = 1 << 18,
}

abi_consts! {
    /// What is acquired ([`MemAcquireResource::type`]).
    u16:
    XENMEM_RESOURCE_IOREQ_SERVER = 0,
    XENMEM_RESOURCE_GRANT_TABLE = 1,
    XENMEM_RESOURCE_VMTRACE_BUF = 2,
}

abi_consts! {
    /// Which frames of a grant table ([`MemAcquireResource::id`]).
    u32:
    XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED = 0,
    XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS = 1,
}

abi_consts! {
    /// The kind of a range of memory ([`E820Entry::type`]).
    u32:
    E820_RAM = 1,
    E820_RESERVED = 2,
    E820_ACPI = 3,
    E820_NVS = 4,
    E820_UNUSABLE = 5,
}

abi_struct! {
    /// `XENMEM_increase_reservation`, `XENMEM_decrease_reservation`, `XENMEM_populate_physmap`.
    pub struct MemoryReservation [32] {
        /// Frame numbers: `u64`s.
        pub extent_start: u64,
        /// How many.
        pub nr_extents: u64,
        /// Pages of each, as a power of two.
        pub extent_order: u32,
        /// `XENMEMF_*`
        pub mem_flags: u32,
        /// Whose.
        pub domid: DomId,
        /// Padding.
        pub _pad: [u16; 3],
    }
    /// `XENMEM_add_to_physmap`.
    pub struct AddToPhysmap [24] {
        /// Whose.
        pub domid: DomId,
        /// How many frames, where they come from a range.
        pub size: u16,
        /// `XENMAPSPACE_*`
        pub space: u32,
        /// Which frame of these.
        pub idx: u64,
        /// Where it is to be.
        pub gpfn: u64,
    }
    /// `XENMEM_exchange`.
    pub struct MemoryExchange [72] {
        /// What is given.
        pub r#in: MemoryReservation,
        /// What is asked for.
        pub out: MemoryReservation,
        /// Out: input extents exchanged.
        pub nr_exchanged: u64,
    }
    /// `XENMEM_current_reservation`, `XENMEM_maximum_reservation`, `XENMEM_maximum_gpfn`.
    pub struct MemoryDomain [2] {
        /// Whose.
        pub domid: DomId,
    }
    /// `XENMEM_machphys_mfn_list`.
    pub struct MachphysMfnList [24] {
        /// Room in the list.
        pub max_extents: u32,
        /// Padding.
        pub _pad0: u32,
        /// The list: `u64`s.
        pub extent_start: u64,
        /// Out: how many were written.
        pub nr_extents: u32,
        /// Padding.
        pub _pad1: u32,
    }
    /// `XENMEM_machphys_mapping`.
    pub struct MachphysMapping [24] {
        /// First address.
        pub v_start: u64,
        /// First address after.
        pub v_end: u64,
        /// Last frame number.
        pub max_mfn: u64,
    }
    /// `XENMEM_memory_map`, `XENMEM_machine_memory_map`.
    pub struct MemoryMap [16] {
        /// In: room in the buffer. Out: entries.
        pub nr_entries: u32,
        /// Padding.
        pub _pad: u32,
        /// The buffer: [`E820Entry`]s.
        pub buffer: u64,
    }
    /// `XENMEM_set_memory_map`.
    pub struct ForeignMemoryMap [24] {
        /// Whose.
        pub domid: DomId,
        /// Padding.
        pub _pad: [u16; 3],
        /// The map.
        pub map: MemoryMap,
    }
    /// A range of a guest's memory and its node (`xen_vmemrange`).
    pub struct Vmemrange [24] {
        /// First byte.
        pub start: u64,
        /// First byte after.
        pub end: u64,
        /// Must be 0.
        pub flags: u32,
        /// The node.
        pub nid: u32,
    }
    /// `XENMEM_get_vnumainfo`.
    pub struct VnumaTopologyInfo [40] {
        /// Whose.
        pub domid: DomId,
        /// Must be 0.
        pub pad: u16,
        /// In: room for nodes. Out: nodes.
        pub nr_vnodes: u32,
        /// In: room for vcpus. Out: vcpus.
        pub nr_vcpus: u32,
        /// In: room for ranges. Out: ranges.
        pub nr_vmemranges: u32,
        /// Where the distances go, row by row: `u32`s.
        pub vdistance: u64,
        /// Where the vcpus' nodes go: `u32`s.
        pub vcpu_to_vnode: u64,
        /// Where the ranges go: [`Vmemrange`]s.
        pub vmemrange: u64,
    }
    /// `XENMEM_acquire_resource`.
    pub struct MemAcquireResource [32] {
        /// Whose.
        pub domid: DomId,
        /// `XENMEM_RESOURCE_*`
        pub r#type: u16,
        /// Which, by type.
        pub id: u32,
        /// Frames; with no list, out: frames there are.
        pub nr_frames: u32,
        /// Must be 0.
        pub pad: u32,
        /// The first frame.
        pub frame: u64,
        /// Machine frames, in or out: `u64`s.
        pub frame_list: u64,
    }
}

/// A range of memory, as firmware and `XENMEM_memory_map` describe it: 20 bytes, unaligned.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::KnownLayout,
    zerocopy::Immutable,
)]
#[repr(C, packed(4))]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// `E820_*`
    pub r#type: u32,
}
const _: () = assert!(core::mem::size_of::<E820Entry>() == 20);
