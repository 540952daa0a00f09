//! The hypercall page: a stub of 32 bytes for each number, which a guest calls like a function. It changes no registers
//! but those of the arguments and of the result (`arch-x86/xen-x86_64.h`), so it keeps what `syscall` itself
//! overwrites.

use crate::{
    Hypervisor,
    addr::{Mfn, PAGE_BYTES},
    domain::Domain,
    machine::Machine,
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    errno::Errno,
    hypercall::{HYPERCALL_SLOT_BYTES, Hypercall},
};

/// `push %rcx; push %r11; mov $number, %eax; syscall; pop %r11; pop %rcx; ret`: of the registers only RAX changes, and
/// kernels rely on that, although `syscall` takes RCX and R11 for itself.
const fn call(number: u8) -> [u8; 14] {
    [0x51, 0x41, 0x53, 0xb8, number, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3]
}

/// `push %rcx; push %r11; push %rax; mov $iret, %eax; syscall`: the context that `iret` takes begins with these three.
const IRET: [u8; 11] = {
    let [number, ..] = Hypercall::Iret.number().to_le_bytes();
    [0x51, 0x41, 0x53, 0x50, 0xb8, number, 0, 0, 0, 0x0f, 0x05]
};

const _: () = assert!(size_of_val(&call(0)) <= HYPERCALL_SLOT_BYTES && size_of_val(&IRET) <= HYPERCALL_SLOT_BYTES);

/// Fills a page with the stubs, of numbers that mean nothing too: those are answered `-ENOSYS`. What is behind a stub
/// traps (`int3`).
#[must_use]
pub fn page() -> [u8; PAGE_BYTES] {
    let mut page = [0xcc; PAGE_BYTES];
    for (number, slot) in (0..).zip(page.chunks_exact_mut(HYPERCALL_SLOT_BYTES)) {
        let stub = call(number);
        let code: &[u8] = if u64::from(number) == Hypercall::Iret.number() { &IRET } else { &stub };
        if let Some(place) = slot.get_mut(..code.len()) {
            place.copy_from_slice(code);
        }
    }
    page
}

impl<M: Machine> Hypervisor<M> {
    /// Fills a domain's page with the stubs.
    ///
    /// # Errors
    /// `Inval` for a frame that is not the domain's to write.
    pub fn fill_hypercall_page(&self, domain: &Domain, mfn: Mfn) -> Result<(), Errno> {
        let held = self.memory.hold_writable(mfn, domain.memory.named()).map_err(|_| Errno::Inval)?;
        for (place, byte) in self.machine().bytes(held.frame()).iter().zip(page()) {
            place.store(byte, Ordering::Relaxed);
        }
        self.memory.note_written(held.frame());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::as_conversions, reason = "small numbers")]

    use super::*;

    #[test]
    fn each_slot_calls_its_number_and_keeps_what_syscall_takes() {
        let page = page();
        for (number, slot) in page.chunks_exact(HYPERCALL_SLOT_BYTES).enumerate() {
            if number != Hypercall::Iret as usize {
                let (push, call, pop) = (&slot[..3], &slot[3..10], &slot[10..14]);
                assert_eq!(push, [0x51, 0x41, 0x53], "RCX and R11 are not kept by {number}");
                assert_eq!(call, [0xb8, number as u8, 0, 0, 0, 0x0f, 0x05]);
                assert_eq!(pop, [0x41, 0x5b, 0x59, 0xc3], "RCX and R11 do not come back from {number}");
            }
        }
        assert_eq!(page[23 * 32..23 * 32 + 11], IRET);
        assert_eq!(page.len() / HYPERCALL_SLOT_BYTES, 128);
    }
}
