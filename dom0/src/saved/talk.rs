//! What two machines say to each other while a guest moves from one to the other.
//!
//! ```text
//! giver                                   taker
//! Hello, the configuration in Bytes  -->  looks for room, and makes a domain
//!                                    <--  Ready
//! Bytes: memory, then the rest       -->  fills it
//!                                    <--  Whole: the guest stands there, paused
//! Go                                 -->  lets it run
//!                                    <--  Runs
//! ```
//!
//! The guest belongs to the giver until it says Go, and to the taker once that has come; each acts by itself on what
//! it knows. A giver that has not said Go lets its guest go on whatever happens. A taker that holds a guest and does
//! not hear Go has none: it takes the domain apart. Once Go is said the giver's guest never runs again by itself: if
//! neither Runs nor Refused comes back ([`Fate::Unknown`]), nobody here can tell whether Go arrived, and a person
//! decides, who can look at both machines. So the guest runs in one place at most at each cut, and in none at this one
//! alone.
//!
//! Either may say Refused, with its reason, as long as the guest is the giver's.

use alloc::{borrow::ToOwned, format, string::String, vec::Vec};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::sealed::{LONGEST, Messages};
use super::stream::{Sink, Source};

/// The version of this talk.
const VERSION: u8 = 1;
/// Bytes of a stream that go at a time.
const PIECE: usize = 32 << 10;
/// Bytes of a reason, at most.
const MAX_REASON: usize = 1024;

/// What is said: the first byte of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// A part of the stream follows.
    Bytes = 0,
    /// The version follows.
    Hello = 1,
    Ready = 2,
    Whole = 3,
    Go = 4,
    Runs = 5,
    /// The reason follows, as text.
    Refused = 6,
}

const WORDS: [Word; 7] = [Word::Bytes, Word::Hello, Word::Ready, Word::Whole, Word::Go, Word::Runs, Word::Refused];

/// Where a guest is that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was not taken: it is the giver's again.
    Here,
    /// It runs there.
    There,
    /// It may run there, or nowhere.
    Unknown,
}

/// A line with the word in front of each message.
struct Words<L>(L);

impl<L: Messages> Words<L> {
    async fn say(&mut self, word: Word, body: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(1 + body.len());
        message.push(word as u8);
        message.extend_from_slice(body);
        self.0.send(&message).await
    }

    /// The next message; that the other end refuses is an error.
    async fn hear(&mut self) -> Result<(Word, &[u8])> {
        let (first, body) = self.0.receive().await?.split_first().context("an empty message came")?;
        let word = WORDS.into_iter().find(|word| *word as u8 == *first);
        let word = word.with_context(|| format!("a message of kind {first} came, which is not known"))?;
        if word == Word::Refused {
            // Another machine's words, on this one's terminal.
            let reason: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).collect();
            bail!("the other machine refuses: {reason}");
        }
        Ok((word, body))
    }

    /// Waits for a word that has nothing behind it.
    async fn expect(&mut self, wanted: Word) -> Result<()> {
        let (word, body) = self.hear().await?;
        ensure!(word == wanted && body.is_empty(), "{word:?} came where {wanted:?} should");
        Ok(())
    }

    async fn refuse(&mut self, why: &anyhow::Error) {
        let mut reason = format!("{why:#}");
        let end = (0..=MAX_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or_default();
        reason.truncate(end);
        // Who has gone away needs no reason.
        let _ = self.say(Word::Refused, reason.as_bytes()).await;
    }
}

/// The giver's end, until it gives the guest.
pub struct Giver<L> {
    words: Words<L>,
    /// What is not sent yet.
    piece: Vec<u8>,
}

impl<L: Messages> Giver<L> {
    /// Begins.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub async fn begin(line: L) -> Result<Self> {
        let mut words = Words(line);
        words.say(Word::Hello, &[VERSION]).await?;
        Ok(Self { words, piece: Vec::with_capacity(PIECE) })
    }

    /// The line.
    pub const fn line(&self) -> &L {
        &self.words.0
    }

    /// Waits until the other machine is ready for the guest's memory.
    ///
    /// # Errors
    /// It refuses, or the line broke.
    pub async fn ready(&mut self) -> Result<()> {
        self.flush().await?;
        self.words.expect(Word::Ready).await
    }

    /// Sends what is not sent yet. Where that fails, the other machine may have said why.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub async fn flush(&mut self) -> Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let sent = self.words.say(Word::Bytes, &self.piece).await;
        self.piece.clear();
        match sent {
            Ok(()) => Ok(()),
            Err(why) => match self.words.hear().await {
                Err(refused) => Err(refused),
                Ok(_) => Err(why),
            },
        }
    }

    /// Waits until the guest stands there whole.
    ///
    /// # Errors
    /// It refuses, or the line broke.
    pub async fn whole(&mut self) -> Result<()> {
        self.flush().await?;
        self.words.expect(Word::Whole).await
    }

    /// Gives the guest away: from here on it never runs here by itself, unless the other machine says that it has not
    /// taken it. Returns where it is, and if that is not there, why.
    pub async fn give(mut self) -> (Fate, Option<anyhow::Error>) {
        let heard = match self.words.say(Word::Go, &[]).await {
            // What broke now may have brought it there all the same.
            Ok(()) => self.words.0.receive().await,
            Err(why) => Err(why),
        };
        match heard.map(|message| message.first().copied()) {
            Ok(Some(word)) if word == Word::Runs as u8 => (Fate::There, None),
            Ok(Some(word)) if word == Word::Refused as u8 => (Fate::Here, Some(anyhow!("the other machine gave up"))),
            Ok(_) => (Fate::Unknown, Some(anyhow!("what came was no answer"))),
            Err(why) => (Fate::Unknown, Some(why)),
        }
    }

    /// Says that nothing comes of it.
    pub async fn refuse(&mut self, why: &anyhow::Error) {
        self.words.refuse(why).await;
    }
}

impl<L: Messages> Sink for Giver<L> {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            rest = later;
            if self.piece.len() == PIECE {
                self.flush().await?;
            }
        }
        Ok(())
    }
}

/// The taker's end, until it has the guest.
pub struct Taker<L> {
    words: Words<L>,
    /// What came and was not read yet, from `at` on.
    piece: Vec<u8>,
    at: usize,
}

impl<L: Messages> Taker<L> {
    /// Waits for the giver to begin.
    ///
    /// # Errors
    /// It speaks another version, or the line broke.
    pub async fn begin(line: L) -> Result<Self> {
        let mut words = Words(line);
        let (word, body) = words.hear().await?;
        ensure!(word == Word::Hello, "{word:?} came where Hello should");
        let version = body.first().copied().unwrap_or_default();
        let judged =
            if version == VERSION { Ok(()) } else { Err(anyhow!("it speaks version {version}, not {VERSION}")) };
        if let Err(why) = &judged {
            words.refuse(why).await;
        }
        judged.map(|()| Self { words, piece: Vec::new(), at: 0 })
    }

    /// The line.
    pub const fn line(&self) -> &L {
        &self.words.0
    }

    /// Says that there is room for the guest.
    ///
    /// # Errors
    /// The line broke.
    pub async fn ready(&mut self) -> Result<()> {
        self.words.say(Word::Ready, &[]).await
    }

    /// Says that the guest stands here whole, and waits for it to be given.
    ///
    /// # Errors
    /// It was not, and is not this machine's.
    pub async fn hold(&mut self) -> Result<()> {
        ensure!(self.at == self.piece.len(), "there is more behind the guest's end");
        self.words.say(Word::Whole, &[]).await?;
        self.words.expect(Word::Go).await
    }

    /// Says that the guest runs here.
    ///
    /// # Errors
    /// The line broke; it runs here all the same.
    pub async fn runs(&mut self) -> Result<()> {
        self.words.say(Word::Runs, &[]).await
    }

    /// Says that the guest is not taken.
    pub async fn refuse(&mut self, why: &anyhow::Error) {
        self.words.refuse(why).await;
    }
}

impl<L: Messages> Source for Taker<L> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.at == self.piece.len() {
                let (word, body) = self.words.hear().await?;
                ensure!(word == Word::Bytes && !body.is_empty(), "{word:?} came where more of the guest should");
                self.piece = body.to_owned();
                self.at = 0;
            }
            let waiting = self.piece.get(self.at..).unwrap_or_default();
            let now = waiting.len().min(rest.len());
            let (part, later) = rest.split_at_mut(now);
            part.iter_mut().zip(waiting).for_each(|(to, from)| *to = *from);
            self.at += now;
            rest = later;
        }
        Ok(())
    }
}

const _: () = assert!(PIECE < LONGEST);

#[cfg(test)]
mod tests;
