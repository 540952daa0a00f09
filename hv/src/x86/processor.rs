//! What of a vcpu lives in the CPU while it runs: extended state, segments, debug
//! registers, descriptor tables, the root.

use super::memory::{tables, window::Window};
use super::percpu::Hardware;
use super::{cpu, entry::descriptors, msr};
use core::arch::asm;
use oxen_hv::domain::vcpu::{DEBUG_CONTROL_RESET, ExtendedState, VcpuState};
use x86_64::registers::debug::{DebugAddressRegister as _, Dr0, Dr1, Dr2, Dr3, Dr7, Dr7Flags};
use x86_64::registers::model_specific::Msr;
use x86_64::registers::segmentation::GS;
use x86_64::registers::xcontrol::XCr0Flags;

/// Bits of DR7 that turn a breakpoint on.
const BREAKPOINTS_ON: Dr7Flags = Dr7Flags::from_bits_retain(0xff);
/// XCR0 of a vcpu that has not set its own.
const INITIAL_XCR0: u64 = XCr0Flags::X87.union(XCr0Flags::SSE).bits();

/// Loads a data selector; null if the guest's tables do not allow it. Returns whether they did.
macro_rules! load_selector {
    ($register:literal, $value:expr) => {{
        let value: u16 = $value;
        let failed: u8;
        // SAFETY: the hypervisor uses no data segment; a fault is foreseen and loads null instead.
        unsafe {
            asm!(
                "clc",
                concat!("2: mov ", $register, ", {value:e}"),
                "3: setc {failed}",
                ".pushsection .fixups, \"a\"",
                ".long 2b - ., 4f - .",
                ".popsection",
                ".pushsection .entry.text, \"ax\"",
                "4: xor {scratch:e}, {scratch:e}",
                concat!("mov ", $register, ", {scratch:e}"),
                "stc",
                "jmp 3b",
                ".popsection",
                value = in(reg) u32::from(value),
                scratch = out(reg) _,
                failed = lateout(reg_byte) failed,
                options(nostack),
            );
        }
        failed == 0
    }};
}

macro_rules! read_selector {
    ($register:literal) => {{
        let value: u32;
        // SAFETY: copies a register.
        unsafe { asm!(concat!("mov {:e}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) }
        value as u16
    }};
}

/// Loads everything of a vcpu. Returns whether the CPU took all selectors.
pub(crate) fn load(hardware: &Hardware, features: &cpu::Features, state: &VcpuState) -> bool {
    load_root(state);
    cpu::set_guest_cr4(features, state.loaded_cr4(state.cr4));
    load_descriptor_tables(hardware, state);
    let took_all = load_segments(state);
    set_tsc_aux(hardware, features, state.tsc_aux);
    load_debug_registers(hardware, state);
    cpu::set_task_switched(false);
    load_extended(hardware, features, &state.extended);
    if state.task_switched {
        cpu::set_task_switched(true);
    }
    took_all
}

/// Loads selectors and bases. Returns whether the CPU took all selectors.
pub(crate) fn load_segments(state: &VcpuState) -> bool {
    let [ds, es, fs, gs] = state.selectors;
    let took = [load_selector!("ds", ds), load_selector!("es", es), load_selector!("fs", fs), load_selector!("gs", gs)];
    let (active, other) = if state.in_kernel {
        (state.gs_base_kernel, state.gs_base_user)
    } else {
        (state.gs_base_user, state.gs_base_kernel)
    };
    set_base(msr::FS_BASE, state.fs_base);
    set_base(msr::GS_BASE, active);
    set_base(msr::KERNEL_GS_BASE, other);
    took == [true; 4]
}

/// Takes back what the guest may have changed by itself.
pub(crate) fn save(hardware: &Hardware, features: &cpu::Features, state: &mut VcpuState) {
    cpu::set_task_switched(false);
    save_extended(hardware, features, &mut state.extended);
    if !state.selectors_wait {
        state.selectors = [read_selector!("ds"), read_selector!("es"), read_selector!("fs"), read_selector!("gs")];
    }
    // SAFETY: every 64-bit CPU has the three registers.
    let (fs, active, other) =
        unsafe { (msr::read(msr::FS_BASE), msr::read(msr::GS_BASE), msr::read(msr::KERNEL_GS_BASE)) };
    state.fs_base = fs;
    (state.gs_base_kernel, state.gs_base_user) = if state.in_kernel { (active, other) } else { (other, active) };
}

/// FS base, GS base in force, and the other GS base.
pub(crate) fn bases() -> (u64, u64, u64) {
    // SAFETY: every 64-bit CPU has the three registers.
    unsafe { (msr::read(msr::FS_BASE), msr::read(msr::GS_BASE), msr::read(msr::KERNEL_GS_BASE)) }
}

/// Loads a base.
pub(crate) fn set_base(register: Msr, base: u64) {
    // SAFETY: the three base registers are the guest's; the library keeps what it passes canonical.
    unsafe { msr::write(register, base) }
}

/// Loads what RDTSCP answers in ECX, unless it is loaded.
pub(crate) fn set_tsc_aux(hardware: &Hardware, features: &cpu::Features, value: u32) {
    if features.has(cpu::Feature::RDTSCP) && hardware.tsc_aux.get() != value {
        hardware.tsc_aux.set(value);
        // SAFETY: the CPU has it, and takes any 32 bits; only guests read it.
        unsafe { msr::write(msr::TSC_AUX, value.into()) }
    }
}

/// Loads a selector into the GS that is not in force; returns whether the guest's tables allow it.
pub(crate) fn set_user_gs(selector: u16) -> bool {
    swap_gs();
    let was_good = load_selector!("gs", selector);
    swap_gs();
    was_good
}

fn swap_gs() {
    // SAFETY: the hypervisor does not use GS.
    unsafe { GS::swap() }
}

/// Loads what there is for the mode that the vcpu is in.
fn load_root(state: &VcpuState) {
    // SAFETY: the library found it when the vcpu came on this CPU: a validated root, a shadow of one, or the
    // hypervisor's own; each holds the hypervisor's slots.
    unsafe { cpu::load_root(state.loaded_root().address().as_u64()) }
}

/// Leaves the root of the last vcpu, which may go away.
pub(crate) fn unload() {
    // SAFETY: the hypervisor's own root holds its slots.
    unsafe { cpu::load_root(tables::own_root().as_u64()) }
}

/// Crosses between the guest's kernel and its user mode; `state.in_kernel` says where it is going.
pub(crate) fn switch_mode(state: &VcpuState) {
    swap_gs();
    load_root(state);
}

/// Shows a vcpu's descriptor tables to the CPU.
pub(crate) fn load_descriptor_tables(hardware: &Hardware, state: &VcpuState) {
    let Some(window) = Window::of(hardware.number) else { return };
    window.show_gdt(&state.gdt);
    window.show_ldt(&state.ldt);
    if state.ldt_entries != 0 {
        hardware.gdt.set_ldt(window.ldt_base(), state.ldt_entries);
    }
    descriptors::load_ldt(state.ldt_entries != 0);
}

/// Loads the breakpoints, or turns them off.
pub(crate) fn load_debug_registers(hardware: &Hardware, state: &VcpuState) {
    let wanted = state.debug_control.intersects(BREAKPOINTS_ON);
    if !wanted && !hardware.has_breakpoints.get() {
        return;
    }
    hardware.has_breakpoints.set(wanted);
    let [b0, b1, b2, b3] = state.breakpoints;
    let control = if wanted { state.debug_control } else { DEBUG_CONTROL_RESET };
    // The lib lets no breakpoint lie in the hypervisor's addresses; reserved bits are as it checked them.
    Dr7::write_raw(DEBUG_CONTROL_RESET.bits());
    Dr0::write(b0);
    Dr1::write(b1);
    Dr2::write(b2);
    Dr3::write(b3);
    cpu::take_debug_status();
    Dr7::write_raw(control.bits());
}

/// Loads XCR0, unless it is loaded.
fn change_xcr0(hardware: &Hardware, value: u64) {
    if hardware.xcr0.get() != value && cpu::try_set_xcr0(value) {
        hardware.xcr0.set(value);
    }
}

fn save_extended(hardware: &Hardware, features: &cpu::Features, area: &mut ExtendedState) {
    area.set_xcr0(hardware.xcr0.get());
    if features.has(cpu::Feature::XSAVE) {
        change_xcr0(hardware, features.xcr0);
    }
    let area = area.0.as_mut_ptr();
    // SAFETY: the area is 64-byte aligned and large enough for every component that XCR0 can have; TS is clear.
    unsafe {
        if features.has(cpu::Feature::XSAVE) {
            asm!(
                "xsave64 [{}]",
                in(reg) area,
                in("eax") u32::MAX,
                in("edx") u32::MAX,
                options(nostack, preserves_flags),
            );
        } else {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
        }
    }
}

fn load_extended(hardware: &Hardware, features: &cpu::Features, area: &ExtendedState) {
    if features.has(cpu::Feature::XSAVE) {
        change_xcr0(hardware, features.xcr0);
    }
    if features.has(cpu::Feature::LEAVES_X87_POINTERS) {
        clear_x87_pointers();
    }
    if !try_load_extended(features, area) {
        // A toolstack or a kernel gave an image that the CPU does not take: the vcpu starts afresh.
        try_load_extended(features, &ExtendedState::RESET);
    }
    if features.has(cpu::Feature::XSAVE) {
        let xcr0 = area.xcr0();
        change_xcr0(hardware, if xcr0 == 0 { INITIAL_XCR0 } else { xcr0 });
    }
}

/// Has the x87 unit point to an instruction and an operand that are nobody's. TS is clear.
fn clear_x87_pointers() {
    static NOTHING: u32 = 0;
    // SAFETY: no exception is pending after the first instruction and a register is free after the second, so the third
    // does not fault; what it changes of the x87 state is loaded next.
    unsafe { asm!("fnclex", "ffree st(7)", "fild dword ptr [{}]", in(reg) &raw const NOTHING, options(nostack)) }
}

fn try_load_extended(features: &cpu::Features, area: &ExtendedState) -> bool {
    let area = area.0.as_ptr();
    let failed: u8;
    macro_rules! restore {
        ($instruction:literal) => {
            asm!(
                "clc",
                concat!("2: ", $instruction, " [{area}]"),
                "3: setc {failed}",
                ".pushsection .fixups, \"a\"",
                ".long 2b - ., 3b - .",
                ".popsection",
                area = in(reg) area,
                in("eax") u32::MAX,
                in("edx") u32::MAX,
                failed = lateout(reg_byte) failed,
                options(nostack, readonly),
            )
        };
    }
    // SAFETY: as in `save_extended`; contents that the CPU refuses fault, which is foreseen.
    unsafe { if features.has(cpu::Feature::XSAVE) { restore!("xrstor64") } else { restore!("fxrstor64") } }
    failed == 0
}
