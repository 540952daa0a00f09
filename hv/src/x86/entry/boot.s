# From the boot loader to Rust; see boot.rs.

    # From protected mode without paging to long mode on the boot tables; a far jump to 64-bit code is to follow.
    .macro  enable_paging
    movl    $0x20, %eax                     # CR4: PAE
    movl    %eax, %cr4
    movl    $(early_l4 - {offset}), %eax
    movl    %eax, %cr3
    movl    $0xc0000080, %ecx               # EFER: LME, NXE, SCE
    rdmsr
    orl     $0x901, %eax
    wrmsr
    movl    $0x80050033, %eax               # CR0: PG, AM, WP, NE, ET, MP, PE
    movl    %eax, %cr0
    .endm

    .macro  clear_selectors
    xorl    %eax, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %fs
    movl    %eax, %gs
    movl    %eax, %ss
    .endm

    .section .boot.header, "ax", @progbits
    .balign 8
multiboot1_header:
    .long {mb1_magic}
    .long {mb1_flags}
    .long -({mb1_magic} + {mb1_flags})
    .long multiboot1_header - {offset}      # header_addr
    .long image_start - {offset}            # load_addr
    .long data_end - {offset}               # load_end_addr
    .long image_end - {offset}              # bss_end_addr
    .long boot_entry - {offset}             # entry_addr

    .balign 8
multiboot2_header:
    .long {mb2_magic}
    .long 0                                 # architecture: i386
    .long multiboot2_end - multiboot2_header
    .long -({mb2_magic} + (multiboot2_end - multiboot2_header))
    .short 1, 0                             # information request: memory map, modules, both ACPI pointers
    .long 24
    .long 6, 3, 14, 15
    .short 3, 0                             # entry address, for the segments' physical addresses
    .long 12
    .long boot_entry - {offset}
    .balign 8
    .short 6, 0                             # modules on page boundaries
    .long 8
    .short 0, 0
    .long 8
multiboot2_end:

    .section .boot.text, "ax", @progbits
    .code32
    .globl boot_entry
    .type   boot_entry, @function
boot_entry:
    cli
    cld
    movl    %eax, %ebp
    movl    %ebx, %esi

    movl    $(bss_start - {offset}), %edi
    movl    $(image_end - {offset}), %ecx
    subl    %edi, %ecx
    shrl    $2, %ecx
    xorl    %eax, %eax
    rep stosl

    # A CPU without long mode or without NX cannot run us.
    movl    $0x80000001, %eax
    cpuid
    andl    $((1 << 29) | (1 << 20)), %edx
    cmpl    $((1 << 29) | (1 << 20)), %edx
    jne     .Lunfit

    # The first 4 GiB in 2 MiB pages: present, writable, accessed, dirty, large.
    movl    $(early_l2 - {offset}), %edi
    movl    $0xe3, %eax
    movl    $2048, %ecx
1:  movl    %eax, (%edi)
    movl    $0, 4(%edi)
    addl    $0x200000, %eax
    addl    $8, %edi
    decl    %ecx
    jnz     1b

    enable_paging
    lgdt    early_gdt_pointer - {offset}
    ljmp    $0x08, $(.Llong_mode - {offset})

.Lunfit:
    movl    $(.Lunfit_text - {offset}), %esi
    movl    $0x3f8, %edx
2:  lodsb
    testb   %al, %al
    jz      3f
    outb    %al, %dx
    jmp     2b
3:  hlt
    jmp     3b
.Lunfit_text:
    .asciz  "Oxen needs a CPU with long mode and no-execute pages\r\n"

    .code64
.Llong_mode:
    movabsq $.Lhigh, %rax
    jmpq    *%rax
.Lhigh:
    clear_selectors
    leaq    boot_cpu_stack + {stack_top}(%rip), %rsp
    movl    %ebp, %edi
    xorl    %ebp, %ebp
    call    {start}
    ud2

    .balign 8
early_gdt:
    .quad   0
    .quad   0x00af9b000000ffff
early_gdt_pointer:
    .short  15
    .long   early_gdt - {offset}

    # Bit 0 present, 1 writable, 5 accessed; bit 63 no-execute.
    .section .boot.tables, "aw", @progbits
    .balign 4096
    .globl early_l4
early_l4:
    .quad   early_l3_low - {offset} + 0x23
    .fill   260, 8, 0
    .quad   hv_l3_image - {offset} + 0x23
    .quad   hv_l3_direct - {offset} + 0x23 + (1 << 63)
    .fill   249, 8, 0
    .globl early_l3_low
early_l3_low:
    .quad   early_l2 - {offset} + 0x23
    .quad   early_l2 - {offset} + 0x1023
    .quad   early_l2 - {offset} + 0x2023
    .quad   early_l2 - {offset} + 0x3023
    .fill   508, 8, 0
    .globl hv_l3_direct
hv_l3_direct:
    .quad   early_l2 - {offset} + 0x23
    .quad   early_l2 - {offset} + 0x1023
    .quad   early_l2 - {offset} + 0x2023
    .quad   early_l2 - {offset} + 0x3023
    .fill   508, 8, 0
    .globl hv_l3_image
hv_l3_image:
    .fill   322, 8, 0
    .quad   hv_l2_image - {offset} + 0x23
    .fill   189, 8, 0
    .globl hv_l2_image
hv_l2_image:
    .quad   0
    .quad   0x2000e3
    .fill   510, 8, 0

    .section .bss.tables, "aw", @nobits
    .balign 4096
    .globl early_l2
early_l2:
    .skip   4 * 4096

    .section .stack, "aw", @nobits
    .balign 4096
    .globl boot_cpu_stack
boot_cpu_stack:
    .skip   {stack_bytes}
    .text
