//! The processors of the fake machine: they count what they are told, and their clock is a number.

use super::{CPU, ELSEWHERE, Fake, this_cpu};
use oxen_hv::{
    domain::vcpu::{Processor, VcpuState},
    hardware::{Clock, CpuId, Power},
    mem::Tlb,
};
use std::sync::atomic::Ordering;
use x86_64::registers::control::Cr4Flags;
use x86_64::registers::debug::Dr6Flags;

impl Fake {
    fn count(&self, name: &'static str) {
        *self.peripherals.lock().unwrap().processor_calls.entry(name).or_default() += 1;
    }
}

impl Power for Fake {
    fn power_off(&self) {
        self.count("power_off");
    }

    fn reboot(&self) {
        self.count("reboot");
    }

    fn fail(&self) {
        self.count("fail");
    }
}

impl Processor for Fake {
    fn unload(&self) {
        self.count("unload");
        self.cpu(this_cpu().0).root = None;
    }

    fn load(&self, state: &VcpuState) -> bool {
        self.count("load");
        self.switch_mode(state);
        self.load_segments(state)
    }

    fn load_segments(&self, state: &VcpuState) -> bool {
        state.selectors.iter().all(|&selector| selector < self.good_selectors.load(Ordering::SeqCst))
    }

    fn save(&self, _state: &mut VcpuState) {
        self.count("save");
    }

    fn bases(&self, state: &VcpuState) -> (u64, u64, u64) {
        let (kernel, user) = (state.gs_base_kernel, state.gs_base_user);
        if state.in_kernel { (state.fs_base, kernel, user) } else { (state.fs_base, user, kernel) }
    }

    fn set_fs_base(&self, _base: u64) {
        self.count("set_fs_base");
    }

    fn set_tsc_aux(&self, _value: u32) {
        self.count("set_tsc_aux");
    }

    fn set_gs_base(&self, _base: u64) {
        self.count("set_gs_base");
    }

    fn set_other_gs_base(&self, _base: u64) {
        self.count("set_other_gs_base");
    }

    fn set_guest_cr4(&self, _cr4: Cr4Flags) -> bool {
        self.count("set_guest_cr4");
        true
    }

    fn take_debug_status(&self) -> Dr6Flags {
        oxen_hv::domain::vcpu::DEBUG_STATUS_RESET
    }

    fn set_task_switched(&self, _set: bool) {
        self.count("set_task_switched");
    }

    fn set_user_gs(&self, selector: u16) -> bool {
        self.count("set_user_gs");
        selector < self.good_selectors.load(Ordering::SeqCst)
    }

    fn load_descriptor_tables(&self, _state: &VcpuState) {
        self.count("load_descriptor_tables");
    }

    fn load_debug_registers(&self, _state: &VcpuState) {
        self.count("load_debug_registers");
    }

    fn switch_mode(&self, state: &VcpuState) {
        self.count("switch_mode");
        self.load_root(state.loaded_root());
    }
}

impl Clock for Fake {
    fn ticks(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }

    fn frequency(&self) -> u64 {
        1_000_000_000
    }

    fn arm(&self, deadline: u64) {
        self.peripherals.lock().unwrap().armed[usize::from(CPU.get())] = Some(deadline);
    }

    fn kick(&self, cpu: CpuId) {
        self.peripherals.lock().unwrap().kicked |= 1 << cpu.0;
    }

    fn idle(&self) {
        self.peripherals.lock().unwrap().idles += 1;
        std::thread::yield_now();
        self.time.fetch_add(self.idle_step.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn relax(&self) {
        ELSEWHERE.get()();
    }

    fn wall_clock_at_boot(&self) -> (u64, u32) {
        (1_700_000_000, 0)
    }
}
