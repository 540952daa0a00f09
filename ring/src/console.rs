//! A guest's console page (`xencons_interface`).
//!
//! # Example
//!
//! ```
//! use core::sync::atomic::AtomicU32;
//!
//! use oxen_ring::{PAGE_WORDS, Page, console};
//!
//! let page: Page = [const { AtomicU32::new(0) }; PAGE_WORDS];
//! let (mut guest, mut backend) = (console::guest(&page), console::backend(&page));
//! assert_eq!(guest.writer.write(b"login: ")?, 7);
//! let mut shown = [0; 16];
//! let count = backend.reader.read(&mut shown)?;
//! assert_eq!(&shown[..count], b"login: ");
//! # Ok::<(), oxen_ring::Overrun>(())
//! ```

use crate::bytes::Stream;
use crate::{ByteReader, ByteWriter, Ends, Page};
use core::mem::offset_of;
use oxen_abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface};

/// The guest's end: reads what is typed, writes what is shown.
#[must_use]
pub fn guest(page: &Page) -> Ends<'_> {
    Ends { reader: ByteReader::new(input(page)), writer: ByteWriter::new(output(page)) }
}

/// The backend's end: reads what is shown, writes what is typed.
#[must_use]
pub fn backend(page: &Page) -> Ends<'_> {
    Ends { reader: ByteReader::new(output(page)), writer: ByteWriter::new(input(page)) }
}

fn input(page: &Page) -> Stream<'_> {
    Stream::new::<
        { offset_of!(XenconsInterface, r#in) },
        XENCONS_IN_SIZE,
        { offset_of!(XenconsInterface, in_cons) },
        { offset_of!(XenconsInterface, in_prod) },
    >(page)
}

fn output(page: &Page) -> Stream<'_> {
    Stream::new::<
        { offset_of!(XenconsInterface, out) },
        XENCONS_OUT_SIZE,
        { offset_of!(XenconsInterface, out_cons) },
        { offset_of!(XenconsInterface, out_prod) },
    >(page)
}
