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
    movl    $0x20, %eax                     # CR4: PAE
    movl    %eax, %cr4
    movl    $(early_l4 - {offset}), %eax
    movl    %eax, %cr3
    movl    $0xc0000080, %ecx               # EFER: LME, NXE, SCE
    rdmsr
    orl     $0x901, %eax
    wrmsr
    movl    $0x80010033, %eax               # CR0: PG, WP, NE, ET, MP, PE
    movl    %eax, %cr0
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
    xorl    %eax, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %fs
    movl    %eax, %gs
    movl    %eax, %ss
    movq    {stack}(%rip), %rsp
    xorl    %ebp, %ebp
    call    {start}
    ud2
    .text
