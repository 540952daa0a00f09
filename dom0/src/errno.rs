//! The hypervisor's errors as messages to people name them.

use core::fmt;

use oxen_abi::errno::Errno;

/// An error of the hypervisor, shown by its name alone, such as `ENOMEM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named(pub Errno);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl core::error::Error for Named {}
