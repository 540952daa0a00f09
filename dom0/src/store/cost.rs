//! How many bytes of dom0's heap things of the store take at most. What is charged is computed from lengths, not
//! measured: `tests/store_memory.rs` holds these bounds against what an allocator of the same kind gives out.

use core::mem::size_of;

/// Bytes that an allocation of `size` bytes takes: the allocator gives out whole units of 32 and keeps a word in each
/// piece.
pub(super) const fn block(size: usize) -> usize {
    if size == 0 { 0 } else { (size + size_of::<usize>()).next_multiple_of(32) }
}

/// A value of `size` bytes behind an `Rc`, with its two counts.
pub(super) const fn shared(size: usize) -> usize {
    block(2 * size_of::<usize>() + size)
}

/// Room of `count` elements in a vector that grows by doubling and has room for four at first.
pub(super) const fn grown<T>(count: usize) -> usize {
    if count == 0 { 0 } else { block(size_of::<T>() * if count < 2 { 4 } else { 2 * count }) }
}

/// A vertex of a B-tree that has others below: eleven entries, the way up, twelve ways down.
const fn vertex<K, V>() -> usize {
    let (keys, values) = ((11 * size_of::<K>()).next_multiple_of(8), (11 * size_of::<V>()).next_multiple_of(8));
    block(16 + keys + values + 12 * size_of::<usize>())
}

/// A map that is not empty, beside its entries' shares.
pub(super) const fn map<K, V>() -> usize {
    vertex::<K, V>()
}

/// One entry's share of a map: every vertex but the first holds five at least.
pub(super) const fn entry<K, V>() -> usize {
    vertex::<K, V>().div_ceil(5)
}
