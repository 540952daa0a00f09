//! The names of the image's own functions, for backtraces.
//!
//! The linker script reserves the section `.symbols`; `cargo xtask` fills it after the link, all in little-endian `u32`s:
//! the number of functions; then for each, by rising address, its distance from the image's link address
//! (`0xffff82d080000000`) and where in the section its name begins; then the names, each ended by a zero byte. Left
//! empty, the number is 0 and addresses stay numbers.

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

fn word(section: &[u8], index: usize) -> Option<u32> {
    section.get(index * 4..index * 4 + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// Whether an address is one of the image's code.
pub(super) fn is_text(address: u64) -> bool {
    (&raw const image_start as u64..&raw const text_end as u64).contains(&address)
}

/// The function that holds an address, and how far into it the address is.
pub(super) fn find(address: u64) -> Option<(&'static str, u64)> {
    let section = section();
    let wanted = u32::try_from(address.checked_sub(IMAGE_START)?).ok()?;
    let count = word(section, 0)? as usize;
    let (mut below, mut above) = (0, count);
    while below < above {
        let middle = below.midpoint(above);
        if word(section, 1 + 2 * middle)? <= wanted { below = middle + 1 } else { above = middle }
    }
    let index = below.checked_sub(1)?;
    let name = section.get(word(section, 2 + 2 * index)? as usize..)?;
    let name = core::str::from_utf8(name.split(|&b| b == 0).next()?).ok()?;
    Some((name, u64::from(wanted - word(section, 1 + 2 * index)?)))
}

/// By what the linker knows this very image: the contents of its ELF note, behind three words and the name "GNU".
pub(super) fn build_id() -> &'static [u8] {
    let start = &raw const build_id_start;
    // SAFETY: the linker script keeps everything between the two marks, and nobody writes it.
    let note = unsafe { core::slice::from_raw_parts(start, &raw const build_id_end as usize - start as usize) };
    note.get(16..).unwrap_or_default()
}
