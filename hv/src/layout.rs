//! Who owns which virtual address. Slots 256 to 271 of every L4 are the hypervisor's, all else is the guest's.

/// End of the lower canonical half.
pub const LOWER_HALF_END: u64 = 1 << 47;
/// First address that no guest may map (`HYPERVISOR_VIRT_START`, `arch-x86/xen-x86_64.h`).
pub const HYPERVISOR_START: u64 = 0xffff_8000_0000_0000;
/// First address after the hypervisor's (`HYPERVISOR_VIRT_END`).
pub const HYPERVISOR_END: u64 = 0xffff_8800_0000_0000;
/// First L4 slot of the hypervisor.
pub const FIRST_HV_SLOT: usize = 256;
/// First L4 slot after the hypervisor's.
pub const END_HV_SLOT: usize = 272;
/// The machine-to-phys table, readable by guests (`MACH2PHYS_VIRT_START`).
pub const M2P_START: u64 = 0xffff_8000_0000_0000;
/// End of the space kept for the machine-to-phys table (`MACH2PHYS_VIRT_END`).
pub const M2P_END: u64 = 0xffff_8040_0000_0000;
const _: () = assert!(M2P_START == HYPERVISOR_START && M2P_END - M2P_START <= 1 << 39, "it has one L4 slot");
/// Where the hypervisor's image is linked.
pub const IMAGE_START: u64 = 0xffff_82d0_8000_0000;
/// The per-CPU windows through which descriptor tables are seen.
pub const CPU_WINDOW_START: u64 = 0xffff_82d0_c000_0000;
/// The frame table.
pub const FRAME_TABLE_START: u64 = 0xffff_82e0_0000_0000;
/// All RAM, one to one.
pub const DIRECT_MAP_START: u64 = 0xffff_8300_0000_0000;
