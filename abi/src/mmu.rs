//! Page table updates: `mmu_update`, `mmuext_op`, `update_va_mapping` (`xen.h`).

abi_consts! {
    /// A command of `mmu_update`: the low two bits of [`MmuUpdate::ptr`].
    u64:
    /// Write an entry of a page table: `ptr` is its machine address, `val` the entry. `EINVAL` if the entry is bad.
    MMU_NORMAL_PT_UPDATE = 0,
    /// Write the machine-to-physical table: `ptr` is in the frame, `val` its pfn. `EINVAL` if the frame is not the
    /// owner's.
    MMU_MACHPHYS_UPDATE = 1,
    /// As the first, but accessed and dirty bits that are set stay set.
    MMU_PT_UPDATE_PRESERVE_AD = 2,
    /// As the first, for callers whose frame numbers would be translated; PV guests' never are.
    MMU_PT_UPDATE_NO_TRANSLATE = 3,
}

abi_consts! {
    /// A command of `mmuext_op`.
    u32:
    /// Validate the frame `arg1` as an L1 table, and keep it one though no other table leads to it. `EINVAL` if it is
    /// not the owner's, is pinned already or in use as something else, or holds a bad entry.
    MMUEXT_PIN_L1_TABLE = 0,
    /// The same as an L2 table, with all L1 tables below it.
    MMUEXT_PIN_L2_TABLE = 1,
    /// The same as an L3 table, with all tables below it.
    MMUEXT_PIN_L3_TABLE = 2,
    /// The same as an L4 table, with all tables below it.
    MMUEXT_PIN_L4_TABLE = 3,
    /// End a pin of the frame `arg1`. `EINVAL` if it is not pinned.
    MMUEXT_UNPIN_TABLE = 4,
    /// Load the L4 table in frame `arg1` as the kernel's root of the calling vcpu, which flushes the TLB. It is
    /// validated if it is not yet. `EINVAL` if it cannot be a root.
    MMUEXT_NEW_BASEPTR = 5,
    /// Flush the TLB of the calling CPU.
    MMUEXT_TLB_FLUSH_LOCAL = 6,
    /// Flush the page at address `arg1` on the calling CPU.
    MMUEXT_INVLPG_LOCAL = 7,
    /// Flush the TLBs of the vcpus in the bitmap at address `arg2`. `EINVAL` if it cannot be read.
    MMUEXT_TLB_FLUSH_MULTI = 8,
    /// Flush the page at address `arg1` for the vcpus in the bitmap at address `arg2`. `EINVAL` if it cannot be read.
    MMUEXT_INVLPG_MULTI = 9,
    /// Flush the TLBs of all CPUs that may know the domain's mappings.
    MMUEXT_TLB_FLUSH_ALL = 10,
    /// Flush the page at address `arg1` on all CPUs that may know it.
    MMUEXT_INVLPG_ALL = 11,
    /// Write back and empty the data caches of this CPU. `EACCES` for a domain without devices.
    MMUEXT_FLUSH_CACHE = 12,
    /// Use the LDT at address `arg1` with `arg2` entries; its pages are checked as they are first used. `EINVAL` for
    /// an address that is not of a page's start or too many entries.
    MMUEXT_SET_LDT = 13,
    /// Load the L4 table in frame `arg1` as the root of user mode, from the next return to it; 0 for none. `EINVAL` if
    /// it cannot be a root.
    MMUEXT_NEW_USER_BASEPTR = 15,
    /// Fill the frame `arg1` with zeros. `EINVAL` if it is not writable memory of the owner's.
    MMUEXT_CLEAR_PAGE = 16,
    /// Copy the frame `arg2` to the frame `arg1`. `EINVAL` if either is not the owner's, or the first is not writable.
    MMUEXT_COPY_PAGE = 17,
    /// The same as `FLUSH_CACHE` on all CPUs. `EINVAL` for a domain without devices.
    MMUEXT_FLUSH_CACHE_GLOBAL = 18,
    /// Mark a frame as part of a superpage. `EOPNOTSUPP` where guests have none.
    MMUEXT_MARK_SUPER = 19,
    /// End such a mark. `EOPNOTSUPP` where guests have none.
    MMUEXT_UNMARK_SUPER = 20,
}

abi_consts! {
    /// What `update_va_mapping` flushes: the kind in bits 0 and 1, the scope or a pointer to a vcpu bitmap above.
    u64:
    UVMF_NONE = 0,
    UVMF_TLB_FLUSH = 1,
    UVMF_INVLPG = 2,
    UVMF_FLUSHTYPE_MASK = 3,
    UVMF_LOCAL = 0,
    UVMF_MULTI = 0,
    UVMF_ALL = 4,
}

abi_struct! {
    /// One request of `mmu_update`.
    pub struct MmuUpdate [16] {
        /// The machine address of an entry, with the kind in the low two bits.
        pub ptr: u64,
        /// The new entry, or the pfn.
        pub val: u64,
    }
    /// One operation of `mmuext_op`.
    pub struct MmuextOp [24] {
        /// `MMUEXT_*`
        pub cmd: u32,
        /// Padding.
        pub _pad: u32,
        /// A machine frame or a linear address.
        pub arg1: u64,
        /// A count of entries (`u32`), a pointer to a vcpu bitmap, or a machine frame.
        pub arg2: u64,
    }
}
