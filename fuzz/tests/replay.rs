//! The corpora on stable Rust: every input that was worth keeping, and mutations of it, the same ones at each run.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "it is a test")]

use std::path::Path;

use oxen_fuzz::TARGETS;

/// Mutations of the inputs of a target, all together.
const MUTATIONS: usize = 300;

/// Numbers that look random and are the same at each run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}

/// Changes an input in some places: other bytes, a bit, a number at the edge, something doubled, cut or taken away.
fn mutate(dice: &mut Dice, input: &mut Vec<u8>) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        match dice.below(6) {
            0 => input.insert(at, dice.below(256) as u8),
            1 => input.truncate(at),
            2 => {
                let to = (at + dice.below(16)).min(input.len());
                input.drain(at..to);
            }
            3 => {
                let to = (at + dice.below(64)).min(input.len());
                let piece = input[at..to].to_vec();
                input.splice(at..at, piece);
            }
            4 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            _ if at < input.len() => input[at] ^= 1 << dice.below(8),
            _ => {}
        }
    }
}

#[test]
fn what_was_worth_keeping_and_its_like_hurt_nobody() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for target in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let count = files.len();
        assert_ne!(count, 0, "{} has no inputs", target.name);
        for file in files {
            let input = std::fs::read(&file).unwrap();
            (target.run)(&input);
            for _ in 0..MUTATIONS.div_ceil(count) {
                let mut changed = input.clone();
                mutate(&mut dice, &mut changed);
                (target.run)(&changed);
            }
        }
    }
}
