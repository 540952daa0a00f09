# What the stubs are made of; see stubs.s. Sites are instructions of at least five bytes over which defend.rs puts a jump
# at boot, where the CPU needs more than they do: to a piece of defend.s, or to one beside it that comes back behind them.

    .macro save_arguments
    push    rdi
    push    rsi
    push    rdx
    push    rcx
    push    rax
    push    r8
    push    r9
    push    r10
    push    r11
    .endm

    .macro save_registers
    save_arguments
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    .endm

    .macro restore_registers
    pop     r15
    restore_all_but_r15
    .endm

    .macro restore_all_but_r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    pop     r11
    pop     r10
    pop     r9
    pop     r8
    pop     rax
    pop     rcx
    pop     rdx
    pop     rsi
    pop     rdi
    .endm

    # Where the CPU has SMAP these three bytes become CLAC, before text turns read-only: a fault leaves AC as it was.
    .macro close_guest_memory
9:  .byte   0x0f, 0x1f, 0x00
    .pushsection .smap_sites, "a"
    .long   9b - .
    .popsection
    .endm

    .macro return_to_guest
8:  iretq
    .pushsection .fixups, "a"
    .long   8b - ., return_refused - .
    .popsection
    .endm

    # From here on all of it concerns ways in and out, and what may be put over them.
    .macro site table, place, target
    .pushsection .\table, "a"
    .long   \place - ., \target - .
    .popsection
    .endm

    # From a guest, with its registers saved. Ends with RSP and RDI at the block.
    .macro enter_from_guest
.Lsite\@:
    sub     rsp, {frame}
    mov     rdi, rsp
.Lback\@:
    .pushsection .entry.defended, "ax", @progbits
.Ldefended\@:
    defend_entry {frame}
    sub     rsp, {frame}
    mov     rdi, rsp
    jmp     .Lback\@
    .popsection
    site    defence_sites, .Lsite\@, .Ldefended\@
    .endm

    # The same where RSP is at the block already.
    .macro enter_on_own_stack vector
.Lsite\@:
    mov     rdi, rsp
    mov     esi, \vector
.Lback\@:
    .pushsection .entry.defended, "ax", @progbits
.Ldefended\@:
    defend_entry 0
    mov     rdi, rsp
    mov     esi, \vector
    jmp     .Lback\@
    .popsection
    site    defence_sites, .Lsite\@, .Ldefended\@
    .endm

    # The same where RAX holds a hypercall's number, which stands at the top of the stack as well. RCX becomes the vcpu's
    # state.
    .macro enter_by_syscall
.Lsite\@:
    mov     rcx, [rsp + {caller_state}]
.Lback\@:
    .pushsection .entry.defended, "ax", @progbits
.Ldefended\@:
    defend_entry 0
    mov     rax, [rsp]
    mov     rcx, [rsp + {caller_state}]
    jmp     .Lback\@
    .popsection
    site    defence_sites, .Lsite\@, .Ldefended\@
    .endm

    # RCX becomes the table of hypercalls, in which RAX was found to be: by guessing, unless it is waited for.
    .macro find_entries
.Lsite\@:
    mov     rcx, [rsp + {entries}]
.Lback\@:
    .pushsection .entry.defended, "ax", @progbits
.Ldefended\@:
    lfence
    mov     rcx, [rsp + {entries}]
    jmp     .Lback\@
    .popsection
    site    defence_sites, .Lsite\@, .Ldefended\@
    .endm

    # To a guest, by the registers that are saved; RSP is at the block.
    .macro leave_to_guest
.Lsite\@:
    add     rsp, {frame}
    restore_registers
    add     rsp, 8
    return_to_guest
    site    defence_sites, .Lsite\@, defended_leave
    .endm

    # From a hypercall, whose result RAX is; RBX, RBP and R12 to R15 are the guest's. RSP is at the block.
    .macro leave_by_syscall
.Lsite\@:
    return_from_syscall
    site    defence_sites, .Lsite\@, defended_syscall
    .endm

    # RCX becomes the guest's address; SYSRET with one that is not canonical would fault here and not there.
    .macro take_return_address otherwise
    mov     rcx, [rsp + {frame} + {rip}]
    movabs  r11, 0x800000000000
    add     r11, rcx
    shr     r11, 48
    jnz     \otherwise
    .endm

    # The registers that hold a call's arguments.
    .macro restore_arguments
    mov     rdi, [rsp + {frame} + {rdi}]
    mov     rsi, [rsp + {frame} + {rsi}]
    mov     rdx, [rsp + {frame} + {rdx}]
    mov     r10, [rsp + {frame} + {r10}]
    mov     r8, [rsp + {frame} + {r8}]
    mov     r9, [rsp + {frame} + {r9}]
    .endm

    # By SYSRET to the address in RCX.
    .macro sysret_to_guest overwrite
    mov     r11, [rsp + {frame} + {rflags}]
    mov     rsp, [rsp + {frame} + {rsp}]
    \overwrite
    sysretq
    .endm

    # To the guest's handler for an exception that it has just met, all of whose other registers are the guest's: RBX, RBP
    # and R12 to R15 never left. The handler finds RCX and R11 in its frame, so SYSRET does what IRET would. Its address
    # was found canonical when it was registered; should one slip through, IRET's fault is the guest's.
    .macro leave_for_handler
.Lsite\@:
    take_return_address leave_by_iret
    restore_arguments
    mov     rax, [rsp + {frame} + {rax}]
    sysret_to_guest
    site    defence_sites, .Lsite\@, defended_handler
    .endm

    .macro return_from_syscall overwrite
    restore_arguments
    cmp     dword ptr [rsp + {frame} + {entry_vector}], {syscall_vector_number}
    jne     .Lby_iret\@
    take_return_address .Lby_iret\@
    sysret_to_guest \overwrite
.Lby_iret\@:
    mov     rcx, [rsp + {frame} + {rcx}]
    mov     r11, [rsp + {frame} + {r11}]
    add     rsp, {frame} + {rip}
    \overwrite
    return_to_guest
    .endm

    # An exception inside the hypervisor, with the registers saved: it may have come between the last steps of a way out,
    # with the guest's SPEC_CTRL or a root loaded that shows nothing else. ESI is the vector; the handler keeps R12 to R14.
    .macro enter_from_inside
.Lsite\@:
    mov     rdi, rsp
    mov     rbp, rsp
.Lback\@:
    .pushsection .entry.defended, "ax", @progbits
.Ldefended\@:
    mov     rdi, rsp
    or      rdi, {stack_mask}
    sub     rdi, {stack_mask} - {block_offset}
    xor     r14d, r14d
    mov     rax, [rdi + {left_root}]
    test    rax, rax
    jz      .Lall_is_here\@
    mov     r14, cr3
    mov     cr3, rax
.Lall_is_here\@:
    cmp     byte ptr [rip + {is_controlled}], 0
    je      .Lno_control\@
    mov     ecx, {spec_ctrl}
    rdmsr
    mov     r12d, eax
    mov     r13d, edx
    or      eax, {ibrs}
    wrmsr
.Lno_control\@:
    lfence
    mov     rdi, rsp
    mov     rbp, rsp
    jmp     .Lback\@
    .popsection
    site    inside_sites, .Lsite\@, .Ldefended\@
    .endm

    # Back to where it came from, up to the error code.
    .macro leave_to_inside
.Lsite\@:
    mov     rsp, rbp
    pop     r15
.Lback\@:
    restore_all_but_r15
    .pushsection .entry.defended, "ax", @progbits
.Ldefended\@:
    cmp     byte ptr [rip + {is_controlled}], 0
    je      .Lno_control\@
    mov     ecx, {spec_ctrl}
    mov     eax, r12d
    mov     edx, r13d
    wrmsr
.Lno_control\@:
    test    r14, r14
    jz      .Lall_was_here\@
    mov     cr3, r14
.Lall_was_here\@:
    mov     rsp, rbp
    pop     r15
    jmp     .Lback\@
    .popsection
    site    inside_sites, .Lsite\@, .Ldefended\@
    .endm
