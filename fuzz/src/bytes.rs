//! Inputs taken piece by piece.

/// The input's next `N` bytes; zeros where it has ended.
pub(crate) fn take<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let (now, later) = input.split_at(N.min(input.len()));
    bytes.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
    *input = later;
    bytes
}
