//! The names of the hypervisor's functions, written into the room that its linker script reserves for them, so that a
//! backtrace needs nothing from outside the machine.
//!
//! The section `.symbols`, in little-endian 32-bit words: the number of functions; for each, by rising address, its
//! distance from the image's link address and where in the section its name begins; then the names, each ended by a
//! zero byte.

use anyhow::{Context, Result, ensure};

use crate::elf::{Elf, Function};

/// The section's name.
const SECTION: &str = ".symbols";

/// The hypervisor's link address.
const LINK_ADDRESS: u64 = 0xffff_82d0_8000_0000;

/// Names are cut to this length where they do not all fit.
const SHORT: usize = 56;

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
    let mut table = encode(&functions, usize::MAX)?;
    if table.len() > room {
        table = encode(&functions, SHORT)?;
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

fn encode(functions: &[Function], longest: usize) -> Result<Vec<u8>> {
    let functions: Vec<_> = functions.iter().filter(|f| f.address >= LINK_ADDRESS).collect();
    let mut words = vec![u32::try_from(functions.len())?];
    let names_at = 4 * (1 + 2 * functions.len());
    let mut names = Vec::new();
    for function in functions {
        let name = format!("{:#}", rustc_demangle::demangle(&function.name));
        words.push(u32::try_from(function.address - LINK_ADDRESS).context("a function lies outside the image")?);
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
    use super::{Function, LINK_ADDRESS, encode};

    #[test]
    fn the_table_names_each_function_by_its_distance() {
        let function = |distance, name: &str| Function { address: LINK_ADDRESS + distance, name: name.to_owned() };
        let low = Function { address: 0x20_0000, name: "boot_entry_physical".to_owned() };
        let table =
            encode(&[low, function(0x10, "main"), function(0x1234, "_ZN2hv5sched4pick17h0123456789abcdefE")], 100)
                .unwrap();
        let word = |i: usize| u32::from_le_bytes(table[i * 4..i * 4 + 4].try_into().unwrap());
        assert_eq!([word(0), word(1), word(3)], [2, 0x10, 0x1234]);
        assert!(table[word(2) as usize..].starts_with(b"main\0"));
        assert_eq!(&table[word(4) as usize..], b"hv::sched::pick\0");
        let short = encode(&[function(0, "abcdef")], 3).unwrap();
        assert!(short.ends_with(b"def\0"));
    }
}
