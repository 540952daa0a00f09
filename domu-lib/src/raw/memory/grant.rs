//! Grant operations: the hypercall, grants of other domains mapped into windows, copies by grant.

use core::marker::PhantomData;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::grant_table::{self as abi, CopyFlags, MapFlags};
use oxen_abi::hypercall::Hypercall;
use oxen_abi::memory::{AddToPhysmap, XENMAPSPACE_GRANT_TABLE, XENMEM_ADD_TO_PHYSMAP};
use static_assertions::{assert_eq_size, assert_not_impl_any};
use zerocopy::FromZeros;

use super::foreign::Foreign;
use super::page::Page;
use super::tables;
use super::view;
use super::words::{Access, Words};
use crate::pages::ranges::Range;
use crate::pages::{Mfn, PAGE_SIZE, layout, p2m};
use crate::raw::hypercall::{call2, call3};

/// Operations that go to the hypervisor at a time.
const BATCH: usize = 32;

/// Why a grant could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// The call as a whole was refused.
    Call(Errno),
    /// One operation was refused, with a status of `GNTST_*`.
    Status(i16),
}

impl From<Errno> for GrantError {
    fn from(errno: Errno) -> Self {
        Self::Call(errno)
    }
}

impl core::error::Error for GrantError {}

impl core::fmt::Display for GrantError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = match *self {
            Self::Call(errno) => return write!(f, "grant call: {errno}"),
            Self::Status(abi::GNTST_BAD_DOMAIN) => "no such domain",
            Self::Status(abi::GNTST_BAD_GNTREF) => "no such grant",
            Self::Status(abi::GNTST_BAD_HANDLE) => "no such handle",
            Self::Status(abi::GNTST_BAD_VIRT_ADDR) => "bad address",
            Self::Status(abi::GNTST_PERMISSION_DENIED) => "not granted so",
            Self::Status(abi::GNTST_BAD_PAGE) => "the granter does not own the page",
            Self::Status(abi::GNTST_BAD_COPY_ARG) => "a copy that crosses a page",
            Self::Status(abi::GNTST_EAGAIN) => "try again",
            Self::Status(abi::GNTST_NO_SPACE | abi::GNTST_NO_DEVICE_SPACE) => "no room",
            Self::Status(status) => return write!(f, "grant status {status}"),
        };
        f.write_str(text)
    }
}

/// Issues a grant operation over `list`.
///
/// # Safety
/// What the operations map or copy must not break this program's memory.
pub(crate) unsafe fn call<T>(command: u32, list: &mut [T]) -> Result<(), Errno> {
    // SAFETY: the list is ours for the call; its effects are the caller's.
    let result = unsafe {
        call3::<{ Hypercall::GrantTableOp as u32 }>(command.into(), list.as_mut_ptr() as u64, list.len() as u64)
    };
    Errno::check(result).map(|_| ())
}

const fn status(status: i16) -> Result<(), GrantError> {
    if status == abi::GNTST_OKAY { Ok(()) } else { Err(GrantError::Status(status)) }
}

/// The frames of this domain's grant table, which is made `count` frames long.
///
/// # Errors
/// What the hypervisor refuses: more frames than the domain may have.
pub(crate) fn table_frames(count: usize, frames: &mut [Mfn]) -> Result<(), GrantError> {
    assert!(frames.len() >= count);
    if view::is_translated() {
        place_table(count)?;
    }
    let mut setup = [abi::GnttabSetupTable {
        dom: DomId::SELF,
        nr_frames: count as u32,
        frame_list: frames.as_mut_ptr() as u64,
        ..abi::GnttabSetupTable::new_zeroed()
    }];
    // SAFETY: the list has room for as many frame numbers as are asked for, and an `Mfn` is one.
    unsafe { call(abi::GNTTABOP_SETUP_TABLE, &mut setup) }?;
    status(setup[0].status)
}

/// Puts the frames of the table behind `shared_info` in this guest's memory, where its builder left room.
fn place_table(count: usize) -> Result<(), GrantError> {
    let first = view::end_of_memory() + 1;
    for index in 0..count as u64 {
        let request = AddToPhysmap {
            domid: DomId::SELF,
            size: 0,
            space: XENMAPSPACE_GRANT_TABLE,
            idx: index,
            gpfn: first + index,
        };
        // SAFETY: nothing of this guest's is at these numbers.
        Errno::check(unsafe {
            call2::<{ Hypercall::MemoryOp as u32 }>(XENMEM_ADD_TO_PHYSMAP.into(), (&raw const request) as u64)
        })?;
    }
    Ok(())
}

/// One mapped grant.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    handle: u32,
    machine: u64,
}

/// Pages that another domain granted, mapped one behind the other; unmapped when dropped.
#[derive(Debug)]
pub struct GrantMapping {
    range: Option<Range>,
    mapped: alloc::vec::Vec<Mapped>,
    foreign: Option<Foreign>,
}

impl GrantMapping {
    /// Maps what `domain` granted by `references`.
    ///
    /// # Errors
    /// The first refusal; nothing stays mapped then.
    pub fn map(domain: DomId, references: &[u32], access: Access) -> Result<Self, GrantError> {
        let range = Range::take(references.len())?;
        let start = range.address();
        let mapped = alloc::vec::Vec::with_capacity(references.len());
        let mut mapping = Self { range: Some(range), mapped, foreign: Some(Foreign::new()) };
        let flags = match access {
            Access::ReadWrite => MapFlags::HOST_MAP,
            Access::ReadOnly => MapFlags::HOST_MAP | MapFlags::READONLY,
        };
        for (chunk, references) in references.chunks(BATCH).enumerate() {
            let mut list = [abi::GnttabMapGrantRef::new_zeroed(); BATCH];
            let list = list.get_mut(..references.len()).unwrap_or_default();
            for (index, (op, &reference)) in list.iter_mut().zip(references).enumerate() {
                let host_addr = start + ((chunk * BATCH + index) * PAGE_SIZE) as u64;
                tables::ensure(host_addr)?;
                *op = abi::GnttabMapGrantRef {
                    host_addr,
                    flags: flags.bits(),
                    r#ref: reference,
                    dom: domain,
                    ..abi::GnttabMapGrantRef::new_zeroed()
                };
            }
            // SAFETY: the addresses are those of a range that nothing else uses.
            unsafe { call(abi::GNTTABOP_MAP_GRANT_REF, list) }?;
            mapping.record(list)?;
        }
        Ok(mapping)
    }

    /// Takes down what a batch did. Handles must stay in the order of the pages, so what stands behind a refusal is
    /// unmapped here.
    fn record(&mut self, list: &[abi::GnttabMapGrantRef]) -> Result<(), GrantError> {
        let good = list.iter().position(|op| op.status != abi::GNTST_OKAY).unwrap_or(list.len());
        let (done, rest) = list.split_at(good);
        self.mapped.extend(done.iter().map(|op| Mapped { handle: op.handle, machine: op.dev_bus_addr }));
        let Some(failed) = rest.first() else { return Ok(()) };
        for op in rest.iter().filter(|op| op.status == abi::GNTST_OKAY) {
            if !unmap(&mut [unmap_op(op.host_addr, op.handle)]) {
                self.abandon();
            }
        }
        status(failed.status)
    }

    /// The machine address of page `index`, for devices.
    pub fn machine_address(&self, index: usize) -> Option<u64> {
        self.mapped.get(index).map(|mapped| mapped.machine)
    }

    fn abandon(&mut self) {
        if let Some(range) = self.range.take() {
            range.abandon();
        }
        self.foreign.take().into_iter().for_each(Foreign::abandon);
    }
}

const fn unmap_op(host_addr: u64, handle: u32) -> abi::GnttabUnmapGrantRef {
    abi::GnttabUnmapGrantRef { host_addr, dev_bus_addr: 0, handle, status: 0, _pad0: 0 }
}

fn unmap(list: &mut [abi::GnttabUnmapGrantRef]) -> bool {
    // SAFETY: the callers hold no views of these windows any more.
    let result = unsafe { call(abi::GNTTABOP_UNMAP_GRANT_REF, list) };
    result.is_ok() && list.iter().all(|op| op.status == abi::GNTST_OKAY)
}

// SAFETY: the pages of the range are mapped one by one until `drop`.
unsafe impl Words for GrantMapping {
    fn address(&self) -> u64 {
        self.range.as_ref().map_or(0, Range::address)
    }

    fn pages(&self) -> usize {
        self.mapped.len()
    }
}

// A mapping that two values stood for would be taken away under one of them.
assert_not_impl_any!(GrantMapping: Clone);
// A `Copy` is the hypervisor's structure alone: lists of them are handed over as they are.
assert_eq_size!(Copy<'_>, abi::GnttabCopy);

impl Drop for GrantMapping {
    fn drop(&mut self) {
        let start = self.address();
        let mut failed = false;
        for (chunk, mapped) in self.mapped.chunks(BATCH).enumerate() {
            let mut list = [unmap_op(0, 0); BATCH];
            let list = list.get_mut(..mapped.len()).unwrap_or_default();
            for (index, (op, mapped)) in list.iter_mut().zip(mapped).enumerate() {
                *op = unmap_op(start + ((chunk * BATCH + index) * PAGE_SIZE) as u64, mapped.handle);
            }
            failed |= !unmap(list);
        }
        if failed {
            self.abandon();
        }
    }
}

/// One side of a copy.
#[derive(Clone, Copy, Debug)]
pub enum CopyPlace<'a> {
    /// A page that `domain` granted.
    Grant {
        /// Who granted it.
        domain: DomId,
        /// The grant.
        reference: u32,
        /// Byte within the page.
        offset: u16,
    },
    /// A page of ours.
    Own {
        /// The page.
        page: &'a Page,
        /// Byte within the page.
        offset: u16,
    },
}

impl CopyPlace<'_> {
    fn pointer(&self) -> (abi::GnttabCopyPtr, bool) {
        let (u, domid, offset) = match *self {
            Self::Grant { domain, reference, offset } => (u64::from(reference), domain, offset),
            Self::Own { page, offset } => (page.mfn().raw(), DomId::SELF, offset),
        };
        let is_grant = matches!(self, Self::Grant { .. });
        (abi::GnttabCopyPtr { u, domid, offset, _pad0: 0 }, is_grant)
    }
}

/// A copy that the hypervisor does: at most a page, within a page on both sides.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Copy<'a> {
    op: abi::GnttabCopy,
    pages: PhantomData<&'a Page>,
}

impl<'a> Copy<'a> {
    /// A copy of `length` bytes.
    pub fn new(source: CopyPlace<'a>, destination: CopyPlace<'a>, length: u16) -> Self {
        let (source, from_grant) = source.pointer();
        let (dest, to_grant) = destination.pointer();
        let mut flags = CopyFlags::empty();
        flags.set(CopyFlags::SOURCE_GREF, from_grant);
        flags.set(CopyFlags::DEST_GREF, to_grant);
        Self::of(source, dest, length, flags)
    }

    /// Copies that fetch what `domain` granted by `reference`, from its byte `offset` on, into memory of ours: one for
    /// each page of ours.
    pub fn fetch(list: &mut alloc::vec::Vec<Self>, (domain, reference, offset): (DomId, u32, u16), into: &'a mut [u8]) {
        let pieces = page_pieces(into.as_ptr() as u64, into.len());
        list.extend(pieces.map(|(own, at, length)| {
            let source = granted((domain, reference, offset), at);
            Self::of(source, own, length, CopyFlags::SOURCE_GREF)
        }));
    }

    /// Copies that put memory of ours into what `domain` granted, from its byte `offset` on.
    pub fn put(list: &mut alloc::vec::Vec<Self>, from: &'a [u8], (domain, reference, offset): (DomId, u32, u16)) {
        let pieces = page_pieces(from.as_ptr() as u64, from.len());
        list.extend(pieces.map(|(own, at, length)| {
            let dest = granted((domain, reference, offset), at);
            Self::of(own, dest, length, CopyFlags::DEST_GREF)
        }));
    }

    const fn of(source: abi::GnttabCopyPtr, dest: abi::GnttabCopyPtr, len: u16, flags: CopyFlags) -> Self {
        Self { op: abi::GnttabCopy { source, dest, len, flags: flags.bits(), status: 0, _pad0: 0 }, pages: PhantomData }
    }

    /// How the copy ended.
    ///
    /// # Errors
    /// Why it was refused.
    pub const fn result(&self) -> Result<(), GrantError> {
        status(self.op.status)
    }
}

/// Byte `at` behind the first of a granted piece; what lies beyond any page is refused by the hypervisor.
fn granted((domid, reference, offset): (DomId, u32, u16), at: u16) -> abi::GnttabCopyPtr {
    abi::GnttabCopyPtr { u: reference.into(), domid, offset: offset.saturating_add(at), _pad0: 0 }
}

/// The frames behind `length` bytes of this program's memory: where each piece is, which byte of all it begins with,
/// and how long it is.
fn page_pieces(address: u64, length: usize) -> impl Iterator<Item = (abi::GnttabCopyPtr, u16, u16)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let now = address + done as u64;
        let within = now as usize % PAGE_SIZE;
        let piece = (PAGE_SIZE - within).min(length - done);
        let frame = p2m::mfn(layout::pfn_of(now)).unwrap_or(Mfn::INVALID).raw();
        let own = abi::GnttabCopyPtr { u: frame, domid: DomId::SELF, offset: within as u16, _pad0: 0 };
        let at = u16::try_from(done).unwrap_or(u16::MAX);
        done += piece;
        (piece != 0).then_some((own, at, piece as u16))
    })
}

/// Copies; each says by [`Copy::result`] how it ended.
///
/// # Errors
/// Where the call as a whole was refused.
pub fn copy(list: &mut [Copy<'_>]) -> Result<(), Errno> {
    // SAFETY: `Copy` is its operation alone; it writes to granted pages, to a `Page`, which is seen as atomics, or to
    // memory that it borrows from whoever made it.
    unsafe { call(abi::GNTTABOP_COPY, list) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_cut_where_pages_end() {
        let pieces = |address, length| {
            page_pieces(address, length).map(|(own, at, n)| (own.offset, at, n)).collect::<alloc::vec::Vec<_>>()
        };
        let base = layout::DIRECT_MAP;
        assert_eq!(pieces(base, 4096), [(0, 0, 4096)]);
        assert_eq!(pieces(base + 4095, 4096), [(4095, 0, 1), (0, 1, 4095)]);
        assert_eq!(pieces(base + 1, 8192), [(1, 0, 4095), (0, 4095, 4096), (0, 8191, 1)]);
        assert_eq!(pieces(base + 1, 0), []);
    }
}
