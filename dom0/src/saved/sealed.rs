//! A line between two machines that nobody else reads, changes or takes part in: sealed messages, by Noise's pattern
//! `NNpsk0` (revision 34, sections 7.4 and 9) with a key that both have.
//!
//! Each message is a length of 16 bits and so many bytes, the seal's 16 among them. The seal counts: a message that is
//! changed, left out, repeated or out of its order is an error, and the line is of no use from then on. The keys of a
//! connection are made for it alone, so who learns the shared key later cannot read what went before. What ends a
//! conversation is for who talks to say: a line that merely ends is an error as well.

use alloc::{boxed::Box, vec, vec::Vec};
use core::future::Future;

use anyhow::{Context, Result, anyhow, bail, ensure};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{BoxedCryptoResolver, CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, TransportState};

use super::stream::{Sink, Source};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// What both ends must mean to talk.
const PROLOGUE: &[u8] = b"Oxen migration 1";
/// Bytes that a seal takes.
const SEAL: usize = 16;
/// Bytes of a message of the handshake: a public key and a seal.
const HANDSHAKE: usize = 32 + SEAL;
/// Bytes of a message, at most.
pub const LONGEST: usize = u16::MAX as usize - SEAL;

/// A key that two machines share.
pub struct Key([u8; 32]);

impl Key {
    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        let bytes =
            digits.map(|digits| digits.chunks(2).map(|pair| pair.iter().fold(0, |sum, d| sum << 4 | d)).collect());
        let key = bytes.filter(|_| text.len() == 64).and_then(|bytes: Vec<u8>| bytes.try_into().ok());
        key.map(Self).context("`migration-key=` is not 64 hexadecimal digits")
    }
}

/// Fills bytes with what nobody can foretell; whether it could.
pub type Fill = fn(&mut [u8]) -> bool;

/// The primitives: all are the crate's, but for what is random.
struct Primitives(Fill);

struct Filler(Fill);

impl Random for Filler {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), snow::Error> {
        if (self.0)(bytes) { Ok(()) } else { Err(snow::Error::Rng) }
    }
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Filler(self.0)))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// A line that carries messages, each whole or not at all.
pub trait Messages {
    /// Sends a message of at most [`LONGEST`] bytes.
    ///
    /// # Errors
    /// The line broke.
    fn send(&mut self, message: &[u8]) -> impl Future<Output = Result<()>>;

    /// Waits for the next message.
    ///
    /// # Errors
    /// It was damaged on its way, or the line broke.
    fn receive(&mut self) -> impl Future<Output = Result<&[u8]>>;
}

/// A line whose ends have proved to each other that they have the key.
pub struct Sealed<L> {
    line: L,
    state: TransportState,
    /// The message that came or goes, as the line has it, behind its length.
    wire: Vec<u8>,
    /// The message that came.
    plain: Vec<u8>,
    /// Whether a message was begun and is not known to have been put down: who sent it was called off.
    is_half_said: bool,
}

impl<L: Source + Sink> Sealed<L> {
    /// Begins, as who called.
    ///
    /// # Errors
    /// The other end has another key, or is none; the line broke; nothing random is to be had.
    pub async fn call(mut line: L, key: &Key, fill: Fill) -> Result<Self> {
        let mut state = builder(key, fill)?.build_initiator().map_err(failed)?;
        say(&mut line, &mut state).await?;
        hear(&mut line, &mut state).await.context("the other end does not answer as one with the same key")?;
        Self::begin(line, state)
    }

    /// Begins, as who was called.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn answer(mut line: L, key: &Key, fill: Fill) -> Result<Self> {
        let mut state = builder(key, fill)?.build_responder().map_err(failed)?;
        hear(&mut line, &mut state).await.context("who called does not speak as one with the same key")?;
        say(&mut line, &mut state).await?;
        Self::begin(line, state)
    }

    fn begin(line: L, state: HandshakeState) -> Result<Self> {
        let state = state.into_transport_mode().map_err(failed)?;
        Ok(Self { line, state, wire: Vec::new(), plain: Vec::new(), is_half_said: false })
    }

    /// The line itself.
    pub const fn line(&self) -> &L {
        &self.line
    }
}

impl<L: Source + Sink> Messages for Sealed<L> {
    /// Behind a message whose sending was called off nothing can be sent.
    async fn send(&mut self, message: &[u8]) -> Result<()> {
        ensure!(message.len() <= LONGEST, "a message of {} bytes", message.len());
        ensure!(!self.is_half_said, "the message before was left half said");
        self.wire.resize(2 + message.len() + SEAL, 0);
        let (length, sealed) = self.wire.split_at_mut(2);
        let bytes = self.state.write_message(message, sealed).map_err(failed)?;
        length.copy_from_slice(&u16::try_from(bytes)?.to_le_bytes());
        self.is_half_said = true;
        self.line.write(&self.wire).await?;
        self.is_half_said = false;
        Ok(())
    }

    async fn receive(&mut self) -> Result<&[u8]> {
        let mut length = [0; 2];
        self.line.read(&mut length).await?;
        let length = usize::from(u16::from_le_bytes(length));
        ensure!(length >= SEAL, "what came is no message: it has {length} bytes");
        self.wire.resize(length, 0);
        self.line.read(&mut self.wire).await?;
        self.plain.resize(length, 0);
        let opened = self.state.read_message(&self.wire, &mut self.plain);
        let bytes = opened.map_err(|_| anyhow!("what came was damaged on its way, or is not from the other end"))?;
        self.plain.get(..bytes).context("a message is longer than what it came in")
    }
}

fn builder(key: &Key, fill: Fill) -> Result<Builder<'_>> {
    let pattern = PATTERN.parse().map_err(failed)?;
    let primitives: BoxedCryptoResolver = Box::new(Primitives(fill));
    Builder::with_resolver(pattern, primitives).psk(0, &key.0).and_then(|b| b.prologue(PROLOGUE)).map_err(failed)
}

/// Why nothing can be sealed.
fn failed(error: snow::Error) -> anyhow::Error {
    match error {
        snow::Error::Rng => anyhow!("the processor has no random numbers (RDRAND), and nothing goes without"),
        other => anyhow!("nothing can be sealed: {other}"),
    }
}

async fn say(line: &mut impl Sink, state: &mut HandshakeState) -> Result<()> {
    let mut message = vec![0; 2 + HANDSHAKE];
    let (length, sealed) = message.split_at_mut(2);
    let bytes = state.write_message(&[], sealed).map_err(failed)?;
    length.copy_from_slice(&u16::try_from(bytes)?.to_le_bytes());
    line.write(&message).await
}

async fn hear(line: &mut impl Source, state: &mut HandshakeState) -> Result<()> {
    let mut length = [0; 2];
    line.read(&mut length).await?;
    let length = usize::from(u16::from_le_bytes(length));
    if length != HANDSHAKE {
        bail!("its first message has {length} bytes");
    }
    let mut message = [0; HANDSHAKE];
    line.read(&mut message).await?;
    // Nothing but the key and the seal is in it.
    state.read_message(&message, &mut [0; HANDSHAKE]).map(|_| ()).map_err(|_| anyhow!("its key is another one"))
}
