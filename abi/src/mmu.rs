//! Page table updates: `mmu_update`, `mmuext_op`, `update_va_mapping` (`xen.h`).

abi_consts! {
    /// What a request does: the low two bits of [`MmuUpdate::ptr`].
    u64:
    MMU_NORMAL_PT_UPDATE = 0,
    MMU_MACHPHYS_UPDATE = 1,
    MMU_PT_UPDATE_PRESERVE_AD = 2,
    MMU_PT_UPDATE_NO_TRANSLATE = 3,
}

abi_consts! {
    /// A command of `mmuext_op`.
    u32:
    MMUEXT_PIN_L1_TABLE = 0,
    MMUEXT_PIN_L2_TABLE = 1,
    MMUEXT_PIN_L3_TABLE = 2,
    MMUEXT_PIN_L4_TABLE = 3,
    MMUEXT_UNPIN_TABLE = 4,
    MMUEXT_NEW_BASEPTR = 5,
    MMUEXT_TLB_FLUSH_LOCAL = 6,
    MMUEXT_INVLPG_LOCAL = 7,
    MMUEXT_TLB_FLUSH_MULTI = 8,
    MMUEXT_INVLPG_MULTI = 9,
    MMUEXT_TLB_FLUSH_ALL = 10,
    MMUEXT_INVLPG_ALL = 11,
    MMUEXT_FLUSH_CACHE = 12,
    MMUEXT_SET_LDT = 13,
    MMUEXT_NEW_USER_BASEPTR = 15,
    MMUEXT_CLEAR_PAGE = 16,
    MMUEXT_COPY_PAGE = 17,
    MMUEXT_FLUSH_CACHE_GLOBAL = 18,
    MMUEXT_MARK_SUPER = 19,
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
