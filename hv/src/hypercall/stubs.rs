//! The hypercall page: a stub of 32 bytes for each number, which a guest calls like a function. It changes no registers but
//! those of the arguments and of the result (`arch-x86/xen-x86_64.h`), so it keeps what `syscall` itself overwrites.

use crate::addr::PAGE_BYTES;
use oxen_abi::hypercall::{HYPERCALL_SLOT_BYTES, Hypercall};

/// `push %rcx; push %r11; mov $number, %eax; syscall; pop %r11; pop %rcx; ret`
const fn call(number: u8) -> [u8; 14] {
    [0x51, 0x41, 0x53, 0xb8, number, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3]
}

/// `push %rcx; push %r11; push %rax; mov $iret, %eax; syscall`: the context that `iret` takes begins with these three.
const IRET: [u8; 11] = [0x51, 0x41, 0x53, 0x50, 0xb8, Hypercall::Iret as u8, 0, 0, 0, 0x0f, 0x05];

/// Fills a page with the stubs; what is no hypercall traps (`int3`).
#[must_use]
pub fn page() -> [u8; PAGE_BYTES] {
    let mut page = [0xcc; PAGE_BYTES];
    for (number, slot) in page.chunks_exact_mut(HYPERCALL_SLOT_BYTES).enumerate().take(64) {
        let stub = call(number as u8);
        let code: &[u8] = if number == Hypercall::Iret as usize { &IRET } else { &stub };
        if let Some(place) = slot.get_mut(..code.len()) {
            place.copy_from_slice(code);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_calls_its_number_and_keeps_what_syscall_overwrites() {
        let page = page();
        let call = [0x51, 0x41, 0x53, 0xb8, 17, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3, 0xcc];
        assert_eq!(page[17 * 32..17 * 32 + 15], call);
        assert_eq!(page[23 * 32..23 * 32 + 3], [0x51, 0x41, 0x53]);
    }
}
