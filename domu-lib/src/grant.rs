//! Grants: pages of ours that another domain may use, and pages of others that we use.
//!
//! A [`Grant`] owns its page: neither the page nor the reference is used again before the other domain has let go.
//! After a restore ([`suspend`](crate::suspend)) it is offered to nobody, as another domain may have the old one's
//! number.
//!
//! # Example
//!
//! ```
//! use core::sync::atomic::Ordering;
//!
//! use oxen_domu_lib::grant::{Access, Grant, GrantError};
//! use oxen_domu_lib::{DomId, println};
//!
//! /// Lends domain 2 a page, and takes it back.
//! fn lend() -> Result<(), GrantError> {
//!     let grant = Grant::zeroed(DomId(2), Access::ReadWrite)?;
//!     println!("map the grant {}", grant.reference());
//!     grant.page().words64()[0].store(1, Ordering::Release);
//!     match grant.end() {
//!         Ok(page) => println!("page {:?} is ours again", page.pfn()),
//!         Err(_) => println!("it is mapped still"),
//!     }
//!     Ok(())
//! }
//! ```

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, Ordering};

use oxen_abi::domid::DomId;
use oxen_abi::grant_table::{self as abi, GrantFlags};
use static_assertions::assert_not_impl_any;

pub use crate::raw::memory::grant::{Copy, CopyPlace, GrantError, GrantMapping, copy};
pub use crate::raw::memory::words::{Access, Words};

use crate::lives::restores;
use crate::memory::map::Mapping;
use crate::memory::{Mfn, PAGE_SIZE, Page};
use crate::raw::local::local;
use crate::raw::memory::grant::table_frames;

/// Entries of one frame of the table.
const PER_FRAME: usize = PAGE_SIZE / size_of::<abi::GrantEntryV1>();
/// Frames that the table may grow to here; the hypervisor's limit may be lower.
const MAX_FRAMES: usize = 64;

/// Dropped grants that are looked at again whenever one is made.
const RECLAIM: usize = 8;

#[derive(Default)]
struct Table {
    frames: Vec<Mapping>,
    free: Vec<u32>,
    /// Grants that were dropped while the other domain still used them.
    lingering: VecDeque<(u32, Page)>,
    /// Frames that the table has while it is mapped nowhere.
    unmapped: usize,
}

local!(static TABLE: RefCell<Table> = RefCell::new(Table::default()));

impl Table {
    /// The two words of an entry: flags and domain, frame.
    fn entry(&self, reference: u32) -> Option<(&AtomicU32, &AtomicU32)> {
        let reference = reference as usize;
        let words = self.frames.get(reference / PER_FRAME)?.page(0);
        let first = reference % PER_FRAME * 2;
        Some((words.get(first)?, words.get(first + 1)?))
    }

    /// Adds a frame of entries.
    fn grow(&mut self) -> Result<(), GrantError> {
        let count = self.frames.len() + 1;
        if count > MAX_FRAMES {
            return Err(GrantError::Status(abi::GNTST_NO_SPACE));
        }
        let mut frames = [Mfn::new(0); MAX_FRAMES];
        table_frames(count, &mut frames)?;
        let frame = frames.get(count - 1).copied().unwrap_or(Mfn::new(0));
        self.push(frame)?;
        let first = ((count - 1) * PER_FRAME) as u32;
        let references = first.max(abi::GNTTAB_NR_RESERVED_ENTRIES)..first + PER_FRAME as u32;
        self.free.extend(references.rev());
        Ok(())
    }

    fn push(&mut self, frame: Mfn) -> Result<(), GrantError> {
        self.frames.push(Mapping::of(DomId::SELF, &[frame], Access::ReadWrite)?);
        Ok(())
    }

    /// Maps what [`unmap`] took away: the same entries, or empty ones in a new domain.
    fn map(&mut self) -> Result<(), GrantError> {
        let count = core::mem::take(&mut self.unmapped);
        let mut frames = [Mfn::new(0); MAX_FRAMES];
        if count > 0 {
            table_frames(count, &mut frames)?;
        }
        frames.iter().take(count).try_for_each(|&frame| self.push(frame))
    }

    /// Lets a domain use a page.
    fn offer(&self, reference: u32, page: &Page, domain: DomId, access: Access) -> Result<(), GrantError> {
        let flags = match access {
            Access::ReadWrite => GrantFlags::PERMIT_ACCESS,
            Access::ReadOnly => GrantFlags::PERMIT_ACCESS | GrantFlags::READONLY,
        };
        let (head, frame) = self.entry(reference).ok_or(GrantError::Status(abi::GNTST_BAD_GNTREF))?;
        frame.store(page.mfn().raw() as u32, Ordering::SeqCst);
        // The flags last: they make the entry valid.
        head.store(u32::from(domain.0) << 16 | u32::from(flags.bits()), Ordering::SeqCst);
        Ok(())
    }

    fn take(&mut self) -> Result<u32, GrantError> {
        self.reclaim();
        if self.free.is_empty() {
            self.grow()?;
        }
        self.free.pop().ok_or(GrantError::Status(abi::GNTST_NO_SPACE))
    }

    /// Ends access; fails while the other domain has the page mapped.
    fn end(&self, reference: u32) -> bool {
        let Some((head, _)) = self.entry(reference) else { return false };
        let in_use = u32::from(GrantFlags::IN_USE.bits());
        let mut seen = head.load(Ordering::SeqCst);
        while seen & in_use == 0 {
            match head.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Looks again at some of what was still in use.
    fn reclaim(&mut self) {
        for _ in 0..self.lingering.len().min(RECLAIM) {
            let Some((reference, page)) = self.lingering.pop_front() else { return };
            if self.end(reference) {
                self.free.push(reference);
            } else {
                self.lingering.push_back((reference, page));
            }
        }
    }
}

/// Maps the table nowhere: its frames are the hypervisor's, and the domain is about to be saved.
pub(crate) fn unmap() {
    TABLE.with(|table| {
        let mut table = table.borrow_mut();
        table.unmapped = table.frames.len();
        table.frames.clear();
    });
}

/// Maps it again.
///
/// # Panics
/// When the hypervisor does not give a new domain the table that the old one had.
pub(crate) fn map() {
    let mapped = TABLE.with(|table| table.borrow_mut().map());
    assert!(mapped.is_ok(), "grant table: {mapped:?}");
}

/// A page of ours that another domain may use; access ends when dropped.
#[derive(Debug)]
pub struct Grant {
    reference: u32,
    access: Access,
    /// Who may use it, and how often the guest had been restored when that was said.
    offered: Cell<(DomId, u64)>,
    /// There until the grant ends.
    page: Option<Page>,
}

impl Grant {
    /// Lets `domain` use `page`.
    ///
    /// # Errors
    /// When the grant table is full and cannot grow.
    pub fn new(page: Page, domain: DomId, access: Access) -> Result<Self, GrantError> {
        let reference = TABLE.with(|table| {
            let mut table = table.borrow_mut();
            let reference = table.take()?;
            table.offer(reference, &page, domain, access).map(|()| reference)
        })?;
        Ok(Self { reference, access, offered: Cell::new((domain, restores())), page: Some(page) })
    }

    /// Lets `domain` use the page, whoever was to use it before; nothing changes where that is `domain` already. After
    /// a restore nobody is until this is called.
    ///
    /// # Errors
    /// Where the other domain of before uses the page still.
    pub fn offer(&self, domain: DomId) -> Result<(), GrantError> {
        let (now, restores) = (self.offered.get(), restores());
        if now == (domain, restores) {
            return Ok(());
        }
        TABLE.with(|table| {
            let table = table.borrow();
            if !table.end(self.reference) {
                return Err(GrantError::Status(abi::GNTST_EAGAIN));
            }
            table.offer(self.reference, self.page(), domain, self.access)
        })?;
        self.offered.set((domain, restores));
        Ok(())
    }

    /// A new page, all zero, that nobody may use before it is offered to somebody ([`Grant::offer`]).
    ///
    /// # Errors
    /// As for [`Grant::new`], and without memory.
    pub fn withheld(access: Access) -> Result<Self, GrantError> {
        let page = Page::zeroed().ok_or(GrantError::Call(oxen_abi::errno::Errno::NoMem))?;
        let reference = TABLE.with(|table| table.borrow_mut().take())?;
        Ok(Self { reference, access, offered: Cell::new((DomId::INVALID, restores())), page: Some(page) })
    }

    /// Lets `domain` use a new page, all zero.
    ///
    /// # Errors
    /// As for [`Grant::new`], and without memory.
    pub fn zeroed(domain: DomId, access: Access) -> Result<Self, GrantError> {
        let page = Page::zeroed().ok_or(GrantError::Call(oxen_abi::errno::Errno::NoMem))?;
        Self::new(page, domain, access)
    }

    /// What the other domain is told.
    pub const fn reference(&self) -> u32 {
        self.reference
    }

    /// The page.
    #[expect(clippy::expect_used, reason = "the page leaves when the grant ends, and the grant with it")]
    pub fn page(&self) -> &Page {
        self.page.as_ref().expect("a grant has its page until it ends")
    }

    /// Ends access and gives the page back; not while the other domain uses it.
    ///
    /// # Errors
    /// The grant, when it is in use.
    pub fn end(mut self) -> Result<Page, Self> {
        let ended = TABLE.with(|table| table.borrow().end(self.reference));
        match self.page.take() {
            Some(page) if ended => {
                TABLE.with(|table| table.borrow_mut().free.push(self.reference));
                Ok(page)
            }
            page => {
                self.page = page;
                Err(self)
            }
        }
    }
}

// A page is granted once: what is granted goes back to one owner.
assert_not_impl_any!(Grant: Clone);

impl Drop for Grant {
    fn drop(&mut self) {
        let Some(page) = self.page.take() else { return };
        TABLE.with(|table| {
            let mut table = table.borrow_mut();
            if table.end(self.reference) {
                table.free.push(self.reference);
            } else {
                table.lingering.push_back((self.reference, page));
            }
        });
    }
}
