//! Instructions that trap where a guest's kernel executes them.

/// What a kernel may execute, privileged or not, RDI being an address where there is one.
pub(super) const INSTRUCTIONS: [&[u8]; 40] = [
    &[0xfa],                                     // cli
    &[0xfb],                                     // sti
    &[0xf4],                                     // hlt
    &[0xec],                                     // in al, dx
    &[0xed],                                     // in eax, dx
    &[0x66, 0xed],                               // in ax, dx
    &[0xee],                                     // out dx, al
    &[0xef],                                     // out dx, eax
    &[0xf3, 0x6c],                               // rep insb
    &[0xf3, 0x6e],                               // rep outsb
    &[0x6d],                                     // insd
    &[0x0f, 0x32],                               // rdmsr
    &[0x0f, 0x30],                               // wrmsr
    &[0x0f, 0xa2],                               // cpuid
    &[0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2], // Xen's cpuid
    &[0x0f, 0x22, 0xd8],                         // mov cr3, rax
    &[0x0f, 0x22, 0xc0],                         // mov cr0, rax
    &[0x0f, 0x22, 0xe0],                         // mov cr4, rax
    &[0x0f, 0x20, 0xd8],                         // mov rax, cr3
    &[0x0f, 0x20, 0xd0],                         // mov rax, cr2
    &[0x0f, 0x23, 0xf8],                         // mov dr7, rax
    &[0x0f, 0x23, 0xc0],                         // mov dr0, rax
    &[0x0f, 0x21, 0xf0],                         // mov rax, dr6
    &[0x0f, 0x01, 0xd1],                         // xsetbv
    &[0x0f, 0x06],                               // clts
    &[0x0f, 0x09],                               // wbinvd
    &[0x0f, 0x31],                               // rdtsc
    &[0x0f, 0x01, 0xf9],                         // rdtscp
    &[0xcd, 0x80],                               // int 0x80
    &[0x48, 0x89, 0x07],                         // mov [rdi], rax
    &[0x48, 0x87, 0x07],                         // xchg [rdi], rax
    &[0xf0, 0x48, 0x0f, 0xb1, 0x0f],             // lock cmpxchg [rdi], rcx
    &[0x48, 0x09, 0x07],                         // or [rdi], rax
    &[0x48, 0x21, 0x07],                         // and [rdi], rax
    &[0x48, 0x31, 0x07],                         // xor [rdi], rax
    &[0xf0, 0x48, 0x0f, 0xba, 0x2f, 1],          // lock bts [rdi], 1
    &[0xf0, 0x48, 0x0f, 0xba, 0x37, 0],          // lock btr [rdi], 0
    &[0x48, 0xc7, 0x07, 7, 0x10, 0, 0],          // mov qword [rdi], 0x1007
    &[0x88, 0x07],                               // mov [rdi], al
    &[0x89, 0x07],                               // mov [rdi], eax
];

/// Vectors of the exceptions that a CPU raises in guest code.
pub(super) const VECTORS: [u8; 8] = [13, 13, 13, 6, 1, 3, 7, 12];
