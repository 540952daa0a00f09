//! From a kernel file as distributions ship it to the ELF inside: bzImage, then gzip, XZ, Zstandard.

use alloc::{boxed::Box, format, string::String, vec, vec::Vec};

use ruzstd::io::Read;

/// The most bytes that a kernel may unpack to.
const MOST: usize = 512 << 20;
/// What XZ works with: a dictionary, at most half of this, and its growth.
const XZ_DICTIONARY: usize = 64 << 20;
/// What Zstandard works with.
const ZSTD_WINDOW: usize = 24 << 20;
/// What gzip looks back upon.
const GZIP_WINDOW: usize = 32 << 10;

/// The ELF in `file`: the file itself, or what it unpacks to, for which dom0 has `room` bytes.
pub fn decompress(file: &[u8], room: usize) -> Result<Vec<u8>, String> {
    let payload = bzimage_payload(file)?.unwrap_or(file);
    match payload {
        [0x7f, b'E', b'L', b'F', ..] => Ok(payload.to_vec()),
        [0x1f, 0x8b, 8, ..] => gunzip(payload, room),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unxz(payload, room),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => unzstd(payload, room),
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            Err("the kernel is packed with LZ4, which is not supported; use gzip, XZ or Zstandard".into())
        }
        _ => Err("the kernel is neither an ELF file nor a bzImage, nor packed with gzip, XZ or Zstandard".into()),
    }
}

/// What a stream unpacks to, piece by piece, within bounds.
struct Unpacked {
    bytes: Vec<u8>,
    most: usize,
}

impl Unpacked {
    /// Room for what `packed` says at its end that it unpacks to: gzip does, and Linux adds it to the others.
    /// `working` bytes are for the decoder.
    fn new(packed: &[u8], room: usize, working: usize) -> Result<Self, String> {
        let most = room.saturating_sub(working).min(MOST);
        let hint = packed.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let mut bytes = Vec::new();
        let hint = usize::try_from(hint).unwrap_or(0);
        if hint <= most {
            bytes.try_reserve_exact(hint).map_err(|_| too_large(room))?;
        }
        Ok(Self { bytes, most })
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), String> {
        // Growing means to have the old and the new for a moment.
        let full = self.bytes.len() + piece.len() > self.bytes.capacity();
        if self.bytes.len() + piece.len() > if full { self.most / 3 } else { self.most } {
            return Err(too_large(self.most));
        }
        self.bytes.try_reserve(piece.len()).map_err(|_| too_large(self.most))?;
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// Whether [`decompress`] would only copy.
pub fn is_plain_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

/// Where a Linux bzImage keeps its packed kernel (boot protocol 2.08 and later); `None` for other files.
fn bzimage_payload(file: &[u8]) -> Result<Option<&[u8]>, String> {
    if file.get(0x202..0x206) != Some(b"HdrS") {
        return Ok(None);
    }
    let word = |at: usize| file.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let version = file.get(0x206..0x208).map(|b| b.iter().rev().fold(0u32, |v, &b| v << 8 | u32::from(b)));
    if version.is_none_or(|v| v < 0x208) {
        return Err("the bzImage's boot protocol is older than 2.08: it does not say where its kernel is".into());
    }
    let setup_sectors = match file.get(0x1f1) {
        Some(0) | None => 4,
        Some(&n) => usize::from(n),
    };
    let at = |field| word(field).and_then(|v| usize::try_from(v).ok());
    let found = at(0x248).zip(at(0x24c)).and_then(|(offset, length)| {
        let start = offset.checked_add((setup_sectors + 1) * 512)?;
        file.get(start..start.checked_add(length)?)
    });
    found.map(Some).ok_or_else(|| "the bzImage is truncated: its kernel lies beyond the end of the file".into())
}

/// Unpacks a gzip stream; also used for ramdisks.
pub fn gunzip(packed: &[u8], room: usize) -> Result<Vec<u8>, String> {
    use miniz_oxide::inflate::{TINFLStatus, core};
    let mut body = gzip_body(packed).ok_or("the gzip header is malformed")?;
    let mut out = Unpacked::new(packed, room, GZIP_WINDOW)?;
    let (mut decoder, mut window, mut at) = (Box::new(core::DecompressorOxide::new()), vec![0; GZIP_WINDOW], 0);
    loop {
        let flags = core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
        let (status, taken, made) = core::decompress(&mut decoder, body, &mut window, at, flags);
        out.push(window.get(at..at + made).unwrap_or_default())?;
        body = body.get(taken..).unwrap_or_default();
        at = (at + made) % GZIP_WINDOW;
        match status {
            TINFLStatus::Done => return Ok(out.bytes),
            TINFLStatus::HasMoreOutput => {}
            TINFLStatus::NeedsMoreInput => return Err("gzip: the stream ends too early".into()),
            _ => return Err("gzip: the stream is damaged".into()),
        }
    }
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

fn unxz(packed: &[u8], room: usize) -> Result<Vec<u8>, String> {
    use xz4rust::{XzDecoder, XzNextBlockResult};
    let mut out = Unpacked::new(packed, room, XZ_DICTIONARY)?;
    let mut decoder: Box<XzDecoder<'_>> = XzDecoder::in_heap_with_alloc_dict_size(1 << 16, XZ_DICTIONARY / 2);
    let (mut read, mut piece) = (0, vec![0; 1 << 16]);
    loop {
        let rest = packed.get(read..).unwrap_or_default();
        let (taken, made, ended) = match decoder.decode(rest, &mut piece) {
            Ok(XzNextBlockResult::NeedMoreData(taken, made)) => (taken, made, false),
            Ok(XzNextBlockResult::EndOfStream(taken, made)) => (taken, made, true),
            Err(error) => return Err(format!("XZ: {error:?}")),
        };
        read += taken;
        out.push(piece.get(..made).unwrap_or_default())?;
        if ended {
            return Ok(out.bytes);
        }
        if taken == 0 && made == 0 {
            return Err("XZ: the stream ends too early".into());
        }
    }
}

fn unzstd(packed: &[u8], room: usize) -> Result<Vec<u8>, String> {
    let mut out = Unpacked::new(packed, room, ZSTD_WINDOW)?;
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| format!("Zstandard: {error}"))?;
    let mut piece = vec![0; 1 << 16];
    loop {
        let made = decoder.read(&mut piece).map_err(|error| format!("Zstandard: {error}"))?;
        if made == 0 {
            return Ok(out.bytes);
        }
        out.push(piece.get(..made).unwrap_or_default())?;
    }
}

fn too_large(room: usize) -> String {
    format!("dom0 has too little memory to unpack it: {} MiB; give it more (dom0_mem=)", room >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::{Command, Stdio};

    const ROOM: usize = 128 << 20;

    /// An ELF-like file that is easy to pack; x86 calls in it exercise XZ's branch filter.
    fn sample() -> Vec<u8> {
        let mut bytes = b"\x7fELF".to_vec();
        (0..50_000u32).for_each(|i| bytes.extend_from_slice(&[0xe8, i as u8, (i >> 8) as u8, 0, 0]));
        bytes
    }

    /// Packs by the host's own tool; `None` where it is not installed.
    fn pack(tool: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
        let input = std::env::temp_dir().join(format!("oxen-{}-{}-{}", tool[0], bytes.len(), std::process::id()));
        std::fs::write(&input, bytes).unwrap();
        let stdin = std::fs::File::open(&input).unwrap();
        let out = Command::new(tool[0]).args(&tool[1..]).stdin(stdin).stderr(Stdio::null()).output().ok()?;
        out.status.success().then_some(out.stdout)
    }

    fn as_bzimage(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0u8; 1024];
        file[0x1f1] = 1;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        file[0x248..0x24c].copy_from_slice(&0u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend_from_slice(payload);
        file
    }

    #[test]
    fn every_packing_gives_the_elf_back() {
        let elf = sample();
        assert!(decompress(&elf, ROOM).as_ref() == Ok(&elf));
        assert!(decompress(&as_bzimage(&elf), ROOM).as_ref() == Ok(&elf));
        let tools: [&[&str]; 3] =
            [&["gzip", "-c"], &["xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB", "-c"], &["zstd", "-q", "-c"]];
        for tool in tools {
            let Some(packed) = pack(tool, &elf) else { continue };
            assert!(decompress(&as_bzimage(&packed), ROOM).as_ref() == Ok(&elf), "{tool:?}");
            let refusal = decompress(&packed, 100 << 10).unwrap_err();
            assert!(refusal.contains("too little memory"), "{tool:?}: {refusal}");
            let cut = &packed[..packed.len() / 2];
            assert!(decompress(cut, ROOM).is_err(), "{tool:?}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        assert!(decompress(b"hello", ROOM).unwrap_err().contains("neither an ELF"));
        assert!(decompress(&as_bzimage(b"x")[..1024], ROOM).unwrap_err().contains("truncated"));
        let mut old = as_bzimage(b"x");
        old[0x206] = 7;
        assert!(decompress(&old, ROOM).unwrap_err().contains("older than 2.08"));
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused_in_peace(at in 0usize..2000, value: u8) {
            let Some(packed) = pack(&["gzip", "-c"], &sample()[..2000]) else { return Ok(()) };
            let mut file = as_bzimage(&packed);
            let at = at % file.len();
            file[at] = value;
            let _ = decompress(&file, ROOM);
        }
    }
}
