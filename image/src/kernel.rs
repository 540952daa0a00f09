//! A guest's kernel between its file and the guest's memory: what the ELF's headers and notes say is known first, the
//! rest comes piece by piece.

use alloc::vec::Vec;

use crate::payload::{PIECE, Payload, allocate};
use crate::{Image, Refusal};

/// What is read before anything is known: headers.
const HEADERS: usize = 64 << 10;
/// The farthest end of headers and notes in a packed file: up to there it stands in memory.
const MAX_HEAD: usize = 256 << 20;

/// The bytes of a kernel, from the first on.
pub struct Kernel<'a> {
    payload: Payload<'a>,
    /// What was read to understand the kernel, until it is given out.
    head: Vec<u8>,
    is_head_given: bool,
}

impl<'a> Kernel<'a> {
    /// Reads a file as far as its notes; there are `room` bytes for that.
    ///
    /// # Errors
    /// Why it cannot be a guest's kernel.
    pub fn open(file: &'a [u8], room: usize) -> Result<(Image, Self), Refusal> {
        let mut payload = Payload::open(file, room)?;
        if let Payload::Plain(elf) = payload {
            let image = Image::parse(elf)?;
            return Ok((image, Self { payload, head: Vec::new(), is_head_given: true }));
        }
        let mut head = Vec::new();
        let mut wanted = HEADERS;
        loop {
            read_up_to(&mut payload, &mut head, wanted, room)?;
            match Image::parse_head(&head) {
                Ok(image) => return Ok((image, Self { payload, head, is_head_given: false })),
                // What lies behind the head may be there when more is read, unless all is.
                Err(Refusal::Cut { what, end }) => match usize::try_from(end) {
                    Ok(end) if wanted < end && end <= MAX_HEAD && wanted <= head.len() => wanted = end,
                    _ => return Err(Refusal::Cut { what, end }),
                },
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// The next bytes; `None` behind the last.
    ///
    /// # Errors
    /// `Packing` where the file is damaged.
    pub fn next_piece(&mut self) -> Result<Option<&[u8]>, Refusal> {
        if !self.is_head_given {
            self.is_head_given = true;
            return Ok(Some(&self.head));
        }
        self.head = Vec::new();
        self.payload.next_piece()
    }
}

/// Adds pieces until there are `length` bytes, or the payload ends.
fn read_up_to(payload: &mut Payload<'_>, head: &mut Vec<u8>, length: usize, room: usize) -> Result<(), Refusal> {
    if length <= head.len() {
        return Ok(());
    }
    // What is there already, and the last piece's excess.
    let mut longer = allocate(length.saturating_add(PIECE), room)?;
    longer.clear();
    longer.append(head);
    *head = longer;
    while head.len() < length
        && let Some(piece) = payload.next_piece()?
    {
        head.extend_from_slice(piece);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// An ELF file of several pieces whose only note stands in its middle; what lies between are zeros.
    fn elf(note_at: u64, length: usize) -> Vec<u8> {
        let mut file = vec![0; length];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
        put(32, &64u64.to_le_bytes());
        // A table of sections at the file's end, as linkers put it there.
        put(40, &(length as u64 - 64).to_le_bytes());
        put(52, &[64, 0, 56, 0, 2, 0, 64, 0, 1, 0, 0, 0]);
        for (at, kind, fields) in
            [(64, 1u32, [0x1000, 0x10_0000, 0x10_0000, 0x1000, 0x2000, 4096]), (120, 4, [note_at, 0, 0, 72, 72, 4])]
        {
            put(at, &[kind, 7].map(u32::to_le_bytes).concat());
            fields.iter().enumerate().for_each(|(i, field)| put(at + 8 + i * 8, &u64::to_le_bytes(*field)));
        }
        let place = usize::try_from(note_at).unwrap();
        let notes = [(1u8, &0x10_0010u64.to_le_bytes()), (5, b"xen-3.0\0"), (8, b"generic\0")];
        for (index, (kind, value)) in notes.into_iter().enumerate() {
            put(place + 24 * index, &[4, 0, 0, 0, 8, 0, 0, 0, kind, 0, 0, 0]);
            put(place + 24 * index + 12, b"Xen\0");
            put(place + 24 * index + 16, value);
        }
        file
    }

    /// Such a file, in which the segment of notes became a section of notes.
    fn with_notes_in_a_section(length: usize) -> Vec<u8> {
        let mut file = elf(3 << 20, length);
        file[120] = 0;
        file[length - 64 + 4] = 7;
        file[length - 64 + 24..][..16].copy_from_slice(&[3u64 << 20, 72].map(u64::to_le_bytes).concat());
        file
    }

    /// The same file in a form that is read piece by piece: gzip whose one deflate block is stored in parts.
    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        let parts = bytes.chunks(0xffff);
        let count = parts.len();
        for (i, part) in parts.enumerate() {
            let length = part.len() as u16;
            file.push(u8::from(i + 1 == count));
            file.extend_from_slice(&length.to_le_bytes());
            file.extend_from_slice(&(!length).to_le_bytes());
            file.extend_from_slice(part);
        }
        file
    }

    #[test]
    fn a_packed_kernel_is_known_before_it_is_read_and_then_whole() {
        for plain in [elf(3 << 20, 5 << 20), with_notes_in_a_section(5 << 20)] {
            for file in [&plain, &packed(&plain)] {
                let (image, mut kernel) = Kernel::open(file, 64 << 20).unwrap();
                assert_eq!((image.entry, image.segments.len()), (0x10_0010, 1));
                let mut read = Vec::new();
                while let Some(piece) = kernel.next_piece().unwrap() {
                    read.extend_from_slice(piece);
                }
                assert!(read == plain);
            }
        }
    }

    #[test]
    fn notes_that_are_not_there_or_too_far_are_refused() {
        let mut far = elf(3 << 20, 5 << 20);
        far[128 + 7] = 1;
        let refusal = |file: &[u8]| Kernel::open(file, 64 << 20).map(|_| ()).unwrap_err().to_string();
        assert!(refusal(&packed(&far)).contains("the notes would end at"));
        assert!(refusal(&packed(&elf(3 << 20, 5 << 20)[..1 << 20])).contains("notes"));
        assert!(refusal(&packed(b"no kernel")).contains("not an ELF file"));
    }
}
