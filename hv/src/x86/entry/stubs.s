# Where the CPU enters; see stubs.rs.

    # An exception with its own straight line, for those that guests take often. The frame is 16-byte aligned but for one
    # word, and so is the block below it.
    .macro exception vector, has_error_code, handler={guest_exception}
    .type   exception_\vector, @function
exception_\vector:
    .ifeq \has_error_code
    push    0
    .endif
    save_registers
    close_guest_memory
    cld
    test    byte ptr [rsp + {cs}], 3
    jz      1f
    enter_from_guest
    .ifnc \handler,{guest_page_fault}
    mov     esi, \vector
    .endif
    call    \handler
    mov     rcx, [rsp + {shared}]
    cmp     dword ptr [rcx + {work}], 0
    jne     exception_finishes
    mov     rcx, [rsp + {caller_state}]
    mov     rcx, [rcx + {upcall_pending}]
    cmp     byte ptr [rcx], 0
    jne     3f
2:  cmp     dword ptr [rsp + {frame} + {entry_vector}], {syscall_vector_number}
    jne     leave_by_iret
    leave_for_handler
3:  cmp     byte ptr [rcx + 1], 0
    jne     2b                              # masked
    jmp     exception_finishes
1:  mov     esi, \vector
    jmp     fault_inside
    .endm

    # An exception on a stack of its own: it may have come anywhere, between SYSCALL and the switch of stacks even.
    .macro fault_on_own_stack vector, has_error_code
    .type   exception_\vector, @function
exception_\vector:
    .ifeq \has_error_code
    push    0
    .endif
    save_registers
    close_guest_memory
    cld
    mov     esi, \vector
    test    byte ptr [rsp + {cs}], 3
    jz      fault_inside
    mov     rsi, rsp
    mov     rdi, rsp
    or      rdi, {stack_mask}
    sub     rdi, {stack_mask} - {block_offset} - {frame}
    lea     rsp, [rdi - {frame}]
    mov     ecx, {frame_words}
    rep movsq
    enter_on_own_stack \vector
    call    {guest_exception_on_own_stack}
    jmp     leave
    .endm

    .section .entry.text, "ax", @progbits
    .balign 64
    exception 14, 1, {guest_page_fault}
    .balign 16
    exception 13, 1
    .balign 16
    exception 0, 0
    .balign 16
    exception 3, 0
    .balign 16
    exception 4, 0
    .balign 16
    exception 5, 0
    .balign 16
    exception 6, 0
    .balign 16
    exception 7, 0
    .balign 16
    exception 10, 1
    .balign 16
    exception 11, 1
    .balign 16
    exception 12, 1
    .balign 16
    exception 16, 0
    .balign 16
    exception 17, 1
    .balign 16
    exception 19, 0
    .balign 16
    fault_on_own_stack 1, 0
    .balign 16
    fault_on_own_stack 2, 0
    .balign 16
    fault_on_own_stack 8, 1
    .balign 16
    fault_on_own_stack 18, 0

    .balign 16
    .type   fault_inside, @function
fault_inside:
    enter_from_inside
    and     rsp, -16
    call    {hypervisor_exception}
    leave_to_inside
    add     rsp, 8
    iretq

    # Device interrupts: 16 bytes each, the vector in the error code's place.
    .balign 16
    .type   interrupt_stubs, @function
interrupt_stubs:
    .set    vector, 32
    .rept   224
    .balign 16
    push    vector
    jmp     interrupt
    .set    vector, vector + 1
    .endr

    .balign 16
    .type   interrupt, @function
interrupt:
    save_registers
    close_guest_memory
    cld
    test    byte ptr [rsp + {cs}], 3
    jz      2f
    enter_from_guest
    call    {guest_interrupt}
    jmp     leave
2:  mov     rdi, rsp
    mov     rbp, rsp
    and     rsp, -16
    call    {idle_interrupt}
    mov     rsp, rbp
    restore_registers
    add     rsp, 8
    iretq

    # Something waits, which may be masked, and may put another vcpu on this CPU.
    .balign 16
    .type   exception_finishes, @function
exception_finishes:
    mov     rdi, rsp
    call    {finish}

    .globl  leave
    .type   leave, @function
leave:
    cmp     dword ptr [rsp + {frame} + {entry_vector}], {syscall_vector_number}
    jne     leave_by_iret
    # In a program, SS may have to be as IRET makes it: AMD's SYSRET leaves of it what an interrupt has put there, and
    # 32-bit code, to which the program may jump, is not content with that.
    mov     rcx, [rsp + {caller_state}]
    cmp     byte ptr [rcx + {in_kernel}], 0
    je      leave_by_iret
    mov     rbx, [rsp + {frame} + {rbx}]
    mov     rbp, [rsp + {frame} + {rbp}]
    mov     r12, [rsp + {frame} + {r12}]
    mov     r13, [rsp + {frame} + {r13}]
    mov     r14, [rsp + {frame} + {r14}]
    mov     r15, [rsp + {frame} + {r15}]
    mov     rax, [rsp + {frame} + {rax}]
    leave_by_syscall

    .balign 16
    .type   leave_by_iret, @function
leave_by_iret:
    leave_to_guest

    # The CPU took neither the selectors nor the addresses in the guest's frame: the registers are the guest's already, so
    # the frame is made again and somebody decides.
    .globl  return_refused
    .type   return_refused, @function
return_refused:
    push    0
    save_registers
    enter_from_guest
    call    {refused_return}
    jmp     leave

    # From SYSCALL to the CPU's stack. RCX and R11 hold RIP and RFLAGS; no register is free but RSP itself.
    .macro syscall_entry stack
    mov     [rip + \stack + {block_offset} + {frame} + {rsp}], rsp
    lea     rsp, [rip + \stack + {block_offset} + {frame} + {rsp}]
    .endm

    # What SYSCALL does not push.
    .macro push_return_frame cs
    mov     qword ptr [rsp + 8], {user_ss}
    push    r11
    push    \cs
    push    rcx
    push    [rip + syscall_vector]
    .endm

    # SYSCALL of a 64-bit guest. What Rust keeps over a call is pushed only where somebody may look at it.
    .balign 64
    .globl  boot_cpu_syscall
    .type   boot_cpu_syscall, @function
boot_cpu_syscall:
    syscall_entry boot_cpu_stack
syscall64:
    push_return_frame {user_cs}
    save_arguments
    sub     rsp, 6 * 8
    push    r9
    push    r8
    push    r10
    push    rdx
    push    rsi
    push    rdi
    push    rax                             # keeps the block where it is
    enter_by_syscall
    cmp     byte ptr [rcx + {in_kernel}], 0
    je      from_user_mode
    cmp     rax, {numbers}
    jae     unknown_hypercall
    lea     rdi, [rsp + {caller}]
    lea     rsi, [rsp + {args}]
    find_entries
    call    [rcx + rax * 8]
    test    edx, edx
    jnz     unanswered_hypercall
answered:
    mov     rcx, [rsp + {caller_state}]
    mov     rcx, [rcx + {upcall_pending}]
    cmp     byte ptr [rcx], 0
    jne     upcall_waits
no_upcall:
    mov     rcx, [rsp + {shared}]
    cmp     dword ptr [rcx + {work}], 0
    jne     work_waits
    leave_by_syscall

    .macro complete_frame
    mov     [rsp + {frame} + {rbx}], rbx
    mov     [rsp + {frame} + {rbp}], rbp
    mov     [rsp + {frame} + {r12}], r12
    mov     [rsp + {frame} + {r13}], r13
    mov     [rsp + {frame} + {r14}], r14
    mov     [rsp + {frame} + {r15}], r15
    .endm

from_user_mode:
    mov     rdi, rsp
    call    {user_syscall}
    mov     rax, [rsp + {frame} + {rax}]
    jmp     answered
unknown_hypercall:
    mov     rax, {no_such_call}
    jmp     answered
upcall_waits:
    cmp     byte ptr [rcx + 1], 0
    jne     no_upcall                       # masked
    mov     [rsp + {frame} + {rax}], rax
    mov     rdi, rsp
    call    {deliver}
    mov     rax, [rsp + {frame} + {rax}]
    jmp     no_upcall
work_waits:
    mov     [rsp + {frame} + {rax}], rax
    complete_frame
    mov     rdi, rsp
    call    {finish}
    jmp     leave
unanswered_hypercall:
    complete_frame
    mov     rdi, rsp
    mov     rsi, rdx
    call    {unanswered}
    jmp     leave

    # A program asks its kernel, by another way than that of 64-bit programs.
    .macro enter_kernel_by handler
    save_registers
    enter_from_guest
    call    \handler
    jmp     leave
    .endm

    # SYSCALL of a 32-bit program, which only AMD's CPUs have.
    .balign 16
    .globl  boot_cpu_syscall32
    .type   boot_cpu_syscall32, @function
boot_cpu_syscall32:
    syscall_entry boot_cpu_stack
syscall32:
    push_return_frame {user_cs32}
    enter_kernel_by {user_syscall32}

    # SYSENTER, which only Intel's CPUs have here: on this CPU's stack already, with IF clear and all else as it was. It
    # tells neither RIP nor RSP.
    .balign 16
    .globl  sysenter_entry
    .type   sysenter_entry, @function
sysenter_entry:
    push    {user_ss}
    push    0
    pushfq
    push    {user_cs32}
    push    0
    push    [rip + syscall_vector]
    push    2
    popfq
    enter_kernel_by {user_sysenter}

    # The same for every other CPU, whose stacks follow one another: {secondary_stub_bytes} bytes for each of the two ways.
    .macro secondary_entries numbers:vararg
    .irp    number, \numbers
    .balign {secondary_stub_bytes}
    syscall_entry secondary_stacks + \number * {stack_bytes}
    jmp     syscall64
    .balign {secondary_stub_bytes}
    syscall_entry secondary_stacks + \number * {stack_bytes}
    jmp     syscall32
    .endr
    .endm
    .balign {secondary_stub_bytes}
    .globl  secondary_syscalls
secondary_syscalls:
    secondary_entries 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    secondary_entries 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
    .globl  secondary_syscalls_end
secondary_syscalls_end:

    # An error code of 0, and the vector that stands for SYSCALL: beside the ways in, which may be all that is mapped.
    .balign 8
syscall_vector:
    .long   0, {syscall_vector_number}

    .section .rodata
    .balign 8
    .globl  exception_stubs
exception_stubs:
    .quad   exception_0, exception_1, exception_2, exception_3, exception_4, exception_5, exception_6, exception_7
    .quad   exception_8, 0, exception_10, exception_11, exception_12, exception_13, exception_14, 0
    .quad   exception_16, exception_17, exception_18, exception_19
    .globl  first_interrupt_stub
first_interrupt_stub:
    .quad   interrupt_stubs
    .text
