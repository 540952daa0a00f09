//! The names of a guest's own functions, for backtraces.
//!
//! `cargo xtask` appends them to the kernels that it boots, as a segment behind the image, and writes where it is into
//! the place that the linker script keeps for that. All is little-endian `u32`s: the number of functions; then for
//! each, by rising address, its distance from the link address and where in the table its name begins; then the names,
//! each ended by a zero byte. A kernel without them shows addresses, which `addr2line` and `nm` read.

fn word(table: &[u8], index: usize) -> Option<u32> {
    let bytes = table.get(index.checked_mul(4)?..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// The function that holds what is `distance` bytes behind the link address, and how far into it that is.
pub(crate) fn find(table: &[u8], distance: u32) -> Option<(&str, u32)> {
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

/// The longest instruction that calls without an immediate operand, in bytes, prefixes left out.
pub(crate) const MAX_CALL: usize = 7;

/// Whether `code` ends with a near call, as what stands in front of a return address does (Intel SDM, volume 2, CALL).
pub(crate) fn ends_with_call(code: &[u8]) -> bool {
    let at = |back: usize| code.len().checked_sub(back).and_then(|place| code.get(place)).copied();
    at(5) == Some(0xe8)
        || (2..=MAX_CALL).any(|length| at(length) == Some(0xff) && at(length - 1).and_then(indirect) == Some(length))
}

/// The bytes of an indirect call (`ff /2`) whose second byte this is.
const fn indirect(modrm: u8) -> Option<usize> {
    if modrm >> 3 & 7 != 2 {
        return None;
    }
    // A register; memory without a displacement, with one byte of it, with four; 4 announces a byte more of address.
    let more = if modrm & 7 == 4 { 1 } else { 0 };
    Some(match (modrm >> 6, modrm & 7) {
        (3, _) => 2,
        (0, 5) => 6,
        (0, _) => 2 + more,
        (1, _) => 3 + more,
        _ => 6 + more,
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::{ends_with_call, find};

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
    fn only_what_a_call_leaves_counts_as_a_return_address() {
        let calls: [&[u8]; 8] = [
            &[0x90, 0xe8, 1, 2, 3, 4],
            // call rax; call [rax]; call [rsp]; call [rip+d]; call [rax+d8]; call [rsp+d8]; call [rax+d32].
            &[0xff, 0xd0],
            &[0xff, 0x10],
            &[0xff, 0x14, 0x24],
            &[0xff, 0x15, 0, 0, 0, 0],
            &[0xff, 0x50, 8],
            &[0xff, 0x54, 0x24, 8],
            &[0xff, 0x90, 0, 1, 0, 0],
        ];
        assert!(calls.into_iter().all(ends_with_call));
        let others: [&[u8]; 6] =
            [&[], &[0xff], &[0xe8, 1, 2, 3], &[0xff, 0xe0], &[0xff, 0x15, 0, 0, 0], &[0xff, 0x14, 0x24, 0x90]];
        assert!(!others.into_iter().any(ends_with_call));
    }

    proptest! {
        #[test]
        fn no_table_is_too_strange(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), distance: u32) {
            find(&bytes, distance);
            bytes.splice(..bytes.len().min(4), 3_u32.to_le_bytes());
            find(&bytes, distance);
            ends_with_call(&bytes);
        }
    }
}
