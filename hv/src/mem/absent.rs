//! Entries that are not present, where the CPU follows them into its cache all the same (L1TF, XSA-273): a guest that
//! could write any would read what of anybody's memory the cache holds. Whose entries are judged takes the long way for
//! every change of a table.

use super::{Hardware, RamFrame, editor::Editor, entry::Entry, walk::Walk};
use crate::reply::{Fault, Stop};
use core::sync::atomic::Ordering;

impl<M: Hardware> Editor<'_, M> {
    /// Judges an entry that is to be written to a table of the domain's.
    ///
    /// # Errors
    /// `Fatal` for one that is not present and leads where there may be memory: it is noted for whoever ends the
    /// domain.
    #[inline]
    pub(super) fn judge_absent(&self, new: u64) -> Result<(), Stop> {
        if self.domain.judged.is_some() { self.judge_absent_now(new) } else { Ok(()) }
    }

    #[cold]
    fn judge_absent_now(&self, new: u64) -> Result<(), Stop> {
        match self.domain.judged {
            Some(rule) if !Entry(new).is_present() && !rule.is_safe(new) => {
                self.domain.absent_entry.store(new, Ordering::Relaxed);
                Err(Stop::Fatal(Fault::AbsentEntry))
            }
            _ => Ok(()),
        }
    }

    /// The same for all entries of a table that has been looked through; one that is shadowed is noted as a table.
    ///
    /// # Errors
    /// As [`Self::judge_absent`]; what the walk holds is given back.
    #[cold]
    #[inline(never)]
    pub(super) fn look_at(&mut self, walk: &mut Walk, table: RamFrame, is_whole: bool) -> Result<(), Stop> {
        if self.paging.is_shadowed {
            self.note_table(table);
        }
        let mut words = self.memory.machine.words(table).iter();
        if is_whole && let Err(stop) = words.try_for_each(|word| self.judge_absent(word.load(Ordering::Relaxed))) {
            let may_stop = self.paging.unfinished.is_none();
            let _ = self.give_back(walk, may_stop);
            return Err(stop);
        }
        Ok(())
    }
}
