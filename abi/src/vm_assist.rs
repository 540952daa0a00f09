//! Assistance that a domain may turn on (`xen.h`).

abi_consts! {
    /// A command of `vm_assist`.
    u32:
    /// Turn on.
    VMASST_CMD_ENABLE = 0,
    /// Turn off.
    VMASST_CMD_DISABLE = 1,
}

abi_consts! {
    /// The number of an assistance's bit.
    u32:
    VMASST_TYPE_4GB_SEGMENTS = 0,
    VMASST_TYPE_4GB_SEGMENTS_NOTIFY = 1,
    VMASST_TYPE_WRITABLE_PAGETABLES = 2,
    VMASST_TYPE_PAE_EXTENDED_CR3 = 3,
    VMASST_TYPE_ARCHITECTURAL_IOPL = 4,
    VMASST_TYPE_RUNSTATE_UPDATE_FLAG = 5,
    VMASST_TYPE_M2P_STRICT = 32,
}

bitflags::bitflags! {
    /// Assistances, as `vcpu_guest_context` has them: each the bit of its number.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Assists: u64 {
        /// [`VMASST_TYPE_4GB_SEGMENTS`]
        const FOUR_GB_SEGMENTS = 1 << VMASST_TYPE_4GB_SEGMENTS;
        /// [`VMASST_TYPE_4GB_SEGMENTS_NOTIFY`]
        const FOUR_GB_SEGMENTS_NOTIFY = 1 << VMASST_TYPE_4GB_SEGMENTS_NOTIFY;
        /// [`VMASST_TYPE_WRITABLE_PAGETABLES`]
        const WRITABLE_PAGETABLES = 1 << VMASST_TYPE_WRITABLE_PAGETABLES;
        /// [`VMASST_TYPE_PAE_EXTENDED_CR3`]
        const PAE_EXTENDED_CR3 = 1 << VMASST_TYPE_PAE_EXTENDED_CR3;
        /// [`VMASST_TYPE_ARCHITECTURAL_IOPL`]
        const ARCHITECTURAL_IOPL = 1 << VMASST_TYPE_ARCHITECTURAL_IOPL;
        /// [`VMASST_TYPE_RUNSTATE_UPDATE_FLAG`]
        const RUNSTATE_UPDATE_FLAG = 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG;
        /// [`VMASST_TYPE_M2P_STRICT`]
        const M2P_STRICT = 1 << VMASST_TYPE_M2P_STRICT;
    }
}
