//! Error numbers (`errno.h`).
//!
//! # Example
//!
//! ```
//! use oxen_abi::errno::Errno;
//!
//! assert_eq!(Errno::check(7), Ok(7));
//! assert_eq!(Errno::check((-22_i64) as u64), Err(Errno::Inval));
//! assert_eq!(Errno::Inval.to_string(), "-EINVAL");
//! ```

macro_rules! errno {
    ($($(#[$meta:meta])* $name:ident = $value:literal, $xen:literal;)*) => {
        /// Why a hypercall failed; a hypercall answers its negative.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Errno { $($(#[$meta])* $name = $value),* }

        impl Errno {
            /// Every error there is.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The error of this positive number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($value => Some(Self::$name),)* _ => None }
            }

            /// The name in the header, without the prefix `XEN_`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $xen),* }
            }
        }
    };
}

errno! {
    /// Not permitted.
    Perm = 1, "EPERM";
    /// No such thing.
    NoEnt = 2, "ENOENT";
    /// No such domain.
    Srch = 3, "ESRCH";
    /// Interrupted.
    Intr = 4, "EINTR";
    /// Input or output failed.
    Io = 5, "EIO";
    /// No such device or address.
    NxIo = 6, "ENXIO";
    /// More than fits.
    TooBig = 7, "E2BIG";
    /// Not an executable that can be run.
    NoExec = 8, "ENOEXEC";
    /// Bad handle.
    BadF = 9, "EBADF";
    /// No children.
    Child = 10, "ECHILD";
    /// Try again.
    Again = 11, "EAGAIN";
    /// Out of memory.
    NoMem = 12, "ENOMEM";
    /// Access denied.
    Acces = 13, "EACCES";
    /// Bad guest address.
    Fault = 14, "EFAULT";
    /// In use.
    Busy = 16, "EBUSY";
    /// Exists already.
    Exist = 17, "EEXIST";
    /// Crosses a boundary.
    XDev = 18, "EXDEV";
    /// No such device.
    NoDev = 19, "ENODEV";
    /// Not a directory.
    NotDir = 20, "ENOTDIR";
    /// Is a directory.
    IsDir = 21, "EISDIR";
    /// Invalid argument.
    Inval = 22, "EINVAL";
    /// Too many in the system.
    NFile = 23, "ENFILE";
    /// Too many in the domain.
    MFile = 24, "EMFILE";
    /// No space left.
    NoSpc = 28, "ENOSPC";
    /// Read-only.
    RoFs = 30, "EROFS";
    /// Too many links.
    MLink = 31, "EMLINK";
    /// Outside the domain of the function.
    Dom = 33, "EDOM";
    /// Out of range.
    Range = 34, "ERANGE";
    /// Would deadlock.
    DeadLk = 35, "EDEADLK";
    /// Name too long.
    NameTooLong = 36, "ENAMETOOLONG";
    /// No locks left.
    NoLck = 37, "ENOLCK";
    /// Not implemented.
    NoSys = 38, "ENOSYS";
    /// Not empty.
    NotEmpty = 39, "ENOTEMPTY";
    /// No data.
    NoData = 61, "ENODATA";
    /// The time has passed.
    Time = 62, "ETIME";
    /// Malformed message.
    BadMsg = 74, "EBADMSG";
    /// Too large for its type.
    Overflow = 75, "EOVERFLOW";
    /// Illegal sequence.
    IlSeq = 84, "EILSEQ";
    /// To be restarted.
    Restart = 85, "ERESTART";
    /// Not a socket.
    NotSock = 88, "ENOTSOCK";
    /// Message too long.
    MsgSize = 90, "EMSGSIZE";
    /// Not supported.
    OpNotSupp = 95, "EOPNOTSUPP";
    /// Address in use.
    AddrInUse = 98, "EADDRINUSE";
    /// Address not available.
    AddrNotAvail = 99, "EADDRNOTAVAIL";
    /// No buffers left.
    NoBufs = 105, "ENOBUFS";
    /// Connected already.
    IsConn = 106, "EISCONN";
    /// Not connected.
    NotConn = 107, "ENOTCONN";
    /// Timed out.
    TimedOut = 110, "ETIMEDOUT";
    /// Refused.
    ConnRefused = 111, "ECONNREFUSED";
}

impl Errno {
    /// What stands in RAX: the negative number.
    #[inline]
    #[must_use]
    pub const fn to_return_value(self) -> u64 {
        (self as u16 as u64).wrapping_neg()
    }

    /// Splits what a hypercall left in RAX.
    ///
    /// # Errors
    /// The error that a negative value names; `Inval` for a negative value that is no known error.
    #[inline]
    pub const fn check(value: u64) -> Result<u64, Self> {
        if (value as i64) >= 0 {
            return Ok(value);
        }
        let number = value.wrapping_neg();
        if number > 0xffff {
            return Err(Self::Inval);
        }
        match Self::from_number(number as u16) {
            Some(error) => Err(error),
            None => Err(Self::Inval),
        }
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "-{}", self.name())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn an_error_survives_the_register() {
        for &error in Errno::ALL {
            assert_eq!(Errno::check(error.to_return_value()), Err(error));
        }
        assert_eq!(Errno::check(7), Ok(7));
    }
}
