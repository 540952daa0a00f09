//! `callback_op` (`callback.h`).

abi_consts! {
    /// A command of `callback_op`.
    u32:
    /// Register an entry of the kernel: [`CallbackRegister`].
    CALLBACKOP_REGISTER = 0,
    /// Take one back: [`CallbackUnregister`]; only that for NMIs can be. `EINVAL` for the others.
    CALLBACKOP_UNREGISTER = 1,
}

abi_consts! {
    /// What a callback is for.
    u16:
    CALLBACKTYPE_EVENT = 0,
    CALLBACKTYPE_FAILSAFE = 1,
    CALLBACKTYPE_SYSCALL = 2,
    CALLBACKTYPE_SYSENTER_DEPRECATED = 3,
    CALLBACKTYPE_NMI = 4,
    CALLBACKTYPE_SYSENTER = 5,
    CALLBACKTYPE_SYSCALL32 = 7,
}

/// Events are masked on the way in.
pub const CALLBACKF_MASK_EVENTS: u16 = 1 << 0;

abi_flags! {
    /// `flags` of [`CallbackRegister`].
    pub struct CallbackFlags: u16 {
        MASK_EVENTS = CALLBACKF_MASK_EVENTS,
    }
}

abi_struct! {
    /// `CALLBACKOP_register`.
    pub struct CallbackRegister [16] {
        /// `CALLBACKTYPE_*`
        pub r#type: u16,
        /// `CALLBACKF_*`
        pub flags: u16,
        /// Padding.
        pub _pad: u32,
        /// Where the guest is entered.
        pub address: u64,
    }
    /// `CALLBACKOP_unregister`.
    pub struct CallbackUnregister [4] {
        /// `CALLBACKTYPE_*`
        pub r#type: u16,
        /// Padding.
        pub _unused: u16,
    }
}
