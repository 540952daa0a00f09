//! Arguments by what they mean, so that the same call is the same text wherever the guest's memory lies.

use core::fmt;

/// This domain.
pub(crate) const SELF: u64 = 0x7ff0;

/// How many frames the experiments have.
pub(crate) const FRAMES: usize = 8;
/// How many windows: one for each frame, and two for grants.
pub(crate) const WINDOWS: usize = FRAMES + 2;

/// An argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A number as it stands.
    Number(u64),
    /// A place in the argument memory of the call.
    Memory(u64),
    /// The number of a frame of the experiments.
    Frame(usize),
    /// The machine address of such a frame, with bits added.
    Machine(usize, u64),
    /// The virtual address of a window, with an offset.
    Window(usize, u64),
    /// The machine address of the L1 entry of a window, with the kind of the update.
    Entry(usize, u64),
    /// The frame of the page table of this level above the windows (4 is the root).
    Table(usize),
    /// The machine address of a slot of the root.
    Slot(u64),
    /// The machine address of such a table, with bits added.
    TableAt(usize, u64),
    /// The page number of a frame of the experiments.
    Page(usize),
    /// The event channel port of this number, counted from the first that is free.
    Port(u32),
    /// The grant handle got as the last but n.
    Handle(usize),
    /// The reference of the grant of frame 6 (for writing) or 7 (for reading).
    Reference(usize),
    /// The number of the frame of the grant table's status words; 0 where there is none.
    Status,
    /// This domain's own number.
    Me,
    /// The number of the domain that a control domain has made.
    Other,
    /// An exception entry of ours.
    Handler(u64),
}

impl Default for Value {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = |f: &mut fmt::Formatter<'_>, bits: u64| if bits == 0 { Ok(()) } else { write!(f, "+{bits:x}") };
        match *self {
            Self::Number(number) => write!(f, "{number:x}"),
            Self::Memory(at) => write!(f, "&{at:x}"),
            Self::Frame(frame) => write!(f, "F{frame}"),
            Self::Machine(frame, flags) => write!(f, "F{frame}:").and_then(|()| bits(f, flags)),
            Self::Window(window, offset) => write!(f, "W{window}").and_then(|()| bits(f, offset)),
            Self::Entry(window, kind) => write!(f, "&pte(W{window})").and_then(|()| bits(f, kind)),
            Self::Table(level) => write!(f, "T{level}"),
            Self::Slot(slot) => write!(f, "&T4[{slot}]"),
            Self::TableAt(level, flags) => write!(f, "T{level}:").and_then(|()| bits(f, flags)),
            Self::Page(frame) => write!(f, "pfn(F{frame})"),
            Self::Port(port) => write!(f, "port{port}"),
            Self::Handle(handle) => write!(f, "handle{handle}"),
            Self::Reference(frame) => write!(f, "ref(F{frame})"),
            Self::Status => write!(f, "S"),
            Self::Me => write!(f, "me"),
            Self::Other => write!(f, "other"),
            Self::Handler(vector) => write!(f, "handler{vector}"),
        }
    }
}
