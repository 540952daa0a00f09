//! The commands of the control interfaces: a fixed head, then a union of 128 bytes that the command's number explains.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Reads a member of a union.
pub(crate) fn member<T: FromBytes>(union: &[u8; 128]) -> T {
    const { assert!(size_of::<T>() <= 128) };
    T::read_from_prefix(union).map_or_else(|_| T::new_zeroed(), |(member, _)| member)
}

/// Writes a member of a union.
pub(crate) fn set_member<T: IntoBytes + Immutable>(union: &mut [u8; 128], member: &T) {
    const { assert!(size_of::<T>() <= 128) };
    // Cannot fail: the assertion above holds.
    let _ = member.write_to_prefix(union);
}

/// Lets a command's structure be read from and written to its union.
macro_rules! impl_command {
    ($call:ident) => {
        impl $call {
            /// The command's structure. `T` fits by construction: the size is checked when this is compiled.
            #[must_use]
            pub fn get<T: ::zerocopy::FromBytes>(&self) -> T {
                $crate::command::member(&self.u)
            }

            /// Replaces the command's structure.
            pub fn set<T: ::zerocopy::IntoBytes + ::zerocopy::Immutable>(&mut self, command: &T) {
                $crate::command::set_member(&mut self.u, command);
            }
        }
    };
}
pub(crate) use impl_command;
