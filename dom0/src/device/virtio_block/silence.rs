//! A disk that does not answer is told of.

use oxen_domu_lib::time;

/// How long a disk may take for a request before that is told, in nanoseconds.
pub(super) const SILENCE: u64 = 10 * time::SECOND;

/// Whether a disk answers each request.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// When to look again, in nanoseconds, while nothing was told.
    next: u64,
    is_told: bool,
}

/// What is to be told of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// A request has had no answer for [`SILENCE`].
    Silent,
    /// None waits that long any more.
    Back,
}

impl Silence {
    /// Looks how long the `oldest` of the requests waits, by when it was submitted; once a second, for that is a look
    /// at all of them.
    pub(super) fn look(&mut self, now: u64, oldest: impl FnOnce() -> Option<u64>) -> Option<Word> {
        if !self.is_told && now < self.next {
            return None;
        }
        self.next = now.saturating_add(time::SECOND);
        let is_silent = oldest().is_some_and(|since| now.saturating_sub(since) >= SILENCE);
        let was_told = core::mem::replace(&mut self.is_told, is_silent);
        (was_told != is_silent).then_some(if is_silent { Word::Silent } else { Word::Back })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_answer_is_told_of_once_and_once_again_when_it_does() {
        let mut silence = Silence::default();
        // At so many seconds, the oldest request is from then; others may come and go.
        let looks =
            [(6, Some(5)), (14, Some(5)), (15, Some(5)), (16, Some(5)), (60, Some(5)), (61, None), (70, Some(69))];
        let said: Vec<_> = looks
            .iter()
            .filter_map(|&(at, since)| {
                let oldest = || since.map(|since: u64| since * time::SECOND);
                Some((at, silence.look(at * time::SECOND, oldest)?))
            })
            .collect();
        assert_eq!(said, [(15, Word::Silent), (61, Word::Back)]);
        // Who is at work is not looked through at each interrupt.
        assert_eq!(silence.look(71 * time::SECOND - 1, || unreachable!()), None);
    }
}
