//! `memory_op` (`memory.h`).

use crate::domid::DomId;

abi_consts! {
    /// A command of `memory_op`.
    u32:
    XENMEM_INCREASE_RESERVATION = 0,
    XENMEM_DECREASE_RESERVATION = 1,
    XENMEM_MAXIMUM_RAM_PAGE = 2,
    XENMEM_CURRENT_RESERVATION = 3,
    XENMEM_MAXIMUM_RESERVATION = 4,
    XENMEM_MACHPHYS_MFN_LIST = 5,
    XENMEM_POPULATE_PHYSMAP = 6,
    XENMEM_ADD_TO_PHYSMAP = 7,
    XENMEM_MEMORY_MAP = 9,
    XENMEM_MACHINE_MEMORY_MAP = 10,
    XENMEM_EXCHANGE = 11,
    XENMEM_MACHPHYS_MAPPING = 12,
    XENMEM_SET_MEMORY_MAP = 13,
    XENMEM_MAXIMUM_GPFN = 14,
    XENMEM_REMOVE_FROM_PHYSMAP = 15,
    XENMEM_SET_POD_TARGET = 16,
    XENMEM_GET_POD_TARGET = 17,
    XENMEM_GET_SHARING_FREED_PAGES = 18,
    XENMEM_GET_SHARING_SHARED_PAGES = 19,
    XENMEM_PAGING_OP = 20,
    XENMEM_ACCESS_OP = 21,
    XENMEM_SHARING_OP = 22,
    XENMEM_ADD_TO_PHYSMAP_BATCH = 23,
    XENMEM_CLAIM_PAGES = 24,
    XENMEM_MACHPHYS_COMPAT_MFN_LIST = 25,
    XENMEM_GET_VNUMAINFO = 26,
    XENMEM_RESERVED_DEVICE_MEMORY_MAP = 27,
    XENMEM_ACQUIRE_RESOURCE = 28,
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
