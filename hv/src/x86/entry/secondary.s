# From real mode, where a CPU starts, to Rust; see secondary.rs.

    .section .rodata.trampoline, "a", @progbits
    .balign 16
    .globl  trampoline_start, trampoline_end
    .code16
trampoline_start:
    cli
    cld
    movw    %cs, %ax
    movw    %ax, %ds
    lgdtl   .Lgdt_pointer - trampoline_start
    movl    $0x11, %eax                     # CR0: PE, ET; caches on
    movl    %eax, %cr0
    ljmpl   $0x08, $({page} + .Lprotected - trampoline_start)

    .code32
.Lprotected:
    enable_paging
    ljmp    $0x10, $({page} + .Llong - trampoline_start)

    .code64
.Llong:
    movabsq $.Lhigh_secondary, %rax
    jmpq    *%rax

    .balign 8
.Lgdt:
    .quad   0
    .quad   0x00cf9b000000ffff              # 08: 32-bit code
    .quad   0x00af9b000000ffff              # 10: 64-bit code
.Lgdt_pointer:
    .short  23
    .long   {page} + .Lgdt - trampoline_start
trampoline_end:

    .section .entry.text, "ax", @progbits
    .balign 16
.Lhigh_secondary:
    clear_selectors
    movq    {secondary_stack}(%rip), %rsp
    xorl    %ebp, %ebp
    call    {secondary_start}
    ud2
    .text
