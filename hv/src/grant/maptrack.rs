//! The mappings of others' grants that a domain holds, by handle.

use super::entry::Access;
use crate::{
    addr::Mfn,
    config::{MAPPINGS_PER_FRAME, MAX_MAPTRACK_FRAMES},
    heap::{self, Reserve},
};
use alloc::boxed::Box;
use oxen_abi::{errno::Errno, grant_table::MapFlags};

/// One mapping: frame 0..32, the granter's slot 32..40, the reference 40..55, flags 56..61. A handle that is not in use
/// holds the next such handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Track(u64);

const SLOT_SHIFT: u32 = 32;
const REF_SHIFT: u32 = 40;
const REF: u64 = 0x7fff;
const FLAGS_SHIFT: u32 = 56;
const FLAGS: u64 = MapFlags::GUEST_AVAIL.complement().bits() as u64;
const _: () = assert!(FLAGS == 0x1f);
/// Somebody is making or ending the mapping.
const BUSY: u64 = 1 << 62;
const FREE: u64 = 1 << 63;
const NIL: u32 = u32::MAX;

impl Track {
    #[inline]
    pub(crate) const fn new(frame: Mfn, slot: u8, reference: u32, flags: MapFlags) -> Self {
        Self(
            frame.raw()
                | (slot as u64) << SLOT_SHIFT
                | (reference as u64 & REF) << REF_SHIFT
                | (flags.bits() as u64 & FLAGS) << FLAGS_SHIFT,
        )
    }

    #[inline]
    pub(crate) const fn frame(self) -> Option<Mfn> {
        Mfn::new(self.0 & u32::MAX as u64)
    }

    #[inline]
    pub(crate) const fn slot(self) -> u8 {
        (self.0 >> SLOT_SHIFT) as u8
    }

    #[inline]
    pub(crate) const fn reference(self) -> u32 {
        (self.0 >> REF_SHIFT & REF) as u32
    }

    /// How the frame is mapped, as far as it still is; the guest's own bits of the entry are not kept.
    #[inline]
    pub(crate) const fn flags(self) -> MapFlags {
        MapFlags::from_bits_retain((self.0 >> FLAGS_SHIFT & FLAGS) as u32)
    }

    #[inline]
    pub(crate) const fn access(self) -> Access {
        if self.flags().contains(MapFlags::READONLY) { Access::Read } else { Access::Write }
    }

    #[inline]
    pub(crate) const fn is_busy(self) -> bool {
        self.0 & BUSY != 0
    }

    #[inline]
    pub(crate) const fn busy(self, is_busy: bool) -> Self {
        Self(if is_busy { self.0 | BUSY } else { self.0 & !BUSY })
    }

    /// The mapping without these of its flags.
    #[inline]
    pub(crate) const fn without(self, flags: MapFlags) -> Self {
        Self(self.0 & !((flags.bits() as u64 & FLAGS) << FLAGS_SHIFT))
    }

    /// Whether the frame is still mapped, for the processor or for devices.
    #[inline]
    pub(crate) const fn is_mapped(self) -> bool {
        self.flags().intersects(MapFlags::HOST_MAP.union(MapFlags::DEVICE_MAP))
    }
}

/// Handles that are made at once: so many that the pointers to all that there can be do not
/// weigh on a domain without any.
const CHUNK: usize = 1024;
const CHUNKS: usize = MAX_MAPTRACK_FRAMES * MAPPINGS_PER_FRAME / CHUNK;
type Chunk = Box<[u64; CHUNK]>;

/// Handles that are not in use. Apart, because they are built on the stack, and that is large.
#[cold]
#[inline(never)]
fn free_chunk(machine: &impl Reserve) -> Result<Chunk, Errno> {
    heap::own(machine, [FREE; CHUNK])
}

/// The handles of a domain, in pages that are made as they are needed.
#[derive(Debug)]
pub(crate) struct Maptrack {
    chunks: [Option<Chunk>; CHUNKS],
    /// Handles that were ever in use.
    used: u32,
    first_free: u32,
    /// Handles that may be in use at once.
    pub(crate) limit: u32,
    /// Handles in use.
    pub(crate) live: u32,
}

impl Default for Maptrack {
    fn default() -> Self {
        Self { chunks: [const { None }; CHUNKS], used: 0, first_free: NIL, limit: 0, live: 0 }
    }
}

impl Maptrack {
    /// No handle yet, and `frames` frames' worth of them at most; this build's own limit is the upper bound.
    pub(crate) fn new(frames: u32) -> Self {
        let frames = (frames as usize).min(MAX_MAPTRACK_FRAMES);
        Self { limit: (frames * MAPPINGS_PER_FRAME) as u32, ..Self::default() }
    }

    #[inline]
    fn word(&mut self, handle: u32) -> Option<&mut u64> {
        let handle = handle as usize;
        self.chunks.get_mut(handle / CHUNK)?.as_deref_mut()?.get_mut(handle % CHUNK)
    }

    /// A handle that is not in use, its storage in place. Nothing has changed until [`Self::open`].
    #[inline]
    pub(crate) fn free_handle(&mut self, machine: &impl Reserve) -> Result<u32, Errno> {
        if self.live >= self.limit {
            return Err(Errno::NoSpc);
        }
        if self.first_free != NIL {
            return Ok(self.first_free);
        }
        let chunk = self.chunks.get_mut(self.used as usize / CHUNK).ok_or(Errno::NoSpc)?;
        if chunk.is_none() {
            *chunk = Some(free_chunk(machine)?);
        }
        Ok(self.used)
    }

    /// Puts the handle that [`Self::free_handle`] found to use.
    #[inline]
    pub(crate) fn open(&mut self, handle: u32, track: Track) {
        let Some(word) = self.word(handle) else { return };
        let next = *word as u32;
        *word = track.0;
        if handle == self.first_free {
            self.first_free = next;
        } else {
            self.used = handle + 1;
        }
        self.live += 1;
    }

    /// The mapping behind a handle, if it is in use.
    #[inline]
    pub(crate) fn get(&mut self, handle: u32) -> Option<Track> {
        if handle >= self.used {
            return None;
        }
        self.word(handle).map(|word| *word).filter(|word| word & FREE == 0).map(Track)
    }

    /// Every mapping behind a handle that is in use.
    pub(crate) fn each(&self) -> impl Iterator<Item = Track> + '_ {
        let words = self.chunks.iter().flatten().flat_map(|chunk| chunk.iter().copied());
        words.take(self.used as usize).filter(|word| word & FREE == 0).map(Track)
    }

    /// Changes the mapping behind a handle that is in use.
    pub(crate) fn set(&mut self, handle: u32, track: Track) {
        if let Some(word) = self.word(handle) {
            *word = track.0;
        }
    }

    /// The handle is not in use any more.
    #[inline]
    pub(crate) fn close(&mut self, handle: u32) {
        let next = self.first_free;
        let Some(word) = self.word(handle).filter(|word| **word & FREE == 0) else { return };
        *word = FREE | u64::from(next);
        self.first_free = handle;
        self.live -= 1;
    }

    /// Takes the last handle that was ever in use off the end, with the mapping behind it, if there is one: when the
    /// domain ends, and no handle is opened any more.
    pub(crate) fn retire(&mut self) -> Option<(u32, Option<Track>)> {
        let last = self.used.checked_sub(1)?;
        let track = self.get(last);
        self.used = last;
        Some((last, track))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plenty;
    impl Reserve for Plenty {
        fn reserve(&self, _: usize) -> Result<(), Errno> {
            Ok(())
        }
    }

    #[test]
    fn a_limit_counts_frames_as_the_interface_does() {
        let mut handles = Maptrack::new(1);
        let track = Track::new(Mfn::new(7).unwrap(), 1, 0, MapFlags::HOST_MAP);
        for _ in 0..256 {
            let handle = handles.free_handle(&Plenty).unwrap();
            handles.open(handle, track);
        }
        assert_eq!(handles.free_handle(&Plenty), Err(Errno::NoSpc));
        assert_eq!(Maptrack::new(0).free_handle(&Plenty), Err(Errno::NoSpc));
        assert_eq!(Maptrack::new(u32::MAX).limit, 1024 * 256);
    }

    #[test]
    fn the_last_handles_retire_first_in_use_or_not() {
        let mut handles = Maptrack::new(1);
        let track = Track::new(Mfn::new(7).unwrap(), 1, 0, MapFlags::HOST_MAP);
        for _ in 0..3 {
            let handle = handles.free_handle(&Plenty).unwrap();
            handles.open(handle, track);
        }
        handles.close(1);
        assert_eq!(handles.retire(), Some((2, Some(track))));
        assert_eq!(handles.retire(), Some((1, None)));
        assert_eq!(handles.retire(), Some((0, Some(track))));
        assert_eq!(handles.retire(), None);
    }

    #[test]
    fn handles_are_given_out_once_and_again_after_they_came_back() {
        let mut handles = Maptrack { limit: 600, ..Maptrack::default() };
        let track = Track::new(Mfn::new(7).unwrap(), 255, 0x7fff, MapFlags::HOST_MAP | MapFlags::CONTAINS_PTE);
        for expected in 0..600 {
            let handle = handles.free_handle(&Plenty).unwrap();
            assert_eq!(handle, expected);
            handles.open(handle, track);
        }
        assert_eq!(handles.free_handle(&Plenty), Err(Errno::NoSpc));
        handles.close(17);
        handles.close(300);
        handles.close(300);
        assert_eq!((handles.get(17), handles.live), (None, 598));
        assert_eq!(handles.each().count(), 598);
        for expected in [300, 17] {
            let handle = handles.free_handle(&Plenty).unwrap();
            assert_eq!(handle, expected);
            handles.open(handle, track);
        }
        assert_eq!((handles.get(17), handles.get(600), handles.live), (Some(track), None, 600));
        assert_eq!((track.slot(), track.reference(), track.access()), (255, 0x7fff, Access::Write));
    }
}
