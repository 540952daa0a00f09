//! From a kernel file as distributions ship it to the ELF inside: bzImage, then gzip, XZ, Zstandard or LZ4.

mod stream;

use alloc::{boxed::Box, format, vec, vec::Vec};

use crate::Refusal;
pub use stream::Unpack;
pub(crate) use stream::allocate;
use stream::{Gzip, Lz4, Xz, Zstd, packing};

/// How much is unpacked at a time.
pub(crate) const PIECE: usize = 1 << 20;
/// What an LZ4 legacy frame begins with.
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Packings that Linux knows and that are not unpacked here, by their first bytes.
const UNSUPPORTED: [(&[u8], &str); 3] =
    [(b"BZh", "bzip2"), (&[0x5d, 0, 0], "LZMA"), (&[0x89, b'L', b'Z', b'O'], "LZO")];

/// The ELF in a file, piece by piece.
pub enum Payload<'a> {
    /// It stands there as it is.
    Plain(&'a [u8]),
    /// It is unpacked as it is read.
    Packed {
        /// The unpacker.
        unpack: Box<dyn Unpack + 'a>,
        /// What it makes.
        piece: Vec<u8>,
    },
}

impl<'a> Payload<'a> {
    /// Looks what `file` is: an ELF file, or a bzImage or a packed file with one. There are `room` bytes for unpacking.
    ///
    /// # Errors
    /// `Packing` where it is none of those, or damaged; `Memory`.
    pub fn open(file: &'a [u8], room: usize) -> Result<Self, Refusal> {
        let payload = bzimage_payload(file)?.unwrap_or(file);
        let unpack: Box<dyn Unpack + 'a> = match payload {
            [0x7f, b'E', b'L', b'F', ..] => return Ok(Self::Plain(payload)),
            [0x1f, 0x8b, 8, ..] => Box::new(Gzip::new(payload)?),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(Xz::new(payload, room)?),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(Zstd::new(payload, room)?),
            _ if payload.starts_with(&LZ4_MAGIC) => Box::new(Lz4::new(payload, room)?),
            _ => return Err(unknown(payload)),
        };
        Ok(Self::Packed { unpack, piece: vec![0; PIECE] })
    }

    /// The next bytes; `None` behind the last.
    ///
    /// # Errors
    /// As [`Unpack::read`].
    pub fn next_piece(&mut self) -> Result<Option<&[u8]>, Refusal> {
        match self {
            Self::Plain(rest) => {
                let (piece, behind) = rest.split_at(rest.len().min(PIECE));
                *rest = behind;
                Ok(Some(piece).filter(|piece| !piece.is_empty()))
            }
            Self::Packed { unpack, piece } => {
                let made = unpack.read(piece)?;
                Ok(piece.get(..made).filter(|piece| !piece.is_empty()))
            }
        }
    }
}

/// Why a file is no kernel.
fn unknown(payload: &[u8]) -> Refusal {
    packing(match UNSUPPORTED.iter().find(|(magic, _)| payload.starts_with(magic)) {
        Some((_, name)) => {
            format!("the kernel is packed with {name}, which is not supported; gzip, XZ, Zstandard and LZ4 are")
        }
        None => "the kernel is neither an ELF file nor a bzImage, nor packed with gzip, XZ, Zstandard or LZ4".into(),
    })
}

/// Unpacks a ramdisk that is packed with gzip, for which there are `room` bytes.
///
/// # Errors
/// `Packing` where it is damaged; `Memory`.
pub fn gunzip(packed: &[u8], room: usize) -> Result<Vec<u8>, Refusal> {
    // gzip says at its end what it unpacks to.
    let size = packed.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut bytes = allocate(size, room)?;
    let (mut gzip, mut done) = (Gzip::new(packed)?, 0);
    loop {
        match gzip.read(bytes.get_mut(done..).unwrap_or_default())? {
            0 => break,
            made => done += made,
        }
    }
    if done == size && gzip.read(&mut [0])? == 0 { Ok(bytes) } else { Err(packing("gzip: the sizes disagree")) }
}

/// Where a Linux bzImage keeps its packed kernel (boot protocol 2.08 and later); `None` for other files.
fn bzimage_payload(file: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    if file.get(0x202..0x206) != Some(b"HdrS") {
        return Ok(None);
    }
    let word = |at: usize| file.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let version = file.get(0x206..0x208).map(|b| b.iter().rev().fold(0u32, |v, &b| v << 8 | u32::from(b)));
    if version.is_none_or(|v| v < 0x208) {
        return Err(packing("the bzImage's boot protocol is older than 2.08: it does not say where its kernel is"));
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
    found.map(Some).ok_or_else(|| packing("the bzImage is truncated: its kernel lies beyond the end of the file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::{Command, Stdio};

    const ROOM: usize = 256 << 20;

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

    fn decompress(file: &[u8], room: usize) -> Result<Vec<u8>, Refusal> {
        let mut payload = Payload::open(file, room)?;
        let mut bytes = Vec::new();
        while let Some(piece) = payload.next_piece()? {
            bytes.extend_from_slice(piece);
        }
        Ok(bytes)
    }

    #[test]
    fn every_packing_gives_the_elf_back() {
        let elf = sample();
        assert!(decompress(&elf, ROOM).as_ref() == Ok(&elf));
        assert!(decompress(&as_bzimage(&elf), ROOM).as_ref() == Ok(&elf));
        let tools: [&[&str]; 5] = [
            &["gzip", "-c"],
            &["xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB", "-c"],
            &["zstd", "-q", "-c"],
            &["zstd", "-q", "-22", "--ultra", "-c"],
            &["lz4", "-l", "-c"],
        ];
        for tool in tools {
            let Some(mut packed) = pack(tool, &elf) else { continue };
            assert!(decompress(&packed, ROOM).as_ref() == Ok(&elf), "{tool:?}");
            let cut = &packed[..packed.len() / 2];
            assert!(decompress(cut, ROOM).is_err(), "{tool:?}");
            // Linux's build appends the size to all but gzip's.
            if tool[0] != "gzip" {
                packed.extend_from_slice(&(elf.len() as u32).to_le_bytes());
            }
            assert!(decompress(&as_bzimage(&packed), ROOM).as_ref() == Ok(&elf), "{tool:?}");
        }
    }

    #[test]
    fn too_little_memory_is_said_with_what_it_takes() {
        for tool in [&["xz", "--lzma2=dict=32MiB", "-c"][..], &["zstd", "-q", "--long=25", "-c"], &["lz4", "-l", "-c"]]
        {
            let Some(packed) = pack(tool, &sample()) else { continue };
            let refusal = decompress(&packed, 1 << 20).unwrap_err().to_string();
            let says = |text: &str| refusal.contains(text);
            assert!(says("MiB at a time, 1 MiB are free"), "{tool:?}: {refusal}");
        }
    }

    #[test]
    fn a_ramdisk_is_unpacked_whole_or_not_at_all() {
        let Some(mut packed) = pack(&["gzip", "-c"], &sample()) else { return };
        assert!(gunzip(&packed, ROOM).as_ref() == Ok(&sample()));
        assert!(matches!(gunzip(&packed, 100 << 10), Err(Refusal::Memory { .. })));
        let length = packed.len();
        packed[length - 4] ^= 1;
        assert!(gunzip(&packed, ROOM).is_err());
        assert!(gunzip(&packed[..length / 2], ROOM).is_err());
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        assert!(decompress(b"hello", ROOM).unwrap_err().to_string().contains("neither an ELF"));
        assert!(decompress(&as_bzimage(b"x")[..1024], ROOM).unwrap_err().to_string().contains("truncated"));
        for (packed, name) in [(&b"BZh91AY"[..], "bzip2"), (&[0x5d, 0, 0, 0x80], "LZMA"), (b"\x89LZO\0", "LZO")] {
            assert!(
                decompress(&as_bzimage(packed), ROOM)
                    .unwrap_err()
                    .to_string()
                    .contains(&format!("packed with {name},"))
            );
        }
        let mut old = as_bzimage(b"x");
        old[0x206] = 7;
        assert!(decompress(&old, ROOM).unwrap_err().to_string().contains("older than 2.08"));
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused_in_peace(at in 0usize..2000, value: u8, tool in 0usize..4) {
            let tools: [&[&str]; 4] = [&["gzip", "-c"], &["xz", "-c"], &["zstd", "-q", "-c"], &["lz4", "-l", "-c"]];
            let Some(packed) = pack(tools[tool], &sample()[..2000]) else { return Ok(()) };
            let mut file = as_bzimage(&packed);
            let at = at % file.len();
            file[at] = value;
            let _ = decompress(&file, ROOM);
        }
    }
}
