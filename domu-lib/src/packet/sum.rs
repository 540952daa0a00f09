//! The Internet's checksum: the sum of 16-bit words in ones' complement.

/// A sum that is being made. Pieces must begin at an even distance from each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; a last odd one counts as if a zero followed.
    pub fn over(mut self, bytes: &[u8]) -> Self {
        // Words of 32 bits are two of 16 with a carry between them, which is what folding takes care of.
        let (quads, rest) = bytes.as_chunks::<4>();
        for quad in quads {
            self.0 += u64::from(u32::from_be_bytes(*quad));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.0 += u64::from(u32::from_be_bytes(last));
        self
    }

    /// Adds a number.
    pub const fn plus(mut self, number: u32) -> Self {
        self.0 += number as u64;
        self
    }

    /// The sum itself, as a field holds it that a pseudo header has been summed into.
    pub const fn not_inverted(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// What goes into a checksum field.
    pub const fn result(self) -> u16 {
        !self.not_inverted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_known_header_sums_up() {
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(Sum::default().over(&header).result(), 0xb861);
    }

    proptest! {
        #[test]
        fn it_is_the_sum_of_16_bit_words(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut plain = 0_u32;
            for pair in bytes.chunks(2) {
                plain += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            }
            while plain > 0xffff {
                plain = (plain & 0xffff) + (plain >> 16);
            }
            prop_assert_eq!(Sum::default().over(&bytes).not_inverted(), plain as u16);
        }
    }
}
