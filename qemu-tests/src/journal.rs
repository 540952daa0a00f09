//! What the probe's journals (`do=journal`) have to hold: read from a disk's image, or from what the log of the disk's
//! writes makes of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Bytes of a record.
const RECORD: usize = 16 << 10;
/// The inverse of what the probe multiplies words by, modulo 2^64.
const INVERSE: u64 = inverse(0x9e37_79b9_7f4a_7c15);
/// A sector of the log.
const SECTOR: usize = 512;
/// What a log begins with (the kernel's dm-log-writes).
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// An entry of the log that makes durable what was done before.
const FLUSH: u64 = 1;

/// Newton's way: each step doubles the bits that are right, of which the first three are.
const fn inverse(odd: u64) -> u64 {
    let (mut guess, mut step) = (odd, 0);
    while step < 5 {
        guess = guess.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(guess)));
        step += 1;
    }
    guess
}

/// How the journals lie on the disk.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many there are.
    pub writers: u64,
    /// Records that each has room for.
    pub places: u64,
}

/// The last record that each writer said to be durable.
#[must_use]
pub fn durable(transcript: &str) -> BTreeMap<u64, u64> {
    let mut last = BTreeMap::new();
    for line in transcript.lines() {
        let Some((_, rest)) = line.split_once("probe: durable ") else { continue };
        let mut numbers = rest.split_whitespace().map(str::parse::<u64>);
        // The last line may be cut short: a number that is, is a smaller one, and holds as well.
        if let (Some(Ok(writer)), Some(Ok(record))) = (numbers.next(), numbers.next()) {
            let known = last.entry(writer).or_insert(record);
            *known = record.max(*known);
        }
    }
    last
}

/// Which record a place holds, if it is whole.
fn record(bytes: &[u8], writer: u64) -> Option<u64> {
    let mut found = None;
    for (index, word) in (0_u64..).zip(bytes.as_chunks().0) {
        let plain = u64::from_le_bytes(*word).wrapping_mul(INVERSE);
        let number = plain >> 16 & 0xff_ffff_ffff;
        if plain >> 56 != writer || plain & 0xffff != index || *found.get_or_insert(number) != number {
            return None;
        }
    }
    found
}

impl Plan {
    /// Demands that an image holds every record that is said to be durable, or a later one of the same place. The place
    /// of the one record that each writer had under way may hold anything.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn check(self, image: &[u8], said: &BTreeMap<u64, u64>) -> Result<()> {
        for (&writer, &last) in said {
            let oldest = last.saturating_sub(self.places - 1).max(1);
            for number in oldest..=last {
                let place = (writer * self.places + number % self.places) as usize;
                let bytes = image.get(place * RECORD..(place + 1) * RECORD).context("the image ends too early")?;
                let found = record(bytes, writer);
                // What was said last may not be what was done last: words were on their way when the machine stopped.
                let is_later = |found: u64| found >= number && found % self.places == number % self.places;
                let under_way = self.is_under_way(image, writer, last, number);
                ensure!(
                    found.is_some_and(is_later) || found.is_none() && under_way,
                    "record {number} of writer {writer} is said to be durable ({last} is the last), \
                     and its place holds {found:?}"
                );
            }
        }
        Ok(())
    }

    /// Whether the place of a record may be the one that was being written: it is that of the record behind the last
    /// that is there.
    fn is_under_way(self, image: &[u8], writer: u64, last: u64, number: u64) -> bool {
        let in_place = |place: u64| {
            let place = (writer * self.places + place) as usize;
            record(image.get(place * RECORD..(place + 1) * RECORD)?, writer)
        };
        let newest = (0..self.places).filter_map(in_place).max().unwrap_or(0).max(last);
        (newest + 1) % self.places == number % self.places
    }
}

/// What a disk holds after the power failed, by the log of its writes: what was done before the last flush.
///
/// # Errors
/// The log is none.
pub fn after_power_failure(log: &[u8], mut image: Vec<u8>) -> Result<Vec<u8>> {
    let word = |at: usize| {
        let bytes = log.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    ensure!(word(0) == Some(MAGIC), "no log of writes");
    let (mut at, mut waiting) = (SECTOR, Vec::new());
    while let (Some(sector), Some(count), Some(flags)) = (word(at), word(at + 8), word(at + 16)) {
        if count == 0 && flags == 0 {
            break;
        }
        if flags & FLUSH != 0 {
            for (place, from, length) in waiting.drain(..) {
                let (to, data): (usize, Option<&[u8]>) = (place, log.get(from..from + length));
                let (to, data) = (image.get_mut(to..to + length), data);
                to.context("a write beyond the image")?.copy_from_slice(data.context("the log ends too early")?);
            }
        }
        let length = count as usize * SECTOR;
        if length != 0 {
            waiting.push((sector as usize * SECTOR, at + SECTOR, length));
        }
        at += SECTOR + length;
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { writers: 2, places: 4 };

    fn contents(writer: u64, number: u64) -> Vec<u8> {
        let word = |index: u64| (writer << 56 | number << 16 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..(RECORD / 8) as u64).flat_map(|index| word(index).to_le_bytes()).collect()
    }

    fn put(image: &mut [u8], writer: u64, number: u64) {
        let place = (writer * PLAN.places + number % PLAN.places) as usize;
        image[place * RECORD..(place + 1) * RECORD].copy_from_slice(&contents(writer, number));
    }

    #[test]
    fn what_is_said_to_be_durable_has_to_be_there() {
        let said = durable("(a) probe: durable 0 6\nprobe: durable 1 2\n  | probe: durable 0 5\nprobe: durable 1");
        assert_eq!(said, BTreeMap::from([(0, 6), (1, 2)]));
        let mut image = vec![0; 8 * RECORD];
        for (writer, number) in [(0, 3), (0, 4), (0, 5), (0, 6), (1, 1), (1, 2)] {
            put(&mut image, writer, number);
        }
        PLAN.check(&image, &said).unwrap();
        // Record 7 was being written where 3 was; what lies elsewhere must be whole.
        image[3 * RECORD + 5] ^= 1;
        PLAN.check(&image, &said).unwrap();
        put(&mut image, 0, 7);
        PLAN.check(&image, &said).unwrap();
        image[RECORD + 5] ^= 1;
        assert!(PLAN.check(&image, &said).unwrap_err().to_string().contains("record 5 of writer 0"));
        put(&mut image, 0, 1);
        assert!(PLAN.check(&image, &said).is_err());
    }

    fn entry(sector: u64, flags: u64, data: &[u8]) -> Vec<u8> {
        let mut entry: Vec<u8> =
            [sector, (data.len() / SECTOR) as u64, flags, 0].into_iter().flat_map(u64::to_le_bytes).collect();
        entry.resize(SECTOR, 0);
        entry.extend(data);
        entry
    }

    #[test]
    fn what_no_flush_came_after_is_lost_with_the_power() {
        let mut log = MAGIC.to_le_bytes().to_vec();
        log.resize(SECTOR, 0);
        log.extend(entry(1, 0, &[7; SECTOR]));
        log.extend(entry(0, FLUSH, &[]));
        log.extend(entry(2, 0, &[8; SECTOR]));
        let image = after_power_failure(&log, vec![0; 4 * SECTOR]).unwrap();
        assert_eq!(image.iter().map(|&byte| u32::from(byte)).sum::<u32>(), 7 * SECTOR as u32);
        assert!(after_power_failure(&[0; SECTOR], Vec::new()).is_err());
    }
}
