//! Ways into the hypervisor: from the boot loader, from guests, from the CPU's own faults; and the one way back.

mod boot;
pub(crate) mod descriptors;
mod exception;
mod fixup;
mod stubs;
pub(crate) mod syscall;

use super::percpu::{self, Running};
use core::arch::asm;
use core::sync::atomic::Ordering;
use oxen_hv::domain::regs::Regs;
use oxen_hv::sched::switch;
use oxen_hv::trap;

/// What must be done before a guest goes on: the CPU's own work, which may put another vcpu on it, then what waits for
/// that vcpu.
#[inline(never)]
fn finish(running: &mut Running, regs: &mut Regs) {
    loop {
        if running.shared.work.load(Ordering::Relaxed) != 0 {
            switch::leave(running.hv, running.cpu, &mut running.current, regs);
        }
        trap::deliver_pending(&mut running.caller(regs));
        if running.shared.work.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
}

/// Leaves the boot, or the way in of a CPU, for the first guest.
pub(crate) fn enter_guests() -> ! {
    let frame = percpu::frame();
    // SAFETY: this is the way out; nothing of the stack above is used again, and the frame is this CPU's.
    unsafe {
        let running = percpu::running();
        switch::leave(running.hv, running.cpu, &mut running.current, &mut *frame);
        finish(running, &mut *frame);
        asm!("mov rsp, {}", "jmp restore_and_return", in(reg) frame, options(noreturn));
    }
}
