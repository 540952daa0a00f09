//! The innermost format: libxc's stream of version 3 (`docs/specs/libxc-migration-stream.pandoc`).

use alloc::{vec, vec::Vec};

use anyhow::{Result, ensure};
use oxen_domu_lib::memory::Pfn;
use zerocopy::big_endian;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::stream::{Sink, Source, read_one};

/// The kinds of records.
pub const END: u32 = 0;
/// Pages: how many, each one's number with its kind, then the contents of those that have any.
pub const PAGE_DATA: u32 = 1;
/// How wide the guest's words are, and how many levels its tables have.
pub const PV_INFO: u32 = 2;
/// Which pages hold the p2m.
pub const PV_P2M_FRAMES: u32 = 3;
/// A vcpu's context.
pub const PV_VCPU_BASIC: u32 = 4;
/// A vcpu's callbacks that are in no context.
pub const PV_VCPU_EXTENDED: u32 = 5;
/// A vcpu's extended registers.
pub const PV_VCPU_XSAVE: u32 = 6;
/// The shared info page.
pub const SHARED_INFO: u32 = 7;
/// How the guest has its time stamp counter.
pub const TSC_INFO: u32 = 8;
/// A vcpu's model-specific registers.
pub const PV_VCPU_MSRS: u32 = 0xc;
/// From now on contents are checked, not taken.
pub const VERIFY: u32 = 0xd;
/// The end of a checkpoint.
pub const CHECKPOINT: u32 = 0xe;
/// What does not change while the guest runs has been told.
pub const STATIC_DATA_END: u32 = 0x10;
/// What the guest sees of CPUID.
pub const CPUID_POLICY: u32 = 0x11;
/// What it sees of model-specific registers.
pub const MSR_POLICY: u32 = 0x12;

/// In a kind: who does not know it leaves the record out.
const OPTIONAL: u32 = 1 << 31;

/// Pages of one record of pages, at most.
pub const MAX_PAGES: usize = 1024;
/// Bytes of any other record, at most.
const MAX_BODY: u32 = 1 << 20;

/// Where a page's kind stands in its number.
pub const KIND_SHIFT: u32 = 60;
/// The kinds that say how a page is used: a table of the level, and pinned where the highest bit is set.
pub const KIND_LEVEL: u8 = 7;
/// A table that is pinned.
pub const KIND_PINNED: u8 = 8;
/// A page whose memory is broken.
pub const KIND_BROKEN: u8 = 0xd;
/// A page that is there, with contents that do not matter.
pub const KIND_ALLOCATED: u8 = 0xe;
/// No page.
pub const KIND_NONE: u8 = 0xf;

/// The head of the stream.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ImageHeader {
    marker: u64,
    id: big_endian::U32,
    version: big_endian::U32,
    options: big_endian::U16,
    _reserved: [u8; 6],
}

const MARKER: u64 = u64::MAX;
const ID: u32 = 0x5845_4e46;
const VERSION: u32 = 3;

/// What kind of domain it is, and who saved it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DomainHeader {
    kind: u32,
    page_shift: u16,
    _reserved: u16,
    xen_major: u32,
    xen_minor: u32,
}

const X86_PV: u32 = 1;
const PAGE_SHIFT: u16 = 12;

/// What stands before each record's body. Bodies are padded to multiples of 8 bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug)]
#[repr(C)]
pub struct RecordHeader {
    /// Which record.
    pub kind: u32,
    /// Bytes of its body.
    pub length: u32,
}

impl RecordHeader {
    /// Whether who does not know it leaves it out.
    pub const fn is_optional(&self) -> bool {
        self.kind & OPTIONAL != 0
    }
}

/// [`PV_INFO`]: words of 8 bytes, tables of four levels.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
#[repr(C)]
pub struct PvInfo {
    /// Bytes of a word.
    pub width: u8,
    /// Levels of tables.
    pub levels: u8,
    /// Zero.
    pub _reserved: [u8; 6],
}

/// The only kind of guest that there is here.
pub const PV_64_BIT: PvInfo = PvInfo { width: 8, levels: 4, _reserved: [0; 6] };

/// Puts a record down.
///
/// # Errors
/// As [`Sink::write`].
pub async fn write(sink: &mut impl Sink, kind: u32, parts: &[&[u8]]) -> Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    begin(sink, kind, length).await?;
    for part in parts {
        sink.write(part).await?;
    }
    let padding = [0; 8];
    sink.write(padding.get(..length.next_multiple_of(8) - length).unwrap_or_default()).await
}

/// Puts a record's header down; the body follows.
///
/// # Errors
/// As [`Sink::write`].
pub async fn begin(sink: &mut impl Sink, kind: u32, length: usize) -> Result<()> {
    sink.write(RecordHeader { kind, length: u32::try_from(length)? }.as_bytes()).await
}

/// Reads a record's body, without its padding.
///
/// # Errors
/// It is longer than any; as [`Source::read`].
pub async fn read_body(source: &mut impl Source, header: &RecordHeader) -> Result<Vec<u8>> {
    ensure!(header.length <= MAX_BODY, "a record of type {:#x} claims {} bytes", header.kind, header.length);
    let length = header.length as usize;
    let mut body = vec![0; length.next_multiple_of(8)];
    source.read(&mut body).await?;
    body.truncate(length);
    Ok(body)
}

/// Puts down the heads of a stream.
///
/// # Errors
/// As [`Sink::write`].
pub async fn write_heads(sink: &mut impl Sink, xen_version: (u32, u32)) -> Result<()> {
    let image =
        ImageHeader { marker: MARKER, id: ID.into(), version: VERSION.into(), options: 0.into(), _reserved: [0; 6] };
    let (xen_major, xen_minor) = xen_version;
    let domain = DomainHeader { kind: X86_PV, page_shift: PAGE_SHIFT, _reserved: 0, xen_major, xen_minor };
    sink.write(image.as_bytes()).await?;
    sink.write(domain.as_bytes()).await
}

/// Reads the heads of a stream, and returns the version of the Xen that put it down.
///
/// # Errors
/// It is no stream of a paravirtual guest, or one of another version.
pub async fn read_heads(source: &mut impl Source) -> Result<(u32, u32)> {
    let image: ImageHeader = read_one(source).await?;
    ensure!(image.marker == MARKER && image.id.get() == ID, "there is no stream of libxc's");
    let version = image.version.get();
    ensure!(version == VERSION, "its memory is in a stream of version {version}, and {VERSION} is known");
    ensure!(image.options.get() == 0, "its memory was saved in another byte order");
    let domain: DomainHeader = read_one(source).await?;
    ensure!(domain.kind == X86_PV, "it is no paravirtual guest (type {})", domain.kind);
    ensure!(domain.page_shift == PAGE_SHIFT, "its pages are not of 4 KiB");
    Ok((domain.xen_major, domain.xen_minor))
}

/// Whether a vcpu's extended registers, as the hypervisor tells them, are any: XCR0, and all that it ever was, stand in
/// front. Xen tells zeros of a vcpu that never set it, and takes none back.
pub fn is_any(state: &[u8]) -> bool {
    state.iter().take(16).any(|byte| *byte != 0)
}

/// Whether a page of this kind has contents in the stream.
///
/// # Errors
/// There is no such kind.
pub fn has_contents(kind: u8) -> Result<bool> {
    match kind {
        KIND_BROKEN | KIND_ALLOCATED | KIND_NONE => Ok(false),
        0 => Ok(true),
        _ => {
            ensure!((1..=4).contains(&(kind & KIND_LEVEL)), "a page is of kind {kind}, which there is not");
            Ok(true)
        }
    }
}

/// Reads which pages a record of pages has: each one's number and kind.
///
/// # Errors
/// The record's length is not that of its pages, or a kind is none.
pub async fn read_pages(source: &mut impl Source, header: &RecordHeader) -> Result<Vec<(Pfn, u8)>> {
    let [count, _]: [u32; 2] = read_one(source).await?;
    ensure!(count != 0 && count as usize <= MAX_PAGES, "a record has {count} pages, and {MAX_PAGES} are the most");
    let mut words = vec![0_u64; count as usize];
    source.read(words.as_mut_bytes()).await?;
    let split = |word: u64| (Pfn::new(word & !(u64::MAX << KIND_SHIFT)), (word >> KIND_SHIFT) as u8);
    let pages: Vec<(Pfn, u8)> = words.into_iter().map(split).collect();
    let mut full = 0;
    for (_, kind) in &pages {
        full += usize::from(has_contents(*kind)?);
    }
    let length = 8 + 8 * pages.len() + 4096 * full;
    ensure!(header.length as usize == length, "a record of {count} pages has {} bytes", header.length);
    Ok(pages)
}
