//! The names of an image's functions inside the image, so that a backtrace needs nothing from outside the machine: of
//! the hypervisor in the room that its linker script reserves for them, of a guest in a segment behind the image.
//!
//! What the table is, its reader says (`abi/src/symbols.rs`).

use anyhow::{Context, Result, ensure};

use crate::elf::{Elf, Function, PF_R, PT_LOAD, PT_NULL};

/// The section of the hypervisor's image that has room for the table.
const SECTION: &str = ".symbols";

/// The hypervisor's link address.
const LINK_ADDRESS: u64 = 0xffff_82d0_8000_0000;

/// Names are cut to this length where they do not all fit.
const SHORT: usize = 56;

/// The section of a guest's image that says where the table is: its address and its length (`domu-lib/guest.ld`).
const GUEST_SECTION: &str = ".oxen_symbols";
/// A guest's link address.
const GUEST_LINK_ADDRESS: u64 = 0xffff_ffff_8000_0000;
/// The longest name in a guest's table: its memory is small.
const GUEST_NAME: usize = 96;
/// Bytes of a page: segments begin on one.
const PAGE: usize = 4096;

/// Fills the section of an image.
///
/// # Errors
/// Fails when the image has no such section or no symbols, or the names do not fit.
pub fn fill(image: &mut [u8]) -> Result<()> {
    let elf = Elf::new(image)?;
    let section = elf.sections()?.into_iter().find(|s| s.name == SECTION);
    let section = section.with_context(|| format!("the image has no section {SECTION}"))?;
    let functions = elf.functions()?;
    let (offset, room) = (section.offset, section.size);
    let mut table = encode(&functions, LINK_ADDRESS, usize::MAX)?;
    if table.len() > room {
        table = encode(&functions, LINK_ADDRESS, SHORT)?;
    }
    ensure!(
        table.len() <= room,
        "{} functions' names take {} bytes, {SECTION} has room for {room}: enlarge it in hv/hv.ld",
        functions.len(),
        table.len()
    );
    let place = offset.checked_add(table.len()).and_then(|end| image.get_mut(offset..end));
    place.context("the section lies outside the image")?.copy_from_slice(&table);
    Ok(())
}

/// A guest's image without its sections; where it is linked by our script, with the names of its functions in a segment
/// of their own behind the others, which the header that the script keeps spare describes.
///
/// # Errors
/// Fails when the image is no ELF file, or a table of it lies outside the file.
pub fn append(image: &[u8]) -> Result<Vec<u8>> {
    let elf = Elf::new(image)?;
    let mut named = elf.without_sections()?;
    let place = elf.sections()?.into_iter().find(|section| section.name == GUEST_SECTION);
    let segments = elf.segments()?;
    let spare = segments.iter().find(|segment| segment.kind == PT_NULL);
    let (Some(place), Some(spare)) = (place, spare) else { return Ok(named) };
    // A stripped image keeps its sections and has no names.
    let Ok(functions) = elf.functions() else { return Ok(named) };
    let table = encode(&functions, GUEST_LINK_ADDRESS, GUEST_NAME)?;
    let loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD);
    let end = loaded.map(|segment| segment.address.saturating_add(segment.memory_size)).max().unwrap_or_default();
    let address = end.checked_next_multiple_of(PAGE as u64).context("the image reaches the end of memory")?;
    let physical = address.checked_sub(GUEST_LINK_ADDRESS).context("the image is linked elsewhere")?;
    named.resize(named.len().next_multiple_of(PAGE), 0);
    let (offset, length) = (named.len() as u64, table.len() as u64);
    named.extend_from_slice(&table);
    let kind = u64::from(PT_LOAD) | u64::from(PF_R) << 32;
    let header = [kind, offset, address, physical, length, length, PAGE as u64];
    for (at, words) in [(spare.header, &header[..]), (place.offset, &[address, length])] {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let range = at.checked_add(bytes.len()).and_then(|end| named.get_mut(at..end));
        range.context("the image has lost what it says of itself")?.copy_from_slice(&bytes);
    }
    Ok(named)
}

/// A kernel of a user's: [`append`] where it is one of ours that has its sections still, the file as it is otherwise.
#[must_use]
pub fn appended(kernel: Vec<u8>) -> Vec<u8> {
    let is_ours = |elf: Elf<'_>| Ok::<_, anyhow::Error>(elf.sections()?.iter().any(|s| s.name == GUEST_SECTION));
    if !Elf::new(&kernel).and_then(is_ours).unwrap_or(false) {
        return kernel;
    }
    append(&kernel).unwrap_or(kernel)
}

fn encode(functions: &[Function], link_address: u64, longest: usize) -> Result<Vec<u8>> {
    let functions: Vec<_> = functions.iter().filter(|f| f.address >= link_address).collect();
    let mut words = vec![u32::try_from(functions.len())?];
    let names_at = 4 * (1 + 2 * functions.len());
    let mut names = Vec::new();
    for function in functions {
        let name = format!("{:#}", rustc_demangle::demangle(&function.name));
        words.push(u32::try_from(function.address - link_address).context("a function lies outside the image")?);
        words.push(u32::try_from(names_at + names.len())?);
        // The end of a path tells more than its beginning.
        let skip = name.char_indices().map(|(at, _)| at).find(|at| name.len() - at <= longest).unwrap_or(0);
        names.extend_from_slice(name.get(skip..).unwrap_or_default().as_bytes());
        names.push(0);
    }
    let mut table: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    table.extend_from_slice(&names);
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::{Function, GUEST_LINK_ADDRESS, LINK_ADDRESS, append, appended, encode};
    use crate::elf::{Elf, PT_LOAD};

    #[test]
    fn the_table_names_each_function_by_its_distance() {
        let function = |distance, name: &str| Function { address: LINK_ADDRESS + distance, name: name.to_owned() };
        let low = Function { address: 0x20_0000, name: "boot_entry_physical".to_owned() };
        let table = encode(
            &[low, function(0x10, "main"), function(0x1234, "_ZN2hv5sched4pick17h0123456789abcdefE")],
            LINK_ADDRESS,
            100,
        )
        .unwrap();
        let word = |i: usize| u32::from_le_bytes(table[i * 4..i * 4 + 4].try_into().unwrap());
        assert_eq!([word(0), word(1), word(3)], [2, 0x10, 0x1234]);
        assert!(table[word(2) as usize..].starts_with(b"main\0"));
        assert_eq!(&table[word(4) as usize..], b"hv::sched::pick\0");
        let short = encode(&[function(0, "abcdef")], LINK_ADDRESS, 3).unwrap();
        assert!(short.ends_with(b"def\0"));
    }

    /// An image of one function, `f` at the link address: three program headers, then the place for the table's
    /// address, then what a loader does not read.
    fn guest() -> Vec<u8> {
        let (code, place, symbols, strings, names, sections) = (0x100_usize, 0x110, 0x120, 0x150, 0x160, 0x1a0);
        let mut image = vec![0_u8; sections + 5 * 64];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01");
        put(32, &64_u64.to_le_bytes());
        put(40, &(sections as u64).to_le_bytes());
        put(56, &2_u16.to_le_bytes());
        put(60, &5_u16.to_le_bytes());
        put(62, &4_u16.to_le_bytes());
        let load = [1_u64 | 5 << 32, code as u64, GUEST_LINK_ADDRESS, 0, 0x20, 0x1234];
        load.iter().enumerate().for_each(|(index, word)| put(64 + 8 * index, &word.to_le_bytes()));
        put(symbols + 24, &1_u32.to_le_bytes());
        put(symbols + 28, &[2]);
        put(symbols + 32, &GUEST_LINK_ADDRESS.to_le_bytes());
        put(strings, b"\0f\0");
        put(names, b"\0.oxen_symbols\0");
        for (index, name, kind, offset, size, link) in
            [(1, 1, 1, place, 16, 0), (2, 0, 2, symbols, 48, 3), (3, 0, 3, strings, 3, 0), (4, 0, 3, names, 15, 0)]
        {
            let at = sections + 64 * index;
            put(at, &u32::to_le_bytes(name));
            put(at + 4, &u32::to_le_bytes(kind));
            put(at + 24, &(offset as u64).to_le_bytes());
            put(at + 32, &u64::to_le_bytes(size));
            put(at + 40, &u32::to_le_bytes(link));
        }
        image
    }

    #[test]
    fn a_guests_table_is_a_segment_behind_its_image() {
        let named = append(&guest()).unwrap();
        let segments = Elf::new(&named).unwrap().segments().unwrap();
        let [_, names] = segments.as_slice() else { panic!("{segments:?}") };
        assert_eq!((names.kind, names.address, names.offset), (PT_LOAD, GUEST_LINK_ADDRESS + 0x2000, 0x1000));
        let table = &named[names.offset as usize..];
        assert_eq!(table, [&[1_u32, 0, 12].map(u32::to_le_bytes).concat()[..], b"f\0"].concat());
        let said: Vec<u8> = [names.address, table.len() as u64].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(named[0x110..0x120], said);
    }

    #[test]
    fn only_kernels_of_ours_are_changed() {
        assert_eq!(appended(guest()), append(&guest()).unwrap());
        let named = appended(guest());
        assert_eq!(appended(named.clone()), named, "it has its names");
        let mut foreign = guest();
        foreign[0x161] = b'x';
        assert_eq!(appended(foreign.clone()), foreign);
        for bytes in [&b"no kernel"[..], &guest()[..0x1a8]] {
            assert_eq!(appended(bytes.to_vec()), bytes);
        }
        let mut stripped = guest();
        stripped[0x1a0 + 2 * 64 + 4] = 3;
        assert_eq!(Elf::new(&append(&stripped).unwrap()).unwrap().segments().unwrap()[1].kind, 0);
    }
}
