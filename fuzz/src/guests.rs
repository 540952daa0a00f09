//! Files and texts that come with guests: kernels, configurations, dom0's archive, what a guest says.

use oxen_dom0::archive::Archive;
use oxen_dom0::config;
use oxen_dom0::guest_text;
use oxen_image::{Kernel, payload};

/// Bytes that unpacking may take.
const ROOM: usize = 16 << 20;
/// Bytes of a kernel that are looked at: a bomb is larger.
const MAX_UNPACKED: usize = 64 << 20;

/// An ELF file or a bzImage in any packing; and the same bytes as a packed ramdisk.
pub(crate) fn kernel(input: &[u8]) {
    if let Ok((image, mut kernel)) = Kernel::open(input, ROOM) {
        let mut at = 0;
        while let Ok(Some(piece)) = kernel.next_piece() {
            for (address, part) in image.parts(at, piece) {
                let end = address.checked_add(part.len() as u64);
                assert!(end.is_some(), "a part at {address:#x} of {} bytes", part.len());
            }
            at += piece.len();
            if at > MAX_UNPACKED {
                break;
            }
        }
    }
    if let Ok(ramdisk) = payload::gunzip(input, ROOM) {
        assert!(ramdisk.len() <= ROOM, "a ramdisk of {} bytes in a room of {ROOM}", ramdisk.len());
    }
}

/// A guest's configuration.
pub(crate) fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match config::parse(text) {
        Ok(guest) => assert!(!guest.name.is_empty() && guest.maxmem >= guest.memory && guest.maxvcpus >= guest.vcpus),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The archive that is dom0's second module.
pub(crate) fn archive(input: &[u8]) {
    let archive = Archive::new(input);
    let files = archive.files().count();
    assert!(files <= input.len() / 110, "each file has a head of 110 bytes");
    for file in archive.files() {
        assert!(archive.get(file.name).is_some(), "{}", file.name);
    }
}

/// A line of a guest's, as it is shown on the operator's terminal.
pub(crate) fn text(input: &[u8]) {
    for (shown, also) in [(guest_text::line(input), Some(b'\t')), (guest_text::escaped(input).limited(64), None)] {
        let shown = shown.to_string();
        assert!(shown.bytes().all(|byte| matches!(byte, b' '..=b'~') || Some(byte) == also), "{shown:?}");
    }
}
