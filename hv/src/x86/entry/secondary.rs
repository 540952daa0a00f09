//! The first instructions of every CPU but the boot CPU: real mode, long mode on the hypervisor's own root, Rust.
//!
//! A CPU that starts finds them at a page below 1 MiB (Intel SDM vol. 3A, 9.4.3); they are copied there for that long.
//! `boot` assembles them, with what they share with the boot CPU's.

/// The page that CPUs start at: below 1 MiB, named by its number in the start-up interrupt.
pub(crate) const START_PAGE: u64 = 0x8000;

unsafe extern "C" {
    safe static trampoline_start: u8;
    safe static trampoline_end: u8;
}

/// The instructions, as they are copied.
pub(crate) fn trampoline() -> &'static [u8] {
    let start = &raw const trampoline_start;
    // SAFETY: constant bytes of the image, between two marks of one section.
    unsafe { core::slice::from_raw_parts(start, &raw const trampoline_end as usize - start as usize) }
}
