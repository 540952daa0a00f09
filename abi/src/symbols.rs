//! The table of a program's own functions, for backtraces. It is no part of Xen's interface: the hypervisor and our
//! guests have it in one format, which `cargo xtask` writes.
//!
//! All is little-endian `u32`s: the number of functions; then for each, by rising address, its distance from the
//! program's link address and where in the table its name begins; then the names, each ended by a zero byte. In an
//! empty table the number is 0, and addresses stay numbers.

fn word(table: &[u8], index: usize) -> Option<u32> {
    let bytes = table.get(index.checked_mul(4)?..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// The function that holds what is `distance` bytes behind the link address, and how far into it that is.
#[must_use]
pub fn find(table: &[u8], distance: u32) -> Option<(&str, u32)> {
    let (mut below, mut above) = (0, word(table, 0)? as usize);
    while below < above {
        let middle = below.midpoint(above);
        if word(table, 1 + 2 * middle)? <= distance { below = middle + 1 } else { above = middle }
    }
    let index = below.checked_sub(1)?;
    let name = table.get(word(table, 2 + 2 * index)? as usize..)?;
    let name = core::str::from_utf8(name.split(|&byte| byte == 0).next()?).ok()?;
    Some((name, distance - word(table, 1 + 2 * index)?))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::find;

    /// `first` at 0x10, `second` at 0x20.
    fn table() -> Vec<u8> {
        let words = [2, 0x10, 20, 0x20, 26_u32];
        [&words.map(u32::to_le_bytes).concat()[..], b"first\0second\0"].concat()
    }

    #[test]
    fn an_address_is_named_by_the_function_before_it() {
        let table = table();
        assert_eq!(
            [0x0f, 0x10, 0x1f, 0x20, 0x999].map(|distance| find(&table, distance)),
            [None, Some(("first", 0)), Some(("first", 15)), Some(("second", 0)), Some(("second", 0x979)),]
        );
        assert_eq!(find(&[], 0x10), None);
    }

    #[test]
    fn no_table_is_too_strange() {
        for length in 0..table().len() {
            for (place, byte) in (0..length).flat_map(|place| [0, 1, 3, 0x7f, 0xff].map(|byte| (place, byte))) {
                let mut damaged = table();
                damaged.truncate(length);
                damaged[place] = byte;
                for distance in [0, 0x10, 0x21, u32::MAX] {
                    let _ = find(&damaged, distance);
                }
            }
        }
    }
}
