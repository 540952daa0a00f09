//! What the loader and the firmware hand over.

use oxen_hv::boot::cmdline;
use oxen_hv::firmware::{BootMemory, acpi as tables, handoff};

use crate::bytes::take;

/// Memory that is the input, from an address on.
struct Image {
    start: u64,
    bytes: &'static [u8],
}

impl BootMemory for Image {
    fn bytes(&self, start: u64, length: usize) -> Option<&'static [u8]> {
        let offset = usize::try_from(start.checked_sub(self.start)?).ok()?;
        self.bytes.get(offset..offset.checked_add(length)?)
    }
}

/// Runs with the input as memory, which the readers want for good: it is taken back when they are done.
fn with_memory(start: u64, input: &[u8], run: impl FnOnce(&Image)) {
    run(&Image { start, bytes: input.to_vec().leak() });
}

/// A hand-over by Multiboot 1 or 2.
pub(crate) fn multiboot(mut input: &[u8]) {
    let [which] = take(&mut input);
    let magic = if which & 1 == 0 { 0x2bad_b002 } else { 0x36d7_6289 };
    with_memory(0x1000, input, |memory| {
        if let Ok(info) = handoff::read(memory, magic, 0x1000) {
            let mut last = 0;
            for region in info.memory_map.regions() {
                assert!(region.range.start >= last && region.range.start < region.range.end, "{region:?}");
                last = region.range.end;
            }
            assert!(info.modules.iter().all(|module| module.range.start <= module.range.end));
        }
    });
}

/// ACPI's tables, from the root pointer on.
pub(crate) fn acpi(input: &[u8]) {
    with_memory(0xe_0000, input, |memory| {
        let _ = tables::read(memory, None);
        let root = memory.bytes.get(..36.min(input.len()));
        let _ = tables::read(memory, root);
    });
}

/// The hypervisor's command line.
pub(crate) fn command_line(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut complaints = 0;
    let _ = cmdline::parse(text, |word| {
        assert!(text.contains(word), "a word that was not said: {word}");
        complaints += 1;
    });
    assert!(complaints <= text.split_ascii_whitespace().count());
}
