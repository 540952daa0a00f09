//! Instructions that the hypervisor does in the guest's place, each of which leaves everything as it was.

use core::arch::asm;

use super::calls::Named;
use super::ticks;

/// Functions that measure an instruction, with what another one has read before in RAX and RDX and a number in ECX.
macro_rules! emulated {
    ($($name:ident: $before:literal, $code:literal, $number:literal;)+) => {
        /// Instructions, by the names of their rows, with what measures them.
        pub const EMULATED: [Named; [$($number),+].len()] = [$((stringify!($name), $name)),+];

        $(fn $name() -> Option<u64> {
            let (mut low, mut high): (u64, u64);
            // SAFETY: reads.
            unsafe { asm!($before, out("rax") low, out("rdx") high, in("ecx") $number) };
            // SAFETY: reads as well, or writes what was read.
            Some(ticks(|| unsafe { asm!($code, inout("rax") low, inout("rdx") high, in("ecx") $number) }))
        })+
    };
}

emulated! {
    read_cr2: "xor eax, eax", "mov rax, cr2", 0_u32;
    read_cr3: "xor eax, eax", "mov rax, cr3", 0_u32;
    read_cr4: "xor eax, eax", "mov rax, cr4", 0_u32;
    write_cr0: "mov rax, cr0", "mov cr0, rax", 0_u32;
    write_cr3: "mov rax, cr3", "mov cr3, rax", 0_u32;
    write_cr4: "mov rax, cr4", "mov cr4, rax", 0_u32;
    read_dr7: "xor eax, eax", "mov rax, dr7", 0_u32;
    write_dr7: "mov rax, dr7", "mov dr7, rax", 0_u32;
    rdmsr_efer: "xor eax, eax", "rdmsr", 0xc000_0080_u32;
    rdmsr_fs_base: "xor eax, eax", "rdmsr", 0xc000_0100_u32;
    wrmsr_fs_base: "rdmsr", "wrmsr", 0xc000_0100_u32;
    wbinvd: "xor eax, eax", "wbinvd", 0_u32;
}

/// The same where the guest's kernel may access ports.
pub fn port_word(is_write: bool) -> u64 {
    // SAFETY: by the port firmware tells how far it is: nobody minds.
    ticks(|| unsafe {
        if is_write {
            asm!("out 0x80, ax", in("ax") 0_u16, options(nomem, nostack));
        } else {
            asm!("in ax, 0x80", out("ax") _, options(nomem, nostack));
        }
    })
}
