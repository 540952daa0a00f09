//! What unpacks piece by piece, so that a whole kernel never has to stand in memory.

use alloc::{boxed::Box, vec, vec::Vec};
use core::ops::Range;

use ruzstd::decoding::{FrameDecoder, StreamingDecoder, errors::FrameDecoderError};
use ruzstd::io::Read;
use xz4rust::{XzDecoder, XzNextBlockResult};

use crate::Refusal;

/// What gzip looks back upon.
const GZIP_WINDOW: usize = 32 << 10;
/// What each block of LZ4's legacy frames unpacks to at most.
const LZ4_BLOCK: usize = 8 << 20;
/// What Zstandard's decoder keeps beside its window.
const ZSTD_SLACK: usize = 512 << 10;

/// Unpacks into `piece` and says how many bytes it made; 0 at the end.
pub trait Unpack {
    /// The next bytes.
    ///
    /// # Errors
    /// `Packing` where the stream is damaged or ends too early.
    fn read(&mut self, piece: &mut [u8]) -> Result<usize, Refusal>;
}

/// Memory of this size, filled with zeros: `room` bytes may be used.
///
/// # Errors
/// `Memory` where there is too little.
pub(crate) fn allocate(size: usize, room: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    if size > room || bytes.try_reserve_exact(size).is_err() {
        return Err(Refusal::Memory { needed: size, free: room });
    }
    bytes.resize(size, 0);
    Ok(bytes)
}

/// That the file is not packed as it should be.
pub(super) fn packing(why: impl Into<alloc::string::String>) -> Refusal {
    Refusal::Packing(why.into())
}

/// A gzip stream behind its header.
pub(super) struct Gzip<'a> {
    body: &'a [u8],
    decoder: Box<miniz_oxide::inflate::core::DecompressorOxide>,
    window: Vec<u8>,
    /// What of the window was made and not taken yet.
    ready: Range<usize>,
    is_done: bool,
}

impl<'a> Gzip<'a> {
    pub(super) fn new(packed: &'a [u8]) -> Result<Self, Refusal> {
        let body = gzip_body(packed).ok_or_else(|| packing("the gzip header is malformed"))?;
        Ok(Self { body, decoder: Box::default(), window: vec![0; GZIP_WINDOW], ready: 0..0, is_done: false })
    }
}

impl Unpack for Gzip<'_> {
    fn read(&mut self, piece: &mut [u8]) -> Result<usize, Refusal> {
        use miniz_oxide::inflate::{TINFLStatus, core};
        while self.ready.is_empty() && !self.is_done {
            let at = self.ready.end % GZIP_WINDOW;
            let flags = core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
            let (status, taken, made) = core::decompress(&mut self.decoder, self.body, &mut self.window, at, flags);
            self.body = self.body.get(taken..).unwrap_or_default();
            self.ready = at..at + made;
            match status {
                TINFLStatus::Done => self.is_done = true,
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput => return Err(packing("gzip: the stream ends too early")),
                _ => return Err(packing("gzip: the stream is damaged")),
            }
        }
        Ok(take(&self.window, &mut self.ready, piece))
    }
}

/// Copies what is ready.
fn take(from: &[u8], ready: &mut Range<usize>, piece: &mut [u8]) -> usize {
    let waiting = from.get(ready.clone()).unwrap_or_default();
    let count = waiting.len().min(piece.len());
    for (to, from) in piece.iter_mut().zip(waiting) {
        *to = *from;
    }
    ready.start += count;
    count
}

/// What follows the gzip header and its optional fields.
fn gzip_body(packed: &[u8]) -> Option<&[u8]> {
    const CHECK: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let flags = *packed.get(3)?;
    let mut rest = packed.get(10..)?;
    if flags & EXTRA != 0 {
        let length = usize::from(*rest.first()?) | usize::from(*rest.get(1)?) << 8;
        rest = rest.get(2 + length..)?;
    }
    for field in [NAME, COMMENT] {
        if flags & field != 0 {
            rest = rest.get(rest.iter().position(|&b| b == 0)? + 1..)?;
        }
    }
    if flags & CHECK != 0 { rest.get(2..) } else { Some(rest) }
}

/// An XZ stream.
pub(super) struct Xz<'a> {
    packed: &'a [u8],
    decoder: Box<XzDecoder<'static>>,
    is_done: bool,
}

impl<'a> Xz<'a> {
    pub(super) fn new(packed: &'a [u8], room: usize) -> Result<Self, Refusal> {
        let dictionary = xz_dictionary(packed).ok_or_else(|| packing("the XZ header is malformed"))?;
        let memory = allocate(dictionary, room)?;
        Ok(Self { packed, decoder: XzDecoder::in_heap_with_alloc_dict(memory, dictionary), is_done: false })
    }
}

impl Unpack for Xz<'_> {
    fn read(&mut self, piece: &mut [u8]) -> Result<usize, Refusal> {
        while !self.is_done {
            let (taken, made) = match self.decoder.decode(self.packed, piece) {
                Ok(XzNextBlockResult::NeedMoreData(taken, made)) => (taken, made),
                Ok(XzNextBlockResult::EndOfStream(taken, made)) => {
                    self.is_done = true;
                    (taken, made)
                }
                Err(_) => return Err(packing("XZ: the stream is damaged")),
            };
            self.packed = self.packed.get(taken..).unwrap_or_default();
            if made != 0 {
                return Ok(made);
            }
            if taken == 0 && !self.is_done {
                return Err(packing("XZ: the stream ends too early"));
            }
        }
        Ok(0)
    }
}

/// Bytes of the dictionary that the first block wants (the .xz file format, 3.1 and 5.3.1).
fn xz_dictionary(packed: &[u8]) -> Option<usize> {
    const STREAM_HEADER: usize = 12;
    const HAS_SIZES: u8 = 0xc0;
    const LZMA2: u8 = 0x21;
    let mut rest = packed.get(STREAM_HEADER..)?;
    let flags = *rest.get(1)?;
    rest = rest.get(2..)?;
    for _ in 0..(flags & HAS_SIZES).count_ones() {
        rest = rest.get(rest.iter().position(|byte| byte & 0x80 == 0)? + 1..)?;
    }
    for _ in 0..=flags & 3 {
        let (&id, &size) = (rest.first()?, rest.get(1)?);
        if id == LZMA2 {
            let bits = u32::from(*rest.get(2)?);
            let size = (2 | bits & 1).checked_shl(bits / 2 + 11)?;
            return usize::try_from(size).ok().filter(|_| bits < 40);
        }
        rest = rest.get(2 + usize::from(size)..)?;
    }
    None
}

/// A Zstandard frame.
pub(super) struct Zstd<'a>(StreamingDecoder<&'a [u8], FrameDecoder>);

impl<'a> Zstd<'a> {
    pub(super) fn new(packed: &'a [u8], room: usize) -> Result<Self, Refusal> {
        // The decoder takes its window, rounded up to a power of two, at once.
        let free = room.saturating_sub(ZSTD_SLACK);
        let largest = if free == 0 { 0 } else { 1 << free.ilog2() };
        let decoder = StreamingDecoder::new_with_max_window_size(packed, largest as u64);
        let decoder = decoder.map_err(|error| match error {
            FrameDecoderError::WindowSizeTooBig { requested, .. } => {
                Refusal::Memory { needed: usize::try_from(requested).unwrap_or(usize::MAX), free: room }
            }
            _ => packing("Zstandard: the stream is damaged"),
        })?;
        Ok(Self(decoder))
    }
}

impl Unpack for Zstd<'_> {
    fn read(&mut self, piece: &mut [u8]) -> Result<usize, Refusal> {
        self.0.read(piece).map_err(|_| packing("Zstandard: the stream is damaged"))
    }
}

/// LZ4's legacy frame, as kernels are packed: after the magic number, blocks with their length before them.
pub(super) struct Lz4<'a> {
    packed: &'a [u8],
    block: Vec<u8>,
    ready: Range<usize>,
}

impl<'a> Lz4<'a> {
    pub(super) fn new(packed: &'a [u8], room: usize) -> Result<Self, Refusal> {
        let blocks = packed.get(super::LZ4_MAGIC.len()..).unwrap_or_default();
        Ok(Self { packed: blocks, block: allocate(LZ4_BLOCK, room)?, ready: 0..0 })
    }
}

impl Unpack for Lz4<'_> {
    fn read(&mut self, piece: &mut [u8]) -> Result<usize, Refusal> {
        while self.ready.is_empty() {
            if self.packed.is_empty() {
                return Ok(0);
            }
            let cut = || packing("LZ4: the stream ends too early");
            let (length, rest) = self.packed.split_first_chunk().ok_or_else(cut)?;
            self.packed = rest;
            // Streams can follow one another, each with its magic number.
            if *length == super::LZ4_MAGIC {
                continue;
            }
            // Linux's build appends the size that everything unpacks to.
            if rest.is_empty() {
                return Ok(0);
            }
            let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
            let block = rest.get(..length).ok_or_else(cut)?;
            self.packed = rest.get(length..).unwrap_or_default();
            let made = lz4_flex::block::decompress_into(block, &mut self.block);
            self.ready = 0..made.map_err(|_| packing("LZ4: the stream is damaged"))?;
        }
        Ok(take(&self.block, &mut self.ready, piece))
    }
}
