//! Exception handlers (`arch-x86/xen.h`).

abi_struct! {
    /// One handler. A table ends with an address of 0.
    pub struct TrapInfo [16] {
        /// The exception's number.
        pub vector: u8,
        /// Bits 0 and 1: the privilege level that may reach it by `int`; bit 2: events are masked on entry.
        pub flags: u8,
        /// The code selector.
        pub cs: u16,
        /// Padding.
        pub _pad: u32,
        /// Where the guest is entered.
        pub address: u64,
    }
}
