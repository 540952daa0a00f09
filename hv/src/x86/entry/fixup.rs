//! Instructions that may fault, and where to go on when they do: with the carry flag set.

/// Two distances, each from its own place in memory.
#[repr(C)]
struct Fixup {
    instruction: i32,
    target: i32,
}

unsafe extern "C" {
    safe static fixups_start: Fixup;
    safe static fixups_end: Fixup;
}

fn table() -> &'static [Fixup] {
    let start = &raw const fixups_start;
    let count = (&raw const fixups_end as usize - start as usize) / size_of::<Fixup>();
    // SAFETY: the linker script puts all fixups, and nothing else, between the two marks.
    unsafe { core::slice::from_raw_parts(start, count) }
}

fn absolute(distance: &i32) -> u64 {
    (core::ptr::from_ref(distance) as u64).wrapping_add_signed(i64::from(*distance))
}

/// Where to go on after a fault of the instruction at `rip`.
pub(super) fn find(rip: u64) -> Option<u64> {
    table().iter().find(|f| absolute(&f.instruction) == rip).map(|f| absolute(&f.target))
}
