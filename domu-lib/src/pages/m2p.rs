//! The machine-to-physical table: where the word of a frame is, and which frames have one.

use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::memory::MachphysMapping;

use super::Mfn;

/// Where the table always stood, and how far it goes, where nothing is said of it.
const CLASSIC: MachphysMapping =
    MachphysMapping { v_start: 0xffff_8000_0000_0000, v_end: 0xffff_8000_4000_0000, max_mfn: (1 << 27) - 1 };

/// Bytes of a word.
const WORD: u64 = size_of::<u64>() as u64;

/// The address of the table, and of how many frames it tells.
pub(crate) struct Table {
    start: AtomicU64,
    frames: AtomicU64,
}

impl Table {
    /// One that tells of no frame.
    pub(crate) const fn new() -> Self {
        Self { start: AtomicU64::new(0), frames: AtomicU64::new(0) }
    }

    /// Takes what the hypervisor says of its table. A frame has a word if both the last frame and the end of the table
    /// leave room for it.
    pub(crate) fn install(&self, told: Option<MachphysMapping>) {
        let MachphysMapping { v_start, v_end, max_mfn } = told.unwrap_or(CLASSIC);
        let room = v_end.saturating_sub(v_start) / WORD;
        self.start.store(v_start, Ordering::Relaxed);
        self.frames.store(max_mfn.saturating_add(1).min(room), Ordering::Relaxed);
    }

    /// Of how many frames it tells.
    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// The address of a frame's word; `None` for a frame of which the table does not tell. Parts of the table may be
    /// unmapped where the machine has no memory.
    pub(crate) fn word(&self, mfn: Mfn) -> Option<u64> {
        (mfn.raw() < self.frames()).then(|| self.start.load(Ordering::Relaxed) + mfn.raw() * WORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(v_start: u64, v_end: u64, max_mfn: u64) -> Table {
        let table = Table::new();
        table.install(Some(MachphysMapping { v_start, v_end, max_mfn }));
        table
    }

    #[test]
    fn a_table_ends_where_its_last_frame_says() {
        let table = table(0x10_0000, 0x20_0000, 9);
        assert_eq!(table.word(Mfn::new(0)), Some(0x10_0000));
        assert_eq!(table.word(Mfn::new(9)), Some(0x10_0048));
        assert_eq!([10, u64::MAX].map(|mfn| table.word(Mfn::new(mfn))), [None; 2]);
    }

    #[test]
    fn a_table_ends_where_its_addresses_end_whatever_is_said_of_frames() {
        let start = 0xffff_8000_0000_0000;
        for last in [512, 1 << 40, u64::MAX] {
            let table = table(start, start + 4096, last);
            assert_eq!(table.word(Mfn::new(511)), Some(start + 4088));
            assert_eq!([512, 1 << 61, u64::MAX].map(|mfn| table.word(Mfn::new(mfn))), [None; 3], "{last:#x}");
        }
        assert!(table(start, start - 8, u64::MAX).word(Mfn::new(0)).is_none());
    }

    #[test]
    fn where_nothing_is_said_the_table_is_where_it_always_was() {
        let table = Table::new();
        assert_eq!(table.word(Mfn::new(0)), None);
        table.install(None);
        assert_eq!(table.word(Mfn::new(5)), Some(0xffff_8000_0000_0028));
        assert_eq!(table.word(Mfn::new(1 << 27)), None);
    }
}
