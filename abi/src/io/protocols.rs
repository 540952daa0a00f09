//! Names of ring layouts, as a frontend writes them to its `protocol` key (`io/protocols.h`).
//!
//! # Example
//!
//! ```
//! use oxen_abi::io::protocols::XEN_IO_PROTO_ABI_NATIVE;
//!
//! assert_eq!(XEN_IO_PROTO_ABI_NATIVE, "x86_64-abi");
//! ```

/// Layout of a 32-bit x86 frontend.
pub const XEN_IO_PROTO_ABI_X86_32: &str = "x86_32-abi";
/// Layout of a 64-bit x86 frontend.
pub const XEN_IO_PROTO_ABI_X86_64: &str = "x86_64-abi";
/// Layout of an Arm frontend.
pub const XEN_IO_PROTO_ABI_ARM: &str = "arm-abi";
/// The layout this crate describes.
pub const XEN_IO_PROTO_ABI_NATIVE: &str = XEN_IO_PROTO_ABI_X86_64;
