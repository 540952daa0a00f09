//! A split virtqueue: chains of buffers given to a device and taken back.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use oxen_domu_lib::memory::Page;

/// Memory that the device reaches too.
pub trait Dma {
    /// The page in words of 32 bits.
    fn words(&self) -> &[AtomicU32];
    /// Where the device finds it.
    fn address(&self) -> u64;
}

impl Dma for Page {
    fn words(&self) -> &[AtomicU32] {
        self.words32()
    }

    fn address(&self) -> u64 {
        self.mfn().address()
    }
}

/// The most descriptors: as many as a page holds.
pub const MOST: u16 = 256;

const NEXT: u32 = 1;
const DEVICE_WRITES: u32 = 2;
/// In the lower half of word 0 of either index page: no interrupt is wanted, or no notice.
const QUIET: u32 = 1;

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Machine address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// The device writes it, or else reads it.
    pub device_writes: bool,
}

/// A chain that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The head by which it was offered.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub written: u32,
}

/// A queue of `size` descriptors in three pages.
#[derive(Debug)]
pub struct VirtQueue<M> {
    size: u16,
    /// Descriptors, 16 bytes each.
    pub descriptors: M,
    /// What the driver offers: index in the upper half of word 0, then heads, 16 bits each.
    pub available: M,
    /// What the device has done: index in the upper half of word 0, then pairs of head and length.
    pub used: M,
    free: Vec<u16>,
    /// Descriptors of the one chain that always finds room.
    reserved: Vec<u16>,
    chains: Vec<Vec<u16>>,
    offered: u16,
    taken: u16,
    quiet: bool,
}

impl<M: Dma> VirtQueue<M> {
    /// An empty queue; `size` is a power of two up to [`MOST`].
    pub fn new(size: u16, descriptors: M, available: M, used: M) -> Self {
        let size = size.min(MOST);
        Self {
            size,
            descriptors,
            available,
            used,
            free: (0..size).rev().collect(),
            reserved: Vec::new(),
            chains: (0..size).map(|_| Vec::new()).collect(),
            offered: 0,
            taken: 0,
            quiet: false,
        }
    }

    /// Descriptors that are free.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Sets descriptors aside for [`Self::offer_reserved`], if there are as many.
    pub fn reserve(&mut self, descriptors: usize) {
        if let Some(left) = self.free.len().checked_sub(descriptors) {
            self.reserved = self.free.split_off(left);
        }
    }

    /// The descriptor that the chain from what was set aside starts with.
    pub fn reserved_head(&self) -> Option<u16> {
        self.reserved.first().copied()
    }

    /// Chains that the device has.
    pub fn outstanding(&self) -> u16 {
        self.offered.wrapping_sub(self.taken)
    }

    fn put(page: &M, word: usize, value: u32) {
        if let Some(cell) = page.words().get(word) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    fn get(page: &M, word: usize) -> u32 {
        page.words().get(word).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// The descriptor that the next chain will start with.
    pub fn next_head(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Offers a chain; `None` if there is no room for it. Its head names it until it comes back.
    pub fn offer(&mut self, chain: &[Buffer]) -> Option<u16> {
        if chain.is_empty() || chain.len() > self.free.len() {
            return None;
        }
        let mut taken = self.free.split_off(self.free.len() - chain.len());
        taken.reverse();
        self.give(taken, chain)
    }

    /// Offers a chain of just as many buffers as were set aside, once, without the heap.
    pub fn offer_reserved(&mut self, chain: &[Buffer]) -> Option<u16> {
        if chain.is_empty() || chain.len() != self.reserved.len() {
            return None;
        }
        let taken = core::mem::take(&mut self.reserved);
        self.give(taken, chain)
    }

    /// Offers a chain in these descriptors.
    fn give(&mut self, taken: Vec<u16>, chain: &[Buffer]) -> Option<u16> {
        for (i, (buffer, &index)) in chain.iter().zip(&taken).enumerate() {
            let next = taken.get(i + 1).copied();
            let at = usize::from(index) * 4;
            let [low, high] = [buffer.address & 0xffff_ffff, buffer.address >> 32].map(|half| half as u32);
            let flags = if buffer.device_writes { DEVICE_WRITES } else { 0 } | if next.is_some() { NEXT } else { 0 };
            Self::put(&self.descriptors, at, low);
            Self::put(&self.descriptors, at + 1, high);
            Self::put(&self.descriptors, at + 2, buffer.length);
            Self::put(&self.descriptors, at + 3, flags | u32::from(next.unwrap_or(0)) << 16);
        }
        let head = *taken.first()?;
        *self.chains.get_mut(usize::from(head))? = taken;
        let slot = usize::from(self.offered & (self.size - 1));
        let (word, shift) = (1 + slot / 2, slot % 2 * 16);
        let kept = Self::get(&self.available, word) & !(0xffff << shift);
        Self::put(&self.available, word, kept | u32::from(head) << shift);
        self.offered = self.offered.wrapping_add(1);
        // The device must see the chain before the index.
        fence(Ordering::SeqCst);
        self.publish();
        Some(head)
    }

    /// Says how far chains are offered, and whether the device shall interrupt.
    fn publish(&self) {
        Self::put(&self.available, 0, u32::from(self.offered) << 16 | if self.quiet { QUIET } else { 0 });
        fence(Ordering::SeqCst);
    }

    /// Asks the device not to interrupt when chains are done, or to do so again. What came back before the device knew
    /// must be looked for once more.
    pub fn be_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
        self.publish();
    }

    /// Whether the device wants to be told of new chains.
    pub fn wants_notice(&self) -> bool {
        Self::get(&self.used, 0) & QUIET == 0
    }

    /// Takes back the next chain that the device is done with; passes over heads that were never offered.
    pub fn take_used(&mut self) -> Option<Used> {
        while Self::get(&self.used, 0) >> 16 != u32::from(self.taken) {
            fence(Ordering::SeqCst);
            let slot = 1 + usize::from(self.taken & (self.size - 1)) * 2;
            self.taken = self.taken.wrapping_add(1);
            let (head, written) = (Self::get(&self.used, slot), Self::get(&self.used, slot + 1));
            let Ok(head) = u16::try_from(head) else { continue };
            let Some(chain) = self.chains.get_mut(usize::from(head)).map(core::mem::take) else { continue };
            self.free.extend(chain.iter().rev());
            if !chain.is_empty() {
                return Some(Used { head, written });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fake(Vec<AtomicU32>);

    impl Dma for Fake {
        fn words(&self) -> &[AtomicU32] {
            &self.0
        }

        fn address(&self) -> u64 {
            0
        }
    }

    fn page() -> Fake {
        Fake((0..1024).map(|_| AtomicU32::new(0)).collect())
    }

    fn queue(size: u16) -> VirtQueue<Fake> {
        VirtQueue::new(size, page(), page(), page())
    }

    fn buffer(address: u64) -> Buffer {
        Buffer { address, length: 512, device_writes: address % 2 == 1 }
    }

    /// Reads what was offered at position `index` as the device does.
    fn chain_at(queue: &VirtQueue<Fake>, index: u16) -> Vec<Buffer> {
        let slot = usize::from(index & (queue.size - 1));
        let mut at = (queue.available.0[1 + slot / 2].load(Ordering::Relaxed) >> (slot % 2 * 16) & 0xffff) as usize;
        let mut out = Vec::new();
        loop {
            let word = |i: usize| queue.descriptors.0[at * 4 + i].load(Ordering::Relaxed);
            out.push(Buffer {
                address: u64::from(word(1)) << 32 | u64::from(word(0)),
                length: word(2),
                device_writes: word(3) & DEVICE_WRITES != 0,
            });
            if word(3) & NEXT == 0 {
                return out;
            }
            at = (word(3) >> 16) as usize;
        }
    }

    #[test]
    fn a_queue_without_room_takes_nothing() {
        let mut queue = queue(4);
        assert!(queue.offer(&[buffer(1); 5]).is_none() && queue.offer(&[]).is_none());
        assert!(queue.offer(&[buffer(1); 4]).is_some() && queue.offer(&[buffer(1)]).is_none());
        assert_eq!(queue.take_used(), None);
    }

    #[test]
    fn heads_that_were_never_offered_are_passed_over() {
        let mut queue = queue(4);
        let head = queue.offer(&[buffer(1); 2]).unwrap();
        for (slot, said) in [9, u32::MAX, u32::from(head), u32::from(head)].into_iter().enumerate() {
            queue.used.0[1 + slot * 2].store(said, Ordering::Relaxed);
        }
        queue.used.0[0].store(4 << 16, Ordering::Relaxed);
        assert_eq!(queue.take_used(), Some(Used { head, written: 0 }));
        assert_eq!((queue.take_used(), queue.room()), (None, 4));
    }

    #[test]
    fn a_wish_for_quiet_lasts_until_it_is_taken_back() {
        let mut queue = queue(4);
        let wish = |queue: &VirtQueue<Fake>| queue.available.0[0].load(Ordering::Relaxed);
        queue.be_quiet(true);
        queue.offer(&[buffer(1)]).unwrap();
        assert_eq!(wish(&queue), 1 << 16 | QUIET);
        queue.be_quiet(false);
        assert_eq!(wish(&queue), 1 << 16);
    }

    proptest! {
        #[test]
        fn chains_arrive_whole_and_come_back_once(
            steps in proptest::collection::vec((1usize..5, any::<bool>()), 1..200)
        ) {
            let mut queue = queue(16);
            let (mut offered, mut done, mut outstanding) = (0u16, 0u16, Vec::new());
            for (length, complete) in steps {
                let chain: Vec<Buffer> = (0..length).map(|i| buffer(u64::from(offered) << 33 | i as u64)).collect();
                let expected = queue.next_head();
                if let Some(head) = queue.offer(&chain) {
                    prop_assert_eq!(Some(head), expected);
                    prop_assert_eq!(chain_at(&queue, offered), chain);
                    prop_assert!(!outstanding.contains(&head));
                    outstanding.push(head);
                    offered = offered.wrapping_add(1);
                }
                if complete && !outstanding.is_empty() {
                    let head = outstanding.remove(outstanding.len() / 2);
                    let slot = usize::from(done & 15);
                    queue.used.0[1 + slot * 2].store(head.into(), Ordering::Relaxed);
                    done = done.wrapping_add(1);
                    queue.used.0[2 + slot * 2].store(done.into(), Ordering::Relaxed);
                    queue.used.0[0].store(u32::from(done) << 16, Ordering::Relaxed);
                    prop_assert_eq!(queue.take_used(), Some(Used { head, written: done.into() }));
                    prop_assert_eq!(queue.take_used(), None);
                }
            }
        }
    }

    #[test]
    fn a_chain_that_was_set_aside_finds_room_when_there_is_none() {
        let mut queue = queue(8);
        queue.reserve(2);
        assert_eq!(queue.room(), 6);
        while queue.offer(&[buffer(2)]).is_some() {}
        assert_eq!((queue.room(), queue.outstanding()), (0, 6));
        let head = queue.reserved_head().unwrap();
        assert_eq!(queue.offer_reserved(&[buffer(4)]), None, "as many buffers as were set aside");
        let last = [buffer(4), buffer(5)];
        assert_eq!(queue.offer_reserved(&last), Some(head));
        assert_eq!(chain_at(&queue, 6), last);
        assert_eq!(queue.offer_reserved(&last), None, "once");
        assert_eq!(queue.outstanding(), 7);
    }
}
