//! Why a kernel is refused, for people to read.

use alloc::string::String;
use core::fmt;

/// The check that a kernel failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The file does not begin as an ELF file does.
    NotElf,
    /// It is an ELF file for another processor, word size or byte order.
    NotX86_64(&'static str, u16),
    /// Its program headers are not of ELF64's size but of this.
    HeaderSize(u16),
    /// The file ends before what its headers name.
    Cut {
        /// What lies there.
        what: &'static str,
        /// Where that ends in the file, in bytes.
        end: u64,
    },
    /// Neither notes of owner "Xen" nor a section `__xen_guest`.
    NoXenNotes,
    /// The only entry point is that of hardware virtual machines.
    HardwareOnly,
    /// Neither LOADER nor GUEST_OS says that Xen's loader is the right one: what they say.
    OtherLoader(String, String),
    /// XEN_VERSION does not name Xen's interface: what it says.
    OtherInterface(String),
    /// FEATURES demands one that there is not.
    UnknownFeature(String),
    /// A note has a value that cannot be.
    BadNote(&'static str, u64),
    /// An address that a note, or the header, names lies outside the image.
    Outside(&'static str, u64),
    /// The segment for this virtual address cannot be loaded.
    BadSegment(u64, &'static str),
    /// No segment is to be loaded, or more than a kernel has.
    SegmentCount(usize),
    /// The file is not packed as kernels are, or damaged.
    Packing(String),
    /// Unpacking takes more memory than there is, in bytes.
    Memory {
        /// Bytes that it takes at a time.
        needed: usize,
        /// Bytes that there are.
        free: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("not an ELF file: it does not begin with the magic number"),
            Self::NotX86_64(what, value) => {
                write!(f, "an ELF file {what} ({value}); only 64-bit x86 kernels can be guests")
            }
            Self::HeaderSize(size) => write!(f, "the ELF file's program headers have {size} bytes instead of 56"),
            Self::Cut { what, end } => write!(f, "the file is cut short: {what} would end at byte {end:#x}"),
            Self::NoXenNotes => f.write_str(
                "no Xen notes in the ELF file: the kernel was not built to run paravirtual on Xen (CONFIG_XEN_PV)",
            ),
            Self::HardwareOnly => f.write_str(
                "of entry points the Xen notes have only PHYS32_ENTRY: the kernel runs in hardware virtual machines \
                 (PVH), not paravirtual (CONFIG_XEN_PV)",
            ),
            Self::OtherLoader(loader, os) => write!(
                f,
                "Xen note LOADER says \"{loader}\" and GUEST_OS \"{os}\"; one has to say \"generic\", or \"linux\""
            ),
            Self::OtherInterface(version) => {
                write!(f, "Xen note XEN_VERSION says \"{version}\"; the interface of Xen is \"xen-3.0\"")
            }
            Self::UnknownFeature(name) => write!(f, "Xen note FEATURES demands `{name}`, which there is not"),
            Self::BadNote(name, value) => write!(f, "Xen note {name} has the impossible value {value:#x}"),
            Self::Outside(name, value) => write!(f, "{name} is {value:#x}, which lies outside the image"),
            Self::BadSegment(address, why) => write!(f, "the segment for virtual address {address:#x} {why}"),
            Self::SegmentCount(0) => f.write_str("no segment is to be loaded"),
            Self::SegmentCount(count) => write!(f, "{count} segments are to be loaded, more than any kernel has"),
            Self::Packing(why) => f.write_str(why),
            Self::Memory { needed, free } => write!(
                f,
                "too little memory to unpack it: it takes {} MiB at a time, {} MiB are free",
                needed.div_ceil(1 << 20),
                free >> 20
            ),
        }
    }
}
