//! What stands in front of a return address, for backtraces.

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
    use proptest::prelude::*;

    use super::ends_with_call;

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
        fn no_code_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            ends_with_call(&bytes);
        }
    }
}
