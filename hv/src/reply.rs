//! What a handler is asked and what it answers: the vocabulary of everything that may refuse, stop half way, or end a
//! guest.

use oxen_abi::errno::Errno;

/// Six arguments of a hypercall. A handler that stops half way leaves here where to go on.
pub type Args = [u64; 6];

/// What a hypercall answers: the value for RAX, or why there is none.
pub type Reply = Result<u64, Stop>;
const _: () = assert!(size_of::<Reply>() == 16, "in two registers");

/// Why an operation did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest erred or asked too much, and is told.
    Refused(Errno),
    /// There is more to do, or more urgent work waits: the same operation is to be asked for again. A hypercall is
    /// executed again, with the arguments as its handler left them.
    Unfinished,
    /// The guest broke a promise that it cannot be told about, and is ended.
    Fatal(Fault),
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Self {
        Self::Refused(error)
    }
}

/// A promise that a guest broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Fault {
    /// `iret` was asked for with a stack pointer that leads nowhere.
    IretUnreadable,
    /// `iret` was asked for to user mode, for which there are no page tables.
    NoUserTables,
    /// An entry that is not present leads where there may be memory, on a CPU that follows it into its cache.
    AbsentEntry,
}

impl Fault {
    /// What the console is told.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::IretUnreadable => "iret: the context at RSP cannot be read",
            Self::AbsentEntry => "an entry that is not present leads to memory that the CPU's cache may show (L1TF)",
            Self::NoUserTables => "iret: to user mode, but no user page tables are set (MMUEXT_NEW_USER_BASEPTR)",
        }
    }
}

/// The right to act on other domains and on the machine: an argument that only the check of a caller makes.
#[derive(Clone, Copy, Debug)]
pub struct Control(());

impl Control {
    /// The right, for who has it.
    pub(crate) const fn of(is_privileged: bool) -> Result<Self, Errno> {
        if is_privileged { Ok(Self(())) } else { Err(Errno::Perm) }
    }
}
