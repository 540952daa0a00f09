//! Exceptions of the guest's kernel to its own handler and back, and a `cpuid` that the hypervisor answers.

use core::arch::asm;

use oxen_abi::hypercall::Hypercall;

use super::calls::Named;
use super::ticks;
use super::traps::{oxen_measure_fault, oxen_measure_return, oxen_measure_skip, with_handler};
use crate::raw::hypercall::call1;

/// Exceptions, by the names of their rows, with what measures them.
pub const EXCEPTIONS: [Named; 7] = [
    ("int3", || Some(breakpoint())),
    ("int80", || Some(interrupt())),
    ("invalid_opcode", || Some(invalid_opcode())),
    ("divide_error", || Some(divide_error())),
    ("general_protection", || Some(general_protection())),
    ("device_not_available", || Some(device_not_available())),
    ("forced_cpuid", || Some(forced_cpuid())),
];

fn breakpoint() -> u64 {
    with_handler(3, oxen_measure_return as *const () as u64, || {
        // SAFETY: the handler returns behind the instruction.
        ticks(|| unsafe { asm!("int3", out("rcx") _, out("r11") _) })
    })
}

fn interrupt() -> u64 {
    with_handler(0x80, oxen_measure_return as *const () as u64, || {
        // SAFETY: the handler returns behind the instruction.
        ticks(|| unsafe { asm!("int 0x80", out("rcx") _, out("r11") _) })
    })
}

fn invalid_opcode() -> u64 {
    with_handler(6, oxen_measure_skip as *const () as u64, || {
        // SAFETY: the handler skips the instruction.
        ticks(|| unsafe { asm!("ud2", out("rcx") _, out("r11") _) })
    })
}

fn divide_error() -> u64 {
    with_handler(0, oxen_measure_skip as *const () as u64, || {
        // SAFETY: the handler skips the instruction.
        ticks(|| unsafe {
            asm!("div ecx", inout("ecx") 0 => _, inout("eax") 1 => _, inout("edx") 0 => _, out("r11") _)
        })
    })
}

/// A read at an address that is not canonical.
fn general_protection() -> u64 {
    with_handler(13, oxen_measure_fault as *const () as u64, || {
        // SAFETY: the handler skips the instruction.
        ticks(|| unsafe {
            asm!(".byte 0x48, 0x8b, 0x07", in("rdi") 1_u64 << 63, inout("rax") 0u64 => _, out("rcx") _, out("r11") _);
        })
    })
}

/// The first instruction of the floating-point unit after a task switch.
fn device_not_available() -> u64 {
    // SAFETY: the guest is compiled to use no register of that unit.
    unsafe { call1::<{ Hypercall::FpuTaskswitch as u32 }>(1) };
    with_handler(7, oxen_measure_return as *const () as u64, || {
        // SAFETY: the instruction does nothing; the hypervisor has let the unit be used when the handler returns.
        ticks(|| unsafe { asm!("fnop", out("rcx") _, out("r11") _) })
    })
}

/// `cpuid` behind the prefix by which a guest asks the hypervisor and not the CPU.
fn forced_cpuid() -> u64 {
    ticks(|| {
        // SAFETY: changes nothing but these registers.
        unsafe {
            asm!(
                "mov {kept}, rbx",
                ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e",
                "cpuid",
                "mov rbx, {kept}",
                kept = out(reg) _,
                inout("eax") 1 => _,
                inout("ecx") 0 => _,
                out("edx") _,
            );
        }
    })
}
