# What is done against speculative execution on the ways in and out of ring 0, for the vcpu that runs: its `Ways` say what
# (speculation/plan.rs). Nothing of this is reached unless defend.rs has put jumps to it over the sites in macros.s.

    # In: all registers but RSP, RBX, RBP and R12 to R15 may change; RSP is `above` bytes above the block. Neither an
    # indirect branch nor a return comes before its end, and nothing behind it begins before all of it is done: a guess of
    # what the vcpu needs comes to nothing.
    .macro defend_entry above
    mov     rax, [rsp + {left_root} - \above]
    test    rax, rax
    jz      .Lall_is_here\@
    mov     cr3, rax
    mov     qword ptr [rsp + {left_root} - \above], 0
.Lall_is_here\@:
    mov     r8, [rsp + {caller_state} - \above]
    mov     r9d, [r8 + {way}]
    test    r9d, {way_barrier}
    jz      .Lno_barrier\@
    mov     ecx, {pred_cmd}
    mov     eax, {ibpb}
    xor     edx, edx
    wrmsr
.Lno_barrier\@:
    test    r9d, {way_control}
    jz      .Lno_control\@
    mov     ecx, {spec_ctrl}
    mov     eax, [r8 + {own_control}]
    xor     edx, edx
    wrmsr
.Lno_control\@:
    test    r9d, {way_returns}
    jz      .Lno_returns\@
    # As many calls as any CPU remembers; a return that is foreseen by one of them waits there for its true target.
    mov     ecx, {remembered_returns} / 2
.Lfill\@:
    call    .Lsecond\@
.Lfirst_waits\@:
    pause
    lfence
    jmp     .Lfirst_waits\@
.Lsecond\@:
    call    .Lboth\@
.Lsecond_waits\@:
    pause
    lfence
    jmp     .Lsecond_waits\@
.Lboth\@:
    dec     ecx
    jnz     .Lfill\@
    add     rsp, {remembered_returns} * 8
.Lno_returns\@:
    test    r9d, {way_history}
    jz      .Lno_history\@
    # Rounds within rounds of branches that are taken.
    mov     ecx, [r8 + {rounds}]
    mov     edx, [r8 + {rounds} + 4]
    call    .Lround\@
    jmp     .Lno_history\@
    .balign 64
.Lround\@:
    call    .Lbranches\@
    ret
    .balign 64
.Lbranches\@:
    mov     eax, edx
.Lbranch\@:
    jmp     .Ltaken\@
    nop
.Ltaken\@:
    dec     eax
    jnz     .Lbranch\@
    dec     ecx
    jnz     .Lround\@
    ret
.Lno_history\@:
    lfence
    .endm

    # Out: RAX, RCX, RDX, RSI, RDI, R8 and R9 change; RSP is at the block.
    .macro defend_exit
    mov     r8, [rsp + {caller_state}]
    mov     r9d, [r8 + {way}]
    test    r9d, {way_divider}
    jz      .Lno_divider\@
    mov     eax, 1
    xor     edx, edx
    mov     ecx, eax
    div     ecx
.Lno_divider\@:
    test    r9d, {way_control}
    jz      .Lno_control\@
    mov     ecx, {spec_ctrl}
    mov     eax, [r8 + {guests_control}]
    xor     edx, edx
    wrmsr
.Lno_control\@:
    test    r9d, {way_apart}
    jz      .Lnot_apart\@
    # The guest's root as it is now, but for what is the hypervisor's; the table of machine frames is the guest's to read.
    # Who comes in between the two roots finds in the block which one was left.
    mov     rdi, [rsp + {apart}]
    mov     rax, cr3
    movabs  rsi, {direct_map}
    add     rsi, rax
    mov     [rsp + {left_root}], rax
    mov     ecx, {shown_first}
    rep movsq
    add     rsi, {hidden} * 8
    add     rdi, {hidden} * 8
    mov     ecx, {shown_last}
    rep movsq
    mov     rax, [rsp + {apart_root}]
    mov     cr3, rax
.Lnot_apart\@:
    .endm

    # The last that is done: no register changes. A jump leads past it where nothing is left in buffers.
    .macro overwrite_buffers
.Lsite\@:
    verw    word ptr [rip + buffers_selector]
.Lpast\@:
    site    buffer_sites, .Lsite\@, .Lpast\@
    .endm

    .section .entry.defended, "ax", @progbits
    .balign 64
    .type   defended_leave, @function
defended_leave:
    defend_exit
    add     rsp, {frame}
    restore_registers
    add     rsp, 8
    overwrite_buffers
    return_to_guest

    .balign 64
    .type   defended_handler, @function
defended_handler:
    mov     rax, [rsp + {frame} + {rax}]
    .type   defended_syscall, @function
defended_syscall:
    mov     r10, rax
    defend_exit
    mov     rax, r10
    return_from_syscall overwrite_buffers

    # Any data selector that the CPU takes has VERW overwrite buffers.
    .balign 2
buffers_selector:
    .short  {hypervisor_ss}
    .text
