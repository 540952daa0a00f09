//! The straight-line code that the CPU enters: saves the registers, calls one function, restores them.
//!
//! A guest's registers always land at the same place, the [`CpuBlock`](crate::x86::percpu::CpuBlock) at the top of the
//! stack. GS and the data selectors stay the guest's throughout; the hypervisor uses none of them.

use super::super::percpu::{FRAME_OFFSET, STACK_BYTES};
use super::{exception, syscall};
use core::arch::global_asm;
use core::mem::offset_of;
use oxen_abi::segments::{FLAT_USER_CS, FLAT_USER_CS32, FLAT_USER_SS};
use oxen_hv::domain::regs::Regs;

global_asm!(
    r#"
    .macro save_registers
    push    rdi
    push    rsi
    push    rdx
    push    rcx
    push    rax
    push    r8
    push    r9
    push    r10
    push    r11
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    .endm

    .macro restore_registers
    pop     r15
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
    .long   8b - ., refused_return - .
    .popsection
    .endm

    # An exception with its own straight line, for those that guests take often.
    .macro exception vector, has_error_code, handler={guest_exception}
exception_\vector:
    .ifeq \has_error_code
    push    0
    .endif
    save_registers
    close_guest_memory
    cld
    test    byte ptr [rsp + {cs}], 3
    jz      1f
    mov     rdi, rsp
    mov     esi, \vector
    push    rax
    call    \handler
    add     rsp, 8
    restore_registers
    add     rsp, 8
    return_to_guest
1:  mov     esi, \vector
    jmp     fault_inside
    .endm

    # An exception on a stack of its own: it may have come anywhere, between SYSCALL and the switch of stacks even.
    .macro fault_on_own_stack vector, has_error_code
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
    add     rdi, {frame_from_mask}
    mov     rsp, rdi
    mov     ecx, {frame_words}
    rep movsq
    mov     rdi, rsp
    mov     esi, \vector
    push    rax
    call    {guest_exception}
    add     rsp, 8
    jmp     restore_and_return
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
fault_inside:
    mov     rdi, rsp
    mov     rbp, rsp
    and     rsp, -16
    call    {hypervisor_exception}
    mov     rsp, rbp
    restore_registers
    add     rsp, 8
    iretq

    # Device interrupts: 16 bytes each, the vector in the error code's place.
    .balign 16
interrupt_stubs:
    .set    vector, 32
    .rept   224
    .balign 16
    push    vector
    jmp     interrupt
    .set    vector, vector + 1
    .endr

    .balign 16
interrupt:
    save_registers
    close_guest_memory
    cld
    mov     rdi, rsp
    mov     rbp, rsp
    and     rsp, -16
    call    {interrupt_from_anywhere}
    mov     rsp, rbp
    restore_registers
    add     rsp, 8
    test    byte ptr [rsp + 8], 3
    jz      2f
    return_to_guest
2:  iretq

    .balign 16
    .globl  restore_and_return
restore_and_return:
    restore_registers
    add     rsp, 8
    return_to_guest

    # The CPU took neither the selectors nor the addresses in the guest's frame: the registers are the guest's already, so
    # the frame is made again and somebody decides.
refused_return:
    push    0
    save_registers
    mov     rdi, rsp
    push    rax
    call    {refused_return}
    add     rsp, 8
    jmp     restore_and_return

    # SYSCALL of a 64-bit guest on the boot CPU. RCX and R11 hold RIP and RFLAGS; no register is free but RSP itself.
    .balign 64
    .globl  boot_cpu_syscall
boot_cpu_syscall:
    mov     [rip + boot_cpu_stack + {frame_offset} + {rsp}], rsp
    lea     rsp, [rip + boot_cpu_stack + {frame_offset} + {rsp}]
    mov     qword ptr [rsp + 8], {user_ss}
    push    r11
    push    {user_cs}
    push    rcx
    push    0
    mov     dword ptr [rsp + 4], {syscall_vector}
    save_registers
    mov     rdi, rsp
    push    rax
    call    {guest_syscall}
    test    al, al
    jz      3f
    # Nothing but RAX and the argument registers changed: what the callee keeps is the guest's still.
    mov     rcx, [rsp + 8 + {rip}]
    mov     r11, [rsp + 8 + {rflags}]
    mov     rdi, [rsp + 8 + {rdi}]
    mov     rsi, [rsp + 8 + {rsi}]
    mov     rdx, [rsp + 8 + {rdx}]
    mov     r10, [rsp + 8 + {r10}]
    mov     r8, [rsp + 8 + {r8}]
    mov     r9, [rsp + 8 + {r9}]
    mov     rax, [rsp + 8 + {rax}]
    mov     rsp, [rsp + 8 + {rsp}]
    sysretq
3:  add     rsp, 8
    jmp     restore_and_return

    # SYSCALL of a 32-bit program, which only AMD's CPUs have.
    .balign 16
    .globl  boot_cpu_syscall32
boot_cpu_syscall32:
    mov     [rip + boot_cpu_stack + {frame_offset} + {rsp}], rsp
    lea     rsp, [rip + boot_cpu_stack + {frame_offset} + {rsp}]
    mov     qword ptr [rsp + 8], {user_ss}
    push    r11
    push    {user_cs32}
    push    rcx
    push    0
    mov     dword ptr [rsp + 4], {syscall_vector}
    save_registers
    mov     rdi, rsp
    push    rax
    call    {guest_syscall32}
    add     rsp, 8
    jmp     restore_and_return

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
    "#,
    cs = const offset_of!(Regs, cs),
    rip = const offset_of!(Regs, rip),
    rflags = const offset_of!(Regs, rflags),
    rsp = const offset_of!(Regs, rsp),
    rdi = const offset_of!(Regs, rdi),
    rsi = const offset_of!(Regs, rsi),
    rdx = const offset_of!(Regs, rdx),
    r10 = const offset_of!(Regs, r10),
    r8 = const offset_of!(Regs, r8),
    r9 = const offset_of!(Regs, r9),
    rax = const offset_of!(Regs, rax),
    frame_offset = const FRAME_OFFSET,
    frame_words = const size_of::<Regs>() / 8,
    stack_mask = const STACK_BYTES - 1,
    frame_from_mask = const FRAME_OFFSET as isize - (STACK_BYTES as isize - 1),
    user_ss = const FLAT_USER_SS,
    user_cs = const FLAT_USER_CS,
    user_cs32 = const FLAT_USER_CS32,
    syscall_vector = const Regs::SYSCALL_VECTOR,
    guest_exception = sym exception::guest_exception,
    guest_page_fault = sym exception::guest_page_fault,
    hypervisor_exception = sym exception::hypervisor_exception,
    interrupt_from_anywhere = sym exception::interrupt,
    refused_return = sym exception::refused_return,
    guest_syscall = sym syscall::guest_syscall,
    guest_syscall32 = sym syscall::guest_syscall32,
);
