//! The names of the image's own functions, for backtraces.
//!
//! The linker script reserves the section `.symbols`, which `cargo xtask` fills after the link ([`oxen_abi::symbols`]).

use oxen_abi::symbols;
use oxen_hv::layout::IMAGE_START;

unsafe extern "C" {
    safe static symbols_start: u8;
    safe static symbols_end: u8;
    safe static image_start: u8;
    safe static text_end: u8;
    safe static build_id_start: u8;
    safe static build_id_end: u8;
}

fn section() -> &'static [u8] {
    let start = &raw const symbols_start;
    // SAFETY: the linker script reserves everything between the two marks, and nobody writes it after the link.
    unsafe { core::slice::from_raw_parts(start, &raw const symbols_end as usize - start as usize) }
}

/// Whether an address is one of the image's code.
pub(super) fn is_text(address: u64) -> bool {
    (&raw const image_start as u64..&raw const text_end as u64).contains(&address)
}

/// The function that holds an address, and how far into it the address is.
pub(super) fn find(address: u64) -> Option<(&'static str, u64)> {
    let distance = u32::try_from(address.checked_sub(IMAGE_START)?).ok()?;
    let (name, behind) = symbols::find(section(), distance)?;
    Some((name, behind.into()))
}

/// By what the linker knows this very image: the contents of its ELF note, behind three words and the name "GNU".
pub(super) fn build_id() -> &'static [u8] {
    let start = &raw const build_id_start;
    // SAFETY: the linker script keeps everything between the two marks, and nobody writes it.
    let note = unsafe { core::slice::from_raw_parts(start, &raw const build_id_end as usize - start as usize) };
    note.get(16..).unwrap_or_default()
}
