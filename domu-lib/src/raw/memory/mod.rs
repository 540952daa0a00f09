//! Memory: page tables, pages as owned values, views of them as atomic words, address spaces, mappings, grants.

pub mod bytes;
pub(crate) mod event_pages;
pub(crate) mod foreign;
pub mod grant;
#[cfg(target_os = "none")]
pub(crate) mod heap;
pub mod mapping;
pub(crate) mod p2m_lists;
pub mod page;
pub(crate) mod reservation;
pub mod space;
pub mod tables;
pub(crate) mod view;
pub mod words;
