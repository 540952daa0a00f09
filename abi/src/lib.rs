//! Xen's public paravirtual interface for x86-64, as of Xen 4.17: numbers, structures, semantics.
//!
//! One module for each public header. Constants keep Xen's own names in upper case, structures Xen's names in
//! camel case without `xen_` and `_t`, fields Xen's. Guest handles are plain `u64`: virtual addresses in the
//! calling guest. Every structure is plain data that any bits are a value of, its size asserted here and
//! compared with the C headers in a test.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

/// Declares structures of the ABI: C layout, plain data, the size asserted.
macro_rules! abi_struct {
    ($($(#[$meta:meta])* pub struct $name:ident [$size:expr] {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty),* $(,)?
    })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)]
        #[repr(C)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type),* }
        const _: () = assert!(core::mem::size_of::<$name>() == $size);
    )*};
}

/// Declares constants of the ABI that are of one type and explained by one sentence, each perhaps by words of its own.
macro_rules! abi_consts {
    ($(#[doc = $doc:literal])+ $type:ty: $($(#[doc = $own:literal])* $name:ident = $value:expr),* $(,)?) => {
        abi_consts!(@each [concat!($($doc, "\n"),+)] $type: $($(#[doc = $own])* $name = $value),*);
    };
    (@each [$doc:expr] $type:ty: $($(#[doc = $own:literal])* $name:ident = $value:expr),*) => {
        $($(#[doc = $own])* #[doc = ""] #[doc = $doc] pub const $name: $type = $value;)*
    };
}

/// Declares sets of flags of the ABI, out of constants by Xen's own names. What a guest wrote may have any bits: who
/// reads it keeps, drops or refuses those without a name (`from_bits_retain`, `from_bits_truncate`, `from_bits`).
macro_rules! abi_flags {
    ($($(#[$meta:meta])* pub struct $name:ident: $bits:ty { $($flag:ident = $value:ident),* $(,)? })*) => {
        bitflags::bitflags! {$(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $name: $bits {
                $(#[doc = concat!("[`", stringify!($value), "`]")] const $flag = $value;)*
            }
        )*}
    };
}

pub mod callback;
mod command;
pub mod console_io;
pub mod domctl;
pub mod domid;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod guest_context;
pub mod hypercall;
pub mod hypfs;
pub mod io;
pub mod machine_check;
pub mod memory;
pub mod mmu;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod segments;
pub mod shared_info;
pub mod start_info;
pub mod start_of_day;
pub mod symbols;
pub mod sysctl;
pub mod trace;
pub mod trap;
pub mod vcpu;
pub mod version;
pub mod virq;
pub mod vm_assist;
