//! Supervisor-mode access prevention: guest memory is closed to the hypervisor but while it copies.
//!
//! The code carries three-byte no-ops where a CPU with SMAP needs CLAC and STAC; they are put in once at boot, while
//! text can still be written.

use core::ptr;

/// No-op, as the assembly writes it, and what replaces it.
const CLOSE: [u8; 3] = [0x0f, 0x01, 0xca];
const OPEN: [u8; 3] = [0x0f, 0x01, 0xcb];
/// The no-op's last byte where guest memory is to be opened.
const OPENS: u8 = 0x01;

unsafe extern "C" {
    safe static smap_sites_start: i32;
    safe static smap_sites_end: i32;
}

/// Puts the instructions in.
///
/// # Safety
/// Once, on the boot CPU alone, while text is writable; the CPU must have SMAP.
pub(crate) unsafe fn enable() {
    let mut site = &raw const smap_sites_start;
    while site < &raw const smap_sites_end {
        // SAFETY: the linker script puts distances to no-ops, and nothing else, between the two marks.
        unsafe {
            let code = site.cast::<u8>().wrapping_offset(*site as isize).cast_mut();
            let opens = ptr::read(code.wrapping_add(2)) == OPENS;
            ptr::copy_nonoverlapping(if opens { OPEN.as_ptr() } else { CLOSE.as_ptr() }, code, 3);
            site = site.add(1);
        }
    }
}
