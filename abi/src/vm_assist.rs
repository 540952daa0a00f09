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
