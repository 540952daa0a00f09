//! Exceptions and event upcalls: the assembly between the hypervisor's bounce frame and Rust.
//!
//! A bounce frame is `rcx, r11, [error code], rip, cs, rflags, rsp, ss`, lowest address first. The privilege of what
//! was interrupted stands in the low bits of `cs`: 0 for this kernel, 3 for user code. The way back is the iret
//! hypercall, whose slot of the page expects `flags` in front of the frame and the registers in place.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::hypercall::{HYPERCALL_SLOT_BYTES, Hypercall};
use oxen_abi::{callback, sched, segments, trap};

use static_assertions::const_assert;
use zerocopy::FromZeros;

use super::frame::{Fault, Frame};
use super::user;
use crate::raw::hypercall::page::hypercall_page;
use crate::raw::hypercall::{call, call1, call2};
use crate::raw::shared;

/// Vector under which a `syscall` from user code reaches [`Frame`]; beyond what exceptions use.
pub(crate) const SYSCALL: u64 = 256;
/// Vector under which an event upcall from user code reaches [`Frame`].
pub(crate) const EVENT: u64 = 257;

const CS_OFFSET: usize = core::mem::offset_of!(Frame, cs);
// What the assembly below pushes: 15 registers, vector and error code, and the processor's five words.
const_assert!(CS_OFFSET == 144 && core::mem::size_of::<Frame>() == 176);

unsafe extern "C" {
    fn oxen_event_entry();
    fn oxen_failsafe_entry();
    fn oxen_syscall_entry();
    fn oxen_probe_read_at();
    fn oxen_probe_write_at();
    fn oxen_probe_failed();
    static oxen_trap_entries: [u64; 32];
}

global_asm!(
    ".pushsection .text.trap, \"ax\", @progbits",
    // Where the hypervisor pushes an error code: 8, 10 to 14, 17, 21.
    ".altmacro",
    ".macro oxen_trap vector",
    "oxen_trap_\\vector:",
    "pop rcx",
    "pop r11",
    ".if (0x227d00 >> \\vector) & 1 == 0",
    "push 0",
    ".endif",
    "push \\vector",
    "jmp oxen_trap_common",
    ".endm",
    ".set vector, 0",
    ".rept 32",
    "oxen_trap %vector",
    ".set vector, vector + 1",
    ".endr",
    "oxen_syscall_entry:",
    "pop rcx",
    "pop r11",
    "push 0",
    "push {syscall}",
    // The rest of a syscall frame says user mode in cs, so the common path leaves for the kernel's caller.
    "oxen_trap_common:",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push rax",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "mov rdi, rsp",
    "mov rbp, rsp",
    "and rsp, -16",
    "test byte ptr [rdi + {cs}], 3",
    "jnz 2f",
    "call {handler}",
    "mov rsp, rbp",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rax",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "mov qword ptr [rsp + 8], 0",
    "add rsp, 8",
    "jmp {page} + {iret}",
    "2: call {leave_user}",
    "jmp oxen_user_left",
    // An upcall has nothing to do but leave events masked: whoever unmasked them (the executor, as it blocks) looks
    // at what is pending next. The iret makes the mask the opposite of the interrupt flag.
    "oxen_event_entry:",
    "pop rcx",
    "pop r11",
    "test byte ptr [rsp + 8], 3",
    "jnz 3f",
    "and dword ptr [rsp + 16], ~0x200",
    "push 0",
    "jmp {page} + {iret}",
    "3: push 0",
    "push {event}",
    "jmp oxen_trap_common",
    // The failsafe frame puts ds, es, fs, gs between r11 and rip. A selector could not be loaded: that is an end.
    "oxen_failsafe_entry:",
    "pop rcx",
    "pop r11",
    "add rsp, 32",
    "push 0",
    "push 13",
    "jmp oxen_trap_common",
    // A read or a write that may fault: rdi the address, rsi where or what; answers 0 in eax, or 1 and the fault.
    "oxen_probe_read:",
    "xor eax, eax",
    "oxen_probe_read_at:",
    "mov rcx, [rdi]",
    "mov [rsi], rcx",
    "ret",
    "oxen_probe_write:",
    "xor eax, eax",
    "oxen_probe_write_at:",
    "mov [rdi], rsi",
    "ret",
    "oxen_probe_failed:",
    "mov eax, 1",
    "ret",
    ".popsection",
    ".pushsection .rodata.trap, \"a\", @progbits",
    ".balign 8",
    "oxen_trap_entries:",
    ".macro oxen_trap_address vector",
    ".quad oxen_trap_\\vector",
    ".endm",
    ".set vector, 0",
    ".rept 32",
    "oxen_trap_address %vector",
    ".set vector, vector + 1",
    ".endr",
    ".noaltmacro",
    ".popsection",
    page = sym hypercall_page,
    iret = const Hypercall::Iret as usize * HYPERCALL_SLOT_BYTES,
    cs = const CS_OFFSET,
    syscall = const SYSCALL,
    event = const EVENT,
    handler = sym on_exception,
    leave_user = sym user::left,
);

unsafe extern "C" {
    fn oxen_probe_read(address: u64, value: *mut u64) -> u32;
    fn oxen_probe_write(address: u64, value: u64) -> u32;
}

/// The vector of a page fault.
const PAGE_FAULT: u64 = 14;

static PROBE_VECTOR: AtomicU64 = AtomicU64::new(0);
static PROBE_ERROR: AtomicU64 = AtomicU64::new(0);

fn probe_result(failed: u32) -> Result<(), Fault> {
    if failed == 0 {
        return Ok(());
    }
    let vector = PROBE_VECTOR.load(Ordering::Relaxed);
    let address = if vector == PAGE_FAULT { shared::fault_address() } else { 0 };
    Err(Fault { vector, error: PROBE_ERROR.load(Ordering::Relaxed), address })
}

/// Reads 8 bytes wherever `address` points to.
///
/// # Errors
/// The fault that the hypervisor bounced.
pub(crate) fn probe_read(address: u64) -> Result<u64, Fault> {
    let mut value = 0;
    // SAFETY: a fault at the one instruction that touches `address` is repaired by `on_exception`.
    let failed = unsafe { oxen_probe_read(address, &raw mut value) };
    probe_result(failed).map(|()| value)
}

/// Writes 8 bytes to `address`.
///
/// # Safety
/// Where the write succeeds it must hit memory that no Rust value lives in.
///
/// # Errors
/// The fault that the hypervisor bounced.
pub(crate) unsafe fn probe_write(address: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: the caller answers for the target, `on_exception` for the fault.
    probe_result(unsafe { oxen_probe_write(address, value) })
}

/// What ends the guest at an exception that nothing repairs.
static FATAL: spin::Once<fn(&Frame) -> !> = spin::Once::new();

extern "C" fn on_exception(frame: &mut Frame) {
    let probes = [oxen_probe_read_at as *const () as u64, oxen_probe_write_at as *const () as u64];
    if probes.contains(&frame.rip) {
        PROBE_VECTOR.store(frame.vector, Ordering::Relaxed);
        PROBE_ERROR.store(frame.error, Ordering::Relaxed);
        frame.rip = oxen_probe_failed as *const () as u64;
        return;
    }
    match FATAL.get() {
        Some(end) => end(frame),
        None => loop {
            // There is no console yet. The call returns only where the domain has not ended.
            let _ = call::sched_shutdown(sched::SHUTDOWN_CRASH);
        },
    }
}

/// Registers the exception table and the callbacks with the hypervisor; `fatal` gets what nothing repairs.
pub(crate) fn install(fatal: fn(&Frame) -> !) {
    FATAL.call_once(|| fatal);
    let mut table = [trap::TrapInfo::new_zeroed(); 33];
    // SAFETY: the assembly above defines the array and nobody writes it.
    let entries = unsafe { &oxen_trap_entries };
    for ((vector, info), &address) in (0u8..).zip(table.iter_mut()).zip(entries) {
        // int3 and into may come from any ring.
        let flags = if matches!(vector, 3 | 4) { 3 } else { 0 };
        *info = trap::TrapInfo { vector, flags, cs: segments::FLAT_KERNEL_CS, _pad: 0, address };
    }
    // SAFETY: the table ends with a zero address; its entries follow the bounce frame's layout.
    let result = unsafe { call1::<{ Hypercall::SetTrapTable as u32 }>(table.as_ptr() as u64) };
    assert!(result == 0, "set_trap_table: {result}");
    register_event_entry();
    register_syscall_entry();
    register_callback(callback::CALLBACKTYPE_FAILSAFE, oxen_failsafe_entry as *const () as u64);
}

/// Lets events come to this file's entry.
pub(crate) fn register_event_entry() {
    register_callback(callback::CALLBACKTYPE_EVENT, oxen_event_entry as *const () as u64);
}

/// Lets system calls of user code come to this file's entry.
pub(crate) fn register_syscall_entry() {
    register_callback(callback::CALLBACKTYPE_SYSCALL, oxen_syscall_entry as *const () as u64);
}

/// This file's entry for an exception; 0 for a vector that is none.
pub(crate) fn exception_entry(vector: u8) -> u64 {
    // SAFETY: the assembly above defines the array and nobody writes it.
    let entries = unsafe { &oxen_trap_entries };
    entries.get(usize::from(vector)).copied().unwrap_or(0)
}

/// Registers the entry `address` for callbacks of `kind`, with events masked on entry.
pub(crate) fn register_callback(kind: u16, address: u64) {
    let flags = callback::CALLBACKF_MASK_EVENTS;
    let request = callback::CallbackRegister { r#type: kind, flags, _pad: 0, address };
    // SAFETY: the callers pass entries written for this very frame.
    let result = unsafe {
        call2::<{ Hypercall::CallbackOp as u32 }>(callback::CALLBACKOP_REGISTER.into(), (&raw const request) as u64)
    };
    assert!(result == 0, "callback_op register {kind}: {result}");
}
